//! Fault rules in JSON: conversion to [`Fault`]s and back.
//!
//! Rules are parsed by hand and not with serde, so that an error names the path of the wrong field:
//! `rules[1].effect.answer.status: 99 is not a status from 200 to 599`.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Map, Value, json};

use super::faults::{Effect, Fault, Rule, When};
use super::operation::Operation;

/// The fields of a rule.
const FIELDS: &[&str] = &[
    "operation",
    "bucket",
    "key",
    "prefix",
    "access_key",
    "token",
    "nth",
    "every",
    "probability",
    "seed",
    "count",
    "from",
    "for",
    "effect",
];

/// The effects that are a single word.
const WORDS: &[(&str, Effect)] = &[
    ("throttle", Effect::SlowDown),
    ("expire", Effect::Error(400, "ExpiredToken")),
    ("revoke", Effect::Error(400, "InvalidToken")),
    ("freeze", Effect::StallBefore(None)),
    ("truncate", Effect::TruncateBody),
];

/// The effects that are an object with one field.
const OBJECTS: &[&str] = &["answer", "delay", "close", "reset", "freeze", "skew"];

/// Parses one rule or a list of rules. If one is wrong, none is accepted.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Fault>, String> {
    let value: Value =
        serde_json::from_slice(text).map_err(|error| format!("this is not JSON: {error}"))?;
    match &value {
        Value::Array(rules) => {
            let numbered = rules.iter().enumerate();
            numbered
                .map(|(number, rule)| fault(&format!("rules[{number}]"), rule))
                .collect()
        }
        rule => Ok(vec![fault("rule", rule)?]),
    }
}

/// A JSON object whose fields are read one by one, and its path in the document.
struct RuleFields<'a> {
    at: String,
    map: &'a Map<String, Value>,
}

impl<'a> RuleFields<'a> {
    fn of(at: &str, value: &'a Value, known: &[&str]) -> Result<Self, String> {
        let Value::Object(map) = value else {
            return Err(format!("{at}: {value} is not an object"));
        };
        if let Some(unknown) = map.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(format!(
                "{at}.{unknown}: there is no such field; the fields are {}",
                known.join(", ")
            ));
        }
        Ok(Self {
            at: at.to_owned(),
            map,
        })
    }

    /// Returns the message for an error in a field.
    fn error(&self, name: &str, what: impl Display) -> String {
        format!("{}.{name}: {what}", self.at)
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        let text = |value: &'a Value| {
            value
                .as_str()
                .ok_or_else(|| self.error(name, format!("{value} is not a string")))
        };
        self.map.get(name).map(text).transpose()
    }

    fn owned(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.text(name)?.map(str::to_owned))
    }

    /// Returns a number that is at least `least`.
    fn number(&self, name: &str, least: u64) -> Result<Option<u64>, String> {
        let number = |value: &Value| {
            let number = value.as_u64().filter(|number| *number >= least);
            number.ok_or_else(|| {
                self.error(
                    name,
                    format!("{value} is not a whole number of {least} or more"),
                )
            })
        };
        self.map.get(name).map(number).transpose()
    }

    fn duration(&self, name: &str) -> Result<Option<Duration>, String> {
        let duration = |text: &str| parse_duration(text).map_err(|error| self.error(name, error));
        self.text(name)?.map(duration).transpose()
    }

    /// Refuses a field that is present together with one of `others`.
    fn refuse_combination(&self, name: &str, others: &[&str]) -> Result<(), String> {
        match others.iter().find(|other| self.map.contains_key(**other)) {
            Some(other) if self.map.contains_key(name) => {
                Err(self.error(name, format!("it cannot be combined with `{other}`")))
            }
            _ => Ok(()),
        }
    }
}

fn fault(at: &str, rule: &Value) -> Result<Fault, String> {
    let fields = RuleFields::of(at, rule, FIELDS)?;
    let Some(said) = fields.map.get("effect") else {
        return Err(fields.error("effect", "it is missing; write the effect on the calls"));
    };
    Ok(Fault {
        on: operations(&fields)?,
        bucket: fields.owned("bucket")?,
        key: fields.owned("key")?,
        prefix: fields.owned("prefix")?,
        access_key: fields.owned("access_key")?,
        token: fields.owned("token")?,
        when: when(&fields)?,
        count: fields.number("count", 1)?,
        from: fields.duration("from")?.unwrap_or_default(),
        lasts: fields.duration("for")?,
        then: effect(&format!("{at}.effect"), said)?,
    })
}

