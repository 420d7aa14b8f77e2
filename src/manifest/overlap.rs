//! Checks that transfers do not overwrite each other's keys or their own source.
//!
//! **The rule.** No two transfers of a job may write the same key, and no transfer may write into
//! its own source. The check compares the locations before anything is listed, so it is
//! conservative and refuses every possible collision. There are two exceptions:
//!
//! - The outer transfer excludes the keys of the inner one (`exclude: ["archive/**"]`).
//! - Both transfers copy the same object to each key, with the same attributes and parts: `s3://a/`
//!   → `s3://b/` next to `s3://a/x/` → `s3://b/x/`. The order does not matter, because both write
//!   the same object.
//!
//! A later transfer may read what an earlier transfer writes, or write what the earlier transfer
//! reads. It waits until the earlier transfer ends ([`must_wait`]).
//!
//! A transfer whose source *is* its destination changes objects in place
//! ([`Transfer::is_onto_itself`](super::job::Transfer::is_onto_itself)). It is allowed if it names
//! something to change.
//!
//! Two buckets are the same if their names and servers are equal. Access points are not resolved.
//! A bucket and an access point count as different buckets if an overlap would be an error, and as
//! the same bucket if it only makes a transfer wait.

use super::diagnose::{Mistake, RefusedFields};
use super::job::{
    CustomerKeys, DEFAULT_ENDPOINT, Destination, Job, JournalPlace, ResolvedEndpoint, Source,
    Transfer, Versions,
};
use crate::location::{BucketName, LocalPath, S3Uri};
use crate::printable::joined;

/// The keys that a transfer reads or writes: all keys with a prefix, or a single key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Region<'j> {
    endpoint: &'j ResolvedEndpoint,
    bucket: &'j BucketName,
    key: String,
    exact: bool,
}

impl Region<'_> {
    fn same_bucket(&self, other: &Self) -> bool {
        self.bucket == other.bucket && self.endpoint.is_same_server(other.endpoint)
    }

    /// Returns the part of `inner`'s key after this region's key, if this region contains `inner`.
    fn contains<'i>(&self, inner: &'i Region<'_>) -> Option<&'i str> {
        let rest = inner.key.strip_prefix(&self.key)?;
        (!self.exact || (rest.is_empty() && inner.exact)).then_some(rest)
    }

    fn show(&self) -> String {
        format!("s3://{}/{}", self.bucket, self.key)
    }
}

/// The fields of a transfer that decide whether it may overwrite keys.
const COMPARED: [&str; 8] = [
    "from",
    "to",
    "keys",
    "when",
    "set",
    "preserve",
    "parts",
    "on_mismatch",
];

/// Adds a mistake for each transfer that may write into its own source, or to keys that another
/// transfer writes. Ignores transfers that could not be read completely.
pub(super) fn check(
    job: &Job,
    indices: &[usize],
    refused_fields: &RefusedFields,
    mistakes: &mut Vec<Mistake>,
) {
    if refused_fields.has("endpoints") {
        return;
    }
    let mut written = Vec::new();
    for (transfer, index) in job.transfers.iter().zip(indices) {
        let from = transfer.from.s3().map(|(endpoint, _)| endpoint);
        let endpoints = from.into_iter().chain([transfer.to.endpoint.as_str()]);
        let fields = COMPARED.map(|field| format!("transfers[{index}].{field}"));
        let endpoints = endpoints.map(|name| format!("endpoints.{name}"));
        if fields
            .into_iter()
            .chain(endpoints)
            .any(|path| refused_fields.about(&path))
        {
            continue;
        }
        let Some(target) = write_region(job, transfer) else {
            continue;
        };
        let source = read_region(job, transfer);
        if let Some((message, remedy)) =
            source.and_then(|source| self_overlap(transfer, &source, &target))
        {
            mistakes.push(Mistake {
                path: format!("transfers[{index}].to.s3"),
                message,
                remedy,
            });
        }
        written.push((target, *index, transfer));
    }
    let own = own_objects(job);
    let is_refused = |path: &&str| refused_fields.about(path);
    if !own.is_empty() && !["journal", "transfers", "endpoints"].iter().any(is_refused) {
        mistakes.extend(own);
    }
    // Sort so that the regions inside a region directly follow it.
    written.sort_by(|(a, i, _), (b, j, _)| (a.bucket, &a.key, i).cmp(&(b.bucket, &b.key, j)));
    for (at, outer) in written.iter().enumerate() {
        let inside = |inner: &&Write<'_>| {
            inner.0.bucket == outer.0.bucket && inner.0.key.starts_with(&outer.0.key)
        };
        for inner in written[at + 1..].iter().take_while(inside) {
            mistakes.extend(write_collision(outer, inner));
        }
    }
}

