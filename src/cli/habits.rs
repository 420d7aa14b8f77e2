//! Responds to commands and flags of other tools that users type by habit.
//!
//! `sync`, `--delete`, and `--transfers` have a definite meaning to users who type them. The answer
//! is one sentence: the equivalent in s3haul, or that there is none and why. A suggestion by
//! spelling (`version` -> `verify`) would mislead them. docs/commands.md has the same tables.

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;
use crate::printable::joined;
use crate::size::{by_number, parse_duration};

/// Words with the same meaning, separated by spaces, and the answer to them.
type Answer = (&'static str, &'static str);

/// Commands of the AWS CLI, rclone, s5cmd, mc, s3cmd, rsync, terraform, and kubectl.
const COMMANDS: &[Answer] = &[
    (
        "sync rsync mirror replicate backup",
        "use `s3haul copy SRC/ DST/`: it copies what is missing or changed, and never deletes",
    ),
    ("cp copyto put upload push", "use `s3haul copy SRC DST`"),
    ("s3 s3api", "leave that word out: `s3haul copy SRC DST`"),
    (
        "get download pull fetch cat head-object",
        "s3haul does not download; it copies between buckets and from local files into buckets",
    ),
    (
        "pipe rcat",
        "use `s3haul copy - s3://bucket/key`, which reads standard input",
    ),
    (
        "mv move moveto rename",
        "s3haul never deletes a source: use `s3haul copy SRC DST`, then `s3haul verify SRC DST`, then remove SRC with \
         another tool",
    ),
    (
        "rm rmdir delete del remove purge deletefile rb",
        "s3haul never deletes objects or buckets; `s3haul uploads abort` ends unfinished uploads",
    ),
    (
        "ls list lsl lsd lsf dir tree find stat head",
        "s3haul does not list objects; `s3haul copy SRC DST --dry-run --json` lists what a copy would write, \
         `s3haul uploads list` lists unfinished uploads",
    ),
    (
        "du size count ncdu",
        "s3haul does not measure buckets; `s3haul copy SRC DST --dry-run` counts the objects and bytes to copy",
    ),
    (
        "mb mkdir make-bucket touch",
        "s3haul does not create buckets; create them first with another tool",
    ),
    ("presign share link", "s3haul does not presign URLs"),
    ("apply start exec execute", "use `s3haul run JOB`"),
    ("validate lint doctor", "use `s3haul check JOB`"),
    (
        "probe capabilities features",
        "use `s3haul check JOB --probe`, which measures the servers of a job",
    ),
    (
        "diff compare cmp cryptcheck",
        "use `s3haul verify SRC DST` or `s3haul verify JOB`",
    ),
    (
        "resume continue restart",
        "run the same command again: it resumes from its journal; `s3haul status` shows its progress",
    ),
    (
        "ps jobs log logs history progress watch top",
        "use `s3haul status`",
    ),
    (
        "stop kill cancel pause",
        "send SIGINT or SIGTERM to the run: it stops cleanly, and the same command resumes it later",
    ),
    (
        "init new config configure login alias",
        "no setup is needed: AWS_* variables and profiles apply, and `s3haul schema` describes a job manifest",
    ),
    (
        "abort clean cleanup gc",
        "use `s3haul uploads abort s3://bucket/ --older-than 7d`",
    ),
    ("serve server serves3 mock", "use `s3haul sandbox`"),
    ("restore", "use `s3haul copy SRC DST --archived restore`"),
    (
        "update upgrade selfupdate self-update",
        "s3haul does not update itself; install it again",
    ),
    (
        "job manifest yaml example",
        "`s3haul schema` describes the manifest; run it with `s3haul run JOB`",
    ),
    (
        "environment env variables exit-codes files",
        "`s3haul man` has ENVIRONMENT, FILES, and EXIT STATUS",
    ),
];

