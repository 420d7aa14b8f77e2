//! The conformance tests: the same guarantees on every S3 server.
//!
//! By default, they run against the sandbox in this process. With these variables, they run against
//! another server, without skipping anything:
//!
//! | variable | value | example |
//! |---|---|---|
//! | `S3HAUL_TEST_URL` | the server | `http://127.0.0.1:8333` |
//! | `S3HAUL_TEST_PROVIDER` | the manifest's `provider`, which decides the [`Capabilities`] | `seaweedfs` |
//! | `S3HAUL_TEST_CAPABILITIES` | the manifest's `capabilities` as JSON, if any | `{"part_copy": false}` |
//! | `S3HAUL_TEST_ACCESS_KEY`, `S3HAUL_TEST_SECRET_KEY` | credentials that may create and delete buckets | |
//! | `S3HAUL_TEST_REGION` | the region, if not `us-east-1` | `garage` |
//!
//! Each test has two new buckets, and removes them from a real server when it ends. The plain SDK,
//! not the code under test, reads back what arrives and compares it byte by byte.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helper fails its test"
)]

mod attributes;
mod copies;
mod killed;
mod lists;
mod multipart;
mod probe;
mod profile;
mod uploads;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::types::MultipartUpload;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use s3haul::bucket::Bucket;
use s3haul::connections::Connections;
use s3haul::endpoint::capabilities::Overrides;
use s3haul::execute::monitor::{Event, Monitor};
use s3haul::execute::receipt::{Ending, Proof, Receipt};
use s3haul::execute::{self, Execution, Outcome};
use s3haul::journal;
use s3haul::location::{ObjectKey, S3Uri};
use s3haul::manifest::job::{
    DEFAULT_ENDPOINT, Destination, Endpoint, Job, Limits, PartSize, Parts, Provider, Source,
    Transfer,
};
use s3haul::pace::{Pacer, RetryPolicy};
use s3haul::s3::Capabilities;
use s3haul::s3::client::StaticCredentials;
use s3haul::sandbox::{Sandbox, SandboxOptions};
use s3haul::size::{ByteSize, MIB};
use tokio_util::sync::CancellationToken;

/// The smallest part that S3 accepts, so that a few MiB make several parts.
const PART: u64 = 5 * MIB;
/// The test's own concurrent requests.
const AT_ONCE: usize = 32;

/// A server with two empty buckets.
struct Server {
    endpoint: Endpoint,
    credentials: StaticCredentials,
    /// A client for requests that do not go through s3haul.
    sdk: aws_sdk_s3::Client,
    source: String,
    destination: String,
    /// The sandbox, which serves until it is dropped, or `None` if the environment names a server.
    sandbox: Option<Sandbox>,
}

/// The outcome of a run.
struct Run {
    outcome: Outcome,
    receipts: Vec<Receipt>,
}

#[derive(Default)]
struct Receipts(Mutex<Vec<Receipt>>);

impl Monitor for Receipts {
    fn observe(&self, event: &Event<'_>) {
        if let Event::ObjectEnded(receipt) = event {
            self.0.lock().unwrap().push((*receipt).clone());
        }
    }
}

