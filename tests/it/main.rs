//! One binary for all integration tests, so that the SDK is linked once.

mod manifest;
