//! What an operator sees: JSON lines on standard error, and the cause of an end in the file that
//! Kubernetes reads.

mod edited;
mod termination;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use s3haul::sandbox::{Content, Effect, Fault, ObjectSpec, Operation};
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::signals::send;
use crate::world::program::{COPY_ALL, at, command, process_at, run, until};
use crate::world::{DESTINATION, SOURCE, World};

/// Makes a directory with this job.
pub(super) fn directory_with(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("lake.yaml"), text).unwrap();
    directory
}

/// Parses the lines of a log. Each must be an object with the fields that all lines have.
pub(super) fn lines(stderr: &str) -> Vec<Value> {
    let lines = stderr.lines().map(|line| {
        let value: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{error}: {line}\nin {stderr}"));
        let text = |name: &str| {
            value[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {line}"))
        };
        assert!(text("time").parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&text("level")), "{line}");
        assert!(
            !text("message").is_empty() && !text("event").is_empty(),
            "{line}"
        );
        value
    });
    lines.collect()
}

pub(super) fn events(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["event"].as_str().unwrap())
        .collect()
}

/// Returns the only line with this event.
pub(super) fn only<'a>(lines: &'a [Value], event: &str) -> &'a Value {
    let found: Vec<_> = lines.iter().filter(|line| line["event"] == event).collect();
    assert_eq!(found.len(), 1, "{event} in {lines:#?}");
    found[0]
}

/// A pod's log is lost with the pod or its Job. The name of the report is the only link from the
/// log to the receipts.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_a_report_in_s3() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let directory = directory_with(&format!(
        "{COPY_ALL}report: {{s3: s3://destination/reports/}}\n"
    ));
    let mut program = at(&world);
    program.current_dir(directory.path());
    let (exit, _, stderr) = run(program, &["run", "lake.yaml", "--log-format", "json"]).await;
    assert_eq!(exit, 0, "{stderr}");
    let lines = lines(&stderr);
    assert_eq!(only(&lines, "start")["report"], "s3://destination/reports/");
    let summary = only(&lines, "summary");
    let (name, run) = (summary["report"].as_str(), summary["run"].as_str());
    let (name, run) = (name.unwrap(), run.unwrap());
    assert!(
        name.starts_with("s3://destination/reports/report-") && name.contains(run),
        "{name}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_run_says_what_runs_and_what_it_came_to() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let directory = directory_with(COPY_ALL);
    let mut program = at(&world);
    program
        .current_dir(directory.path())
        .env("POD_NAME", "lake-1-x7")
        .env("CLICOLOR_FORCE", "1");
    let arguments = [
        "run",
        "lake.yaml",
        "--log-format",
        "json",
        "--report",
        "r.jsonl",
    ];
    let (exit, stdout, stderr) = run(program, &arguments).await;
    assert_eq!((exit, stdout.as_str()), (0, ""), "{stderr}");
    let lines = lines(&stderr);
    assert_eq!(
        events(&lines),
        ["start", "connected", "summary"],
        "{stderr}"
    );
    let start = &lines[0];
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(start["endpoints"]["default"]["url"], world.sandbox.url());
    assert_eq!(
        (&start["journal"], &start["report"]),
        (&"none".into(), &"r.jsonl".into())
    );
    assert!(start["limits"].is_object(), "{start}");
    let identity = lines[1]["identities"]["default"].as_str().unwrap();
    assert!(identity.contains("AWS_ACCESS_KEY_ID"), "{identity}");
    let summary = only(&lines, "summary");
    assert_eq!(
        (
            &summary["exit"],
            &summary["done_objects"],
            &summary["level"]
        ),
        (&0.into(), &3.into(), &"INFO".into())
    );
    let message = summary["message"].as_str().unwrap();
    assert!(message.contains("3 objects copied and proven"), "{message}");
    let report = fs::read_to_string(directory.path().join("r.jsonl")).unwrap();
    let header: Value = serde_json::from_str(report.lines().next().unwrap()).unwrap();
    for line in &lines {
        assert_eq!(
            (&line["job"], &line["pod"], &line["run"]),
            (&"lake".into(), &"lake-1-x7".into(), &header["run"])
        );
    }
}