/// Returns a mistake for a journal or report inside the source of a transfer, which would copy
/// their objects while the run writes them.
pub(crate) fn own_objects(job: &Job) -> Vec<Mistake> {
    let journal = match &job.journal {
        JournalPlace::Prefix(place) => in_source(job, "journal", "journal", place),
        _ => None,
    };
    let report = job.report.s3.as_ref();
    let report = report.and_then(|place| in_source(job, "report", "report.s3", place));
    journal.into_iter().chain(report).collect()
}

/// Returns a mistake for a state prefix inside the source of a transfer.
pub(crate) fn state_in_source(job: &Job, state: &S3Uri) -> Option<Mistake> {
    let mistake = in_source(job, "state", "--state", state)?;
    Some(Mistake {
        message: format!("--state: {}", mistake.message),
        ..mistake
    })
}

/// Returns a mistake if the journal, report, or state at `place` lies in a source.
fn in_source(job: &Job, what: &str, path: &str, place: &S3Uri) -> Option<Mistake> {
    let endpoint = job.endpoints.get(DEFAULT_ENDPOINT)?;
    let (bucket, key) = (&place.bucket, place.key.as_str().to_owned());
    let own = Region {
        endpoint,
        bucket,
        key,
        exact: false,
    };
    let inside = |transfer: &&Transfer| {
        let source = read_region(job, transfer).filter(|source| source.same_bucket(&own));
        let rest = source.as_ref().and_then(|source| source.contains(&own));
        rest.is_some_and(|rest| !transfer.select.leaves_out_all_below(rest))
    };
    let transfer = job.transfers.iter().find(inside)?;
    let message = format!(
        "the {what} {place} lies in the source of `{}`: its own objects would be copied",
        transfer.name
    );
    let remedy = "name a prefix outside of all sources, or exclude it there".to_owned();
    Some(Mistake {
        path: path.to_owned(),
        message,
        remedy,
    })
}

/// Returns true if `later` may start only after `earlier` has ended: because its `after` names
/// `earlier`, or because one of them writes where the other one reads or writes. Also returns true
/// in doubt, because needless waiting costs little: a server may have two addresses, and an access
/// point may lead to any bucket.
pub(crate) fn must_wait(job: &Job, later: &Transfer, earlier: &Transfer) -> bool {
    let writes = |transfer| write_region(job, transfer);
    later.after.contains(&earlier.name)
        || may_overlap(writes(later), writes(earlier))
        || may_read(job, later, earlier)
        || may_overlap(writes(later), read_region(job, earlier))
}

/// Returns true if `later` may read what `earlier` writes, so that its source is complete only
/// after that.
pub(crate) fn may_read(job: &Job, later: &Transfer, earlier: &Transfer) -> bool {
    may_overlap(read_region(job, later), write_region(job, earlier))
}

/// Returns true if the two regions may share a key.
fn may_overlap(one: Option<Region<'_>>, other: Option<Region<'_>>) -> bool {
    one.zip(other).is_some_and(|(one, other)| {
        let may_be_one =
            one.bucket == other.bucket || one.bucket.is_alias() || other.bucket.is_alias();
        may_be_one && (one.contains(&other).is_some() || other.contains(&one).is_some())
    })
}

type Write<'j> = (Region<'j>, usize, &'j Transfer);

fn read_region<'j>(job: &'j Job, transfer: &'j Transfer) -> Option<Region<'j>> {
    let (endpoint, location) = transfer.from.s3()?;
    Some(Region {
        endpoint: job.endpoints.get(endpoint)?,
        bucket: &location.bucket,
        key: location.key.as_str().to_owned(),
        exact: matches!(transfer.from, Source::Object { .. }),
    })
}

fn write_region<'j>(job: &'j Job, transfer: &'j Transfer) -> Option<Region<'j>> {
    let location = &transfer.to.location;
    let mut key = location.key.as_str().to_owned();
    let exact = match &transfer.from {
        _ if !location.key.is_prefix() => true,
        Source::Object {
            location: object, ..
        } if transfer.keys.is_identity() => {
            key.push_str(object.key.file_name());
            true
        }
        Source::Files { path, .. } if transfer.keys.is_identity() => match file_name(path) {
            Some(name) => {
                key.push_str(name);
                true
            }
            None => false,
        },
        _ => {
            key.push_str(&transfer.keys.fixed_prefix());
            false
        }
    };
    let endpoint = job.endpoints.get(&transfer.to.endpoint)?;
    Some(Region {
        endpoint,
        bucket: &location.bucket,
        key,
        exact,
    })
}

/// Returns the name of a source that is one file now. A run on another machine may find a directory
/// there.
fn file_name(path: &LocalPath) -> Option<&str> {
    let path = path.as_path();
    path.is_file().then(|| path.file_name()?.to_str())?
}

