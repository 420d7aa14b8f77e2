//! `copy`: runs a transfer from the command line, through the same checks as a manifest.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::history::HistoryFlags;
use super::job_environment::{JobEnvironment, SidesFlags};
use super::journal::JournalFlags;
use super::lease;
use super::run::{RunOptions, run};
use super::select::{PATTERNS, SelectFlags};
use super::set::SetFlags;
use super::signals::DrainFlags;
use super::{CliError, EndpointFlags, Exit, Output, local_source, plan, unused_flags, word};
use crate::journal::fingerprint::Fingerprint;
use crate::location::{ObjectKey, S3Uri};
use crate::manifest::job::{
    Compare, DEFAULT_ENDPOINT, Destination, Empty, FailureLimit, Job, LayoutChoice, OnMismatch,
    PartGoal, PartSize, Parts, Preserve, ProofPolicy, Prove, ReportPlace, Source, Symlinks,
    Transfer, Verify, When,
};
use crate::manifest::keys::{KeyGlob, Template};
use crate::report::ReportHeader;
use crate::size::{ByteRate, ByteSize, parse_duration};

const EXAMPLES: &str = "\
Examples:
  s3haul copy s3://lake/2026/ s3://lake-dr/2026/            everything below a prefix
  s3haul copy s3://lake/big.bin s3://other/big.bin          one object, of any size up to 48.8 TiB
  s3haul copy 's3://lake/logs/*.gz' s3://archive/logs/      by pattern
  s3haul copy ./dist s3://www/ --exclude '**/*.map'         a directory
  pg_dump db | s3haul copy - s3://backup/db.dump            standard input
  s3haul copy s3://lake/logs/ s3://lake/logs/ --storage-class GLACIER_IR    change objects in place

A location that ends in a slash is a prefix. Only objects that are missing or changed are copied; --when always
copies all. s3haul stays within the limits that you set, except for the bytes of one probe while a server is silent,
and slows down when S3 asks it to.";

/// Copies once, without a manifest.
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{PATTERNS}"))]
pub(super) struct Copy {
    /// s3://bucket/key, s3://bucket/prefix/, a file, a directory, or - for standard input. May be
    /// repeated.
    #[arg(value_name = "SRC", required = true)]
    sources: Vec<String>,
    /// s3://bucket/key, or s3://bucket/prefix/ with a trailing slash.
    #[arg(value_name = "DST")]
    destination: String,

    /// Treat SRC as a prefix: s3://b/log means s3://b/log/, as in aws s3. For all keys that start
    /// with log, use 's3://b/log*' and 's3://b/log*/**'.
    #[arg(short, long)]
    recursive: bool,
    /// Objects to copy: missing ones only, missing and changed ones, or always all.
    #[arg(long, value_name = "WHEN", value_parser = ["missing", "changed", "always"], default_value = "changed")]
    when: String,
    /// Find changed objects by auto (size, ETag if comparable, then time), size, etag, checksum
    /// (sends HEAD requests and hashes local files), or time. Default: auto.
    #[arg(long, value_name = "HOW", value_parser = word::<Compare>())]
    compare: Option<Compare>,
    /// Also copy equal objects whose headers, metadata, tags, encryption, or ACL differ from those
    /// set here. Sends one HEAD for each unchanged object.
    #[arg(long)]
    compare_attributes: bool,
    /// Select how to treat symbolic links below a directory. Default: skip.
    #[arg(long, value_parser = word::<Symlinks>(), value_name = "HOW")]
    symlinks: Option<Symlinks>,
    /// Storage class of new objects. Default: the class of the source object.
    #[arg(long, value_name = "CLASS")]
    storage_class: Option<String>,
    /// Attributes to keep: everything, default, or content-only, then policies such as
    /// tags=require,acl=try.
    #[arg(long, value_name = "WHAT")]
    preserve: Option<Preserve>,

    /// Template for the key after DST, for instance '{dir}{stem}-v1{ext}'. Placeholders: {key},
    /// {dir}, {name}, {stem}, {ext}, and {size}.
    #[arg(long, value_name = "TEMPLATE")]
    rename: Option<Template>,

    #[command(flatten)]
    select: SelectFlags,

    #[command(flatten)]
    set: SetFlags,

    #[command(flatten)]
    access: SidesFlags,

