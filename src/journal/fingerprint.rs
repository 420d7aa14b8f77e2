//! The settings of a job that decide which objects are copied, and with which result.
//!
//! A run resumes only if these settings are unchanged. Otherwise one half of a prefix would be
//! copied under one rule, and the other half under another. Limits, reports, credentials, and the
//! names of endpoints may change between two sessions. The settings are kept as text and not as a
//! hash, so that a message can name the change.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use crc_fast::CrcAlgorithm;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::endpoint::Server;
use crate::manifest::job::{
    Attribute, Compare, CustomerKeys, Destination, Encryption, Job, PartGoal, PartSize, Parts,
    Selection, SetValues, Source, Transfer,
};
use crate::manifest::keys::KeyMap;
use crate::manifest::moment::{Age, Ages};
use crate::size::ByteSize;

/// The name of the setting that lists all transfers.
const TRANSFERS: &str = "transfers";
/// The name of the setting that identifies a retry.
const RETRY: &str = "retry";

/// The settings that decide which objects a job copies, and with which result. By name.
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
        settings.set(TRANSFERS, names.join(", "));
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
        names
            .into_iter()
            .map(|name| (name, value(self, name), value(now, name)))
            .filter(|(_, before, after)| before != after)
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

    /// Describes the transfers whose source or destination is another one in `now`.
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

    /// Returns a short digest of all settings.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&format!("{:?}", self.0))
    }

    fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.0.insert(name.into(), value);
        }
    }

    // Every struct is destructured by name, so that a new field cannot be forgotten here.
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
            // They decide if a request is allowed, not what it does.
            source_access: _,
            destination_access: _,
        } = transfer;
        let of = |field: &str| format!("{name}.{field}");
        self.set(of("from"), source(job, from));
        self.destination(job, name, to);
        self.set(of("when"), format!("{when:?}").to_lowercase());
        if *compare != Compare::default() {
            self.set(of("compare"), compare.to_string());
        }
        if *compare_attributes {
            self.set(of("compare_attributes"), "true");
        }
        self.selection(name, select, ages);
        // There may be millions.
        let chosen = chosen.as_ref().map(|chosen| {
            format!(
                "{} objects, {}",
                chosen.len(),
                digest(&format!("{chosen:?}"))
            )
        });
        self.set(of("from.chosen"), text(chosen.as_ref()));
        self.keys(name, keys);
        self.parts(name, parts);
        for attribute in Attribute::ALL {
            let policy = format!("{:?}", preserve.of(attribute)).to_lowercase();
            self.set(of(&format!("preserve.{}", attribute.name())), policy);
        }
        if *set != SetValues::default() {
            self.set(of("set"), format!("{set:?}"));
        }
        let versions = match ages.as_of {
            Some(age) => format!("as of {} ago", Age(age)),
            None => format!("{versions:?}").to_lowercase(),
        };
        self.set(of("from.versions"), versions);
        self.set(
            of("archived"),
            format!("{archived:?} {restore:?}").to_lowercase(),
        );
        self.set(of("proof"), format!("{proof:?}").to_lowercase());
        // The source of the keys, never the keys.
        if *customer_keys != CustomerKeys::default() {
            self.set(of("customer_keys"), format!("{customer_keys:?}"));
        }
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
            self.set(of("parts.goal"), format!("{goal:?}").to_lowercase());
        }
        self.set(of("parts.layout"), format!("{layout:?}").to_lowercase());
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
        for (field, value) in [
            ("include", list(include)),
            ("exclude", list(exclude)),
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
            ("storage_class", list(storage_classes)),
        ] {
            self.set(format!("{name}.from.{field}"), value);
        }
    }
}

fn text(value: Option<&impl Display>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Returns the text of a time. An age is kept as it was written, because it means another time in
/// each run.
fn time(age: Option<Duration>, time: Option<Timestamp>) -> String {
    age.map_or_else(|| text(time.as_ref()), |age| format!("{} ago", Age(age)))
}

fn list(values: &[impl Display]) -> String {
    values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
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
            format!(
                "{path}, symlinks: {}",
                format!("{symlinks:?}").to_lowercase()
            )
        }
        Source::Stdin => "standard input".to_owned(),
    }
}

