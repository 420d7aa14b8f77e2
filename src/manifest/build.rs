//! Builds a [`Job`] from a [`ManifestFile`]: fills in defaults and parses texts.
//!
//! This module refuses only what the types of a `Job` cannot hold (a text that is not a size, `s3`
//! next to `files`). [`check`](super::check) has the rules about possible jobs. A value that cannot
//! be parsed is reported and replaced by its default, so that the rest of the transfer is still
//! checked.

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
    CustomerKeySection, DefaultsSection, FromSection, KeysSection, ManifestFile, PartsSection,
    PreserveFields, PreserveSection, ReportSection, RestoreSection, SetSection, TransferSection,
};
use super::job::{
    Access, Archived, Compare, CustomerKeys, DEFAULT_ENDPOINT, Empty, Endpoint, FailureLimit, Job,
    JournalPlace, LayoutChoice, Limits, PartSize, Parts, Preserve, ProofPolicy, ReportPaths,
    ReportPlace, Restore, SetValues, Source, Transfer,
};
use super::keys::{KeyMap, Template};
use super::moment::{Ages, Moment};
use crate::endpoint::Environment;
use crate::size::{ByteRate, ByteSize, parse_duration};

/// A job, as far as the manifest could be read.
pub(super) struct PartialJob {
    pub job: Job,
    /// The index in the manifest of each transfer of `job`. Transfers without a readable source and
    /// destination are left out.
    pub indices: Vec<usize>,
    pub mistakes: Vec<Mistake>,
}

