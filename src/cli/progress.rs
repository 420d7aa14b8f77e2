//! What one sees while a run is under way.
//!
//! On a terminal: one bar for the run and one for each of the few largest objects, which are the first to begin. Elsewhere
//! (a log, a CronJob): one line every half minute. Bytes advance with each part, so that a single 5 TiB object moves too.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Output;
use crate::execute::monitor::{Event, Monitor};
use crate::execute::receipt::{Ending, Receipt};
use crate::journal::state::RunState;
use crate::pace::Pacer;
use crate::size::{ByteSize, display_count, display_duration};

/// Bars for single objects.
const OBJECT_BARS: usize = 4;
/// Failures that are shown one by one; the summary counts all of them by cause.
const SHOWN_FAILURES: u64 = 20;
/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Between redraws of the bars.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// The rate is that of the last so many redraws.
const RATE_OVER: usize = 20;

/// The terminal and the log of a run.
#[derive(Debug)]
pub(super) struct Console {
    began: Instant,
    pacer: Arc<Pacer>,
    output: Output,
    /// A report lists every object.
    has_report: bool,
    planned_objects: AtomicU64,
    planned_bytes: AtomicU64,
    plan_ended: AtomicU64,
    ended_objects: AtomicU64,
    failed_objects: AtomicU64,
    copied_bytes: AtomicI64,
    bars: Option<Bars>,
}

#[derive(Debug)]
struct Bars {
    screen: MultiProgress,
    total: ProgressBar,
    objects: Mutex<HashMap<u64, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
        let total = screen.add(ProgressBar::new(0));
        total.set_style(style("{bar:28} {msg}"));
        Self { screen, total, objects: Mutex::default() }
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<u64, ProgressBar>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}

impl Console {
    pub(super) fn new(pacer: Arc<Pacer>, output: Output, bars: bool, has_report: bool) -> Self {
        Self {
            began: Instant::now(),
            pacer,
            output,
            has_report,
            planned_objects: AtomicU64::new(0),
            planned_bytes: AtomicU64::new(0),
            plan_ended: AtomicU64::new(0),
            ended_objects: AtomicU64::new(0),
            failed_objects: AtomicU64::new(0),
            copied_bytes: AtomicI64::new(0),
            bars: bars.then(Bars::new),
        }
    }

    /// Begins where earlier sessions of the run came to. What they had under way is planned again.
    pub(super) fn go_on(&self, state: &RunState) {
        let totals = &state.totals;
        let ended = totals.done_objects + totals.restoring_objects + totals.failed_objects;
        self.planned_objects.store(ended, Ordering::Relaxed);
        self.ended_objects.store(ended, Ordering::Relaxed);
        self.planned_bytes.store(totals.done_bytes, Ordering::Relaxed);
        self.copied_bytes.store(i64::try_from(totals.done_bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Writes a line to standard error, above the bars.
    pub(super) fn tell(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.screen.suspend(|| {
                let _ = writeln!(io::stderr().lock(), "{line}");
            }),
            None => {
                let _ = writeln!(io::stderr().lock(), "{line}");
            }
        }
    }

    /// Redraws the bars, or writes a line now and then, until it is dropped.
    pub(super) async fn tick(self: Arc<Self>) {
        let every = if self.bars.is_some() { DRAW_EVERY } else { LINE_EVERY };
        let mut past = std::collections::VecDeque::from([(Instant::now(), self.copied())]);
        loop {
            tokio::time::sleep(every).await;
            let (now, bytes) = (Instant::now(), self.copied());
            let (then, before) = past.front().copied().unwrap_or((self.began, 0));
            past.push_back((now, bytes));
            if past.len() > RATE_OVER {
                past.pop_front();
            }
            let seconds = now.duration_since(then).as_secs_f64().max(0.001);
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = bytes.saturating_sub(before) as f64 / seconds;
            let line = self.line(bytes, rate);
            match &self.bars {
                Some(bars) => {
                    bars.total.set_length(self.planned_bytes.load(Ordering::Relaxed).max(1));
                    bars.total.set_position(bytes);
                    bars.total.set_message(line);
                }
                None if !self.output.quiet => self.tell(&line),
                None => {}
            }
        }
    }

    fn copied(&self) -> u64 {
        u64::try_from(self.copied_bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a line for people"
    )]
    fn line(&self, bytes: u64, rate: f64) -> String {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (planned, known) = (load(&self.planned_bytes), load(&self.plan_ended) > 0);
        let (in_flight, _) = self.pacer.slots().in_flight();
        let more = if known { "" } else { "+" };
        let mut line = format!(
            "{} of {}{more}  {}/s  {} of {}{more} objects  {in_flight} in flight",
            ByteSize(bytes),
            ByteSize(planned),
            ByteSize(rate as u64),
            display_count(load(&self.ended_objects)),
            display_count(load(&self.planned_objects)),
        );
        let failed = load(&self.failed_objects);
        if failed > 0 {
            let _ = write!(line, "  {} failed", display_count(failed));
        }
        let throttled = self.pacer.counts().throttled;
        if throttled > 0 {
            let _ = write!(line, "  {} throttled", display_count(throttled));
        }
        for (_, down_for, reason) in self.pacer.outages() {
            let _ = write!(line, "  no answer for {}: {reason}", display_duration(down_for));
        }
        if known && rate >= 1.0 && planned > bytes {
            let left = Duration::from_secs_f64(((planned - bytes) as f64 / rate).min(1e9));
            let _ = write!(line, "  {} left", display_duration(left));
        }
        format!("{}  {line}", display_duration(self.began.elapsed()))
    }

    fn ended(&self, receipt: &Receipt) {
        if self.output.json
            && let Ok(line) = serde_json::to_string(receipt)
        {
            let _ = writeln!(io::stdout().lock(), "{line}");
        }
        match &receipt.ending {
            Ending::Done { .. } | Ending::Restoring { .. } => {
                self.ended_objects.fetch_add(1, Ordering::Relaxed);
            }
            Ending::Failed { error } => {
                self.ended_objects.fetch_add(1, Ordering::Relaxed);
                let number = self.failed_objects.fetch_add(1, Ordering::Relaxed);
                if number < SHOWN_FAILURES {
                    let request =
                        error.request_id.as_ref().map(|id| format!(" [request {id}]")).unwrap_or_default();
                    let (code, message) = (&error.code, error.message.trim_end_matches('.'));
                    let Receipt { source, .. } = receipt;
                    let operation = &error.operation;
                    self.tell(&format!(
                        "failed: {source}: {operation}: {code}: {message}{request}; {}",
                        error.remedy
                    ));
                } else if number == SHOWN_FAILURES {
                    self.tell(if self.has_report {
                        "more objects fail; the report has them all"
                    } else {
                        "more objects fail; the summary counts them by cause, and --report FILE lists each"
                    });
                }
            }
            Ending::Skipped { .. } | Ending::Stopped => {}
        }
        // The summary counts them; a line for each of a million objects would hide everything else.
        for loss in &receipt.losses {
            tracing::info!(object = %receipt.destination, "{loss}");
        }
        for note in &receipt.notes {
            tracing::warn!(object = %receipt.destination, "{note}");
        }
    }

    /// Ends the bars.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.screen.clear();
        }
    }
}

