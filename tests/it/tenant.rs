//! Ceph's `tenant:bucket`: read, written, and reported like any other bucket on servers with
//! tenants, and refused with the reason on others.

use std::fs;

use s3haul::manifest::job::{Provider, Source, Transfer, When};
use s3haul::sandbox::{Content, ObjectSpec, Operation};
use s3haul::size::MIB;

use crate::world::program::{at, run as run_command};
use crate::world::{World, copy_all, destination, uri};

/// Starts a sandbox as a Ceph with the bucket `lake` of two tenants.
async fn ceph() -> World {
    let world = World::of_provider(Provider::Ceph).await;
    for bucket in ["acme:lake", "globex:lake"] {
        world.create_bucket(bucket);
    }
    let spec = ObjectSpec::default()
        .metadata("team", "blue")
        .tag("tier", "gold");
    for (key, size) in [("a:b c", 10), ("large", 300 * MIB)] {
        world.put_object("acme:lake", key, Content::pattern(1, size), &spec);
    }
    world
}

fn between_tenants() -> Transfer {
    let from = Source::Prefix {
        endpoint: "default".into(),
        location: uri("s3://acme:lake/"),
    };
    Transfer {
        from,
        to: destination("s3://globex:lake/x/"),
        ..copy_all()
    }
}

#[tokio::test]
async fn a_bucket_of_a_tenant_is_copied_by_both_routes() {
    let world = ceph().await;
    let run = world.run(between_tenants()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.failed_objects),
        (2, 0),
        "{:?}",
        run.receipts
    );
    assert!(world.calls(Operation::CopyObject) > 0 && world.calls(Operation::UploadPartCopy) > 0);
    for key in ["a:b c", "large"] {
        let source = world.object("acme:lake", key).unwrap();
        let copy = world.object("globex:lake", &format!("x/{key}")).unwrap();
        assert_eq!(copy.content, source.content);
        assert_eq!(
            (&copy.attributes.metadata, &copy.attributes.tags),
            (&source.attributes.metadata, &source.attributes.tags)
        );
    }
    assert_eq!(
        run.receipts
            .iter()
            .filter(|receipt| receipt.source.starts_with("s3://acme:lake/"))
            .count(),
        2
    );
    let missing = Transfer {
        when: When::Missing,
        ..between_tenants()
    };
    let again = world.run(missing).await;
    assert_eq!(
        (again.outcome.done_objects, again.outcome.skipped_objects),
        (0, 2),
        "{:?}",
        again.receipts
    );
    // The same key of two tenants is not the same object.
    assert!(world.object("acme:lake", "x/large").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_copies_verifies_and_reports_it() {
    let world = ceph().await;
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.jsonl");
    let (from, to) = ("s3://acme:lake/", "s3://globex:lake/");
    let ceph = ["--provider", "ceph", "--endpoint-url", world.sandbox.url()];
    let with = |arguments: &[&'static str]| -> Vec<String> {
        arguments
            .iter()
            .chain(&ceph)
            .map(|text| (*text).to_owned())
            .collect()
    };
    let world = &world;
    let run = |arguments: Vec<String>| async move {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run_command(at(world), &arguments).await
    };
    let mut copy = with(&["copy", from, to]);
    copy.extend(["--report".to_owned(), report.display().to_string()]);
    let (exit, stdout, stderr) = run(copy).await;
    assert!(
        exit == 0 && stdout.contains("2 objects copied"),
        "{exit} {stdout} {stderr}"
    );
    assert!(
        fs::read_to_string(&report)
            .unwrap()
            .contains("s3://globex:lake/large")
    );
    let (exit, stdout, stderr) = run(with(&["verify", from, to])).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    let (exit, _, stderr) = run(with(&["uploads", "list", to])).await;
    assert_eq!(exit, 0, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tenants_refuses_it_with_the_reason() {
    let world = World::new().await;
    let url = world.sandbox.url();
    for (arguments, remedy) in [
        (
            vec![
                "copy",
                "s3://acme:lake/",
                "s3://destination/",
                "--endpoint-url",
                url,
                "--provider",
                "other",
            ],
            "provider ceph",
        ),
        (
            vec![
                "copy",
                "s3://source/",
                "s3://acme:lake/",
                "--endpoint-url",
                url,
                "--provider",
                "minio",
            ],
            "provider ceph",
        ),
        (
            vec![
                "uploads",
                "list",
                "s3://acme:lake/",
                "--endpoint-url",
                url,
                "--provider",
                "minio",
            ],
            "provider ceph",
        ),
    ] {
        let (exit, _, stderr) = run_command(at(&world), &arguments).await;
        assert!(
            exit != 0 && stderr.contains("the tenant `acme`, and only Ceph has tenants"),
            "{exit} {stderr}"
        );
        assert!(
            stderr.replace("provider: ", "provider ").contains(remedy),
            "{stderr}"
        );
    }
    let text = "version: 1\ntransfers: [{from: {s3: s3://acme:lake/}, to: {s3: s3://dst/}}]\n";
    let mistakes = s3haul::manifest::job::Job::parse(
        text,
        "job.yaml",
        &s3haul::endpoint::Environment::default(),
    )
    .unwrap_err()
    .to_string();
    assert!(
        mistakes.contains("only Ceph has tenants") && mistakes.contains("without a colon"),
        "{mistakes}"
    );
    assert_eq!(world.calls(Operation::CopyObject), 0);
}