/// Returns the server of an endpoint, unless it is Amazon S3. The server decides which buckets are
/// meant, and not the name that a manifest gives it or the place where its URL was found.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Environment, ResolvedEndpoint};
    use crate::manifest::job::{DEFAULT_ENDPOINT, Endpoint, Limits, Policy, ReportPaths, When};
    use crate::size::MIB;

    fn job() -> Job {
        let endpoint = DEFAULT_ENDPOINT.to_owned();
        let from = Source::Prefix {
            endpoint: endpoint.clone(),
            location: "s3://lake/x/".parse().unwrap(),
        };
        let to = Destination {
            endpoint,
            location: "s3://copy/".parse().unwrap(),
            storage_class: None,
            encryption: None,
            acl: None,
        };
        Job::single(
            Transfer::new("events", from, to),
            [resolved(Endpoint::default())],
        )
    }

    fn changes(change: impl FnOnce(&mut Job)) -> Vec<String> {
        let mut after = job();
        change(&mut after);
        Fingerprint::of(&job()).changes(&Fingerprint::of(&after))
    }

    #[test]
    fn changes_of_settings_are_described() {
        let change =
            |change: fn(&mut Transfer)| changes(|job| change(&mut job.transfers[0])).join("; ");
        assert_eq!(
            change(|transfer| transfer.when = When::Always),
            "`events.when` was changed and is always"
        );
        assert_eq!(
            change(|transfer| transfer.select.exclude =
                vec!["tmp/**".parse().unwrap(), "*.bak".parse().unwrap()]),
            "`events.from.exclude` is tmp/**, *.bak and was not set"
        );
        assert_eq!(
            change(|transfer| transfer.parts.size = PartSize::Exactly(ByteSize(8 * MIB))),
            "`events.parts.size` was auto and is 8MiB"
        );
        // Rounded, it would be the same as 10000000B.
        assert_eq!(
            change(|transfer| transfer.select.larger_than = Some(ByteSize(10_000_001))),
            "`events.from.larger_than` is 10000001B and was not set"
        );
        assert_eq!(
            change(|transfer| transfer.preserve.tags = Policy::Skip),
            "`events.preserve.tags` was try and is skip"
        );
        assert_eq!(
            change(|transfer| transfer.to.encryption = Some(Encryption::Kms {
                key: None,
                bucket_key: Some(true),
                dsse: false
            })),
            "`events.to.encryption` is kms with the account's key, bucket_key: true and was not set"
        );
        assert_eq!(
            change(|transfer| transfer.name = "other".into()),
            "`transfers` was events and is other"
        );
    }

    #[test]
    fn limits_reports_and_regions_may_change() {
        let none: [String; 0] = [];
        assert_eq!(
            changes(|job| job.limits = Limits {
                in_flight: Some(7),
                ..Limits::default()
            }),
            none
        );
        assert_eq!(
            changes(|job| job.report = ReportPaths {
                json: Some("r".into()),
                ..ReportPaths::default()
            }),
            none
        );
        assert_eq!(
            changes(|job| {
                let region = Some("eu-west-1".to_owned());
                let endpoint = Endpoint {
                    region,
                    ..Endpoint::default()
                };
                job.endpoints
                    .insert(DEFAULT_ENDPOINT.to_owned(), resolved(endpoint));
            }),
            none
        );
    }

    fn resolved(endpoint: Endpoint) -> ResolvedEndpoint {
        endpoint.resolve(&Environment::default())
    }

    #[test]
    fn a_profile_that_leads_to_another_server_is_another_server() {
        let of = |profile: &str| {
            let config = "[profile a]\nendpoint_url = http://a.example\n[profile b]\nendpoint_url = http://b.example\n";
            let endpoint = Endpoint {
                profile: Some(profile.to_owned()),
                ..Endpoint::default()
            };
            changes(|job| {
                let endpoint = endpoint.clone().resolve(&Environment::of([], config, ""));
                job.endpoints.insert(DEFAULT_ENDPOINT.to_owned(), endpoint);
            })
        };
        assert_ne!(of("a"), of("b"));
    }

    #[test]
    fn buckets_of_another_server_are_other_buckets() {
        let moved = changes(|job| {
            let endpoint = Endpoint {
                url: Some("https://rgw.example".into()),
                ..Endpoint::default()
            };
            job.endpoints
                .insert(DEFAULT_ENDPOINT.to_owned(), resolved(endpoint));
        });
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert_eq!(
            moved[1],
            "`events.to` was s3://copy/ and is s3://copy/ at https://rgw.example"
        );
    }

    #[test]
    fn digests_are_short_and_differ() {
        assert_eq!(digest("a").len(), 16);
        assert_ne!(digest("a"), digest("b"));
    }

    #[test]
    fn a_group_of_values_is_shown_without_the_names_of_the_code() {
        let set = crate::manifest::job::SetValues {
            metadata: [("a".to_owned(), "x, {y} \"z\"".to_owned())].into(),
            cache_control: Some("no-store".to_owned()),
            ..Default::default()
        };
        assert_eq!(
            words::shown(&format!("{set:?}")),
            r#"(metadata: {"a": "x, {y} \"z\""}, cache_control: "no-store")"#
        );
        assert_eq!(words::shown("kms with a key"), "kms with a key");
        assert_eq!(words::shown("s3://b/{x} { y }"), "s3://b/{x} { y }");
    }
}
