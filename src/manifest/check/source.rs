//! Rules about the source of a transfer, its versions, and the selection.

use super::Rules;
use crate::location::{LocalPath, suggestion};
use crate::manifest::job::{Selection, Source, Transfer, Versions};
use crate::manifest::keys::{KeyGlob, Piece};
use crate::manifest::moment::{Age, Ages};

impl Rules<'_> {
    pub(super) fn source(&mut self, path: &str, source: &Source) {
        match source {
            Source::Object { version, .. } => {
                self.filled(&format!("{path}.version"), version.as_deref());
            }
            Source::Files { path: files, .. } => self.local_path(&format!("{path}.files"), files),
            Source::Prefix { .. } | Source::Stdin => {}
        }
    }

    /// Checks that the source can have a history and that the destination can store one.
    pub(super) fn versions(&mut self, path: &str, transfer: &Transfer) {
        if transfer.restore.days == 0 {
            let message = "an object is restored for at least one day";
            self.refuse(&format!("{path}.restore.days"), message, "write at least 1");
        }
        let field = match transfer.versions {
            Versions::Current => return,
            Versions::All => "versions",
            Versions::AsOf(_) => "as_of",
        };
        let field = format!("{path}.from.{field}");
        let Some((_, source)) = transfer.from.s3() else {
            return self.refuse(&field, "only objects in S3 have versions", "remove it");
        };
        if source.bucket.is_directory_bucket() {
            let message = format!(
                "{} is a directory bucket, which keeps no versions",
                source.bucket
            );
            self.refuse(&field, message, "remove it");
        }
        if matches!(
            &transfer.from,
            Source::Object {
                version: Some(_),
                ..
            }
        ) {
            let message = "a version of the object is named already";
            self.refuse(&field, message, "remove one of them");
        }
        if transfer.versions != Versions::All {
            return;
        }
        let to = &transfer.to.location.bucket;
        if to.is_directory_bucket() {
            let message = format!("{to} is a directory bucket, which keeps no versions");
            self.refuse(
                &format!("{path}.to.s3"),
                message,
                "write to a bucket with versions",
            );
        }
        if transfer
            .keys
            .rename
            .as_ref()
            .is_some_and(|rename| rename.pieces().contains(&Piece::Size))
        {
            let message = "{size} would put the versions of one object under different keys";
            self.refuse(&format!("{path}.keys.rename"), message, "leave {size} out");
        }
    }

    pub(super) fn local_path(&mut self, path: &str, file: &LocalPath) {
        let text = file.as_path().to_string_lossy();
        let (message, remedy) = match &*text {
            "" => ("this is empty", "write a path".to_owned()),
            "-" => (
                "`-` is not a path: standard input has no place in a manifest",
                "use `s3haul copy - s3://bucket/key`, or ./- for a file of that name".to_owned(),
            ),
            text if text.starts_with("s3://") => {
                ("this is not a local path", "write `s3:` for it".to_owned())
            }
            text if suggestion(text).is_some() => {
                let remedy = suggestion(text)
                    .map(|suggestion| suggestion.to_string())
                    .unwrap_or_default();
                (
                    "this is not a local path",
                    format!("{remedy} (under `s3:`)"),
                )
            }
            text if text == "~" || text.starts_with("~/") => (
                "`~` is a shell's abbreviation",
                format!("write \"${{HOME}}{}\"", &text[1..]),
            ),
            _ => return,
        };
        self.refuse(path, message, remedy);
    }

    pub(super) fn selection(&mut self, path: &str, transfer: &Transfer, aws: bool) {
        let select = &transfer.select;
        if let (Some(field), Source::Object { .. } | Source::Stdin) =
            (first_condition(select), &transfer.from)
        {
            let remedy = "remove it, or end the source in a slash to mean everything below it";
            self.refuse(
                &format!("{path}.{field}"),
                format!("`{field}` chooses among many, and this is one"),
                remedy,
            );
        }
        if let (Some(least), Some(most)) = (select.larger_than, select.smaller_than)
            && most.0 <= least.0.saturating_add(1)
        {
            let message = format!(
                "no object is larger than {} and smaller than {}",
                least.exact(),
                most.exact()
            );
            self.refuse(
                &format!("{path}.smaller_than"),
                message,
                "make the one smaller or the other larger",
            );
        }
        let Ages {
            modified_after,
            modified_before,
            ..
        } = transfer.ages;
        if let (Some(older), Some(newer)) = (modified_after, modified_before)
            && older <= newer
        {
            let message = format!(
                "no object is younger than {} and older than {}",
                Age(older),
                Age(newer)
            );
            self.refuse(
                &format!("{path}.modified_before"),
                message,
                "write a smaller age here",
            );
        }
        if let (Some(after), Some(before)) = (select.modified_after, select.modified_before)
            && before <= after
            && modified_after.or(modified_before).is_none()
        {
            let message = format!("no time is at or after {after} and before {before}");
            self.refuse(
                &format!("{path}.modified_before"),
                message,
                "write a later time here",
            );
        }
        // In `aws s3`, the last matching pattern decides, so users exclude everything and then
        // include some keys. In s3haul, such an `exclude` takes precedence.
        let covers = |glob: &KeyGlob| {
            let are_all_flat = select.include.iter().all(KeyGlob::is_flat);
            !select.include.is_empty()
                && (glob.covers("") || (glob.as_str() == "*" && are_all_flat))
        };
        if let Some((i, glob)) = select
            .exclude
            .iter()
            .enumerate()
            .find(|(_, glob)| covers(glob))
        {
            let included = select
                .include
                .first()
                .map(KeyGlob::as_str)
                .unwrap_or_default();
            let message = format!(
                "`{glob}` leaves out everything that `{included}` includes: exclude wins over include, in any order"
            );
            let below = if included.contains('/') || included.contains("**") {
                ""
            } else {
                "**/"
            };
            let remedy = format!(
                "remove it, and write `{below}{included}` to include such keys at any depth; all others are left out"
            );
            self.refuse(&format!("{path}.exclude[{i}]"), message, remedy);
        }
        if matches!(transfer.from, Source::Files { .. }) && !select.storage_classes.is_empty() {
            let message = "local files have no storage class";
            self.refuse(&format!("{path}.storage_classes"), message, "remove it");
        }
        for (i, class) in select.storage_classes.iter().enumerate() {
            self.storage_class(&format!("{path}.storage_classes[{i}]"), class, aws);
        }
    }
}

/// Returns the field name of the first condition that the selection sets.
fn first_condition(select: &Selection) -> Option<&'static str> {
    let conditions = [
        ("include", !select.include.is_empty()),
        ("exclude", !select.exclude.is_empty()),
        ("larger_than", select.larger_than.is_some()),
        ("smaller_than", select.smaller_than.is_some()),
        ("modified_after", select.modified_after.is_some()),
        ("modified_before", select.modified_before.is_some()),
        ("storage_classes", !select.storage_classes.is_empty()),
    ];
    conditions
        .into_iter()
        .find(|(_, given)| *given)
        .map(|(field, _)| field)
}
