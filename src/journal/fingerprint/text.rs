//! Writes the values of settings as text.
//!
//! The texts are part of the journal's format: a newer s3haul must write the same texts for the
//! same settings. Therefore each value is written by name instead of its `Debug` text, which a
//! renamed type or a new field would change. Some texts look like `Debug` texts, because older
//! journals contain them. A newer field has a separate setting, which is recorded only if it is not
//! the default.

use crate::manifest::job::{
    Archived, Attribute, Chosen, CustomerKeys, KeySource, LayoutChoice, OnMismatch, PartGoal,
    Policy, ProofPolicy, Prove, Restore, RestoreTier, SetValues, Symlinks, Verify, Versions, When,
};

pub(super) const fn when(when: When) -> &'static str {
    match when {
        When::Missing => "missing",
        When::Changed => "changed",
        When::Always => "always",
    }
}

pub(super) fn versions(versions: Versions) -> String {
    match versions {
        Versions::Current => "current".to_owned(),
        Versions::All => "all".to_owned(),
        Versions::AsOf(time) => format!("asof({time})").to_lowercase(),
    }
}

pub(super) const fn symlinks(symlinks: Symlinks) -> &'static str {
    match symlinks {
        Symlinks::Skip => "skip",
        Symlinks::Follow => "follow",
        Symlinks::Fail => "fail",
    }
}

pub(super) const fn part_goal(goal: PartGoal) -> &'static str {
    match goal {
        PartGoal::Balanced => "balanced",
        PartGoal::Fastest => "fastest",
        PartGoal::Cheapest => "cheapest",
    }
}

pub(super) const fn part_layout(layout: LayoutChoice) -> &'static str {
    match layout {
        LayoutChoice::Auto => "auto",
        LayoutChoice::Source => "source",
    }
}

pub(super) const fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Require => "require",
        Policy::Try => "try",
        Policy::Skip => "skip",
        Policy::Replace => "replace",
    }
}

/// Returns true for attributes whose policy is in every journal, even if it is the default. A new
/// attribute gets `false`: otherwise every unfinished run of an older s3haul would look changed.
pub(super) const fn has_always_policy(attribute: Attribute) -> bool {
    match attribute {
        Attribute::Metadata
        | Attribute::Headers
        | Attribute::Tags
        | Attribute::StorageClass
        | Attribute::Encryption
        | Attribute::Lock
        | Attribute::Acl
        | Attribute::Annotations => true,
    }
}

pub(super) fn archived(archived: Archived, restore: Restore) -> String {
    let archived = match archived {
        Archived::Fail => "fail",
        Archived::Skip => "skip",
        Archived::Restore => "restore",
    };
    let Restore { tier, days } = restore;
    let tier = match tier {
        RestoreTier::Standard => "standard",
        RestoreTier::Bulk => "bulk",
        RestoreTier::Expedited => "expedited",
    };
    format!("{archived} restore {{ tier: {tier}, days: {days} }}")
}

pub(super) fn proof(proof: ProofPolicy) -> String {
    let ProofPolicy {
        verify,
        prove,
        on_mismatch,
    } = proof;
    let verify = match verify {
        Verify::RequireChecksum => "requirechecksum",
        Verify::Best => "best",
        Verify::Size => "size",
    };
    let prove = match prove {
        Prove::Answers => "answers",
        Prove::Read => "read",
    };
    let on_mismatch = match on_mismatch {
        OnMismatch::Keep => "keep",
        OnMismatch::Remove => "remove",
    };
    format!("proofpolicy {{ verify: {verify}, prove: {prove}, on_mismatch: {on_mismatch} }}")
}

/// Returns the text of the values of `set:`, or an empty text if there are none.
pub(super) fn set(set: &SetValues) -> String {
    if *set == SetValues::default() {
        return String::new();
    }
    let SetValues {
        metadata,
        tags,
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
    } = set;
    format!(
        "SetValues {{ metadata: {metadata:?}, tags: {tags:?}, content_type: {content_type:?}, \
         content_encoding: {content_encoding:?}, content_language: {content_language:?}, \
         content_disposition: {content_disposition:?}, cache_control: {cache_control:?} }}"
    )
}

/// Returns the text of the sources of the customer keys, never of the keys; empty if there are
/// none.
#[expect(
    clippy::unnecessary_debug_formatting,
    reason = "journals have the path with quotes and escapes"
)]
pub(super) fn customer_keys(keys: &CustomerKeys) -> String {
    let CustomerKeys {
        source,
        destination,
    } = keys;
    if source.is_none() && destination.is_none() {
        return String::new();
    }
    let key = |key: &Option<KeySource>| match key {
        None => "None".to_owned(),
        Some(KeySource::Env(name)) => format!("Some(Env({name:?}))"),
        Some(KeySource::File(path)) => format!("Some(File({path:?}))"),
    };
    let (source, destination) = (key(source), key(destination));
    format!("CustomerKeys {{ source: {source}, destination: {destination} }}")
}

/// Returns the text of a list of keys. The journal has only a digest of this text.
pub(super) fn chosen(chosen: &[Chosen]) -> String {
    let keys: Vec<_> = chosen
        .iter()
        .map(|Chosen { key, version }| match version {
            None => format!("Chosen {{ key: {key:?} }}"),
            Some(version) => format!("Chosen {{ key: {key:?}, version: {version:?} }}"),
        })
        .collect();
    format!("[{}]", keys.join(", "))
}
