//! Builds a [`Job`] from a [`ManifestFile`]: fills in defaults and parses texts.
//!
//! This module refuses only what the types of a `Job` cannot hold (a text that is not a size, `s3`
//! next to `files`). [`check`](super::check) applies the rules to jobs that can be represented. A
//! value that cannot be parsed is reported and replaced by its default, so that the rest of the
//! transfer is still checked.

mod endpoint;
mod explain;
mod sides;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use self::explain::Explain;
use super::diagnose::{Mistake, RefusedFields};
use super::file::{
    CustomerKeySection, DefaultsSection, FromSection, KeysSection, LimitsSection, ManifestFile,
    PartsSection, PreserveFields, PreserveSection, ReportSection, RestoreSection, SetSection,
    TransferSection,
};
use super::job::{
    Access, Archived, Compare, CustomerKeys, DEFAULT_ENDPOINT, Empty, Endpoint, FailureLimit, Job,
    JournalPlace, LayoutChoice, Limits, OnMismatch, PartSize, Parts, Preserve, ProofPolicy, Prove,
    ReportPaths, Restore, SetValues, Source, Transfer, Verify,
};
use super::keys::{KeyMap, Template};
use super::moment::Ages;
use crate::endpoint::Environment;
use crate::location::S3Uri;
use crate::size::{ByteRate, ByteSize, parse_duration};

/// The part of a job that could be read from the manifest.
pub(super) struct PartialJob {
    /// The job, without transfers that cannot be read.
    pub job: Job,
    /// The index in the manifest of each transfer of `job`, which omits transfers whose source or
    /// destination cannot be read.
    pub indices: Vec<usize>,
    /// The mistakes found.
    pub mistakes: Vec<Mistake>,
}

/// Builds the job of a manifest. `default_name` names the job if the manifest does not.
pub(super) fn build(
    file: ManifestFile,
    default_name: &str,
    environment: &Environment,
    refused_fields: &RefusedFields,
) -> PartialJob {
    let ManifestFile {
        // The schema has checked the version.
        version: _,
        name,
        endpoints,
        defaults,
        transfers,
        limits,
        report,
        journal,
        on_change,
    } = file;
    let mut reader = FieldReader {
        refused_fields,
        mistakes: Vec::new(),
    };
    let mut resolved = BTreeMap::new();
    for (name, section) in endpoints.unwrap_or_default() {
        let endpoint = reader.endpoint(&name, section).resolve(environment);
        resolved.insert(name, endpoint);
    }
    let default = || Endpoint::default().resolve(environment);
    resolved
        .entry(DEFAULT_ENDPOINT.to_owned())
        .or_insert_with(default);
    let defaults = defaults.unwrap_or_default();
    if let Some(parts) = &defaults.parts {
        reader.check_goal("defaults.parts", parts, None);
    }
    let mut built = Vec::new();
    let mut indices = Vec::new();
    for (index, section) in transfers.unwrap_or_default().into_iter().enumerate() {
        if let Some(transfer) = reader.transfer(index, section, &defaults) {
            built.push(transfer);
            indices.push(index);
        } else {
            refused_fields.leave_out_transfer();
        }
    }
    let limits = reader.limits(limits.unwrap_or_default());
    let report = reader.report(report.unwrap_or_default());
    let journal = match journal.as_deref().map(str::parse::<JournalPlace>) {
        None => JournalPlace::default(),
        Some(Ok(place)) => place,
        Some(Err(message)) => {
            reader.refuse(
                "journal",
                message,
                "write a directory, s3://bucket/prefix/, or none",
            );
            JournalPlace::default()
        }
    };
    let name = name.unwrap_or_else(|| default_name.to_owned());
    PartialJob {
        job: Job {
            name,
            endpoints: resolved,
            transfers: built,
            limits,
            report,
            journal,
            on_change: on_change.unwrap_or_default(),
            adopts: false,
            retries: None,
            manifest_sha256: None,
        },
        indices,
        mistakes: reader.mistakes,
    }
}

struct FieldReader<'d> {
    refused_fields: &'d RefusedFields,
    mistakes: Vec<Mistake>,
}