/// Returns the operations of a rule: one name or a list of names.
fn operations(fields: &RuleFields<'_>) -> Result<Vec<Operation>, String> {
    let Some(said) = fields.map.get("operation") else {
        return Ok(Vec::new());
    };
    let names = match said {
        Value::Array(names) => names.as_slice(),
        name => std::slice::from_ref(name),
    };
    let operation = |name: &Value| {
        let known = Operation::ALL
            .into_iter()
            .find(|operation| name == operation.name());
        known.ok_or_else(|| {
            let what = "is not an operation that the sandbox supports; write its name as S3 does, for instance UploadPartCopy";
            fields.error("operation", format!("{name} {what}"))
        })
    };
    if names.is_empty() {
        return Err(fields.error(
            "operation",
            "the list is empty; leave it out for all operations",
        ));
    }
    names.iter().map(operation).collect()
}

fn when(fields: &RuleFields<'_>) -> Result<When, String> {
    fields.refuse_combination("nth", &["every", "probability", "count"])?;
    fields.refuse_combination("every", &["probability"])?;
    if fields.map.contains_key("seed") && !fields.map.contains_key("probability") {
        return Err(fields.error("seed", "it needs `probability`"));
    }
    if let Some(nth) = fields.number("nth", 1)? {
        return Ok(When::Nth(nth));
    }
    if let Some(every) = fields.number("every", 1)? {
        return Ok(When::Every(every));
    }
    let Some(said) = fields.map.get("probability") else {
        return Ok(When::Always);
    };
    let probability = said
        .as_f64()
        .filter(|probability| (0.0..=1.0).contains(probability));
    let probability = probability.ok_or_else(|| {
        fields.error("probability", format!("{said} is not a number from 0 to 1"))
    })?;
    Ok(When::Chance(
        probability,
        fields.number("seed", 0)?.unwrap_or_default(),
    ))
}

fn effect(at: &str, said: &Value) -> Result<Effect, String> {
    if let Value::String(word) = said {
        let known = WORDS
            .iter()
            .find(|(name, _)| name == word)
            .map(|(_, effect)| effect.clone());
        return known.ok_or_else(|| format!("{at}: there is no effect `{word}`; {}", effects()));
    }
    let fields =
        RuleFields::of(at, said, OBJECTS).map_err(|error| format!("{error}; {}", effects()))?;
    let mut named = fields.map.iter();
    let (Some((name, value)), None) = (named.next(), named.next()) else {
        return Err(format!("{at}: it must name one effect; {}", effects()));
    };
    match name.as_str() {
        "answer" => answer(&format!("{at}.answer"), value),
        "delay" => Ok(Effect::Delay(fields.duration(name)?.unwrap_or_default())),
        "skew" => skew(&fields),
        "close" => Ok(if is_before(&fields, name)? {
            Effect::ResetBefore
        } else {
            Effect::ResetAfter
        }),
        "reset" => Ok(if is_before(&fields, name)? {
            Effect::RstBefore
        } else {
            Effect::RstAfter
        }),
        _ => Ok(if is_before(&fields, name)? {
            Effect::StallBefore(None)
        } else {
            Effect::StallAfter(None)
        }),
    }
}

/// Lists the names of all effects.
fn effects() -> String {
    let words: Vec<_> = WORDS.iter().map(|(name, _)| *name).collect();
    let objects: Vec<_> = OBJECTS
        .iter()
        .map(|name| format!("{{\"{name}\": …}}"))
        .collect();
    format!(
        "the effects are {}, and {}",
        words.join(", "),
        objects.join(", ")
    )
}

/// Returns true if the effect comes before the operation, false if after it.
fn is_before(fields: &RuleFields<'_>, name: &str) -> Result<bool, String> {
    match fields.text(name)? {
        Some("before") => Ok(true),
        Some("after") => Ok(false),
        other => Err(fields.error(
            name,
            format!(
                "`{}` is neither `before` nor `after` the operation",
                other.unwrap_or_default()
            ),
        )),
    }
}

/// Parses the skew of a clock: `-20m` is slow, `20m` and `+20m` are fast.
fn skew(fields: &RuleFields<'_>) -> Result<Effect, String> {
    let text = fields.text("skew")?.unwrap_or_default();
    parse_signed(text.strip_prefix('+').unwrap_or(text))
        .map(Effect::Skew)
        .map_err(|error| fields.error("skew", error))
}

/// Parses a duration such as `90s`, `1m 30s`, or `-20m`.
fn parse_signed(text: &str) -> Result<SignedDuration, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not a duration; write 500ms, 90s, or 1h 30m"))
}

/// Parses a duration that is not negative.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let length = parse_signed(text)?;
    Duration::try_from(length).map_err(|_| format!("`{text}` is negative"))
}

