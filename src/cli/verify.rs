//! `verify`: compares both sides without copying anything.

mod receipts;
mod tell;

use std::time::Instant;

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::tell::{VerifyConsole, summary};
use super::copy::{Copy, in_s3, recursive};
use super::job_environment::{JobEnvironment, SidesFlags};
use super::select::{PATTERNS, SelectFlags};
use super::set::KeyFlags;
use super::{
    CliError, EndpointFlags, Exit, JobFile, Output, local_source, next, note, presence, say,
    say_json, say_line, termination, unused_flags,
};
use crate::location::S3Uri;
use crate::manifest::job::{
    DEFAULT_ENDPOINT, Destination, Job, ReportPlace, Source, Symlinks, Transfer, Versions, When,
};
use crate::plan::empty::EmptySelection;
use crate::planner::Sides;
use crate::size::{by_number, display_count, display_counted};
use crate::verify::{self, Counts, Deep};

const EXAMPLES: &str = "\
Examples:
  s3haul verify nightly.yaml                       everything that the job would copy
  s3haul verify s3://lake/events/ s3://lake-dr/events/
  s3haul verify --report report.jsonl              what a run has copied, object by object
  s3haul verify --report s3://ops/s3haul/nightly/  the same for the latest run that reported there
  s3haul verify nightly.yaml --deep                read what checksums and ETags do not prove
  s3haul verify nightly.yaml --deep=all            read everything

Exit codes: 0 nothing is different or missing, and nothing failed; 1 something is different, missing, or could not be
compared, a selection with `empty: fail` matches nothing, or no selection matches anything, unless all say `empty: ok` (with
--strict also: something is extra or unprovable, extra objects could not be searched for, report lines have no pair to
compare, or a selection with `empty: warn` matches nothing); 2 the command line, the job, or the report is wrong; 3 a bucket,
a source, or the report cannot be used, or lists were refused and no object was found; 4 interrupted, or waited too long for a
server or for credentials.";

/// Compares two sides without copying anything. Reads object bytes only with --deep.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\nWith SRC DST:\n{PATTERNS}"))]
pub(super) struct VerifyArgs {
    /// A job manifest, or a source and a destination as for `copy`.
    #[arg(value_name = "JOB | SRC DST", num_args = 0..=2)]
    what: Vec<String>,
    /// Compare again each object that this report lists as copied or equal: a file, or
    /// s3://bucket/prefix/ for the latest run that reported there.
    #[arg(long, value_name = "REPORT", conflicts_with = "what")]
    report: Option<ReportPlace>,
    /// Read both sides and compare the bytes of unprovable pairs, or of all pairs.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "unproven", value_parser = ["unproven", "all"])]
    deep: Option<String>,
    /// Also exit with 1 for extra and unprovable objects, for places where extra objects could not
    /// be searched for, for report lines without a pair to compare, and for a selection that
    /// matches nothing, unless the job says `empty: ok`.
    #[arg(long)]
    strict: bool,
    /// Treat SRC as a prefix, as in `copy`.
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    select: SelectFlags,
    #[command(flatten)]
    access: SidesFlags,
    #[command(flatten)]
    keys: KeyFlags,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

/// Refuses a job that changes objects in place, because each object would be compared with itself.
fn refuse_in_place(job: &Job) -> Result<(), CliError> {
    let Some(transfer) = job
        .transfers
        .iter()
        .find(|transfer| transfer.is_onto_itself())
    else {
        return Ok(());
    };
    Err(CliError::Usage(format!(
        "`{}` changes objects in place, so there are no two sides to compare; `s3haul plan` shows which objects still lack \
         what the job sets",
        transfer.name
    )))
}

impl VerifyArgs {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        Box::pin(self.compare(output)).await
    }

