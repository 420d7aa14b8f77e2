//! `sandbox`, and `--sandbox`: an S3 in this process, for trying things out without a cloud.

use std::collections::BTreeSet;

use clap::Args;

use super::{CliError, Exit, say};
use crate::location::S3Uri;
use crate::manifest::job::{DEFAULT_ENDPOINT, Job, Versions};
use crate::s3::client::StaticCredentials;
use crate::sandbox::{BucketOptions, Content, Model, ObjectSpec, Sandbox, SandboxOptions};
use crate::size::ByteSize;

/// Serves an S3 in memory on 127.0.0.1 until it is interrupted.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  s3haul sandbox --port 9000 --bucket copies --object s3://data/big.bin=1TiB --model aws
  # and in another shell, with what it prints:
  export AWS_ENDPOINT_URL_S3=http://127.0.0.1:9000 AWS_ACCESS_KEY_ID=sandbox AWS_SECRET_ACCESS_KEY=sandbox-secret
  s3haul copy s3://data/big.bin s3://copies/")]
pub(super) struct Serve {
    /// TCP port; a free one when it is not given.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Make this bucket; may be given several times.
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
    /// Make the bucket and put a virtual object of this size into it; it takes no memory. Below a prefix, many:
    /// s3://data/small/=20000x64KiB
    #[arg(long, value_name = "S3URI=SIZE", value_parser = seed)]
    object: Vec<Seed>,
    /// How fast it answers: at once, or like Amazon S3 from a machine nearby.
    #[arg(long, value_parser = ["instant", "aws"], default_value = "instant")]
    model: String,
}

/// Objects to begin with: one, or `count` below a prefix.
#[derive(Clone, Debug)]
struct Seed {
    location: S3Uri,
    count: Option<u32>,
    size: ByteSize,
}

fn seed(text: &str) -> Result<Seed, String> {
    let (uri, size) =
        text.rsplit_once('=').ok_or("write s3://bucket/key=SIZE, for instance s3://data/big.bin=1TiB")?;
    let location: S3Uri = uri.parse().map_err(|error| format!("{error}"))?;
    let (count, size) = match size.split_once('x') {
        Some((count, size)) => {
            (Some(count.parse().map_err(|_| format!("`{count}` is not a number of objects"))?), size)
        }
        None => (None, size),
    };
    if location.key.is_prefix() != count.is_some() {
        return Err(format!("{location}: an object takes a SIZE, a prefix a COUNTxSIZE such as 20000x64KiB"));
    }
    Ok(Seed { location, count, size: size.parse().map_err(|error| format!("{error}"))? })
}

impl Seed {
    /// Keys as uploads of sensors or users have them: spread evenly, so that listings have no pattern to exploit.
    fn plant(&self, sandbox: &Sandbox, number: u64) {
        let bucket = self.location.bucket.as_str();
        let put = |key: &str, seed: u64| {
            let content = Content::pattern(seed, self.size.0);
            sandbox.store().put_object(bucket, key, content, &ObjectSpec::default());
        };
        match self.count {
            None => put(self.location.key.as_str(), number + 1),
            Some(count) => {
                for index in 0..count {
                    let spread = index.wrapping_mul(0x9E37_79B1);
                    put(&format!("{}{spread:08x}", self.location.key), number + 1);
                }
            }
        }
    }
}

impl Serve {
    pub(super) async fn execute(self) -> Result<Exit, CliError> {
        let model = if self.model == "aws" { Model::aws_like() } else { Model::default() };
        let options =
            SandboxOptions { port: self.port, model, record_calls: false, ..SandboxOptions::default() };
        let (access, secret) = (options.access_key.clone(), options.secret_key.clone());
        let sandbox = Sandbox::start(options).await?;
        let seeded = self.object.iter().map(|seed| seed.location.bucket.to_string());
        for bucket in self.bucket.iter().cloned().chain(seeded).collect::<BTreeSet<_>>() {
            sandbox.store().create_bucket(&bucket, BucketOptions::default());
        }
        for (number, seed) in self.object.iter().enumerate() {
            seed.plant(&sandbox, number as u64);
        }
        say(&format!(
            "export AWS_ENDPOINT_URL_S3={} AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} AWS_REGION=us-east-1",
            sandbox.url()
        ))?;
        let _ = tokio::signal::ctrl_c().await;
        sandbox.stop().await;
        Ok(Exit::Done)
    }
}

/// Starts a sandbox that takes the place of the job's default endpoint and has the buckets that the job names there.
pub(super) async fn embed(job: &mut Job) -> Result<(Sandbox, StaticCredentials), CliError> {
    let options = SandboxOptions { record_calls: false, ..SandboxOptions::default() };
    let credentials =
        StaticCredentials { access_key: options.access_key.clone(), secret_key: options.secret_key.clone() };
    let region = options.region.clone();
    let sandbox = Sandbox::start(options).await?;
    let endpoint = job.endpoints.entry(DEFAULT_ENDPOINT.to_owned()).or_default();
    endpoint.url = Some(sandbox.url().to_owned());
    endpoint.region = Some(region);
    endpoint.path_style = Some(true);
    endpoint.provider = crate::manifest::job::Provider::Aws;
    (endpoint.profile, endpoint.assume_role) = (None, None);
    for transfer in &job.transfers {
        let source = transfer.from.s3().filter(|(endpoint, _)| *endpoint == DEFAULT_ENDPOINT);
        for bucket in
            source.map(|(_, location)| &location.bucket).into_iter().chain([&transfer.to.location.bucket])
        {
            let versioning = transfer.versions != Versions::Current;
            let options = BucketOptions { versioning, ..BucketOptions::default() };
            sandbox.store().create_bucket(bucket.as_str(), options);
        }
    }
    Ok((sandbox, credentials))
}