/// Runs a test with a server. Cleans up on a real one, even if the test fails.
async fn on_server(test: impl AsyncFnOnce(&Server)) {
    let server = Box::pin(Server::new()).await;
    let outcome = AssertUnwindSafe(Box::pin(test(&server)))
        .catch_unwind()
        .await;
    if server.sandbox.is_none() {
        server.remove(&server.source).await;
        server.remove(&server.destination).await;
    }
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

impl Server {
    async fn new() -> Self {
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let needed =
            |name: &str| given(name).unwrap_or_else(|| panic!("S3HAUL_TEST_URL needs {name}"));
        let (url, provider, access_key, secret_key, sandbox) = if let Some(url) =
            given("S3HAUL_TEST_URL")
        {
            let provider = serde_json::Value::String(needed("S3HAUL_TEST_PROVIDER"));
            let provider: Provider =
                serde_json::from_value(provider).expect("S3HAUL_TEST_PROVIDER");
            (
                url,
                provider,
                needed("S3HAUL_TEST_ACCESS_KEY"),
                needed("S3HAUL_TEST_SECRET_KEY"),
                None,
            )
        } else {
            let options = SandboxOptions {
                record_calls: false,
                ..SandboxOptions::default()
            };
            let (access_key, secret_key) = (options.access_key.clone(), options.secret_key.clone());
            let sandbox = Sandbox::start(options).await.unwrap();
            (
                sandbox.url().to_owned(),
                Provider::Aws,
                access_key,
                secret_key,
                Some(sandbox),
            )
        };
        let region = given("S3HAUL_TEST_REGION").unwrap_or_else(|| "us-east-1".to_owned());
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(&url)
            .region(Region::new(region.clone()))
            .credentials_provider(Credentials::new(
                &access_key,
                &secret_key,
                None,
                None,
                "conformance",
            ))
            .force_path_style(true)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let endpoint = Endpoint {
            name: DEFAULT_ENDPOINT.to_owned(),
            url: Some(url),
            region: Some(region),
            path_style: Some(true),
            provider,
            capabilities: given("S3HAUL_TEST_CAPABILITIES").map_or_else(
                Overrides::default,
                |stated| {
                    let stated: Overrides<String> =
                        serde_json::from_str(&stated).expect("S3HAUL_TEST_CAPABILITIES");
                    stated.sized(|name, size| {
                        size.map(|size| {
                            size.parse()
                                .unwrap_or_else(|error| panic!("{name}: {error}"))
                        })
                    })
                },
            ),
            ..Endpoint::default()
        };
        let run = format!("{:08x}", fastrand::u32(..));
        let server = Self {
            endpoint,
            credentials: StaticCredentials {
                access_key,
                secret_key,
            },
            sdk: aws_sdk_s3::Client::from_conf(config),
            source: format!("s3haul-{run}-source"),
            destination: format!("s3haul-{run}-destination"),
            sandbox,
        };
        for bucket in [&server.source, &server.destination] {
            server
                .sdk
                .create_bucket()
                .bucket(bucket)
                .send()
                .await
                .unwrap();
        }
        server
    }

    /// Returns the same server and buckets, for use with other capabilities.
    fn again(&self) -> Self {
        Self {
            endpoint: self.endpoint.clone(),
            credentials: self.credentials.clone(),
            sdk: self.sdk.clone(),
            source: self.source.clone(),
            destination: self.destination.clone(),
            sandbox: None,
        }
    }

    /// Returns the capabilities that s3haul relies on here.
    fn capabilities(&self) -> Capabilities {
        Capabilities::of(
            &self
                .endpoint
                .clone()
                .resolve(&s3haul::endpoint::Environment::default()),
        )
    }

    /// Deletes a bucket with everything in it.
    async fn remove(&self, bucket: &str) {
        for upload in self.uploads(bucket).await {
            let (key, id) = (upload.key().unwrap(), upload.upload_id().unwrap());
            self.sdk
                .abort_multipart_upload()
                .bucket(bucket)
                .key(key)
                .upload_id(id)
                .send()
                .await
                .unwrap();
        }
        stream::iter(self.keys(bucket).await)
            .map(|key| self.sdk.delete_object().bucket(bucket).key(key).send())
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
            .unwrap();
        match self.sdk.delete_bucket().bucket(bucket).send().await {
            // For rclone, an aborted upload keeps a bucket from being empty.
            Err(error) if error.code() == Some("BucketNotEmpty") => {
                assert_eq!(self.keys(bucket).await, [""; 0]);
                assert_eq!(self.uploads(bucket).await, []);
            }
            deleted => drop(deleted.unwrap()),
        }
    }

    /// Returns the keys that the server can store together. A file system cannot hold both `a` and
    /// `a/b`.
    async fn storable<'k>(&self, keys: &[&'k str]) -> Vec<&'k str> {
        let put = |key: &str| {
            self.sdk
                .put_object()
                .bucket(&self.source)
                .key(key)
                .body(b"x".to_vec().into())
                .send()
        };
        let delete = |key: &str| {
            self.sdk
                .delete_object()
                .bucket(&self.source)
                .key(key)
                .send()
        };
        put("a").await.unwrap();
        let is_file_system = put("a/b").await.is_err();
        for key in ["a/b", "a"] {
            let _ = delete(key).await;
        }
        let is_directory = |key: &str| {
            keys.iter()
                .any(|other| other.starts_with(&format!("{key}/")))
        };
        keys.iter()
            .copied()
            .filter(|key| !(is_file_system && is_directory(key)))
            .collect()
    }

    /// Returns the number of source objects that a run copies again because it cannot recognize
    /// their copies: if `ETag`s do not follow from bytes, a copy must be younger than its source,
    /// and some servers give it the time of its source.
    async fn unrecognized(&self) -> u64 {
        let times = async |bucket: &str| {
            let mut pages = self
                .sdk
                .list_objects_v2()
                .bucket(bucket)
                .into_paginator()
                .send();
            let mut times = BTreeMap::new();
            while let Some(page) = pages.next().await {
                let page = page.unwrap();
                let objects = page.contents().iter();
                times.extend(objects.map(|object| {
                    (
                        object.key().unwrap().to_owned(),
                        object.last_modified().unwrap().secs(),
                    )
                }));
            }
            times
        };
        let (sources, copies) = (times(&self.source).await, times(&self.destination).await);
        let is_younger =
            |(key, time): &(&String, &i64)| copies.get(*key).is_some_and(|copy| copy > *time);
        sources.iter().filter(|source| !is_younger(source)).count() as u64
    }

    /// Puts a plain object into the source.
    async fn put(&self, key: &str, body: &[u8]) {
        let request = self.sdk.put_object().bucket(&self.source).key(key);
        request.body(body.to_vec().into()).send().await.unwrap();
    }

    async fn get(&self, bucket: &str, key: &str) -> Vec<u8> {
        let answer = self.sdk.get_object().bucket(bucket).key(key).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{bucket}/{key}: {error:?}"));
        answer.body.collect().await.unwrap().to_vec()
    }

    /// Returns all keys of a bucket, sorted.
    async fn keys(&self, bucket: &str) -> Vec<String> {
        let mut pages = self
            .sdk
            .list_objects_v2()
            .bucket(bucket)
            .into_paginator()
            .send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            keys.extend(
                page.unwrap()
                    .contents()
                    .iter()
                    .map(|object| object.key().unwrap().to_owned()),
            );
        }
        keys.sort();
        keys
    }

    /// Asserts that an object of the destination has exactly the bytes of one of the source.
    async fn assert_equal(&self, from: &str, to: &str) {
        let (source, copy) = tokio::join!(
            self.get(&self.source, from),
            self.get(&self.destination, to)
        );
        assert_bytes(to, &copy, &source);
    }

    async fn assert_no_upload_is_left(&self) {
        let left = self.uploads(&self.destination).await;
        assert!(left.is_empty(), "{left:?}");
    }

    /// Returns the open uploads of a bucket. rclone answers 404 if there are none.
    async fn uploads(&self, bucket: &str) -> Vec<MultipartUpload> {
        match self
            .sdk
            .list_multipart_uploads()
            .bucket(bucket)
            .send()
            .await
        {
            Ok(list) => list.uploads.unwrap_or_default(),
            Err(error) if error.code() == Some("NoSuchUpload") => Vec::new(),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn connections(&self, job: &Job, halt: &CancellationToken) -> Connections {
        let pacer = Arc::new(Pacer::new(&Limits::default(), 32, RetryPolicy::default()));
        Connections::new(job, Some(self.credentials.clone()), pacer, halt.clone())
    }

    /// Connects to a bucket, for tests that use the library directly.
    async fn bucket(&self, name: &str) -> Bucket {
        let job = Job::single(self.copy_all(), [self.endpoint.clone()]);
        let mut connections = self.connections(&job, &CancellationToken::new());
        connections
            .bucket(DEFAULT_ENDPOINT, &name.parse().unwrap())
            .await
            .unwrap()
    }

    /// Runs one transfer. Asserts that nothing failed, and that no proof depends on a capability
    /// that the server's profile lacks.
    async fn run(&self, transfer: Transfer) -> Run {
        let is_copy = transfer.from.s3().is_some();
        let job = Job::single(transfer, [self.endpoint.clone()]);
        let halt = CancellationToken::new();
        let mut connections = self.connections(&job, &halt);
        let receipts = Arc::new(Receipts::default());
        let monitor: Arc<dyn Monitor> = Arc::clone(&receipts) as _;
        let stop = CancellationToken::new();
        let (journal, new) = (journal::off(None), Arc::default());
        let run = execute::run(Execution {
            job: &job,
            connections: &mut connections,
            monitor,
            journal: &journal,
            resumed: &new,
            ranges: None,
            stop: &stop,
            halt: &halt,
        });
        let outcome = Box::pin(run).await.unwrap();
        let receipts = receipts.0.lock().unwrap().clone();
        let run = Run { outcome, receipts };
        assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
        for receipt in &run.receipts {
            if let Ending::Done { proof, .. } = &receipt.ending {
                assert!(self.may_rest_on(*proof, is_copy), "{receipt:?}");
            }
        }
        run
    }

    /// Returns true if the profile allows this proof. Uploaded bytes are an exception: an `ETag`
    /// that equals their MD5 is no coincidence, whatever the server's `ETag`s mean in general.
    fn may_rest_on(&self, proof: Proof, is_copy: bool) -> bool {
        let Capabilities {
            content_etags,
            checksums,
            ..
        } = self.capabilities();
        match proof {
            Proof::Etag | Proof::PartEtags => content_etags || !is_copy,
            // A source may lack a checksum, whatever the server can do.
            Proof::Size => !content_etags && (is_copy || !checksums),
            // A checksum that a server computes and returns by itself is good everywhere.
            _ => true,
        }
    }

    fn location(bucket: &str, key: &str) -> S3Uri {
        S3Uri {
            bucket: bucket.parse().unwrap(),
            key: ObjectKey::new(key).unwrap(),
        }
    }

    /// Returns a transfer from `from` to the root of the destination, with multipart from [`PART`]
    /// on and parts of [`PART`].
    fn transfer(&self, from: Source) -> Transfer {
        let to = Destination {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location: Self::location(&self.destination, ""),
            storage_class: None,
            encryption: None,
            acl: None,
        };
        let parts = Parts {
            size: PartSize::Exactly(ByteSize(PART)),
            threshold: ByteSize(PART),
            ..Parts::default()
        };
        Transfer {
            parts,
            ..Transfer::new("conformance", from, to)
        }
    }

    /// Returns a transfer of everything in the source bucket.
    fn copy_all(&self) -> Transfer {
        let location = Self::location(&self.source, "");
        self.transfer(Source::Prefix {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            location,
        })
    }
}

impl Run {
    /// Returns the receipt of the object with this key at the destination.
    fn receipt(&self, key: &str) -> &Receipt {
        let is_it = |receipt: &&Receipt| {
            let to: S3Uri = receipt.destination.parse().unwrap();
            to.key.as_str() == key
        };
        self.receipts
            .iter()
            .find(is_it)
            .unwrap_or_else(|| panic!("no receipt for {key}"))
    }
}

/// Returns `size` random bytes, the same for the same seed.
fn bytes(seed: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Asserts that bytes are equal. Unlike `assert_eq!`, prints the position of the difference instead
/// of megabytes.
#[track_caller]
fn assert_bytes(name: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{name}: bytes");
    let differs = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    assert_eq!(differs, None, "{name}: first byte that differs");
}

/// Waits until the server's clock, which lists show in whole seconds, has moved on.
async fn a_second_later() {
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
}
