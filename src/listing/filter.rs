//! Which entries of a source take part: a [`Selection`] applied to one entry.
//!
//! Pure and without state, so that the source and the destination side of a comparison, a dry run and a later
//! verification all agree. The answer names the rule, because "why was this file not copied?" is asked of every
//! tool of this kind.

use std::fmt;

use jiff::Timestamp;

use crate::manifest::job::Selection;
use crate::manifest::keys::KeyGlob;
use crate::size::ByteSize;

/// A [`Selection`], ready to be asked about entries.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    select: Selection,
}

/// The rule that leaves an entry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// No `include` pattern matches.
    NotIncluded,
    /// This `exclude` pattern matches.
    Pattern(KeyGlob),
    /// Not `larger_than` this.
    TooSmall(ByteSize),
    /// Not `smaller_than` this.
    TooLarge(ByteSize),
    /// Modified before this `modified_after`.
    TooOld(Timestamp),
    /// Modified at or after this `modified_before`.
    TooNew(Timestamp),
    /// There is a rule about the time of modification and the source does not tell it.
    ModifiedUnknown,
    /// Its storage class is not among the `storage_classes`.
    StorageClass,
}

impl Filter {
    /// A filter that admits what `select` says.
    #[must_use]
    pub fn new(select: &Selection) -> Self {
        Self { select: select.clone() }
    }

    /// Whether an entry takes part. `relative_key` is what stands behind the source's prefix; no storage class
    /// means `STANDARD`, as in S3's answers.
    ///
    /// # Errors
    /// The first rule that leaves the entry out.
    pub fn admits(
        &self,
        relative_key: &str,
        size: u64,
        modified: Option<Timestamp>,
        storage_class: Option<&str>,
    ) -> Result<(), Excluded> {
        let select = &self.select;
        if let Some(glob) = select.exclude.iter().find(|glob| glob.matches(relative_key)) {
            return Err(Excluded::Pattern(glob.clone()));
        }
        if !select.include.is_empty() && !select.include.iter().any(|glob| glob.matches(relative_key)) {
            return Err(Excluded::NotIncluded);
        }
        match (select.larger_than, select.smaller_than) {
            (Some(bound), _) if size <= bound.0 => return Err(Excluded::TooSmall(bound)),
            (_, Some(bound)) if size >= bound.0 => return Err(Excluded::TooLarge(bound)),
            _ => {}
        }
        match (select.modified_after, select.modified_before, modified) {
            (None, None, _) => {}
            (_, _, None) => return Err(Excluded::ModifiedUnknown),
            (Some(bound), _, Some(time)) if time < bound => return Err(Excluded::TooOld(bound)),
            (_, Some(bound), Some(time)) if time >= bound => return Err(Excluded::TooNew(bound)),
            _ => {}
        }
        let class = storage_class.unwrap_or("STANDARD");
        if !select.storage_classes.is_empty() && !select.storage_classes.iter().any(|wanted| wanted == class)
        {
            return Err(Excluded::StorageClass);
        }
        Ok(())
    }

    /// True when no key below `relative_dir` (with a slash at the end) can take part, so that a walk need not
    /// descend. `false` when in doubt.
    #[must_use]
    pub fn skips_directory(&self, relative_dir: &str) -> bool {
        self.select.excludes_all_below(relative_dir)
    }
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIncluded => f.write_str("matches no include pattern"),
            Self::Pattern(glob) => write!(f, "matches the exclude pattern {glob}"),
            Self::TooSmall(bound) => write!(f, "not larger than {bound}"),
            Self::TooLarge(bound) => write!(f, "not smaller than {bound}"),
            Self::TooOld(bound) => write!(f, "modified before {bound}"),
            Self::TooNew(bound) => write!(f, "not modified before {bound}"),
            Self::ModifiedUnknown => f.write_str("the source tells no time of modification"),
            Self::StorageClass => f.write_str("in another storage class"),
        }
    }
}