impl FieldReader<'_> {
    fn refuse(&mut self, path: &str, message: impl Display, remedy: impl Display) {
        let (message, remedy) = (message.to_string(), remedy.to_string());
        self.mistakes.push(Mistake {
            path: path.to_owned(),
            message,
            remedy,
        });
    }

    /// Parses the text as a `T`. Returns `None` if there is no text. Reports a text that cannot be
    /// parsed, and also returns `None`.
    fn read<T>(&mut self, path: &str, text: Option<String>) -> Option<T>
    where
        T: FromStr,
        T::Err: Explain,
    {
        match text?.parse::<T>() {
            Ok(value) => Some(value),
            Err(error) => {
                let (message, remedy) = error.explain();
                self.refuse(path, message, remedy);
                None
            }
        }
    }

    /// Reads the limits of the run.
    fn limits(&mut self, section: LimitsSection) -> Limits {
        let LimitsSection {
            requests_per_second,
            bytes_per_second,
            in_flight,
            patience,
            max_failures,
        } = section;
        Limits {
            requests_per_second,
            bytes_per_second: self.read::<ByteRate>("limits.bytes_per_second", bytes_per_second),
            in_flight,
            patience: self.duration("limits.patience", patience),
            max_failures: self.read::<FailureLimit>("limits.max_failures", max_failures),
        }
    }

    /// Reads the location of the report.
    fn report(&mut self, section: ReportSection) -> ReportPaths {
        let ReportSection { json, s3 } = section;
        let uri: Option<S3Uri> = self.read("report.s3", s3);
        let s3 = uri.filter(|uri| {
            let is_prefix = uri.key.is_prefix();
            if !is_prefix {
                let remedy = format!("write {uri}/ with a slash at the end");
                self.refuse("report.s3", "a report in S3 is kept below a prefix", remedy);
            }
            is_prefix
        });
        ReportPaths {
            json: json.map(PathBuf::from),
            s3,
        }
    }

    fn duration(&mut self, path: &str, text: Option<String>) -> Option<Duration> {
        match parse_duration(&text?) {
            Ok(duration) => Some(duration),
            Err(error) => {
                let (message, remedy) = error.explain();
                self.refuse(path, message, remedy);
                None
            }
        }
    }

    /// Reads `empty`, which is meaningless for a source of one object.
    fn empty(
        &mut self,
        own: Option<Empty>,
        default: Option<Empty>,
        from: Option<&Source>,
        path: &str,
    ) -> Empty {
        if own.is_some() && matches!(from, Some(Source::Object { .. })) {
            self.refuse(
                &format!("{path}.empty"),
                "one object always has to be there",
                "remove it",
            );
        }
        own.or(default).unwrap_or_default()
    }

    fn transfer(
        &mut self,
        index: usize,
        section: TransferSection,
        defaults: &DefaultsSection,
    ) -> Option<Transfer> {
        let path = format!("transfers[{index}]");
        // Destructure, so that the compiler reports any new field.
        let TransferSection {
            name,
            after,
            from,
            to,
            when,
            compare,
            compare_attributes,
            empty,
            keys,
            parts,
            preserve,
            archived,
            restore,
            verify,
            prove,
            on_mismatch,
            set,
        } = section;
        let proof = proof((verify, prove, on_mismatch), defaults);
        self.check_archived(
            &path,
            from.as_ref(),
            restore.is_some(),
            (archived, defaults.archived),
        );
        let destination_access = to
            .as_ref()
            .map(|to| access(to.expected_owner.as_ref(), to.requester_pays));
        let customer_keys = self.customer_keys(
            &path,
            from.as_ref().and_then(|from| from.customer_key.clone()),
            to.as_ref().and_then(|to| to.customer_key.clone()),
        );
        let from = from
            .map(|from| self.read_from(&path, from))
            .unwrap_or_default();
        let to = to.and_then(|to| self.destination(&format!("{path}.to"), to));
        let is_local = matches!(from.source, Some(Source::Files { .. }));
        self.check_local(&path, is_local, preserve.is_some(), parts.as_ref());
        if let Some(own) = parts.as_ref().filter(|_| !is_local) {
            self.check_goal(&format!("{path}.parts"), own, defaults.parts.as_ref());
        }
        let keys = keys.map(|keys| self.key_map(&path, keys));
        let set = set.map(|set| self.set_values(&format!("{path}.set"), set));
        let mut transfer = Transfer {
            proof,
            name: name.unwrap_or_else(|| format!("transfer-{}", index + 1)),
            after: after.unwrap_or_default(),
            empty: self.empty(empty, defaults.empty, from.source.as_ref(), &path),
            parts: self.parts(&path, parts.as_ref(), defaults.parts.as_ref()),
            from: from.source?,
            to: to?,
            when: when.or(defaults.when).unwrap_or_default(),
            compare: Compare::Auto,
            compare_attributes: false,
            select: from.select,
            keys: keys.unwrap_or_default(),
            chosen: None,
            repairs: BTreeMap::new(),
            own_files: Vec::new(),
            preserve: policies(preserve.as_ref(), defaults.preserve.as_ref()),
            source_access: from.access,
            destination_access: destination_access.unwrap_or_default(),
            ages: Ages::default(),
            versions: from.versions,
            archived: archived.or(defaults.archived).unwrap_or_default(),
            restore: restore_of(restore.as_ref(), defaults.restore.as_ref()),
            set: set.unwrap_or_default(),
            customer_keys,
        };
        transfer.set_modified_after(from.modified_after);
        transfer.set_modified_before(from.modified_before);
        if let Some(as_of) = from.as_of {
            transfer.set_as_of(as_of);
        }
        transfer.compare_by(compare, defaults.compare);
        transfer.compare_attributes_if(compare_attributes, defaults.compare_attributes);
        Some(transfer)
    }

    /// Refuses settings for archived objects that have no effect on this transfer.
    fn check_archived(
        &mut self,
        path: &str,
        from: Option<&FromSection>,
        has_restore: bool,
        (own, shared): (Option<Archived>, Option<Archived>),
    ) {
        let archived = own.or(shared).unwrap_or_default();
        if has_restore && archived != Archived::Restore {
            let message = "`restore` applies only to `archived: restore`";
            self.refuse(
                &format!("{path}.restore"),
                message,
                "add `archived: restore`, or remove it",
            );
        }
        if own.is_some() && matches!(from, Some(FromSection { files: Some(_), .. })) {
            let remedy = "remove it: a file can always be read";
            self.refuse(
                &format!("{path}.archived"),
                "local files are in no archive",
                remedy,
            );
        }
    }

    /// Refuses a transfer's `goal` next to an exact size, even if the size comes from the defaults.
    /// A transfer may set an exact size despite a `goal` in the defaults, because the size
    /// overrides it.
    fn check_goal(&mut self, path: &str, own: &PartsSection, shared: Option<&PartsSection>) {
        let inherited = || shared.and_then(|shared| shared.size.as_ref());
        let size = own.size.as_ref().or_else(inherited);
        if own.goal.is_none() || size.is_none_or(|size| size == "auto") {
            return;
        }
        let remedy = if own.size.is_some() {
            "remove one of them"
        } else {
            "add `size: auto`, or remove it"
        };
        let message = "a goal is what `size: auto` aims at, and the size is given";
        self.refuse(&format!("{path}.goal"), message, remedy);
    }

    /// Refuses settings that have no effect on local files.
    fn check_local(
        &mut self,
        path: &str,
        is_local: bool,
        explicit_preserve: bool,
        own: Option<&PartsSection>,
    ) {
        if explicit_preserve && is_local {
            let remedy = "remove it: there is nothing of the kind to keep";
            self.refuse(
                &format!("{path}.preserve"),
                "local files have no metadata, tags or storage class",
                remedy,
            );
        }
        let replays = own.is_some_and(|parts| parts.layout == Some(LayoutChoice::Source));
        if replays && is_local {
            let message = "local files have no part boundaries to replay";
            self.refuse(&format!("{path}.parts.layout"), message, "remove it");
        }
        let aims = own.is_some_and(|parts| parts.goal.is_some());
        if aims && is_local {
            let message = "the parts of local files are as large as uploads want them";
            self.refuse(&format!("{path}.parts.goal"), message, "remove it");
        }
    }

    fn customer_keys(
        &mut self,
        path: &str,
        source: Option<CustomerKeySection>,
        destination: Option<CustomerKeySection>,
    ) -> CustomerKeys {
        let mut key_of = |side: &str, section: Option<CustomerKeySection>| {
            self.customer_key(&format!("{path}.{side}.customer_key"), section?)
        };
        CustomerKeys {
            source: key_of("from", source),
            destination: key_of("to", destination),
        }
    }

    /// Reads `set`. S3 stores the names of user metadata in lower case, so names that differ only
    /// in case are the same.
    fn set_values(&mut self, path: &str, section: SetSection) -> SetValues {
        let mut metadata = BTreeMap::new();
        let SetSection {
            metadata: typed,
            tags,
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
        } = section;
        for (name, value) in typed.unwrap_or_default() {
            if metadata.insert(name.to_ascii_lowercase(), value).is_some() {
                let message = format!(
                    "`{name}` is there twice: names of metadata are the same in upper case"
                );
                self.refuse(
                    &format!("{path}.metadata.{name}"),
                    message,
                    "keep one of them",
                );
            }
        }
        SetValues {
            metadata,
            tags: tags.unwrap_or_default(),
            content_type,
            content_encoding,
            content_language,
            content_disposition,
            cache_control,
        }
    }

    fn key_map(&mut self, transfer: &str, keys: KeysSection) -> KeyMap {
        let KeysSection {
            strip_prefix,
            add_prefix,
            rename,
        } = keys;
        KeyMap {
            strip_prefix,
            add_prefix,
            rename: self.read::<Template>(&format!("{transfer}.keys.rename"), rename),
        }
    }

    fn parts(
        &mut self,
        transfer: &str,
        own: Option<&PartsSection>,
        shared: Option<&PartsSection>,
    ) -> Parts {
        let mut text = |field: &str, get: fn(&PartsSection) -> &Option<String>| {
            let typed =
                |section: Option<&PartsSection>| section.and_then(|section| get(section).clone());
            let (path, text) = match typed(own) {
                Some(text) => (format!("{transfer}.parts.{field}"), text),
                None => (format!("defaults.parts.{field}"), typed(shared)?),
            };
            if field == "size" && text == "auto" {
                return None;
            }
            self.read::<ByteSize>(&path, Some(text))
        };
        let layout = own
            .and_then(|parts| parts.layout)
            .or_else(|| shared.and_then(|parts| parts.layout));
        let goal = own
            .and_then(|parts| parts.goal)
            .or_else(|| shared.and_then(|parts| parts.goal));
        Parts {
            layout: layout.unwrap_or_default(),
            goal: goal.unwrap_or_default(),
            size: text("size", |parts| &parts.size).map_or(PartSize::Auto, PartSize::Exactly),
            threshold: text("threshold", |parts| &parts.threshold)
                .unwrap_or(Parts::default().threshold),
        }
    }
}