    async fn compare(&self, output: Output) -> Result<Exit, CliError> {
        let began = Instant::now();
        let mut console = VerifyConsole::new(output, began);
        let mut keeps_existing = false;
        let counts = match (self.what.as_slice(), &self.report) {
            ([], Some(report)) => self.receipts(report, &mut console).await?,
            ([one], None) if one.starts_with("s3://") => {
                let message =
                    format!("{one} is one side; give the other one too: `s3haul verify SRC DST`");
                return Err(CliError::Usage(message));
            }
            ([path], None) => {
                let job = JobFile {
                    path: path.into(),
                    #[cfg(feature = "sandbox")]
                    sandbox: false,
                };
                self.refuse_pair_flags(path)?;
                let job = job.load()?;
                refuse_in_place(&job)?;
                keeps_existing = job.transfers.iter().any(|it| it.when == When::Missing);
                self.job(&job, &mut console).await?
            }
            ([source, destination], None) => {
                self.job(&self.pair(source, destination)?, &mut console)
                    .await?
            }
            _ => {
                let message =
                    "give a job, or a source and a destination, or --report with a run's receipts";
                return Err(CliError::Usage(message.to_owned()));
            }
        };
        let remedy =
            (counts.different + counts.missing > 0).then(|| self.remedy(&counts, keeps_existing));
        let deep = (counts.unprovable > 0 && self.deep.is_none()).then(|| {
            let command = next::this_with("--deep");
            format!("to compare the bytes of what is unprovable: {command}")
        });
        if output.json {
            let mut last = serde_json::json!({ "summary": counts });
            if let Some(remedy) = remedy {
                last["remedy"] = remedy.into();
            }
            if let Some(deep) = deep {
                last["deep"] = deep.into();
            }
            say_json(&last)?;
        } else {
            say(&summary(&counts, began.elapsed()))?;
            for line in remedy.iter().chain(&deep) {
                say_line(line)?;
            }
        }
        Ok(self.exit(&counts))
    }

    /// Prints each selection without a pair to compare, and returns the exit code.
    fn exit(&self, counts: &Counts) -> Exit {
        let mut empty_failures = Vec::new();
        // An empty report is one of a run that said so itself.
        let is_vain = self.report.is_none() && counts.has_nothing();
        for (what, fails) in self.empty(counts) {
            let fails = fails || is_vain;
            let word = match (fails, self.strict) {
                (true, _) => "error",
                (false, true) => "error: --strict",
                (false, false) => "warning",
            };
            note(&format!("{word}: {what}"));
            if fails || self.strict {
                empty_failures.push(what);
            }
        }
        let doubtful = if self.strict {
            counts.extra + counts.unprovable + self.print_gaps(counts)
        } else {
            0
        };
        let unequal = counts.different + counts.missing;
        let cause =
            counts
                .unlisted
                .cause(counts.failed, counts.found(), !empty_failures.is_empty());
        if let Some(cause) = cause.filter(|_| unequal == 0) {
            return cause.into();
        }
        let bad = unequal + counts.failed;
        if bad + doubtful == 0 && empty_failures.is_empty() {
            return Exit::Done;
        }
        termination::set_reason(&match empty_failures.into_iter().next() {
            Some(what) if bad == 0 => what,
            _ => format!(
                "{} compared: {} different, {} missing at the destination, {} failed, {} in doubt",
                display_counted(counts.compared(), "object"),
                display_count(counts.different),
                display_count(counts.missing),
                display_count(counts.failed),
                display_count(doubtful)
            ),
        });
        Exit::Failures
    }

    /// Returns a sentence for each transfer or report without a pair to compare, and whether the
    /// job treats that as a failure. A mistyped prefix has no pair that could differ, so it would
    /// look like success.
    fn empty(&self, counts: &Counts) -> Vec<(String, bool)> {
        let sentence = |empty: &EmptySelection| {
            // The user does not know the name of a transfer from the command line.
            let name = if self.is_of_two_sides() {
                String::new()
            } else {
                format!("{}: ", empty.transfer)
            };
            let what = format!("nothing was compared: {name}{}", empty.reason);
            (what, empty.fails)
        };
        let mut empty: Vec<_> = counts.empty.iter().map(sentence).collect();
        if self.report.is_some() && counts.has_nothing() {
            let what = "nothing was compared: no line of the report names a copy of an object in S3; compare a job or two places";
            empty.push((what.to_owned(), false));
        }
        empty
    }

    /// Returns true for SRC DST, which has no manifest.
    pub(super) fn is_of_two_sides(&self) -> bool {
        self.what.len() == 2
    }

    /// Returns the command that copies different or missing objects. A run sees by itself what is
    /// missing or has another size, unless `keeps_existing`. A difference that only reading shows
    /// is copied only with `when: always`.
    fn remedy(&self, counts: &Counts, keeps_existing: bool) -> String {
        let (flag, field) = match self.deep() {
            _ if keeps_existing && counts.different > 0 => ("--when always", "when: always"),
            _ if counts.different_of_same_size == 0 => ("", ""),
            Deep::No => ("--compare checksum", "compare: checksum"),
            Deep::Unproven | Deep::All => ("--when always", "when: always"),
        };
        match self.what.as_slice() {
            [source, destination] => {
                let flag = flag.split_whitespace();
                let command = next::command(
                    ["copy"]
                        .into_iter()
                        .chain(flag)
                        .chain([source.as_str(), destination]),
                );
                format!(
                    "to copy what is different or missing: {command} (with the flags that you gave here)"
                )
            }
            [job] => {
                let command = next::command(["run", job]);
                let change = match field {
                    "" => String::new(),
                    field => format!("write `{field}` into the transfer, then "),
                };
                format!("to copy what is different or missing: {change}{command}")
            }
            _ => "to copy one of them: s3haul copy --when always SOURCE DESTINATION".to_owned(),
        }
    }