/// Returns the message and the remedy for a transfer that may write into its own source.
fn self_overlap(
    transfer: &Transfer,
    source: &Region<'_>,
    target: &Region<'_>,
) -> Option<(String, String)> {
    if !source.same_bucket(target) || reads_only_old_versions(transfer, source, target) {
        return None;
    }
    if source.exact && !target.exact {
        // The transfer writes one object under a new name below a prefix. The name may
        // depend on the object's size, which is not known yet.
        return None;
    }
    let (rest, target_is_inside) = match source.contains(target) {
        Some(rest) => (rest, true),
        None => (target.contains(source)?, false),
    };
    if transfer.is_onto_itself() {
        return transfer.in_place_mistake(&source.show());
    }
    if source.key == target.key {
        return Some(onto_itself(source));
    }
    // Every affected key starts with the source's prefix plus `rest`. If the source lies inside the
    // destination, that is true only if the transfer does not rename keys.
    let rest_is_exact = target_is_inside || transfer.keys.is_identity();
    let may_exclude = rest_is_exact && rest.ends_with('/');
    if may_exclude && transfer.select.excludes_all_below(rest) {
        return None;
    }
    let message = if target_is_inside {
        format!(
            "{} lies inside the source {}: copies would be copied again",
            target.show(),
            source.show()
        )
    } else {
        format!(
            "the source {} lies inside {}: it could be overwritten",
            source.show(),
            target.show()
        )
    };
    let remedy = if may_exclude {
        format!("write elsewhere, or leave that part out: exclude: [\"{rest}**\"]")
    } else {
        "write to another bucket or prefix".to_owned()
    };
    Some((message, remedy))
}

/// Returns true if a transfer cannot read what it writes.
fn reads_only_old_versions(transfer: &Transfer, source: &Region<'_>, target: &Region<'_>) -> bool {
    if let Source::Object { version, .. } = &transfer.from
        && version.is_some()
    {
        return true;
    }
    // An `as_of` transfer restores an old state: it reads only old versions, and the versions that
    // it writes are newer than all of them.
    matches!(transfer.versions, Versions::AsOf(_)) && source.key == target.key
}

/// Returns the message and the remedy for a transfer whose destination is its source.
fn onto_itself(source: &Region<'_>) -> (String, String) {
    let what = if source.exact {
        "an object"
    } else {
        "a prefix"
    };
    let message = format!(
        "{} would be copied onto itself: {what} cannot be its own destination",
        source.show()
    );
    (message, "write to another bucket or prefix".to_owned())
}

/// Returns the mistake if two transfers may write the same keys. The key of `inner` begins with
/// that of `outer`.
fn write_collision(outer: &Write<'_>, inner: &Write<'_>) -> Option<Mistake> {
    let (outer_region, outer_index, outer_transfer) = outer;
    let (inner_region, inner_index, inner_transfer) = inner;
    if !outer_region.same_bucket(inner_region) {
        return None;
    }
    // Equal keys sort by index, so an exact key may come before a prefix with the same text.
    let rest = match outer_region.contains(inner_region) {
        Some(rest) => rest,
        None => inner_region.contains(outer_region)?,
    };
    let leaves_out = |transfer: &Transfer, exact: bool| {
        transfer.keys.is_identity()
            && if exact {
                transfer.select.rules_out(rest)
            } else {
                (rest.is_empty() || rest.ends_with('/')) && transfer.select.excludes_all_below(rest)
            }
    };
    if leaves_out(outer_transfer, inner_region.exact)
        || (rest.is_empty() && leaves_out(inner_transfer, outer_region.exact))
    {
        return None;
    }
    let differences = if same_mapping(outer_transfer, inner_transfer, rest) {
        let differences = different_settings(outer_transfer, inner_transfer);
        if differences.is_empty() {
            return None;
        }
        differences
    } else {
        Vec::new()
    };
    let (first, second) = if outer_index < inner_index {
        (outer, inner)
    } else {
        (inner, outer)
    };
    let (first_at, second_at) = (first.0.show(), second.0.show());
    let places = if first_at == second_at {
        format!("both write to {first_at}")
    } else {
        format!("{first_at} and {second_at}")
    };
    let mut message = format!(
        "`{}` and `{}` may write the same keys: {places}",
        first.2.name, second.2.name
    );
    let mut remedy = match (rest, inner_region.exact) {
        ("", _) => "give each transfer a separate prefix".to_owned(),
        (rest, true) => {
            format!(
                "give each a separate prefix, or add exclude: [\"{rest}\"] to `{}`",
                outer_transfer.name
            )
        }
        (rest, false) => {
            let rest = rest.trim_end_matches('/');
            format!(
                "give each a separate prefix, or add exclude: [\"{rest}/**\"] to `{}`",
                outer_transfer.name
            )
        }
    };
    if !differences.is_empty() {
        let differences = joined(differences, "and");
        message.extend([", with different ", &differences]);
        remedy = format!("write the same {differences} in both, or {remedy}");
    }
    Some(Mistake {
        path: format!("transfers[{}].to.s3", second.1),
        message,
        remedy,
    })
}

