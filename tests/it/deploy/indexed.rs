//! The overlays of Indexed Jobs: a run by many pods.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use s3haul::cli::Exit;
use serde_yaml::Value;

use super::kubernetes::{codes, cron_job, rows};
use super::{read, texts, yaml};

pub(super) const JOB: &str = "deploy/overlays/indexed-job";
pub(super) const CRON_JOB: &str = "deploy/overlays/indexed-cronjob";

/// The specs of an Indexed Job, of its pods, and of their only container, with the overlay's
/// directory and the name of the owner. The CronJob's specs are those of a patch.
struct Indexed {
    directory: &'static str,
    name: String,
    job: Value,
    pod: Value,
    container: Value,
}

fn indexed() -> [Indexed; 2] {
    let of = |directory, file: &str, path: &[&str]| {
        let resource = yaml(Path::new(directory).join(file));
        let job = path
            .iter()
            .fold(&resource, |value, field| &value[*field])
            .clone();
        let pod = job["template"]["spec"].clone();
        let container = pod["containers"][0].clone();
        assert_eq!(container["name"], "s3haul");
        Indexed {
            directory,
            name: resource["metadata"]["name"].as_str().unwrap().to_owned(),
            job,
            pod,
            container,
        }
    };
    [
        of(JOB, "indexed-job.yaml", &["spec"]),
        of(CRON_JOB, "shards.yaml", &["spec", "jobTemplate", "spec"]),
    ]
}

/// Maps the variables of a container to their values, or to the sources of these.
fn variables(container: &Value) -> BTreeMap<String, Value> {
    let variables = container["env"].as_sequence().unwrap();
    let of = |variable: &Value| {
        let from = variable.get("value").or(variable.get("valueFrom"));
        (
            variable["name"].as_str().unwrap().to_owned(),
            from.unwrap().clone(),
        )
    };
    variables.iter().map(of).collect()
}

/// Returns the action of the first rule that matches this exit code of a pod without a disruption.
fn action(job: &Value, code: u8) -> Option<String> {
    let rules = job["podFailurePolicy"]["rules"].as_sequence().unwrap();
    let has = |rule: &&Value| {
        let values = rule["onExitCodes"]["values"].as_sequence();
        values.is_some_and(|values| values.contains(&code.into()))
    };
    let rule = rules.iter().find(has)?;
    assert_eq!(rule["onExitCodes"]["operator"], "In");
    assert_eq!(rule["onExitCodes"]["containerName"], "s3haul");
    Some(rule["action"].as_str().unwrap().to_owned())
}

#[test]
fn exit_codes_end_a_shard_or_the_run() {
    for Indexed { directory, job, .. } in indexed() {
        let rules = job["podFailurePolicy"]["rules"].as_sequence().unwrap();
        let first = &rules[0];
        assert_eq!(first["action"], "Ignore", "{directory}");
        assert_eq!(first["onPodConditions"][0]["type"], "DisruptionTarget");
        let actions: Vec<_> = rules.iter().map(|rule| &rule["action"]).collect();
        assert_eq!(actions, ["Ignore", "Ignore", "FailJob", "FailIndex"]);
        for exit in Exit::ALL {
            let expected = match exit {
                Exit::Interrupted => Some("Ignore"),
                // Every pod would fail in the same way.
                Exit::Usage => Some("FailJob"),
                // A restore takes hours, and concerns only this shard.
                Exit::Waiting => Some("FailIndex"),
                // The credentials of one pod may fail for a moment, and must not end the others.
                Exit::Refused | Exit::Failures | Exit::Held | Exit::Bug | Exit::Done => None,
            };
            let found = action(&job, exit as u8);
            assert_eq!(found.as_deref(), expected, "{directory}: {exit:?}");
        }
        assert_eq!(job["backoffLimitPerIndex"], 3);
        assert_eq!(job["completionMode"], "Indexed");
        let number = |field: &str| job[field].as_u64().unwrap();
        let (shards, pods) = (number("completions"), number("parallelism"));
        assert!((8 * pods..=16 * pods).contains(&shards) && shards <= 2000);
        assert_eq!(number("maxFailedIndexes"), shards / 10, "{directory}");
    }
    // The base's backoffLimit would count the failures of all pods together.
    let cron_job = yaml(Path::new(CRON_JOB).join("shards.yaml"));
    assert!(cron_job["spec"]["jobTemplate"]["spec"]["backoffLimit"].is_null());
}