/// Flags of the same tools. A flag that s3haul itself has is never looked up here.
const FLAGS: &[Answer] = &[
    (
        "--delete --delete-after --delete-before --delete-during --delete-excluded --del --remove --rm --purge",
        "s3haul never deletes; `s3haul verify SRC DST` lists extra objects",
    ),
    ("--dryrun --dry --simulate --just-print -n", "use --dry-run"),
    (
        "-f --force",
        "there is nothing to force: give a job without -f; --when always copies everything; --fresh starts over",
    ),
    (
        "-y --yes --assume-yes --no-interactive -i --interactive",
        "s3haul asks no questions",
    ),
    (
        "--transfers --checkers --numworkers --num-workers --workers --threads --parallel --parallelism -j -c --jobs \
         --concurrency --max-concurrent-requests --max_concurrent_requests --upload-concurrency --s3-upload-concurrency \
         --multi-thread-streams --max-workers",
        "the number of requests in flight adapts automatically; --in-flight N sets a ceiling",
    ),
    (
        "--bwlimit --bandwidth --max-bandwidth --max_bandwidth --limit-rate --limit-upload --limit-download --bwlimit-file",
        "use --bytes-per-second RATE, for example 100MiB/s",
    ),
    (
        "--tpslimit --tpslimit-burst --rate-limit --qps",
        "use --requests-per-second N",
    ),
    (
        "-P --progress --show-progress --stats --stats-one-line",
        "progress is shown without a flag (--quiet hides it); `s3haul status` shows it from elsewhere",
    ),
    (
        "-s --silent --no-progress --only-show-errors --only-errors --no-stats",
        "use --quiet; errors are always shown",
    ),
    (
        "--debug --log-level --loglevel --log",
        "use -v, -vv, or -vvv, or set S3HAUL_LOG",
    ),
    (
        "--log-file --logfile",
        "logs go to standard error: redirect them with 2> FILE; --report FILE has one line per object",
    ),
    (
        "--exclude-from --include-from --filter-from --filter --exclude-file --files-from --files-from-raw",
        "s3haul reads no pattern files: repeat --include and --exclude, or list the patterns in a job manifest",
    ),
    (
        "--ignore-existing --no-clobber --no-overwrite --immutable -nc --skip-existing",
        "use --when missing",
    ),
    (
        "--ignore-times --overwrite -I --no-check-dest",
        "use --when always",
    ),
    (
        "-u --update --if-size-differ --if-source-newer --if-changed --existing",
        "--when changed does that, and it is the default",
    ),
    (
        "--size-only --checksum --exact-timestamps --ignore-checksum --use-etag --modify-window",
        "use --compare size, etag, checksum, or time; without it, sizes, ETags, and times decide",
    ),
    (
        "--newer-than --newer --older",
        "use --modified-after or --modified-before, with a time or an age such as 24h",
    ),
    (
        "--no-sign-request --anonymous --no-sign",
        "s3haul signs every request; it has no anonymous access",
    ),
    (
        "-k --no-verify-ssl --insecure --no-check-certificate",
        "certificates are always checked; name the CA of a private server with SSL_CERT_FILE",
    ),
    (
        "--source-region --src-region --destination-region --dst-region",
        "s3haul finds the Region of each bucket; --region or an endpoint in a job manifest overrides it",
    ),
    (
        "--source-profile --source-endpoint --source-endpoint-url --destination-profile --target-profile \
         --target-endpoint-url",
        "two identities or servers need a job manifest: `endpoints:`, and `endpoint:` in `from` and `to`",
    ),
    (
        "--endpoint --host --host-bucket --s3-endpoint --url",
        "use --endpoint-url URL, or set AWS_ENDPOINT_URL_S3",
    ),
    (
        "--access-key --access_key --secret-key --secret_key --aws-access-key-id --aws-secret-access-key \
         --credentials-file --no-credentials",
        "secrets are never typed on a command line: use --profile, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        "--sse-c --sse-c-key --sse-customer-key --sse-customer-algorithm --enc-c --encrypt-key",
        "use --customer-key env:NAME or file:PATH (--source-customer-key for the source)",
    ),
    (
        "--sse-c-copy-source --sse-c-copy-source-key",
        "use --source-customer-key env:NAME or file:PATH",
    ),
    (
        "--server-side-encryption --enc-s3 -e --encrypt",
        "use --sse AES256 or --sse aws:kms",
    ),
    (
        "--enc-kms --kms-key-id --sse-kms-key --server-side-encryption-kms-id",
        "use --sse aws:kms --sse-kms-key-id ARN",
    ),
    (
        "--chunk-size --s3-chunk-size --multipart-chunk-size --multipart-chunksize --multipart_chunksize \
         --multipart-chunk-size-mb -p",
        "use --part-size SIZE; without it, the size of an object decides",
    ),
    (
        "--multipart-threshold --multipart_threshold --upload-cutoff --s3-upload-cutoff --s3-copy-cutoff \
         --multi-thread-cutoff",
        "use --threshold SIZE",
    ),
    (
        "--disable-multipart --no-multipart",
        "use --threshold 5GiB: objects up to that size are copied in one request",
    ),
    (
        "--retries --low-level-retries --retry-count --retry --max-retries --max-attempts --retries-sleep",
        "s3haul retries requests; --patience sets the longest wait for a server",
    ),
    (
        "--max-errors --max-failure --ignore-errors",
        "use --max-failures N; a run continues after failed objects",
    ),
    (
        "--timeout --contimeout --cli-read-timeout --cli-connect-timeout",
        "time limits grow with the bytes of a request; --patience sets the longest wait for a server",
    ),
    (
        "-L -l --follow-symlinks --no-follow-symlinks --copy-links --links --skip-links --follow",
        "use --symlinks follow, skip, or fail",
    ),
    (
        "--metadata-directive --copy-props --tagging-directive --preserve-metadata --no-preserve --attr",
        "use --preserve, for example --preserve content-only; --metadata and --tag add values",
    ),
    (
        "--grants --acl-public --acl-private",
        "use --acl NAME for a canned ACL, or keep the grants with --preserve acl=require",
    ),
    (
        "--tags --tagging --add-tag",
        "use --tag KEY=VALUE once for each tag",
    ),
    ("--request-payer", "use --requester-pays"),
    (
        "--expected-bucket-owner",
        "use --source-owner and --destination-owner",
    ),
    (
        "--no-guess-mime-type --guess-mime-type --mime-type --default-mime-type",
        "use --content-type TYPE",
    ),
    (
        "-o --output --format",
        "use --json; without it the output is text",
    ),
    (
        "-a -z --archive --compress --times --owner --perms",
        "s3haul keeps metadata by default (see --preserve), and never compresses",
    ),
    (
        "-w --daemon --monitor",
        "a run ends when everything is copied; schedule it to run again",
    ),
    (
        "--resume --continue --append",
        "run the same command again: it resumes from its journal",
    ),
    (
        "--config --config-file --conf -C",
        "credentials come from AWS_CONFIG_FILE and --profile; give a job by its path",
    ),
    (
        "--from --to --src --dst --source --dest --destination",
        "give SRC and DST without flags",
    ),
    (
        "--var -var --set --set-string",
        "a job manifest takes ${NAME} from the environment",
    ),
    (
        "--target --only --transfer",
        "a job always runs as a whole; `s3haul retry REPORT` runs what failed",
    ),
    (
        "--no-traverse --fast-list --page-size --list-cutoff",
        "s3haul splits lists and reads them in parallel",
    ),
    (
        "--cache --mode --server-side-across-configs --s3-no-check-bucket --expected-size --cli-binary-format",
        "s3haul has no such setting",
    ),
    (
        "--checksum-algorithm --checksum-mode",
        "s3haul chooses the checksum of a copy itself; --compare checksum compares by checksum",
    ),
    (
        "--expires --website-redirect",
        "s3haul keeps this header of the source and sets no other; --cache-control sets how long caches keep an object",
    ),
    (
        "--no-paginate --max-items --starting-token",
        "s3haul always reads lists to their end; --include and --exclude select objects",
    ),
    (
        "--case-conflict",
        "keys are case-sensitive in S3, so no two objects conflict",
    ),
    (
        "--force-glacier-transfer --ignore-glacier-warnings",
        "use --archived restore, skip, or fail",
    ),
    (
        "--query --no-cli-pager --cli-auto-prompt",
        "s3haul has no such setting; --json prints records for other programs",
    ),
];

