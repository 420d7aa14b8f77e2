//! What is to be done with each entry: pure decisions, without a clock, a network or an SDK.
//!
//! [`remap`] gives an entry its key at the destination, [`decide`] compares it with what is there and chooses the
//! route by size, [`parts`] cuts it into byte ranges, [`attributes`] says what the new object shall be besides its
//! bytes, [`replay`] how a multipart `ETag` stays what it is, [`totals`] adds up what a run would send before anything is
//! sent, and [`cost`] what that costs.

pub mod attributes;
pub mod cost;
pub mod decide;
pub mod parts;
pub mod remap;
pub mod replay;
pub mod totals;
