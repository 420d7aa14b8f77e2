//! Checks the rules for a [`Job`], whether it comes from a manifest or a command line. This module
//! checks one field at a time; [`overlap`](super::overlap) compares the keys of transfers.

mod endpoint;
mod source;

use std::collections::BTreeMap;

use super::diagnose::{Mistake, RefusedFields};
use super::job::{
    Destination, Encryption, Job, MAX_PART, MIN_PART, PartSize, Provider, ResolvedEndpoint, Source,
    Transfer,
};
use super::overlap;
use super::shape::{alternatives, closest};
use super::{acl, attributes, compare, tenant};
use crate::endpoint::NO_KEY_OVER_HTTP;
use crate::location::{LocalPath, suggestion};
use crate::size::ByteSize;

/// The storage classes of Amazon S3. Other servers have other names.
const STORAGE_CLASSES: [&str; 12] = [
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
    "SNOW",
    "FSX_OPENZFS",
];

impl Job {
    /// Returns all mistakes: settings that cannot work, or that would not do what they seem to do.
    /// Paths name fields as in a manifest.
    #[must_use]
    pub fn check(&self) -> Vec<Mistake> {
        let indices: Vec<_> = (0..self.transfers.len()).collect();
        let mut mistakes = check_with(self, &indices, &RefusedFields::default());
        if self.transfers.is_empty() {
            let (path, message) = (
                "transfers".to_owned(),
                "there is nothing to transfer".to_owned(),
            );
            mistakes.push(Mistake {
                path,
                message,
                remedy: "name a source and a destination".to_owned(),
            });
        }
        mistakes
    }
}

/// Applies [`Job::check`] to the readable part of a manifest. `indices` gives the position of each
/// transfer in the file. Does not report a job without transfers, because the reason was already
/// reported.
pub(super) fn check_with(
    job: &Job,
    indices: &[usize],
    refused_fields: &RefusedFields,
) -> Vec<Mistake> {
    let mut rules = Rules {
        job,
        indices,
        refused_fields,
        mistakes: Vec::new(),
    };
    rules.name("name", &job.name);
    for (name, endpoint) in &job.endpoints {
        rules.endpoint(&format!("endpoints.{name}"), name, endpoint);
    }
    rules.limits();
    rules.report();
    let mut names = BTreeMap::new();
    for (transfer, index) in job.transfers.iter().zip(indices) {
        let path = format!("transfers[{index}]");
        if let Some(first) = names.insert(transfer.name.as_str(), index) {
            let message = format!(
                "the name `{}` is also that of transfers[{first}]",
                transfer.name
            );
            rules.refuse(
                &format!("{path}.name"),
                message,
                "give each transfer a different name",
            );
        }
        for (at, after) in transfer.after.iter().enumerate() {
            if !names.contains_key(after.as_str()) || *after == transfer.name {
                rules.no_such_transfer(&format!("{path}.after[{at}]"), after, transfer);
            }
        }
        rules.transfer(&path, transfer);
        rules.plaintext_keys(&path, transfer);
    }
    overlap::check(job, indices, refused_fields, &mut rules.mistakes);
    rules.mistakes
}

struct Rules<'j> {
    job: &'j Job,
    indices: &'j [usize],
    refused_fields: &'j RefusedFields,
    mistakes: Vec<Mistake>,
}

impl<'j> Rules<'j> {
    fn refuse(&mut self, path: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let (message, remedy) = (message.into(), remedy.into());
        self.mistakes.push(Mistake {
            path: path.to_owned(),
            message,
            remedy,
        });
    }

    fn name(&mut self, path: &str, name: &str) {
        let legal =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(legal) {
            let remedy =
                "use lower-case letters, digits, `-`, `_` and `.`: it becomes part of file names";
            self.refuse(path, format!("`{name}` cannot be a name"), remedy);
        }
    }

    /// Refuses customer keys at endpoints whose stated URL is plain HTTP, even with `allow_http`.
    fn plaintext_keys(&mut self, path: &str, transfer: &Transfer) {
        let keys = &transfer.customer_keys;
        let source = transfer
            .from
            .s3()
            .map(|(endpoint, _)| endpoint)
            .filter(|_| keys.source.is_some());
        let destination = keys
            .destination
            .as_ref()
            .map(|_| transfer.to.endpoint.as_str());
        for (side, endpoint) in [("from", source), ("to", destination)] {
            let at = endpoint.and_then(|name| self.job.endpoints.get(name));
            if at.is_some_and(|at| at.is_plaintext() && at.stated.url.is_some()) {
                let remedy = "give the endpoint an https:// URL";
                self.refuse(
                    &format!("{path}.{side}.customer_key"),
                    NO_KEY_OVER_HTTP,
                    remedy,
                );
            }
        }
    }

