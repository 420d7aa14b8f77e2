//! Providers of credentials that change, hang, or vanish during a run.

mod soak;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rstest::rstest;
use s3haul::sandbox::SandboxOptions;

use crate::clock::{date_header, signed_at};
use crate::credentials::{COPY, Gate, Log, OBJECTS, assert_all_copied, issuer, set};
use crate::issuer::Reply;
use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::program::{command, run};
use crate::world::{DESTINATION, World};

/// Starts a gate that refuses the first set of credentials after some requests, and calls `then` at
/// that moment.
async fn revoking(
    world: &World,
    (status, code): (u16, &'static str),
    then: impl Fn() + Send + Sync + 'static,
) -> Gate {
    Gate::before(world, (status, code), move |log: &Log, _| {
        if log.passes(100) {
            log.refuse("one");
            then();
        }
    })
    .await
}

/// Returns a profile with the sandbox's key and this token.
fn keys(token: &str) -> String {
    let SandboxOptions {
        access_key,
        secret_key,
        ..
    } = SandboxOptions::default();
    format!(
        "[lake]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\naws_session_token = {token}\n"
    )
}

/// Returns the program with this profile, whose files are in a directory.
fn with_profile(directory: &Path, gate: &Gate) -> Command {
    let mut program = command();
    program
        .env("AWS_CONFIG_FILE", directory.join("config"))
        .env("AWS_SHARED_CREDENTIALS_FILE", directory.join("credentials"))
        .env("AWS_PROFILE", "lake")
        .env("AWS_ENDPOINT_URL_S3", &gate.liar.url);
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_files_that_vanish_in_mid_run_are_waited_for_and_named() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("credentials");
    fs::write(directory.path().join("config"), "[profile lake]\n").unwrap();
    fs::write(&file, keys("one")).unwrap();
    let at = directory.path().to_owned();
    let gate = revoking(&world, (400, "ExpiredToken"), move || {
        for name in ["config", "credentials"] {
            fs::remove_file(at.join(name)).unwrap();
        }
        let at = at.clone();
        tokio::spawn(async move {
            // A wait is reported only after some time, which this exceeds.
            tokio::time::sleep(Duration::from_millis(2800)).await;
            fs::write(at.join("credentials"), keys("two")).unwrap();
        });
    })
    .await;
    let (exit, _, stderr) = run(with_profile(directory.path(), &gate), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    let said = format!(
        "waiting for credentials: profile `lake` (AWS_PROFILE): it is not in {}",
        directory.path().join("config").display()
    );
    assert!(stderr.contains(&said), "{stderr}");
    let named = format!("{} (missing)", file.display());
    assert!(stderr.contains(&named), "{stderr}");
    for word in ["bug", "panicked", "IMDS", "metadata"] {
        assert!(!stderr.contains(word), "{word}: {stderr}");
    }
}

/// Writes a program that first prints credentials for this many seconds, and runs `then` when it is
/// called again.
fn program(directory: &Path, seconds: u64, then: &str) {
    let SandboxOptions {
        access_key,
        secret_key,
        ..
    } = SandboxOptions::default();
    let at = directory.display();
    let end = format!("{:.0}", Timestamp::now() + Duration::from_secs(seconds));
    let text = format!(
        "if mkdir {at}/begun 2>/dev/null; then\n\
         echo '{{\"Version\": 1, \"AccessKeyId\": \"{access_key}\", \"SecretAccessKey\": \"{secret_key}\", \
         \"SessionToken\": \"one\", \"Expiration\": \"{end}\"}}'\n\
         else\n{then}\nfi\n"
    );
    fs::write(directory.join("program"), text).unwrap();
    let config = format!("[profile lake]\ncredential_process = sh {at}/program --secret x\n");
    fs::write(directory.join("config"), config).unwrap();
}

/// Returns true while a process with this pid runs.
fn runs(id: &str) -> bool {
    // An ended process that nobody has waited for is a zombie (Z).
    fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|state| !state.contains(") Z "))
}

#[rstest]
#[case::its_set_is_refused(3600)]
#[case::its_set_has_ended(3)]
#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_that_hangs_in_mid_run_is_named_and_ends_with_the_run(
    #[case] seconds: u64,
) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let directory = tempfile::tempdir().unwrap();
    let ids = directory.path().join("ids");
    program(
        directory.path(),
        seconds,
        &format!("sleep 600 & echo $! $$ > {}\nwait", ids.display()),
    );
    let gate = if seconds > 60 {
        revoking(&world, (400, "ExpiredToken"), || {}).await
    } else {
        Gate::before(&world, (400, "ExpiredToken"), |_, _| {}).await
    };
    let words = [
        &COPY[..],
        &["--patience", "2s", "--requests-per-second", "40"],
    ]
    .concat();
    let (exit, stdout, stderr) = run(with_profile(directory.path(), &gate), &words).await;
    assert_eq!(exit, 4, "{stderr}");
    assert!(
        stderr.contains("`credential_process` of profile `lake`: no answer yet after"),
        "{stderr}"
    );
    for word in ["timed-out", "refuses the set", "failed:", "--secret"] {
        assert!(!stderr.contains(word), "{word}: {stderr}");
    }
    assert!(!stdout.contains("failed"), "{stdout}");
    let ids = fs::read_to_string(ids).unwrap();
    for id in ids.split_whitespace() {
        let began = std::time::Instant::now();
        while runs(id) {
            assert!(began.elapsed() < Duration::from_secs(10), "{id} runs still");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_process_that_fails_in_mid_run_is_asked_again_and_named() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display().to_string();
    let SandboxOptions {
        access_key,
        secret_key,
        ..
    } = SandboxOptions::default();
    let answer = format!(
        "{{\"Version\": 1, \"AccessKeyId\": \"{access_key}\", \"SecretAccessKey\": \"{secret_key}\", \"SessionToken\": \"two\"}}"
    );
    program(
        directory.path(),
        3600,
        &format!(
            "mkdir {at}/a 2>/dev/null && exit 2\nmkdir {at}/b 2>/dev/null && echo 'the vault is sealed' >&2 && exit 2\n\
             mkdir {at}/c 2>/dev/null && exit 2\necho '{answer}'"
        ),
    );
    let gate = revoking(&world, (400, "ExpiredToken"), || {}).await;
    let (exit, _, stderr) = run(with_profile(directory.path(), &gate), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    let said =
        "waiting for credentials: `credential_process` of profile `lake`: exited with status 2";
    assert!(stderr.contains(said), "{stderr}");
}

/// A revoked session is denied everything, even what its role may do.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_denied_everything_is_replaced_if_there_is_a_newer_one() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let gives = Arc::clone(&issuer);
    let gate = revoking(&world, (403, "AccessDenied"), move || {
        gives.reply(set("two", 3600));
    })
    .await;
    let (exit, _, stderr) = run(gate.command(&issuer), &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    assert_eq!(issuer.asked(), 2, "{stderr}");
    let refusals = gate.log.refusals();
    assert!(refusals <= 40, "{refusals} with 16 requests in flight");
}

/// A missing permission does not make s3haul ask the provider again and again.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_refusal_asks_the_provider_once() {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let liar = Liar::lying(&world, |asked: &Asked| {
        if asked.method == "PUT" && asked.path.ends_with('7') {
            Lie::error(403, "AccessDenied")
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
    assert_eq!(exit, 1, "{stderr}");
    let copied = world.keys(DESTINATION).len();
    assert_eq!(copied, OBJECTS - OBJECTS / 10, "{stderr}");
    assert_eq!(issuer.asked(), 2, "{stderr}");
}

/// The way to replace a file.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Another file is renamed to its name.
    Rename,
    /// As in Kubernetes' projected volumes, the file is a link into `..data`, which is a link that
    /// switches to another directory.
    Projected,
}

impl Way {
    /// Writes a file for the first time, or replaces it.
    fn write(self, directory: &Path, text: &str) -> PathBuf {
        let file = directory.join("file");
        match self {
            Self::Rename => {
                let new = directory.join("new");
                fs::write(&new, text).unwrap();
                fs::rename(new, &file).unwrap();
            }
            Self::Projected => {
                let count = fs::read_dir(directory).unwrap().count();
                let data = directory.join(format!("..{count}"));
                fs::create_dir(&data).unwrap();
                fs::write(data.join("file"), text).unwrap();
                let link = directory.join("..data_tmp");
                symlink(format!("..{count}"), &link).unwrap();
                let old = fs::read_link(directory.join("..data"));
                fs::rename(link, directory.join("..data")).unwrap();
                match old {
                    Ok(old) => fs::remove_dir_all(directory.join(old)).unwrap(),
                    Err(_) => symlink("..data/file", &file).unwrap(),
                }
            }
        }
        file
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn tokens_in_files_are_read_again(
    #[values("container", "web identity")] provider: &str,
    #[values(Way::Rename, Way::Projected)] way: Way,
) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(set("one", 3600)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = way.write(directory.path(), "first-jwt");
    let (at, gives) = (directory.path().to_owned(), Arc::clone(&issuer));
    let gate = revoking(&world, (400, "ExpiredToken"), move || {
        way.write(&at, "second-jwt");
        gives.reply(set("two", 3600));
    })
    .await;
    let mut program = command();
    program.env("AWS_ENDPOINT_URL_S3", &gate.liar.url);
    if provider == "container" {
        program
            .envs([issuer.container()])
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &file);
    } else {
        program
            .envs([issuer.sts()])
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &file)
            .env("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x");
    }
    let (exit, _, stderr) = run(program, &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    let requests = issuer.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(
        requests[0].contains("first-jwt") && requests[1].contains("second-jwt"),
        "{requests:?}"
    );
}

#[rstest]
#[case(Way::Rename)]
#[case(Way::Projected)]
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_credentials_file_that_is_replaced_is_read_again(#[case] way: Way) {
    let world = World::with_numbered(OBJECTS, 10).await;
    let directory = tempfile::tempdir().unwrap();
    let file = way.write(directory.path(), &keys("one"));
    let at = directory.path().to_owned();
    let gate = revoking(&world, (403, "InvalidAccessKeyId"), move || {
        way.write(&at, &keys("two"));
    })
    .await;
    let mut program = with_profile(directory.path(), &gate);
    program.env("AWS_SHARED_CREDENTIALS_FILE", &file);
    let (exit, _, stderr) = run(program, &COPY).await;
    assert_all_copied(&world, exit, &stderr);
    assert!(gate.log.refusals() > 0);
}

/// The sets are valid for three seconds by the server's clock, which is 10 minutes ahead. By the
/// local clock, they seem to be valid for 603.
#[rstest]
#[case::from_the_start(0)]
#[case::in_mid_run(60)]
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_credentials_is_judged_by_the_clock_of_the_server(#[case] first: usize) {
    const LASTS: Duration = Duration::from_secs(3);
    const AHEAD: Duration = Duration::from_mins(10);
    let world = World::with_numbered(OBJECTS, 10).await;
    let issuer = issuer(Reply::Fresh(if first > 0 { LASTS } else { LASTS + AHEAD })).await;
    let gives = Arc::clone(&issuer);
    let ended = Arc::new(AtomicUsize::new(0));
    let (count, taken) = (Arc::clone(&ended), AtomicUsize::new(0));
    let seen = std::sync::Mutex::new(std::collections::BTreeMap::new());
    let liar = Liar::lying(&world, move |asked: &Asked| {
        let is_ahead = taken.load(Ordering::SeqCst) >= first;
        let ahead =
            SignedDuration::try_from(if is_ahead { AHEAD } else { Duration::ZERO }).unwrap();
        if is_ahead {
            gives.reply(Reply::Fresh(LASTS + AHEAD));
        }
        let now = Timestamp::now() + ahead;
        let date = date_header(&now.to_zoned(TimeZone::UTC));
        let refuse = |code| Lie::Given(Answer::error(403, code).with(&date));
        let signed = signed_at(asked).unwrap();
        if (now - signed).total(jiff::Unit::Second).unwrap().abs() > 300.0 {
            return refuse("RequestTimeTooSkewed");
        }
        let token = asked.header("x-amz-security-token").unwrap().to_owned();
        let mut seen = seen.lock().unwrap();
        let since = seen.entry(token).or_insert_with(std::time::Instant::now);
        if since.elapsed() > LASTS + Duration::from_millis(200) {
            count.fetch_add(1, Ordering::SeqCst);
            return refuse("ExpiredToken");
        }
        taken.fetch_add(1, Ordering::SeqCst);
        Lie::Changed(Box::new(move |answer| answer.with(&date)))
    })
    .await;
    let mut program = command();
    program
        .envs([issuer.container()])
        .env("AWS_ENDPOINT_URL_S3", &liar.url);
    let words = [&COPY[..], &["--requests-per-second", "40"]].concat();
    let (exit, _, stderr) = run(program, &words).await;
    assert_all_copied(&world, exit, &stderr);
    assert_eq!(ended.load(Ordering::SeqCst), 0, "{stderr}");
    assert!((2..12).contains(&issuer.asked()), "{}", issuer.asked());
}
