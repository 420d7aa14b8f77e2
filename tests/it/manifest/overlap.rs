//! Jobs that may overwrite objects unintentionally.

use rstest::rstest;

use super::{job, refused};

fn jobs(transfers: &[(&str, &str)]) -> String {
    let mut text = "version: 1\ntransfers:\n".to_owned();
    for (from, to) in transfers {
        text.extend(["  - {from: {", from, "}, to: {", to, "}}\n"]);
    }
    text + "endpoints:\n  west: {region: us-west-2}\n  onprem: {url: http://ceph, allow_http: true}\n"
}

#[track_caller]
fn alone(from: &str, to: &str, message: &str, remedy: &str) {
    refused(
        &jobs(&[(from, to)]),
        &[("transfers[0].to.s3", message, remedy)],
    );
}

#[track_caller]
fn together(first: (&str, &str), second: (&str, &str), message: &str, remedy: &str) {
    refused(
        &jobs(&[first, second]),
        &[("transfers[1].to.s3", message, remedy)],
    );
}

#[test]
fn a_transfer_does_not_write_into_its_source() {
    let remedy = "`storage_class`, `set`, `encryption`, or `acl`; or write to another bucket";
    alone(
        "s3: s3://b01/a/",
        "s3: ⟦s3://b01/a/",
        "onto itself, and there is nothing to change",
        remedy,
    );
    alone(
        "s3: s3://b01/a",
        "s3: ⟦s3://b01/a",
        "onto itself, and there is nothing to change",
        remedy,
    );
    alone(
        "s3: s3://b01/x/a",
        "s3: ⟦s3://b01/x/",
        "onto itself, and there is nothing to change",
        remedy,
    );
    alone(
        "s3: s3://b01/",
        "s3: ⟦s3://b01/old/",
        "copied again",
        "exclude: [\"old/**\"]",
    );
    alone(
        "s3: s3://b01/a/",
        "s3: ⟦s3://b01/",
        "could be overwritten",
        "exclude: [\"a/**\"]",
    );
    alone(
        "s3: s3://b01/",
        "s3: ⟦s3://b01/, endpoint: west",
        "onto itself",
        "",
    );
}

#[test]
fn a_transfer_may_write_beside_its_source() {
    for (from, to) in [
        ("s3: s3://b01/a/", "s3: s3://b01/b/"),
        ("s3: s3://b01/a/", "s3: s3://b01/ab/"),
        ("s3: s3://b01/a/x", "s3: s3://b01/a/y"),
        ("s3: s3://b01/a/x", "s3: s3://b01/"),
        ("s3: s3://b01/a, version: v1", "s3: s3://b01/a"),
        ("s3: s3://b01/, exclude: [\"old/**\"]", "s3: s3://b01/old/"),
        ("s3: s3://b01/, exclude: [\"**\"]", "s3: s3://b01/old/"),
        ("s3: s3://b01/a/, exclude: [\"a/**\"]", "s3: s3://b01/"),
        ("s3: s3://b01/a/", "s3: s3://b02/a/"),
    ] {
        job(&jobs(&[(from, to)]));
    }
    let moved = jobs(&[("s3: s3://b01/a/", "s3: s3://b01/")])
        .replace("}}\n", "}, keys: {add_prefix: b/}}\n");
    job(&moved);
}

#[test]
fn two_transfers_do_not_write_the_same_keys() {
    together(
        ("s3: s3://a01/", "s3: s3://d01/"),
        ("s3: s3://b01/", "s3: ⟦s3://d01/"),
        "both write to s3://d01/",
        "separate prefix",
    );
    together(
        ("s3: s3://a01/", "s3: s3://d01/"),
        ("s3: s3://b01/", "s3: ⟦s3://d01/x/"),
        "`transfer-1` and `transfer-2` may write the same keys: s3://d01/ and s3://d01/x/",
        "exclude: [\"x/**\"] to `transfer-1`",
    );
    // The outer transfer comes second.
    together(
        ("files: x", "s3: s3://d01/x/"),
        ("s3: s3://a01/", "s3: ⟦s3://d01/"),
        "s3://d01/x/ and s3://d01/",
        "exclude: [\"x/**\"] to `transfer-2`",
    );
    together(
        ("s3: s3://a01/k", "s3: s3://d01/"),
        ("s3: s3://b01/k", "s3: ⟦s3://d01/k"),
        "both write to s3://d01/k",
        "",
    );
    together(
        ("s3: s3://a01/", "s3: s3://d01/"),
        ("s3: s3://b01/k", "s3: ⟦s3://d01/"),
        "s3://d01/k",
        "exclude: [\"k\"]",
    );
    // Versions of one object are different objects.
    together(
        ("s3: s3://a01/", "s3: s3://d01/"),
        ("s3: \"s3://a01/k\", version: v1", "s3: ⟦s3://d01/k"),
        "s3://d01/k",
        "",
    );
    // Another name of the same server.
    together(
        ("s3: s3://a01/", "s3: s3://d01/"),
        ("s3: s3://b01/", "s3: ⟦s3://d01/, endpoint: west"),
        "both write",
        "",
    );
}

