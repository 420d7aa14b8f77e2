//! The destination of a plan: a file for steps, or a state prefix for shards.

use std::path::PathBuf;

use clap::Args;

use crate::cli::shards::state_prefix;
use crate::cli::{CliError, output_file};
use crate::location::S3Uri;
use crate::shards::survey::Extent;

/// The flags that select what is planned, and where the plan is written.
#[derive(Clone, Debug, Args)]
pub(super) struct PlanFlags {
    /// Write one line of JSON per object to a file. With --shards, write the shard plan below
    /// s3://bucket/prefix/.
    #[arg(long, value_name = "PLACE", value_parser = plan_place)]
    out: Option<PlanPlace>,
    /// Divide the keys among N shards, at most 2000, for `s3haul run --state`.
    #[arg(long, value_name = "N", requires = "out")]
    shards: Option<u32>,
    /// List all keys, and divide them by the number and size of their objects. Default: estimate
    /// from about 16 list requests per shard.
    #[arg(long, requires = "shards")]
    exact: bool,
}

#[derive(Clone, Debug)]
enum PlanPlace {
    /// Steps.
    File(PathBuf),
    /// Shards.
    State(S3Uri),
}

fn plan_place(text: &str) -> Result<PlanPlace, String> {
    if text.starts_with("s3://") {
        state_prefix(text).map(PlanPlace::State)
    } else {
        output_file(text).map(PlanPlace::File)
    }
}

/// The kind of a plan, and its destination.
#[derive(Clone, Debug)]
pub(super) enum PlannedPlace {
    /// Steps, which are written to this file if there is one.
    File(Option<PathBuf>),
    /// Shards, below this prefix.
    State(S3Uri, Extent),
}

impl PlanFlags {
    /// Returns the kind and destination of the plan, or an error if the flags contradict each
    /// other.
    pub(super) fn in_shards(self, sandbox: bool) -> Result<PlannedPlace, CliError> {
        let message = match (self.shards, self.out) {
            (None, None) => return Ok(PlannedPlace::File(None)),
            (None, Some(PlanPlace::File(path))) => return Ok(PlannedPlace::File(Some(path))),
            (Some(shards), Some(PlanPlace::State(state))) if !sandbox => {
                let exact = self.exact;
                return Ok(PlannedPlace::State(state, Extent { shards, exact }));
            }
            (Some(_), Some(PlanPlace::State(_))) => {
                "--sandbox ends with this process, so that no process could run the shards of a plan there; leave out --sandbox or \
                 --shards"
                    .to_owned()
            }
            (Some(_), _) => {
                "the plan of shards is written into S3, where all processes read it; write --out s3://bucket/prefix/".to_owned()
            }
            (None, Some(PlanPlace::State(state))) => format!(
                "the steps of a plan are written to a file of this machine, and {state} is in S3; write a file, or plan shards \
                 with --shards"
            ),
        };
        Err(CliError::Usage(message))
    }
}
