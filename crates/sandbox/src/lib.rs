//! An S3 in this process: for the demo, for tests, for benchmarks.
//!
//! The sandbox serves the S3 API over HTTP on the loopback interface, on the `s3s` crate, and does
//! what S3 does rather than what is convenient: conditions, version histories, checksum rules, part
//! rules, error codes and their order are those of S3. It differs from S3 where that helps a test:
//!
//! - Large objects are virtual ([`Content::pattern`]): 48.8 TiB cost nothing, yet any byte can be
//!   read and CRCs are true. The MD5 and SHA sums of virtual contents over 1 MiB are those of a
//!   description instead, equal for equal contents.
//! - A test reads and changes the [`Store`] directly, scripts [`Faults`], and inspects the
//!   [`CallRecord`].
//! - A [`Model`] gives it latency and request rates; there are none by default.
//! - A second port takes [`Faults`] from other processes ([`SandboxOptions::control`]).
//!
//! # Layout
//!
//! A connection is a `wire`. A request passes `front` (faults, model, record; its `operation` is
//! told from the request line; `keys` and `clock` judge its signature; `control` takes `rules` for
//! faults), `protocol` (the API on `s3s` types; `payload`: bodies) and `store` (`bucket`:
//! versions), which use `multipart`, `listing`, `condition`, `object`. Contents are `content` over
//! `pattern`; sums are `checksum` over `crc`; `kind` refuses what a directory bucket or a
//! look-alike does not have.

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
mod object;
mod odd;
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
    /// TCP port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// Region of buckets that name none.
    pub region: String,
    /// The access key that requests must be signed with.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Latency and rates.
    pub model: Model,
    /// Set to keep the list of calls. It grows with every request: benchmarks turn it off.
    pub record_calls: bool,
    /// The address that accepts rules for faults from other processes; `None` accepts none.
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

/// A running sandbox. It ends when it is stopped or dropped.
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
    /// A port cannot be listened on.
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

    /// Returns the URL that accepts rules: `http://HOST:PORT`.
    #[must_use]
    pub fn control_url(&self) -> Option<&str> {
        self.control.as_deref()
    }

    /// Accepts requests that are signed with this key too, with any session token.
    pub fn accept_key(&self, access_key: &str, secret_key: &str) {
        self.keys.add(access_key, secret_key);
    }

    /// Accepts requests that are signed with this key no longer: `InvalidAccessKeyId`.
    pub fn forget_key(&self, access_key: &str) {
        self.keys.remove(access_key);
    }

    /// Returns its buckets and objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the faults to strike.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the calls that it has seen.
    #[must_use]
    pub fn calls(&self) -> &CallRecord {
        &self.record
    }

    /// Closes all connections and waits for the end of what was in flight.
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
