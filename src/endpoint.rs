//! Endpoints: the server that a job talks to, and the identity that it uses.
//!
//! An [`Endpoint`] holds what a user typed in a manifest or as flags. Most users type little and
//! expect the other settings to come from the same places as with every AWS tool: environment
//! variables and the shared configuration files. [`Endpoint::resolve`] combines all of them into
//! one [`ResolvedEndpoint`]. It is pure: [`Environment::load`] reads the variables and files first.
//!
//! Every check of an endpoint works on the resolved value: whether two endpoints are one server,
//! whether a copy would overwrite its own source, which provider profile applies. A check of the
//! typed value would mistake two endpoints that differ only in their profiles for one, and the copy
//! would go to the wrong server.

pub mod capabilities;
mod environment;
mod flags;
mod login;
mod network;
mod no_proxy;
mod resolve;
mod server;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::capabilities::Overrides;
pub use self::environment::{Environment, Profile};
pub(crate) use self::login::Login;
pub use self::network::{Network, ProxyError, ProxySetting, ProxyUrl};
pub use self::no_proxy::NoProxy;
pub(crate) use self::resolve::public_url;
pub use self::resolve::{
    CredentialSource, EndpointMistake, ResolvedEndpoint, Setting, SettingOrigin,
};
pub(crate) use self::server::url_mistake;
pub use self::server::{Server, is_plaintext};
use crate::location::LocalPath;
use crate::size::ByteSize;

/// The error message for a customer key at a plain HTTP server on another machine.
pub const NO_KEY_OVER_HTTP: &str =
    "the endpoint is plain HTTP, and customer keys (SSE-C) are never sent unencrypted";

/// The endpoint of transfers that name none: Amazon S3, unless the environment names another
/// server.
pub const DEFAULT_ENDPOINT: &str = "default";

/// An endpoint as a manifest or flags describe it. `None` leaves a setting to the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Endpoint {
    /// The name that transfers use.
    pub name: String,
    /// `http(s)://host[:port]`, without a path.
    pub url: Option<String>,
    /// The AWS region to sign requests for.
    pub region: Option<String>,
    /// True to put the bucket into the path (`https://host/bucket/key`), false for the host name.
    pub path_style: Option<bool>,
    /// Allows signed requests over plain HTTP to other machines.
    pub allow_http: bool,
    /// A profile of the shared AWS configuration. It takes precedence over the environment.
    pub profile: Option<String>,
    /// A role to assume with the credentials of the profile or the environment.
    pub assume_role: Option<AssumeRole>,
    /// A file of PEM certificates. Connections trust these and no others.
    pub ca_bundle: Option<LocalPath>,
    /// The proxy for all requests to this endpoint: `http(s)://[user:password@]host[:port]`, or
    /// `none` to connect directly.
    pub proxy: Option<ProxySetting>,
    /// The kind of server, which decides what s3haul relies on.
    pub provider: Provider,
    /// The trust in the answers of this server.
    pub trust: Trust,
    /// Capabilities of this server that differ from those of its provider.
    pub capabilities: Overrides<ByteSize>,
}

/// The trust in the answers of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// An answer that proves the effect of a request is enough.
    #[default]
    Answers,
    /// No answer is enough: s3haul checks each object after it wrote the object, and before it
    /// calls the object equal.
    Nothing,
}

/// The kind of server. Servers differ in part limits, conditions, checksums, and tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Provider {
    /// `aws` if the endpoint has no `url`, otherwise `other`.
    #[default]
    Auto,
    /// Amazon S3, also behind a VPC endpoint's `url`.
    Aws,
    /// MinIO, also as `AIStor`.
    Minio,
    /// Ceph's RADOS gateway.
    Ceph,
    /// SeaweedFS.
    Seaweedfs,
    /// Garage.
    Garage,
    /// Cloudflare R2.
    R2,
    /// Backblaze B2.
    B2,
    /// Wasabi.
    Wasabi,
    /// Google Cloud Storage through its XML API.
    Gcs,
    /// Storj.
    Storj,
    /// Scaleway Object Storage.
    Scaleway,
    /// `DigitalOcean` Spaces.
    Digitalocean,
    /// Alibaba Cloud OSS.
    Alibaba,
    /// Tencent Cloud COS.
    Tencent,
    /// IBM Cloud Object Storage.
    Ibm,
    /// Oracle Cloud Infrastructure Object Storage.
    Oracle,
    /// Any other server. s3haul relies on nothing that the server may ignore.
    Other,
}

impl Provider {
    /// All providers, in the order of the documentation.
    pub const ALL: [Self; 18] = [
        Self::Auto,
        Self::Aws,
        Self::Minio,
        Self::Ceph,
        Self::Seaweedfs,
        Self::Garage,
        Self::R2,
        Self::B2,
        Self::Wasabi,
        Self::Gcs,
        Self::Storj,
        Self::Scaleway,
        Self::Digitalocean,
        Self::Alibaba,
        Self::Tencent,
        Self::Ibm,
        Self::Oracle,
        Self::Other,
    ];

    /// Returns true for servers whose buckets belong to tenants, so that `tenant:bucket` names one.
    #[must_use]
    pub const fn has_tenants(self) -> bool {
        match self {
            Self::Ceph => true,
            Self::Auto
            | Self::Aws
            | Self::Minio
            | Self::Seaweedfs
            | Self::Garage
            | Self::R2
            | Self::B2
            | Self::Wasabi
            | Self::Gcs
            | Self::Storj
            | Self::Scaleway
            | Self::Digitalocean
            | Self::Alibaba
            | Self::Tencent
            | Self::Ibm
            | Self::Oracle
            | Self::Other => false,
        }
    }
}

/// An IAM role to assume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssumeRole {
    /// The ARN of the role, `arn:aws:iam::111122223333:role/name`.
    pub arn: String,
    /// The external ID that the role's trust policy may require.
    pub external_id: Option<String>,
    /// The name of the session, which `CloudTrail` shows.
    pub session_name: Option<String>,
    /// The lifetime of one set of credentials; 15 minutes to 12 hours.
    pub duration: Option<Duration>,
}

impl Default for Endpoint {
    /// Names nothing but [`DEFAULT_ENDPOINT`].
    fn default() -> Self {
        Self {
            name: DEFAULT_ENDPOINT.to_owned(),
            url: None,
            region: None,
            path_style: None,
            allow_http: false,
            profile: None,
            assume_role: None,
            ca_bundle: None,
            proxy: None,
            provider: Provider::Auto,
            trust: Trust::Answers,
            capabilities: Overrides::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error message of serde lists all variants.
    #[test]
    fn all_has_every_provider() {
        let name = |provider: Provider| serde_json::to_string(&provider).unwrap();
        let names = Provider::ALL.map(|provider| name(provider).replace('"', "`"));
        let error = serde_json::from_str::<Provider>("\"?\"").unwrap_err();
        let expected = format!("expected one of {} at", names.join(", "));
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
