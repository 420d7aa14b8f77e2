//! The open uploads that are recorded in journals.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;

use super::journal::{Named, glances, of_environment, places};
use super::{CliError, EndpointFlags, note};
use crate::bucket::Bucket;
use crate::journal::uploads::JournaledUpload;
use crate::journal::{Glance, Life, look};
use crate::listing::local::JOURNALS;
use crate::location::S3Uri;
use crate::manifest::job::JournalPlace;
use crate::multipart::was_created_between;
use crate::probe;
use crate::s3::OpenUpload;
use crate::size::{by_number, display_count, display_counted};

/// The flags that select uploads by journal.
#[derive(Clone, Debug, Args)]
pub(super) struct MineFlags {
    /// Select only uploads that s3haul's journals record: all journals in ./.s3haul, or the one
    /// that --journal or --job names.
    #[arg(long)]
    mine: bool,
    /// With --mine, the journal to read: a directory, or s3://bucket/prefix/ (or S3HAUL_JOURNAL).
    // The variable is read only with --mine: it is set for `run`, and `uploads abort` ignores it
    // without --mine.
    #[arg(long, value_name = "PLACE", requires = "mine")]
    journal: Option<JournalPlace>,
    /// With --mine, read the journal of this job manifest.
    #[arg(
        long,
        value_name = "FILE",
        requires = "mine",
        conflicts_with = "journal"
    )]
    job: Option<PathBuf>,
}

/// The uploads in one bucket that journals record.
#[derive(Debug, Default)]
pub(super) struct JournaledUploads {
    known: Vec<Known>,
    /// The journals that were read.
    read: Vec<String>,
    /// True if no journal was named, so those below the working directory were read.
    is_unnamed: bool,
}

/// The maximum number of journals that a message names.
const NAMED: usize = 5;

#[derive(Debug)]
struct Known {
    recorded: JournaledUpload,
    /// False if the journal records another server for the upload.
    may_be_here: bool,
    /// The time of the last write to the journal.
    until: Timestamp,
    /// The name of the journal, if a run is using it.
    running: Option<String>,
}

impl MineFlags {
    /// Returns true if journals select the uploads.
    pub(super) const fn selects_by_journal(&self) -> bool {
        self.mine
    }

    /// Reads the uploads in `bucket` that journals record. Returns `None` without `--mine`.
    pub(super) async fn read(
        &self,
        bucket: &Bucket,
        endpoint: &EndpointFlags,
    ) -> Result<Option<JournaledUploads>, CliError> {
        if !self.mine {
            return Ok(None);
        }
        let named = match (&self.job, &self.journal) {
            (Some(path), _) => Named::JobIn(path.clone()),
            (None, Some(journal)) => named(journal.clone())?,
            (None, None) => of_environment()?.map_or(Ok(Named::None), named)?,
        };
        let is_unnamed = matches!(named, Named::None);
        let mut mine = JournaledUploads {
            is_unnamed,
            ..JournaledUploads::default()
        };
        let places = places(named, endpoint).await?;
        for (place, glance) in glances(&places, is_unnamed).await? {
            mine.add_journal(bucket, place, glance);
        }
        if mine.read.is_empty() {
            let place = if is_unnamed {
                format!("in ./{JOURNALS}")
            } else {
                "at the place that was named".to_owned()
            };
            let message = format!(
                "there is no journal {place}, so nothing is known to be s3haul's own; name one with --journal PLACE or \
                 --job FILE, or leave --mine out"
            );
            return Err(CliError::Usage(message));
        }
        Ok(Some(mine))
    }
}

/// Returns the journals at a named place.
fn named(place: JournalPlace) -> Result<Named, CliError> {
    match place {
        JournalPlace::Default => Ok(Named::None),
        JournalPlace::Disabled => {
            let message =
                "--mine looks into journals, and `--journal none` (or S3HAUL_JOURNAL) names none";
            Err(CliError::Usage(message.to_owned()))
        }
        JournalPlace::Directory(path) => Ok(Named::Directory(path)),
        JournalPlace::Prefix(uri) => Ok(Named::Prefix(uri)),
    }
}

impl JournaledUploads {
    /// Reads the journals of this environment, for uploads that are selected by age: those below
    /// the working directory, and the one that S3HAUL_JOURNAL names. Notes and skips one that
    /// cannot be read.
    pub(super) async fn beside(bucket: &Bucket, endpoint: &EndpointFlags) -> Self {
        let named = match of_environment() {
            Ok(Some(JournalPlace::Directory(path))) => vec![Named::None, Named::Directory(path)],
            Ok(Some(JournalPlace::Prefix(uri))) => vec![Named::None, Named::Prefix(uri)],
            _ => vec![Named::None],
        };
        let mut mine = Self::default();
        for named in named {
            let places = match places(named, endpoint).await {
                Ok(places) => places,
                Err(error) => {
                    note(&format!("a journal cannot be read: {error}"));
                    continue;
                }
            };
            for (place, location) in places {
                match look(location).await {
                    Ok(Some(glance)) => mine.add_journal(bucket, place, glance),
                    Ok(None) => {}
                    Err(error) => note(&format!("the journal {place} cannot be read: {error}")),
                }
            }
        }
        mine
    }

    fn add_journal(&mut self, bucket: &Bucket, place: String, glance: Glance) {
        let until = glance.state.last.unwrap_or_default();
        let running = (glance.life == Life::Running).then(|| place.clone());
        self.read.push(place);
        let there = glance
            .state
            .uploads
            .into_values()
            .filter(|open| open.place.bucket == *bucket.name());
        self.known.extend(there.map(|recorded| {
            Known {
                may_be_here: recorded
                    .server
                    .as_ref()
                    .is_none_or(|server| *server == bucket.server()),
                recorded,
                until,
                running: running.clone(),
            }
        }));
    }