/// The variable sets the log format like the flag, and `--json` still prints results.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_object_is_an_event_with_its_cause() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let denied = Fault::on(Operation::CopyObject).key("b");
    world.add_fault(denied.then(Effect::Error(403, "AccessDenied")));
    let mut program = at(&world);
    program.env("S3HAUL_LOG_FORMAT", "json");
    let copy = ["copy", "s3://source/", "s3://destination/", "--json"];
    let (exit, stdout, stderr) = run(program, &copy).await;
    assert_eq!(exit, 1, "{stderr}");
    assert_eq!(
        stdout.lines().count(),
        4,
        "three receipts and the summary: {stdout}"
    );
    let lines = lines(&stderr);
    let failed = only(&lines, "object_failed");
    assert_eq!(failed["source"], "s3://source/b");
    assert_eq!(
        (&failed["operation"], &failed["code"], &failed["level"]),
        (
            &"CopyObject".into(),
            &"AccessDenied".into(),
            &"ERROR".into()
        )
    );
    let summary = only(&lines, "summary");
    assert_eq!(
        (&summary["exit"], &summary["failed_objects"]),
        (&1.into(), &1.into())
    );
    assert_eq!(summary["failures"][0]["code"], "AccessDenied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usage_error_is_an_event_also_before_the_flags_are_known() {
    for arguments in [
        &["run", "--log-format", "json", "--no-such-flag", "job.yaml"][..],
        &["run", "--log-format=json"],
        &["--log-format", "json"],
        &["--log-format", "json", "sync"],
        &["--log-format", "json", "copy", "s3://a/", "nowhere"],
        &["--log-format", "json", "run", "not-there.yaml"],
    ] {
        let (exit, stdout, stderr) = run(command(), arguments).await;
        assert_eq!((exit, stdout.as_str()), (2, ""), "{arguments:?}: {stderr}");
        let lines = lines(&stderr);
        let error = only(&lines, "error");
        assert_eq!(
            (&error["exit"], lines.len()),
            (&2.into(), 1),
            "{arguments:?}: {stderr}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(!message.starts_with("error"), "{message}");
    }
    let mut program = command();
    program.env("S3HAUL_LOG_FORMAT", "json");
    let (exit, _, stderr) = run(program, &["run", "--no-such-flag"]).await;
    let lines = lines(&stderr);
    let message = only(&lines, "error")["message"].as_str().unwrap();
    assert!(
        exit == 2 && message.contains("'--no-such-flag'"),
        "{message}"
    );
    let (exit, stdout, stderr) = run(command(), &["--log-format", "json", "--help"]).await;
    assert!(
        exit == 0 && stdout.contains("Usage:") && stderr.is_empty(),
        "{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_of_a_manifest_is_an_event_with_its_place() {
    let directory =
        directory_with("version: 2\ntransfers:\n  - {form: {s3: s3://a/}, to: {s3: s3://b/}}\n");
    let mut program = command();
    program.current_dir(directory.path());
    let (exit, _, stderr) = run(program, &["run", "lake.yaml", "--log-format", "json"]).await;
    let lines = lines(&stderr);
    assert!(exit == 2 && lines.len() >= 2, "{stderr}");
    assert_eq!(
        (&lines[0]["line"], &lines[0]["field"]),
        (&1.into(), &"version".into())
    );
    for line in &lines {
        assert_eq!(
            (&line["event"], &line["exit"], &line["file"]),
            (&"error".into(), &2.into(), &"lake.yaml".into())
        );
        assert!(line["column"].is_u64(), "{line}");
    }
    let fields: Vec<_> = lines
        .iter()
        .map(|line| line["field"].as_str().unwrap())
        .collect();
    assert!(fields.contains(&"transfers[0].form"), "{fields:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_logged_with_its_signal_and_what_is_pending() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::CopyObject).then(Effect::StallBefore(None)));
    let directory = tempfile::tempdir().unwrap();
    let child = process_at(&world)
        .args([
            "copy",
            "s3://source/",
            "s3://destination/",
            "--log-format",
            "json",
        ])
        .args(["--drain", "1s"])
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the first fault", || faults.fired() > 0).await;
    send("TERM", &child);
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    let lines = lines(&stderr);
    let stopping = only(&lines, "stopping");
    assert_eq!(
        (&stopping["signal"], &stopping["within_seconds"]),
        (&"SIGTERM".into(), &1.0.into())
    );
    let error = only(&lines, "error");
    let message = error["message"].as_str().unwrap();
    assert!(
        error["exit"] == 4 && message.starts_with("interrupted; "),
        "{stderr}"
    );
}

/// Forwards connections at an address to the sandbox, from now on.
async fn forward(at: SocketAddr, world: &World) {
    let to = world.sandbox.url().trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let mut onward = TcpStream::connect(to).await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut onward).await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for_and_its_return_is_logged() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut child = process_at(&world)
        .env("AWS_ENDPOINT_URL_S3", format!("http://{address}"))
        .args([
            "copy",
            "s3://source/",
            "s3://destination/",
            "--log-format",
            "json",
        ])
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let text = || fs::read_to_string(&log).unwrap();
    until("the event `waiting`", || text().contains("waiting")).await;
    assert!(
        text().starts_with('{'),
        "the first line does not wait for the server"
    );
    forward(address, &world).await;
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap())
        .await
        .unwrap();
    assert!(status.success(), "{}", text());
    let lines = lines(&text());
    let mut events = events(&lines);
    events.dedup();
    assert_eq!(
        events,
        [
            "start",
            "waiting",
            "back",
            "connected",
            "run_began",
            "summary"
        ],
        "{}",
        text()
    );
    let back = only(&lines, "back");
    assert!(
        back["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds >= 2.0),
        "{back}"
    );
    assert_eq!(world.keys(DESTINATION), ["a", "b", "c"]);
}

/// A run that waits during an outage says so, and says when the server is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_in_the_middle_has_a_beginning_and_an_end() {
    let world = World::new().await;
    for index in 0..200 {
        let (key, content) = (format!("k{index:03}"), Content::pattern(1, 10));
        world.put_object(SOURCE, &key, content, &ObjectSpec::default());
    }
    let faults = world.sandbox.faults();
    faults.add(Fault::on(Operation::CopyObject).then(Effect::ResetBefore));
    let copy = [
        "copy",
        "s3://source/",
        "s3://destination/",
        "--log-format",
        "json",
    ];
    // Good answers to HEAD refill the budget of failures, so a fixed number of faults might not
    // spend it. When the budget is spent, only a probe is sent from time to time.
    let healed = async {
        let (mut fired, mut quiet) = (0, 0);
        while fired < 64 || quiet < 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = faults.fired();
            quiet = if now == fired { quiet + 1 } else { 0 };
            fired = now;
        }
        faults.clear();
    };
    let ((exit, _, stderr), ()) = tokio::join!(run(at(&world), &copy), healed);
    let lines = lines(&stderr);
    let events: Vec<_> = events(&lines)
        .into_iter()
        .filter(|event| ["waiting", "back"].contains(event))
        .collect();
    assert_eq!(
        (exit, &events[..2]),
        (0, &["waiting", "back"][..]),
        "{stderr}"
    );
    assert_eq!(world.keys(DESTINATION).len(), 200);
}

