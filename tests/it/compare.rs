//! How a run finds changes: by sizes, `ETag`s, checksums, times, and the attributes that a job
//! sets.

use std::fs;
use std::time::{Duration, SystemTime};

use s3haul::execute::receipt::Ending;
use s3haul::location::LocalPath;
use s3haul::manifest::job::{Compare, Encryption, Provider, Source, Symlinks, Transfer};
use s3haul::plan::decide::{Basis, Reason, SetAttributes, Skip};
use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use s3haul::verify::Deep;
use tempfile::TempDir;

use crate::liar::{Answer, Asked, Liar};
use crate::world::program::{at, run};
use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

fn hours_ago(hours: u64) -> SystemTime {
    SystemTime::now() - Duration::from_hours(hours)
}

fn dated(hours: u64) -> ObjectSpec {
    ObjectSpec::default().last_modified(hours_ago(hours))
}

/// Puts objects of the same size with different bytes on both sides. The destination's is newer.
fn overwritten(world: &World, key: &str, spec: &ObjectSpec) {
    world.put_with(key, 20, &dated(48));
    world.put_object(DESTINATION, key, Content::pattern(2, 20), spec);
}

fn by(compare: Compare) -> Transfer {
    Transfer {
        compare,
        ..copy_all()
    }
}

#[tokio::test]
async fn other_bytes_of_the_same_size_are_copied_although_the_destination_is_newer() {
    let world = World::new().await;
    overwritten(&world, "k", &dated(1));
    world.put_object(SOURCE, "same", Content::pattern(3, 20), &dated(48));
    world.put_object(DESTINATION, "same", Content::pattern(3, 20), &dated(1));
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (1, 1),
        "{:?}",
        run.receipts
    );
    world.assert_equal("k", "k");
    // If the ETags of a pair differ, s3haul sends a HEAD to each side, and the copy another one. An
    // equal pair needs none.
    assert_eq!(world.calls(Operation::HeadObject), 3);
    // S3 has computed a checksum of each object, which decides.
    assert_eq!(run.outcome.reasons, [(Reason::ChecksumDiffers, 1)].into());
    assert_eq!(run.outcome.unchanged.by, [(Basis::Etag, 1)].into());
    let heads = world.calls(Operation::HeadObject);
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, world.calls(Operation::HeadObject)),
        (0, heads),
        "nothing is asked"
    );
}

#[tokio::test]
async fn etags_that_a_key_hides_are_no_difference_and_are_asked_for_a_hundred_times() {
    let world = World::new().await;
    let kms = s3haul::sandbox::Encryption::kms("key");
    for number in 0..300 {
        let key = format!("k{number:03}");
        let spec = dated(1).encryption(kms.clone()).without_checksum();
        let source = dated(48).without_checksum();
        world.put_with(&key, 20, &source);
        world.put_object(DESTINATION, &key, Content::pattern(1, 20), &spec);
    }
    let run = world.run(copy_all()).await;
    assert_eq!(
        (run.outcome.done_objects, run.outcome.skipped_objects),
        (0, 300),
        "{:?}",
        run.outcome
    );
    assert_eq!(run.outcome.unchanged.by, [(Basis::Time, 300)].into());
    // HEADs that were in flight when the hundredth answer came are sent too.
    let heads = world.calls(Operation::HeadObject);
    assert!((200..=2 * (100 + 2 * 64)).contains(&heads), "{heads}");
    let run = world.run(by(Compare::Checksum)).await;
    assert_eq!(
        run.outcome.done_objects, 0,
        "nothing can be compared, and the destination is newer"
    );
}

