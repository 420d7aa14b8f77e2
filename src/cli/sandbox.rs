//! `sandbox` and `--sandbox`: an S3 server inside this process, for experiments without a cloud and
//! for measuring clients.

mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use self::seed::{Seed, SeedCopies, copied, seed};
use super::signals::{self, Orderly};
use super::{CliError, Exit, Output, note, say, say_json};
use crate::endpoint::{Endpoint, Environment, Provider, ProxySetting};
use crate::execute::DRAIN;
use crate::location::BucketName;
use crate::manifest::job::{Access, Job, JournalPlace, Transfer, Versions};
use crate::s3::client::StaticCredentials;
use crate::size::{ByteSize, display_count, display_counted, parse_duration};
use s3haul_sandbox::{BucketOptions, BucketUsage, Model, Operation, Ramp, Sandbox, SandboxOptions};

/// Serves S3 from memory on 127.0.0.1 until it is interrupted, then prints the requests that it
/// received and the objects that it holds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  s3haul sandbox --port 9000 --bucket copies --object s3://data/big.bin=1TiB --model aws
  # in another shell, with the variables that it prints:
  export AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000
  export AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox-secret
  s3haul copy s3://data/big.bin s3://copies/

To measure how a client behaves:
  # which requests does a sync of a million equal keys send?
  s3haul sandbox --json --object s3://data/s/=1000000x1KiB --copied s3://data/s/=s3://copies/s/
  # how does it handle limits that rise while it works?
  s3haul sandbox --model aws --ramp 1/8:10s --bucket copies --object s3://data/s/=20000x64KiB-1MiB
  # how does it handle a minute of refusals that begins in ten seconds?
  s3haul sandbox --port 9000 --control 127.0.0.1:9001 --object s3://data/s/=20000x64KiB
  curl 127.0.0.1:9001/_sandbox/rules -d '{\"prefix\": \"s/1\", \"from\": \"10s\", \"for\": \"1m\", \"effect\": \"throttle\"}'")]
pub(super) struct Serve {
    /// TCP port. 0 selects a free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Create this bucket. May be repeated.
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
    /// Create the bucket and a virtual object of this size, which takes no memory. For a prefix,
    /// create many objects of one size or of a range of sizes: s3://data/small/=20000x64KiB,
    /// s3://data/mixed/=20000x64KiB-1MiB
    #[arg(long, value_name = "S3URI=SIZE", value_parser = seed)]
    object: Vec<Seed>,
    /// Also create equal copies of the objects that --object creates below a prefix:
    /// s3://data/small/=s3://copies/small/
    #[arg(long, value_name = "FROM=TO", value_parser = copied)]
    copied: Vec<SeedCopies>,
    /// Latency of responses: instant (none), or aws (that of Amazon S3 from a nearby machine).
    #[arg(long, value_parser = ["instant", "aws"], default_value = "instant")]
    model: String,
    /// PUT, COPY, POST, and DELETE requests per second that each top-level prefix accepts, instead
    /// of the model's rate. Requests above the rate get SlowDown.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    writes_per_second: Option<u32>,
    /// GET, HEAD, and list requests per second that each top-level prefix accepts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    reads_per_second: Option<u32>,
    /// Start each prefix at this fraction of its rates, and double them after every TIME, as S3
    /// does when it splits partitions: 1/8:10s
    #[arg(long, value_name = "FRACTION:TIME", value_parser = ramp)]
    ramp: Option<Ramp>,
    /// Serve this many connections at a time. Further connections wait until one closes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: Option<u32>,
    /// Fixed latency of a part copy, instead of the model's. Amazon S3 takes about 2450ms for large
    /// parts.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    part_latency: Option<Duration>,
    /// Keep only the lengths and checksums of uploads above 64 KiB, so that a benchmark measures
    /// the client. Reads then return different bytes, ETags are not MD5 sums, and Content-MD5 and
    /// payload signatures are not checked.
    #[arg(long)]
    virtual_uploads: bool,
    /// Accept fault rules on this loopback address while serving (POST, GET, and DELETE of
    /// /_sandbox/rules, in JSON). Port 0 selects a free port.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    control: Option<SocketAddr>,
    /// Arm this fault rule at the start, in the JSON format of --control. May be repeated.
    #[arg(long, value_name = "JSON")]
    rule: Vec<String>,
}

/// Parses a loopback address. Any other address would let other machines control the sandbox.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let at: SocketAddr = text
        .parse()
        .map_err(|_| "write an address and a port, for instance 127.0.0.1:0".to_owned())?;
    if at.ip().is_loopback() {
        return Ok(at);
    }
    Err(format!(
        "{} is not an address of the loopback interface; write 127.0.0.1:{}",
        at.ip(),
        at.port()
    ))
}

