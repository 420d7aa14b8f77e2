//! The manifests in `jobs/`, the schema file, and what a manifest becomes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use s3haul::location::LocalPath;
use s3haul::manifest::job::{
    AssumeRole, Destination, Encryption, Endpoint, Job, PartSize, Parts, Policy, Preserve,
    Provider, Source, Symlinks, Transfer, When,
};
use s3haul::manifest::{self, ManifestError, schema};
use s3haul::size::{ByteRate, ByteSize, GIB, MIB};

use super::{env, environment, job, transfer};

const SCHEMA_LINE: &str = "# yaml-language-server: $schema=../deploy/s3haul.schema.json";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(root().join("jobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_example_is_read_and_says_for_whom_it_is() {
    let names: Vec<_> = examples()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    for needed in [
        "one-bucket",
        "cross-account",
        "upload-files",
        "nightly-replica",
        "on-prem",
        "quickstart",
        "all-versions",
        "exact-replica",
    ] {
        assert!(
            names.contains(&format!("{needed}.yaml")),
            "{needed} is not in {names:?}"
        );
    }
    for path in examples() {
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some(SCHEMA_LINE), "{}", path.display());
        let comment: Vec<_> = lines.take_while(|line| line.starts_with('#')).collect();
        for word in ["# Who: ", "# Run: "] {
            assert!(
                comment.iter().any(|line| line.starts_with(word)),
                "{word}in {}",
                path.display()
            );
        }
        Job::load(&path, &environment()).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Our own parser and a YAML library must read a manifest in the same way.
#[test]
fn examples_are_read_as_a_yaml_library_reads_them() {
    for path in examples() {
        let text = fs::read_to_string(&path).unwrap();
        let file: manifest::file::ManifestFile = serde_yaml::from_str(&text).unwrap();
        let transfers = file.transfers.unwrap();
        let job = Job::load(&path, &environment()).unwrap();
        assert_eq!(transfers.len(), job.transfers.len());
        for (typed, read) in transfers.iter().zip(&job.transfers) {
            let include = typed
                .from
                .as_ref()
                .unwrap()
                .include
                .clone()
                .unwrap_or_default();
            assert_eq!(
                include,
                read.select
                    .include
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            );
            assert_eq!(
                typed
                    .name
                    .clone()
                    .unwrap_or_else(|| "transfer-1".to_owned()),
                read.name
            );
        }
        let limits = file.limits.unwrap_or_default();
        assert_eq!(limits.requests_per_second, job.limits.requests_per_second);
        assert_eq!(limits.in_flight, job.limits.in_flight);
    }
}

#[test]
fn the_schema_file_is_the_schema_of_the_types() {
    let path = root().join("deploy/s3haul.schema.json");
    let current = serde_json::to_string_pretty(&schema::json()).unwrap() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "deploy/s3haul.schema.json is old: run the tests with UPDATE_SCHEMA=1"
    );
}

/// Counts the fields of a section and of everything inside it, and asserts that each has a
/// description.
fn explained(section: &serde_json::Value) -> usize {
    let mut fields = 0;
    if let Some(properties) = section
        .get("properties")
        .and_then(|properties| properties.as_object())
    {
        assert_eq!(section["additionalProperties"], false, "{section}");
        assert!(
            section["title"].is_string() && section["description"].is_string(),
            "{section}"
        );
        for (name, field) in properties {
            assert!(
                field["description"].is_string(),
                "{name} has no description: {field}"
            );
            assert!(
                !field.to_string().contains("\"null\""),
                "{name} may be null: {field}"
            );
            fields += 1;
        }
    }
    let inside = section
        .as_object()
        .into_iter()
        .flat_map(|object| object.values());
    fields + inside.map(explained).sum::<usize>()
}

#[test]
fn the_schema_is_strict_and_explains_every_field() {
    let schema = schema::json();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert_eq!(
        schema["required"],
        serde_json::json!(["version", "transfers"])
    );
    let fields = explained(&schema);
    assert!(fields > 50, "only {fields} fields were seen");
}

#[test]
fn a_short_manifest_gets_every_default() {
    let job = job("version: 1\ntransfers:\n- from: {s3: s3://src/}\n  to: {s3: s3://dst/a/}\n");
    let to = Destination {
        endpoint: "default".to_owned(),
        location: "s3://dst/a/".parse().unwrap(),
        storage_class: None,
        encryption: None,
        acl: None,
    };
    let from = Source::Prefix {
        endpoint: "default".to_owned(),
        location: "s3://src".parse().unwrap(),
    };
    let expected = Job {
        name: "job".to_owned(),
        manifest_sha256: job.manifest_sha256.clone(),
        ..Job::single(
            Transfer::new("transfer-1", from, to),
            [Endpoint::default().resolve(&environment())],
        )
    };
    assert_eq!(job, expected);
    assert_eq!(job.manifest_sha256.as_ref().map(String::len), Some(64));
    assert_eq!(job.endpoints["default"].stated, Endpoint::default());
    assert_eq!(job.transfers[0].parts, Parts::default());
    assert_eq!(job.transfers[0].when, When::Changed);
    assert_eq!(job.check(), []);
}

#[test]
fn a_long_manifest_says_everything() {
    let job = job(r#"
version: 1
name: lake-replica
endpoints:
  onprem: {url: https://rgw.example.internal:8443/, region: us-east-1, path_style: true, profile: p, provider: ceph}
  dr: {region: eu-west-1, assume_role: {arn: arn:aws:iam::111122223333:role/s3haul, external_id: x1, session_name: n, duration: 1h}}
defaults: {when: missing, preserve: {tags: skip, metadata: skip}, parts: {size: 16MiB, threshold: 64MiB}}
transfers:
  - name: events
    from:
      s3: s3://${BUCKET}/events/
      include: ["**/*.parquet"]
      exclude: [tmp/**]
      larger_than: 0B
      smaller_than: 1TiB
      modified_after: ${SINCE}
      modified_before: 2026-02-01T00:00:00+01:00
      storage_classes: [STANDARD]
    to: {s3: s3://lake-dr/events/, endpoint: dr, storage_class: GLACIER_IR, encryption: {kms: arn:aws:kms:k, bucket_key: true}}
    when: always
    parts: {size: auto}
    preserve: {tags: require}
    keys: {strip_prefix: a/, add_prefix: b/, rename: "{key}.bak"}
  - {from: {s3: s3://lake-prod/one, version: "3"}, to: {s3: s3://lake-dr/two, encryption: dsse}}
  - {from: {files: ./exports, symlinks: follow}, to: {s3: s3://onprem/, endpoint: onprem, encryption: s3}}
limits: {requests_per_second: 3000, bytes_per_second: 40GiB, in_flight: "${IN_FLIGHT}"}
report: {json: ./report.jsonl}
"#
    .replace("session_name: n", "session_name: nightly")
    .as_str());
    assert_eq!(job.name, "lake-replica");
    assert_eq!(
        job.endpoints.keys().collect::<Vec<_>>(),
        ["default", "dr", "onprem"]
    );
    let onprem = &job.endpoints["onprem"];
    assert_eq!(onprem.url(), Some("https://rgw.example.internal:8443"));
    assert_eq!(
        (onprem.path_style, onprem.provider),
        (Some(true), Provider::Ceph)
    );
    let role = AssumeRole {
        arn: "arn:aws:iam::111122223333:role/s3haul".to_owned(),
        external_id: Some("x1".to_owned()),
        session_name: Some("nightly".to_owned()),
        duration: Some(Duration::from_hours(1)),
    };
    assert_eq!(job.endpoints["dr"].assume_role, Some(role));

    let [events, one, files] = job.transfers.as_slice() else {
        panic!("{job:#?}")
    };
    assert_eq!(
        events.from.s3().unwrap().1.to_string(),
        "s3://lake-prod/events/"
    );
    assert_eq!(events.select.include[0].as_str(), "**/*.parquet");
    assert_eq!(events.select.larger_than, Some(ByteSize(0)));
    assert_eq!(
        events.select.modified_after.unwrap().to_string(),
        "2026-01-01T00:00:00Z"
    );
    assert_eq!(
        events.select.modified_before.unwrap().to_string(),
        "2026-01-31T23:00:00Z"
    );
    let kms = Encryption::Kms {
        key: Some("arn:aws:kms:k".to_owned()),
        bucket_key: Some(true),
        dsse: false,
    };
    assert_eq!(events.to.encryption, Some(kms));
    assert_eq!((events.when, one.when), (When::Always, When::Missing));
    assert_eq!(
        events.parts,
        Parts {
            threshold: ByteSize(64 * MIB),
            ..Parts::default()
        }
    );
    assert_eq!(one.parts.size, PartSize::Exactly(ByteSize(16 * MIB)));
    let kept = Preserve {
        metadata: Policy::Skip,
        tags: Policy::Require,
        ..Preserve::default()
    };
    assert_eq!(events.preserve, kept);
    assert_eq!(events.keys.rename.as_ref().unwrap().as_str(), "{key}.bak");
    assert_eq!(one.name, "transfer-2");
    assert!(matches!(&one.from, Source::Object { version: Some(version), .. } if version == "3"));
    assert_eq!(
        one.to.encryption,
        Some(Encryption::Kms {
            key: None,
            bucket_key: None,
            dsse: true
        })
    );
    let exports = LocalPath("./exports".into());
    assert_eq!(
        files.from,
        Source::Files {
            path: exports,
            symlinks: Symlinks::Follow
        }
    );
    assert_eq!(job.limits.bytes_per_second, Some(ByteRate(40 * GIB)));
    assert_eq!(job.limits.in_flight, Some(64));
    assert_eq!(
        job.report.json.as_deref(),
        Some(Path::new("./report.jsonl"))
    );
}

#[test]
fn the_type_comes_from_the_field_not_from_the_look() {
    let text = "from: {s3: s3://src/, endpoint: no}\nto: {s3: s3://dst/, endpoint: no}";
    let job = job(&format!(
        "{}endpoints:\n  no: {{region: no, profile: 012}}\n",
        transfer(text)
    ));
    let endpoint = &job.endpoints["no"];
    let stated = &endpoint.stated;
    assert_eq!(
        (stated.region.as_deref(), stated.profile.as_deref()),
        (Some("no"), Some("012"))
    );
}

#[test]
fn a_value_from_the_environment_stays_one_value() {
    let mistakes = super::parse(&transfer(
        "from: {files: \"${TRICK}\"}\nto: {s3: s3://dst/}",
    ));
    let Source::Files { path, .. } = &mistakes.unwrap().transfers[0].from else {
        panic!()
    };
    assert_eq!(path.as_path().to_str(), env("TRICK").as_deref());
    let job = job(&transfer(
        "from: {files: \"$${HOME}/$x\"}\nto: {s3: s3://dst/}",
    ));
    let Source::Files { path, .. } = &job.transfers[0].from else {
        panic!()
    };
    assert_eq!(path.as_path().to_str(), Some("${HOME}/$x"));
}

#[test]
fn the_name_comes_from_the_file() {
    let name = |file: &str| {
        Job::parse(&super::with(""), file, &environment())
            .unwrap()
            .name
    };
    assert_eq!(
        name("jobs/Nightly Replica.prod.yaml"),
        "nightly-replica.prod"
    );
    assert_eq!(name("x/ü.yml"), "job");
    assert_eq!(name("-"), "job");
}

#[test]
fn files_without_text_are_distinguished_from_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("job.yaml");
    let load = || Job::load(&path, &environment());
    let mistake = |result| match result {
        Err(ManifestError::Mistakes(mistakes)) => mistakes.as_slice()[0].clone(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(load(), Err(ManifestError::Io { .. })));
    assert!(matches!(
        Job::load(dir.path(), &environment()),
        Err(ManifestError::Io { .. })
    ));

    fs::write(&path, b"version: 1\nname: b\xFFd\n").unwrap();
    let found = mistake(load());
    assert_eq!((found.line, found.column), (2, 8));
    assert!(found.message.contains("UTF-8"), "{found:?}");

    fs::write(
        &path,
        format!("{}# {}", super::with(""), "x".repeat(1 << 20)),
    )
    .unwrap();
    assert!(mistake(load()).message.contains("1MiB"));

    fs::write(&path, format!("\u{feff}{}", super::with(""))).unwrap();
    assert_eq!(load().unwrap().transfers.len(), 1);
    fs::write(&path, super::with("").replace('\n', "\r\n")).unwrap();
    assert_eq!(load().unwrap().transfers.len(), 1);
}
