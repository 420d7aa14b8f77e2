//! Everything that is tested through the real wire: the real SDK against the sandbox in this process.
//!
//! One binary, because each links the SDK. [`world`] arranges buckets and runs jobs; the other modules are named after
//! what they test.

mod conformance;
mod copy;
mod deploy;
mod manifest;
mod world;
