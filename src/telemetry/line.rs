//! The only writer of standard error.
//!
//! All standard error output passes through here: log events, notes, and errors. Text is written
//! unchanged. With `--log-format json`, each line is one JSON object with the fields `time`,
//! `level`, `event`, and `message`, then `job`, `run`, and `pod` if they are known, then the fields
//! of the event.

use std::env;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::Level;

use super::LogFormat;
use crate::printable::printable_json;

/// The event name of a line without a name of its own.
pub(crate) const PLAIN_EVENT: &str = "log";
/// The fields of every line. If an event has a field with one of these names, the field gets a `_`
/// at the end of its name.
const COMMON: [&str; 7] = ["time", "level", "event", "message", "job", "run", "pod"];

/// True if lines are JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);
/// The job and the run of all lines.
static SUBJECT: Mutex<Subject> = Mutex::new(Subject {
    job: None,
    run: None,
});
/// The screen with the progress bars, if there is one.
static SCREEN: Mutex<Option<Screen>> = Mutex::new(None);

/// Hides the drawing on a screen while a callback writes a line.
pub type Screen = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

#[derive(Clone, Debug)]
struct Subject {
    job: Option<String>,
    run: Option<String>,
}

/// Sets the format of all lines from now on.
pub(crate) fn set_format(format: LogFormat) {
    IS_JSON.store(format == LogFormat::Json, Ordering::Relaxed);
}

/// Returns true if lines are JSON.
pub(crate) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Sets the job that the following lines name.
pub(crate) fn name_job(job: &str) {
    SUBJECT.lock().unwrap_or_else(PoisonError::into_inner).job = Some(job.to_owned());
}

/// Sets the run that the following lines name.
pub(crate) fn name_run(run: &str) {
    SUBJECT.lock().unwrap_or_else(PoisonError::into_inner).run = Some(run.to_owned());
}

/// Returns the name of this process's pod: `POD_NAME`, which the downward API sets, or the host
/// name that Kubernetes gives to a pod.
pub(crate) fn pod() -> Option<&'static str> {
    static POD: OnceLock<Option<String>> = OnceLock::new();
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    POD.get_or_init(|| {
        variable("POD_NAME").or_else(|| {
            variable("KUBERNETES_SERVICE_HOST")?;
            variable("HOSTNAME")
        })
    })
    .as_deref()
}

/// Sets the screen above which lines are written. With `None`, lines go directly to standard error.
pub fn draw_above(screen: Option<Screen>) {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = screen;
}

/// Returns a line of JSON, without its line break.
pub(super) fn json(
    level: Level,
    event: &str,
    message: &str,
    fields: &Map<String, Value>,
) -> String {
    let subject = SUBJECT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let time = format!("{:.6}", Timestamp::now());
    let mut line = String::from("{");
    let mut add = |name: &str, value: &str| {
        let comma = if line.len() > 1 { "," } else { "" };
        let _ = write!(line, "{comma}{}:{value}", Value::from(name));
    };
    for (name, value) in [
        ("time", Some(time.as_str())),
        ("level", Some(level.as_str())),
        ("event", Some(event)),
        ("message", Some(message)),
        ("job", subject.job.as_deref()),
        ("run", subject.run.as_deref()),
        ("pod", pod()),
    ] {
        if let Some(value) = value {
            add(name, &Value::from(value).to_string());
        }
    }
    for (name, value) in fields {
        if COMMON.contains(&name.as_str()) {
            add(&format!("{name}_"), &value.to_string());
        } else {
            add(name, &value.to_string());
        }
    }
    line.push('}');
    printable_json(&line).into_owned()
}

/// Writes a line, with its line break, above the drawing on the screen.
pub(super) fn write(line: &[u8]) -> io::Result<()> {
    let screen = SCREEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let mut outcome = Ok(());
    let mut write = || outcome = io::stderr().lock().write_all(line);
    match screen {
        Some(screen) => screen(&mut write),
        None => write(),
    }
    outcome
}

