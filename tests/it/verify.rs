//! `s3haul verify`: findings, requests, output, and exit codes.

mod extra;

use std::fs;

use rstest::rstest;
use s3haul::manifest::job::{DEFAULT_ENDPOINT, Provider, Source, Symlinks, Transfer};
use s3haul::manifest::keys::KeyMap;
use s3haul::planner::Sides;
use s3haul::sandbox::{Content, Encryption, Fault, ObjectSpec, Operation};
use s3haul::size::{ByteSize, MIB};
use s3haul::verify::{self, Counts, Deep, Verdict, VerifyFinding};
use serde_json::Value;

use crate::world::program::{COPY_ALL, at, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all, destination, upload_all, uri};

/// Puts the same bytes on both sides.
fn both(world: &World, key: &str, size: u64, here: &ObjectSpec, there: &ObjectSpec) {
    world.put_with(key, size, here);
    world.put_object(DESTINATION, key, Content::pattern(1, size), there);
}

pub(crate) async fn verified(
    world: &World,
    transfer: Transfer,
    deep: Deep,
) -> (Counts, Vec<VerifyFinding>) {
    let source = match &transfer.from {
        Source::Files { .. } => None,
        _ => Some(world.bucket(SOURCE).await),
    };
    let sides = Sides {
        transfer: transfer.into(),
        source,
        destination: world.bucket(DESTINATION).await,
    };
    world.sandbox.calls().clear();
    let mut findings = Vec::new();
    let counts = verify::transfer(&sides, deep, |finding| findings.push(finding.clone())).await;
    findings.retain(|finding| !matches!(finding.verdict, Verdict::Equal { .. }));
    findings.sort_by(|a, b| a.destination.cmp(&b.destination));
    (counts, findings)
}

fn names(findings: &[VerifyFinding]) -> Vec<(&str, &str)> {
    let key = |finding: &VerifyFinding| finding.destination.rsplit('/').next().unwrap().len();
    findings
        .iter()
        .map(|finding| {
            let at = finding.destination.len() - key(finding);
            (&finding.destination[at..], finding.verdict.name())
        })
        .collect()
}

/// Sets up one pair of each kind.
fn arrange(world: &World) {
    let (plain, parts) = (
        ObjectSpec::default(),
        ObjectSpec::default().part_sizes([5 * MIB]),
    );
    let bare = |spec: &ObjectSpec| spec.clone().without_checksum();
    both(world, "b-by-etag", 10, &plain, &plain);
    both(world, "c-by-checksum", 9 * MIB, &parts, &plain);
    both(world, "d-by-nothing", 9 * MIB, &bare(&parts), &plain);
    world.put_with("e-other-bytes", 100, &plain);
    world.put_object(
        DESTINATION,
        "e-other-bytes",
        Content::pattern(2, 100),
        &plain,
    );
    world.put_with("f-other-size", 100, &plain);
    world.put_object(DESTINATION, "f-other-size", Content::pattern(1, 99), &plain);
    world.put_with("g-missing", 100, &plain);
    world.put_object(DESTINATION, "h-extra", Content::pattern(1, 100), &plain);
    world.put_object(DESTINATION, "a-extra", Content::pattern(1, 100), &plain);
}

