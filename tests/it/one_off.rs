//! The journals of one-off copies: they resume copies, and do not accumulate.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use s3haul::sandbox::{Effect, Fault, Operation};

use crate::world::World;
use crate::world::program::{process_at, run_in};

fn journals(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory.join(".s3haul"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut journals: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    journals.sort();
    journals
}

/// Makes a journal look eight days old.
fn age(journal: &Path) {
    let then = SystemTime::now() - Duration::from_hours(8 * 24);
    let entries: Vec<_> = fs::read_dir(journal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for path in entries.iter().chain([&journal.to_owned()]) {
        File::open(path).unwrap().set_modified(then).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_of_copies_that_ended_a_week_ago_are_removed() {
    let world = World::new().await;
    world.put("k", 10);
    let dir = tempfile::tempdir().unwrap();
    let copy = async |to: &str| run_in(&world, dir.path(), &["copy", "s3://source/", to]).await;
    assert_eq!(copy("s3://destination/old/").await.0, 0);
    assert_eq!(
        fs::read_to_string(dir.path().join(".s3haul/.gitignore")).unwrap(),
        "*\n"
    );
    let (_, stdout, _) = run_in(&world, dir.path(), &["status"]).await;
    let at = world.sandbox.url();
    let said = format!("\n  s3://source/ at {at} -> s3://destination/old/ at {at}\n");
    assert!(stdout.contains(&said), "{stdout}");
    let old = journals(dir.path());
    assert_eq!(old.len(), 1);

    // A job and a killed copy keep their journals.
    let job = "version: 1\nname: copy-lake\ntransfers: [{from: {s3: s3://source/}, to: {s3: s3://destination/job/}}]\n";
    fs::write(dir.path().join("job.yaml"), job).unwrap();
    assert_eq!(run_in(&world, dir.path(), &["run", "job.yaml"]).await.0, 0);
    world.add_fault(Fault::on(Operation::CopyObject).then(Effect::StallBefore(None)));
    let copied = world.calls(Operation::CopyObject);
    let mut program = process_at(&world);
    program
        .current_dir(dir.path())
        .args(["copy", "s3://source/", "s3://destination/killed/"]);
    let mut killed = program
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while world.calls(Operation::CopyObject) == copied {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    world.sandbox.faults().clear();
    let kept: Vec<_> = journals(dir.path())
        .into_iter()
        .filter(|journal| !old.contains(journal))
        .collect();
    assert_eq!(kept.len(), 2);
    for journal in journals(dir.path()) {
        age(&journal);
    }

    assert_eq!(copy("s3://destination/new/").await.0, 0);
    let left = journals(dir.path());
    assert!(
        !left.contains(&old[0]) && kept.iter().all(|journal| left.contains(journal)),
        "{left:?}"
    );
    assert_eq!(left.len(), 3, "{left:?}");
    // Young journals stay, whatever the number of copies.
    assert_eq!(copy("s3://destination/newer/").await.0, 0);
    assert_eq!(journals(dir.path()).len(), 4);
}