/// Parses a ramp such as `1/8:10s`.
fn ramp(text: &str) -> Result<Ramp, String> {
    let wrong = || format!("`{text}` is not a ramp: write FRACTION:TIME, for instance 1/8:10s");
    let (fraction, time) = text.split_once(':').ok_or_else(wrong)?;
    let start = match fraction.split_once('/') {
        Some((over, under)) => {
            over.parse::<f64>().map_err(|_| wrong())? / under.parse::<f64>().map_err(|_| wrong())?
        }
        None => fraction.parse().map_err(|_| wrong())?,
    };
    if !(start > 0.0 && start <= 1.0) {
        return Err(format!("`{fraction}` is not above 0 and at most 1"));
    }
    let doubles_every = parse_duration(time).map_err(|error| error.to_string())?;
    if doubles_every.is_zero() {
        return Err(wrong());
    }
    Ok(Ramp {
        start,
        doubles_every,
    })
}

/// The requests that a sandbox received, and the objects that it held at its end.
#[derive(Debug, Serialize)]
struct SandboxUsage {
    /// All requests.
    requests: u64,
    /// Requests that got `SlowDown`.
    throttled: u64,
    most_in_flight: u64,
    /// Bytes copied inside the server.
    copied_bytes: u64,
    /// Requests by operation, with S3's names.
    calls: BTreeMap<&'static str, u64>,
    buckets: Vec<BucketUsage>,
}

impl SandboxUsage {
    fn of(sandbox: &Sandbox) -> Self {
        let record = sandbox.calls();
        let calls = Operation::ALL
            .iter()
            .map(|operation| (operation.name(), record.count(*operation)));
        Self {
            requests: record.total(),
            throttled: record.throttled(),
            most_in_flight: record.max_in_flight(),
            copied_bytes: record.copied_bytes(),
            calls: calls.filter(|(_, count)| *count > 0).collect(),
            buckets: sandbox.store().usage(),
        }
    }

    /// Returns the usage as text.
    fn text(&self) -> String {
        let mut lines = vec![format!(
            "requests: {} ({} throttled), {} in flight at most, {} copied",
            display_count(self.requests),
            display_count(self.throttled),
            display_count(self.most_in_flight),
            ByteSize(self.copied_bytes),
        )];
        let calls = self.calls.iter();
        lines.extend(calls.map(|(name, count)| format!("  {name} {}", display_count(*count))));
        lines.extend(self.buckets.iter().map(|usage| {
            let BucketUsage {
                bucket,
                objects,
                bytes,
                open_uploads,
            } = usage;
            format!(
                "{bucket}: {}, {}, {}",
                display_counted(*objects, "object"),
                ByteSize(*bytes),
                display_counted(*open_uploads, "open upload")
            )
        }));
        lines.join("\n")
    }
}

impl Serve {
    /// Returns the model of latencies and limits.
    fn model(&self) -> Result<Model, CliError> {
        let mut model = if self.model == "aws" {
            Model::aws_like()
        } else {
            Model::default()
        };
        let limits = &mut model.limits;
        limits.writes_per_second = self.writes_per_second.or(limits.writes_per_second);
        limits.reads_per_second = self.reads_per_second.or(limits.reads_per_second);
        if self.ramp.is_some()
            && limits.writes_per_second.is_none()
            && limits.reads_per_second.is_none()
        {
            let message =
                "--ramp needs rates: add --model aws, --writes-per-second or --reads-per-second";
            return Err(CliError::Usage(message.to_owned()));
        }
        limits.ramp.clone_from(&self.ramp);
        limits.connections = self.connections.map(|most| most as usize);
        model.latency.part_copy = self.part_latency;
        Ok(model)
    }

    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let model = self.model()?;
        // Each request in flight is a socket. If the limit cannot be raised, connections wait.
        let _ = rlimit::increase_nofile_limit(u64::MAX);
        let options = SandboxOptions {
            port: self.port,
            model,
            record_calls: false,
            control: self.control,
            ..SandboxOptions::default()
        };
        let (access, secret) = (options.access_key.clone(), options.secret_key.clone());
        let sandbox = Sandbox::start(options).await?;
        sandbox
            .store()
            .quirks()
            .virtual_uploads
            .store(self.virtual_uploads, Ordering::Relaxed);
        let seeded = self
            .object
            .iter()
            .map(|seed| seed.location.bucket.to_string());
        for bucket in self
            .bucket
            .iter()
            .cloned()
            .chain(seeded)
            .collect::<BTreeSet<_>>()
        {
            sandbox
                .store()
                .create_bucket(&bucket, BucketOptions::default());
        }
        for rule in &self.rule {
            let armed = sandbox.faults().add_json(rule.as_bytes());
            armed.map_err(|why| CliError::Usage(format!("--rule {rule}: {why}")))?;
        }
        for (number, seed) in self.object.iter().enumerate() {
            seed.plant(&sandbox, number as u64);
        }
        for copied in &self.copied {
            if copied.plant(&sandbox) == 0 {
                let message = format!(
                    "--copied: there is nothing below {}; put it there with --object",
                    copied.from
                );
                return Err(CliError::Usage(message));
            }
        }
        // From here on, a signal is the normal way to end the sandbox.
        let orderly = Orderly::within(DRAIN);
        signals::leaves("what the sandbox has seen is lost");
        let control = sandbox
            .control_url()
            .map(|url| format!(" S3HAUL_SANDBOX_CONTROL={url}"));
        say(&format!(
            "export AWS_ENDPOINT_URL_S3={} AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} AWS_REGION=us-east-1{}",
            sandbox.url(),
            control.unwrap_or_default()
        ))?;
        orderly.signalled().wait().await;
        let seen = SandboxUsage::of(&sandbox);
        sandbox.stop().await;
        if output.json {
            say_json(&seen)?;
        } else {
            say(&seen.text())?;
        }
        Ok(Exit::Done)
    }
}

