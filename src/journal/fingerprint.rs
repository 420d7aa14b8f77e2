//! The settings of a job that decide which objects are copied, and with which result.
//!
//! A run resumes only if these settings are unchanged. Otherwise one half of a prefix would be
//! copied under one rule, and the other half under another. Limits, reports, credentials, and the
//! names of endpoints may change between two sessions. The settings are kept as text and not as a
//! hash, so that a message can name the change ([`text`]).
//!
//! A newer s3haul continues the runs of older ones. Therefore a new setting is recorded only if it
//! is not the default: its absence in an older journal is not a change.

#[cfg(test)]
mod tests;
mod text;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use crc_fast::CrcAlgorithm;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::Server;
use crate::manifest::job::{
    Attribute, Compare, Destination, Encryption, Job, PartGoal, PartSize, Parts, Preserve,
    Selection, Source, Transfer,
};
use crate::manifest::keys::KeyMap;
use crate::manifest::moment::{Age, Ages};
use crate::size::ByteSize;

/// The name of the setting that lists all transfers.
const TRANSFERS: &str = "transfers";
/// The name of the setting that identifies a retry.
const RETRY: &str = "retry";
/// The separator between the elements of a list.
const SEPARATOR: &str = ", ";
/// The suffix of a setting that holds the exact elements of a list. The text of the list is
/// ambiguous, because an element may contain the separator. Older journals have only that text.
const ELEMENTS: &str = ".elements";