    /// Returns a sentence about the journals that were read. `found` is true if they record an
    /// upload that is still open.
    pub(super) fn describe(&self, found: bool) -> String {
        let named: Vec<_> = self.read.iter().take(NAMED).map(String::as_str).collect();
        let mut text = format!(
            "read {}: {}",
            display_counted(self.read.len() as u64, "journal"),
            named.join(", ")
        );
        if self.read.len() > NAMED {
            let more = display_count((self.read.len() - NAMED) as u64);
            let _ = write!(text, " and {more} more");
        }
        if self.is_unnamed && !found {
            text.push_str(
                "; a journal that is elsewhere must be named: --journal PLACE, or --job FILE for that of a manifest",
            );
        }
        text
    }

    /// Returns a sentence about uploads without an ID below `location` that were not searched for,
    /// because their journal names another server, or `None` if there are none. Another URL may
    /// belong to the same server.
    pub(super) fn describe_elsewhere(&self, location: &S3Uri) -> Option<String> {
        let is_elsewhere = |known: &&Known| {
            let JournaledUpload { place, created, .. } = &known.recorded;
            let is_below = place.key.as_str().starts_with(location.key.as_str());
            !known.may_be_here && created.is_none() && is_below
        };
        let known: Vec<_> = self.known.iter().filter(is_elsewhere).collect();
        let servers = known
            .iter()
            .filter_map(|known| known.recorded.server.as_deref());
        let servers: BTreeSet<_> = servers.collect();
        let count = known.len() as u64;
        (count > 0).then(|| {
            format!(
                "{} without an ID {} at {}, and {} not looked for at this URL; name that endpoint to look there",
                display_counted(count, "upload"),
                by_number(count, "was recorded", "were recorded"),
                servers.into_iter().collect::<Vec<_>>().join(", "),
                by_number(count, "was", "were"),
            )
        })
    }

    /// Returns the time at which a run of s3haul created this upload, if a journal records it.
    pub(super) fn created(&self, open: &OpenUpload) -> Option<Timestamp> {
        self.by_id(open).map(|known| known.recorded.intended)
    }

    /// Returns the contradiction between the server's date of an upload and the time at which a run
    /// of s3haul created it.
    pub(super) fn false_date(&self, open: &OpenUpload) -> Option<String> {
        let created = self.created(open)?;
        probe::false_date(open, created)
    }

    fn by_id(&self, open: &OpenUpload) -> Option<&Known> {
        self.known.iter().find(|known| {
            known
                .recorded
                .created
                .as_ref()
                .is_some_and(|created| created.id == open.upload_id)
        })
    }

    /// Returns true if a journal records this upload, whose parts have this many bytes. If a run
    /// ended before it recorded the ID of a new upload, the upload is recognized by its server,
    /// key, and time, and has no parts. An ID is sufficient by itself, even behind another URL of
    /// the server.
    pub(super) fn knows(&self, open: &OpenUpload, bytes: Option<u64>) -> bool {
        self.find(open, bytes).is_some()
    }

    /// Returns the journal of a run that is using this upload.
    pub(super) fn at_work(&self, open: &OpenUpload, bytes: Option<u64>) -> Option<&str> {
        self.find(open, bytes)?.running.as_deref()
    }

    fn find(&self, open: &OpenUpload, bytes: Option<u64>) -> Option<&Known> {
        let intended = |known: &&Known| {
            let JournaledUpload {
                object: _,
                place,
                // See `may_be_here`.
                server: _,
                intended,
                kept: _,
                created,
            } = &known.recorded;
            let in_time = open
                .initiated
                .is_some_and(|initiated| was_created_between(initiated, *intended, known.until));
            let is_recorded_here = known.may_be_here && created.is_none();
            is_recorded_here && place.key.as_str() == open.key && bytes == Some(0) && in_time
        };
        self.by_id(open)
            .or_else(|| self.known.iter().find(intended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::event::{SourceVersion, UploadPlace};
    use crate::journal::uploads::Kept;
    use crate::journal::uploads::{PartMarks, UploadDetails};

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 0).unwrap()
    }

    fn known(id: Option<&str>, intended: i64, running: Option<&str>) -> Known {
        let created = id.map(|id| UploadDetails {
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
            adopted: false,
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
        let recorded = JournaledUpload {
            object: 1,
            place,
            server: None,
            intended: at(intended),
            kept: Kept::No,
            created,
        };
        Known {
            recorded,
            may_be_here: true,
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
        let mine = JournaledUploads {
            known: vec![
                known(Some("a"), 1000, Some("j")),
                known(None, 5000, None),
                Known {
                    may_be_here: false,
                    ..known(None, 8000, None)
                },
            ],
            ..JournaledUploads::default()
        };
        for (upload, bytes, outcome) in [
            (open("key", "a", 1), Some(9), true),
            (open("key", "b", 1000), Some(0), false),
            (open("key", "b", 5001), Some(0), true),
            (open("key", "b", 5001), Some(1), false),
            (open("key", "b", 5001), None, false),
            (open("key2", "b", 5001), Some(0), false),
            (open("key", "b", 5200), Some(0), false),
            (open("key", "b", 8001), Some(0), false),
        ] {
            assert_eq!(mine.knows(&upload, bytes), outcome, "{upload:?}");
        }
        assert_eq!(mine.at_work(&open("key", "a", 1), None), Some("j"));
        assert_eq!(mine.at_work(&open("key", "b", 5001), Some(0)), None);
    }
}
