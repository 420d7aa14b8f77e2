//! Rules about the two sides of a transfer: what `from` selects, and where `to` writes.

use rstest::rstest;

use super::super::{refused, transfer};

#[rstest]
#[case("from: {s3: ⟦src/a}", "from.s3", "not an S3 location", "s3://src/a?")]
#[case("from: {s3: ⟦s3://x/a}", "from.s3", "3 to 63", "s3://bucket/key")]
#[case(
    "from: {s3: s3://src/, larger_than: ⟦64M}",
    "from.larger_than",
    "no binary unit",
    "write 64MiB"
)]
#[case(
    "from: {s3: s3://src/, larger_than: ⟦5}",
    "from.larger_than",
    "no binary unit",
    "5MiB"
)]
#[case(
    "from: {s3: s3://src/, smaller_than: ⟦big}",
    "from.smaller_than",
    "not a size",
    "64MiB"
)]
#[case(
    "from: {s3: s3://src/, larger_than: 1KiB, smaller_than: ⟦1025B}",
    "from.smaller_than",
    "no object is larger",
    ""
)]
#[case(
    "from: {s3: s3://src/, modified_after: ⟦yesterday}",
    "from.modified_after",
    "not a point in time",
    "T00:00:00Z"
)]
#[case(
    "from: {s3: s3://src/, modified_after: 24h, modified_before: ⟦2d}",
    "from.modified_before",
    "no object is younger than 24h and older than 2d",
    "smaller age"
)]
#[case(
    "from: {s3: s3://src/, modified_after: ⟦2026-01-01T00:00:00}",
    "from.modified_after",
    "not a point in time",
    "time zone"
)]
#[case(
    "from: {s3: s3://src/, modified_after: 2026-01-02T00:00:00Z, modified_before: ⟦2026-01-02T01:00:00+01:00}",
    "from.modified_before",
    "no time is",
    "later"
)]
#[case(
    "from: {s3: s3://src/, include: [ok, ⟦/a/*]}",
    "from.include[1]",
    "cannot match",
    "`a/*`"
)]
#[case(
    "from: {s3: s3://src/events/, include: [⟦\"s3://src/events/*.gz\"]}",
    "from.include[0]",
    "cannot match",
    "write `*.gz`"
)]
#[case(
    "from: {s3: s3://src/events/, exclude: [⟦\"s3://src/*.gz\"]}",
    "from.exclude[0]",
    "cannot match",
    "leave out the bucket and the source's prefix"
)]
#[case(
    "from: {s3: s3://src/, include: [\"*.txt\"], exclude: [⟦\"*\"]}",
    "from.exclude[0]",
    "exclude wins over include",
    "`**/*.txt`"
)]
#[case(
    "from: {s3: s3://src/, include: [\"a/*\"], exclude: [b, ⟦\"**/*\"]}",
    "from.exclude[1]",
    "exclude wins over include",
    "`a/*`"
)]
#[case(
    "from: {s3: s3://src/, exclude: [⟦tmp/]}",
    "from.exclude[0]",
    "marker object",
    "`tmp/**`"
)]
#[case(
    "from: {s3: s3://src/, exclude: [⟦\"a[\"]}",
    "from.exclude[0]",
    "not a glob",
    ""
)]
#[case(
    "from: {s3: s3://src/, exclude: [⟦\"\"]}",
    "from.exclude[0]",
    "empty pattern",
    ""
)]
#[case(
    "from: {s3: s3://src/, storage_classes: [STANDARD, ⟦standard_ia]}",
    "from.storage_classes[1]",
    "not a storage class",
    "STANDARD_IA?"
)]
#[case(
    "from: {s3: s3://src/, symlinks: ⟦follow}",
    "from.symlinks",
    "applies only to `files`",
    "remove"
)]
#[case(
    "from: {s3: s3://src/, version: ⟦v1}",
    "from.version",
    "this is a prefix",
    "one object"
)]
#[case(
    "from: {s3: s3://src/a, ⟦include: [x]}",
    "from.include",
    "chooses among many",
    "slash"
)]
#[case(
    "⟦from: {s3: s3://src/, files: ./x}",
    "from",
    "both `s3` and `files`",
    "two transfers"
)]
#[case("⟦from: {include: [x]}", "from", "neither `s3` nor `files`", "files:")]
#[case(
    "from: {files: x, endpoint: ⟦default}",
    "from.endpoint",
    "applies only to `s3`",
    "remove"
)]
#[case(
    "from: {files: x, version: ⟦v}",
    "from.version",
    "applies only to `s3`",
    "remove"
)]
#[case(
    "from: {files: x, versions: ⟦all}",
    "from.versions",
    "applies only to `s3`",
    "remove"
)]
#[case("from: {s3: s3://src/, versions: ⟦some}", "from.versions", "", "all")]
#[case(
    "from: {s3: s3://src/, as_of: ⟦yesterday}",
    "from.as_of",
    "not a point in time",
    "T00:00:00Z"
)]
#[case(
    "from: {s3: s3://src/, as_of: 2026-01-01T00:00:00Z, versions: ⟦all}",
    "from.versions",
    "choose different versions",
    "keep one"
)]
#[case(
    "from: {s3: s3://src/a, version: v, as_of: ⟦2026-01-01T00:00:00Z}",
    "from.as_of",
    "choose different versions",
    "keep one"
)]
#[case(
    "from: {s3: s3://src--use1-az4--x-s3/, versions: ⟦all}",
    "from.versions",
    "directory bucket",
    "remove"
)]
#[case(
    "from: {files: ⟦\"-\"}",
    "from.files",
    "standard input",
    "s3haul copy - s3://bucket/key"
)]
#[case("from: {files: ⟦s3://a/}", "from.files", "not a local path", "`s3:`")]
#[case(
    "from: {files: ⟦~/x}",
    "from.files",
    "shell's abbreviation",
    "${HOME}/x"
)]
#[case(
    "from: {files: x, ⟦storage_classes: [STANDARD]}",
    "from.storage_classes",
    "no storage class",
    "remove"
)]
#[case(
    "from: {s3: s3://src/, endpoint: ⟦defualt}",
    "from.endpoint",
    "no endpoint `defualt`",
    "`default`?"
)]
fn sources(#[case] from: &str, #[case] path: &str, #[case] message: &str, #[case] remedy: &str) {
    let text = transfer(&format!("{from}\nto: {{s3: s3://dst/}}"));
    refused(&text, &[(&format!("transfers[0].{path}"), message, remedy)]);
}

