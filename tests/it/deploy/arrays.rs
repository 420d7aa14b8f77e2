//! Job arrays of AWS Batch and Slurm: a run by many tasks.

use std::collections::{BTreeMap, BTreeSet};

use s3haul::cli::Exit;
use serde_json::Value;

use super::kubernetes::{codes, rows};
use super::read;

fn definition() -> Value {
    serde_json::from_str(&read("deploy/aws-batch/job-definition.json")).unwrap()
}

/// Matches a condition of AWS Batch. A `*` at its end matches any rest.
fn matches(pattern: &Value, text: &str) -> bool {
    let pattern = pattern.as_str().unwrap();
    match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => pattern == text,
    }
}

/// Returns the action of AWS Batch after a container has exited with this code.
fn action(code: u8) -> String {
    let definition = definition();
    let rules = definition["retryStrategy"]["evaluateOnExit"]
        .as_array()
        .unwrap();
    assert!(rules.len() <= 5, "AWS Batch takes five");
    let ended = BTreeMap::from([
        ("onExitCode", code.to_string()),
        ("onReason", String::new()),
        (
            "onStatusReason",
            "Essential container in task exited".to_owned(),
        ),
    ]);
    let applies = |rule: &&Value| {
        ended.iter().all(|(condition, text)| {
            let pattern = rule.get(*condition);
            pattern.is_none_or(|pattern| matches(pattern, text))
        })
    };
    let rule = rules.iter().find(applies).unwrap();
    rule["action"].as_str().unwrap().to_owned()
}

#[test]
fn aws_batch_repeats_what_may_end_otherwise() {
    for exit in Exit::ALL {
        let expected = match exit {
            Exit::Usage | Exit::Waiting => "EXIT",
            Exit::Done
            | Exit::Failures
            | Exit::Refused
            | Exit::Interrupted
            | Exit::Held
            | Exit::Bug => "RETRY",
        };
        assert_eq!(action(exit as u8), expected, "{exit:?}");
    }
    assert_eq!(action(137), "RETRY");
    let first = definition()["retryStrategy"]["evaluateOnExit"][0].clone();
    let taken_back = "Host EC2 (instance i-0123456789abcdef0) terminated.";
    assert!(matches(&first["onStatusReason"], taken_back));
    assert_eq!(first["action"], "RETRY");
}

#[test]
fn aws_batch_starts_the_image_as_kubernetes_does() {
    let definition = definition();
    let container = &definition["containerProperties"];
    let command: Vec<_> = container["command"].as_array().unwrap().iter().collect();
    let command: Vec<_> = command.iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(command[..2], ["run", "/etc/s3haul/job.yaml"]);
    let dockerfile = read("deploy/aws-batch/Dockerfile");
    assert!(dockerfile.contains("COPY job.yaml /etc/s3haul/job.yaml"));
    let parameters = definition["parameters"].as_object().unwrap();
    for flag in command[2..].chunks(2) {
        let parameter = flag[1].strip_prefix("Ref::").unwrap();
        assert_eq!(flag[0], format!("--{parameter}"));
        assert!(parameters[parameter].is_string(), "{parameter}");
    }
    assert_eq!(container["user"], "65532:65532");
    assert_eq!(container["readonlyRootFilesystem"], true);
}

#[test]
fn the_slurm_script_does_what_its_table_says() {
    let script = read("deploy/slurm/s3haul.sbatch");
    let mut told = BTreeSet::new();
    for row in rows("deploy/README.md", "| code | the task | the script |") {
        let again: BTreeSet<u8> = codes(&row[0]).collect();
        let pattern: Vec<_> = again.iter().map(u8::to_string).collect();
        let pattern = format!("\n        {}) ", pattern.join(" | "));
        let in_script = script.contains(&pattern);
        assert_eq!(
            in_script,
            !again.is_empty() && row[2] != "does nothing",
            "{row:?}"
        );
        told.extend(again);
    }
    let ends = Exit::ALL.iter().map(|exit| *exit as u8);
    let failed: BTreeSet<u8> = ends.filter(|code| *code != 0).chain([137]).collect();
    assert_eq!(told, failed);
}
