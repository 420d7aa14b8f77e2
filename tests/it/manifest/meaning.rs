//! Rules about the meaning of a manifest. Each mistake is reported at its line.

mod sides;

use rstest::rstest;
use s3haul::cli::draw;
use s3haul::endpoint::Environment;
use s3haul::location::S3Uri;
use s3haul::manifest::job::{
    Destination, Endpoint, Job, LayoutChoice, OnMismatch, PartSize, ProofPolicy, Prove, Source,
    Transfer, Verify,
};
use s3haul::size::ByteSize;

use super::{job, parse, refused, transfer, with};

/// Endpoints: two for the same server, and one for another.
const SERVERS: &str = "endpoints:
  a: {url: http://ceph:7480, allow_http: true}
  b: {url: http://CEPH:7480, profile: p, allow_http: true}
  other: {url: http://minio:9000, allow_http: true}
  china: {region: cn-north-1}
  dublin: {region: eu-west-1}
  vpce: {url: https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com}
";

#[rstest]
#[case("parts: {size: ⟦4MiB}", "parts.size", "5MiB to 5GiB", "write 5MiB")]
#[case("parts: {size: ⟦6GiB}", "parts.size", "5MiB to 5GiB", "write 5GiB")]
#[case("parts: {size: ⟦64}", "parts.size", "no binary unit", "64MiB")]
#[case(
    "parts: {threshold: ⟦1B}",
    "parts.threshold",
    "5MiB to 5GiB",
    "write 5MiB"
)]
#[case(
    "parts: {layout: ⟦sauce}",
    "parts.layout",
    "cannot be `sauce`",
    "auto or source"
)]
#[case("parts: {goal: ⟦quick}", "parts.goal", "cannot be `quick`", "fastest")]
#[case(
    "parts: {size: 64MiB, goal: ⟦fastest}",
    "parts.goal",
    "the size is given",
    "remove one"
)]
#[case(
    "verify: ⟦require_checksums",
    "verify",
    "cannot be",
    "`require-checksum`?"
)]
#[case("prove: ⟦bytes", "prove", "cannot be `bytes`", "answers or read")]
#[case(
    "on_mismatch: ⟦delete",
    "on_mismatch",
    "cannot be `delete`",
    "keep or remove"
)]
#[case(
    "keys: {rename: ⟦\"{year}/{name}\"}",
    "keys.rename",
    "no placeholder `{year}`",
    "{key}, {dir}, {name}"
)]
#[case(
    "keys: {rename: ⟦\"flat-{name}\"}",
    "keys.rename",
    "same key to different objects",
    "{dir}"
)]
#[case(
    "keys: {rename: ⟦\"{dir}/{name}\"}",
    "keys.rename",
    "brings its own `/`",
    "leave out"
)]
#[case(
    "keys: {rename: ⟦\"{dir}{ext}{stem}\"}",
    "keys.rename",
    "a key of its own",
    "{stem} before {ext}"
)]
#[case(
    "keys: {rename: ⟦\"{size}{key}\"}",
    "keys.rename",
    "cannot tell that `{size}{key}` gives each object",
    "`{size}/{key}`"
)]
#[case("keys: {rename: ⟦\"{key\"}", "keys.rename", "stands alone", "{{")]
#[case("keys: {add_prefix: ⟦\" \"}", "keys.add_prefix", "empty", "remove it")]
fn details(#[case] field: &str, #[case] path: &str, #[case] message: &str, #[case] remedy: &str) {
    let text = transfer(&format!(
        "from: {{s3: s3://src/}}\nto: {{s3: s3://dst/}}\n{field}"
    ));
    refused(&text, &[(&format!("transfers[0].{path}"), message, remedy)]);
}

