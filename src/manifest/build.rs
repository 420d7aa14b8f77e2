//! From [`ManifestFile`] to [`Job`]: defaults filled in, text read as what it stands for.
//!
//! Only what the types of a `Job` can't hold is refused here (text that is no size, `s3` beside
//! `files`); every rule about a job that could exist is in [`check`](super::check). A value that
//! can't be read is reported and its default taken, so that the rest of the transfer is still
//! looked at.

mod explain;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use self::explain::Explain;
use super::diagnose::{Doubts, Finding};
use super::file::{
    AssumeRoleSection, CustomerKeySection, DefaultsSection, EncryptionName, EncryptionSection,
    EndpointSection, FromSection, KeysSection, ManifestFile, PartsSection, PreserveFields,
    PreserveSection, RestoreSection, SetSection, ToSection, TransferSection, VersionsName,
};
use super::job::{
    Access, Archived, AssumeRole, Compare, CustomerKeys, DEFAULT_ENDPOINT, Destination, Empty,
    Encryption, Endpoint, FailureLimit, Job, JournalPlace, KeySource, LayoutChoice, Limits,
    PartSize, Parts, Preserve, ProofPolicy, ReportPaths, Restore, Selection, SetValues, Source,
    Transfer, Versions,
};
use super::keys::{KeyGlob, KeyMap, Template};
use super::moment::{Ages, Moment};
use crate::endpoint::{Environment, ProxyError, ProxySetting};
use crate::location::{LocalPath, S3Uri};
use crate::size::{ByteRate, ByteSize, parse_duration};

/// A job as far as the manifest could be read.
pub(super) struct Built {
    pub job: Job,
    /// For each transfer of `job` its index in the manifest; transfers without a readable source
    /// and destination are left out.
    pub indices: Vec<usize>,
    pub findings: Vec<Finding>,
}

