//! Chooses the journal of a retry: the job's journal, unless it holds another unfinished run.

use crate::cli::{CliError, journal, note};
use crate::connections::Connections;
use crate::journal::look;
use crate::manifest::job::{Job, JournalPlace};

/// Turns the journal off if it holds another unfinished run or cannot be read. Returns the ID of
/// the retry that this one resumes, if there is one.
pub(super) async fn choose(
    job: &mut Job,
    connections: &mut Connections,
) -> Result<Option<String>, CliError> {
    let Some(location) = journal::location(job, connections).await? else {
        return Ok(None);
    };
    let why = match look(location).await {
        Ok(None) => return Ok(None),
        Ok(Some(glance)) => {
            let run = glance.state.run.as_ref();
            let Some(run) = run.filter(|_| glance.state.is_unfinished()) else {
                return Ok(None);
            };
            let retries = run.fingerprint.retries();
            if retries.is_some() {
                let is_this = retries == job.retries.as_deref();
                return Ok(is_this.then(|| run.run.clone()));
            }
            "it holds an unfinished run of the job".to_owned()
        }
        Err(error) => error.to_string(),
    };
    note(&format!(
        "note: this retry does not use the job's journal: {why}. If it is killed, `s3haul uploads list` at the destinations \
         shows the uploads that it leaves"
    ));
    job.journal = JournalPlace::Disabled;
    Ok(None)
}