#[rstest]
#[case("url: ⟦minio:9000", "url", "not a URL", "https://minio:9000")]
#[case("url: ⟦ftp://minio", "url", "not a URL", "https://minio")]
#[case(
    "url: ⟦https://minio/bucket",
    "url",
    "no path: `/bucket`",
    "write https://minio;"
)]
#[case("url: ⟦https://minio?x", "url", "no path", "")]
#[case("url: ⟦http://", "url", "not a host", "")]
#[case("url: ⟦http://min io", "url", "not a host", "")]
#[case("url: ⟦http://minio:99999", "url", "not a host", "")]
#[case("url: ⟦\"http://[::1]9000\"", "url", "not a host", "")]
#[case("region: ⟦\"\"", "region", "empty", "remove")]
#[case("provider: ⟦minio", "provider", "this endpoint is AWS", "`url`")]
#[case(
    "provider: ⟦seaweed",
    "provider",
    "cannot be `seaweed`",
    "`seaweedfs`?"
)]
#[case(
    "assume_role: {arn: ⟦s3haul}",
    "assume_role.arn",
    "not the ARN of a role",
    "arn:aws:iam::"
)]
#[case(
    "⟦assume_role: {external_id: x}",
    "assume_role",
    "no `arn`",
    "arn: arn:aws:iam::"
)]
#[case(
    "assume_role: {arn: arn:aws:iam::1:role/x, duration: ⟦60}",
    "assume_role.duration",
    "not a duration",
    "15m"
)]
#[case(
    "assume_role: {arn: arn:aws:iam::1:role/x, duration: ⟦13h}",
    "assume_role.duration",
    "12 hours",
    "1h"
)]
#[case(
    "assume_role: {arn: arn:aws:iam::1:role/x, session_name: ⟦a b}",
    "assume_role.session_name",
    "cannot name a session",
    "2 to 64"
)]
fn endpoints(#[case] field: &str, #[case] path: &str, #[case] message: &str, #[case] remedy: &str) {
    let path = if path == "assume_role" {
        "endpoints.x.assume_role".to_owned()
    } else {
        format!("endpoints.x.{path}")
    };
    refused(
        &with(&format!("endpoints:\n  x: {{{field}}}\n")),
        &[(&path, message, remedy)],
    );
}

#[test]
fn good_urls_pass() {
    for url in [
        "http://minio:9000",
        "https://s3.example.internal/",
        "\"http://[::1]:9000\"",
        "http://10.0.0.1",
    ] {
        job(&with(&format!(
            "endpoints:\n  x: {{url: {url}, allow_http: true}}\n"
        )));
    }
}

#[test]
fn names_and_limits() {
    refused(
        &with("name: ⟦Lake Replica\n"),
        &[("name", "cannot be a name", "lower-case")],
    );
    refused(
        &with("endpoints:\n  ⟦On Prem: {region: x}\n"),
        &[("endpoints.On Prem", "cannot be a name", "")],
    );
    refused(
        &with("limits: {bytes_per_second: ⟦0B}\n"),
        &[(
            "limits.bytes_per_second",
            "nothing would ever",
            "at least 1",
        )],
    );
    refused(
        &with("limits: {bytes_per_second: ⟦40G}\n"),
        &[("limits.bytes_per_second", "no binary unit", "40GiB")],
    );
    refused(&with("report: {json: ⟦\"\"}\n"), &[("report.json", "", "")]);
    refused(
        "version: 1\n⟦transfers: []\n",
        &[("transfers", "is empty", "transfers: [")],
    );
    let two = "version: 1\ntransfers:\n  - {from: {s3: s3://src/}, to: {s3: s3://dst/a/}}\n  \
               - {name: ⟦transfer-1, from: {s3: s3://src/}, to: {s3: s3://dst/b/}}\n";
    refused(
        two,
        &[(
            "transfers[1].name",
            "also that of transfers[0]",
            "a different name",
        )],
    );
}

#[test]
fn a_goal_that_an_exact_size_makes_meaningless_is_refused_wherever_both_come_from() {
    let both = |defaults: &str, parts: &str| {
        format!(
            "version: 1\ndefaults: {{parts: {{{defaults}}}}}\ntransfers:\n  \
             - {{from: {{s3: s3://src/}}, to: {{s3: s3://dst/}}, parts: {{{parts}}}}}\n"
        )
    };
    let given = "the size is given";
    refused(
        &both("size: 64MiB", "goal: ⟦fastest"),
        &[("transfers[0].parts.goal", given, "add `size: auto`")],
    );
    refused(
        &both("size: 64MiB, goal: ⟦fastest", ""),
        &[("defaults.parts.goal", given, "remove one of them")],
    );
    for (defaults, parts) in [
        ("size: 64MiB", "size: auto, goal: fastest"),
        ("size: auto", "goal: fastest"),
        ("goal: fastest", "size: 64MiB"),
        ("goal: fastest", ""),
    ] {
        job(&both(defaults, parts));
    }
}

