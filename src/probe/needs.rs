//! The requirements of a job for the objects in one bucket, as far as a probe can test them.

use std::collections::BTreeSet;

use crate::manifest::job::{
    Attribute, CannedAcl, Destination, Encryption, Policy, Preserve, Preset, SetValues, Transfer,
    When,
};
use crate::s3::OnWrites;

/// The requirements of a job for a bucket, for all transfers that write to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Objects are copied to the bucket.
    pub copies: bool,
    /// Files are uploaded to the bucket.
    pub uploads: bool,
    /// Writes carry conditions.
    pub conditions: bool,
    /// The strictest policy for each attribute.
    pub preserve: Preserve,
    /// The attributes for which the job names values.
    pub named: BTreeSet<Attribute>,
    /// The canned ACL of all objects.
    pub acl: Option<CannedAcl>,
    /// A storage class named by the job.
    pub storage_class: Option<String>,
    /// An encryption named by the job.
    pub encryption: Option<Encryption>,
}

impl Default for Needs {
    /// Returns the needs of copies and uploads with the defaults of a manifest.
    fn default() -> Self {
        let (preserve, named) = (Preserve::default(), BTreeSet::new());
        Self {
            copies: true,
            uploads: true,
            conditions: true,
            preserve,
            named,
            ..Self::NOTHING
        }
    }
}

impl Needs {
    const NOTHING: Self = Self {
        copies: false,
        uploads: false,
        conditions: false,
        preserve: Preserve {
            metadata: Policy::Skip,
            headers: Policy::Skip,
            tags: Policy::Skip,
            storage_class: Policy::Skip,
            encryption: Policy::Skip,
            lock: Policy::Skip,
            acl: Policy::Skip,
            annotations: Policy::Skip,
        },
        named: BTreeSet::new(),
        acl: None,
        storage_class: None,
        encryption: None,
    };

    /// Returns the requirements of these transfers for the bucket that all of them write to.
    #[must_use]
    pub fn of<'t>(transfers: impl IntoIterator<Item = &'t Transfer>) -> Self {
        let mut needs = Self {
            preserve: Preset::ContentOnly.into(),
            ..Self::NOTHING
        };
        for Transfer {
            from,
            to,
            when,
            preserve,
            set,
            ..
        } in transfers
        {
            needs.conditions |= *when != When::Always;
            if from.s3().is_some() {
                needs.copies = true;
                for attribute in Attribute::ALL {
                    let policy = stricter(needs.preserve.of(attribute), preserve.of(attribute));
                    needs.preserve.set(attribute, policy);
                }
            } else {
                needs.uploads = true;
            }
            // Destructured, so that a new setting is a compile error until it is probed.
            let Destination {
                endpoint: _,
                location: _,
                storage_class,
                encryption,
                acl,
            } = to;
            needs.named.extend(set_by(set));
            needs
                .named
                .extend(storage_class.as_ref().map(|_| Attribute::StorageClass));
            needs
                .named
                .extend(encryption.as_ref().map(|_| Attribute::Encryption));
            needs.acl = needs.acl.or(*acl);
            needs.storage_class = needs.storage_class.or_else(|| storage_class.clone());
            needs.encryption = needs.encryption.or_else(|| encryption.clone());
        }
        needs
    }

    /// Returns the requests that create the job's objects.
    pub(super) const fn writes(&self) -> OnWrites {
        OnWrites {
            copy: self.copies,
            put: self.uploads,
            complete: true,
        }
    }

    /// Returns true if the job keeps this attribute or names a value for it.
    pub(super) fn wants(&self, attribute: Attribute) -> bool {
        self.preserve.of(attribute).keeps() || self.named.contains(&attribute)
    }
}

fn stricter(one: Policy, other: Policy) -> Policy {
    let rank = |policy| match policy {
        Policy::Require => 3,
        Policy::Try => 2,
        Policy::Replace => 1,
        Policy::Skip => 0,
    };
    if rank(one) >= rank(other) { one } else { other }
}

fn set_by(set: &SetValues) -> impl Iterator<Item = Attribute> {
    let has_headers = set.headers().iter().any(|(_, value)| value.is_some());
    let all = [
        (Attribute::Metadata, !set.metadata.is_empty()),
        (Attribute::Headers, has_headers),
        (Attribute::Tags, !set.tags.is_empty()),
    ];
    all.into_iter()
        .filter_map(|(attribute, is_set)| is_set.then_some(attribute))
}
