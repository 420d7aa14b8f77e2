//! s3haul moves objects between S3 buckets without moving bytes through the machine that it runs on.

pub mod location;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod size;