impl Monitor for Console {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::TransferBegan { name, number, of } => {
                self.plan_ended.store(0, Ordering::Relaxed);
                if !self.output.quiet && *of > 1 {
                    self.tell(&format!("transfer {number} of {of}: {name}"));
                }
            }
            Event::ObjectPlanned { bytes } => {
                self.planned_objects.fetch_add(1, Ordering::Relaxed);
                self.planned_bytes.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::PlanEnded => self.plan_ended.store(1, Ordering::Relaxed),
            Event::UploadBegan { id, key, bytes, parts } => {
                if let Some(bars) = &self.bars {
                    let mut objects = bars.objects();
                    if objects.len() < OBJECT_BARS {
                        let bar = bars.screen.insert_before(&bars.total, ProgressBar::new(*bytes));
                        bar.set_style(style("{bar:28} {binary_bytes} of {binary_total_bytes}  {msg}"));
                        bar.set_message(format!("{key} ({parts} parts)"));
                        objects.insert(*id, bar);
                    }
                }
            }
            Event::BytesCopied { id, bytes } => {
                self.copied_bytes.fetch_add(i64::try_from(*bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
                if let (Some(bars), Some(id)) = (&self.bars, id)
                    && let Some(bar) = bars.objects().get(id)
                {
                    bar.inc(*bytes);
                }
            }
            Event::BytesVoided { bytes } => {
                self.copied_bytes.fetch_sub(i64::try_from(*bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
            }
            Event::UploadEnded { id } => {
                if let Some(bars) = &self.bars
                    && let Some(bar) = bars.objects().remove(id)
                {
                    bar.finish_and_clear();
                    bars.screen.remove(&bar);
                }
            }
            Event::ObjectEnded(receipt) => self.ended(receipt),
            Event::Ignored { place, why } => tracing::info!("ignored {place}: {why}"),
            Event::Excluded => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::state::Totals;
    use crate::manifest::job::Limits;
    use crate::pace::RetryPolicy;

    #[test]
    fn a_run_that_goes_on_is_shown_as_far_as_it_is() {
        let pacer = Arc::new(Pacer::new(&Limits::default(), 8, RetryPolicy::default()));
        let console = Console::new(pacer, Output { json: false, quiet: true }, false, false);
        let totals = Totals { done_objects: 4, done_bytes: 400, failed_objects: 1, ..Totals::default() };
        console.go_on(&RunState { totals, ..RunState::default() });
        // What was under way is planned again, with the parts that are there.
        console.observe(&Event::ObjectPlanned { bytes: 600 });
        console.observe(&Event::BytesCopied { id: None, bytes: 100 });
        let line = console.line(console.copied(), 0.0);
        assert!(line.contains("500B of 1000B+") && line.contains("5 of 6+ objects"), "{line}");
    }
}
