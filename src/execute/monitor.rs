//! The events that the library reports to a user interface while it works.

use super::receipt::Receipt;

/// Something that happened. Small and frequent ones carry no text.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Event<'a> {
    /// A transfer began: its name, its number and how many there are.
    TransferBegan {
        /// The transfer's name.
        name: &'a str,
        /// 1 for the first.
        number: usize,
        /// All transfers of the job.
        of: usize,
    },
    /// An object was found that is to be copied.
    ObjectPlanned {
        /// Its bytes.
        bytes: u64,
    },
    /// All objects of the transfer are known.
    PlanEnded,
    /// A multipart object has begun.
    UploadBegan {
        /// The number by which later events refer to the object.
        id: u64,
        /// The key at the destination.
        key: &'a str,
        /// Its bytes.
        bytes: u64,
        /// Its parts.
        parts: u32,
    },
    /// Bytes arrived: a part, or a whole object.
    BytesCopied {
        /// The multipart object that they belong to.
        id: Option<u64>,
        /// Their number.
        bytes: u64,
    },
    /// Bytes that had arrived are void, because the object starts again or is given up.
    BytesVoided {
        /// Their number.
        bytes: u64,
    },
    /// A multipart object has ended.
    UploadEnded {
        /// As in [`Event::UploadBegan`].
        id: u64,
    },
    /// An object is finished, for better or worse.
    ObjectEnded(&'a Receipt),
    /// Something is not an object and was left out.
    Ignored {
        /// Its place.
        place: &'a str,
        /// The reason.
        why: &'static str,
    },
    /// The selection left an object out.
    Excluded,
    /// The run paused because everything is refused, or goes on.
    Paused {
        /// Set while only single objects are tried.
        is_paused: bool,
    },
}

/// Watches a run. Called from many tasks; must not block.
pub trait Monitor: Send + Sync {
    /// Receives an event.
    fn observe(&self, event: &Event<'_>);
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Monitor for Unwatched {
    fn observe(&self, _event: &Event<'_>) {}
}
