//! The Kustomize base and its overlays.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use s3haul::cli::Exit;
use s3haul::endpoint::Environment;
use s3haul::execute;
use s3haul::manifest::job::{Job, JournalPlace};
use serde_yaml::Value;

use super::{files, read, root, texts, yaml};

const BASE: &str = "deploy/kubernetes";
const OVERLAYS: [&str; 2] = ["deploy/overlays/eks", "deploy/overlays/keys"];
/// A component that overlays include.
const NETWORK: &str = "deploy/kubernetes/network";

/// Returns the CronJob, and the specs of its Job, its pods, and their only container.
pub(super) fn cron_job() -> (Value, Value, Value, Value) {
    let cron_job = yaml("deploy/kubernetes/cronjob.yaml")["spec"].clone();
    let job = cron_job["jobTemplate"]["spec"].clone();
    let pod = job["template"]["spec"].clone();
    let containers = pod["containers"].as_sequence().unwrap();
    assert_eq!(containers.len(), 1);
    let container = containers[0].clone();
    (cron_job, job, pod, container)
}

#[test]
fn a_kustomization_names_all_files_beside_it_and_no_others() {
    let indexed = [super::indexed::JOB, super::indexed::CRON_JOB, NETWORK];
    for directory in [BASE].into_iter().chain(OVERLAYS).chain(indexed) {
        let kustomization = yaml(Path::new(directory).join("kustomization.yaml"));
        let mut named = BTreeSet::from(["kustomization.yaml"]);
        named.extend(texts(&kustomization["resources"]));
        named.extend(texts(&kustomization["components"]));
        for patch in kustomization["patches"].as_sequence().into_iter().flatten() {
            named.insert(patch["path"].as_str().unwrap());
        }
        let generators = kustomization["configMapGenerator"].as_sequence();
        for generator in generators.into_iter().flatten() {
            named.extend(texts(&generator["files"]));
        }
        let (directories, named): (Vec<_>, Vec<_>) = named
            .into_iter()
            .partition(|name| root().join(directory).join(name).is_dir());
        for base in directories {
            let base = root().join(directory).join(base).canonicalize().unwrap();
            let known = [BASE, NETWORK].map(|known| root().join(known).canonicalize().unwrap());
            assert!(known.contains(&base), "{directory}");
        }
        let there = files(directory, "yaml");
        let there: Vec<_> = there
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect();
        assert_eq!(named, there, "{directory}");
    }
}

#[test]
fn a_patch_is_for_something_that_the_base_has() {
    let base: Vec<_> = texts(&yaml("deploy/kubernetes/kustomization.yaml")["resources"])
        .into_iter()
        .map(|name| yaml(Path::new(BASE).join(name)))
        .collect();
    for overlay in OVERLAYS.into_iter().chain([super::indexed::CRON_JOB]) {
        let kustomization = yaml(Path::new(overlay).join("kustomization.yaml"));
        for patch in kustomization["patches"].as_sequence().unwrap() {
            let patch = yaml(Path::new(overlay).join(patch["path"].as_str().unwrap()));
            let is_target = |resource: &&Value| {
                resource["kind"] == patch["kind"]
                    && resource["metadata"]["name"] == patch["metadata"]["name"]
            };
            let target = base
                .iter()
                .find(is_target)
                .unwrap_or_else(|| panic!("{patch:?} has no target"));
            assert_eq!(patch["apiVersion"], target["apiVersion"]);
        }
    }
}

/// Returns the variables that the patches of a directory set.
fn environment(directory: &str) -> Environment {
    let kustomization = yaml(Path::new(directory).join("kustomization.yaml"));
    let patches = kustomization["patches"].as_sequence().into_iter().flatten();
    let variables: Vec<_> = patches
        .map(|patch| yaml(Path::new(directory).join(patch["path"].as_str().unwrap())))
        .filter_map(|patch| {
            let pod = &patch["spec"]["jobTemplate"]["spec"]["template"]["spec"];
            pod["containers"][0]["env"].as_sequence().cloned()
        })
        .flatten()
        .collect();
    let variables = variables.iter().map(|variable| {
        let text = |field: &str| variable[field].as_str().unwrap();
        (text("name"), text("value"))
    });
    Environment::of(variables, "", "")
}

