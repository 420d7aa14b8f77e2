//! The Dockerfile, and the references to its image, which must all agree.

use super::{read, yaml};

/// Returns the instructions of a Dockerfile as pairs of name and arguments.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let joined = dockerfile.replace("\\\n", " ");
    let lines = joined
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, rest) = line.split_once(' ').expect("an instruction has arguments");
            (
                name.to_owned(),
                rest.split_whitespace().collect::<Vec<_>>().join(" "),
            )
        })
        .collect()
}

/// Returns the `name = value` pairs of a table in Cargo.toml.
fn cargo(table: &str) -> Vec<(String, String)> {
    let text = read("Cargo.toml");
    let header = format!("[{table}]");
    let lines = text.lines().skip_while(|line| *line != header).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

#[test]
fn the_image_is_built_as_a_release_with_features_that_exist() {
    let dockerfile = instructions(&read("deploy/Dockerfile"));
    let (_, build) = dockerfile
        .iter()
        .find(|(name, rest)| name == "RUN" && rest.contains("cargo build"))
        .unwrap();
    let build: Vec<_> = build.split_whitespace().collect();
    for flag in ["--release", "--locked", "--no-default-features"] {
        assert!(build.contains(&flag), "{flag}");
    }
    let at = build.iter().position(|word| *word == "--features");
    let wanted: Vec<_> = build[at.unwrap() + 1].split(',').collect();
    assert!(wanted.contains(&"cli"), "the command is behind a feature");
    let features = cargo("features");
    for feature in wanted {
        assert!(
            features.iter().any(|(name, _)| name == feature),
            "Cargo.toml has no feature {feature}"
        );
    }
}

#[test]
fn both_stages_are_pinned_and_the_toolchain_is_new_enough() {
    let dockerfile = instructions(&read("deploy/Dockerfile"));
    let from: Vec<_> = dockerfile
        .iter()
        .filter(|(name, _)| name == "FROM")
        .map(|(_, rest)| rest.as_str())
        .collect();
    assert_eq!(from.len(), 2);
    let (_, tag) = from[0]
        .split_whitespace()
        .next()
        .unwrap()
        .split_once(':')
        .unwrap();
    let version =
        |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let (toolchain, release) = tag.split_once("-slim-").unwrap();
    let package = cargo("package");
    let (_, needed) = package
        .iter()
        .find(|(name, _)| name == "rust-version")
        .unwrap();
    assert!(
        version(toolchain) >= version(needed),
        "{toolchain} is older than {needed}"
    );
    // The program runs with the libc of the release on which it was linked.
    assert_eq!(from[1], format!("debian:{release}-slim"));
}

#[test]
fn the_program_is_started_itself_and_not_as_root() {
    let dockerfile = instructions(&read("deploy/Dockerfile"));
    let last = |name: &str| {
        let found = dockerfile.iter().rev().find(|(found, _)| found == name);
        found.map_or_else(|| panic!("no {name}"), |(_, rest)| rest.clone())
    };
    let entrypoint: Vec<String> = serde_json::from_str(&last("ENTRYPOINT")).unwrap();
    let (_, target) = dockerfile
        .iter()
        .rev()
        .find(|(name, rest)| name == "COPY" && rest.starts_with("--from="))
        .unwrap();
    assert_eq!(entrypoint, [target.rsplit(' ').next().unwrap()]);
    let cron_job = yaml("deploy/kubernetes/cronjob.yaml");
    let security = &cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["securityContext"];
    let [user, group] = ["runAsUser", "runAsGroup"].map(|name| security[name].as_u64().unwrap());
    assert_eq!(last("USER"), format!("{user}:{group}"));
    assert_ne!(user, 0);
}

#[test]
fn everything_names_the_image_of_this_version() {
    let tag = env!("CARGO_PKG_VERSION");
    let cron_job = yaml("deploy/kubernetes/cronjob.yaml");
    let container = &cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
    for path in [
        "deploy/kubernetes/kustomization.yaml",
        "deploy/overlays/eks/kustomization.yaml",
        "deploy/overlays/keys/kustomization.yaml",
        "deploy/overlays/indexed-job/kustomization.yaml",
        "deploy/overlays/indexed-cronjob/kustomization.yaml",
    ] {
        let image = &yaml(path)["images"][0];
        assert_eq!(image["name"], container["image"], "{path}");
        assert_eq!(image["newTag"], tag, "{path}");
    }
    for path in ["deploy/Dockerfile", "deploy/README.md"] {
        assert!(read(path).contains(&format!("-t s3haul:{tag} .")), "{path}");
    }
    let array = format!("registry.example.internal/s3haul-lake:{tag}");
    for path in [
        "deploy/aws-batch/Dockerfile",
        "deploy/aws-batch/job-definition.json",
        "deploy/README.md",
    ] {
        assert!(read(path).contains(&array), "{path}");
    }
    let base = format!("FROM registry.example.internal/s3haul:{tag}\n");
    assert!(read("deploy/aws-batch/Dockerfile").contains(&base));
}

#[test]
fn the_build_context_holds_what_the_build_reads() {
    let ignored = read(".dockerignore");
    let ignored: Vec<_> = ignored
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(ignored.contains(&"target") && ignored.contains(&".git"));
    for needed in ["Cargo.toml", "Cargo.lock", "src", "LICENSE"] {
        assert!(!ignored.contains(&needed), "{needed}");
    }
    let sources = read("src/lib.rs") + &read("src/main.rs") + &read("src/manifest/schema.rs");
    assert!(
        !sources.contains("include_str!(\"../deploy"),
        "then deploy must not be ignored"
    );
}