#[tokio::test]
async fn each_pair_is_settled_with_no_more_requests_than_it_takes() {
    let world = World::new().await;
    arrange(&world);
    let (counts, findings) = verified(&world, copy_all(), Deep::No).await;
    assert_eq!(
        names(&findings),
        [
            ("a-extra", "extra"),
            ("d-by-nothing", "unprovable"),
            ("e-other-bytes", "different"),
            ("f-other-size", "different"),
            ("g-missing", "missing"),
            ("h-extra", "extra"),
        ]
    );
    assert_eq!(
        counts.proofs,
        [("crc64nvme".to_owned(), 1), ("etag".to_owned(), 1)].into()
    );
    assert_eq!(world.calls(Operation::ListObjectsV2), 2);
    let asked = world.sandbox.calls().of(Operation::HeadObject);
    let mut keys: Vec<_> = asked.iter().map(|call| call.key.as_str()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(
        keys,
        ["c-by-checksum", "d-by-nothing", "e-other-bytes"],
        "the lists settle the others"
    );
    assert_eq!(asked.len(), 6);
    assert_eq!(world.sandbox.calls().total(), 8, "and nothing is read");
}

#[rstest]
#[case::what_is_open(Deep::Unproven, 2)]
#[case::everything(Deep::All, 8)]
#[tokio::test]
async fn reading_settles_what_nothing_else_does(#[case] deep: Deep, #[case] reads: u64) {
    let world = World::new().await;
    arrange(&world);
    let (counts, findings) = verified(&world, copy_all(), deep).await;
    assert_eq!(
        (counts.unprovable, counts.equal, counts.different),
        (0, 3, 2),
        "{findings:?}"
    );
    // Unequal checksums decide, even if everything else is read.
    let expected = if deep == Deep::All { reads - 2 } else { reads };
    assert_eq!(world.calls(Operation::GetObject), expected);
}

#[tokio::test]
async fn reading_finds_bytes_that_are_not_what_the_server_says() {
    let world = World::new().await;
    let bare = ObjectSpec::default()
        .without_checksum()
        .encryption(Encryption::kms("key"));
    world.put_with("k", 130 * MIB, &bare);
    world.put_object(DESTINATION, "k", Content::pattern(2, 130 * MIB), &bare);
    let (counts, _) = verified(&world, copy_all(), Deep::No).await;
    assert_eq!(
        (counts.unprovable, counts.different),
        (1, 0),
        "with a KMS key, ETags say nothing"
    );
    let (counts, _) = verified(&world, copy_all(), Deep::Unproven).await;
    assert_eq!((counts.unprovable, counts.different), (0, 1));
    assert_eq!(
        world.calls(Operation::GetObject),
        6,
        "three ranges on each side"
    );
}

#[tokio::test]
async fn the_selection_and_the_key_map_are_those_of_the_job() {
    let world = World::new().await;
    let plain = ObjectSpec::default();
    for key in ["raw/a.csv", "raw/b.csv", "raw/b.tmp", "raw/large.csv"] {
        world.put_with(key, if key.contains("large") { 1000 } else { 10 }, &plain);
    }
    for key in [
        "to/new/a.csv",
        "to/new/b.csv",
        "to/new/c.csv",
        "to/new/c.tmp",
        "to/new/large.csv",
        "to/else",
    ] {
        world.put_object(
            DESTINATION,
            key,
            Content::pattern(1, if key.contains("large") { 1000 } else { 10 }),
            &plain,
        );
    }
    let mut transfer = copy_all();
    transfer.to = destination("s3://destination/to/");
    transfer.keys = KeyMap {
        strip_prefix: Some("raw/".into()),
        add_prefix: Some("new/".into()),
        rename: None,
    };
    transfer.select.include = vec!["**/*.csv".parse().unwrap()];
    transfer.select.smaller_than = Some(ByteSize(100));
    let (counts, findings) = verified(&world, transfer.clone(), Deep::No).await;
    assert_eq!(
        names(&findings),
        [("c.csv", "extra")],
        "large.csv is left out, not extra"
    );
    assert_eq!(
        (counts.equal, counts.excluded, counts.looked_for_extra),
        (2, 2, true)
    );
    // A template changes the order of keys: each one gets a HEAD, and extra keys are unknown.
    transfer.keys.rename = Some("{dir}{name}.bak".parse().unwrap());
    world.put_object(
        DESTINATION,
        "to/new/a.csv.bak",
        Content::pattern(1, 10),
        &plain,
    );
    let (counts, findings) = verified(&world, transfer, Deep::No).await;
    assert_eq!((counts.equal, counts.looked_for_extra), (1, false));
    assert_eq!(names(&findings), [("b.csv.bak", "missing")]);
}

#[tokio::test]
async fn a_server_without_order_or_content_etags_is_asked_for_each_key() {
    let world = World::of_provider(Provider::Other).await;
    both(
        &world,
        "a/b",
        10,
        &ObjectSpec::default(),
        &ObjectSpec::default(),
    );
    both(
        &world,
        "a",
        0,
        &ObjectSpec::default(),
        &ObjectSpec::default(),
    );
    let (counts, findings) = verified(&world, copy_all(), Deep::No).await;
    assert_eq!(
        (counts.equal, counts.looked_for_extra),
        (2, false),
        "{findings:?}"
    );
    let why = counts.why_not_extra.unwrap();
    assert!(why.contains("the destination's server lists keys"), "{why}");
    assert_eq!(world.calls(Operation::HeadObject), 4);
}

#[tokio::test]
async fn files_are_compared_with_what_was_uploaded() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["same", "changed", "missing"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    world.run(upload_all(dir.path())).await;
    fs::write(dir.path().join("changed"), "CHANGED").unwrap();
    world.sandbox.store().delete_object(DESTINATION, "missing");
    let bare = ObjectSpec::default().without_checksum();
    world.put_object(DESTINATION, "same", Content::bytes(b"same".to_vec()), &bare);
    let (counts, findings) = verified(&world, upload_all(dir.path()), Deep::No).await;
    assert_eq!(
        names(&findings),
        [("changed", "different"), ("missing", "missing")]
    );
    assert_eq!(counts.proofs, [("etag".to_owned(), 1)].into());
}

#[tokio::test]
async fn an_object_that_cannot_be_read_fails_alone() {
    let world = World::new().await;
    let parts = ObjectSpec::default().part_sizes([5 * MIB]);
    for key in ["a", "b", "c"] {
        both(&world, key, 9 * MIB, &parts, &ObjectSpec::default());
    }
    world.deny(SOURCE, Operation::HeadObject, "b");
    let fault = Fault::on(Operation::HeadObject).key("c").first(2);
    world.add_fault(fault);
    let (counts, findings) = verified(&world, copy_all(), Deep::No).await;
    assert_eq!((counts.equal, names(&findings)), (2, vec![("b", "failed")]));
}

#[tokio::test]
async fn one_object_is_a_pair_too() {
    let world = World::new().await;
    world.put("dir/one", 10);
    let mut transfer = copy_all();
    let endpoint = DEFAULT_ENDPOINT.to_owned();
    transfer.from = Source::Object {
        endpoint,
        location: uri("s3://source/dir/one"),
        version: None,
    };
    transfer.to = destination("s3://destination/other");
    let (_, findings) = verified(&world, transfer.clone(), Deep::No).await;
    assert_eq!(names(&findings), [("other", "missing")]);
    world.put_in(DESTINATION, "other", 10);
    let (counts, _) = verified(&world, transfer, Deep::No).await;
    assert_eq!(counts.equal, 1);
}

#[tokio::test]
async fn a_thousand_pages_are_walked_in_step() {
    let world = World::new().await;
    for index in 0..2500 {
        let key = format!("{index:05}");
        both(
            &world,
            &key,
            1,
            &ObjectSpec::default(),
            &ObjectSpec::default(),
        );
        if index % 50 == 0 {
            world.sandbox.store().delete_object(
                if index % 100 == 0 {
                    SOURCE
                } else {
                    DESTINATION
                },
                &key,
            );
        }
    }
    let (counts, _) = verified(&world, copy_all(), Deep::No).await;
    assert_eq!((counts.equal, counts.missing, counts.extra), (2450, 25, 25));
    assert_eq!(world.sandbox.calls().total(), 6, "only lists are sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_what_is_not_equal_and_exits_by_it() {
    let world = World::new().await;
    both(
        &world,
        "same",
        10,
        &ObjectSpec::default(),
        &ObjectSpec::default(),
    );
    let sides = [
        "verify",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let (exit, stdout, stderr) = run(at(&world), &sides).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stdout.contains("1 equal (etag 1)") && stdout.lines().count() == 1,
        "{stdout}"
    );
    world.put_in(DESTINATION, "extra", 10);
    let (exit, stdout, _) = run(at(&world), &sides).await;
    assert!(
        exit == 0 && stdout.contains("extra       s3://destination/extra"),
        "{exit} {stdout}"
    );
    let (exit, ..) = run(at(&world), &[&sides[..], &["--strict"]].concat()).await;
    assert_eq!(exit, 1, "strictly, the destination has too much");
    world.put("other", 10);
    world.put_object(
        DESTINATION,
        "other",
        Content::pattern(2, 10),
        &ObjectSpec::default(),
    );
    let (exit, stdout, _) = run(at(&world), &[&sides[..], &["--json"]].concat()).await;
    let lines: Vec<Value> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let other = lines
        .iter()
        .find(|line| line["status"] == "different")
        .unwrap();
    assert_eq!(
        (exit, &other["source"]),
        (1, &"s3://source/other".into()),
        "{stdout}"
    );
    assert!(
        other["why"].as_str().unwrap().contains("crc64nvme"),
        "{other}"
    );
    let summary = &lines.last().unwrap()["summary"];
    assert_eq!(
        (&summary["equal"], &summary["different"], &summary["extra"]),
        (&1.into(), &1.into(), &1.into())
    );
    for write in [
        Operation::CopyObject,
        Operation::PutObject,
        Operation::DeleteObject,
    ] {
        assert_eq!(world.calls(write), 0, "{write:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_reports_are_verified_too() {
    let world = World::new().await;
    world.put("a", 10);
    world.put("b", 10);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (job, report) = (file("job.yaml"), file("report.jsonl"));
    fs::write(&job, COPY_ALL).unwrap();
    let (exit, stdout, _) = run(at(&world), &["verify", &job]).await;
    assert!(exit == 1 && stdout.contains("2 missing"), "{exit} {stdout}");
    let (exit, ..) = run(at(&world), &["run", &job, "--report", &report]).await;
    assert_eq!(exit, 0);
    for what in [vec![job.as_str()], vec!["--report", report.as_str()]] {
        let (exit, stdout, stderr) =
            run(at(&world), &[&["verify"], what.as_slice()].concat()).await;
        assert!(
            exit == 0 && stdout.contains("2 equal"),
            "{exit} {stdout} {stderr}"
        );
    }
    world.put_object(
        DESTINATION,
        "b",
        Content::pattern(2, 10),
        &ObjectSpec::default(),
    );
    let (exit, stdout, _) = run(at(&world), &["verify", "--report", &report]).await;
    assert!(
        exit == 1 && stdout.contains("different   s3://source/b -> s3://destination/b"),
        "{stdout}"
    );
    let origin = fs::read_to_string(&report)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    let (torn, other) = (file("torn.jsonl"), file("other.jsonl"));
    fs::write(&torn, format!("{origin}\nno receipt\n")).unwrap();
    fs::write(&other, "{}\n").unwrap();
    for (arguments, said) in [
        (vec!["--report", torn.as_str()], "line 2 is not a receipt"),
        (
            vec!["--report", other.as_str()],
            "does not say which command wrote it",
        ),
        (
            vec!["--report", report.as_str(), "--provider", "minio"],
            "and where",
        ),
        (vec![], "give a job"),
        (vec![job.as_str(), "--include", "*"], "says itself"),
        (vec!["s3://source/", "./dir"], "must be in S3"),
    ] {
        let (exit, _, stderr) =
            run(at(&world), &[&["verify"], arguments.as_slice()].concat()).await;
        assert!(
            exit == 2 && stderr.contains(said),
            "{arguments:?}: {exit} {stderr}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_places_are_compared_with_the_customer_keys_of_either() {
    const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let world = World::new().await;
    world.put("k", 10);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), KEY).unwrap();
    let (variable, file) = ("env:LAKE_KEY", format!("file:{}", file.path().display()));
    let told = async |arguments: &[&str]| {
        let mut command = at(&world);
        command.env("LAKE_KEY", KEY);
        run(command, arguments).await
    };
    let sides = ["s3://source/", "s3://destination/"];
    let (exit, _, stderr) = told(&[
        "copy",
        sides[0],
        sides[1],
        "--provider",
        "aws",
        "--customer-key",
        variable,
    ])
    .await;
    assert_eq!(exit, 0, "{stderr}");
    let (exit, stdout, _) = told(&["verify", sides[0], sides[1], "--provider", "aws"]).await;
    assert!(exit == 1 && stdout.contains("1 failed"), "{exit} {stdout}");
    for (from, to, flag) in [(0, 1, "--customer-key"), (1, 0, "--source-customer-key")] {
        for (key, deep) in [(variable, "--deep"), (&file, "--deep=all")] {
            let arguments = [
                "verify",
                sides[from],
                sides[to],
                "--provider",
                "aws",
                flag,
                key,
                deep,
            ];
            let (exit, stdout, stderr) = told(&arguments).await;
            assert!(
                exit == 0 && stdout.contains("1 equal"),
                "{arguments:?}: {exit} {stdout} {stderr}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_is_a_choice_of_two() {
    let world = World::new().await;
    let parts = ObjectSpec::default()
        .part_sizes([5 * MIB])
        .without_checksum();
    both(&world, "k", 9 * MIB, &parts, &ObjectSpec::default());
    both(
        &world,
        "plain",
        10,
        &ObjectSpec::default(),
        &ObjectSpec::default(),
    );
    let sides = [
        "verify",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--strict",
    ];
    for (deep, exit, reads) in [
        (None, 1, 0),
        (Some("--deep"), 0, 2),
        (Some("--deep=all"), 0, 4),
    ] {
        world.sandbox.calls().clear();
        let arguments: Vec<_> = sides.iter().copied().chain(deep).collect();
        let (code, stdout, _) = run(at(&world), &arguments).await;
        assert_eq!(
            (code, world.calls(Operation::GetObject)),
            (exit, reads),
            "{deep:?} {stdout}"
        );
    }
    let proofs = [
        "copy",
        "s3://source/k",
        "s3://destination/copy",
        "--verify",
        "require-checksum",
    ];
    let (exit, _, stderr) = run(at(&world), &[&proofs[..], &["--provider", "aws"]].concat()).await;
    assert!(
        exit == 1 && stderr.contains("--prove read"),
        "{exit} {stderr}"
    );
    let read = ["--prove", "read", "--layout", "source", "--provider", "aws"];
    let (exit, stdout, stderr) = run(at(&world), &[&proofs[..], &read].concat()).await;
    assert!(
        exit == 0 && stdout.contains("proven by: read 1"),
        "{exit} {stdout} {stderr}"
    );
}

/// The destination may have what could not be read, which would look extra.
#[tokio::test]
async fn nothing_is_extra_after_a_file_that_cannot_be_read() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "c"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink("nowhere", dir.path().join("b")).unwrap();
    for name in ["a", "b", "c"] {
        let content = Content::bytes("x");
        world.put_object(DESTINATION, name, content, &ObjectSpec::default());
    }
    let mut transfer = upload_all(dir.path());
    if let Source::Files { symlinks, .. } = &mut transfer.from {
        *symlinks = Symlinks::Follow;
    }
    let (counts, findings) = verified(&world, transfer, Deep::No).await;
    assert_eq!((counts.equal, counts.extra), (2, 0), "{findings:?}");
    assert_eq!(findings.len(), 1, "{findings:?}");
}
