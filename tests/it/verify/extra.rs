//! Which objects of the destination count as extra.

use std::fs;

use s3haul::manifest::job::Transfer;
use s3haul::sandbox::{Content, ObjectSpec, Operation};
use s3haul::size::ByteSize;
use s3haul::verify::Deep;

use super::{names, verified};
use crate::world::{DESTINATION, SOURCE, World, copy_all, upload_all};

fn below_50(mut transfer: Transfer) -> Transfer {
    transfer.select.smaller_than = Some(ByteSize(50));
    transfer
}

#[tokio::test]
async fn a_copy_of_a_file_that_the_selection_leaves_out_is_not_extra() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(directory.path().join("d/large"), [1; 100]).unwrap();
    let spec = ObjectSpec::default();
    for key in ["d/gone", "d/large", "d//large", "/etc/hostname"] {
        world.put_object(DESTINATION, key, Content::pattern(1, 100), &spec);
    }
    let transfer = below_50(upload_all(directory.path()));
    let (counts, findings) = verified(&world, transfer, Deep::No).await;
    assert_eq!(
        names(&findings),
        [("hostname", "extra"), ("large", "extra"), ("gone", "extra"),],
        "{findings:?}"
    );
    assert!(counts.looked_for_extra);
}

/// The transfer copies neither links nor its own report, whatever their sizes are.
#[tokio::test]
async fn a_skipped_link_and_the_report_of_the_run_hide_no_extra_object() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    for name in ["file", "report"] {
        fs::write(directory.path().join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink("file", directory.path().join("link")).unwrap();
    for key in ["file", "link", "report"] {
        world.put_object(
            DESTINATION,
            key,
            Content::bytes("x"),
            &ObjectSpec::default(),
        );
    }
    let mut transfer = upload_all(directory.path());
    transfer.own_files = vec![directory.path().join("report")];
    for transfer in [transfer.clone(), below_50(transfer)] {
        let (counts, findings) = verified(&world, transfer, Deep::No).await;
        assert_eq!((counts.equal, counts.extra), (1, 2), "{findings:?}");
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_listed_hides_what_is_extra() {
    let world = World::new().await;
    world.put("k", 10);
    world.deny(SOURCE, Operation::ListObjectsV2, "");
    world.put_object(
        DESTINATION,
        "gone",
        Content::pattern(1, 10),
        &ObjectSpec::default(),
    );
    let (counts, findings) = verified(&world, copy_all(), Deep::No).await;
    assert_eq!(counts.failed, 1, "{findings:?}");
    assert!(!counts.looked_for_extra && counts.why_not_extra.is_some());
    assert_eq!(counts.extra, 0);
}

#[tokio::test]
async fn an_object_that_cannot_be_planned_ends_the_search_for_extra_objects() {
    let world = World::new().await;
    let spec = ObjectSpec::default();
    for key in ["c", &"m".repeat(1023)] {
        world.put_object(SOURCE, key, Content::pattern(1, 10), &spec);
    }
    for key in ["to/a", "to/b", "to/c"] {
        world.put_object(DESTINATION, key, Content::pattern(1, 10), &spec);
    }
    let mut transfer = copy_all();
    transfer.to.location = "s3://destination/to/".parse().unwrap();
    let (counts, findings) = verified(&world, transfer, Deep::No).await;
    let found = (counts.equal, counts.extra, counts.failed);
    assert_eq!(found, (1, 2, 1), "{findings:?}");
    assert_eq!(
        counts.missed_extra().unwrap(),
        "not all extra objects were looked for: an object of the source could not be planned"
    );
}