    /// Refuses a report with two locations, and a report file whose path is an S3 location, which
    /// would create a directory named `s3:`.
    fn report(&mut self) {
        if self.job.report.json.is_some() && self.job.report.s3.is_some() {
            self.refuse(
                "report",
                "this names two locations, but a report has one",
                "remove `json` or `s3`",
            );
        }
        let Some(path) = &self.job.report.json else {
            return;
        };
        let text = path.to_string_lossy();
        let remedy = if text == "-" {
            "write a path, or ./- for a file of that name"
        } else if text.starts_with("s3://") || suggestion(&text).is_some() {
            "write a path, or move the location to `report.s3`"
        } else {
            return self.local_path("report.json", &LocalPath(path.clone()));
        };
        let message = format!("`{text}` is not a path, and `json` names a file of this machine");
        self.refuse("report.json", message, remedy);
    }

    /// Reports an `after` that names no earlier transfer.
    fn no_such_transfer(&mut self, path: &str, after: &str, transfer: &Transfer) {
        // A transfer whose name could not be read has its own mistake.
        let mut indices = self.indices.iter();
        let is_hidden = |index| {
            self.refused_fields
                .about(&format!("transfers[{index}].name"))
        };
        if self.refused_fields.has_unread_transfer() || indices.any(is_hidden) {
            return;
        }
        if after == transfer.name {
            let message = format!("`{after}` cannot wait for itself");
            return self.refuse(path, message, "name a transfer above this one");
        }
        if self.job.transfers.iter().any(|other| other.name == after) {
            let message =
                format!("`{after}` comes after this transfer, so this one cannot wait for it");
            return self.refuse(
                path,
                message,
                format!("put `{after}` above `{}`", transfer.name),
            );
        }
        let above = self
            .job
            .transfers
            .iter()
            .take_while(|other| other.name != transfer.name);
        let remedy = match closest(after, above.map(|other| other.name.as_str())) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "name a transfer above this one".to_owned(),
        };
        self.refuse(path, format!("no transfer has the name `{after}`"), remedy);
    }

    fn filled(&mut self, path: &str, text: Option<&str>) {
        if text.is_some_and(|text| text.trim().is_empty()) {
            self.refuse(path, "this is empty", "give it a value, or remove it");
        }
    }

    fn limits(&mut self) {
        let limits = &self.job.limits;
        let zero = [
            ("requests_per_second", limits.requests_per_second == Some(0)),
            (
                "bytes_per_second",
                limits.bytes_per_second.is_some_and(|rate| rate.0 == 0),
            ),
            ("in_flight", limits.in_flight == Some(0)),
        ];
        for (field, _) in zero.into_iter().filter(|(_, zero)| *zero) {
            let message = format!("with `{field}` at 0 nothing would ever be copied");
            self.refuse(
                &format!("limits.{field}"),
                message,
                "write at least 1, or remove it for no limit",
            );
        }
    }

    fn transfer(&mut self, path: &str, transfer: &Transfer) {
        self.name(&format!("{path}.name"), &transfer.name);
        let from = transfer
            .from
            .s3()
            .and_then(|(name, _)| self.known(&format!("{path}.from.endpoint"), name));
        let to = self.known(&format!("{path}.to.endpoint"), &transfer.to.endpoint);
        let sure = |endpoint: &&ResolvedEndpoint| {
            !self
                .refused_fields
                .about(&format!("endpoints.{}", endpoint.name))
        };
        let sure = [from, to].iter().flatten().all(sure)
            && !self.refused_fields.about(&format!("{path}.from.endpoint"))
            && !self.refused_fields.about(&format!("{path}.to.endpoint"));
        if let (Some(from), Some(to), true) = (from, to, sure) {
            self.one_server(path, from, to);
        }
        // A proxy or gateway in front of Amazon S3 has another host name, so the provider counts
        // too.
        let is_aws =
            |endpoint: &ResolvedEndpoint| endpoint.is_aws() || endpoint.provider == Provider::Aws;
        let aws = |endpoint: Option<&ResolvedEndpoint>| sure && endpoint.is_some_and(is_aws);
        let places = transfer
            .from
            .s3()
            .map(|(_, location)| ("from", from, location));
        for (side, endpoint, location) in
            places
                .into_iter()
                .chain([("to", to, &transfer.to.location)])
        {
            let mistake = endpoint
                .filter(|_| sure)
                .and_then(|at| tenant::mistake(&location.bucket, at));
            if let Some((message, remedy)) = mistake {
                self.refuse(&format!("{path}.{side}.s3"), message, remedy);
            }
        }
        self.access(
            &format!("{path}.from"),
            &transfer.source_access,
            from.filter(|_| sure),
        );
        self.access(
            &format!("{path}.to"),
            &transfer.destination_access,
            to.filter(|_| sure),
        );
        self.source(&format!("{path}.from"), &transfer.from);
        self.selection(&format!("{path}.from"), transfer, aws(from));
        self.destination(&format!("{path}.to"), transfer, aws(to));
        self.parts(&format!("{path}.parts"), transfer);
        self.versions(path, transfer);
        self.keys(&format!("{path}.keys"), transfer);
        self.mistakes
            .extend(acl::check(path, transfer, to.filter(|_| sure)));
        self.mistakes.extend(attributes::check(path, transfer));
        self.mistakes.extend(compare::check(path, transfer));
    }

    fn known(&mut self, path: &str, name: &str) -> Option<&'j ResolvedEndpoint> {
        let endpoints = &self.job.endpoints;
        let endpoint = endpoints.get(name);
        if endpoint.is_none() {
            self.refused_fields.skip();
            let names = || endpoints.keys().map(String::as_str);
            let remedy = match closest(name, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!(
                    "define it under `endpoints:`, or use {}",
                    alternatives(names())
                ),
            };
            self.refuse(path, format!("there is no endpoint `{name}`"), remedy);
        }
        endpoint
    }

    fn destination(&mut self, path: &str, transfer: &Transfer, aws: bool) {
        let Destination {
            location,
            storage_class,
            encryption,
            ..
        } = &transfer.to;
        let many = match &transfer.from {
            Source::Prefix { .. } => Some("a prefix"),
            Source::Files { path, .. } if is_directory(path) => Some("a directory"),
            Source::Files { .. } if !transfer.select.is_everything() => Some("a choice of files"),
            _ => None,
        };
        if let (Some(many), false) = (many, location.key.is_prefix()) {
            let message = format!("the source is {many}, and {location} is the key of one object");
            self.refuse(
                &format!("{path}.s3"),
                message,
                format!("write {location}/ with a slash at the end"),
            );
        }
        if matches!(transfer.from, Source::Stdin) && location.key.is_prefix() {
            let message = "standard input has no file name to put after the prefix";
            self.refuse(
                &format!("{path}.s3"),
                message,
                format!("write the whole key: {location}name"),
            );
        }
        if let Some(class) = storage_class {
            self.storage_class(&format!("{path}.storage_class"), class, aws);
        }
        if let Some(Encryption::Kms {
            key,
            bucket_key,
            dsse,
        }) = encryption
        {
            let field = if *dsse { "dsse" } else { "kms" };
            if key
                .as_ref()
                .is_some_and(|key| key.is_empty() || key.contains(char::is_whitespace))
            {
                let remedy = "write the key's ARN, or `encryption: kms` for the account's own key";
                self.refuse(
                    &format!("{path}.encryption.{field}"),
                    "this is not the name of a key",
                    remedy,
                );
            }
            if *dsse && bucket_key.is_some() {
                let message = "there are no bucket keys with two layers of encryption";
                self.refuse(
                    &format!("{path}.encryption.bucket_key"),
                    message,
                    "remove it, or use `kms`",
                );
            }
        }
    }

    fn storage_class(&mut self, path: &str, class: &str, aws: bool) {
        let legal =
            |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
        let (message, remedy) = if aws && !STORAGE_CLASSES.contains(&class) {
            let remedy = match closest(class, STORAGE_CLASSES) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("S3 has {}", alternatives(STORAGE_CLASSES)),
            };
            (format!("`{class}` is not a storage class of S3"), remedy)
        } else if class.is_empty() || !class.bytes().all(legal) {
            let remedy = "use upper-case letters, digits, `_` and `-`, as the server's administrator named it";
            (
                format!("`{class}` is not a storage class"),
                remedy.to_owned(),
            )
        } else {
            return;
        };
        self.refuse(path, message, remedy);
    }

    fn parts(&mut self, path: &str, transfer: &Transfer) {
        let mut range = |field: &str, what: &str, size: ByteSize| {
            if !(MIN_PART..=MAX_PART).contains(&size) {
                let message = format!(
                    "{what} of {} is not possible: S3 takes {MIN_PART} to {MAX_PART}",
                    size.exact()
                );
                let meant = size.clamp(MIN_PART, MAX_PART);
                self.refuse(
                    &format!("{path}.{field}"),
                    message,
                    format!("write {meant}"),
                );
            }
        };
        if let PartSize::Exactly(size) = transfer.parts.size {
            range("size", "a part size", size);
        }
        range("threshold", "a threshold", transfer.parts.threshold);
    }

    fn keys(&mut self, path: &str, transfer: &Transfer) {
        let keys = &transfer.keys;
        self.filled(
            &format!("{path}.strip_prefix"),
            keys.strip_prefix.as_deref(),
        );
        self.filled(&format!("{path}.add_prefix"), keys.add_prefix.as_deref());
        if !keys.is_identity() && !transfer.to.location.key.is_prefix() {
            let message = format!(
                "{} is an exact key, which `keys` cannot change",
                transfer.to.location
            );
            self.refuse(
                path,
                message,
                "remove one of them, or end the destination in a slash",
            );
        }
    }
}

/// Returns true for a path that can only be a directory. For other paths, the run determines the
/// type when it starts.
fn is_directory(path: &LocalPath) -> bool {
    path.as_path().to_string_lossy().ends_with('/') || path.as_path().file_name().is_none()
}