#[rstest]
#[case("s3: ⟦dst", "s3", "not an S3 location", "s3://bucket/prefix/")]
#[case(
    "s3: ⟦s3://dst/x",
    "s3",
    "key of one object",
    "write s3://dst/x/ with a slash"
)]
#[case(
    "s3: s3://dst/, endpoint: ⟦elsewhere",
    "endpoint",
    "no endpoint `elsewhere`",
    "define it under `endpoints:`"
)]
#[case(
    "s3: s3://dst/, storage_class: ⟦GLACIER_RI",
    "storage_class",
    "not a storage class of S3",
    "GLACIER_IR?"
)]
#[case(
    "s3: s3://dst/, storage_class: ⟦FROZEN",
    "storage_class",
    "not a storage class of S3",
    "DEEP_ARCHIVE"
)]
#[case(
    "s3: s3://dst/, encryption: ⟦aes256",
    "encryption",
    "cannot be `aes256`",
    "s3, kms or dsse"
)]
#[case(
    "s3: s3://dst/, ⟦encryption: {bucket_key: true}",
    "encryption",
    "names no key",
    "kms"
)]
#[case(
    "s3: s3://dst/, ⟦encryption: {kms: a, dsse: b}",
    "encryption",
    "both `kms` and `dsse`",
    "keep one"
)]
#[case(
    "s3: s3://dst/, encryption: {kms: ⟦a b}",
    "encryption.kms",
    "not the name of a key",
    "ARN"
)]
#[case(
    "s3: s3://dst/, encryption: {dsse: a, bucket_key: ⟦true}",
    "encryption.bucket_key",
    "no bucket keys",
    "remove"
)]
fn destinations(#[case] to: &str, #[case] path: &str, #[case] message: &str, #[case] remedy: &str) {
    let text = transfer(&format!("from: {{s3: s3://src/}}\nto: {{{to}}}"));
    refused(
        &text,
        &[(&format!("transfers[0].to.{path}"), message, remedy)],
    );
}