#[tokio::test]
async fn each_mode_compares_what_it_says() {
    for (compare, done, heads) in [
        (Compare::Auto, true, 2),
        (Compare::Size, false, 0),
        (Compare::Etag, true, 0),
        (Compare::Checksum, true, 2),
        (Compare::Time, false, 0),
    ] {
        let world = World::new().await;
        overwritten(&world, "k", &dated(1));
        let run = world.run(by(compare)).await;
        assert_eq!(
            run.outcome.done_objects == 1,
            done,
            "{compare}: {:?}",
            run.receipts
        );
        // One HEAD is for the copy itself.
        assert_eq!(
            world.calls(Operation::HeadObject),
            heads + u64::from(done),
            "{compare}"
        );
        if let Ending::Skipped { reason } = &run.receipts[0].ending {
            let basis = if compare == Compare::Size {
                Basis::Size
            } else {
                Basis::Time
            };
            assert_eq!(*reason, Skip::equal(basis), "{compare}");
            let json = serde_json::to_value(&run.receipts[0]).unwrap();
            let basis = compare.to_string();
            assert_eq!(
                (&json["status"], &json["reason"]),
                (&"skipped".into(), &"equal".into())
            );
            assert_eq!(json["equal_by"], basis);
        }
        let again = world.run(by(compare)).await;
        assert_eq!(again.outcome.done_objects, 0, "{compare} comes to an end");
    }
    // Equal bytes and a newer source: only times differ.
    for (compare, done) in [
        (Compare::Auto, 0),
        (Compare::Time, 1),
        (Compare::Checksum, 0),
    ] {
        let world = World::new().await;
        world.put_with("k", 20, &dated(1));
        world.put_object(DESTINATION, "k", Content::pattern(1, 20), &dated(48));
        assert_eq!(
            world.run(by(compare)).await.outcome.done_objects,
            done,
            "{compare}"
        );
    }
}

#[tokio::test]
async fn a_copy_in_the_second_of_its_source_says_so() {
    let world = World::new().await;
    let at = hours_ago(1);
    for (bucket, seed) in [(SOURCE, 1), (DESTINATION, 2)] {
        let spec = ObjectSpec::default().last_modified(at);
        world.put_object(bucket, "k", Content::pattern(seed, 20), &spec);
    }
    let run = world.run(copy_all()).await;
    assert_eq!(run.receipts[0].copy_reason, Some(Reason::SameSecond));
    assert_eq!(
        serde_json::to_value(&run.receipts[0]).unwrap()["copy_reason"],
        "same-second"
    );
    let summary = s3haul::report::summary(&run.outcome);
    assert!(
        summary.contains("copied because: 1 modified in the same second"),
        "{summary}"
    );
}

/// Makes a directory with one file of 20 bytes that was modified this many hours ago.
fn directory(name: &str, bytes: &[u8], hours: u64) -> (TempDir, Transfer) {
    let dir = TempDir::new().unwrap();
    touch(&dir, name, bytes, hours);
    let path = LocalPath(dir.path().to_owned());
    let transfer = Transfer {
        from: Source::Files {
            path,
            symlinks: Symlinks::Skip,
        },
        ..copy_all()
    };
    (dir, transfer)
}

fn touch(dir: &TempDir, name: &str, bytes: &[u8], hours: u64) {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(hours_ago(hours))
        .unwrap();
}

#[tokio::test]
async fn files_with_equal_bytes_and_a_new_time_are_hashed_and_not_sent_again() {
    for (compare, basis) in [
        (Compare::Checksum, Basis::Checksum),
        (Compare::Etag, Basis::Etag),
    ] {
        let world = World::new().await;
        let (dir, transfer) = directory("f", b"twenty bytes of text", 48);
        assert_eq!(world.run(transfer.clone()).await.outcome.done_objects, 1);
        // As after a fresh checkout: the same bytes, with a time after the upload.
        let tomorrow = SystemTime::now() + Duration::from_hours(24);
        fs::File::options()
            .write(true)
            .open(dir.path().join("f"))
            .unwrap()
            .set_modified(tomorrow)
            .unwrap();
        let hashing = Transfer {
            compare,
            ..transfer.clone()
        };
        let run = world.run(hashing.clone()).await;
        assert_eq!(
            run.outcome.unchanged.by,
            [(basis, 1)].into(),
            "{:?}",
            run.receipts
        );
        assert_eq!(world.calls(Operation::PutObject), 1);
        assert_eq!(world.calls(Operation::HeadObject), 1);
        // As after a restore from a backup: other bytes of the same size, with an old time.
        touch(&dir, "f", b"twenty bytes of TEXT", 96);
        let left = world.run(transfer).await;
        assert_eq!(
            left.outcome.unchanged.by,
            [(Basis::Time, 1)].into(),
            "auto does not hash"
        );
        let summary = s3haul::report::summary(&left.outcome);
        assert!(
            summary.contains("unchanged: 1 by size and time only"),
            "{summary}"
        );
        assert_eq!(world.run(hashing).await.outcome.done_objects, 1);
        let there = world.object(DESTINATION, "f").unwrap();
        assert_eq!(
            there.content,
            Content::bytes(b"twenty bytes of TEXT".to_vec())
        );
    }
}