#[test]
fn the_table_of_rules_is_complete_and_says_what_the_policy_does() {
    let [Indexed { job, .. }, _] = indexed();
    let mut told = BTreeSet::new();
    let rows = rows("deploy/README.md", "| rule | code |");
    assert!(rows[0][1].contains("DisruptionTarget"), "it comes first");
    for row in &rows[1..] {
        for code in codes(&row[1]) {
            assert!(told.insert(code), "{code} has two rows");
            let expected = action(&job, code);
            let expected = expected.map_or("counts".to_owned(), |action| format!("`{action}`"));
            assert_eq!(row[0], expected, "{code}");
        }
    }
    let ends = Exit::ALL.iter().map(|exit| *exit as u8);
    let killed = [137, 143];
    let failed: BTreeSet<u8> = ends.filter(|code| *code != 0).chain(killed).collect();
    assert_eq!(told, failed);
}

#[test]
fn the_pods_learn_their_run_and_its_size() {
    for Indexed {
        directory,
        container,
        ..
    } in indexed()
    {
        let variables = variables(&container);
        let field = |name: &str| variables[name]["fieldRef"]["fieldPath"].clone();
        // Unlike the UID, the name stays the same if the Job is deleted and created again.
        let job_name = "metadata.labels['batch.kubernetes.io/job-name']";
        assert_eq!(field("S3HAUL_RUN"), job_name, "{directory}");
        let args = texts(&container["args"]);
        let (command, flags) = args.split_at(2);
        assert_eq!(command, ["run", "/etc/s3haul/job.yaml"]);
        let flags: BTreeMap<_, _> = flags
            .iter()
            .map(|flag| flag.split_once('=').unwrap())
            .collect();
        assert_eq!(flags["--shards"], "$(S3HAUL_SHARDS)");
        assert_eq!(flags["--pods"], "$(S3HAUL_PODS)");
        let state = flags["--state"];
        assert!(state.ends_with("/$(S3HAUL_RUN)/"), "{state}");
        for name in ["S3HAUL_SHARDS", "S3HAUL_PODS"] {
            assert!(variables.contains_key(name), "{directory}: {name}");
        }
        // Kustomize fills in the values.
        let kustomization = yaml(Path::new(directory).join("kustomization.yaml"));
        let sources: Vec<_> = kustomization["replacements"]
            .as_sequence()
            .unwrap()
            .iter()
            .map(|each| {
                let path = each["source"]["fieldPath"].as_str().unwrap();
                path.rsplit('.').next().unwrap().to_owned()
            })
            .collect();
        assert_eq!(sources[..2], ["completions", "parallelism"], "{directory}");
        // N is part of the pod template, so an edit that Kubernetes refuses reaches no pod.
        assert!(variables["S3HAUL_SHARDS"].is_string(), "{directory}");
    }
    let policy = read("deploy/iam/state.json");
    let [Indexed { container, .. }, _] = indexed();
    let state = texts(&container["args"])[2];
    let below = state.strip_prefix("--state=s3://").unwrap();
    let below = below.strip_suffix("$(S3HAUL_RUN)/").unwrap();
    assert!(
        policy.contains(&format!("arn:aws:s3:::{below}*")),
        "{below}"
    );
}

/// A second run in the same namespace must not change P of the first one.
#[test]
fn the_config_map_of_a_run_is_named_after_its_job() {
    let kustomization = yaml(Path::new(JOB).join("kustomization.yaml"));
    let replacements = kustomization["replacements"].as_sequence().unwrap();
    let name = replacements
        .iter()
        .find(|each| each["source"]["fieldPath"] == "metadata.name")
        .unwrap();
    assert_eq!(name["source"]["kind"], "Job");
    let config_map = yaml(Path::new(JOB).join("pods.yaml"));
    let targets = name["targets"].as_sequence().unwrap();
    assert_eq!(targets[0]["select"]["kind"], "ConfigMap");
    assert_eq!(targets[0]["select"]["name"], config_map["metadata"]["name"]);
    assert_eq!(texts(&targets[0]["fieldPaths"]), ["metadata.name"]);
    let reference = texts(&targets[1]["fieldPaths"])[0];
    assert!(reference.ends_with("env.[name=S3HAUL_PODS].valueFrom.configMapKeyRef.name"));
    let [Indexed { container, .. }, _] = indexed();
    let pods = &variables(&container)["S3HAUL_PODS"]["configMapKeyRef"];
    assert_eq!(pods["name"], config_map["metadata"]["name"]);
    let data = config_map["data"].as_mapping().unwrap();
    assert!(data.contains_key(&pods["key"]));
}