/// Returns the answer to a word of another tool, or the parser's error with a better text.
pub(super) fn answer(mut error: clap::Error, given: &[String]) -> Result<String, clap::Error> {
    let word = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            match word(ContextKind::InvalidSubcommand).and_then(|word| about_command(&word)) {
                Some(answer) => Ok(answer),
                None => Err(error),
            }
        }
        ErrorKind::UnknownArgument => {
            let command = command_of(given);
            let Some(word) = word(ContextKind::InvalidArg) else {
                return Err(error);
            };
            let is_watch =
                |pair: &&[String]| pair[0] == "--watch" && parse_duration(&pair[1]).is_ok();
            if command.as_deref() == Some("status")
                && let Some(pair) = given.windows(2).find(is_watch)
            {
                return Ok(watch_every(&pair[1]));
            }
            if let Some(answer) = about_flag(&word, command.as_deref()) {
                return Ok(answer);
            }
            // A mistyped flag is rarely meant as a file name.
            if word.starts_with("--") {
                error.remove(ContextKind::Suggested);
            }
            if let Some(ContextValue::String(flag)) = error.get(ContextKind::SuggestedArg)
                && !is_similar(&word, flag)
            {
                error.remove(ContextKind::SuggestedArg);
            }
            Err(error)
        }
        // With one argument, the parser assigns it to DST and reports SRC as missing. The user
        // left out DST.
        ErrorKind::MissingRequiredArgument if missing(&error) == ["<SRC>..."] => {
            error.insert(
                ContextKind::InvalidArg,
                ContextValue::Strings(vec!["<DST>".to_owned()]),
            );
            Err(error)
        }
        _ => Err(error),
    }
}