#[tokio::test]
async fn a_storage_class_that_lists_show_is_compared() {
    let world = World::new().await;
    for key in ["a", "b"] {
        world.put_with(key, 20, &dated(48));
        world.put_object(DESTINATION, key, Content::pattern(1, 20), &dated(1));
    }
    // A lifecycle rule has moved this one.
    let cold = dated(1).storage_class("GLACIER");
    world.put_object(DESTINATION, "b", Content::pattern(1, 20), &cold);
    let mut transfer = copy_all();
    transfer.to.storage_class = Some("STANDARD_IA".to_owned());
    let run = world.run(transfer.clone()).await;
    assert_eq!(
        run.outcome.reasons,
        [(Reason::AttributesDiffer, 1)].into(),
        "{:?}",
        run.receipts
    );
    assert_eq!(run.outcome.unchanged.other_storage_class, 1);
    let class = |key| {
        world
            .object(DESTINATION, key)
            .unwrap()
            .attributes
            .class()
            .to_owned()
    };
    assert_eq!(
        (class("a").as_str(), class("b").as_str()),
        ("STANDARD_IA", "GLACIER")
    );
    let summary = s3haul::report::summary(&run.outcome);
    assert!(
        summary.contains("1 unchanged object has another storage class"),
        "{summary}"
    );
    let heads = world.calls(Operation::HeadObject);
    assert_eq!(world.run(transfer).await.outcome.done_objects, 0);
    assert_eq!(world.calls(Operation::HeadObject), heads, "lists show it");
}