/// Both transfers would copy the same objects, but each would make something else of them.
#[rstest]
#[case("to: {storage_class: STANDARD_IA}", "`to.storage_class`")]
#[case("to: {encryption: s3}", "`to.encryption`")]
#[case("to: {acl: bucket-owner-full-control}", "`to.acl`")]
#[case("to: {customer_key: {env: BUCKET}}", "`to.customer_key`")]
#[case("set: {metadata: {team: a}}", "`set`")]
#[case("preserve: {tags: require}", "`preserve`")]
#[case("parts: {size: 64MiB}", "`parts`")]
fn one_object_cannot_have_the_settings_of_two_transfers(
    #[case] setting: &str,
    #[case] field: &str,
) {
    let text = |first: &str, second: &str| {
        let one = |source: &str, target: &str, setting: &str| match setting.strip_prefix("to: {") {
            Some(more) => format!("  - {{from: {{s3: {source}}}, to: {{s3: {target}, {more}}}\n"),
            None => format!(
                "  - {{from: {{s3: {source}}}, to: {{s3: {target}}}{}{setting}}}\n",
                if setting.is_empty() { "" } else { ", " }
            ),
        };
        let first = one("s3://a01/", "s3://d01/", first);
        let second = one("s3://a01/x/", "⟦s3://d01/x/", second);
        format!("version: 1\ntransfers:\n{first}{second}")
    };
    let message = format!("s3://d01/ and s3://d01/x/, with different {field}");
    let remedy = format!("write the same {field} in both, or give each a separate prefix");
    for (first, second) in [(setting, ""), ("", setting)] {
        let mistake = ("transfers[1].to.s3", &*message, &*remedy);
        refused(&text(first, second), &[mistake]);
    }
    job(&text(setting, setting).replace('⟦', ""));
}

#[test]
fn two_transfers_may_share_a_bucket() {
    let allowed: &[[(&str, &str); 2]] = &[
        [
            ("s3: s3://a01/", "s3: s3://d01/a/"),
            ("s3: s3://b01/", "s3: s3://d01/b/"),
        ],
        [
            ("s3: s3://a01/", "s3: s3://d01/"),
            ("s3: s3://b01/", "s3: s3://d02/"),
        ],
        [
            ("s3: s3://a01/k", "s3: s3://d01/k"),
            ("s3: s3://b01/k", "s3: s3://d01/kk"),
        ],
        // One transfer excludes the prefix of the other.
        [
            ("s3: s3://a01/, exclude: [\"x/**\"]", "s3: s3://d01/"),
            ("s3: s3://b01/", "s3: s3://d01/x/"),
        ],
        [
            ("s3: s3://b01/", "s3: s3://d01/x/"),
            ("s3: s3://a01/, exclude: [\"x/**\"]", "s3: s3://d01/"),
        ],
        [
            ("files: ., exclude: [\"t/**\"]", "s3: s3://d01/"),
            ("files: t/x", "s3: s3://d01/t/x"),
        ],
        [
            ("files: ., include: [\"*.md\"]", "s3: s3://d01/"),
            ("files: t/x", "s3: s3://d01/t/x"),
        ],
        // Each key gets the same object, whichever transfer writes it.
        [
            ("s3: s3://a01/, include: [x]", "s3: s3://d01/"),
            ("s3: s3://a01/, exclude: [x]", "s3: s3://d01/"),
        ],
        [
            ("s3: s3://a01/", "s3: s3://d01/"),
            ("s3: s3://a01/x/", "s3: s3://d01/x/"),
        ],
        [
            ("s3: s3://a01/", "s3: s3://d01/"),
            ("s3: s3://a01/x/k", "s3: s3://d01/x/k"),
        ],
        // A later transfer reads the output of an earlier one.
        [
            ("files: .", "s3: s3://d01/"),
            ("s3: s3://d01/", "s3: s3://e01/"),
        ],
        // Buckets of the same name on two servers.
        [
            ("files: a", "s3: s3://d01/"),
            ("files: b", "s3: s3://d01/, endpoint: onprem"),
        ],
    ];
    for transfers in allowed {
        job(&jobs(transfers));
    }
}

#[test]
fn key_maps_are_part_of_where_a_transfer_writes() {
    let text = |first: &str, second: &str| {
        format!(
            "version: 1\ntransfers:\n  - {{from: {{s3: s3://a01/}}, to: {{s3: s3://d01/}}, keys: {{{first}}}}}\n  \
             - {{from: {{s3: s3://b01/}}, to: {{s3: ⟦s3://d01/}}, keys: {{{second}}}}}\n"
        )
    };
    job(&text("add_prefix: a/", "add_prefix: b/").replace('⟦', ""));
    job(&text("rename: \"a/{key}\"", "add_prefix: b/").replace('⟦', ""));
    let path = "transfers[1].to.s3";
    refused(
        &text("add_prefix: a/", "add_prefix: a/b/"),
        &[(path, "s3://d01/a/ and s3://d01/a/b/", "")],
    );
    refused(
        &text("strip_prefix: a/", "strip_prefix: b/"),
        &[(path, "both write to s3://d01/", "")],
    );
}