/// A pod on a spot node has about 15 seconds to end.
#[test]
fn a_pod_ends_before_a_spot_node_does() {
    for Indexed {
        directory,
        pod,
        container,
        ..
    } in indexed()
    {
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        let drain = variables(&container)["S3HAUL_DRAIN"].clone();
        let drain = drain.as_str().unwrap().strip_suffix('s').unwrap();
        let drain: u64 = drain.parse().unwrap();
        assert!(drain <= 10 && drain < grace && grace <= 15, "{directory}");
    }
}

/// Host names of pods have at most 63 characters.
#[test]
fn names_leave_room_for_what_kubernetes_appends() {
    // A CronJob appends `-` and the minutes since 1970; the API server reserves this many
    // characters.
    const TIME: usize = 11;
    let digits = |shards: u64| (shards - 1).to_string().len();
    for Indexed {
        directory,
        name,
        job,
        ..
    } in indexed()
    {
        let shards = job["completions"].as_u64().unwrap();
        let time = if directory == CRON_JOB { TIME } else { 0 };
        assert!(name.len() + time + 1 + digits(shards) <= 63, "{name}");
    }
    let readme = read("deploy/README.md");
    let words: Vec<_> = readme.split_whitespace().collect();
    let readme = words.join(" ");
    let job = 63 - 1 - digits(1000);
    assert!(readme.contains(&format!("may have a name of {job}.")));
    let cron_job = job - TIME;
    assert!(readme.contains(&format!("its own may have {cron_job}.")));
    let shards = read(Path::new(CRON_JOB).join("shards.yaml"));
    assert!(shards.contains(&format!("it may have {cron_job} characters")));
}

/// The Job is written out in full, so that it can be read and copied. It must not fall behind the
/// base.
#[test]
fn the_job_has_the_pod_of_the_base() {
    let (_, base_job, base_pod, base_container) = cron_job();
    let [
        Indexed {
            job,
            pod,
            container,
            ..
        },
        _,
    ] = indexed();
    let field = "ttlSecondsAfterFinished";
    assert_eq!(job[field], base_job[field], "{field}");
    for field in [
        "serviceAccountName",
        "restartPolicy",
        "securityContext",
        "volumes",
    ] {
        assert_eq!(pod[field], base_pod[field], "{field}");
    }
    for field in ["image", "resources", "securityContext", "volumeMounts"] {
        assert_eq!(container[field], base_container[field], "{field}");
    }
    let variables = variables(&container);
    for (name, value) in super::indexed::variables(&base_container) {
        assert_eq!(variables[&name], value, "{name}");
    }
    assert_eq!(
        yaml(Path::new(JOB).join("serviceaccount.yaml")),
        yaml("deploy/kubernetes/serviceaccount.yaml")
    );
}

#[test]
fn the_network_lets_out_what_a_run_needs() {
    let policy = yaml("deploy/kubernetes/network/networkpolicy.yaml")["spec"].clone();
    let label = &policy["podSelector"]["matchLabels"]["app.kubernetes.io/name"];
    for directory in ["deploy/kubernetes", JOB] {
        let kustomization = yaml(Path::new(directory).join("kustomization.yaml"));
        let labels = &kustomization["labels"][0];
        assert_eq!(labels["pairs"]["app.kubernetes.io/name"], *label);
        assert_eq!(labels["includeTemplates"], true);
    }
    assert_eq!(texts(&policy["policyTypes"]), ["Ingress", "Egress"]);
    // No rule allows nothing. The server drops an empty list, so each `kubectl apply` would report
    // a change.
    assert!(policy["ingress"].is_null());
    let ports: BTreeSet<_> = policy["egress"]
        .as_sequence()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["ports"].as_sequence().unwrap())
        .map(|port| port["port"].as_u64().unwrap())
        .collect();
    assert_eq!(ports, BTreeSet::from([53, 80, 443]));
}