#[tokio::test]
async fn attributes_that_no_list_shows_are_counted_and_compared_on_demand() {
    let world = World::new().await;
    world.put_with("k", 20, &dated(48));
    assert_eq!(world.run(copy_all()).await.outcome.done_objects, 1);
    let set = |change: fn(&mut Transfer)| {
        let mut transfer = copy_all();
        change(&mut transfer);
        transfer
    };
    for change in [
        (|transfer| transfer.set.cache_control = Some("max-age=60".to_owned()))
            as fn(&mut Transfer),
        |transfer| transfer.set.metadata = [("team".to_owned(), "blue".to_owned())].into(),
        |transfer| transfer.set.tags = [("stage".to_owned(), "raw".to_owned())].into(),
        |transfer| {
            let key = Some("arn:aws:kms:us-east-1:111122223333:key/1".to_owned());
            transfer.to.encryption = Some(Encryption::Kms {
                key,
                bucket_key: None,
                dsse: false,
            });
        },
    ] {
        let transfer = set(change);
        let heads = world.calls(Operation::HeadObject);
        let run = world.run(transfer.clone()).await;
        assert_eq!(
            (
                run.outcome.done_objects,
                run.outcome.unchanged.attributes_not_checked
            ),
            (0, 1)
        );
        assert_eq!(world.calls(Operation::HeadObject), heads);
        let unchecked = SetAttributes::NotChecked;
        let skip = Skip::Equal {
            equal_by: Basis::Etag,
            set_attributes: unchecked,
        };
        assert_eq!(run.receipts[0].ending, Ending::Skipped { reason: skip });
        let summary = s3haul::report::summary(&run.outcome);
        assert!(
            summary.contains("1 unchanged object was not checked for the headers"),
            "{summary}"
        );
        let checking = Transfer {
            compare_attributes: true,
            ..transfer
        };
        let run = world.run(checking.clone()).await;
        assert_eq!(
            run.outcome.reasons,
            [(Reason::AttributesDiffer, 1)].into(),
            "{:?}",
            run.receipts
        );
        let run = world.run(checking).await;
        assert_eq!(run.outcome.unchanged.attributes_not_checked, 0);
        assert_eq!(run.outcome.done_objects, 0, "{:?}", run.receipts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_command_that_mends_and_the_command_mends() {
    let world = World::new().await;
    overwritten(&world, "k", &dated(1));
    let sides = [
        "verify",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let (exit, stdout, _) = run(at(&world), &sides).await;
    let command = "s3haul copy --compare checksum s3://source/ s3://destination/";
    assert!(exit == 1 && stdout.contains(command), "{stdout}");
    let words = [
        "copy",
        "--compare",
        "checksum",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
    ];
    let (exit, stdout, stderr) = run(at(&world), &words).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(
        stdout.contains("copied because: 1 checksum differs"),
        "{stdout}"
    );
    let (exit, stdout, _) = run(at(&world), &sides).await;
    assert!(exit == 0 && !stdout.contains("to copy"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_by_what_objects_are_unchanged() {
    let world = World::new().await;
    world.put_with("k", 20, &dated(48));
    world.put_object(DESTINATION, "k", Content::pattern(2, 20), &dated(1));
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--provider",
        "aws",
        "--dry-run",
    ];
    let flags = ["--compare", "size", "--cache-control", "no-store"];
    let (exit, stdout, stderr) = run(at(&world), &[&copy[..], &flags].concat()).await;
    assert_eq!(exit, 0, "{stderr}");
    assert!(stdout.contains("unchanged: 1 by size only"), "{stdout}");
    assert!(
        stdout.contains("1 unchanged object was not checked"),
        "{stdout}"
    );
    let (_, stdout, _) = run(at(&world), &[&copy[..], &flags, &["--json"]].concat()).await;
    assert!(
        stdout.contains(r#""unchanged":{"attributes_not_checked":1,"by":{"size":1}}"#),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_compares_nothing_is_refused() {
    let world = World::new().await;
    let copy = ["copy", "s3://source/", "s3://destination/"];
    for (flags, said) in [
        (
            &["--when", "always", "--compare", "size"][..],
            "--when always compares no objects",
        ),
        (
            &["--when", "missing", "--compare-attributes"],
            "--when missing compares no objects",
        ),
        (
            &["--compare-attributes"],
            "sets no attributes that could be compared",
        ),
        (
            &["--compare", "time", "--as-of", "2026-01-01T00:00:00Z"],
            "modification times say nothing",
        ),
        (&["--compare", "bytes"], "checksum"),
    ] {
        let (exit, _, stderr) = run(at(&world), &[&copy[..], flags].concat()).await;
        assert!(
            exit == 2 && stderr.contains(said),
            "{flags:?}: {exit} {stderr}"
        );
    }
    let manifest = |transfer: &str, defaults: &str| {
        let text = format!(
            "version: 1\ndefaults: {defaults}\ntransfers:\n  - {{from: {{s3: s3://source/}}, to: {{s3: s3://destination/}}{transfer}}}\n"
        );
        s3haul::manifest::job::Job::parse(
            &text,
            "job.yaml",
            &s3haul::endpoint::Environment::default(),
        )
    };
    for (transfer, said) in [
        (", when: always, compare: size", "copies all of them"),
        (", when: missing, compare: etag", "every key that exists"),
        (", compare_attributes: true", "sets no attributes"),
    ] {
        let mistakes = manifest(transfer, "{}").unwrap_err().to_string();
        assert!(mistakes.contains(said), "{transfer}: {mistakes}");
    }
    // A default applies to transfers for which it has a meaning.
    let defaults = "{compare: checksum, compare_attributes: true}";
    let compares = |transfer| {
        let job = manifest(transfer, defaults).unwrap();
        (
            job.transfers[0].compare,
            job.transfers[0].compare_attributes,
        )
    };
    assert_eq!(compares(""), (Compare::Checksum, false));
    assert_eq!(compares(", when: always"), (Compare::Auto, false));
    assert_eq!(
        compares(", compare: size, set: {cache_control: no-store}"),
        (Compare::Size, true)
    );
}

/// A server that adds a charset and writes lists without blanks.
#[tokio::test]
async fn attributes_that_a_server_writes_differently_are_copied_once() {
    let world = World::new().await;
    world.put_with("k", 20, &dated(48));
    let liar = Liar::before(&world, |asked: &Asked, answer: Answer| {
        if asked.method == "HEAD" && asked.path.starts_with("/destination/k") {
            answer
                .with("content-type: text/html;charset=utf-8")
                .with("cache-control: no-cache,no-store")
        } else {
            answer
        }
    })
    .await;
    let mut transfer = copy_all();
    transfer.compare_attributes = true;
    transfer.set.content_type = Some("text/html".to_owned());
    transfer.set.cache_control = Some("no-cache, no-store".to_owned());
    for done in [1, 0] {
        let run = liar.run(&world, transfer.clone(), Provider::Other).await;
        assert_eq!(run.outcome.done_objects, done, "{:?}", run.receipts);
    }
}

/// The object is replaced between the list and HEAD. Its time would call it a newer copy.
#[tokio::test]
async fn an_object_of_another_size_than_the_file_is_no_copy_of_it() {
    let world = World::new().await;
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("k"), [1; 20]).unwrap();
    let spec = || {
        let kms = s3haul::sandbox::Encryption::kms("key");
        dated(0).encryption(kms).without_checksum()
    };
    let store = world.sandbox.store().clone();
    store.put_object(DESTINATION, "k", Content::pattern(1, 20), &spec());
    let replace = Effect::hook(move |_| {
        store.put_object(DESTINATION, "k", Content::pattern(1, 30), &spec());
    });
    world.add_fault(Fault::on(Operation::HeadObject).nth(1).then(replace));
    let transfer = Transfer {
        compare: Compare::Checksum,
        ..upload_all(directory.path())
    };
    let run = world.run(transfer).await;
    assert_eq!(
        run.outcome.reasons,
        [(Reason::SizeDiffers, 1)].into(),
        "{:?}",
        run.receipts
    );
}

/// CRC32 is linear: a multiple of its polynomial does not change the checksum.
#[tokio::test]
async fn equal_crc32_sums_do_not_outweigh_different_md5s_of_a_file() {
    use s3haul::sandbox::{Algorithm, ChecksumKind};
    let bytes = *b"twenty bytes of text";
    let mut other = bytes;
    for (byte, flip) in other.iter_mut().zip([0x41, 0x06, 0x71, 0xdb, 0x01]) {
        *byte ^= flip;
    }
    for (there, reasons) in [(bytes, 0), (other, 1)] {
        let world = World::new().await;
        let (_dir, transfer) = directory("f", &bytes, 48);
        let spec = dated(1).checksum(Algorithm::Crc32, ChecksumKind::FullObject);
        let content = Content::bytes(there.to_vec());
        world.put_object(DESTINATION, "f", content, &spec);
        let transfer = Transfer {
            compare: Compare::Checksum,
            ..transfer
        };
        let (counts, _) = crate::verify::verified(&world, transfer.clone(), Deep::No).await;
        assert_eq!(counts.different, reasons);
        let run = world.run(transfer).await;
        assert_eq!(run.outcome.done_objects, reasons, "{:?}", run.receipts);
    }
}
