//! Copies objects from one S3 bucket to another without moving the bytes through the local machine,
//! and uploads local files.
//!
//! S3 copies the bytes itself. s3haul decides what to copy, divides large objects into parts, keeps
//! hundreds of requests in flight under limits that it learns, and proves every copy by the
//! checksums and `ETag`s that S3 computed. This is the library behind the command `s3haul`. It has
//! three uses.
//!
//! # Run a job
//!
//! A [`Job`] has one or more transfers. Build it here, or read a manifest with [`Job::load`]. A
//! [`Run`] executes it: with a journal, a killed run continues where it stopped; with a
//! [`Monitor`], a program receives an event for every object.
//!
//! ```
//! # #[cfg(feature = "sandbox")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use s3haul::sandbox::{BucketOptions, Content, ObjectSpec, Sandbox, SandboxOptions};
//! # use s3haul::{Endpoint, StaticCredentials};
//! # let sandbox = Sandbox::start(SandboxOptions::default()).await?;
//! # for bucket in ["lake", "lake-copy"] { sandbox.store().create_bucket(bucket, BucketOptions::default()); }
//! # sandbox.store().put_object("lake", "events/1", Content::pattern(1, 1000), &ObjectSpec::default());
//! # let mut endpoint = Endpoint::default();
//! # endpoint.url = Some(sandbox.url().to_owned());
//! # let credentials = StaticCredentials { access_key: "sandbox".into(), secret_key: "sandbox-secret".into() };
//! use s3haul::{Destination, Job, Run, Source, Transfer, When};
//!
//! let from = Source::prefix("s3://lake/events/".parse()?);
//! let to = Destination::new("s3://lake-copy/events/".parse()?);
//! let mut transfer = Transfer::new("events", from, to);
//! transfer.when = When::Missing;
//!
//! // `Endpoint::default()` is Amazon S3. Its region, profile, and credentials
//! // come from the environment.
//! let job = Job::single(transfer, [endpoint]);
//! let outcome = Run::new(&job)
//!     # .credentials(credentials)
//!     .execute()
//!     .await?;
//! assert_eq!((outcome.done_objects, outcome.failed_objects), (1, 0));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sandbox"))]
//! # fn main() {}
//! ```
//!
//! # Copy one object
//!
//! A job can copy a single object to a single key. It copies an object of any size with its
//! metadata and tags, and a large object in parts.
//!
//! ```
//! # #[cfg(feature = "sandbox")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use s3haul::sandbox::{BucketOptions, Content, ObjectSpec, Sandbox, SandboxOptions};
//! # use s3haul::{Endpoint, StaticCredentials};
//! # let sandbox = Sandbox::start(SandboxOptions::default()).await?;
//! # for bucket in ["raw", "archive"] { sandbox.store().create_bucket(bucket, BucketOptions::default()); }
//! # sandbox.store().put_object("raw", "take-1.mp4", Content::pattern(1, 1000), &ObjectSpec::default());
//! # let mut endpoint = Endpoint::default();
//! # endpoint.url = Some(sandbox.url().to_owned());
//! # let credentials = StaticCredentials { access_key: "sandbox".into(), secret_key: "sandbox-secret".into() };
//! use s3haul::{Destination, Job, Run, Source, Transfer};
//!
//! let from = Source::object("s3://raw/take-1.mp4".parse()?);
//! let to = Destination::new("s3://archive/2026/take-1.mp4".parse()?);
//! let job = Job::single(Transfer::new("take-1", from, to), [endpoint]);
//! let outcome = Run::new(&job)
//!     # .credentials(credentials)
//!     .execute()
//!     .await?;
//! assert_eq!(outcome.done_objects, 1);
//! assert!(sandbox.store().object("archive", "2026/take-1.mp4").is_some());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sandbox"))]
//! # fn main() {}
//! ```
//!
//! # Upload in parts
//!
//! A [`MultipartUpload`] stands on its own, without a job. Its parts come from readers or from
//! other objects, in any order and in parallel.
//!
//! ```
//! # #[cfg(feature = "sandbox")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use futures::TryStreamExt;
//! # use s3haul::sandbox::{BucketOptions, Content, ObjectSpec, Sandbox, SandboxOptions};
//! # use s3haul::{Endpoint, StaticCredentials};
//! # let sandbox = Sandbox::start(SandboxOptions::default()).await?;
//! # sandbox.store().create_bucket("videos", BucketOptions::default());
//! # sandbox.store().put_object("raw", "take-1.mp4", Content::pattern(1, 8 << 20), &ObjectSpec::default());
//! # let mut endpoint = Endpoint::default();
//! # endpoint.url = Some(sandbox.url().to_owned());
//! # let credentials = StaticCredentials { access_key: "sandbox".into(), secret_key: "sandbox-secret".into() };
//! # let mut connect = Connect::from(endpoint);
//! # connect.credentials = Some(credentials);
//! use s3haul::{Attributes, Bucket, CompleteSpec, Connect, MultipartUpload, SourcePin};
//!
//! // `Connect::from(Endpoint::default())` is Amazon S3 with the credentials of the environment.
//! let raw = Bucket::connect(connect.clone(), "raw".parse()?).await?;
//! let videos = Bucket::connect(connect, "videos".parse()?).await?;
//! let (take, film) = ("take-1.mp4".parse()?, "film.mp4".parse()?);
//! let source = SourcePin::new(raw.name(), &take, &raw.head(&take, None).await?);
//!
//! let upload = MultipartUpload::initiate(&videos, &film, &Attributes::default()).await?;
//! let mib = 1 << 20;
//! let (last, first) = tokio::try_join!(
//!     upload.upload_part(2, &b"the end"[..]),
//!     upload.copy_part(1, &source, Some(0..=5 * mib - 1), 5 * mib),
//! )?;
//!
//! // The caller states the size of the object. S3 refuses to complete parts of another total size.
//! let spec = CompleteSpec::of_size(first.size + last.size);
//! let written = upload.complete(&[last, first], &spec).await?;
//! assert!(written.etag.ends_with("-2"));
//!
//! // Cancel an upload that is not needed. Afterwards the bucket has no open uploads.
//! MultipartUpload::initiate(&videos, &film, &Attributes::default()).await?.cancel().await?;
//! let open: Vec<_> = MultipartUpload::list(&videos, "").try_collect().await?;
//! assert!(open.is_empty());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "sandbox"))]
//! # fn main() {}
//! ```
//!
//! # Features
//!
//! - `cli` (default): the command, with its parser, progress bars, and manual pages. A program that
//!   uses the library builds without it.
//! - `sandbox` (default): the command's `--sandbox`, and an S3 server in this process for tests
#![cfg_attr(feature = "sandbox", doc = "  ([`sandbox`]).")]
#![cfg_attr(not(feature = "sandbox"), doc = "  (`sandbox`).")]
//! - `internals`: opens all modules to the tests of this package. It is not public API.

