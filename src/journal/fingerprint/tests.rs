//! Tests of fingerprints.

use super::*;
use crate::endpoint::{Environment, ResolvedEndpoint};
use crate::manifest::job::{
    Chosen, CustomerKeys, DEFAULT_ENDPOINT, Endpoint, KeySource, Limits, Policy, ReportPaths,
    Symlinks, Versions, When,
};
use crate::size::MIB;

fn job() -> Job {
    let endpoint = DEFAULT_ENDPOINT.to_owned();
    let from = Source::Prefix {
        endpoint: endpoint.clone(),
        location: "s3://lake/x/".parse().unwrap(),
    };
    let to = Destination {
        endpoint,
        location: "s3://copy/".parse().unwrap(),
        storage_class: None,
        encryption: None,
        acl: None,
    };
    Job::single(
        Transfer::new("events", from, to),
        [resolved(Endpoint::default())],
    )
}

fn changes(change: impl FnOnce(&mut Job)) -> Vec<String> {
    let mut after = job();
    change(&mut after);
    Fingerprint::of(&job()).changes(&Fingerprint::of(&after))
}

#[test]
fn a_separator_in_a_pattern_makes_no_second_pattern() {
    let of = |patterns: &[&str]| {
        let mut job = job();
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
        job.transfers[0].select.include = patterns.collect();
        Fingerprint::of(&job)
    };
    let (one, two) = (of(&["a, b"]), of(&["a", "b"]));
    let change = r#"`events.from.include` was ["a, b"] and is ["a","b"]"#;
    assert_eq!(one.changes(&two), [change]);
    assert_eq!(two.changes(&one).len(), 1);
    let quoted = of(&["\"a", "b\""]);
    assert_eq!(one.changes(&quoted).len(), 1, "only the text is shown");
    assert_eq!(of(&["a"]).changes(&two).len(), 1);
    // An older journal has only the text, and its run continues.
    for now in [&one, &two] {
        let mut old = now.clone();
        old.0.retain(|name, _| !name.ends_with(ELEMENTS));
        assert_eq!(old.0["events.from.include"], "a, b");
        assert_eq!(old.changes(now), [""; 0]);
        assert_eq!(old.digest(), now.digest());
    }
}

#[test]
fn changes_of_settings_are_described() {
    let change =
        |change: fn(&mut Transfer)| changes(|job| change(&mut job.transfers[0])).join("; ");
    assert_eq!(
        change(|transfer| transfer.when = When::Always),
        "`events.when` was changed and is always"
    );
    assert_eq!(
        change(|transfer| transfer.select.exclude =
            vec!["tmp/**".parse().unwrap(), "*.bak".parse().unwrap()]),
        "`events.from.exclude` is tmp/**, *.bak and was not set"
    );
    assert_eq!(
        change(|transfer| transfer.parts.size = PartSize::Exactly(ByteSize(8 * MIB))),
        "`events.parts.size` was auto and is 8MiB"
    );
    // A rounded value would equal 10000000B.
    assert_eq!(
        change(|transfer| transfer.select.larger_than = Some(ByteSize(10_000_001))),
        "`events.from.larger_than` is 10000001B and was not set"
    );
    assert_eq!(
        change(|transfer| transfer.preserve.tags = Policy::Skip),
        "`events.preserve.tags` was try and is skip"
    );
    assert_eq!(
        change(|transfer| transfer.to.encryption = Some(Encryption::Kms {
            key: None,
            bucket_key: Some(true),
            dsse: false
        })),
        "`events.to.encryption` is kms with the account's key, bucket_key: true and was not set"
    );
    assert_eq!(
        change(|transfer| transfer.name = "other".into()),
        "`transfers` was events and is other"
    );
}

#[test]
fn limits_reports_and_regions_may_change() {
    let none: [String; 0] = [];
    assert_eq!(
        changes(|job| job.limits = Limits {
            in_flight: Some(7),
            ..Limits::default()
        }),
        none
    );
    assert_eq!(
        changes(|job| job.report = ReportPaths {
            json: Some("r".into()),
            ..ReportPaths::default()
        }),
        none
    );
    assert_eq!(
        changes(|job| {
            let region = Some("eu-west-1".to_owned());
            let endpoint = Endpoint {
                region,
                ..Endpoint::default()
            };
            job.endpoints
                .insert(DEFAULT_ENDPOINT.to_owned(), resolved(endpoint));
        }),
        none
    );
}

fn resolved(endpoint: Endpoint) -> ResolvedEndpoint {
    endpoint.resolve(&Environment::default())
}

