//! The job manifest: turns YAML into a validated [`Job`], or reports every mistake in it.
//!
//! ```text
//! text ─► node ─► shape ─► ManifestFile ─► build ─► Job ─► check, overlap
//!         tree    schema   as typed        values          rules
//!           └───────┴─────────┴─ mistakes ───┴──────────────┴────► all of them, drawn at the line
//! ```
//! No stage stops at the first mistake: a field that does not fit is reported and left out, and
//! parsing continues with the rest. Text that is not YAML has no tree, so only the first stage checks
//! it. The tree knows the line of each field, so later stages only name the field
//! (`transfers[0].parts.size`). Rules that compare fields ignore fields that were already reported,
//! and the list of mistakes then ends with the note that further checks follow.
//!
//! The check is strict because a manifest runs unattended: if a misspelt field were ignored, a
//! filter would not filter.

mod acl;
pub(crate) mod attributes;
mod build;
mod check;
mod compare;
mod diagnose;
mod env;
pub mod file;
mod in_place;
pub mod job;
pub mod keys;
mod limits;
mod literal;
pub mod moment;
mod node;
mod outputs;
mod overlap;
mod parts;
mod preserve;
pub mod schema;
mod shape;
pub(crate) mod tenant;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

pub use self::diagnose::{Excerpt, ManifestMistake, ManifestMistakes, Mistake};
use self::diagnose::{MistakeAt, RefusedFields};
use self::file::ManifestFile;
use self::job::Job;
pub(crate) use self::overlap::{may_read, must_wait, own_objects, state_in_source};
use crate::endpoint::Environment;
use crate::printable::hex;

/// The size limit of a manifest. A larger file is not a manifest.
pub const MAX_BYTES: u64 = 1 << 20;

/// The reasons why a manifest yields no job.
#[derive(Debug, Error)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("cannot read the manifest {path}: {source}", path = path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The manifest can be read but has mistakes.
    #[error(transparent)]
    Mistakes(#[from] ManifestMistakes),
}

impl Job {
    /// Reads the manifest at `path`. `environment` fills in `${NAME}` and resolves the endpoints.
    ///
    /// # Errors
    /// [`ManifestError`] if the file cannot be read, or with every mistake in it.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ManifestError> {
        let io_error = |source| ManifestError::Io {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(io_error)?;
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(io_error)?;
        Ok(Self::read(bytes, &path.display().to_string(), environment)?)
    }

    /// Reads a manifest from its bytes, as [`Self::load`] does. The caller may stop reading one
    /// byte after [`MAX_BYTES`].
    ///
    /// # Errors
    /// Every mistake in the manifest.
    pub(crate) fn read(
        bytes: Vec<u8>,
        file_name: &str,
        environment: &Environment,
    ) -> Result<Self, ManifestMistakes> {
        // Check the size first: the caller may have truncated the bytes inside a character.
        if bytes.len() as u64 > MAX_BYTES {
            return Err(too_large(file_name, &bytes));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            not_utf8(
                file_name,
                error.as_bytes(),
                error.utf8_error().valid_up_to(),
            )
        })?;
        let mut job = Self::parse(&text, file_name, environment)?;
        job.count_from(Timestamp::now());
        Ok(job)
    }

    /// Reads a manifest from `text`. `file_name` appears in messages, and its stem names the job if
    /// the manifest does not.
    ///
    /// # Errors
    /// Every mistake in the manifest.
    pub fn parse(
        text: &str,
        file_name: &str,
        environment: &Environment,
    ) -> Result<Self, ManifestMistakes> {
        // Hash the bytes of the file, so that the value equals the output of `sha256sum`.
        let manifest_sha256 = Some(hex(&Sha256::digest(text)));
        if text.len() as u64 > MAX_BYTES {
            return Err(too_large(file_name, text.as_bytes()));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (root, mut mistakes) =
            node::read(text, &|name| environment.text(name).map(str::to_owned));
        let mut secrets = Vec::new();
        let mut checks_follow = true;
        if let Some(root) = root {
            let shaped = shape::check(&root, schema::shared());
            mistakes.extend(shaped.mistakes);
            secrets = shaped.secrets;
            match serde_yaml::from_value::<ManifestFile>(shaped.value) {
                Ok(file) => {
                    let mut refused_fields =
                        RefusedFields::new(mistakes.iter().map(|mistake| &*mistake.path));
                    let partial =
                        build::build(file, &default_name(file_name), environment, &refused_fields);
                    refused_fields.extend(partial.mistakes.iter().map(|mistake| &*mistake.path));
                    let broken = check::check_with(&partial.job, &partial.indices, &refused_fields);
                    checks_follow = refused_fields.has_skipped();
                    let place = |mistake| place(mistake, &shaped.places);
                    mistakes.extend(partial.mistakes.into_iter().chain(broken).map(place));
                    if mistakes.is_empty() {
                        return Ok(Self {
                            manifest_sha256,
                            ..partial.job
                        });
                    }
                }
                // A manifest that fits the schema loads. If the schema and the types ever disagree,
                // report an ordinary mistake.
                Err(error) => mistakes.push(MistakeAt {
                    at: root.at,
                    path: String::new(),
                    message: format!("the manifest cannot be loaded: {error}"),
                    remedy: "see `s3haul schema` for the fields".to_owned(),
                }),
            }
        }
        Err(ManifestMistakes::new(
            file_name,
            text,
            mistakes,
            &secrets,
            checks_follow,
        ))
    }
}

