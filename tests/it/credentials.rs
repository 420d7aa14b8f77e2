//! Credentials that change during a long run, without costing an object.
//!
//! A container endpoint issues the sets that a test prescribes. A server in front of the sandbox
//! accepts some session tokens and refuses others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use assert_cmd::Command;
use rstest::rstest;
use s3haul::sandbox::SandboxOptions;
use tokio::sync::watch;

use crate::issuer::{Issuer, Reply, Session};
use crate::liar::{Asked, Liar, Lie};
use crate::world::program::{command, run};
use crate::world::{DESTINATION, World};

pub(crate) const OBJECTS: usize = 120;
pub(crate) const COPY: [&str; 5] = [
    "copy",
    "s3://source/",
    "s3://destination/",
    "--in-flight",
    "16",
];

/// Returns the key of the sandbox with this token, valid for this many seconds; 0 means that it has
/// expired.
pub(crate) fn set(token: &str, seconds: u64) -> Reply {
    Reply::Issue(Session::of_sandbox(token), Duration::from_secs(seconds))
}

pub(crate) async fn issuer(reply: Reply) -> Arc<Issuer> {
    Arc::new(Issuer::start(reply).await)
}

/// A server in front of the sandbox that refuses some tokens.
pub(crate) struct Gate {
    pub(crate) liar: Liar,
    pub(crate) log: Arc<Log>,
}

/// The tokens and requests that the gate has seen.
#[derive(Default)]
pub(crate) struct Log {
    refused: Mutex<BTreeSet<&'static str>>,
    /// Requests that were refused.
    refusals: Mutex<Vec<Asked>>,
    /// Tokens of the requests that passed.
    taken: Mutex<Vec<String>>,
    has_passed: AtomicBool,
}

impl Log {
    pub(crate) fn refuse(&self, token: &'static str) {
        self.refused.lock().unwrap().insert(token);
    }

    /// Returns true once, when this many requests have passed.
    pub(crate) fn passes(&self, count: usize) -> bool {
        self.taken() >= count && !self.has_passed.swap(true, Ordering::SeqCst)
    }

    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    pub(crate) fn refusals(&self) -> usize {
        self.refusals.lock().unwrap().len()
    }
}

