//! The integration tests. They send real requests, with the real SDK, to the sandbox in this
//! process.
//!
//! All tests are in one binary, because each binary links the SDK. [`world`] sets up buckets and
//! runs jobs; the other modules are named after what they test.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]
#![allow(
    clippy::too_many_lines,
    reason = "a scenario with several steps reads best in one piece"
)]

mod access;
mod acl;
mod adopt;
mod answers;
mod archived;
mod asked;
mod attributes;
mod boundaries;
mod bounds;
mod capabilities;
mod check;
mod cli;
mod clock;
mod compare;
mod conditions;
mod conformance;
mod contact;
mod contradictions;
mod copy;
mod credentials;
mod deploy;
mod effects;
mod embedded;
mod examples;
mod fairness;
mod faults;
mod guarantees;
mod habits;
mod hints;
mod honest;
mod hostile;
mod in_place;
mod interrupted;
mod issuer;
mod journal;
mod kill;
mod late;
mod layering;
mod lean;
mod leftover;
mod liar;
mod library;
mod limits;
mod listing;
mod logs;
mod lossy;
mod manifest;
mod matrix;
mod mine;
mod mistyped;
mod network;
mod next;
mod octets;
mod one_off;
mod outage;
mod pace;
mod paging;
mod parts;
mod plaintext;
mod probe;
mod proof;
mod providers;
mod readme;
mod record;
mod refusals;
mod renewals;
mod replay;
mod reports;
mod resume;
mod resumed_uploads;
mod retry;
mod sandbox;
mod secrets;
mod select;
mod sessions;
mod shards;
mod shards_view;
mod signals;
mod stop;
mod strays;
mod targets;
mod tenant;
mod times;
mod told;
mod transfers;
mod trust;
mod truth;
mod twice;
mod untrusted;
mod unused_flags;
mod upload;
mod verify;
mod versions;
mod words;
mod world;
