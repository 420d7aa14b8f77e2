//! Buckets of tenants: `tenant:bucket`, which is valid only on servers that have tenants.

use super::job::ResolvedEndpoint;
use crate::location::BucketName;

/// Returns the message and the remedy for a tenant's bucket at an endpoint without tenants.
pub(crate) fn mistake(
    bucket: &BucketName,
    endpoint: &ResolvedEndpoint,
) -> Option<(String, String)> {
    let tenant = bucket
        .tenant()
        .filter(|_| !endpoint.provider.has_tenants())?;
    let of = if tenant.is_empty() {
        "a bucket of no tenant".to_owned()
    } else {
        format!("a bucket of the tenant `{tenant}`")
    };
    let message = format!("`{bucket}` names {of}, and only Ceph has tenants");
    let remedy = if endpoint.is_aws() {
        "write the bucket's name without a colon".to_owned()
    } else {
        "if the server is Ceph, say so with `provider: ceph`".to_owned()
    };
    Some((message, remedy))
}
