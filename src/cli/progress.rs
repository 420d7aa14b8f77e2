//! The progress display of a run.
//!
//! On a terminal: one bar for the run, and one for each of the few largest objects, which start
//! first. Elsewhere (in a log or a CronJob): one line every half minute. Bytes advance with each
//! part, so that progress shows even for a single 5 TiB object.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tracing::Level;

use super::estimate::{Done, PlannedWork, rate, time_left};
use super::{Output, lifecycle, row_up, say_json, tell};
use crate::execute::monitor::{Event, Monitor};
use crate::execute::receipt::{Ending, ErrorRecord, Receipt, is_usual};
use crate::journal::state::RunState;
use crate::pace::Pacer;
use crate::printable::printable;
use crate::size::{ByteSize, display_count, display_counted, display_duration};
use crate::telemetry::{self, Note};

/// The maximum number of bars for single objects.
const OBJECT_BARS: usize = 4;
/// Columns if the terminal does not report its width.
const USUAL_COLUMNS: usize = 80;
/// Columns of `629.50GiB of 999.99TiB`.
const DONE_WIDTH: usize = 22;
/// Keys are not shortened below this many characters. The terminal truncates what does not fit.
const SHORTEST_KEY: usize = 12;
/// The maximum number of failures shown individually; the summary counts all of them by cause.
const SHOWN_FAILURES: u64 = 20;
/// Failures of the same operation with the same code that are shown.
const SHOWN_ALIKE: u64 = 3;
/// The time between lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// The time between stall checks of a run without bars.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// If requests have failed without a success for this long, the display says so and shows no
/// remaining time.
const STALLED: Duration = Duration::from_secs(10);
/// The time between redraws of the bars.
const DRAW_EVERY: Duration = Duration::from_millis(250);
/// The number of redraws over which the rate is averaged.
const RATE_OVER: usize = 20;

/// The progress display and log of a run.
#[derive(Debug)]
pub(super) struct Console {
    began: Instant,
    pacer: Arc<Pacer>,
    output: Output,
    /// True if a report lists every object.
    has_report: bool,
    planned_objects: AtomicU64,
    planned_bytes: AtomicU64,
    plan_ended: AtomicU64,
    /// Objects that earlier sessions completed, and their bytes.
    inherited_objects: AtomicU64,
    inherited_bytes: AtomicU64,
    /// Objects that earlier sessions planned but did not complete, and their bytes.
    known_objects: AtomicU64,
    known_bytes: AtomicU64,
    ended_objects: AtomicU64,
    failed_objects: AtomicU64,
    /// The number of failures that were shown, by operation and code.
    shown_failures: Mutex<HashMap<(String, String), u64>>,
    /// Set once the display said that more objects have failed than it shows.
    has_said_more: AtomicBool,
    /// Set while the server refuses everything and the run tries only single objects.
    is_paused: AtomicBool,
    copied_bytes: AtomicI64,
    bars: Option<Bars>,
}

/// The progress of the run at three moments.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    /// The progress at the start of this session.
    began: Done,
    /// The progress a few redraws ago.
    recent: Done,
    now: Done,
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
        total.set_style(style(&format!(
            "{{bar:{}}} {{wide_msg}}",
            bar_width(columns())
        )));
        let above = screen.clone();
        telemetry::draw_above(Some(Arc::new(move |write| above.suspend(write))));
        Self {
            screen,
            total,
            objects: Mutex::default(),
        }
    }

    /// Adds the bar of an object above the bar of the run.
    fn begin(&self, id: u64, key: &str, bytes: u64, parts: u32) {
        let mut objects = self.objects();
        if objects.len() >= OBJECT_BARS {
            return;
        }
        let (columns, parts) = (columns(), display_counted(u64::from(parts), "part"));
        let bar_width = bar_width(columns);
        let bar = self
            .screen
            .insert_before(&self.total, ProgressBar::new(bytes));
        bar.set_style(style(&format!(
            "{{bar:{bar_width}}} {{done}}  {{wide_msg}}"
        )));
        let room = columns.saturating_sub(bar_width + DONE_WIDTH + parts.len() + 5);
        bar.set_message(format!("{parts}  {}", shorten(key, room.max(SHORTEST_KEY))));
        objects.insert(id, bar);
    }

    fn objects(&self) -> MutexGuard<'_, HashMap<u64, ProgressBar>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key(
            "done",
            |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                let _ = write!(
                    out,
                    "{} of {}",
                    ByteSize(state.pos()),
                    ByteSize(state.len().unwrap_or_default())
                );
            },
        )
        .progress_chars("━╸ ")
}