    /// Part size, 5MiB to 5GiB. Default: depends on the object size.
    #[arg(long, value_name = "SIZE")]
    part_size: Option<ByteSize>,
    /// Goal of automatic part sizes: balanced, fastest, or cheapest (the fewest requests). Default:
    /// balanced.
    #[arg(long, value_name = "GOAL", value_parser = word::<PartGoal>(), conflicts_with = "part_size")]
    part_goal: Option<PartGoal>,
    /// Copy objects in parts if they are larger than this.
    #[arg(long, value_name = "SIZE")]
    threshold: Option<ByteSize>,
    /// Part boundaries of a copy: `source` repeats those of the source object, so that multipart
    /// ETags and composite checksums stay equal.
    #[arg(long, value_name = "WHOSE", value_parser = word::<LayoutChoice>(), default_value = "auto")]
    layout: LayoutChoice,
    /// Proof that each copy requires: require-checksum, best (the strongest available), or size.
    #[arg(long, value_name = "LEVEL", value_parser = word::<Verify>(), default_value = "best")]
    verify: Verify,
    /// Prove a copy by comparing values that the server computed (`answers`), or also download the
    /// objects that no checksum proves (`read`).
    #[arg(long, value_name = "HOW", value_parser = word::<Prove>(), default_value = "answers")]
    prove: Prove,
    /// Keep or remove a published copy that differs from its source.
    #[arg(long, value_name = "WHAT", value_parser = word::<OnMismatch>(), default_value = "keep")]
    on_mismatch: OnMismatch,
    /// Send at most this many requests per second.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u32>,
    /// Copy at most this many bytes per second.
    #[arg(long, value_name = "RATE")]
    bytes_per_second: Option<ByteRate>,
    /// Keep at most this many requests in flight.
    #[arg(long, value_name = "N")]
    in_flight: Option<u32>,
    /// Longest time to wait for a server that throttles or does not respond. Default: 15m.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    patience: Option<Duration>,
    /// Stop after more than this many objects have failed: a number, a percentage such as 5%, or
    /// none. The default, auto, stops a run if its first 300 objects all fail alike, and pauses it
    /// if 300 objects in a row are refused alike.
    #[arg(long, value_name = "N|N%|auto|none")]
    max_failures: Option<FailureLimit>,
    /// Fail (exit code 1), warn, or accept it (ok) if the source or a pattern matches nothing.
    /// Default: warn.
    #[arg(long, value_name = "WHAT", value_parser = word::<Empty>())]
    empty: Option<Empty>,
    /// Write one receipt per object, as JSON lines, to a file or below s3://bucket/prefix/.
    #[arg(long, value_name = "PLACE")]
    report: Option<ReportPlace>,
    /// Show what the command would do, without doing it.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    journal: JournalFlags,
    #[command(flatten)]
    drain: DrainFlags,
    #[command(flatten)]
    history: HistoryFlags,
    #[command(flatten)]
    endpoint: EndpointFlags,
}