/// Starts a sandbox with the buckets that the job names, and replaces every endpoint of the job
/// with it.
///
/// The job must not reach any other server: an endpoint keeps its name, provider, and capabilities,
/// and loses its URL, identity, and network settings. Settings that the sandbox cannot honor are
/// refused.
pub(super) async fn embed(job: &mut Job) -> Result<(Sandbox, StaticCredentials), CliError> {
    let locations = |transfer: &Transfer| {
        let source = transfer
            .from
            .s3()
            .map(|(_, location)| location.bucket.clone());
        source
            .into_iter()
            .chain([transfer.to.location.bucket.clone()])
    };
    if let Some(arn) = job
        .transfers
        .iter()
        .flat_map(locations)
        .find(|bucket| bucket.as_str().starts_with("arn:"))
    {
        let message = format!(
            "{arn}: the sandbox has no access points; name a bucket, or run the job without --sandbox"
        );
        return Err(CliError::Usage(message));
    }
    let options = SandboxOptions {
        record_calls: false,
        ..SandboxOptions::default()
    };
    let credentials = StaticCredentials {
        access_key: options.access_key.clone(),
        secret_key: options.secret_key.clone(),
    };
    let region = options.region.clone();
    let sandbox = Sandbox::start(options).await?;
    for (name, endpoint) in &mut job.endpoints {
        let provider = match endpoint.stated.provider {
            Provider::Auto => Provider::Aws,
            stated => stated,
        };
        let stated = Endpoint {
            name: name.clone(),
            url: Some(sandbox.url().to_owned()),
            region: Some(region.clone()),
            path_style: Some(true),
            proxy: Some(ProxySetting::None),
            provider,
            trust: endpoint.stated.trust,
            capabilities: std::mem::take(&mut endpoint.stated.capabilities),
            ..Endpoint::default()
        };
        // The user's environment must not apply to the sandbox.
        *endpoint = stated.resolve(&Environment::default().isolated());
    }
    // The sandbox ends with this process, so a run in it cannot be resumed.
    job.journal = JournalPlace::Disabled;
    if let Some(uri) = job.report.s3.take() {
        note(&format!(
            "--sandbox: no report is written to {uri}, which would end with this process; --report FILE keeps one"
        ));
    }
    // Buckets with the same name on two servers are now the same bucket.
    if let Some(error) = CliError::of_mistakes(&job.check()) {
        return Err(CliError::Usage(format!(
            "with --sandbox, all endpoints are one server: {error}"
        )));
    }
    for (bucket, options) in buckets_of(job) {
        sandbox.store().create_bucket(&bucket, options);
    }
    Ok((sandbox, credentials))
}

/// Returns the buckets of a job, each with the options that its transfers need.
fn buckets_of(job: &Job) -> BTreeMap<String, BucketOptions> {
    let mut buckets: BTreeMap<String, BucketOptions> = BTreeMap::new();
    for transfer in &job.transfers {
        let mut need = |bucket: &BucketName, access: &Access| {
            let options = buckets.entry(bucket.as_str().to_owned()).or_default();
            options.versioning |= transfer.versions != Versions::Current;
            if options.owner.is_none() {
                options.owner.clone_from(&access.expected_owner);
            }
        };
        if let Some((_, location)) = transfer.from.s3() {
            need(&location.bucket, &transfer.source_access);
        }
        need(&transfer.to.location.bucket, &transfer.destination_access);
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_has_what_any_transfer_needs_of_it() {
        let manifest = "version: 1\ntransfers:\n\
            \x20 - {from: {s3: s3://bucket-a/1/}, to: {s3: s3://bucket-b/1/}}\n\
            \x20 - {from: {s3: s3://bucket-a/2/, versions: all, expected_owner: '111122223333'}, to: {s3: s3://bucket-c/}}\n\
            \x20 - {from: {s3: s3://bucket-d/}, to: {s3: s3://bucket-b/3/, expected_owner: '444455556666'}}\n";
        let job = Job::parse(manifest, "job.yaml", &Environment::default()).unwrap();
        let buckets: Vec<_> = buckets_of(&job)
            .into_iter()
            .map(|(bucket, options)| (bucket, options.versioning, options.owner))
            .collect();
        let bucket = |name: &str, versioning, owner: Option<&str>| {
            (name.to_owned(), versioning, owner.map(str::to_owned))
        };
        assert_eq!(
            buckets,
            [
                bucket("bucket-a", true, Some("111122223333")),
                bucket("bucket-b", false, Some("444455556666")),
                bucket("bucket-c", true, None),
                bucket("bucket-d", false, None),
            ]
        );
    }
}