/// The settings, by name, that decide which objects a job copies, and with which result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// Returns the source and the destination of a transfer, if they are on record.
    #[must_use]
    pub fn sides(&self, transfer: &str) -> Option<(&str, &str)> {
        let side = |side: &str| {
            self.0
                .get(&format!("{transfer}.{side}"))
                .map(String::as_str)
        };
        side("from").zip(side("to"))
    }

    /// Returns the fingerprint of a job.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        let mut settings = Self::default();
        let names: Vec<_> = job
            .transfers
            .iter()
            .map(|transfer| transfer.name.as_str())
            .collect();
        settings.set(TRANSFERS, names.join(SEPARATOR));
        settings.set(RETRY, text(job.retries.as_ref()));
        for transfer in &job.transfers {
            settings.transfer(job, transfer);
        }
        settings
    }

    /// Describes the differences between these settings and those of `now`.
    #[must_use]
    pub fn changes(&self, now: &Self) -> Vec<String> {
        let mut names: BTreeSet<_> = self
            .0
            .keys()
            .chain(now.0.keys())
            .map(String::as_str)
            .collect();
        if self.0.get(TRANSFERS) != now.0.get(TRANSFERS) {
            // If the transfers differ, all their settings differ too. Such a list would not help a
            // reader.
            names.retain(|name| *name == TRANSFERS);
        }
        let value = |settings: &Self, name: &str| {
            settings
                .0
                .get(name)
                .map(String::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        // Compares exact elements only if both sides have them (an older journal has only the text)
        // and the texts are equal (otherwise the text shows the difference).
        names.retain(|name| {
            let has_both = || self.0.contains_key(*name) && now.0.contains_key(*name);
            let list = name.strip_suffix(ELEMENTS);
            list.is_none_or(|list| has_both() && self.0.get(list) == now.0.get(list))
        });
        names
            .into_iter()
            .map(|name| (name, value(self, name), value(now, name)))
            .filter(|(_, before, after)| before != after)
            .map(|(name, before, after)| {
                let name = name.strip_suffix(ELEMENTS).unwrap_or(name);
                (name, before, after)
            })
            .map(
                |(name, before, after)| match (before.as_str(), after.as_str()) {
                    ("", after) => format!("`{name}` is {} and was not set", words::shown(after)),
                    (before, "") => format!("`{name}` was {} and is not set", words::shown(before)),
                    (before, after) => {
                        format!(
                            "`{name}` was {} and is {}",
                            words::shown(before),
                            words::shown(after)
                        )
                    }
                },
            )
            .collect()
    }

    /// Describes the sources and destinations that differ in `now`.
    #[must_use]
    pub fn moves(&self, now: &Self) -> Vec<String> {
        let is_side = |name: &str| matches!(name.rsplit_once('.'), Some((_, "from" | "to")));
        let sides = |settings: &Self| {
            Self(
                settings
                    .0
                    .iter()
                    .filter(|(name, _)| is_side(name))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            )
        };
        sides(self).changes(&sides(now))
    }

    /// Returns the name of the report whose failed objects a retry copies again; `None` for other
    /// runs.
    #[must_use]
    pub fn retries(&self) -> Option<&str> {
        self.0.get(RETRY).map(String::as_str)
    }

    /// Returns true if both jobs have the same transfers in the same order.
    #[must_use]
    pub fn has_transfers_of(&self, other: &Self) -> bool {
        self.0.get(TRANSFERS) == other.0.get(TRANSFERS)
    }

    /// Returns a short digest of all settings. It names the journal of a one-off command, so it
    /// must equal the digest of older versions, which do not have the exact elements of lists.
    #[must_use]
    pub fn digest(&self) -> String {
        let settings = self.0.iter().filter(|(name, _)| !name.ends_with(ELEMENTS));
        digest(&format!("{:?}", settings.collect::<BTreeMap<_, _>>()))
    }

    fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.0.insert(name.into(), value);
        }
    }

    /// Sets the text of a list. If the text contains a separator, also sets the exact elements.
    fn list(&mut self, name: String, values: &[impl Display]) {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        let text = values.join(SEPARATOR);
        if text.contains(SEPARATOR) {
            // Texts always serialize.
            let elements = serde_json::to_string(&values).unwrap_or_default();
            self.set(format!("{name}{ELEMENTS}"), elements);
        }
        self.set(name, text);
    }

    // Every struct is destructured by name, so that a new field cannot be forgotten here. It is
    // recorded only if it is not the default.
    fn transfer(&mut self, job: &Job, transfer: &Transfer) {
        let Transfer {
            after: _,
            name,
            from,
            to,
            when,
            compare,
            compare_attributes,
            select,
            keys,
            parts,
            preserve,
            set,
            ages,
            versions,
            archived,
            restore,
            proof,
            chosen,
            own_files: _,
            // A run with a journal has none.
            repairs: _,
            customer_keys,
            // It only decides the exit code.
            empty: _,
            // They decide whether a request is allowed, not what it does.
            source_access: _,
            destination_access: _,
        } = transfer;
        let of = |field: &str| format!("{name}.{field}");
        self.set(of("from"), source(job, from));
        self.destination(job, name, to);
        self.set(of("when"), text::when(*when));
        if *compare != Compare::default() {
            self.set(of("compare"), compare.to_string());
        }
        if *compare_attributes {
            self.set(of("compare_attributes"), "true");
        }
        self.selection(name, select, ages);
        // The fingerprint has only a digest, because there may be millions of keys.
        let chosen = chosen.as_ref().map(|chosen| {
            format!(
                "{} objects, {}",
                chosen.len(),
                digest(&text::chosen(chosen))
            )
        });
        self.set(of("from.chosen"), text(chosen.as_ref()));
        self.keys(name, keys);
        self.parts(name, parts);
        for attribute in Attribute::ALL {
            let policy = preserve.of(attribute);
            let is_default = policy == Preserve::default().of(attribute);
            if text::has_always_policy(attribute) || !is_default {
                let name = of(&format!("preserve.{}", attribute.name()));
                self.set(name, text::policy(policy));
            }
        }
        self.set(of("set"), text::set(set));
        let versions = match ages.as_of {
            Some(age) => format!("as of {} ago", Age(age)),
            None => text::versions(*versions),
        };
        self.set(of("from.versions"), versions);
        self.set(of("archived"), text::archived(*archived, *restore));
        self.set(of("proof"), text::proof(*proof));
        self.set(of("customer_keys"), text::customer_keys(customer_keys));
    }

    fn destination(&mut self, job: &Job, name: &str, to: &Destination) {
        let of = |field: &str| format!("{name}.{field}");
        let Destination {
            endpoint,
            location,
            storage_class,
            encryption,
            acl,
        } = to;
        self.set(of("to"), format!("{location}{}", at(job, endpoint)));
        self.set(of("to.storage_class"), text(storage_class.as_ref()));
        self.set(
            of("to.encryption"),
            encryption
                .as_ref()
                .map(self::encryption)
                .unwrap_or_default(),
        );
        self.set(of("to.acl"), text(acl.as_ref()));
    }

    fn keys(&mut self, name: &str, keys: &KeyMap) {
        let of = |field: &str| format!("{name}.{field}");
        let KeyMap {
            strip_prefix,
            add_prefix,
            rename,
        } = keys;
        self.set(of("keys.strip_prefix"), text(strip_prefix.as_ref()));
        self.set(of("keys.add_prefix"), text(add_prefix.as_ref()));
        self.set(
            of("keys.rename"),
            rename
                .as_ref()
                .map(|rename| rename.as_str().to_owned())
                .unwrap_or_default(),
        );
    }

    fn parts(&mut self, name: &str, parts: &Parts) {
        let of = |field: &str| format!("{name}.{field}");
        let Parts {
            size,
            threshold,
            goal,
            layout,
        } = parts;
        if *goal != PartGoal::default() {
            self.set(of("parts.goal"), text::part_goal(*goal));
        }
        self.set(of("parts.layout"), text::part_layout(*layout));
        self.set(
            of("parts.size"),
            match size {
                PartSize::Auto => "auto".to_owned(),
                PartSize::Exactly(size) => size.exact(),
            },
        );
        self.set(of("parts.threshold"), threshold.exact());
    }

    fn selection(&mut self, name: &str, select: &Selection, ages: &Ages) {
        let Selection {
            include,
            exclude,
            larger_than,
            smaller_than,
            modified_after,
            modified_before,
            storage_classes,
        } = select;
        let of = |field: &str| format!("{name}.from.{field}");
        self.list(of("include"), include);
        self.list(of("exclude"), exclude);
        self.list(of("storage_class"), storage_classes);
        for (field, value) in [
            (
                "larger_than",
                larger_than.map(ByteSize::exact).unwrap_or_default(),
            ),
            (
                "smaller_than",
                smaller_than.map(ByteSize::exact).unwrap_or_default(),
            ),
            ("modified_after", time(ages.modified_after, *modified_after)),
            (
                "modified_before",
                time(ages.modified_before, *modified_before),
            ),
        ] {
            self.set(of(field), value);
        }
    }
}