impl Copy {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let job = self.job()?;
        self.set.warn_of_joined_pairs();
        if job
            .transfers
            .iter()
            .any(|transfer| transfer.from == Source::Stdin)
            && stdin_is_closed()
        {
            let message = "standard input is closed, so there is nothing to copy; pipe the bytes in, or write `< /dev/null` \
                           for an empty object";
            return Err(CliError::Absent(message.to_owned()));
        }
        if let Some(error) = CliError::of_flags(&job.check(), &self.sources) {
            return Err(error);
        }
        if self.dry_run {
            Box::pin(plan::show(&job, &JobEnvironment::ambient(), None, output)).await
        } else {
            let origin = ReportHeader::of_process()?.begin(&job);
            let options = RunOptions {
                intent: self.journal.intent(),
                wait: self.journal.waits(),
                drain: self.drain.time(),
                lease: lease::own_terms(),
                shard: None,
            };
            run(&job, &JobEnvironment::ambient(), &origin, &options, output).await
        }
    }

    pub(super) fn job(&self) -> Result<Job, CliError> {
        if let Some(mistake) = self.history.mistake() {
            return Err(CliError::Usage(mistake.to_owned()));
        }
        let location: S3Uri = self
            .destination
            .parse()
            .map_err(|error| CliError::Usage(format!("the destination must be in S3: {error}")))?;
        let several = self.sources.len() > 1;
        let mut transfers = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let (from, pattern) = self.source(source)?;
            self.refuse_version_of_many(&from)?;
            self.refuse_unused_flags(source, &from, pattern.is_some())?;
            let to = Destination {
                endpoint: DEFAULT_ENDPOINT.to_owned(),
                location: Self::destination_of(&location, &from, several)?,
                storage_class: self.storage_class.clone(),
                encryption: self.set.encryption()?,
                acl: self.set.acl,
            };
            let name = if several {
                format!("copy-{}", index + 1)
            } else {
                "copy".to_owned()
            };
            let mut transfer = Transfer::new(name, from, to);
            transfer.when = match self.when.as_str() {
                "missing" => When::Missing,
                "always" => When::Always,
                _ => When::Changed,
            };
            transfer.compare = self.compare.unwrap_or_default();
            transfer.compare_attributes = self.compare_attributes;
            transfer.empty = self.empty.unwrap_or_default();
            self.access.apply(&mut transfer);
            self.select.apply(&mut transfer, source, pattern)?;
            transfer.keys.rename.clone_from(&self.rename);
            transfer.preserve = self.preserve.unwrap_or_default();
            transfer.set = self.set.set_values();
            transfer.customer_keys = self.set.keys.keys();
            transfer.parts = Parts {
                size: self.part_size.map_or(PartSize::Auto, PartSize::Exactly),
                threshold: self.threshold.unwrap_or(Parts::default().threshold),
                goal: self.part_goal.unwrap_or_default(),
                layout: self.layout,
            };
            self.history.apply(&mut transfer);
            transfer.proof = ProofPolicy {
                verify: self.verify,
                prove: self.prove,
                on_mismatch: self.on_mismatch,
            };
            transfers.push(transfer);
        }
        let Some(first) = transfers.first().cloned() else {
            return Err(CliError::Usage(
                "nothing to copy: name at least one source".to_owned(),
            ));
        };
        let mut job = Job::single(first, [self.endpoint.endpoint()]);
        job.transfers = transfers;
        job.limits.requests_per_second = self.requests_per_second;
        job.limits.bytes_per_second = self.bytes_per_second;
        job.limits.in_flight = self.in_flight;
        job.limits.patience = self.patience;
        job.limits.max_failures = self.max_failures;
        if let Some(place) = &self.report {
            job.report.set(place.clone());
        }
        // The name identifies the copy, so that only the same copy resumes its journal.
        job.name = format!("copy-{}", Fingerprint::of(&job).digest());
        self.journal.apply(&mut job);
        self.journal.refuse_unused_flags(&job)?;
        job.count_from(Timestamp::now());
        Ok(job)
    }

    /// Returns the source, as typed, and the glob for its wildcards.
    fn source(&self, text: &str) -> Result<(Source, Option<KeyGlob>), CliError> {
        if text == "-" {
            return Ok((Source::Stdin, None));
        }
        if !text.starts_with("s3://") {
            let symlinks = self.symlinks.unwrap_or_default();
            return Ok((
                Source::Files {
                    path: local_source(text)?,
                    symlinks,
                },
                None,
            ));
        }
        in_s3(text, self.recursive, self.history.version_id.clone())
    }

    /// Refuses `--version-id` unless the only source is one object. Decides by the parsed source,
    /// because `s3://bucket` without a slash is a whole bucket.
    fn refuse_version_of_many(&self, from: &Source) -> Result<(), CliError> {
        let is_one = self.sources.len() == 1 && matches!(from, Source::Object { .. });
        if self.history.version_id.is_none() || is_one {
            return Ok(());
        }
        let message = "--version-id names the version of one object; give exactly one source, s3://bucket/key";
        Err(CliError::Usage(message.to_owned()))
    }

    /// Refuses flags that have no effect for this source.
    fn refuse_unused_flags(
        &self,
        source: &str,
        from: &Source,
        is_pattern: bool,
    ) -> Result<(), CliError> {
        let own = format!("leave out what is meant for another source, or copy {source} by itself");
        let remedy = if self.sources.len() > 1 {
            &own
        } else {
            "leave that out"
        };
        let compares = [
            ("--compare", self.compare.is_some()),
            ("--compare-attributes", self.compare_attributes),
        ];
        if self.when != "changed" {
            let subject = format!("--when {}", self.when);
            unused_flags::refuse(
                &subject,
                "compares no objects",
                &compares,
                "leave one of them out",
            )?;
        }
        if *from == Source::Stdin {
            unused_flags::refuse(
                "standard input",
                "cannot be read before it is sent",
                &compares,
                remedy,
            )?;
        }
        recursive(self.recursive, source, from, is_pattern)?;
        if !matches!(from, Source::Files { .. }) {
            let symlinks = ("--symlinks", self.symlinks.is_some());
            unused_flags::refuse(
                source,
                "is no directory on this machine",
                &[symlinks],
                remedy,
            )?;
        }
        if from.s3().is_none() {
            let own = [
                ("--preserve", self.preserve.is_some()),
                self.set.keys.of_source(),
                ("--part-goal", self.part_goal.is_some()),
                ("--layout source", self.layout == LayoutChoice::Source),
            ];
            let flags = [
                own.as_slice(),
                &self.access.of_source(),
                &self.history.of_source(),
            ]
            .concat();
            unused_flags::refuse(source, "is not in S3", &flags, remedy)?;
        }
        if matches!(from, Source::Object { .. } | Source::Stdin) {
            let why = "is one object, which always has to be there";
            unused_flags::refuse(source, why, &[("--empty", self.empty.is_some())], remedy)?;
        }
        if *from == Source::Stdin {
            let why = "cannot be read again, so that no journal is kept";
            unused_flags::refuse("standard input", why, &self.journal.resume_flags(), remedy)?;
        }
        Ok(())
    }

    /// Returns the destination. For several objects it is a prefix, even if the slash was not
    /// typed.
    pub(super) fn destination_of(
        location: &S3Uri,
        from: &Source,
        several: bool,
    ) -> Result<S3Uri, CliError> {
        let many = match from {
            Source::Prefix { .. } => true,
            Source::Files { path, .. } => several || path.as_path().is_dir(),
            Source::Object { .. } => several,
            Source::Stdin if location.key.is_prefix() => {
                let message = format!(
                    "{location}: standard input needs the whole key, for instance {location}dump.bin"
                );
                return Err(CliError::Usage(message));
            }
            Source::Stdin => false,
        };
        if !many || location.key.is_prefix() {
            return Ok(location.clone());
        }
        let key = ObjectKey::new(&format!("{}/", location.key))
            .map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(S3Uri {
            bucket: location.bucket.clone(),
            key,
        })
    }
}

