//! Chooses the condition of a write to a key.
//!
//! Between the comparison and the write, seconds or days pass, and another writer may write to the
//! key. If the server supports conditional writes, the write requires the state that the comparison
//! saw: no object (`If-None-Match: *`) or exactly that object (`If-Match`). So s3haul never
//! overwrites a change by another writer. It records the object as skipped, and the next run
//! compares it again.
//!
//! Few servers support such conditions for `CopyObject`; more servers support them for
//! `CompleteMultipartUpload` ([`super::workaround`]). Without a condition, s3haul sends HEAD for
//! the key just before the write. For a short time, another writer can still write to the key
//! unnoticed.

use super::decide::Route;
use crate::endpoint::capabilities::ConditionalWrite;
use crate::manifest::job::When;
use crate::s3::{Capabilities, WriteCondition};

/// The object at the destination's key when the object was planned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DestinationState {
    /// The key was not checked, or the check was denied.
    #[default]
    Unknown,
    /// The key has no object.
    Absent,
    /// An object with this `ETag`.
    Object(String),
}

impl Route {
    /// Returns the request that publishes the object.
    #[must_use]
    pub const fn publishes_by(&self) -> ConditionalWrite {
        match self {
            // Restores and delete markers have no condition, so any value will do for them.
            Self::Copy | Self::Restore | Self::DeleteMarker => ConditionalWrite::Copy,
            Self::Put => ConditionalWrite::Put,
            Self::MultipartCopy(_) | Self::MultipartUpload(_) => ConditionalWrite::Complete,
        }
    }
}

/// Returns the condition for a write.
#[must_use]
pub fn write_condition(
    when: When,
    destination_state: &DestinationState,
    write: ConditionalWrite,
    capabilities: &Capabilities,
) -> WriteCondition {
    let (absent, matches) = (
        capabilities.if_none_match.on(write),
        capabilities.if_match.on(write),
    );
    match (when, destination_state) {
        (When::Always, _) => WriteCondition::None,
        // This includes `when: missing`, where an earlier attempt of this run wrote the object.
        (_, DestinationState::Object(etag)) if matches => WriteCondition::Matches(etag.clone()),
        (_, DestinationState::Object(_)) | (When::Changed, DestinationState::Unknown) => {
            WriteCondition::None
        }
        (When::Missing, _) | (When::Changed, DestinationState::Absent) if absent => {
            WriteCondition::Absent
        }
        _ => WriteCondition::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::parts::{Boundaries, PartLayout};
    use crate::s3::OnWrites;

    fn honoring(on: OnWrites) -> Capabilities {
        Capabilities {
            if_none_match: on,
            if_match: on,
            ..Capabilities::UNKNOWN_SERVER
        }
    }

    #[test]
    fn a_write_demands_what_the_comparison_saw() {
        let object = DestinationState::Object("e".to_owned());
        let matches = WriteCondition::Matches("e".to_owned());
        for (when, destination_state, condition) in [
            (
                When::Always,
                &DestinationState::Absent,
                WriteCondition::None,
            ),
            (When::Always, &object, WriteCondition::None),
            (
                When::Missing,
                &DestinationState::Absent,
                WriteCondition::Absent,
            ),
            (
                When::Missing,
                &DestinationState::Unknown,
                WriteCondition::Absent,
            ),
            (When::Missing, &object, matches.clone()),
            (
                When::Changed,
                &DestinationState::Absent,
                WriteCondition::Absent,
            ),
            (
                When::Changed,
                &DestinationState::Unknown,
                WriteCondition::None,
            ),
            (When::Changed, &object, matches),
        ] {
            let write = ConditionalWrite::Complete;
            assert_eq!(
                write_condition(when, destination_state, write, &Capabilities::AWS),
                condition,
                "{when:?} {destination_state:?}"
            );
            let nothing = write_condition(
                when,
                destination_state,
                write,
                &Capabilities::UNKNOWN_SERVER,
            );
            assert_eq!(nothing, WriteCondition::None, "what is ignored is not sent");
        }
    }

    #[test]
    fn each_route_asks_for_its_own_write() {
        let layout = PartLayout {
            size: 7,
            part_size: 7,
            count: 1,
            boundaries: Boundaries::Chosen,
        };
        for (route, on) in [
            (
                Route::Copy,
                OnWrites {
                    copy: true,
                    ..OnWrites::NONE
                },
            ),
            (
                Route::Put,
                OnWrites {
                    put: true,
                    ..OnWrites::NONE
                },
            ),
            (
                Route::MultipartCopy(layout.clone()),
                OnWrites {
                    complete: true,
                    ..OnWrites::NONE
                },
            ),
            (
                Route::MultipartUpload(layout),
                OnWrites {
                    complete: true,
                    ..OnWrites::NONE
                },
            ),
        ] {
            let of = |on| {
                write_condition(
                    When::Missing,
                    &DestinationState::Absent,
                    route.publishes_by(),
                    &honoring(on),
                )
            };
            assert_eq!(of(on), WriteCondition::Absent, "{route:?}");
            let others = OnWrites {
                copy: !on.copy,
                put: !on.put,
                complete: !on.complete,
            };
            assert_eq!(of(others), WriteCondition::None, "{route:?}");
        }
    }
}