fn access(expected_owner: Option<&String>, requester_pays: Option<bool>) -> Access {
    Access {
        expected_owner: expected_owner.cloned(),
        requester_pays: requester_pays.unwrap_or_default(),
    }
}

/// Returns the proof that a transfer demands: its own fields override those of the defaults.
fn proof(
    (verify, prove, on_mismatch): (Option<Verify>, Option<Prove>, Option<OnMismatch>),
    defaults: &DefaultsSection,
) -> ProofPolicy {
    // Destructure, so that the compiler reports any new field.
    let DefaultsSection {
        verify: shared_verify,
        prove: shared_prove,
        on_mismatch: shared_on_mismatch,
        // `FieldReader::transfer` reads these.
        when: _,
        compare: _,
        compare_attributes: _,
        empty: _,
        preserve: _,
        parts: _,
        archived: _,
        restore: _,
    } = defaults;
    ProofPolicy {
        verify: verify.or(*shared_verify).unwrap_or_default(),
        prove: prove.or(*shared_prove).unwrap_or_default(),
        on_mismatch: on_mismatch.or(*shared_on_mismatch).unwrap_or_default(),
    }
}

/// Returns a transfer's policies: its own fields override those of the defaults. A preset in the
/// transfer discards the defaults.
fn policies(own: Option<&PreserveSection>, shared: Option<&PreserveSection>) -> Preserve {
    let over = |base: Preserve, section: Option<&PreserveSection>| match section {
        None => base,
        Some(PreserveSection::Preset(preset)) => (*preset).into(),
        Some(PreserveSection::Each(fields)) => {
            let PreserveFields {
                preset,
                metadata,
                headers,
                tags,
                storage_class,
                encryption,
                lock,
                acl,
                annotations,
            } = *fields;
            let base = preset.map_or(base, Preserve::from);
            Preserve {
                metadata: metadata.unwrap_or(base.metadata),
                headers: headers.unwrap_or(base.headers),
                tags: tags.unwrap_or(base.tags),
                storage_class: storage_class.unwrap_or(base.storage_class),
                encryption: encryption.unwrap_or(base.encryption),
                lock: lock.unwrap_or(base.lock),
                acl: acl.unwrap_or(base.acl),
                annotations: annotations.unwrap_or(base.annotations),
            }
        }
    };
    over(over(Preserve::default(), shared), own)
}

fn restore_of(own: Option<&RestoreSection>, shared: Option<&RestoreSection>) -> Restore {
    let default = Restore::default();
    Restore {
        tier: own
            .and_then(|own| own.tier)
            .or(shared.and_then(|shared| shared.tier))
            .unwrap_or(default.tier),
        days: own
            .and_then(|own| own.days)
            .or(shared.and_then(|shared| shared.days))
            .unwrap_or(default.days),
    }
}
