//! Endpoints: the server that a job talks to, and the identity that it uses.
//!
//! An [`Endpoint`] contains what a user typed in a manifest or as flags. Most users type little,
//! and expect the remaining settings to come from environment variables and the shared
//! configuration files, as with every AWS tool. [`Endpoint::resolve`] combines these sources into
//! one [`ResolvedEndpoint`]. It is a pure function: [`Environment::load`] reads the variables and
//! files first.
//!
//! Every check of an endpoint uses the resolved value, for example to find out whether two
//! endpoints lead to the same server, or whether a copy would overwrite its own source. Two
//! endpoints whose typed values differ only in their profiles can lead to different servers. A
//! check of the typed values would miss that, and the copy would go to the wrong server.

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

/// The endpoint of transfers without `endpoint`: Amazon S3, unless the manifest or the environment
/// names another server.
pub const DEFAULT_ENDPOINT: &str = "default";

/// An endpoint as a manifest or flags describe it. `None` means that the environment decides.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Endpoint {
    /// The name that transfers use.
    pub name: String,
    /// `http(s)://host[:port]`, without a path.
    pub url: Option<String>,
    /// The AWS Region to sign requests for.
    pub region: Option<String>,
    /// True to put the bucket name into the path (`https://host/bucket/key`), false for the host
    /// name.
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
    /// The trust in the responses of this server.
    pub trust: Trust,
    /// Capabilities of this server that differ from those of its provider.
    pub capabilities: Overrides<ByteSize>,
}

/// The trust in the responses of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// s3haul trusts a response that proves the effect of a request.
    #[default]
    Answers,
    /// s3haul trusts no response. It checks each object after writing it, and before treating it as
    /// equal.
    Nothing,
}

/// The kind of server. Servers differ in part limits, conditions, checksums, and tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Provider {
    /// `aws` if the endpoint leads to Amazon S3, otherwise `other`.
    #[default]
    Auto,
    /// Amazon S3, including VPC endpoints.
    Aws,
    /// MinIO, including AIStor.
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
    /// Google Cloud Storage (XML API).
    Gcs,
    /// Storj.
    Storj,
    /// Scaleway Object Storage.
    Scaleway,
    /// DigitalOcean Spaces.
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

    /// Returns true for servers whose buckets belong to tenants, so that `tenant:bucket` names a
    /// bucket.
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
    /// The session name, as shown by CloudTrail.
    pub session_name: Option<String>,
    /// The lifetime of the role's temporary credentials: 15 minutes to 12 hours.
    pub duration: Option<Duration>,
}

impl Default for Endpoint {
    /// Returns an endpoint named [`DEFAULT_ENDPOINT`], without any settings.
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

    /// The error message of serde lists all variants, so it reveals one that `ALL` lacks.
    #[test]
    fn all_has_every_provider() {
        let name = |provider: Provider| serde_json::to_string(&provider).unwrap();
        let names = Provider::ALL.map(|provider| name(provider).replace('"', "`"));
        let error = serde_json::from_str::<Provider>("\"?\"").unwrap_err();
        let expected = format!("expected one of {} at", names.join(", "));
        assert!(error.to_string().contains(&expected), "{error}");
    }
}
