//! Decides what to do with each entry. All decisions are pure: no clock, no network, no SDK.
//!
//! - [`remap`] maps a key to its key at the destination.
//! - [`decide`] compares an entry with the object at the destination, and chooses the route by
//!   size. [`detour`] chooses another route if the server does not do the usual one safely.
//! - [`condition`] chooses the condition of the write.
//! - [`archive`] chooses how an archived object is restored.
//! - [`history`] finds the versions of a key that the destination lacks.
//! - [`in_place`] finds the objects that need an in-place change.
//! - [`parts`] divides an object into byte ranges. [`replay`] keeps the boundaries of the source,
//!   and thereby a multipart `ETag`.
//! - [`attributes`] decides what the new object gets besides its bytes, and [`concede`] what is
//!   left out if a server refuses some of it. [`asked`] finds the differences between a published
//!   object and the request. [`loss`] names what was lost.
//! - [`adopt`] finds unknown open uploads that can be adopted.
//! - [`cause`] counts failures by their cause. [`empty`] names selections without a match.
//! - [`totals`] counts the requests of a run before it starts, [`carried`] those about tags, and
//!   [`cost`] their price.

pub mod adopt;
pub mod archive;
pub mod asked;
pub mod attributes;
pub mod carried;
pub mod cause;
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