/// Returns the width of the terminal that shows the bars.
fn columns() -> usize {
    console::Term::stderr()
        .size_checked()
        .map_or(USUAL_COLUMNS, |(_, columns)| usize::from(columns))
}

fn bar_width(columns: usize) -> usize {
    (columns / 4).clamp(8, 28)
}

/// Shortens a key in the middle, because keys differ at their ends.
fn shorten(key: &str, room: usize) -> String {
    let clean: Vec<char> = printable(key).chars().collect();
    if clean.len() <= room {
        return clean.into_iter().collect();
    }
    let (head, tail) = (
        room.saturating_sub(1) / 2,
        room.saturating_sub(1).div_ceil(2),
    );
    clean[..head]
        .iter()
        .chain(['…'].iter())
        .chain(&clean[clean.len() - tail..])
        .collect()
}

/// Joins as many of the pieces as fit, in order of importance.
fn fit(pieces: &[String], room: usize) -> String {
    let mut line = String::new();
    for piece in pieces {
        let needed = if line.is_empty() { 0 } else { 2 } + console::measure_text_width(piece);
        if console::measure_text_width(&line) + needed > room && !line.is_empty() {
            continue;
        }
        if !line.is_empty() {
            line.push_str("  ");
        }
        line.push_str(piece);
    }
    line
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
            inherited_objects: AtomicU64::new(0),
            inherited_bytes: AtomicU64::new(0),
            known_objects: AtomicU64::new(0),
            known_bytes: AtomicU64::new(0),
            ended_objects: AtomicU64::new(0),
            failed_objects: AtomicU64::new(0),
            shown_failures: Mutex::default(),
            has_said_more: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            copied_bytes: AtomicI64::new(0),
            bars: bars.then(Bars::new),
        }
    }

    /// Restores the counts of the run's earlier sessions. Objects that were in progress count as
    /// planned until this session plans them again.
    pub(super) fn restore_counts(&self, state: &RunState) {
        self.known_objects
            .store(state.pending_objects() as u64, Ordering::Relaxed);
        self.known_bytes
            .store(state.pending_bytes(), Ordering::Relaxed);
        let totals = &state.totals;
        let ended = totals.done_objects + totals.restoring_objects + totals.failed_objects;
        self.planned_objects.store(ended, Ordering::Relaxed);
        self.inherited_objects.store(ended, Ordering::Relaxed);
        self.inherited_bytes
            .store(totals.done_bytes, Ordering::Relaxed);
        self.ended_objects.store(ended, Ordering::Relaxed);
        self.planned_bytes
            .store(totals.done_bytes, Ordering::Relaxed);
        self.copied_bytes.store(
            i64::try_from(totals.done_bytes).unwrap_or(i64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Moves the cursor back to the bars after an interrupt key. The bars leave the cursor at the
    /// right edge, so the terminal echoes `^C` in a new row, and clearing the bars would miss the
    /// first row.
    pub(super) fn skip_echo(&self) {
        if self.bars.is_some() {
            row_up();
        }
    }

    /// Redraws the bars, or writes a line at intervals, until the future is dropped.
    pub(super) async fn tick(self: Arc<Self>) {
        let every = if self.bars.is_some() {
            DRAW_EVERY
        } else {
            LOOK_EVERY
        };
        let began = self.done();
        let mut past = std::collections::VecDeque::from([began]);
        let (mut stall, mut line_at) = (None, Instant::now() + LINE_EVERY);
        loop {
            tokio::time::sleep(every).await;
            if let Some(note) = self.stall(&mut stall) {
                tell(&note);
            }
            if self.bars.is_none() {
                if Instant::now() < line_at {
                    continue;
                }
                // Counts from now: a suspended process prints only one line when it continues.
                line_at = Instant::now() + LINE_EVERY;
            }
            let now = self.done();
            let recent = past.front().copied().unwrap_or(began);
            past.push_back(now);
            if past.len() > RATE_OVER {
                past.pop_front();
            }
            let course = Course { began, recent, now };
            match &self.bars {
                Some(bars) => {
                    bars.total
                        .set_length(self.planned_bytes.load(Ordering::Relaxed).max(1));
                    bars.total.set_position(now.bytes);
                    bars.total.set_message(self.message(&course, columns()));
                }
                None if !self.output.quiet => tell(&self.progress(&course)),
                None => {}
            }
        }
    }

    /// Returns a note if a stall begins or ends. `reported` is the time of the last reported stall.
    fn stall(&self, reported: &mut Option<Instant>) -> Option<Note> {
        let waits_for = self.waits_for();
        match (waits_for.first(), *reported) {
            (Some(waits_for), None) => {
                *reported = Some(Instant::now());
                let message = format!("nothing succeeds: {waits_for}");
                Some(Note::new(Level::WARN, "waiting", message))
            }
            (None, Some(began)) => {
                *reported = None;
                let took = began.elapsed();
                let message = format!("requests succeed again after {}", display_duration(took));
                let note = Note::new(Level::WARN, "back", message);
                Some(note.with("seconds", took.as_secs_f64()))
            }
            _ => None,
        }
    }

    /// Returns the planned objects and bytes. The counts of earlier sessions are a lower bound
    /// until this session has planned as much.
    fn planned(&self) -> PlannedWork {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (objects, bytes) = (load(&self.planned_objects), load(&self.planned_bytes));
        if load(&self.plan_ended) > 0 {
            return PlannedWork { bytes, objects };
        }
        let known = |inherited, known| load(inherited) + load(known);
        PlannedWork {
            bytes: bytes.max(known(&self.inherited_bytes, &self.known_bytes)),
            objects: objects.max(known(&self.inherited_objects, &self.known_objects)),
        }
    }

    /// Returns the progress at this moment.
    fn done(&self) -> Done {
        let bytes = u64::try_from(self.copied_bytes.load(Ordering::Relaxed)).unwrap_or(0);
        Done {
            at: self.began.elapsed(),
            bytes,
            objects: self.ended_objects.load(Ordering::Relaxed),
        }
    }

    /// Returns the pieces of the progress line, in order of importance.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a line for people"
    )]
    fn pieces(&self, &Course { began, recent, now }: &Course) -> Vec<String> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (all, known) = (self.planned(), load(&self.plan_ended) > 0);
        let (in_flight, _) = self.pacer.slots().in_flight();
        let more = if known { "" } else { "+" };
        let mut pieces = vec![format!(
            "{} of {}{more}",
            ByteSize(now.bytes),
            ByteSize(all.bytes)
        )];
        let waits_for = self.waits_for();
        // A stalled run has no rate for an estimate.
        if !waits_for.is_empty() {
            pieces.push("stalled".to_owned());
        } else if known
            && let Some(left) = time_left(all, began, recent, now).filter(|left| !left.is_zero())
        {
            pieces.push(format!("{} left", display_duration(left)));
        }
        pieces.extend(waits_for);
        if let [first, others @ ..] = &self.pacer.refused()[..] {
            let others = if others.is_empty() {
                String::new()
            } else {
                format!(" (+{})", others.len())
            };
            pieces.push(format!("all refused (503) below s3://{first}{others}"));
        }
        let failed = load(&self.failed_objects);
        if failed > 0 {
            pieces.push(format!("{} failed", display_count(failed)));
        }
        let bytes_per_second = rate(recent.bytes, now.bytes, now.at.saturating_sub(recent.at));
        pieces.push(format!("{}/s", ByteSize(bytes_per_second as u64)));
        let objects = if known {
            display_counted(all.objects, "object")
        } else {
            format!("{}+ objects", display_count(all.objects))
        };
        pieces.push(format!(
            "{} of {objects}",
            display_count(load(&self.ended_objects))
        ));
        let throttled = self.pacer.counts().throttled;
        if throttled > 0 {
            pieces.push(format!("{} throttled", display_count(throttled)));
        }
        pieces.push(format!("{} in flight", display_count(u64::from(in_flight))));
        pieces
    }

    /// Returns when a run that has waited this long gives up.
    fn gives_up(&self, waited: Duration) -> String {
        let text = match self.pacer.retry.patience.saturating_sub(waited) {
            Duration::ZERO => "this is the last attempt (`patience`)".to_owned(),
            left => format!("gives up in {} (`patience`)", display_duration(left)),
        };
        self.output.spoken(text)
    }

    /// Returns the reasons why the whole run waits.
    fn waits_for(&self) -> Vec<String> {
        let outages = self.pacer.outages();
        let mut waits: Vec<_> = outages
            .iter()
            .map(|(_, down_for, reason)| {
                let gives_up = self.gives_up(*down_for);
                let down_for = display_duration(*down_for);
                format!("waiting for an answer, none for {down_for}: {reason}; {gives_up}")
            })
            .collect();
        if let (true, Some((down_for, reason))) = (waits.is_empty(), self.pacer.fruitless())
            && down_for >= STALLED
        {
            let gives_up = self.gives_up(down_for);
            let down_for = display_duration(down_for);
            waits.push(format!(
                "waiting for a success, none for {down_for}: {reason}; {gives_up}"
            ));
        }
        if self.is_paused.load(Ordering::Relaxed) {
            waits.push("waiting for the end of refusals, trying single objects".to_owned());
        }
        waits
    }

    /// Returns a progress line for a log.
    fn line(&self, course: &Course) -> String {
        format!(
            "{}  {}",
            display_duration(course.now.at),
            self.pieces(course).join("  ")
        )
    }

    /// Returns the event `progress`.
    fn progress(&self, course: &Course) -> Note {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (in_flight, _) = self.pacer.slots().in_flight();
        let time = course.now.at.saturating_sub(course.recent.at);
        Note::new(Level::INFO, "progress", self.line(course))
            .with("seconds", course.now.at.as_secs_f64())
            .with("copied_bytes", course.now.bytes)
            .with("planned_bytes", self.planned().bytes)
            .with("ended_objects", course.now.objects)
            .with("planned_objects", self.planned().objects)
            .with("is_planned", load(&self.plan_ended) > 0)
            .with("failed_objects", load(&self.failed_objects))
            .with(
                "bytes_per_second",
                rate(course.recent.bytes, course.now.bytes, time).round(),
            )
            .with("throttled", self.pacer.counts().throttled)
            .with("in_flight", in_flight)
            .with("waits_for", self.waits_for())
    }

    /// Returns the message beside a bar, truncated to fit a terminal of `columns` columns.
    fn message(&self, course: &Course, columns: usize) -> String {
        let mut pieces = self.pieces(course);
        pieces.push(display_duration(course.now.at));
        let pieces: Vec<String> = pieces
            .iter()
            .map(|piece| printable(piece).into_owned())
            .collect();
        fit(&pieces, columns.saturating_sub(bar_width(columns) + 1))
    }

    /// Returns true if a failure is shown by itself, and counts it.
    fn is_shown(&self, error: &ErrorRecord) -> bool {
        let shown = self.shown_failures.lock();
        let mut shown = shown.unwrap_or_else(PoisonError::into_inner);
        let kind = (error.operation.clone(), error.code.clone());
        let alike = shown.get(&kind).copied().unwrap_or_default();
        let is_shown = alike < SHOWN_ALIKE && shown.values().sum::<u64>() < SHOWN_FAILURES;
        if is_shown {
            shown.insert(kind, alike + 1);
        }
        is_shown
    }

    fn ended(&self, receipt: &Receipt) {
        if self.output.json {
            let _ = say_json(receipt);
        }
        match &receipt.ending {
            Ending::Done { .. } | Ending::Restoring { .. } => {
                self.ended_objects.fetch_add(1, Ordering::Relaxed);
            }
            Ending::Failed { error } => {
                self.ended_objects.fetch_add(1, Ordering::Relaxed);
                self.failed_objects.fetch_add(1, Ordering::Relaxed);
                if self.is_shown(error) {
                    tell(&lifecycle::failure(receipt, error, self.output));
                } else if !self.has_said_more.swap(true, Ordering::Relaxed) {
                    let message = if self.has_report {
                        "more objects have failed; the report lists all of them"
                    } else {
                        "more objects have failed; the summary counts them by cause, and --report FILE lists each"
                    };
                    tell(&Note::new(Level::ERROR, "more_failures", message));
                }
            }
            Ending::Skipped { .. } | Ending::Stopped => {}
        }
        // The summary counts losses; one line per loss could hide everything else.
        for loss in &receipt.losses {
            tracing::info!(object = %receipt.destination, "{loss}");
        }
        for note in &receipt.notes {
            if is_usual(note) {
                tracing::info!(object = %receipt.destination, "{note}");
            } else {
                tracing::warn!(object = %receipt.destination, "{note}");
            }
        }
    }

    /// Clears the bars.
    pub(super) fn finish(&self) {
        if let Some(bars) = &self.bars {
            telemetry::draw_above(None);
            let _ = bars.screen.clear();
        }
    }
}