    /// Prints the reasons why a strict comparison is incomplete, and returns their number.
    fn print_gaps(&self, counts: &Counts) -> u64 {
        let mut reasons = Vec::new();
        if self.report.is_some() {
            if counts.excluded > 0 {
                let left = display_counted(counts.excluded, "line");
                let name = by_number(counts.excluded, "names", "name");
                reasons.push(format!(
                    "{left} of the report {name} no pair to compare (skipped unseen, being restored, local files); \
                     compare the job itself: s3haul verify JOB"
                ));
            }
        } else {
            reasons.extend(counts.missed_extra());
        }
        for reason in &reasons {
            note(&format!("error: --strict: {reason}"));
        }
        reasons.len() as u64
    }

    fn deep(&self) -> Deep {
        match self.deep.as_deref() {
            None => Deep::No,
            Some("all") => Deep::All,
            Some(_) => Deep::Unproven,
        }
    }

    /// Refuses flags for SRC DST if a job or a report determines the objects and their endpoints.
    fn refuse_pair_flags(&self, subject: &str) -> Result<(), CliError> {
        let own = [
            ("--recursive", self.recursive),
            self.access.of_destination(),
            self.keys.of_source(),
            self.keys.of_destination(),
        ];
        // These flags tell how to reach a report in S3.
        let is_for_report = matches!(self.report, Some(ReportPlace::Prefix(_)));
        let endpoint = if is_for_report {
            Vec::new()
        } else {
            self.endpoint.flags().to_vec()
        };
        let flags = [
            &self.select.flags(),
            own.as_slice(),
            &self.access.of_source(),
            &endpoint,
        ]
        .concat();
        let remedy = "leave that out, or compare SRC DST";
        unused_flags::refuse(
            subject,
            "says itself what takes part and where",
            &flags,
            remedy,
        )
    }

    /// Returns a job that compares a source with a destination.
    fn pair(&self, source: &str, destination: &str) -> Result<Job, CliError> {
        if source == "-" {
            let message = "standard input cannot be read again; compare the file that it came from";
            return Err(CliError::Usage(message.to_owned()));
        }
        let location: S3Uri = destination
            .parse()
            .map_err(|error| CliError::Usage(format!("the destination must be in S3: {error}")))?;
        let (from, pattern) = if source.starts_with("s3://") {
            in_s3(source, self.recursive, None)?
        } else {
            (
                Source::Files {
                    path: local_source(source)?,
                    symlinks: Symlinks::Skip,
                },
                None,
            )
        };
        recursive(self.recursive, source, &from, pattern.is_some())?;
        if from.s3().is_none() {
            let flags = [self.access.of_source().as_slice(), &[self.keys.of_source()]].concat();
            unused_flags::refuse(source, "is not in S3", &flags, "leave that out")?;
        }
        let to = Destination {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location: Copy::destination_of(&location, &from, false)?,
            storage_class: None,
            encryption: None,
            acl: None,
        };
        let mut transfer = Transfer::new("verify", from, to);
        self.access.apply(&mut transfer);
        transfer.customer_keys = self.keys.keys();
        self.select.apply(&mut transfer, source, pattern)?;
        transfer.count_from(Timestamp::now());
        let job = Job::single(transfer, [self.endpoint.endpoint()]);
        CliError::of_flags(&job.check(), &[]).map_or(Ok(job), Err)
    }

    async fn job(&self, job: &Job, console: &mut VerifyConsole) -> Result<Counts, CliError> {
        let mut connections = JobEnvironment::ambient().connect(job, &CancellationToken::new());
        let mut counts = Counts {
            looked_for_extra: true,
            why_not_extra: None,
            ..Counts::default()
        };
        for transfer in &job.transfers {
            if transfer.versions == Versions::All {
                let name = &transfer.name;
                let message = format!(
                    "`{name}` copies all versions, but verify compares only current ones; \
                     write `verify --report` with the report of its run"
                );
                return Err(CliError::Usage(message));
            }
            connections.of_transfer(transfer).await?;
        }
        presence::require(job, &mut connections).await?;
        for transfer in &job.transfers {
            let (source, destination) = connections.of_transfer(transfer).await?;
            let sides = Sides::new(transfer, source, destination);
            let mut of_transfer =
                verify::transfer(&sides, self.deep(), |finding| console.tell(finding)).await;
            if job.transfers.len() > 1 {
                of_transfer.name_transfer(&transfer.name);
            }
            counts.merge(of_transfer);
        }
        Ok(counts)
    }
}
