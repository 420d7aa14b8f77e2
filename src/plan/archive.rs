//! Chooses how an archived object is restored.
//!
//! Not every archive supports every tier, and S3 refuses requests for unsupported tiers. If an
//! archive lacks the tier, s3haul requests the next slower tier, which is also cheaper. The receipt
//! names the requested tier.

use crate::manifest::job::{Restore, RestoreTier};

/// The restore request for one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The tier, which the archive supports, and the number of days.
    pub restore: Restore,
    /// True if the request includes the number of days. S3 refuses the number for
    /// `INTELLIGENT_TIERING` objects: a restore moves them back to the Frequent Access tier and
    /// makes no temporary copy.
    pub for_days: bool,
}

/// Returns the request for an object of this storage class. `archive_tier` is the tier that HEAD
/// shows for `INTELLIGENT_TIERING`.
#[must_use]
pub fn request(
    wanted: Restore,
    storage_class: Option<&str>,
    archive_tier: Option<&str>,
) -> Request {
    let is_deep =
        storage_class == Some("DEEP_ARCHIVE") || archive_tier == Some("DEEP_ARCHIVE_ACCESS");
    let tier = match wanted.tier {
        RestoreTier::Expedited if is_deep => RestoreTier::Standard,
        tier => tier,
    };
    let for_days = storage_class != Some("INTELLIGENT_TIERING");
    Request {
        restore: Restore { tier, ..wanted },
        for_days,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_archive_is_asked_for_what_it_has() {
        use RestoreTier::{Bulk, Expedited, Standard};
        for (tier, class, archive_tier, asked, for_days) in [
            (Expedited, "GLACIER", None, Expedited, true),
            (Expedited, "DEEP_ARCHIVE", None, Standard, true),
            (Bulk, "DEEP_ARCHIVE", None, Bulk, true),
            (
                Expedited,
                "INTELLIGENT_TIERING",
                Some("ARCHIVE_ACCESS"),
                Expedited,
                false,
            ),
            (
                Expedited,
                "INTELLIGENT_TIERING",
                Some("DEEP_ARCHIVE_ACCESS"),
                Standard,
                false,
            ),
        ] {
            let request = request(Restore { tier, days: 3 }, Some(class), archive_tier);
            assert_eq!(
                (request.restore.tier, request.for_days),
                (asked, for_days),
                "{tier:?} {class}"
            );
            assert_eq!(request.restore.days, 3);
        }
    }
}
