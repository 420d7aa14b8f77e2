//! s3haul moves objects between S3 buckets without moving bytes through the machine that it runs on.

pub mod bucket;
pub mod checksum;
pub mod cli;
pub mod connections;
pub mod execute;
pub mod listing;
pub mod location;
pub mod manifest;
pub mod multipart;
pub mod pace;
pub mod plan;
pub mod planner;
pub mod report;
pub mod s3;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod size;
pub mod telemetry;