#[test]
fn a_profile_that_leads_to_another_server_is_another_server() {
    let of = |profile: &str| {
        let config = "[profile a]\nendpoint_url = http://a.example\n[profile b]\nendpoint_url = http://b.example\n";
        let endpoint = Endpoint {
            profile: Some(profile.to_owned()),
            ..Endpoint::default()
        };
        changes(|job| {
            let endpoint = endpoint.clone().resolve(&Environment::of([], config, ""));
            job.endpoints.insert(DEFAULT_ENDPOINT.to_owned(), endpoint);
        })
    };
    assert_ne!(of("a"), of("b"));
}

#[test]
fn buckets_of_another_server_are_other_buckets() {
    let moved = changes(|job| {
        let endpoint = Endpoint {
            url: Some("https://rgw.example".into()),
            ..Endpoint::default()
        };
        job.endpoints
            .insert(DEFAULT_ENDPOINT.to_owned(), resolved(endpoint));
    });
    assert_eq!(moved.len(), 2, "{moved:?}");
    assert_eq!(
        moved[1],
        "`events.to` was s3://copy/ and is s3://copy/ at https://rgw.example"
    );
}

#[test]
fn digests_are_short_and_differ() {
    assert_eq!(digest("a").len(), 16);
    assert_ne!(digest("a"), digest("b"));
}

#[test]
fn a_group_of_values_is_shown_without_the_names_of_the_code() {
    let set = crate::manifest::job::SetValues {
        metadata: [("a".to_owned(), "x, {y} \"z\"".to_owned())].into(),
        cache_control: Some("no-store".to_owned()),
        ..Default::default()
    };
    assert_eq!(
        words::shown(&text::set(&set)),
        r#"(metadata: {"a": "x, {y} \"z\""}, cache_control: "no-store")"#
    );
    assert_eq!(words::shown("kms with a key"), "kms with a key");
    assert_eq!(words::shown("s3://b/{x} { y }"), "s3://b/{x} { y }");
}

/// The job of a journal that s3haul 0.1.0 wrote, and the fingerprint in that journal.
const OLD_JOB: &str = include_str!("v0_1_0.yaml");
const OLD_FINGERPRINT: &str = include_str!("v0_1_0.json");

/// Returns the transfer of `s3haul copy big.bin s3://copy/dd/file --metadata a=b`.
fn copy_of_a_file() -> Job {
    let from = Source::Files {
        path: crate::location::LocalPath("big.bin".into()),
        symlinks: Symlinks::Skip,
    };
    let to = Destination::new("s3://copy/dd/file".parse().unwrap());
    let mut transfer = Transfer::new("copy", from, to);
    let metadata = [("a".to_owned(), "b".to_owned())];
    transfer.set.metadata = metadata.into();
    let endpoint = Endpoint {
        url: Some("http://127.0.0.1:9771".to_owned()),
        ..Endpoint::default()
    };
    Job::single(transfer, [resolved(endpoint)])
}

#[test]
fn a_run_of_s3haul_0_1_0_continues() {
    let old: Fingerprint = serde_json::from_str(OLD_FINGERPRINT).unwrap();
    let job = Job::parse(OLD_JOB, "job.yaml", &Environment::default()).unwrap();
    let mut now = Fingerprint::of(&job);
    assert_eq!(old.changes(&now), [""; 0]);
    assert_eq!(old.digest(), now.digest());
    // Older journals do not have these.
    now.0.retain(|name, _| !name.ends_with(ELEMENTS));
    assert_eq!(old, now);
}

/// The digest names the journal of a `copy` command. If it changed, the run would not be found.
#[test]
fn a_copy_of_s3haul_0_1_0_finds_its_journal() {
    let digest = Fingerprint::of(&copy_of_a_file()).digest();
    assert_eq!(digest, "09f853c26606cb38");
}

/// Values that the journal above does not have, as s3haul 0.1.0 wrote them.
#[test]
fn values_are_written_as_by_s3haul_0_1_0() {
    let time = "2026-01-02T03:04:05.5Z".parse().unwrap();
    assert_eq!(text::versions(Versions::All), "all");
    assert_eq!(
        text::versions(Versions::AsOf(time)),
        "asof(2026-01-02t03:04:05.5z)"
    );
    let keys = CustomerKeys {
        source: Some(KeySource::Env("KEY".to_owned())),
        destination: Some(KeySource::File("/run/key".into())),
    };
    assert_eq!(
        text::customer_keys(&keys),
        r#"CustomerKeys { source: Some(Env("KEY")), destination: Some(File("/run/key")) }"#
    );
    let chosen = ["x/1", "x/\"2\""].map(|key| Chosen {
        key: key.to_owned(),
        version: None,
    });
    assert_eq!(
        text::chosen(&chosen),
        r#"[Chosen { key: "x/1" }, Chosen { key: "x/\"2\"" }]"#
    );
}
