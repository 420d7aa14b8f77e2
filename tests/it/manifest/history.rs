//! Manifests with versions and archives.

use s3haul::manifest::job::{Archived, Restore, RestoreTier, Versions};

use super::{job, refused, transfer, with};

const TO: &str = "\nto: {s3: s3://dst/}";

fn from(fields: &str) -> String {
    transfer(&format!("from: {{{fields}}}{TO}"))
}

#[test]
fn one_three_or_all_times() {
    for (fields, versions) in [
        ("s3: s3://src/", Versions::Current),
        ("s3: s3://src/, versions: current", Versions::Current),
        ("s3: s3://src/, versions: all", Versions::All),
        ("s3: s3://src/key, versions: all", Versions::All),
        (
            "s3: s3://src/, versions: current, as_of: 2026-01-01T01:00:00+01:00",
            Versions::AsOf("2026-01-01T00:00:00Z".parse().unwrap()),
        ),
    ] {
        assert_eq!(
            job(&from(fields)).transfers[0].versions,
            versions,
            "{fields}"
        );
    }
}

#[test]
fn archives_are_for_a_transfer_or_for_all() {
    let shared = "defaults: {archived: restore, restore: {tier: bulk, days: 3}}\n";
    let plain = job(&with(""));
    assert_eq!(
        (plain.transfers[0].archived, plain.transfers[0].restore.days),
        (Archived::Fail, 7)
    );
    let all = job(&with(shared));
    let restore = Restore {
        tier: RestoreTier::Bulk,
        days: 3,
    };
    assert_eq!(
        (all.transfers[0].archived, all.transfers[0].restore),
        (Archived::Restore, restore)
    );
    let own = transfer(&format!(
        "from: {{s3: s3://src/}}{TO}\narchived: restore\nrestore: {{days: 1}}"
    ));
    let own = job(&format!("{own}{shared}"));
    assert_eq!(
        own.transfers[0].restore,
        Restore {
            tier: RestoreTier::Bulk,
            days: 1
        }
    );
    let skips = transfer(&format!("from: {{s3: s3://src/}}{TO}\narchived: skip"));
    assert_eq!(
        job(&format!("{skips}{shared}")).transfers[0].archived,
        Archived::Skip
    );
}

#[test]
fn what_would_have_no_effect_is_refused() {
    let text = transfer(&format!(
        "from: {{s3: s3://src/}}{TO}\n⟦restore: {{tier: bulk}}"
    ));
    refused(
        &text,
        &[(
            "transfers[0].restore",
            "applies only to `archived: restore`",
            "add `archived: restore`",
        )],
    );
    let text = transfer(&format!(
        "from: {{s3: s3://src/}}{TO}\narchived: restore\nrestore: {{days: ⟦0}}"
    ));
    refused(&text, &[("transfers[0].restore.days", "", "")]);
    let text = transfer(&format!("from: {{files: x}}{TO}\narchived: ⟦skip"));
    refused(
        &text,
        &[(
            "transfers[0].archived",
            "local files are in no archive",
            "remove",
        )],
    );
}

#[test]
fn all_versions_of_a_key_go_under_one_key() {
    let text = |rename: &str| {
        transfer(&format!(
            "from: {{s3: s3://src/, versions: all}}{TO}\nkeys: {{rename: ⟦\"{rename}\"}}"
        ))
    };
    refused(
        &text("{key}-{size}"),
        &[(
            "transfers[0].keys.rename",
            "different keys",
            "leave {size} out",
        )],
    );
    job(&text("{dir}old-{stem}{ext}").replace('⟦', ""));
    let text =
        transfer("from: {s3: s3://src/, versions: all}\nto: {s3: ⟦s3://dst--use1-az4--x-s3/}");
    refused(
        &text,
        &[(
            "transfers[0].to.s3",
            "keeps no versions",
            "a bucket with versions",
        )],
    );
}

/// A bucket can be rolled back to an earlier state, but its versions cannot be copied onto
/// themselves.
#[test]
fn only_the_past_may_be_copied_onto_itself() {
    let text = |fields: &str| {
        transfer(&format!(
            "from: {{s3: s3://src/a/, {fields}}}\nto: {{s3: ⟦s3://src/a/}}"
        ))
    };
    job(&text("as_of: 2026-01-01T00:00:00Z").replace('⟦', ""));
    refused(
        &text("versions: all"),
        &[(
            "transfers[0].to.s3",
            "each of its versions once more",
            "remove `versions: all`",
        )],
    );
}

/// Two transfers may write the same keys only if they write the same objects.
#[test]
fn two_times_are_two_objects_of_one_key() {
    let text = |second: &str| {
        format!(
            "version: 1\ntransfers:\n  - {{from: {{s3: s3://a01/}}, to: {{s3: s3://d01/}}}}\n  \
             - {{from: {{s3: s3://a01/x/{second}}}, to: {{s3: ⟦s3://d01/x/}}}}\n"
        )
    };
    job(&text("").replace('⟦', ""));
    for second in [", versions: all", ", as_of: 2026-01-01T00:00:00Z"] {
        refused(
            &text(second),
            &[("transfers[1].to.s3", "may write the same keys", "")],
        );
    }
}