#![cfg_attr(
    not(feature = "internals"),
    allow(
        unreachable_pub,
        unused_imports,
        rustdoc::private_intra_doc_links,
        reason = "`pub` is for the tests of this package, which see all modules"
    )
)]
#![cfg_attr(
    not(feature = "cli"),
    allow(dead_code, reason = "some items are used only by the command")
)]

mod awake;

// The modules are in alphabetical order. docs/architecture.md gives the order of dependencies, and
// a test checks it.
cfg_if::cfg_if! {
    if #[cfg(feature = "internals")] {
        pub mod bucket;
        pub mod checksum;
        #[cfg(feature = "cli")]
        pub mod cli;
        pub mod connections;
        pub mod endpoint;
        pub mod execute;
        pub mod journal;
        pub mod listing;
        pub mod location;
        pub mod manifest;
        pub mod multipart;
        pub mod pace;
        pub mod plan;
        pub mod planner;
        pub mod printable;
        pub mod probe;
        pub mod report;
        pub mod run;
        pub mod s3;
        pub mod shards;
        pub mod size;
        #[cfg(feature = "cli")]
        pub mod telemetry;
        pub mod verify;
    } else {
        mod bucket;
        mod checksum;
        #[cfg(feature = "cli")]
        mod cli;
        mod connections;
        mod endpoint;
        mod execute;
        mod journal;
        mod listing;
        mod location;
        mod manifest;
        mod multipart;
        mod pace;
        mod plan;
        mod planner;
        mod printable;
        mod probe;
        mod report;
        mod run;
        mod s3;
        mod shards;
        mod size;
        #[cfg(feature = "cli")]
        mod telemetry;
        mod verify;
    }
}

