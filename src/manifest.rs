//! The job manifest.

pub mod job;
pub mod keys;