fn answer(at: &str, value: &Value) -> Result<Effect, String> {
    let fields = RuleFields::of(at, value, &["status", "code", "when"])?;
    let Some(said) = fields.number("status", 0)? else {
        return Err(fields.error("status", "it is missing"));
    };
    let status = u16::try_from(said)
        .ok()
        .filter(|status| (200..600).contains(status));
    let status = status
        .ok_or_else(|| fields.error("status", format!("{said} is not a status from 200 to 599")))?;
    let Some(code) = fields.text("code")? else {
        return Err(fields.error(
            "code",
            "it is missing; write an error code of S3, for instance AccessDenied",
        ));
    };
    let is_plain = !code.is_empty()
        && code.len() <= 100
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_plain {
        return Err(fields.error(
            "code",
            format!("`{code}` is not an error code; use letters and digits"),
        ));
    }
    let code = interned(code);
    let is_after = fields.map.contains_key("when") && !is_before(&fields, "when")?;
    Ok(match (status, is_after) {
        (200..300, after_effect) => Effect::ErrorIn200 {
            code,
            after_effect,
            blanks: 0,
        },
        (status, false) => Effect::Error(status, code),
        (status, true) => Effect::ErrorAfterEffect(status, code),
    })
}

/// Returns a copy of the code that lives as long as the process. Each distinct code is leaked once.
fn interned(code: &str) -> &'static str {
    static CODES: OnceLock<Mutex<HashSet<&'static str>>> = OnceLock::new();
    let mut codes = CODES
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = codes.get(code) {
        return known;
    }
    let kept: &'static str = Box::leak(code.into());
    codes.insert(kept);
    kept
}

/// Returns a rule in the format that [`parse`] reads, with its number and its counts.
pub(super) fn show(rule: &Rule) -> Value {
    let Fault {
        on,
        bucket,
        key,
        prefix,
        access_key,
        token,
        when,
        count,
        from,
        lasts,
        then,
    } = &rule.fault;
    let mut shown = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shown.insert(name.to_owned(), value);
        }
    };
    let names: Vec<_> = on.iter().map(|operation| operation.name()).collect();
    put("id", Some(rule.id.into()));
    put("operation", (!names.is_empty()).then(|| json!(names)));
    for (name, text) in [
        ("bucket", bucket),
        ("key", key),
        ("prefix", prefix),
        ("access_key", access_key),
        ("token", token),
    ] {
        put(name, text.clone().map(Value::from));
    }
    let mut count = *count;
    match *when {
        When::Always => {}
        When::Nth(n) => put("nth", Some(n.into())),
        When::Every(n) => put("every", Some(n.into())),
        When::After(n) => put("after", Some(n.into())),
        When::First(n) => count = Some(count.map_or(n, |count| count.min(n))),
        When::Chance(probability, seed) => {
            put("probability", Some(probability.into()));
            put("seed", Some(seed.into()));
        }
    }
    put("count", count.map(Value::from));
    put("from", (!from.is_zero()).then(|| written(*from)));
    put("for", lasts.map(written));
    put("effect", Some(show_effect(then)));
    put("matched", Some(rule.counts.matched.into()));
    put("struck", Some(rule.counts.struck.into()));
    Value::Object(shown)
}

fn written(time: Duration) -> Value {
    let time = SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
    format!("{time:#}").into()
}

fn show_effect(effect: &Effect) -> Value {
    match effect {
        Effect::SlowDown => "throttle".into(),
        Effect::TruncateBody => "truncate".into(),
        Effect::Error(status, code) => json!({ "answer": { "status": status, "code": code } }),
        Effect::ErrorAfterEffect(status, code) => {
            json!({ "answer": { "status": status, "code": code, "when": "after" } })
        }
        Effect::ErrorIn200 {
            code, after_effect, ..
        } => {
            let when = if *after_effect { "after" } else { "before" };
            json!({ "answer": { "status": 200, "code": code, "when": when } })
        }
        Effect::Delay(time) => json!({ "delay": written(*time) }),
        Effect::Skew(offset) => {
            let sign = if offset.is_negative() { "-" } else { "" };
            json!({ "skew": format!("{sign}{:#}", offset.abs()) })
        }
        Effect::ResetBefore => json!({ "close": "before" }),
        Effect::ResetAfter => json!({ "close": "after" }),
        Effect::RstBefore => json!({ "reset": "before" }),
        Effect::RstAfter => json!({ "reset": "after" }),
        Effect::StallBefore(None) => json!({ "freeze": "before" }),
        Effect::StallAfter(None) => json!({ "freeze": "after" }),
        // Only tests in this process can arm the other effects.
        other => format!("{other:?}").into(),
    }
}

#[cfg(test)]
mod tests;