impl Gate {
    /// Starts a gate that refuses with this error. `look` sees each request before the gate
    /// decides.
    pub(crate) async fn before(
        world: &World,
        (status, code): (u16, &'static str),
        look: impl Fn(&Log, &Asked) + Send + Sync + 'static,
    ) -> Self {
        let log = Arc::new(Log::default());
        let known = Arc::clone(&log);
        let lie = move |asked: &Asked| {
            look(&known, asked);
            let token = asked.header("x-amz-security-token").unwrap_or_default();
            if known.refused.lock().unwrap().contains(token) {
                known.refusals.lock().unwrap().push(asked.clone());
                return Lie::error(status, code);
            }
            known.taken.lock().unwrap().push(token.to_owned());
            Lie::Truth
        };
        Self {
            liar: Liar::lying(world, lie).await,
            log,
        }
    }

    pub(crate) fn command(&self, issuer: &Issuer) -> Command {
        let mut command = command();
        command
            .envs([issuer.container()])
            .env("AWS_ENDPOINT_URL_S3", &self.liar.url);
        command
    }
}

pub(crate) fn assert_all_copied(world: &World, exit: i32, stderr: &str) {
    assert_eq!(exit, 0, "{stderr}");
    assert_eq!(world.keys(DESTINATION).len(), OBJECTS, "{stderr}");
}

/// HEADs are refused with a bare status. All requests that were signed with the old set are sent
/// again with the new one.
#[rstest]
#[case::expired(400, "ExpiredToken")]
#[case::invalid(400, "InvalidToken")]
#[case::unknown_key(403, "InvalidAccessKeyId")]
#[case::another_secret(403, "SignatureDoesNotMatch")]
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_revoked_costs_no_object(#[case] status: u16, #[case] code: &'static str) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let gives = Arc::clone(&issuer);
    let gate = Gate::before(&world, (status, code), move |log, _| {
        if log.passes(100) {
            log.refuse("one");
            gives.reply(set("two", 3600));
        }
    })
    .await;
    let (exit, _, stderr) = run(gate.command(&issuer), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    assert_eq!(issuer.asked(), 2, "{stderr}");
    let refusals = gate.log.refusals();
    assert!(
        (1..=40).contains(&refusals),
        "{refusals} refusals with 16 requests in flight"
    );
}

/// S3 answers a revoked session of a role with `AccessDenied`, as for an object that it may not
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn access_denied_to_an_older_set_is_judged_with_the_newer_one() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let gives = Arc::clone(&issuer);
    let newer = watch::Sender::new(false);
    let seen = newer.subscribe();
    let denied = Arc::new(AtomicBool::new(false));
    let was_denied = Arc::clone(&denied);
    let liar = Liar::lying(&world, move |asked| {
        let is_old = asked.header("x-amz-security-token") == Some("one");
        if !is_old {
            newer.send_replace(true);
            return Lie::Truth;
        }
        let is_copy = asked.method == "PUT";
        if is_copy && !was_denied.swap(true, Ordering::SeqCst) {
            gives.reply(set("two", 3600));
            // Answers only after another request was signed with the newer set.
            tokio::task::block_in_place(|| {
                while !*seen.borrow() {
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            return Lie::error(403, "AccessDenied");
        }
        if was_denied.load(Ordering::SeqCst) {
            Lie::error(400, "ExpiredToken")
        } else {
            Lie::Truth
        }
    })
    .await;
    let mut program = command();
    program
        .envs([issuer.container()])
        .env("AWS_ENDPOINT_URL_S3", &liar.url);
    let (exit, _, stderr) = run(program, &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    assert!(denied.load(Ordering::SeqCst));
}

/// A bare refusal hides its reason, and the list that would show it may get no answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_inquiry_without_an_answer_is_sent_again() {
    let world = World::with_objects(["k"], 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let gives = Arc::clone(&issuer);
    let has_expired = AtomicBool::new(false);
    let inquiries = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&inquiries);
    let liar = Liar::lying(&world, move |asked| {
        if asked.header("x-amz-security-token") != Some("one") {
            return Lie::Truth;
        }
        if asked.method == "HEAD" && asked.path == "/source/k" {
            has_expired.store(true, Ordering::SeqCst);
            gives.reply(set("two", 3600));
        }
        if !has_expired.load(Ordering::SeqCst) {
            return Lie::Truth;
        }
        if asked.lists("source") && seen.fetch_add(1, Ordering::SeqCst) == 0 {
            // Longer than the program waits.
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_secs(12)));
        }
        Lie::error(400, "ExpiredToken")
    })
    .await;
    let mut program = command();
    program
        .envs([issuer.container()])
        .env("AWS_ENDPOINT_URL_S3", &liar.url);
    let (exit, stdout, stderr) = run(program, &COPY).await;
    assert_eq!(exit, 0, "{stdout} {stderr}");
    world.assert_equal("k", "k");
    let inquiries = inquiries.load(Ordering::SeqCst);
    assert!(inquiries >= 2, "the first inquiry had no answer");
}

/// The current set stays in use while the provider hangs or fails at its renewal.
#[rstest]
#[case::hangs(Reply::Hang)]
#[case::fails(Reply::Status(400, ""))]
#[case::lags(set("old", 0))]
#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_used_to_its_end_while_it_cannot_be_renewed(#[case] at_renewal: Reply) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 6)).await;
    let gives = Arc::clone(&issuer);
    let gate = Gate::before(&world, (400, "ExpiredToken"), |_, _| {}).await;
    let log = Arc::clone(&gate.log);
    let taken = tokio::spawn(async move {
        gives.wait_for_requests(1).await;
        gives.reply(at_renewal);
        gives.wait_for_requests(2).await;
        let before = log.taken();
        // Longer than the set is valid.
        tokio::time::sleep(Duration::from_secs(3)).await;
        gives.reply(set("two", 3600));
        before
    });
    let (exit, _, stderr) = run(
        gate.command(&issuer),
        &[&COPY[..], &["--requests-per-second", "30"]].concat(),
    )
    .await;
    assert_all_copied(&world, exit, &stderr);
    let before = taken.await.unwrap();
    let tokens = gate.log.taken.lock().unwrap().clone();
    let one = tokens.iter().filter(|token| *token == "one").count();
    assert!(
        one > before + 5,
        "{one} requests with the old set, {before} before its renewal"
    );
    assert_eq!(gate.log.refusals(), 0);
    assert!(issuer.asked() <= 12, "{} questions", issuer.asked());
}

/// While the server accepts no set, all requests wait, and s3haul asks the provider again at
/// intervals.
#[rstest]
#[case::fails(Reply::Status(500, ""))]
#[case::repeats_the_set(set("one", 3600))]
#[case::gives_one_that_has_expired(set("old", 0))]
#[case::hangs(Reply::Hang)]
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_has_no_new_set_is_waited_for(#[case] meanwhile: Reply) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let gives = Arc::clone(&issuer);
    let revoked = watch::Sender::new(false);
    let mut is_revoked = revoked.subscribe();
    let gate = Gate::before(&world, (400, "ExpiredToken"), move |log, _| {
        if log.passes(100) {
            log.refuse("one");
            gives.reply(meanwhile.clone());
            revoked.send_replace(true);
        }
    })
    .await;
    let gives = Arc::clone(&issuer);
    tokio::spawn(async move {
        is_revoked.wait_for(|is_revoked| *is_revoked).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        gives.reply(set("two", 3600));
    });
    let (exit, _, stderr) = run(gate.command(&issuer), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    assert_eq!(
        stderr
            .matches("waiting for credentials: container credentials")
            .count(),
        1,
        "{stderr}"
    );
    assert!(
        issuer.asked() < 40,
        "{} questions: {stderr}",
        issuer.asked()
    );
    let refusals = gate.log.refusals();
    assert!((1..=60).contains(&refusals), "{refusals} refusals");
}

/// Requests of the planner fail next to those of copies, and neither makes an object fail.
#[rstest]
#[case::while_it_plans(4)]
#[case::while_it_copies(100)]
#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_valid_credentials_ends_after_its_patience_and_has_failed_nothing(
    #[case] requests: usize,
) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let gives = Arc::clone(&issuer);
    let gate = Gate::before(&world, (403, "InvalidAccessKeyId"), move |log, _| {
        if log.passes(requests) {
            log.refuse("one");
            gives.reply(Reply::Status(503, ""));
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let program = || {
        let mut program = gate.command(&issuer);
        program
            .env_remove("S3HAUL_JOURNAL")
            .current_dir(directory.path());
        program
    };
    let (exit, stdout, stderr) = run(program(), &[&COPY[..], &["--patience", "4s"]].concat()).await;
    assert_eq!(exit, 4, "{stdout} {stderr}");
    let said = format!("container credentials at {}", issuer.url());
    assert!(
        stderr.contains("giving up") && stderr.contains(&said),
        "{stderr}"
    );
    assert!(
        stderr.contains("as `patience` says)") && !stderr.contains("failed:"),
        "{stderr}"
    );
    issuer.reply(set("two", 3600));
    let (exit, _, stderr) = run(program(), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
}

/// s3haul reads a profile again, and everything that the profile names.
#[rstest]
#[case(400, "ExpiredToken")]
#[case(403, "InvalidAccessKeyId")]
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_change_in_the_shared_credentials_file_are_read_again(
    #[case] status: u16,
    #[case] code: &'static str,
) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    let write = |file: &Path, token: &str| {
        let SandboxOptions {
            access_key,
            secret_key,
            ..
        } = SandboxOptions::default();
        let text = format!(
            "[lake]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\naws_session_token = \
             {token}\n"
        );
        fs::write(file, text).unwrap();
    };
    write(&file, "one");
    let at = file.clone();
    let gate = Gate::before(&world, (status, code), move |log, _| {
        if log.passes(100) {
            log.refuse("one");
            write(&at, "two");
        }
    })
    .await;
    let mut program = command();
    program
        .env("AWS_SHARED_CREDENTIALS_FILE", &file)
        .env("AWS_ENDPOINT_URL_S3", &gate.liar.url);
    let (exit, _, stderr) = run(program, &[&COPY[..], &["--profile", "lake"]].concat()).await;
    assert_all_copied(&world, exit, &stderr);
    assert!(gate.log.refusals() > 0);
}

/// Keys in the environment cannot change: the run ends at once, and objects in flight are not
/// recorded as failed.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_environment_that_are_refused_end_the_run() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let gate = Gate::before(&world, (400, "ExpiredToken"), |log, _| {
        if log.passes(100) {
            log.refuse("one");
        }
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let program = |token: &str| {
        let SandboxOptions {
            access_key,
            secret_key,
            ..
        } = SandboxOptions::default();
        let mut program = command();
        program
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", secret_key)
            .env("AWS_SESSION_TOKEN", token)
            .env("AWS_ENDPOINT_URL_S3", &gate.liar.url)
            .env_remove("S3HAUL_JOURNAL")
            .current_dir(directory.path());
        program
    };
    let (exit, stdout, stderr) = run(program("one"), &COPY).await;
    assert!(
        exit == 4 && stderr.contains("giving up: ExpiredToken"),
        "{exit} {stderr}"
    );
    let remedy = "export new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN, and run the same command again";
    assert!(stderr.contains(remedy), "{stderr}");
    assert!(
        !stdout.contains("failed") && !stderr.contains("failed:"),
        "{stdout} {stderr}"
    );
    // A restarted pod with the same keys: keys that were never accepted are wrong.
    let (exit, _, stderr) = run(program("one"), &COPY).await;
    assert_eq!(exit, 3, "{stderr}");
    assert!(stderr.contains("AWS_SESSION_TOKEN"), "{stderr}");
    let (exit, _, stderr) = run(program("two"), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
}

#[rstest]
#[case::copy("copy")]
#[case::plan("plan")]
#[case::check("check")]
#[case::verify("verify")]
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_hangs_at_the_start_is_named(#[case] word: &str) {
    let issuer = issuer(Reply::Hang).await;
    let directory = tempfile::tempdir().unwrap();
    let job = directory.path().join("job.yaml");
    let text = "version: 1\nlimits: {patience: 8s}\ntransfers: [{from: {s3: s3://source/}, to: {s3: s3://destination/}}]\n";
    fs::write(&job, text).unwrap();
    let mut program = command();
    program
        .envs([issuer.container()])
        .env("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9");
    let words = match word {
        "copy" => vec![
            "copy",
            "s3://source/",
            "s3://destination/",
            "--patience",
            "8s",
        ],
        word => vec![word, job.to_str().unwrap()],
    };
    let (exit, _, stderr) = run(program, &words).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains(&format!("container credentials at {}", issuer.url())),
        "{stderr}"
    );
    assert!(
        !stderr.contains("request id") && !stderr.contains("connection lost"),
        "{stderr}"
    );
}