/// A line from a command that is not a log event.
#[derive(Debug)]
pub(crate) struct Note {
    level: Level,
    event: &'static str,
    message: String,
    text: Option<String>,
    fields: Map<String, Value>,
}

impl Note {
    /// Creates a note whose text is its message.
    pub(crate) fn new(level: Level, event: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            level,
            event,
            text: Some(message.clone()),
            message,
            fields: Map::new(),
        }
    }

    /// Creates a note from a text whose first word may state its level.
    pub(crate) fn of_text(text: &str) -> Self {
        let prefixes = [
            ("error: ", Level::ERROR, "error"),
            ("warning: ", Level::WARN, PLAIN_EVENT),
            ("note: ", Level::INFO, PLAIN_EVENT),
        ];
        let known = prefixes.into_iter().find_map(|(prefix, level, event)| {
            Some(Self::new(level, event, text.strip_prefix(prefix)?).in_text(text))
        });
        known.unwrap_or_else(|| {
            let level = if text.starts_with("failed: ") {
                Level::ERROR
            } else {
                Level::INFO
            };
            Self::new(level, PLAIN_EVENT, text)
        })
    }

    /// Replaces the text for people.
    pub(crate) fn in_text(self, text: impl Into<String>) -> Self {
        let text = Some(text.into());
        Self { text, ..self }
    }

    /// Omits the note from text logs, where another line has the same information.
    pub(crate) fn only_json(self) -> Self {
        Self { text: None, ..self }
    }

    /// Adds a field.
    pub(crate) fn with(mut self, name: &str, value: impl Serialize) -> Self {
        // If a field cannot be serialized, the line is written without it.
        if let Ok(value) = serde_json::to_value(value) {
            self.fields.insert(name.to_owned(), value);
        }
        self
    }

    /// Adds the fields of a struct.
    pub(crate) fn with_fields_of(mut self, value: impl Serialize) -> Self {
        if let Ok(Value::Object(fields)) = serde_json::to_value(value) {
            self.fields.extend(fields);
        }
        self
    }

    /// Returns the line in the format of the log, with its line break.
    fn line(&self, escape: impl Fn(&str) -> String) -> Option<String> {
        if is_json() {
            let line = json(self.level, self.event, &self.message, &self.fields);
            return Some(format!("{line}\n"));
        }
        self.text
            .as_deref()
            .map(|text| format!("{}\n", escape(text)))
    }

    /// Writes the note. `escape` makes its text safe for a terminal.
    pub(crate) fn write(&self, escape: impl Fn(&str) -> String) {
        if let Some(line) = self.line(escape) {
            let _ = write(line.as_bytes());
        }
    }

    /// Writes the note without the screen, whose lock the panicking thread may hold.
    pub(crate) fn write_in_a_panic(&self, escape: impl Fn(&str) -> String) {
        if let Some(line) = self.line(escape) {
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_a_text_tells_its_level() {
        for (text, level, event, message) in [
            ("error: no", Level::ERROR, "error", "no"),
            ("warning: hm", Level::WARN, "log", "hm"),
            ("note: so", Level::INFO, "log", "so"),
            ("failed: s3://a/b", Level::ERROR, "log", "failed: s3://a/b"),
            ("3 compared", Level::INFO, "log", "3 compared"),
        ] {
            let note = Note::of_text(text);
            assert_eq!(
                (
                    note.level,
                    note.event,
                    note.message.as_str(),
                    note.text.as_deref()
                ),
                (level, event, message, Some(text))
            );
        }
    }

    #[test]
    fn a_field_cannot_take_the_place_of_a_common_one() {
        let note = Note::new(Level::INFO, "x", "said\u{1b}\n")
            .with("message", 1)
            .with("objects", 2);
        let line = json(note.level, note.event, &note.message, &note.fields);
        assert!(!line.contains(['\u{1b}', '\n']), "{line}");
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["message"], "said\u{1b}\n");
        assert_eq!(
            (&line["message_"], &line["objects"]),
            (&1.into(), &2.into())
        );
        assert!(line["time"].as_str().unwrap().parse::<Timestamp>().is_ok());
    }
}
