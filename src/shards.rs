//! Runs a job in many processes, the shards. Each shard copies its own ranges of keys.
//!
//! An engine (an Indexed Job of Kubernetes, or an array of Slurm or AWS Batch) starts the processes
//! and gives each one an index. They share only a prefix in a bucket, the state prefix:
//!
//! | object | writer |
//! |---|---|
//! | `plan.lease` | the process that plans |
//! | `plan.json` | the same process, once |
//! | `shards/I/journal/` | shard I: a journal like that of any run |
//! | `shards/I/report/` | shard I: a report like that of any run |
//! | `live/I.json` | shard I, every 15 seconds |
//! | `done/I.json`, `failed/I.json` | shard I, after its journal's last commit |
//! | `summary.json` | each process that finds that all shards have ended |
//!
//! The engine schedules and restarts the processes; s3haul does neither. The plan is written once
//! (`If-None-Match: *`), so all processes read the same plan. Its ranges cover all possible keys
//! without gaps, so each key is in exactly one shard, even a key that is written later. If two
//! processes run the same shard, the journal lets only one of them write.
//!
//! # Layout
//!
//! `record` holds the objects of the state prefix, `names` their names, and `store` reads and
//! writes them. `survey` estimates with lists how the keys are distributed, `cut` divides them, and
//! `make` builds the plan from both. `obtain` decides which process plans. `live` and `end` write
//! the progress and the end of a shard, and `view` computes the progress of the whole run.

pub mod cut;
pub mod end;
pub mod live;
pub mod make;
pub mod names;
pub mod obtain;
pub mod record;
pub mod store;
pub mod survey;
pub mod view;

use std::time::Duration;

/// The maximum number of shards of a run. The status of an Indexed Job and the arrays of Slurm and
/// AWS Batch have limits, and each shard costs some requests even if it has no work.
pub const MAX_SHARDS: u32 = 2000;
/// The interval at which `live/I.json` is written.
pub const LIVE_EVERY: Duration = Duration::from_secs(15);
/// The time after which `plan.lease` becomes free if it is not renewed.
pub const LEASE_FREE_AFTER: Duration = Duration::from_mins(1);
/// The interval at which `plan.lease` is renewed.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(15);
