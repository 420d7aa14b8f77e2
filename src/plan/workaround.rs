//! Chooses another route if the usual route is not safe on a server.
//!
//! A job that must not overwrite anything needs a write that the server refuses if the key exists.
//! Few servers support such a condition for `CopyObject`; more servers support it for
//! `CompleteMultipartUpload`. On the latter, s3haul replaces `CopyObject` with a multipart upload
//! of one part, except for empty objects, which cannot have parts. Conversely, on some servers
//! `UploadPartCopy` does not find every source that `CopyObject` finds.

use super::decide::Route;
use super::parts::{Boundaries, LayoutError, PartLayout};
use crate::location::ObjectKey;
use crate::manifest::job::When;
use crate::s3::Capabilities;

/// Returns the safe route for a copy of `size` bytes from `source`. `route` is the usual route for
/// this size.
///
/// # Errors
/// [`LayoutError::OddSource`] for objects that can be copied neither in parts nor in one request.
pub fn workaround(
    route: Route,
    size: u64,
    source: &ObjectKey,
    when: When,
    capabilities: &Capabilities,
) -> Result<Route, LayoutError> {
    let accepts_source = accepts_key_as_part_source(source, capabilities);
    match route {
        Route::Copy if accepts_source && size > 0 && closes_the_race(when, capabilities) => {
            let fits = size <= capabilities.parts.max_part;
            let layout = PartLayout {
                size,
                part_size: size,
                count: 1,
                boundaries: Boundaries::Chosen,
            };
            Ok(if fits {
                Route::MultipartCopy(layout)
            } else {
                route
            })
        }
        Route::MultipartCopy(_) if accepts_source => Ok(route),
        Route::MultipartCopy(_) if size <= capabilities.max_copy => Ok(Route::Copy),
        Route::MultipartCopy(_) => Err(LayoutError::OddSource {
            limit: capabilities.max_copy,
        }),
        _ => Ok(route),
    }
}

/// Returns true if the job needs a conditional write that the server supports for Complete but not
/// for `CopyObject`.
fn closes_the_race(when: When, capabilities: &Capabilities) -> bool {
    let Capabilities {
        if_none_match,
        part_copy,
        ..
    } = capabilities;
    when == When::Missing && !if_none_match.copy && if_none_match.complete && *part_copy
}

/// Returns false if `UploadPartCopy` does not find a source with this key. Some servers decode the
/// key twice, which changes keys with `%` or `?`.
#[must_use]
pub fn accepts_key_as_part_source(source: &ObjectKey, capabilities: &Capabilities) -> bool {
    capabilities.odd_part_sources || !source.as_str().contains(['%', '?'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::OnWrites;
    use crate::size::GIB;

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    #[test]
    fn one_part_stands_in_for_a_copy_that_can_not_be_refused() {
        let uploads = Capabilities {
            if_none_match: OnWrites::UPLOADS,
            ..Capabilities::AWS
        };
        let route = |size, when, capabilities: &Capabilities| {
            workaround(Route::Copy, size, &key("k"), when, capabilities)
                .unwrap()
                .name()
        };
        assert_eq!(route(7, When::Missing, &uploads), "multipart-copy");
        assert_eq!(
            route(0, When::Missing, &uploads),
            "copy",
            "no part is empty"
        );
        assert_eq!(
            route(7, When::Changed, &uploads),
            "copy",
            "three requests for one are worth it for a promise only"
        );
        assert_eq!(route(7, When::Missing, &Capabilities::AWS), "copy");
        assert_eq!(
            route(7, When::Missing, &Capabilities::UNKNOWN_SERVER),
            "copy"
        );
        let no_parts = Capabilities {
            part_copy: false,
            ..uploads
        };
        assert_eq!(route(7, When::Missing, &no_parts), "copy");
    }

    #[test]
    fn a_source_that_part_copies_do_not_find_is_copied_at_once_or_not_at_all() {
        let ceph = Capabilities {
            odd_part_sources: false,
            ..Capabilities::AWS
        };
        let parts = |size| {
            Route::MultipartCopy(PartLayout {
                size,
                part_size: GIB,
                count: 6,
                boundaries: Boundaries::Chosen,
            })
        };
        let route = |size, source, capabilities: &Capabilities| {
            workaround(parts(size), size, &key(source), When::Changed, capabilities)
                .map(|route| route.name())
        };
        assert_eq!(route(5 * GIB, "100%", &ceph), Ok("copy"));
        assert_eq!(
            route(5 * GIB + 1, "100%", &ceph),
            Err(LayoutError::OddSource { limit: 5 * GIB })
        );
        assert_eq!(
            route(5 * GIB + 1, "k?versionId=1", &ceph),
            Err(LayoutError::OddSource { limit: 5 * GIB })
        );
        assert_eq!(route(6 * GIB, "a b+c", &ceph), Ok("multipart-copy"));
        assert_eq!(
            route(6 * GIB, "100%", &Capabilities::AWS),
            Ok("multipart-copy")
        );
    }
}
