//! Copies the objects below a prefix that the destination does not have, and prints each object
//! when it ends. If it was stopped, a new start resumes the run.
//!
//! ```sh
//! cargo run --example copy_prefix -- s3://lake/events/ s3://lake-copy/events/
//! ```
#![expect(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::sync::Arc;

use s3haul::{Destination, Ending, Endpoint, Event, Job, Monitor, Run, Source, Transfer, When};
use tokio_util::sync::CancellationToken;

struct Printer;

impl Monitor for Printer {
    fn observe(&self, event: &Event<'_>) {
        let Event::ObjectEnded(receipt) = event else {
            return;
        };
        let key = &receipt.destination;
        match &receipt.ending {
            Ending::Done { proof, .. } => println!("{key}: copied, proven by {proof}"),
            Ending::Failed { error } => println!("{key}: {}; {}", error.message, error.remedy),
            _ => {}
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        return Err("usage: copy_prefix s3://BUCKET/PREFIX/ s3://BUCKET/PREFIX/".into());
    };
    let (from, to) = (Source::prefix(from.parse()?), Destination::new(to.parse()?));
    let mut transfer = Transfer::new("copy", from, to);
    transfer.when = When::Missing;
    let job = Job::single(transfer, [Endpoint::default()]);

    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.cancel();
            }
        }
    });
    let outcome = Run::new(&job)
        .monitor(Arc::new(Printer))
        .journal(".s3haul/copy_prefix")
        .stop(stop)
        .execute()
        .await?;
    println!(
        "{} copied, {} failed, {} left alone",
        outcome.done_objects, outcome.failed_objects, outcome.skipped_objects
    );
    Ok(())
}