/// Returns true if a flag may be a misspelling of the other one. The parser also suggests flags
/// that share only some letters.
fn is_similar(typed: &str, flag: &str) -> bool {
    let name = |flag: &str| flag.trim_start_matches('-').to_owned();
    let (typed, flag) = (name(typed), name(flag));
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    flag.starts_with(&typed) || strsim::osa_distance(&typed, &flag) <= allowed
}

/// Returns the answer to `status --watch 5s`.
pub(super) fn watch_every(time: &str) -> String {
    format!("`--watch {time}`: write --watch={time}")
}

fn missing(error: &clap::Error) -> &[String] {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(missing)) => missing,
        _ => &[],
    }
}

/// Returns the command that was typed, if it exists.
fn command_of(given: &[String]) -> Option<String> {
    let cli = Cli::command();
    given
        .iter()
        .find(|word| cli.find_subcommand(word.as_str()).is_some())
        .cloned()
}

fn find(table: &[Answer], word: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(words, _)| words.split_whitespace().any(|known| known == word))
        .map(|(_, answer)| *answer)
}

/// Returns the answer to a word typed as a command.
fn about_command(word: &str) -> Option<String> {
    if let Some(answer) = find(COMMANDS, &word.to_ascii_lowercase()) {
        return Some(format!("there is no command `{word}`: {answer}"));
    }
    if word.contains("://") || word == "-" {
        return Some(format!(
            "{word} is not a command: write `s3haul copy SRC DST`"
        ));
    }
    let is_file = std::path::Path::new(word).is_file();
    is_file.then(|| format!("{word} is not a command: write `s3haul run {word}`"))
}