impl Console {
    /// Counts copied bytes: of a multipart object (`id`), or of an object without a bar.
    fn add_bytes(&self, id: Option<u64>, bytes: u64) {
        self.copied_bytes
            .fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        if let (Some(bars), Some(id)) = (&self.bars, id)
            && let Some(bar) = bars.objects().get(&id)
        {
            bar.inc(bytes);
        }
    }
}

impl Monitor for Console {
    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::TransferBegan { name, number, of } => {
                self.plan_ended.store(0, Ordering::Relaxed);
                if !self.output.quiet && *of > 1 {
                    let message = format!("transfer {number} of {of}: {name}");
                    let note = Note::new(Level::INFO, "transfer", message)
                        .with("transfer", name)
                        .with("number", number)
                        .with("of", of);
                    tell(&note);
                }
            }
            Event::ObjectPlanned { bytes } => {
                self.planned_objects.fetch_add(1, Ordering::Relaxed);
                self.planned_bytes.fetch_add(*bytes, Ordering::Relaxed);
            }
            Event::Paused { is_paused } => self.is_paused.store(*is_paused, Ordering::Relaxed),
            Event::PlanEnded => self.plan_ended.store(1, Ordering::Relaxed),
            Event::UploadBegan {
                id,
                key,
                bytes,
                parts,
            } => {
                if let Some(bars) = &self.bars {
                    bars.begin(*id, key, *bytes, *parts);
                }
            }
            Event::BytesCopied { id, bytes } => self.add_bytes(*id, *bytes),
            Event::BytesResumed { id, bytes } => self.add_bytes(Some(*id), *bytes),
            Event::BytesVoided { bytes } => {
                self.copied_bytes
                    .fetch_sub(i64::try_from(*bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
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
            Event::OrphanSettled { .. } | Event::Excluded => {}
        }
    }
}

#[cfg(test)]
mod tests;
