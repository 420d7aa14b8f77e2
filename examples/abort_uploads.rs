//! Lists the multipart uploads below a prefix that were created more than some hours ago and never
//! completed. With `--abort`, aborts them: their parts cost money as long as they exist.
//!
//! ```sh
//! cargo run --example abort_uploads -- s3://lake/ 24 --abort
//! ```
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;

use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use s3haul::{Bucket, Connect, Endpoint, MultipartUpload, S3Uri};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (below, hours, abort) = match words[..] {
        [below, hours] => (below, hours, false),
        [below, hours, "--abort"] => (below, hours, true),
        _ => return Err("usage: abort_uploads s3://BUCKET/PREFIX HOURS [--abort]".into()),
    };
    let below: S3Uri = below.parse()?;
    let latest = Timestamp::now() - SignedDuration::from_hours(hours.parse()?);
    let bucket = Bucket::connect(Connect::from(Endpoint::default()), below.bucket).await?;

    // Read the whole list first: an abort between two pages could change the next page.
    let open: Vec<_> = MultipartUpload::list(&bucket, below.key.as_str())
        .try_collect()
        .await?;
    // If the server does not return the creation time of an upload, the upload is not aborted.
    let is_old = |initiated: Option<Timestamp>| initiated.is_some_and(|time| time < latest);
    for found in open.iter().filter(|found| is_old(found.initiated)) {
        if abort {
            let key = found.key.parse()?;
            MultipartUpload::open(&bucket, &key, &found.upload_id)
                .cancel()
                .await?;
        }
        let what = if abort { "aborted" } else { "open" };
        println!("{what}: {} {}", found.key, found.upload_id);
    }
    Ok(())
}