/// Returns the answer to a flag or word that `command` does not accept.
fn about_flag(word: &str, command: Option<&str>) -> Option<String> {
    let command = command.unwrap_or("s3haul");
    if !word.starts_with('-') {
        let answer = match command {
            "run" => "to copy without a manifest, write `s3haul copy SRC DST`",
            "plan" => "to plan a copy, write `s3haul copy SRC DST --dry-run`",
            "check" => "to compare two places, write `s3haul verify SRC DST`",
            _ => return None,
        };
        return Some(format!(
            "`{command}` takes one job manifest, so {word} is one argument too many; {answer}"
        ));
    }
    if let Some(others) = elsewhere(word) {
        let is_of_copy = others.iter().any(|other| other == "copy");
        let remedy = match command {
            "run" | "plan" | "check" if is_of_copy => {
                " (a job has its options in the manifest, see `s3haul schema`)"
            }
            "retry" => " (`retry` takes the options of the run that it repeats)",
            _ => "",
        };
        let others: Vec<_> = others.iter().map(|other| format!("`{other}`")).collect();
        if others.is_empty() {
            return None;
        }
        let has = by_number(others.len() as u64, "has", "have");
        let list = joined(others.iter().map(String::as_str), "and");
        return Some(format!(
            "`{command}` has no flag {word}; {list} {has} it{remedy}"
        ));
    }
    let answer = find(FLAGS, word)?;
    Some(format!("there is no flag {word}: {answer}"))
}

/// Returns true if `name` is the flag's name or one of its aliases.
fn is_called(argument: &clap::Arg, name: &str) -> bool {
    argument.get_long() == Some(name)
        || argument
            .get_all_aliases()
            .unwrap_or_default()
            .contains(&name)
}

/// Returns the commands that have this flag, or `None` if no command has it.
fn elsewhere(flag: &str) -> Option<Vec<String>> {
    let name = flag.strip_prefix("--")?;
    let cli = Cli::command();
    let has = |command: &clap::Command| {
        command
            .get_arguments()
            .any(|argument| is_called(argument, name))
    };
    let found: Vec<String> = cli
        .get_subcommands()
        .filter(|command| has(command) || command.get_subcommands().any(has))
        .map(|command| command.get_name().to_owned())
        .collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::super::pages::assert_page_has;
    use super::*;

    fn words(table: &'static [Answer]) -> impl Iterator<Item = &'static str> {
        table.iter().flat_map(|(words, _)| words.split_whitespace())
    }

    /// Checks that every flag, and every command after `s3haul`, that an answer mentions exists.
    #[test]
    fn answers_name_what_there_is() {
        let cli = Cli::command();
        for (_, answer) in COMMANDS.iter().chain(FLAGS) {
            for flag in answer
                .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
                .filter(|word| word.starts_with("--"))
            {
                let is_global = cli
                    .get_arguments()
                    .any(|argument| argument.get_long() == flag.strip_prefix("--"));
                assert!(
                    is_global || elsewhere(flag).is_some(),
                    "{flag} of: {answer}"
                );
            }
            for part in answer.split("`s3haul ").skip(1) {
                let command = part.split([' ', '`']).next().unwrap();
                assert!(
                    cli.find_subcommand(command).is_some(),
                    "{command} of: {answer}"
                );
            }
        }
    }

    #[test]
    fn each_word_is_answered_once_and_is_no_word_of_ours() {
        let cli = Cli::command();
        let mut seen = BTreeSet::new();
        for word in words(COMMANDS).chain(words(FLAGS)) {
            assert!(seen.insert(word), "{word} stands twice");
        }
        for word in words(COMMANDS) {
            assert!(cli.find_subcommand(word).is_none(), "{word} is a command");
        }
        // `elsewhere` answers for a flag that another command has, so the table must not list it.
        for flag in words(FLAGS).filter(|flag| flag.starts_with("--")) {
            assert!(
                elsewhere(flag).is_none(),
                "{flag} is a flag of {:?}",
                elsewhere(flag)
            );
        }
    }

    fn table(head: &str, table: &[Answer]) -> String {
        let mut text = format!("| {head} | here |\n|---|---|\n");
        for (words, answer) in table {
            let words: Vec<_> = words
                .split_whitespace()
                .map(|word| format!("`{word}`"))
                .collect();
            let _ = writeln!(text, "| {} | {answer} |", words.join(" "));
        }
        text
    }

    /// Checks the tables of the page; `UPDATE_README=1` writes them.
    #[test]
    fn the_page_has_the_tables() {
        let tables = [
            ("commands", table("command", COMMANDS)),
            ("flags", table("flag", FLAGS)),
        ];
        assert_page_has("docs/commands.md", &tables);
    }
}
