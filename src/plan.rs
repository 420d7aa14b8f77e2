//! What is to be done with each entry: pure decisions, without a clock, a network or an SDK.
//!
//! [`remap`] gives an entry its key at the destination, [`decide`] compares it with what is there and chooses the
//! route by size, [`parts`] cuts it into byte ranges, [`attributes`] says what the new object shall be besides its
//! bytes, [`concede`] what to do without when a server refuses some of it and [`loss`] how that is told, [`totals`]
//! adds up what a run would send before anything is sent, and [`cost`] what that costs.

pub mod attributes;
pub mod concede;
pub mod cost;
pub mod decide;
pub mod loss;
pub mod parts;
pub mod remap;
pub mod totals;