/// The text format omits events that are of no use to a person.
#[tokio::test(flavor = "multi_thread")]
async fn text_stays_as_it_is() {
    let world = World::with_objects(["a", "b", "c"], 10).await;
    let copy = ["copy", "s3://source/", "s3://destination/"];
    let (exit, stdout, stderr) = run(at(&world), &copy).await;
    assert_eq!((exit, stderr.as_str()), (0, ""));
    assert!(stdout.contains("3 objects copied and proven"), "{stdout}");
}

/// The documentation lists exactly the events that a log can have.
#[test]
fn the_events_are_those_of_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("docs/logs.md")).unwrap();
    let (_, table) = docs.split_once("| event |").unwrap();
    let documented: Vec<&str> = table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(event, _)| event)
        .collect();
    assert!(documented.len() > 10, "{documented:?}");
    let mut sources = Vec::new();
    let mut open = vec![root.join("src")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                sources.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    let code = sources.concat();
    for event in &documented {
        assert!(
            code.contains(&format!("\"{event}\"")),
            "no code tells of {event}"
        );
    }
    let named = code
        .match_indices("name: \"")
        .filter(|(at, _)| code[..*at].trim_end().ends_with("!("))
        .map(|(at, mark)| &code[at + mark.len()..]);
    let noted = code
        .match_indices("Note::new(Level::")
        .filter_map(|(at, _)| {
            let (_, rest) = code[at..].split_once('"')?;
            Some(rest)
        });
    for rest in named.chain(noted) {
        let (event, _) = rest.split_once('"').unwrap();
        let is_event = event
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if is_event && event != "x" {
            assert!(documented.contains(&event), "docs/logs.md has no {event}");
        }
    }
}
