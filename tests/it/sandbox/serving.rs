//! `s3haul sandbox` for measurements of clients: its initial objects, its rates, and its summary.

use std::collections::HashMap;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::world::program::{command, run};

/// A sandbox process, which ends with the test.
pub(super) struct Serving {
    child: Child,
    /// The variables that its first line exports.
    pub(super) variables: HashMap<String, String>,
}

impl Serving {
    pub(super) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("s3haul"))
            .arg("sandbox")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut line, mut byte) = (String::new(), [0]);
        while !line.ends_with('\n') {
            let read = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
            assert_eq!(read, 1, "it ended before it was ready");
            line.push(char::from(byte[0]));
        }
        let words = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        let variables = words
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { child, variables }
    }

    /// Runs `copy`, as a user would.
    pub(super) async fn copy(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = command();
        command.envs(&self.variables).args([
            "copy",
            "s3://data/s/",
            "s3://copies/s/",
            "--provider",
            "aws",
        ]);
        let (exit, stdout, _) = run(command, arguments).await;
        (exit, stdout)
    }

    /// Stops the sandbox and returns its output.
    fn end(mut self) -> String {
        Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        let mut text = String::new();
        self.child
            .stdout
            .as_mut()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        text
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_its_end_it_tells_what_it_has_seen_and_holds() {
    let serving = Serving::start(&[
        "--json",
        "--bucket",
        "copies",
        "--object",
        "s3://data/s/=20x64KiB-1MiB",
    ]);
    assert_eq!(serving.copy(&[]).await.0, 0);
    let seen: Value = serde_json::from_str(&serving.end()).unwrap();
    assert_eq!(
        (&seen["calls"]["CopyObject"], &seen["throttled"]),
        (&20.into(), &0.into())
    );
    let [copies, data] = seen["buckets"].as_array().unwrap().as_slice() else {
        panic!("{seen}")
    };
    assert_eq!(
        (&copies["bucket"], &copies["objects"]),
        (&"copies".into(), &20.into())
    );
    assert_eq!(
        (&copies["bytes"], &seen["copied_bytes"]),
        (&data["bytes"], &data["bytes"])
    );
    let bytes = data["bytes"].as_u64().unwrap();
    assert!((20 * 65_536..20 * 1_048_576).contains(&bytes), "{bytes}");

    let serving = Serving::start(&["--object", "s3://data/big=2TiB"]);
    let text = serving.end();
    assert!(
        text.starts_with("requests: 0 (0 throttled)") && text.contains("data: 1 object, 2TiB"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_in_place_are_left_as_they_are() {
    let objects = [
        "--object",
        "s3://data/s/=1500x1KiB",
        "--copied",
        "s3://data/s/=s3://copies/s/",
    ];
    let serving = Serving::start(&[&["--json"], &objects[..]].concat());
    let (exit, stdout) = serving.copy(&["--json"]).await;
    assert!(exit == 0 && stdout.contains("1500"), "{stdout}");
    let seen: Value = serde_json::from_str(&serving.end()).unwrap();
    assert!(seen["calls"]["ListObjectsV2"].as_u64() >= Some(4), "{seen}");
    assert_eq!(seen["calls"].get("CopyObject"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rates_are_those_of_the_flags() {
    let rates = ["--writes-per-second", "200", "--ramp", "1/8:1s"];
    let few = [
        "--json",
        "--bucket",
        "copies",
        "--object",
        "s3://data/s/=100x1KiB",
    ];
    let serving = Serving::start(&[&few[..], &rates].concat());
    assert_eq!(serving.copy(&["--in-flight", "100"]).await.0, 0);
    let seen: Value = serde_json::from_str(&serving.end()).unwrap();
    // The rate begins at 25 per second: most of a hundred concurrent writes are refused, but all
    // succeed in the end.
    assert!(seen["throttled"].as_u64() > Some(0), "{seen}");
    assert_eq!(seen["buckets"][0]["objects"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_mean_nothing_are_refused() {
    for (flags, reason) in [
        (&["--ramp", "1/8:10s"][..], "--ramp needs rates"),
        (
            &["--ramp", "2:10s", "--model", "aws"],
            "above 0 and at most 1",
        ),
        (
            &["--ramp", "1/0:10s", "--model", "aws"],
            "above 0 and at most 1",
        ),
        (&["--ramp", "1/8", "--model", "aws"], "FRACTION:TIME"),
        (&["--ramp", "1/8:0s", "--model", "aws"], "FRACTION:TIME"),
        (&["--writes-per-second", "0"], "not in 1.."),
        (
            &["--copied", "s3://data/s/=s3://copies/s/"],
            "there is nothing below s3://data/s/",
        ),
        (
            &["--control", "0.0.0.0:9000"],
            "not an address of the loopback interface; write 127.0.0.1:9000",
        ),
        (&["--control", "9000"], "write an address and a port"),
    ] {
        let (exit, _, stderr) = run(command(), &[&["sandbox"], flags].concat()).await;
        assert!(exit == 2 && stderr.contains(reason), "{flags:?}: {stderr}");
    }
}
