//! Estimates the price of requests and bytes from AWS's list prices.
//!
//! The prices apply to us-east-1, in US dollars. Prices in other Regions differ by 10 to 20 %, and
//! contract prices by more. The estimate only serves to distinguish cents from thousands of
//! dollars. It is shown only for Amazon S3.

use crate::manifest::job::RestoreTier;
use crate::s3::{Operation, RequestClass};

/// The bytes of one billed GB: S3 bills binary gigabytes.
const GB: f64 = 1_073_741_824.0;

/// The list prices of a storage class.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Prices {
    /// The price of a thousand PUT, COPY, POST, or LIST requests.
    writes: f64,
    /// The price of a thousand GET or HEAD requests.
    reads: f64,
    /// The price of storing a GB for a month, in the first tier.
    month: f64,
}

/// Returns the prices of a class, from S3's price list of 2026. Unknown classes cost as much as
/// STANDARD.
const fn prices(class: &str) -> Prices {
    let (writes, reads, month) = match class.as_bytes() {
        b"STANDARD_IA" => (0.01, 0.001, 0.0125),
        b"ONEZONE_IA" => (0.01, 0.001, 0.01),
        b"GLACIER_IR" => (0.02, 0.01, 0.004),
        b"GLACIER" => (0.03, 0.0004, 0.0036),
        b"DEEP_ARCHIVE" => (0.05, 0.0004, 0.000_99),
        b"EXPRESS_ONEZONE" => (0.001_13, 0.000_03, 0.11),
        _ => (0.005, 0.0004, 0.023),
    };
    Prices {
        writes,
        reads,
        month,
    }
}

/// Returns the price of `count` requests to objects of a class. Aborts and deletes are free; lists
/// cost as much as writes.
#[must_use]
pub fn requests(operation: Operation, count: u64, class: Option<&str>) -> f64 {
    let prices = prices(class.unwrap_or("STANDARD"));
    // S3 bills the parts of an upload to an archive class as STANDARD. Only Complete is billed at
    // the price of the class.
    let staging = self::prices("STANDARD");
    let per_thousand = match operation {
        // The price of a restore depends on its tier, see `restore`.
        Operation::AbortMultipartUpload
        | Operation::DeleteObject
        | Operation::RestoreObject
        | Operation::ReadFile => 0.0,
        Operation::ListObjects
        | Operation::ListObjectVersions
        | Operation::ListParts
        | Operation::ListMultipartUploads => staging.writes,
        Operation::CreateMultipartUpload | Operation::UploadPart | Operation::UploadPartCopy => {
            if is_archive(class) {
                staging.writes
            } else {
                prices.writes
            }
        }
        other if other.class() == RequestClass::Write => prices.writes,
        _ => prices.reads,
    };
    to_f64(count) / 1000.0 * per_thousand
}

/// Returns the price of restoring objects from an archive class, without the storage of the
/// restored copies.
#[must_use]
pub fn restore(class: &str, tier: RestoreTier, objects: u64, bytes: u64) -> f64 {
    let (per_thousand, per_gb) = match (class, tier) {
        ("GLACIER", RestoreTier::Standard) => (0.05, 0.01),
        ("GLACIER", RestoreTier::Expedited) => (10.0, 0.03),
        ("DEEP_ARCHIVE", RestoreTier::Standard | RestoreTier::Expedited) => (0.10, 0.02),
        ("DEEP_ARCHIVE", RestoreTier::Bulk) => (0.025, 0.0025),
        _ => (0.0, 0.0),
    };
    to_f64(objects) / 1000.0 * per_thousand + to_f64(bytes) / GB * per_gb
}

/// Returns the monthly price of the parts of an open upload. Parts of an upload to an archive class
/// are billed as STANDARD.
#[must_use]
pub fn open_upload_month(bytes: u64, class: Option<&str>) -> f64 {
    let class = if is_archive(class) {
        "STANDARD"
    } else {
        class.unwrap_or("STANDARD")
    };
    to_f64(bytes) / GB * prices(class).month
}

fn is_archive(class: Option<&str>) -> bool {
    matches!(class, Some("GLACIER" | "DEEP_ARCHIVE"))
}

/// Formats an amount, such as `$0.04`, `$1234`, or `less than $0.01`.
#[must_use]
pub fn display(dollars: f64) -> String {
    match dollars {
        0.0 => "$0".to_owned(),
        ..0.01 => "less than $0.01".to_owned(),
        0.01..100.0 => format!("${dollars:.2}"),
        _ => format!("${dollars:.0}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate in dollars")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::{GIB, TIB};

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < b.abs() * 1e-9
    }

    #[test]
    fn requests_cost_what_the_destinations_class_says() {
        assert!(close(
            requests(Operation::UploadPartCopy, 8192, None),
            0.04096
        ));
        assert!(close(
            requests(Operation::CopyObject, 1_000_000, Some("DEEP_ARCHIVE")),
            50.0
        ));
        assert!(
            close(
                requests(Operation::UploadPartCopy, 1000, Some("DEEP_ARCHIVE")),
                0.005
            ),
            "staging"
        );
        assert!(close(
            requests(
                Operation::CompleteMultipartUpload,
                1000,
                Some("DEEP_ARCHIVE")
            ),
            0.05
        ));
        assert!(close(requests(Operation::HeadObject, 1000, None), 0.0004));
        assert!(requests(Operation::AbortMultipartUpload, 1000, None).abs() < f64::EPSILON);
    }

    #[test]
    fn parts_that_nobody_completes_cost_storage() {
        assert!(close(open_upload_month(100 * GIB, None), 2.3));
        assert!(
            close(open_upload_month(TIB, Some("DEEP_ARCHIVE")), 1024.0 * 0.023),
            "not the archive's price"
        );
        assert!(close(open_upload_month(GIB, Some("STANDARD_IA")), 0.0125));
    }

    #[test]
    fn prices_are_short() {
        for (dollars, text) in [
            (0.0, "$0"),
            (0.004, "less than $0.01"),
            (0.041, "$0.04"),
            (12.0, "$12.00"),
            (1234.5, "$1234"),
        ] {
            assert_eq!(display(dollars), text);
        }
    }
}