#[test]
fn the_path_of_a_report_has_one_mistake_with_its_own_remedy() {
    for (text, message, remedy) in [
        (
            "⟦s3://ops/r.jsonl",
            "names a file of this machine",
            "report.s3",
        ),
        ("⟦\"-\"", "names a file of this machine", "./- for a file"),
        ("⟦\"\"", "this is empty", "write a path"),
        ("⟦~/r.jsonl", "a shell's abbreviation", "${HOME}"),
    ] {
        refused(
            &with(&format!("report: {{json: {text}}}\n")),
            &[("report.json", message, remedy)],
        );
    }
    for (text, message, remedy) in [
        ("⟦\"\"", "not an S3 location", "write s3://"),
        ("⟦./r", "not an S3 location", "write s3://"),
        ("⟦s3://ops/r", "kept below a prefix", "write s3://ops/r/"),
    ] {
        refused(
            &with(&format!("report: {{s3: {text}}}\n")),
            &[("report.s3", message, remedy)],
        );
    }
}

#[test]
fn a_transfer_waits_for_one_above_it() {
    let with = |after: &str, last: &str| {
        format!(
            "version: 1\ntransfers:\n  - {{name: data, from: {{s3: s3://src/}}, to: {{s3: s3://dst/a/}}}}\n  \
             - {{name: pointer, after: [{after}], from: {{s3: s3://src/}}, to: {{s3: s3://dst/b/}}}}\n  \
             - {{name: {last}, from: {{s3: s3://src/}}, to: {{s3: s3://dst/c/}}}}\n"
        )
    };
    assert_eq!(job(&with("data", "last")).transfers[1].after, ["data"]);
    refused(
        &with("⟦dat", "last"),
        &[("transfers[1].after[0]", "no transfer has", "mean `data`")],
    );
    refused(
        &with("⟦elsewhere", "last"),
        &[("transfers[1].after[0]", "no transfer has", "above this one")],
    );
    refused(
        &with("data, ⟦pointer", "last"),
        &[("transfers[1].after[1]", "for itself", "above this one")],
    );
    refused(
        &with("⟦last", "last"),
        &[(
            "transfers[1].after[0]",
            "comes after",
            "put `last` above `pointer`",
        )],
    );
}

#[test]
fn a_wrong_default_is_shown_once_and_where_it_stands() {
    let text = "version: 1\ndefaults: {parts: {size: ⟦1MiB}}\ntransfers:\n  \
                - {from: {s3: s3://src/}, to: {s3: s3://dst/a/}}\n  - {from: {s3: s3://src/}, to: {s3: s3://dst/b/}}\n";
    refused(
        text,
        &[("defaults.parts.size", "5MiB to 5GiB", "write 5MiB")],
    );
}

#[test]
fn a_directory_of_files_needs_a_prefix() {
    for from in [
        "files: .",
        "files: a/..",
        "files: exports/",
        "files: x, include: [a]",
    ] {
        let text = transfer(&format!("from: {{{from}}}\nto: {{s3: ⟦s3://dst/x}}"));
        refused(
            &text,
            &[("transfers[0].to.s3", "key of one object", "s3://dst/x/")],
        );
    }
    job(&transfer("from: {files: ./x.bin}\nto: {s3: s3://dst/x}"));
    let text = transfer("from: {files: x}\nto: {s3: s3://dst/}\n⟦preserve: {tags: try}");
    refused(
        &text,
        &[("transfers[0].preserve", "local files have no", "remove")],
    );
    let text = transfer("from: {files: x}\nto: {s3: s3://dst/}\nparts: {layout: ⟦source}");
    refused(
        &text,
        &[("transfers[0].parts.layout", "no part boundaries", "remove")],
    );
    let text = transfer("from: {files: x}\nto: {s3: s3://dst/}\nparts: {goal: ⟦fastest}");
    refused(
        &text,
        &[("transfers[0].parts.goal", "parts of local files", "remove")],
    );
    let text = transfer("from: {files: x}\nto: {s3: s3://dst/x}\n⟦keys: {add_prefix: a}");
    refused(&text, &[("transfers[0].keys", "exact key", "slash")]);
}