/// Builds the job of a manifest. `default_name` names the job if the manifest does not.
pub(super) fn build(
    file: ManifestFile,
    default_name: &str,
    environment: &Environment,
    refused_fields: &RefusedFields,
) -> PartialJob {
    let mut reader = FieldReader {
        refused_fields,
        mistakes: Vec::new(),
    };
    let mut endpoints = BTreeMap::new();
    for (name, section) in file.endpoints.unwrap_or_default() {
        let endpoint = reader.endpoint(&name, section).resolve(environment);
        endpoints.insert(name, endpoint);
    }
    let default = || Endpoint::default().resolve(environment);
    endpoints
        .entry(DEFAULT_ENDPOINT.to_owned())
        .or_insert_with(default);
    let defaults = file.defaults.unwrap_or_default();
    if let Some(parts) = &defaults.parts {
        reader.check_goal("defaults.parts", parts, None);
    }
    let mut transfers = Vec::new();
    let mut indices = Vec::new();
    for (index, section) in file.transfers.unwrap_or_default().into_iter().enumerate() {
        if let Some(transfer) = reader.transfer(index, section, &defaults) {
            transfers.push(transfer);
            indices.push(index);
        }
    }
    let limits = file.limits.unwrap_or_default();
    let limits = Limits {
        requests_per_second: limits.requests_per_second,
        bytes_per_second: reader
            .read::<ByteRate>("limits.bytes_per_second", limits.bytes_per_second),
        in_flight: limits.in_flight,
        patience: reader.duration("limits.patience", limits.patience),
        max_failures: reader.read::<FailureLimit>("limits.max_failures", limits.max_failures),
    };
    let report = reader.report(file.report.unwrap_or_default());
    let journal = match file.journal.as_deref().map(str::parse::<JournalPlace>) {
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
    let name = file.name.unwrap_or_else(|| default_name.to_owned());
    PartialJob {
        job: Job {
            name,
            endpoints,
            transfers,
            limits,
            report,
            journal,
            on_change: file.on_change.unwrap_or_default(),
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

    /// Returns the text as a `T`, or `None` if there is none. Also returns `None` for a text that
    /// cannot be parsed, after reporting it.
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

    /// Reads the location of the report.
    fn report(&mut self, section: ReportSection) -> ReportPaths {
        let s3 = section
            .s3
            .and_then(|text| match text.parse::<ReportPlace>() {
                Ok(ReportPlace::Prefix(uri)) => Some(uri),
                Ok(ReportPlace::File(_)) => {
                    self.refuse(
                        "report.s3",
                        format!("`{text}` is not a location in S3"),
                        "write s3://bucket/prefix/, or name a file in `json`",
                    );
                    None
                }
                Err(message) => {
                    self.refuse("report.s3", message, "write s3://bucket/prefix/");
                    None
                }
            });
        ReportPaths {
            json: section.json.map(PathBuf::from),
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
        let explicit_preserve = section.preserve.is_some();
        let select = section
            .from
            .as_ref()
            .map(|from| self.selection(&path, from))
            .unwrap_or_default();
        let keys = section
            .keys
            .map(|keys| self.key_map(&path, keys))
            .unwrap_or_default();
        let parts = self.parts(&path, section.parts.as_ref(), defaults.parts.as_ref());
        let preserve = preserve(section.preserve.as_ref(), defaults.preserve.as_ref());
        let source_access = section
            .from
            .as_ref()
            .map(|from| access(from.expected_owner.as_ref(), from.requester_pays));
        let destination_access = section
            .to
            .as_ref()
            .map(|to| access(to.expected_owner.as_ref(), to.requester_pays));
        let archived = section.archived.or(defaults.archived).unwrap_or_default();
        let has_restore = section.restore.is_some();
        let own = section.archived;
        self.check_archived(&path, section.from.as_ref(), has_restore, (own, archived));
        let restore = restore(section.restore.as_ref(), defaults.restore.as_ref());
        let (versions, as_of) = section
            .from
            .as_ref()
            .map(|from| self.versions(&path, from))
            .unwrap_or_default();
        let mut time = |field: &str, get: fn(&FromSection) -> &Option<String>| {
            let text = section.from.as_ref().and_then(|from| get(from).clone());
            self.read::<Moment>(&format!("{path}.from.{field}"), text)
        };
        let modified_after = time("modified_after", |from| &from.modified_after);
        let modified_before = time("modified_before", |from| &from.modified_before);
        let set = section
            .set
            .map(|set| self.set_values(&format!("{path}.set"), set))
            .unwrap_or_default();
        let source_key = section
            .from
            .as_ref()
            .and_then(|from| from.customer_key.clone());
        let destination_key = section.to.as_ref().and_then(|to| to.customer_key.clone());
        let customer_keys = self.customer_keys(&path, source_key, destination_key);
        let from = section
            .from
            .and_then(|from| self.source(&format!("{path}.from"), from));
        let to = section
            .to
            .and_then(|to| self.destination(&format!("{path}.to"), to));
        let is_local = matches!(from, Some(Source::Files { .. }));
        self.check_local(&path, is_local, explicit_preserve, section.parts.as_ref());
        if let Some(own) = section.parts.as_ref().filter(|_| !is_local) {
            self.check_goal(&format!("{path}.parts"), own, defaults.parts.as_ref());
        }
        let proof = ProofPolicy {
            verify: section.verify.or(defaults.verify).unwrap_or_default(),
            prove: section.prove.or(defaults.prove).unwrap_or_default(),
            on_mismatch: section
                .on_mismatch
                .or(defaults.on_mismatch)
                .unwrap_or_default(),
        };
        let mut transfer = Transfer {
            proof,
            name: section
                .name
                .unwrap_or_else(|| format!("transfer-{}", index + 1)),
            after: section.after.unwrap_or_default(),
            empty: self.empty(section.empty, defaults.empty, from.as_ref(), &path),
            from: from?,
            to: to?,
            when: section.when.or(defaults.when).unwrap_or_default(),
            compare: Compare::Auto,
            compare_attributes: false,
            select,
            keys,
            parts,
            chosen: None,
            repairs: BTreeMap::new(),
            own_files: Vec::new(),
            preserve,
            source_access: source_access.unwrap_or_default(),
            destination_access: destination_access.unwrap_or_default(),
            ages: Ages::default(),
            versions,
            archived,
            restore,
            set,
            customer_keys,
        };
        transfer.set_modified_after(modified_after);
        transfer.set_modified_before(modified_before);
        if let Some(as_of) = as_of {
            transfer.set_as_of(as_of);
        }
        transfer.compare_by(section.compare, defaults.compare);
        transfer.compare_attributes_if(section.compare_attributes, defaults.compare_attributes);
        Some(transfer)
    }

    /// Refuses settings about archives that are meaningless here.
    fn check_archived(
        &mut self,
        path: &str,
        from: Option<&FromSection>,
        has_restore: bool,
        (own, archived): (Option<Archived>, Archived),
    ) {
        if has_restore && archived != Archived::Restore {
            let message = "`restore` means something only with `archived: restore`";
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

    /// Refuses a goal next to an exact size, which may come from the defaults. An exact size of a
    /// transfer is no mistake under a goal of the defaults: it overrides what that aims at.
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

    /// Refuses settings that are meaningless for local files.
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
        for (name, value) in section.metadata.unwrap_or_default() {
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
            tags: section.tags.unwrap_or_default(),
            content_type: section.content_type,
            content_encoding: section.content_encoding,
            content_language: section.content_language,
            content_disposition: section.content_disposition,
            cache_control: section.cache_control,
        }
    }

    fn key_map(&mut self, transfer: &str, keys: KeysSection) -> KeyMap {
        KeyMap {
            strip_prefix: keys.strip_prefix,
            add_prefix: keys.add_prefix,
            rename: self.read::<Template>(&format!("{transfer}.keys.rename"), keys.rename),
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

/// Returns a transfer's policies: its own fields override those of the defaults. A preset in the
/// transfer discards the defaults.
fn preserve(own: Option<&PreserveSection>, shared: Option<&PreserveSection>) -> Preserve {
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

fn restore(own: Option<&RestoreSection>, shared: Option<&RestoreSection>) -> Restore {
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