fn text(value: Option<&impl Display>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Returns the text of a time. An age is kept as it was written, because it stands for a different
/// time in each run.
fn time(age: Option<Duration>, time: Option<Timestamp>) -> String {
    age.map_or_else(|| text(time.as_ref()), |age| format!("{} ago", Age(age)))
}

fn source(job: &Job, source: &Source) -> String {
    match source {
        Source::Object {
            endpoint,
            location,
            version,
        } => {
            let version = version
                .as_ref()
                .map(|version| format!(", version {version}"))
                .unwrap_or_default();
            format!("{location}{version}{}", at(job, endpoint))
        }
        Source::Prefix { endpoint, location } => format!("{location}{}", at(job, endpoint)),
        Source::Files { path, symlinks } => {
            format!("{path}, symlinks: {}", text::symlinks(*symlinks))
        }
        Source::Stdin => "standard input".to_owned(),
    }
}

/// Returns the server of an endpoint, unless it is Amazon S3. Only the server decides which buckets
/// are meant; its name in the manifest and the place where its URL was found do not matter.
fn at(job: &Job, endpoint: &str) -> String {
    match job.endpoints.get(endpoint).map(|endpoint| &endpoint.server) {
        Some(server @ Server::Other { .. }) => format!(" at {server}"),
        _ => String::new(),
    }
}

fn encryption(encryption: &Encryption) -> String {
    match encryption {
        Encryption::S3 => "s3".to_owned(),
        Encryption::Kms {
            key,
            bucket_key,
            dsse,
        } => {
            let kind = if *dsse { "dsse" } else { "kms" };
            let bucket_key = bucket_key
                .map(|on| format!(", bucket_key: {on}"))
                .unwrap_or_default();
            format!(
                "{kind} {}{bucket_key}",
                key.as_deref().unwrap_or("with the account's key")
            )
        }
    }
}

/// Returns a short digest of a longer text.
#[must_use]
pub fn digest(text: &str) -> String {
    format!(
        "{:016x}",
        crc_fast::checksum(CrcAlgorithm::Crc64Nvme, text.as_bytes())
    )
}