/// Returns true if both transfers would copy the same object to every key that both write. `rest`
/// is the part of the inner destination after the outer one.
fn same_mapping(outer: &Transfer, inner: &Transfer, rest: &str) -> bool {
    if !outer.keys.is_identity() || !inner.keys.is_identity() || outer.versions != inner.versions {
        return false;
    }
    // Two in-place changes of one object overwrite each other's attributes.
    if outer.is_onto_itself() || inner.is_onto_itself() {
        return false;
    }
    match (&outer.from, &inner.from) {
        (Source::Files { path: outer, .. }, Source::Files { path: inner, .. }) => {
            rest.is_empty() && outer == inner
        }
        (
            Source::Prefix {
                endpoint: a,
                location: outer,
            },
            Source::Prefix {
                endpoint: b,
                location: inner,
            }
            | Source::Object {
                endpoint: b,
                location: inner,
                version: None,
            },
        ) => {
            let at = inner.key.as_str().strip_prefix(outer.key.as_str());
            a == b && outer.bucket == inner.bucket && at == Some(rest)
        }
        _ => false,
    }
}

/// Returns the fields that give a copy of the same object other attributes, or another `ETag`, in
/// one transfer than in the other.
fn different_settings(one: &Transfer, other: &Transfer) -> Vec<&'static str> {
    // Destructure, so that the compiler reports any new field.
    let Transfer {
        to,
        parts,
        preserve,
        set,
        customer_keys,
        // `same_mapping` and the regions compare these.
        from: _,
        keys: _,
        versions: _,
        // These decide whether and when an object is copied, and how the copy is proven.
        name: _,
        after: _,
        when: _,
        compare: _,
        compare_attributes: _,
        empty: _,
        select: _,
        source_access: _,
        destination_access: _,
        ages: _,
        archived: _,
        restore: _,
        proof: _,
        chosen: _,
        repairs: _,
        own_files: _,
    } = one;
    let Destination {
        endpoint: _,
        location: _,
        storage_class,
        encryption,
        acl,
    } = to;
    let CustomerKeys {
        // The key of the source decides only whether the object can be read.
        source: _,
        destination,
    } = customer_keys;
    let settings = [
        (
            "`to.storage_class`",
            *storage_class == other.to.storage_class,
        ),
        ("`to.encryption`", *encryption == other.to.encryption),
        ("`to.acl`", *acl == other.to.acl),
        (
            "`to.customer_key`",
            *destination == other.customer_keys.destination,
        ),
        ("`set`", *set == other.set),
        ("`preserve`", *preserve == other.preserve),
        ("`parts`", *parts == other.parts),
    ];
    settings
        .into_iter()
        .filter_map(|(field, is_equal)| (!is_equal).then_some(field))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Environment;

    #[test]
    fn a_transfer_waits_where_it_could_meet_an_earlier_one() {
        for (earlier, later, waits) in [
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://aaa/y/", "s3://bbb/y/"),
                false,
            ),
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://aaa/x/", "s3://ccc/x/"),
                false,
            ),
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://bbb/", "s3://ccc/"),
                true,
            ),
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://bbb/x/1", "s3://ccc/"),
                true,
            ),
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://bbb/y", "s3://ccc/"),
                false,
            ),
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://ccc/", "s3://aaa/x/"),
                true,
            ),
            (
                ("s3://aaa/1", "s3://bbb/1"),
                ("s3://aaa/2", "s3://bbb/2"),
                false,
            ),
            (
                ("s3://aaa/", "s3://bbb/"),
                ("s3://aaa/x/", "s3://bbb/x/"),
                true,
            ),
            // The access point may lead to the bucket.
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://bbb-1x2y-s3alias/", "s3://ccc/"),
                true,
            ),
            (
                ("s3://aaa/x/", "s3://bbb/x/"),
                ("s3://bbb-1x2y-s3alias/y/", "s3://ccc/"),
                false,
            ),
        ] {
            let one = |(from, to): (&str, &str)| {
                format!("  - {{from: {{s3: '{from}'}}, to: {{s3: '{to}'}}}}\n")
            };
            let text = format!("version: 1\ntransfers:\n{}{}", one(earlier), one(later));
            let job = Job::parse(&text, "job.yaml", &Environment::default()).unwrap();
            assert_eq!(
                must_wait(&job, &job.transfers[1], &job.transfers[0]),
                waits,
                "{earlier:?} {later:?}"
            );
        }
    }
}