pub use bucket::Bucket;
pub use endpoint::{Endpoint, Environment, Provider};
pub use execute::Outcome;
pub use execute::monitor::{Event, Monitor};
pub use execute::receipt::{Ending, Proof, Receipt};
pub use journal::JournalError;
pub use location::{BucketName, ObjectKey, S3Uri};
pub use manifest::job::{Destination, Job, Source, Transfer, When};
pub use manifest::{ManifestError, ManifestMistakes, Mistake};
pub use multipart::MultipartUpload;
pub use run::{Run, RunError};
pub use s3::client::StaticCredentials;
pub use s3::{
    Attributes, CompleteSpec, Connect, Failure, FailureKind, Head, OpenUpload, PartDone, SourcePin,
    Written,
};

/// Types for the detailed settings of a [`Job`] or an [`Endpoint`], named as in the manifest, and
/// for the [`Attributes`] of an object.
pub mod settings {
    pub use crate::endpoint::capabilities::Overrides;
    pub use crate::endpoint::{
        AssumeRole, CredentialSource, EndpointMistake, Network, NoProxy, Profile, ProxyError,
        ProxySetting, ProxyUrl, ResolvedEndpoint, Server, Setting, SettingOrigin, Trust,
    };
    pub use crate::location::{LocalPath, LocationError};
    pub use crate::manifest::job::{
        Access, Archived, Attribute, CannedAcl, Compare, CustomerKeys, Empty, Encryption,
        FailureLimit, FailureLimitError, JournalPlace, KeySource, LayoutChoice, Limits, OnChange,
        OnMismatch, PartGoal, PartSize, Parts, Policy, Preserve, PreserveError, Preset,
        ProofPolicy, Prove, ReportPaths, ReportPlace, Restore, RestoreTier, Selection, SetValues,
        Symlinks, Verify, Versions,
    };
    pub use crate::manifest::keys::{GlobError, KeyGlob, KeyMap, Template, TemplateError};
    pub use crate::manifest::{Excerpt, ManifestMistake};
    pub use crate::s3::{
        Checksum, ChecksumAlgorithm, ChecksumKind, ContentHeaders, CustomerKey, Grant, Lock,
        NoCustomerKey, Permission, Retention, Tag, Tags, WriteCondition,
    };
    pub use crate::size::{ByteRate, ByteSize, SizeError};
}

/// Types of the fields of [`Receipt`], [`Outcome`], [`Failure`], and [`Head`].
///
/// ```
/// use s3haul::receipt::Skip;
/// use s3haul::{Ending, Receipt};
///
/// fn is_there_already(receipt: &Receipt) -> bool {
///     matches!(
///         receipt.ending,
///         Ending::Skipped {
///             reason: Skip::Present,
///             ..
///         }
///     )
/// }
/// ```
pub mod receipt {
    pub use crate::execute::receipt::{ErrorRecord, Loss, Lost, Replan};
    pub use crate::execute::{Earlier, GaveUp};
    pub use crate::journal::{ProcessMark, Writer};
    pub use crate::pace::PaceCounts;
    pub use crate::plan::cause::{Cause, CauseCounts};
    pub use crate::plan::decide::{Basis, Reason, SetAttributes, Skip};
    pub use crate::plan::empty::EmptySelection;
    pub use crate::plan::loss::LossCounts;
    pub use crate::plan::unchanged::Unchanged;
    pub use crate::plan::unlisted::{CommonCause, UnlistedCounts};
    pub use crate::s3::failure::Details;
    pub use crate::s3::{ArchiveState, Operation};
}

#[cfg(feature = "sandbox")]
pub use s3haul_sandbox as sandbox;

#[cfg(feature = "cli")]
#[doc(hidden)]
pub use cli::main as cli_main;
