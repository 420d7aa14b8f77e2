//! Uploads a file in parts, four at a time, and aborts the upload if a part fails.
//!
//! ```sh
//! cargo run --example upload_file -- film.mp4 s3://videos/film.mp4
//! ```
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::io::SeekFrom;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use s3haul::{
    Attributes, Bucket, CompleteSpec, Connect, Endpoint, Failure, MultipartUpload, PartDone, S3Uri,
};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// The part size. S3 accepts 10,000 parts, so this is enough for a file of 156 GiB. All parts
/// except the last must have at least 5 MiB.
const PART: u64 = 16 << 20;

/// Reads part `number` of the file, and sends it.
async fn send(
    upload: &MultipartUpload,
    path: &Path,
    number: u32,
) -> Result<PartDone, Box<dyn Error>> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(u64::from(number - 1) * PART))
        .await?;
    Ok(upload.upload_part(number, file.take(PART)).await?)
}

/// Sends all parts. The result may be in any order.
async fn send_all(
    upload: &MultipartUpload,
    path: &Path,
    size: u64,
) -> Result<Vec<PartDone>, Box<dyn Error>> {
    let count = u32::try_from(size.div_ceil(PART).max(1))?;
    stream::iter(1..=count)
        .map(|number| send(upload, path, number))
        .buffer_unordered(4)
        .try_collect()
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, to] = arguments.as_slice() else {
        return Err("usage: upload_file FILE s3://BUCKET/KEY".into());
    };
    let (path, to) = (Path::new(path), to.parse::<S3Uri>()?);
    let size = tokio::fs::metadata(path).await?.len();
    let bucket = Bucket::connect(Connect::from(Endpoint::default()), to.bucket).await?;

    let upload = MultipartUpload::initiate(&bucket, &to.key, &Attributes::default()).await?;
    let done: Result<_, Box<dyn Error>> = async {
        let parts = send_all(&upload, path, size).await?;
        // S3 refuses to publish an object of another total size.
        let written = upload.complete(&parts, &CompleteSpec::of_size(size)).await;
        Ok::<_, Box<dyn Error>>((parts.len(), written?))
    }
    .await;
    match done {
        Ok((parts, written)) => {
            println!("{size} bytes in {parts} parts, ETag {}", written.etag);
            Ok(())
        }
        Err(error) => {
            // Parts cost money until the upload is aborted.
            upload.cancel().await.map_err(|failure: Failure| {
                format!("{error}; and the upload is still open: {failure}")
            })?;
            Err(error)
        }
    }
}