#[test]
fn the_manifests_are_valid_and_keep_journal_and_report_in_s3() {
    let (_, _, pod, container) = cron_job();
    // Files of a pod are lost with it, and a pod with an emptyDir blocks the drain of its node.
    let volumes = pod["volumes"].as_sequence().unwrap();
    assert!(
        volumes
            .iter()
            .all(|volume| volume.get("configMap").is_some()),
        "{volumes:?}"
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    let policy = read("deploy/iam/journal.json");
    for directory in [BASE].into_iter().chain(OVERLAYS) {
        let path = Path::new(directory).join("job.yaml");
        let job = Job::parse(
            &read(&path),
            &path.display().to_string(),
            &environment(directory),
        )
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let report = job
            .report
            .s3
            .expect("a run without receipts proves nothing to anybody");
        let JournalPlace::Prefix(journal) = job.journal else {
            panic!("{directory}: {:?}", job.journal);
        };
        for place in [report, journal] {
            let below = place.key.as_str().split('/').next().unwrap();
            let allowed = format!("arn:aws:s3:::{}/{below}/*", place.bucket);
            assert!(policy.contains(&allowed), "{directory}: {place}");
        }
    }
}

#[test]
fn the_arguments_are_those_of_the_command_line_and_plan_the_manifest() {
    let (_, _, pod, container) = cron_job();
    let kustomization = yaml("deploy/kubernetes/kustomization.yaml");
    let generator = &kustomization["configMapGenerator"][0];
    let volume = &pod["volumes"][0];
    assert_eq!(volume["configMap"]["name"], generator["name"]);
    let mount = &container["volumeMounts"][0];
    assert_eq!(mount["name"], volume["name"]);
    let in_pod = format!(
        "{}/{}",
        mount["mountPath"].as_str().unwrap(),
        texts(&generator["files"])[0]
    );
    let args = texts(&container["args"]);
    assert!(
        args.contains(&in_pod.as_str()),
        "{args:?} do not name {in_pod}"
    );
    let here = root().join(BASE).join("job.yaml").display().to_string();
    let args = args
        .iter()
        .map(|arg| if **arg == in_pod { here.as_str() } else { arg });
    let planned = Command::new(env!("CARGO_BIN_EXE_s3haul"))
        .args(args)
        .args(["--sandbox", "--dry-run"])
        .env_clear()
        .output()
        .unwrap();
    assert!(planned.status.success(), "{planned:?}");
}

#[test]
fn exit_codes_are_answered_as_they_are_meant() {
    let (_, job, pod, container) = cron_job();
    assert_eq!(
        pod["restartPolicy"], "Never",
        "or there is no podFailurePolicy"
    );
    assert!(job["backoffLimit"].as_u64().is_some_and(|limit| limit > 0));
    let rules = job["podFailurePolicy"]["rules"].as_sequence().unwrap();
    let action = |exit: Exit| {
        let code = Value::from(exit as u8);
        let rule = rules.iter().find(|rule| {
            let codes = &rule["onExitCodes"];
            codes["values"]
                .as_sequence()
                .is_some_and(|values| values.contains(&code))
        })?;
        assert_eq!(rule["onExitCodes"]["operator"], "In");
        assert_eq!(rule["onExitCodes"]["containerName"], container["name"]);
        rule["action"].as_str()
    };
    for exit in Exit::ALL {
        let expected = match exit {
            // A retry changes nothing, or only after the hours that a restore takes or after
            // another Job has ended.
            Exit::Usage | Exit::Refused | Exit::Waiting | Exit::Held => Some("FailJob"),
            // Nothing went wrong.
            Exit::Interrupted => Some("Ignore"),
            // Failures deserve retries, up to a limit. Kubernetes refuses a rule about success.
            Exit::Failures | Exit::Bug | Exit::Done => None,
        };
        assert_eq!(action(exit), expected, "{exit:?}");
    }
    let disruption = rules
        .iter()
        .find(|rule| rule.get("onPodConditions").is_some())
        .unwrap();
    assert_eq!(disruption["action"], "Ignore");
    assert_eq!(disruption["onPodConditions"][0]["type"], "DisruptionTarget");
}

/// Returns the cells of the rows of a page's first table with this header row.
pub(super) fn rows(page: &str, header: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let table = text
        .lines()
        .skip_while(|line| !(line.starts_with('|') && line.contains(header)))
        .take_while(|line| line.starts_with('|'))
        .skip(2);
    let cells = |line: &str| {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    table.map(cells).collect()
}

/// Parses the codes in a cell: `2, 3, 5`.
pub(super) fn codes(cell: &str) -> impl Iterator<Item = u8> {
    cell.split(", ")
        .filter_map(|code| code.split(' ').next()?.parse().ok())
}

#[test]
fn the_tables_of_exit_codes_are_complete_and_say_what_the_policy_does() {
    let (_, job, ..) = cron_job();
    let rules = job["podFailurePolicy"]["rules"].as_sequence().unwrap();
    let action = |code: u8| {
        let has = |rule: &&Value| {
            let values = rule["onExitCodes"]["values"].as_sequence();
            values.is_some_and(|values| values.contains(&code.into()))
        };
        rules
            .iter()
            .find(has)
            .and_then(|rule| rule["action"].as_str())
    };
    let all: BTreeSet<u8> = Exit::ALL.iter().map(|exit| *exit as u8).collect();
    for rule in rules {
        for value in rule["onExitCodes"]["values"]
            .as_sequence()
            .into_iter()
            .flatten()
        {
            let code = u8::try_from(value.as_u64().unwrap()).unwrap();
            assert!(all.contains(&code), "s3haul never ends with {code}");
        }
    }
    // Kubernetes reports two more codes: 128 plus the signal.
    let killed = [137, 143];
    let mut told = BTreeSet::new();
    for row in rows("deploy/README.md", "| exit code |") {
        let code = row[1].parse().unwrap();
        assert!(told.insert(code), "{code} has two rows");
        let expected = match action(code) {
            Some("FailJob") => "fails at once",
            Some("Ignore") => "does not count against",
            _ if code == 0 => "completes",
            _ if code == 143 => "the same",
            _ => "starts another pod, up to `backoffLimit`",
        };
        assert!(row[2].contains(expected), "{code}: {row:?}");
    }
    assert_eq!(told, all.iter().copied().chain(killed).collect());
    let mut told = BTreeSet::new();
    for row in rows("docs/operations.md", "| code | `podFailurePolicy`") {
        for code in codes(&row[0]) {
            assert!(told.insert(code), "{code} has two rows");
            let expected =
                action(code).map_or("counts against".to_owned(), |action| format!("`{action}`"));
            assert!(row[1].contains(&expected), "{code}: {row:?}");
        }
    }
    let failed: BTreeSet<u8> = all.iter().copied().filter(|code| *code != 0).collect();
    assert_eq!(told, failed);
    for (page, header) in [
        ("README.md", "| code | meaning |"),
        ("docs/troubleshooting.md", "| code | look at |"),
    ] {
        let told: BTreeSet<u8> = rows(page, header)
            .iter()
            .flat_map(|row| codes(&row[0]))
            .collect();
        assert_eq!(told, all, "{page}");
    }
}

/// The variables that identify the holder of a journal come from the pod.
#[test]
fn the_pod_knows_its_job_and_its_name() {
    let (.., container) = cron_job();
    let field = |name: &str| {
        let variables = container["env"].as_sequence().unwrap();
        let variable = variables.iter().find(|variable| variable["name"] == name);
        let variable = variable.unwrap_or_else(|| panic!("{name} is not set"));
        variable["valueFrom"]["fieldRef"]["fieldPath"].clone()
    };
    assert_eq!(
        field("S3HAUL_JOB_UID"),
        "metadata.labels['batch.kubernetes.io/controller-uid']"
    );
    assert_eq!(field("POD_NAME"), "metadata.name");
}

#[test]
fn a_run_has_the_time_to_end_in_order_and_before_the_next_one() {
    let (cron_job, job, pod, _) = cron_job();
    // After the requests in flight have drained, uploads are aborted and the report is closed.
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace >= execute::DRAIN.as_secs() + 20, "{grace} s");
    assert_eq!(cron_job["concurrencyPolicy"], "Forbid");
    assert_eq!(
        cron_job["schedule"]
            .as_str()
            .unwrap()
            .split(' ')
            .skip(2)
            .collect::<Vec<_>>(),
        ["*", "*", "*"]
    );
    let day = 86_400;
    let eks = yaml("deploy/overlays/eks/schedule.yaml")["spec"].clone();
    assert_eq!(eks["schedule"], "0 */6 * * *");
    for (cron_job, job, period) in [
        (&cron_job, &job, day),
        (&eks, &eks["jobTemplate"]["spec"], day / 4),
    ] {
        let late = cron_job["startingDeadlineSeconds"].as_u64().unwrap();
        let active = job["activeDeadlineSeconds"].as_u64().unwrap();
        assert!(late >= 60, "{late} s");
        assert!(
            late + active + grace < period,
            "a run that began {late} s late outlives the next schedule"
        );
    }
    for (limit, of) in [
        ("successfulJobsHistoryLimit", &cron_job),
        ("failedJobsHistoryLimit", &cron_job),
    ] {
        assert!(of[limit].as_u64().is_some_and(|limit| limit > 0), "{limit}");
    }
    assert!(
        job["ttlSecondsAfterFinished"]
            .as_u64()
            .is_some_and(|seconds| seconds >= day)
    );
}

#[test]
fn the_pod_may_do_nothing_that_it_need_not() {
    let (_, _, pod, container) = cron_job();
    let security = &pod["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(
        security["fsGroup"], security["runAsUser"],
        "or a token or a claim that is mounted cannot be used"
    );
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(texts(&security["capabilities"]["drop"]), ["ALL"]);
    for resource in ["cpu", "memory"] {
        assert!(
            container["resources"]["requests"][resource]
                .as_str()
                .is_some(),
            "{resource}"
        );
    }
    assert!(
        container["resources"]["limits"]["memory"]
            .as_str()
            .is_some()
    );
    let account = yaml("deploy/kubernetes/serviceaccount.yaml");
    assert_eq!(account["kind"], "ServiceAccount");
    assert_eq!(account["metadata"]["name"], pod["serviceAccountName"]);
    assert_eq!(account["automountServiceAccountToken"], false);
}
