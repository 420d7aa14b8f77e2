//! What is to be done with each entry: pure decisions, without a clock, a network or an SDK.
//!
//! [`remap`] gives an entry its key at the destination, [`decide`] compares it with what is there
//! and chooses the route by size, [`detour`] goes round what a server does not do safely,
//! [`condition`] says what the write demands of its key, [`archive`] says how what cannot be read
//! is restored, [`history`] finds which versions of a key are missing, [`in_place`] which objects
//! need a change, [`parts`] cuts an object into byte ranges, [`attributes`] says what the new
//! object shall be besides its bytes, [`concede`] what to do without when a server refuses some of
//! it, [`asked`] where a published object differs from what was asked for, and [`loss`] how that is
//! told, [`replay`] how a multipart `ETag` stays what it is, [`cause`] counts failures by their
//! cause, [`empty`] names selections that match nothing, [`claim`] which open uploads of unknown
//! beginnings are of use, [`totals`] adds up what a run would send before anything is sent,
//! [`carried`] counts its questions about tags, and [`cost`] says what that costs.

pub mod archive;
pub mod asked;
pub mod attributes;
pub mod carried;
pub mod cause;
pub mod claim;
pub mod concede;
pub mod condition;
pub mod cost;
pub mod decide;
pub mod detour;
pub mod empty;
pub mod existing;
pub mod history;
pub mod in_place;
pub mod loss;
pub mod parts;
pub mod remap;
pub mod replay;
pub mod totals;
pub mod unchanged;
pub mod unlisted;
