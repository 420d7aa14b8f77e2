//! Whose uploads are open: what journals know of them.

use clap::Args;
use jiff::Timestamp;

use super::journal::{Named, of_environment, places};
use super::{CliError, EndpointFlags};
use crate::journal::uploads::OpenUpload as Recorded;
use crate::journal::{Life, look};
use crate::listing::local::JOURNALS;
use crate::location::BucketName;
use crate::manifest::job::JournalPlace;
use crate::multipart::was_begun_between;
use crate::s3::OpenUpload;

/// Which journals say whose uploads are open.
#[derive(Clone, Debug, Args)]
pub(super) struct MineFlags {
    /// Only uploads that a journal of s3haul knows: those in ./.s3haul, or the one that --journal
    /// names.
    #[arg(long)]
    mine: bool,
    /// With --mine, the journal: a directory, or s3://bucket/prefix/ (or S3HAUL_JOURNAL).
    // The variable is read with --mine only: it is there for `run`, and to abort everybody's
    // uploads with --journal would be to take no notice of it.
    #[arg(long, value_name = "PLACE", requires = "mine")]
    journal: Option<JournalPlace>,
}

/// The uploads that journals know, as far as they are in one bucket.
#[derive(Debug)]
pub(super) struct Mine(Vec<Known>);

#[derive(Debug)]
struct Known {
    recorded: Recorded,
    /// The time at which the journal was written last.
    until: Timestamp,
    /// The journal, if a run is at work on it.
    running: Option<String>,
}

impl MineFlags {
    /// Reads the uploads in `bucket` that the journals know; `None` if that was not requested.
    pub(super) async fn read(
        &self,
        bucket: &BucketName,
        endpoint: &EndpointFlags,
    ) -> Result<Option<Mine>, CliError> {
        if !self.mine {
            return Ok(None);
        }
        let journal = self
            .journal
            .clone()
            .map_or_else(of_environment, |journal| Ok(Some(journal)))?;
        let named = match journal {
            None | Some(JournalPlace::Usual) => Named::None,
            Some(JournalPlace::Nowhere) => {
                let message = "--mine looks into journals, and `--journal none` (or S3HAUL_JOURNAL) names none";
                return Err(CliError::Usage(message.to_owned()));
            }
            Some(JournalPlace::Directory(path)) => Named::Directory(path),
            Some(JournalPlace::Prefix(uri)) => Named::Prefix(uri),
        };
        let (mut known, mut journals) = (Vec::new(), 0);
        for (place, location) in places(named, endpoint).await? {
            let Some(glance) = look(location).await? else {
                continue;
            };
            journals += 1;
            let until = glance.state.last.unwrap_or_default();
            let running = (glance.life == Life::Running).then_some(place);
            let there = glance
                .state
                .uploads
                .into_values()
                .filter(|open| open.place.bucket == *bucket);
            known.extend(there.map(|recorded| Known {
                recorded,
                until,
                running: running.clone(),
            }));
        }
        if journals == 0 {
            let message = format!(
                "there is no journal in ./{JOURNALS}, so nothing is known to be s3haul's own; name one with --journal, or \
                 leave --mine out"
            );
            return Err(CliError::Usage(message));
        }
        Ok(Some(Mine(known)))
    }
}

impl Mine {
    /// Returns true if a journal knows this upload, whose parts have this many bytes. An upload
    /// that was about to be created when its journal ended has no id there: it is known by its key
    /// and time, and has no parts yet.
    pub(super) fn knows(&self, open: &OpenUpload, bytes: Option<u64>) -> bool {
        self.find(open, bytes).is_some()
    }

    /// Returns the journal of a run that is at work on this upload.
    pub(super) fn at_work(&self, open: &OpenUpload, bytes: Option<u64>) -> Option<&str> {
        self.find(open, bytes)?.running.as_deref()
    }

    fn find(&self, open: &OpenUpload, bytes: Option<u64>) -> Option<&Known> {
        let ids = |known: &&Known| {
            known
                .recorded
                .begun
                .as_ref()
                .is_some_and(|begun| begun.id == open.upload_id)
        };
        let intended = |known: &&Known| {
            let Recorded {
                begun,
                place,
                intended,
                ..
            } = &known.recorded;
            let in_time = open
                .initiated
                .is_some_and(|initiated| was_begun_between(initiated, *intended, known.until));
            begun.is_none() && place.key.as_str() == open.key && bytes == Some(0) && in_time
        };
        self.0
            .iter()
            .find(ids)
            .or_else(|| self.0.iter().find(intended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::event::{SourceVersion, UploadPlace};
    use crate::journal::uploads::Kept;
    use crate::journal::uploads::{BegunUpload, PartMarks};

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).unwrap()
    }

    fn known(id: Option<&str>, intended: i64, running: Option<&str>) -> Known {
        let begun = id.map(|id| BegunUpload {
            id: id.into(),
            source: SourceVersion {
                size: 1,
                version: None,
                etag: None,
                modified: None,
            },
            parts: [1].into_iter().collect(),
            attributes: String::new(),
            kms: false,
            losses: Vec::new(),
            claimed: false,
            stored: PartMarks::default(),
            stored_bytes: 0,
            completing: None,
        });
        let (bucket, key) = ("bucket".parse().unwrap(), "key".parse().unwrap());
        let place = UploadPlace {
            endpoint: "default".into(),
            bucket,
            key,
        };
        let recorded = Recorded {
            object: 1,
            place,
            server: None,
            intended: at(intended),
            kept: Kept::No,
            begun,
        };
        Known {
            recorded,
            until: at(intended + 100),
            running: running.map(str::to_owned),
        }
    }

    fn open(key: &str, id: &str, initiated: i64) -> OpenUpload {
        let (key, upload_id) = (key.to_owned(), id.to_owned());
        OpenUpload {
            key,
            upload_id,
            initiated: Some(at(initiated)),
            storage_class: None,
        }
    }

    #[test]
    fn an_upload_is_known_by_its_id_or_as_the_empty_one_that_was_about_to_be_begun() {
        let mine = Mine(vec![
            known(Some("a"), 1000, Some("j")),
            known(None, 5000, None),
        ]);
        for (upload, bytes, outcome) in [
            (open("key", "a", 1), Some(9), true),
            (open("key", "b", 1000), Some(0), false),
            (open("key", "b", 5001), Some(0), true),
            (open("key", "b", 5001), Some(1), false),
            (open("key", "b", 5001), None, false),
            (open("key2", "b", 5001), Some(0), false),
            (open("key", "b", 5200), Some(0), false),
        ] {
            assert_eq!(mine.knows(&upload, bytes), outcome, "{upload:?}");
        }
        assert_eq!(mine.at_work(&open("key", "a", 1), None), Some("j"));
        assert_eq!(mine.at_work(&open("key", "b", 5001), Some(0)), None);
    }
}
