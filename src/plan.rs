//! Decides what to do with each entry. All decisions are pure: no clock, no network, no SDK.
//!
//! - [`remap`] maps a key to its key at the destination.
//! - [`decide`] compares an entry with the object at the destination, and chooses the route by
//!   size. [`existing`] compares the attributes of that object with those that the job sets.
//!   [`workaround`] chooses another route if the usual route is not safe on the server.
//! - [`condition`] chooses the condition of the write.
//! - [`archive`] chooses how an archived object is restored.
//! - [`history`] finds the versions of a key that the destination lacks.
//! - [`in_place`] finds the objects that need an in-place change.
//! - [`parts`] divides an object into byte ranges. [`replay`] keeps the boundaries of the source,
//!   and thereby a multipart `ETag`.
//! - [`attributes`] decides which attributes the new object gets, and [`attribute_fallback`] which
//!   of them to omit if a server refuses some. [`asked`] compares a published object with the
//!   attributes that were requested for it. [`loss`] names lost attributes.
//! - [`adopt`] finds open uploads that no journal records and that can be adopted.
//! - [`cause`] counts failures by cause, [`unlisted`] counts failed lists by reason, and
//!   [`unchanged`] counts unchanged objects. [`empty`] reports selections without a match.
//! - [`totals`] counts the requests of a run before it starts, and [`carried`] the requests for
//!   tags among them. [`cost`] estimates their price.

pub mod adopt;
pub mod archive;
pub mod asked;
pub mod attribute_fallback;
pub mod attributes;
pub mod carried;
pub mod cause;
pub mod condition;
pub mod cost;
pub mod decide;
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
pub mod workaround;