#[test]
fn servers_do_not_copy_from_each_other() {
    let text = |from: &str, to: &str| {
        format!(
            "{}{SERVERS}",
            transfer(&format!(
                "from: {{s3: s3://src/, endpoint: {from}}}\nto: {{s3: s3://dst/, endpoint: ⟦{to}}}"
            ))
        )
    };
    let path = "transfers[0].to.endpoint";
    let message =
        "not possible between two servers: `a` (http://ceph:7480) and `other` (http://minio:9000)";
    refused(&text("a", "other"), &[(path, message, "does not relay")]);
    refused(
        &text("a", "default"),
        &[(
            path,
            "`a` (http://ceph:7480) and `default` (Amazon S3)",
            "within one endpoint",
        )],
    );
    refused(
        &text("china", "dublin"),
        &[(
            path,
            "between two servers: `china` (Amazon S3 in the partition aws-cn) and `dublin` (Amazon S3)",
            "",
        )],
    );
    // `default` has no Region, so it is in the partition of us-east-1.
    refused(
        &text("china", "default"),
        &[(path, "between two servers", "")],
    );
    for (from, to) in [("a", "b"), ("default", "dublin"), ("vpce", "default")] {
        job(&text(from, to).replace('⟦', ""));
    }
    let forgotten = transfer("from: {s3: s3://src/, endpoint: a}\n⟦to: {s3: s3://dst/}");
    refused(
        &format!("{forgotten}{SERVERS}"),
        &[(path, "between two servers", "name it in both")],
    );
}

#[test]
fn other_servers_name_their_own_storage_classes() {
    let text = |class: &str| {
        let fields = format!(
            "from: {{s3: s3://src/, endpoint: a}}\nto: {{s3: s3://dst/, endpoint: a, storage_class: {class}}}"
        );
        format!("{}{SERVERS}", transfer(&fields))
    };
    assert_eq!(
        job(&text("COLD_EC")).transfers[0]
            .to
            .storage_class
            .as_deref(),
        Some("COLD_EC")
    );
    refused(
        &text("⟦cold"),
        &[(
            "transfers[0].to.storage_class",
            "not a storage class",
            "upper-case",
        )],
    );
}

