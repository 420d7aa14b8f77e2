//! Writes the events of the log as lines of JSON.

use std::fmt::Debug;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::line::{self, PLAIN_EVENT};

/// Writes each event as one line of JSON.
#[derive(Debug)]
pub(super) struct JsonLines;

impl<S: Subscriber> Layer<S> for JsonLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let target = metadata.target().into();
        fields.others.insert("target".to_owned(), target);
        let line = line::json(
            *metadata.level(),
            name(metadata),
            &fields.message,
            &fields.others,
        );
        let _ = line::write(format!("{line}\n").as_bytes());
    }
}

/// Returns the name that s3haul gave to an event, or a general one. `tracing` names all other
/// events after their file and line.
fn name(metadata: &Metadata<'static>) -> &'static str {
    let is_ours = metadata.target().starts_with("s3haul");
    match metadata.name() {
        name if is_ours && !name.contains(' ') => name,
        _ => PLAIN_EVENT,
    }
}

/// The fields of an event.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.others.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = super::spoken(text);
        } else {
            self.add(field, text);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}
