//! The events that the library reports to a user interface while it works.

use super::receipt::Receipt;

/// Something that happened in a run. Frequent events carry no text.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Event<'a> {
    /// A transfer began.
    TransferBegan {
        /// The transfer's name.
        name: &'a str,
        /// Its number in the job, from 1.
        number: usize,
        /// The number of transfers in the job.
        of: usize,
    },
    /// The planner found an object to copy.
    ObjectPlanned {
        /// Its bytes.
        bytes: u64,
    },
    /// All objects of the job are known.
    PlanEnded,
    /// A multipart upload began.
    UploadBegan {
        /// The number that later events use for this object.
        id: u64,
        /// The key at the destination.
        key: &'a str,
        /// Its bytes.
        bytes: u64,
        /// The number of its parts.
        parts: u32,
    },
    /// A part or a whole object was copied.
    BytesCopied {
        /// The multipart object that the bytes belong to; `None` for a whole object.
        id: Option<u64>,
        /// Their number.
        bytes: u64,
    },
    /// An upload that earlier sessions left open is settled: it continues, was aborted, or has
    /// become its object. Until then, its bytes count as bytes of an open upload.
    OrphanSettled {
        /// The bytes of its parts, as the journal records them.
        bytes: u64,
    },
    /// An upload of an earlier session continues. S3 already has some of its bytes.
    BytesResumed {
        /// As in [`Event::UploadBegan`].
        id: u64,
        /// Their number.
        bytes: u64,
    },
    /// Bytes that were copied no longer count, because the object starts again or is given up.
    BytesVoided {
        /// Their number.
        bytes: u64,
    },
    /// A multipart upload ended.
    UploadEnded {
        /// As in [`Event::UploadBegan`].
        id: u64,
    },
    /// An object ended, successfully or not.
    ObjectEnded(&'a Receipt),
    /// An entry that is not an object was ignored.
    Ignored {
        /// Its location.
        place: &'a str,
        /// The reason.
        why: &'static str,
    },
    /// The selection excluded an object.
    Excluded,
    /// The run paused because every object is refused, or it resumed.
    Paused {
        /// True if the run paused; it then tries single objects only.
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