/// Reads what the file says. `default_name` names the job when the file does not.
pub(super) fn build(
    file: ManifestFile,
    default_name: &str,
    environment: &Environment,
    doubts: &Doubts,
) -> Built {
    let mut reader = Reader {
        doubts,
        findings: Vec::new(),
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
    let report = ReportPaths {
        json: file
            .report
            .and_then(|report| report.json)
            .map(PathBuf::from),
    };
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
    Built {
        job: Job {
            name,
            endpoints,
            transfers,
            limits,
            report,
            journal,
            claims: false,
            manifest_sha256: None,
        },
        indices,
        findings: reader.findings,
    }
}

struct Reader<'d> {
    doubts: &'d Doubts,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn refuse(&mut self, path: &str, message: impl Display, remedy: impl Display) {
        let (message, remedy) = (message.to_string(), remedy.to_string());
        self.findings.push(Finding {
            path: path.to_owned(),
            message,
            remedy,
        });
    }

    /// The text as a `T`; `None` when there is none or when it can't be read, which is then
    /// reported.
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

    fn endpoint(&mut self, name: &str, section: EndpointSection) -> Endpoint {
        let assume_role = section.assume_role.map(|role| self.assume_role(name, role));
        Endpoint {
            name: name.to_owned(),
            url: section.url.map(without_slash),
            region: section.region,
            path_style: section.path_style,
            allow_http: section.allow_http.unwrap_or_default(),
            profile: section.profile,
            // Without an ARN the shape of the file was already refused.
            assume_role: assume_role.filter(|role| !role.arn.is_empty()),
            ca_bundle: section.ca_bundle.map(|path| LocalPath(path.into())),
            proxy: section.proxy.and_then(|text| self.proxy(name, &text)),
            provider: section.provider.unwrap_or_default(),
            trust: section.trust.unwrap_or_default(),
            capabilities: section
                .capabilities
                .unwrap_or_default()
                .sized(|field, text| {
                    self.read(&format!("endpoints.{name}.capabilities.{field}"), text)
                }),
        }
    }

    fn proxy(&mut self, endpoint: &str, text: &str) -> Option<ProxySetting> {
        match text.parse() {
            Ok(proxy) => Some(proxy),
            Err(error) => {
                let error: ProxyError = error;
                self.refuse(
                    &format!("endpoints.{endpoint}.proxy"),
                    error,
                    ProxyError::REMEDY,
                );
                None
            }
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

    fn assume_role(&mut self, endpoint: &str, section: AssumeRoleSection) -> AssumeRole {
        let path = format!("endpoints.{endpoint}.assume_role.duration");
        let duration = self.duration(&path, section.duration);
        AssumeRole {
            arn: section.arn.unwrap_or_default(),
            external_id: section.external_id,
            session_name: section.session_name,
            duration,
        }
    }

    /// Reads `empty`, which means nothing for an object that is named by itself.
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
        if section.restore.is_some() && archived != Archived::Restore {
            let message = "`restore` means something only with `archived: restore`";
            self.refuse(
                &format!("{path}.restore"),
                message,
                "add `archived: restore`, or remove it",
            );
        }
        if section.archived.is_some()
            && matches!(section.from, Some(FromSection { files: Some(_), .. }))
        {
            let remedy = "remove it: a file can always be read";
            self.refuse(
                &format!("{path}.archived"),
                "local files are in no archive",
                remedy,
            );
        }
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
            .map(|set| self.overrides(&format!("{path}.set"), set))
            .unwrap_or_default();
        let mut key_of = |side: &str, section: Option<CustomerKeySection>| {
            section.and_then(|section| {
                self.customer_key(&format!("{path}.{side}.customer_key"), section)
            })
        };
        let customer_keys = CustomerKeys {
            source: key_of(
                "from",
                section
                    .from
                    .as_ref()
                    .and_then(|from| from.customer_key.clone()),
            ),
            destination: key_of(
                "to",
                section.to.as_ref().and_then(|to| to.customer_key.clone()),
            ),
        };
        let from = section
            .from
            .and_then(|from| self.source(&format!("{path}.from"), from));
        let to = section
            .to
            .and_then(|to| self.destination(&format!("{path}.to"), to));
        if explicit_preserve && matches!(from, Some(Source::Files { .. })) {
            let remedy = "remove it: there is nothing of the kind to keep";
            self.refuse(
                &format!("{path}.preserve"),
                "local files have no metadata, tags or storage class",
                remedy,
            );
        }
        let own = section.parts.as_ref();
        let replays = own.is_some_and(|parts| parts.layout == Some(LayoutChoice::Source));
        if replays && matches!(from, Some(Source::Files { .. })) {
            let message = "local files have no part boundaries to replay";
            self.refuse(&format!("{path}.parts.layout"), message, "remove it");
        }
        let aims = own.is_some_and(|parts| parts.goal.is_some());
        if aims && matches!(from, Some(Source::Files { .. })) {
            let message = "the parts of local files are as large as uploads want them";
            self.refuse(&format!("{path}.parts.goal"), message, "remove it");
        }
        let is_exact = |size: &String| size != "auto";
        if own.is_some_and(|own| own.goal.is_some() && own.size.as_ref().is_some_and(is_exact)) {
            let message = "a goal is what `size: auto` aims at, and the size is given";
            self.refuse(&format!("{path}.parts.goal"), message, "remove one of them");
        }
        let mut transfer = Transfer {
            proof: ProofPolicy {
                verify: section.verify.or(defaults.verify).unwrap_or_default(),
                prove: section.prove.or(defaults.prove).unwrap_or_default(),
                on_mismatch: section
                    .on_mismatch
                    .or(defaults.on_mismatch)
                    .unwrap_or_default(),
            },
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

    fn source(&mut self, path: &str, from: FromSection) -> Option<Source> {
        let only = |reader: &mut Self, field: &str, given: bool, kind: &str| {
            if given {
                let message = format!("`{field}` means something only with `{kind}`");
                reader.refuse(&format!("{path}.{field}"), message, "remove it");
            }
        };
        match (from.s3, from.files) {
            (Some(s3), None) => {
                only(self, "symlinks", from.symlinks.is_some(), "files");
                let location: S3Uri = self.read(&format!("{path}.s3"), Some(s3))?;
                let endpoint = from.endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
                if !location.key.is_prefix() {
                    return Some(Source::Object {
                        endpoint,
                        location,
                        version: from.version,
                    });
                }
                if from.version.is_some() {
                    let remedy = "name one object under `s3`, or remove it";
                    let message =
                        "`version` chooses among the versions of one object, and this is a prefix";
                    self.refuse(&format!("{path}.version"), message, remedy);
                }
                Some(Source::Prefix { endpoint, location })
            }
            (None, Some(files)) => {
                only(self, "endpoint", from.endpoint.is_some(), "s3");
                only(self, "version", from.version.is_some(), "s3");
                only(self, "expected_owner", from.expected_owner.is_some(), "s3");
                only(self, "requester_pays", from.requester_pays.is_some(), "s3");
                only(self, "versions", from.versions.is_some(), "s3");
                only(self, "as_of", from.as_of.is_some(), "s3");
                only(self, "customer_key", from.customer_key.is_some(), "s3");
                let path = LocalPath(PathBuf::from(files));
                Some(Source::Files {
                    path,
                    symlinks: from.symlinks.unwrap_or_default(),
                })
            }
            (Some(_), Some(_)) => {
                self.refuse(
                    path,
                    "`from` has both `s3` and `files`",
                    "make two transfers of it",
                );
                None
            }
            (None, None) if self.doubts.about(path) => None,
            (None, None) => {
                let remedy = "add `s3: s3://bucket/prefix/` or `files: ./directory`";
                self.refuse(path, "`from` has neither `s3` nor `files`", remedy);
                None
            }
        }
    }

    fn versions(&mut self, transfer: &str, from: &FromSection) -> (Versions, Option<Moment>) {
        let as_of = self.read(&format!("{transfer}.from.as_of"), from.as_of.clone());
        let chosen = [
            ("version", from.version.is_some()),
            ("as_of", from.as_of.is_some()),
            ("versions", from.versions == Some(VersionsName::All)),
        ];
        let chosen: Vec<_> = chosen
            .iter()
            .filter(|(_, given)| *given)
            .map(|(field, _)| *field)
            .collect();
        if let [first, .., last] = chosen.as_slice() {
            let message = format!("`{first}` and `{last}` choose different versions");
            self.refuse(
                &format!("{transfer}.from.{last}"),
                message,
                "keep one of them",
            );
            return (Versions::Current, None);
        }
        match (
            as_of.filter(|_| from.s3.is_some()),
            from.versions.filter(|_| from.s3.is_some()),
        ) {
            (Some(time), _) => (Versions::Current, Some(time)),
            (None, Some(VersionsName::All)) => (Versions::All, None),
            (None, _) => (Versions::Current, None),
        }
    }

    fn selection(&mut self, transfer: &str, from: &FromSection) -> Selection {
        let path = |field: &str| format!("{transfer}.from.{field}");
        Selection {
            include: self.globs(&path("include"), from.include.as_deref()),
            exclude: self.globs(&path("exclude"), from.exclude.as_deref()),
            larger_than: self.read(&path("larger_than"), from.larger_than.clone()),
            smaller_than: self.read(&path("smaller_than"), from.smaller_than.clone()),
            // They may be ages, which are the transfer's.
            modified_after: None,
            modified_before: None,
            storage_classes: from.storage_classes.clone().unwrap_or_default(),
        }
    }

    fn globs(&mut self, path: &str, patterns: Option<&[String]>) -> Vec<KeyGlob> {
        let patterns = patterns.unwrap_or_default().iter().enumerate();
        patterns
            .filter_map(|(i, text)| self.read(&format!("{path}[{i}]"), Some(text.clone())))
            .collect()
    }

    fn destination(&mut self, path: &str, to: ToSection) -> Option<Destination> {
        let encryption = to
            .encryption
            .and_then(|section| self.encryption(&format!("{path}.encryption"), section));
        Some(Destination {
            endpoint: to.endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            location: self.read(&format!("{path}.s3"), to.s3)?,
            storage_class: to.storage_class,
            encryption,
            acl: to.acl,
        })
    }

    fn encryption(&mut self, path: &str, section: EncryptionSection) -> Option<Encryption> {
        let section = match section {
            EncryptionSection::Named(EncryptionName::S3) => return Some(Encryption::S3),
            EncryptionSection::Named(EncryptionName::Kms) => {
                return Some(Encryption::Kms {
                    key: None,
                    bucket_key: None,
                    dsse: false,
                });
            }
            EncryptionSection::Named(EncryptionName::Dsse) => {
                return Some(Encryption::Kms {
                    key: None,
                    bucket_key: None,
                    dsse: true,
                });
            }
            EncryptionSection::Keyed(section) => section,
        };
        let bucket_key = section.bucket_key;
        match (section.kms, section.dsse) {
            (Some(key), None) => Some(Encryption::Kms {
                key: Some(key),
                bucket_key,
                dsse: false,
            }),
            (None, Some(key)) => Some(Encryption::Kms {
                key: Some(key),
                bucket_key,
                dsse: true,
            }),
            (Some(_), Some(_)) => {
                self.refuse(
                    path,
                    "`encryption` has both `kms` and `dsse`",
                    "keep one of them",
                );
                None
            }
            (None, None) if self.doubts.about(path) => None,
            (None, None) => {
                let remedy = "add `kms:` with the key's ARN, or write `encryption: kms`";
                self.refuse(path, "`encryption` names no key", remedy);
                None
            }
        }
    }

    fn customer_key(&mut self, path: &str, section: CustomerKeySection) -> Option<KeySource> {
        match (section.env, section.file) {
            (Some(name), None) => Some(KeySource::Env(name)),
            (None, Some(file)) => Some(KeySource::File(file.into())),
            (Some(_), Some(_)) => {
                self.refuse(
                    path,
                    "`customer_key` has both `env` and `file`",
                    "keep one of them",
                );
                None
            }
            (None, None) if self.doubts.about(path) => None,
            (None, None) => {
                let remedy = "add `env:` with the name of a variable, or `file:` with a path";
                self.refuse(path, "`customer_key` does not say where the key is", remedy);
                None
            }
        }
    }

    /// S3 keeps names of user metadata in lower case, so two that differ only in case are one.
    fn overrides(&mut self, path: &str, section: SetSection) -> SetValues {
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

/// `https://host/` is `https://host`; what is no URL is left to the rules.
fn without_slash(url: String) -> String {
    match url.strip_suffix('/') {
        Some(stripped) if !stripped.ends_with('/') => stripped.to_owned(),
        _ => url,
    }
}

fn access(expected_owner: Option<&String>, requester_pays: Option<bool>) -> Access {
    Access {
        expected_owner: expected_owner.cloned(),
        requester_pays: requester_pays.unwrap_or_default(),
    }
}

/// A transfer's policies: its own fields over the defaults'. A preset of its own is a new
/// beginning.
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
