//! An S3 server inside this process, for demos, tests, and benchmarks.
//!
//! The sandbox serves the S3 API over HTTP on the loopback interface. It is built on the `s3s`
//! crate. Its conditions, version histories, checksum rules, part rules, error codes, and order of
//! checks are the same as in S3. It differs from S3 where that helps a test:
//!
//! - Large objects are virtual ([`Content::pattern`]). An object of 48.8 TiB takes no memory, yet
//!   you can read each byte and its CRCs are real. Above 1 MiB, the MD5 and SHA sums of a virtual
//!   object are computed over a description of it; equal contents have equal sums.
//! - A test can read and change the [`Store`] directly, script [`Faults`], and inspect the
//!   [`CallRecord`].
//! - A [`Model`] adds latencies and request rates. There are none by default.
//! - A second port accepts rules for [`Faults`] from other processes ([`SandboxOptions::control`]).
//!
//! # Layout
//!
//! `wire` handles a connection. A request first passes `front`, which applies faults and the model
//! and records the call. `operation` classifies it by its request line and headers, and `keys` and
//! `clock` check its signature; `record` stores the calls, and `control` accepts `rules` for
//! `faults`. Then `protocol` implements the API with the types of `s3s` (bodies are in `payload`),
//! and `store` has each `bucket` and its versions. They use `multipart`, `listing`, `condition`,
//! `annotations`, and `object`, and answer with a `refusal`. The bytes are in `content` and
//! `pattern`, their sums in `checksum` and `crc`. `kind` refuses what a directory bucket or an
//! S3-compatible server does not support. For faults, `nonconforming` ignores parts of requests and
//! sends wrong answers.

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

mod annotations;
mod bucket;
mod checksum;
mod clock;
mod condition;
mod content;
mod control;
mod crc;
mod faults;
mod front;
mod keys;
mod kind;
mod listing;
mod model;
mod multipart;
mod nonconforming;
mod object;
mod operation;
mod pattern;
mod payload;
mod protocol;
mod record;
mod refusal;
mod rules;
mod store;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::front::Front;
use self::keys::KeyRing;

pub use self::checksum::{Algorithm, Checksum, ChecksumKind, HASHED};
pub use self::content::Content;
pub use self::faults::{Counts, Effect, Fault, Faults, Rule, When};
pub use self::model::{LatencyModel, Model, Ramp, RateModel};
pub use self::multipart::UploadInfo;
pub use self::object::{
    Attributes, Encryption, Grant, LARGEST_PIECE, LAST_PART_NUMBER, Lock, ObjectInfo, ObjectSpec,
    PartInfo, SMALLEST_PART, VersionInfo,
};
pub use self::operation::Operation;
pub use self::pattern::PERIOD;
pub use self::record::{CallEntry, CallRecord};
pub use self::store::{BucketOptions, BucketUsage, OWNER, Quirks, Store};

/// The settings of a sandbox.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// The TCP port on 127.0.0.1; 0 chooses a free one.
    pub port: u16,
    /// The region of buckets that are created without one.
    pub region: String,
    /// The access key that clients use to sign requests.
    pub access_key: String,
    /// The secret of the access key.
    pub secret_key: String,
    /// Latencies and request rates.
    pub model: Model,
    /// Set to keep a list of all calls. It grows with each request, so benchmarks turn it off.
    pub record_calls: bool,
    /// The address of the control port, which accepts rules for faults from other processes; `None`
    /// opens no such port.
    pub control: Option<SocketAddr>,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            port: 0,
            region: "us-east-1".to_owned(),
            access_key: "sandbox".to_owned(),
            secret_key: "sandbox-secret".to_owned(),
            model: Model::default(),
            record_calls: true,
            control: None,
        }
    }
}

/// A running sandbox. It ends when you stop or drop it.
#[derive(Debug)]
pub struct Sandbox {
    url: String,
    control: Option<String>,
    keys: KeyRing,
    store: Store,
    faults: Arc<Faults>,
    record: Arc<CallRecord>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Sandbox {
    /// Starts a sandbox on the current tokio runtime.
    ///
    /// # Errors
    /// Fails if the sandbox cannot listen on one of its ports.
    pub async fn start(options: SandboxOptions) -> io::Result<Self> {
        let listener =
            TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port))).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let store = Store::new(options.region);
        let faults = Arc::new(Faults::default());
        let record = Arc::new(CallRecord::new(options.record_calls));
        let keys = KeyRing::default();
        keys.add(&options.access_key, &options.secret_key);
        let most = options.model.limits.connections;
        let front = Front::new(
            store.clone(),
            Arc::clone(&faults),
            Arc::clone(&record),
            options.model,
            keys.clone(),
        );
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let control = match options.control {
            Some(at) => {
                let listener = TcpListener::bind(at).await?;
                let url = format!("http://{}", listener.local_addr()?);
                let (faults, until) = (Arc::clone(&faults), stop.clone());
                let serve =
                    move |stream| control::serve(stream, Arc::clone(&faults), until.clone());
                let accept = wire::accept(listener, None, stop.clone(), tasks.clone(), serve);
                tasks.spawn(accept);
                Some(url)
            }
            None => None,
        };
        let (front, connections, until) = (Arc::new(front), Arc::clone(&record), stop.clone());
        let serve = move |stream| {
            connections.connected();
            wire::serve(stream, Arc::clone(&front), until.clone())
        };
        let accept = wire::accept(listener, most, stop.clone(), tasks.clone(), serve);
        tasks.spawn(accept);
        Ok(Self {
            url,
            control,
            keys,
            store,
            faults,
            record,
            stop,
            tasks,
        })
    }

    /// Returns the endpoint: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the URL of the control port, `http://HOST:PORT`, if there is one.
    #[must_use]
    pub fn control_url(&self) -> Option<&str> {
        self.control.as_deref()
    }

    /// Accepts requests signed with this key as well, with any session token.
    pub fn accept_key(&self, access_key: &str, secret_key: &str) {
        self.keys.add(access_key, secret_key);
    }

    /// Stops accepting a key. Requests signed with it are answered `InvalidAccessKeyId`.
    pub fn forget_key(&self, access_key: &str) {
        self.keys.remove(access_key);
    }

    /// Returns the buckets and objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the faults.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the record of calls.
    #[must_use]
    pub fn calls(&self) -> &CallRecord {
        &self.record
    }

    /// Closes all connections and waits until all tasks have ended.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
