//! What is to be done with each entry: pure decisions, without a clock, a network or an SDK.

pub mod remap;
