//! Builds the source and destination of a transfer from `from` and `to`.

use std::path::PathBuf;

use super::explain::Explain;
use super::{FieldReader, access};
use crate::location::{LocalPath, S3Uri};
use crate::manifest::file::{
    CustomerKeySection, EncryptionName, EncryptionSection, FromSection, ToSection, VersionsName,
};
use crate::manifest::job::{
    Access, DEFAULT_ENDPOINT, Destination, Encryption, KeySource, Selection, Source, Versions,
};
use crate::manifest::keys::KeyGlob;
use crate::manifest::moment::Moment;

/// The values that `from` gives to a transfer, without its customer key.
#[derive(Default)]
pub(super) struct FromFields {
    pub(super) source: Option<Source>,
    pub(super) select: Selection,
    pub(super) access: Access,
    pub(super) versions: Versions,
    pub(super) as_of: Option<Moment>,
    pub(super) modified_after: Option<Moment>,
    pub(super) modified_before: Option<Moment>,
}

impl FieldReader<'_> {
    pub(super) fn read_from(&mut self, transfer: &str, from: FromSection) -> FromFields {
        let select = self.selection(transfer, &from);
        let (versions, as_of) = self.versions(transfer, &from);
        let mut time = |field: &str, text: &Option<String>| {
            self.read::<Moment>(&format!("{transfer}.from.{field}"), text.clone())
        };
        FromFields {
            select,
            access: access(from.expected_owner.as_ref(), from.requester_pays),
            versions,
            as_of,
            modified_after: time("modified_after", &from.modified_after),
            modified_before: time("modified_before", &from.modified_before),
            source: self.source(&format!("{transfer}.from"), from),
        }
    }

    fn source(&mut self, path: &str, from: FromSection) -> Option<Source> {
        let only = |reader: &mut Self, field: &str, given: bool, kind: &str| {
            if given {
                let message = format!("`{field}` applies only to `{kind}`");
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
                    "split it into two transfers",
                );
                None
            }
            (None, None) if self.refused_fields.about(path) => None,
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
        // Destructure, so that the compiler reports any new field.
        let FromSection {
            include,
            exclude,
            larger_than,
            smaller_than,
            storage_classes,
            // These may be ages, which belong to the transfer.
            modified_after: _,
            modified_before: _,
            s3,
            // The callers read these.
            endpoint: _,
            version: _,
            expected_owner: _,
            requester_pays: _,
            versions: _,
            as_of: _,
            customer_key: _,
            files: _,
            symlinks: _,
        } = from;
        let prefix = s3.as_deref();
        Selection {
            include: self.globs(&path("include"), include.as_deref(), prefix),
            exclude: self.globs(&path("exclude"), exclude.as_deref(), prefix),
            larger_than: self.read(&path("larger_than"), larger_than.clone()),
            smaller_than: self.read(&path("smaller_than"), smaller_than.clone()),
            modified_after: None,
            modified_before: None,
            storage_classes: storage_classes.clone().unwrap_or_default(),
        }
    }

    /// Reads patterns. If a pattern begins with the location of the source, the remedy suggests the
    /// rest of the pattern.
    fn globs(
        &mut self,
        path: &str,
        patterns: Option<&[String]>,
        source: Option<&str>,
    ) -> Vec<KeyGlob> {
        let mut globs = Vec::new();
        for (index, text) in patterns.unwrap_or_default().iter().enumerate() {
            let error = match text.parse::<KeyGlob>() {
                Ok(glob) => {
                    globs.push(glob);
                    continue;
                }
                Err(error) => error,
            };
            let (message, remedy) = error.explain();
            let rest = source.and_then(|source| text.strip_prefix(source));
            let remedy = match rest.filter(|rest| rest.parse::<KeyGlob>().is_ok()) {
                Some(rest) => format!("write `{rest}`"),
                None => remedy,
            };
            self.refuse(&format!("{path}[{index}]"), message, remedy);
        }
        globs
    }

    pub(super) fn destination(&mut self, path: &str, to: ToSection) -> Option<Destination> {
        let ToSection {
            s3,
            endpoint,
            storage_class,
            encryption,
            acl,
            // The caller reads these.
            expected_owner: _,
            requester_pays: _,
            customer_key: _,
        } = to;
        let encryption =
            encryption.and_then(|section| self.encryption(&format!("{path}.encryption"), section));
        Some(Destination {
            endpoint: endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            location: self.read(&format!("{path}.s3"), s3)?,
            storage_class,
            encryption,
            acl,
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
            (None, None) if self.refused_fields.about(path) => None,
            (None, None) => {
                let remedy = "add `kms:` with the key's ARN, or write `encryption: kms`";
                self.refuse(path, "`encryption` names no key", remedy);
                None
            }
        }
    }

    pub(super) fn customer_key(
        &mut self,
        path: &str,
        section: CustomerKeySection,
    ) -> Option<KeySource> {
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
            (None, None) if self.refused_fields.about(path) => None,
            (None, None) => {
                let remedy = "add `env:` with the name of a variable, or `file:` with a path";
                self.refuse(path, "`customer_key` does not say where the key is", remedy);
                None
            }
        }
    }
}