/// Finds the place of a mistake in the file. A field inherited from `defaults` has the place of the
/// default; a field that the file does not contain has the place of its nearest parent.
fn place(mistake: Mistake, places: &BTreeMap<String, Range<usize>>) -> MistakeAt {
    let Mistake {
        path,
        message,
        remedy,
    } = mistake;
    let shared = path
        .strip_prefix("transfers[")
        .and_then(|rest| rest.split_once("]."))
        .map(|(_, field)| format!("defaults.{field}"));
    let exact = places.get(&path);
    let inherited = || {
        shared
            .as_ref()
            .and_then(|shared| places.get_key_value(shared))
    };
    if let (None, Some((shared, at))) = (exact, inherited()) {
        return MistakeAt {
            at: at.clone(),
            path: shared.clone(),
            message,
            remedy,
        };
    }
    let mut known = path.as_str();
    let at = loop {
        match places.get(known) {
            Some(at) => break at.clone(),
            None => match known.rfind(['.', '[']) {
                Some(cut) => known = &known[..cut],
                None => break places.get("").cloned().unwrap_or(0..0),
            },
        }
    };
    MistakeAt {
        at,
        path,
        message,
        remedy,
    }
}

/// Returns the file's stem in lower case. A hyphen replaces each character that a name cannot have.
fn default_name(file_name: &str) -> String {
    let stem = Path::new(file_name)
        .file_stem()
        .map(|stem| stem.to_string_lossy().to_lowercase());
    let legal =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let name: String = stem
        .unwrap_or_default()
        .chars()
        .map(|c| if legal(c) { c } else { '-' })
        .collect();
    if name.trim_matches('-').is_empty() {
        "job".to_owned()
    } else {
        name
    }
}

fn too_large(file_name: &str, bytes: &[u8]) -> ManifestMistakes {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]);
    let start = start.trim_start_matches('\u{feff}').lines().next();
    let start: String = start.unwrap_or_default().chars().take(80).collect();
    whole_file(
        file_name,
        &start,
        0..0,
        "the file is larger than 1MiB, too large for a manifest",
        "split it into several jobs",
    )
}

fn not_utf8(file_name: &str, bytes: &[u8], valid: usize) -> ManifestMistakes {
    let mut text = String::from_utf8_lossy(&bytes[..valid]).into_owned();
    let rest = String::from_utf8_lossy(&bytes[valid..]);
    text.push_str(rest.lines().next().unwrap_or_default());
    let at = valid..valid + char::REPLACEMENT_CHARACTER.len_utf8();
    whole_file(
        file_name,
        &text,
        at,
        "the file is not UTF-8",
        "save it as UTF-8",
    )
}

fn whole_file(
    file_name: &str,
    text: &str,
    at: Range<usize>,
    message: &str,
    remedy: &str,
) -> ManifestMistakes {
    let (message, remedy) = (message.to_owned(), remedy.to_owned());
    ManifestMistakes::new(
        file_name,
        text,
        vec![MistakeAt {
            at,
            path: String::new(),
            message,
            remedy,
        }],
        &[],
        true,
    )
}