#[test]
fn a_job_from_the_command_line_keeps_the_same_rules() {
    let uri = |text: &str| text.parse::<S3Uri>().unwrap();
    let from = Source::Prefix {
        endpoint: "default".to_owned(),
        location: uri("s3://src/a/"),
    };
    let to = Destination {
        endpoint: "default".to_owned(),
        location: uri("s3://src/a/b/"),
        storage_class: Some("GLACEIR".to_owned()),
        encryption: None,
        acl: None,
    };
    let mut transfer = Transfer::new("copy", from, to.clone());
    transfer.parts.size = PartSize::Exactly(ByteSize(1));
    let endpoint = Endpoint {
        url: Some("localhost".to_owned()),
        ..Endpoint::default()
    };
    let findings = Job::single(transfer, [endpoint.resolve(&Environment::default())]).check();
    let paths: Vec<_> = findings
        .iter()
        .map(|finding| finding.path.as_str())
        .collect();
    // If the default endpoint is another server, the storage class must only look like one.
    assert_eq!(
        paths,
        [
            "endpoints.default.url",
            "transfers[0].parts.size",
            "transfers[0].to.s3"
        ]
    );
    assert!(
        findings[2]
            .to_string()
            .starts_with("transfers[0].to.s3: s3://src/a/b/ lies inside"),
        "{}",
        findings[2]
    );

    let stdin = Transfer::new("copy", Source::Stdin, to);
    let findings = Job::single(stdin, [Endpoint::default()]).check();
    assert!(
        findings
            .iter()
            .any(|finding| finding.message.contains("no file name")),
        "{findings:?}"
    );
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let text = "\
version: 2
name: My Lake
endpoints:
  dr: {regoin: eu-west-1, url: https://dr.example.com/bucket, secret_key: hunter2}
defaults: {when: newer, parts: {size: 64M}}
transfers:
  - name: events
    from: {s3: s3://lake-prod/events/, include: [\"**/*.parquet\"], modified_after: yesterday}
    to: {s3: s3://lake-dr/events, endpoint: drr, storage_class: GLACIER_RI}
  - name: events
    from: {s3: s3://lake-prod/events/, exclude: tmp/**}
    to:   {s3: \"s3://${NO_SUCH_BUCKET}/\"}
    when: missing
    when: always
  - form: {files: ./exports}
    to: {s3: s3://lake-prod/}
  - from: {s3: s3://ümlaut/a/, larger_than: 5}\t
    to: {s3: s3://lake-prod/x/, encryption: {kms: k, bucket_key: yes}}
limits: {requests_per_second: 3_000, in_flight: 0}
diary: ./x
";

    insta::assert_snapshot!("all_mistakes", draw(&parse(text).unwrap_err(), false));
}

#[test]
fn the_rendering_is_safe_and_can_be_coloured() {
    let mistakes = parse(&with("name: \"\u{1b}[31m\\e[31mred\"\n")).unwrap_err();
    for plain in [draw(&mistakes, false), mistakes.to_string()] {
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
        assert!(plain.ends_with("1 mistake in job.yaml"), "{plain}");
    }
    assert!(draw(&mistakes, true).contains("\u{1b}["), "no color");
    assert!(
        mistakes.to_string().starts_with("job.yaml:4:7: "),
        "{mistakes}"
    );
}

/// If a field is refused, rules about the default that would replace it say nothing useful.
#[test]
fn one_mistake_is_not_reported_as_another() {
    let servers = "endpoints:\n  rgw: {url: \"⟦${NO_SUCH}\", provider: ceph}\n";
    let text =
        transfer("from: {s3: s3://src/, endpoint: rgw}\nto: {s3: s3://dst/, storage_class: COLD}");
    refused(
        &format!("{text}{servers}"),
        &[("endpoints.rgw.url", "`NO_SUCH` is not set", "")],
    );
    let text = transfer(
        "from: {s3: s3://src/, endpoint: \"⟦${NO_SUCH}\"}\nto: {s3: s3://dst/, endpoint: dublin}",
    );
    refused(
        &format!("{text}{SERVERS}"),
        &[("transfers[0].from.endpoint", "not set", "")],
    );
    let text = transfer("from: {s3: s3://src/, exclude: [⟦old/]}\nto: {s3: s3://src/old/}");
    refused(
        &text,
        &[("transfers[0].from.exclude[0]", "marker object", "old/**")],
    );
    refused(
        &transfer("from: {⟦file: x}\nto: {s3: s3://dst/}"),
        &[("transfers[0].from.file", "no field", "`files`")],
    );
    let text = transfer("from: {s3: s3://src/}\nto: {s3: s3://dst/, encryption: {⟦kns: k}}");
    refused(
        &text,
        &[("transfers[0].to.encryption.kns", "no field", "`kms`")],
    );
    refused(
        &format!(
            "{}endpoints:\n  ceph: ⟦http://ceph\n",
            transfer("from: {s3: s3://src/, endpoint: ceph}\nto: {s3: s3://dst/, endpoint: ceph}")
        ),
        &[("endpoints.ceph", "must contain fields", "")],
    );
}

#[test]
fn proofs_are_demanded_per_transfer_and_by_default() {
    let text = "\
version: 1
defaults: {verify: size, prove: read, on_mismatch: remove, parts: {layout: source}}
transfers:
  - {from: {s3: s3://src/}, to: {s3: s3://dst/a/}}
  - {from: {s3: s3://src/}, to: {s3: s3://dst/b/}, verify: require-checksum, prove: answers, on_mismatch: keep, parts: {layout: auto}}
";

    let job = job(text);
    let of = |index: usize| {
        (
            job.transfers[index].proof,
            job.transfers[index].parts.layout,
        )
    };
    let shared = ProofPolicy {
        verify: Verify::Size,
        prove: Prove::Read,
        on_mismatch: OnMismatch::Remove,
    };
    assert_eq!(of(0), (shared, LayoutChoice::Source));
    let own = ProofPolicy {
        verify: Verify::RequireChecksum,
        ..ProofPolicy::default()
    };
    assert_eq!(of(1), (own, LayoutChoice::Auto));
}