/// Returns true if this process was started with standard input closed. Rust's runtime then opens
/// `/dev/null` for reading and writing, while a redirection `</dev/null` opens it only for reading.
fn stdin_is_closed() -> bool {
    let is_null = std::fs::read_link("/proc/self/fd/0")
        .is_ok_and(|path| path == std::path::Path::new("/dev/null"));
    let info = std::fs::read_to_string("/proc/self/fdinfo/0").unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    // The access mode is in the lowest two bits; 2 is O_RDWR.
    is_null && flags.is_some_and(|flags| flags & 3 == 2)
}

/// Refuses `--recursive` for a source that is not a prefix or a directory, and for a pattern.
pub(super) fn recursive(
    given: bool,
    source: &str,
    from: &Source,
    is_pattern: bool,
) -> Result<(), CliError> {
    let (why, remedy) = match from {
        _ if is_pattern => (
            "is a pattern",
            "leave that out, and write ** for everything below",
        ),
        Source::Stdin => ("is standard input", "leave that out"),
        Source::Files { path, .. } if path.as_path().is_file() => ("is a file", "leave that out"),
        _ => return Ok(()),
    };
    unused_flags::refuse(source, why, &[("--recursive", given)], remedy)
}

/// Returns the S3 source, as typed, and the glob for its wildcards.
pub(super) fn in_s3(
    text: &str,
    recursive: bool,
    version: Option<String>,
) -> Result<(Source, Option<KeyGlob>), CliError> {
    let endpoint = DEFAULT_ENDPOINT.to_owned();
    let usage = |error: &dyn std::fmt::Display| CliError::Usage(format!("{text}: {error}"));
    let mut location: S3Uri = text.parse().map_err(|error| usage(&error))?;
    if let Some(wildcard) = location.key.as_str().find(['*', '?']) {
        let key = location.key.as_str().to_owned();
        let (prefix, pattern) =
            key.split_at(key[..wildcard].rfind('/').map_or(0, |slash| slash + 1));
        let glob = pattern.parse().map_err(|error| usage(&error))?;
        location.key = ObjectKey::new(prefix).map_err(|error| usage(&error))?;
        return Ok((Source::Prefix { endpoint, location }, Some(glob)));
    }
    if recursive && !location.key.is_prefix() {
        location.key =
            ObjectKey::new(&format!("{}/", location.key)).map_err(|error| usage(&error))?;
    }
    let from = if location.key.is_prefix() {
        Source::Prefix { endpoint, location }
    } else {
        Source::Object {
            endpoint,
            location,
            version,
        }
    };
    Ok((from, None))
}
