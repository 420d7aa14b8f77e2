//! `check`: would this job start?

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::place::Place;
use super::{CliError, Exit, JobFile, Output, say};
use crate::execute::describe;

/// Checks a job without writing anything.
#[derive(Debug, Args)]
pub(super) struct CheckJob {
    #[command(flatten)]
    job: JobFile,
}

impl CheckJob {
    pub(super) async fn execute(self, output: Output) -> Result<Exit, CliError> {
        let mut job = self.job.load()?;
        let place = Place::of(&self.job, &mut job).await?;
        let mut connections = place.connect(&job, &CancellationToken::new());
        for transfer in &job.transfers {
            let (source, destination) = connections.of_transfer(transfer).await?;
            let regions: Vec<_> = source
                .iter()
                .chain([&destination])
                .map(|bucket| bucket.client().region().to_owned())
                .collect();
            if output.json {
                let line =
                    serde_json::json!({ "transfer": transfer.name, "regions": regions, "status": "ok" });
                say(&line.to_string())?;
            } else {
                say(&format!("ok  {}: {} ({})", transfer.name, describe(transfer), regions.join(" -> ")))?;
            }
        }
        Ok(Exit::Done)
    }
}
