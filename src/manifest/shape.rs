//! Checks the tree of a manifest against the schema: names of fields, types of values, and required
//! fields.
//!
//! A value with a mistake is reported and dropped, so that later stages can still check the rest.
//! The result is a YAML value that fits [`ManifestFile`](super::file::ManifestFile), with the
//! position of each field in the file.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Map, Value};
use serde_yaml::{Mapping, Value as Yaml};

use super::diagnose::MistakeAt;
use super::env::is_name;
use super::node::{MapEntry, Node, NodeKind};
use crate::printable::joined;

/// The tree of a manifest without the refused parts.
pub(super) struct Shaped {
    /// The value, which fits the schema except that fields may be missing.
    pub value: Yaml,
    /// The text to underline for a semantic mistake in a field, by the path of the field.
    pub places: BTreeMap<String, Range<usize>>,
    /// The mistakes found.
    pub mistakes: Vec<MistakeAt>,
    /// The parts of the text that must never be shown.
    pub secrets: Vec<Range<usize>>,
}

/// Checks `root` against `schema`.
pub(super) fn check(root: &Node, schema: &Value) -> Shaped {
    let mut shape = Shape {
        schema,
        places: BTreeMap::new(),
        mistakes: Vec::new(),
        secrets: Vec::new(),
        path: String::new(),
    };
    let value = shape
        .value(root, schema, &root.at)
        .unwrap_or_else(|| Yaml::Mapping(Mapping::new()));
    Shaped {
        value,
        places: shape.places,
        mistakes: shape.mistakes,
        secrets: shape.secrets,
    }
}

/// Returns the candidate that the user probably meant by `typed`.
pub(super) fn closest<'c>(
    typed: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let typed = fold(typed);
    let allowed = (typed.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&typed, &fold(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Joins the choices with commas and `or`.
pub(super) fn alternatives<'c>(choices: impl IntoIterator<Item = &'c str>) -> String {
    joined(choices, "or")
}

struct Shape<'s> {
    schema: &'s Value,
    places: BTreeMap<String, Range<usize>>,
    mistakes: Vec<MistakeAt>,
    secrets: Vec<Range<usize>>,
    path: String,
}

impl<'s> Shape<'s> {
    /// Returns the value of `node`, or `None` if the value does not fit the schema. `at` is the
    /// text to underline.
    fn value(&mut self, node: &Node, schema: &'s Value, at: &Range<usize>) -> Option<Yaml> {
        self.places.insert(self.path.clone(), at.clone());
        if matches!(node.kind, NodeKind::Refused) {
            return None;
        }
        self.hide_customer_key(node);
        if node.is_null() {
            let message = format!("{} has no value", self.subject());
            self.refuse(at, message, "give it one, or remove the line");
            return None;
        }
        let field = schema;
        let schema = self.pick(node, field);
        match (kind_of(schema), &node.kind) {
            ("object", NodeKind::Map(entries)) => Some(self.object(entries, schema, at)),
            ("array", NodeKind::List(items)) => {
                if items.is_empty() && schema.get("minItems").is_some() {
                    let message = format!("{} is empty", self.subject());
                    self.refuse(
                        at,
                        message,
                        format!("write for instance {}", example(self.last(), field)),
                    );
                }
                Some(self.array(items, schema))
            }
            ("string", NodeKind::Scalar { text, .. }) => self.string(text, schema, at),
            ("integer", NodeKind::Scalar { text, bare }) => self.integer(text, *bare, schema, at),
            ("boolean", NodeKind::Scalar { text, bare }) => self.boolean(text, *bare, at),
            _ => {
                self.wrong_kind(node, schema, field, at);
                None
            }
        }
    }

    /// Hides the text of a `customer_key` field, because a user may have written the key itself
    /// instead of its location.
    fn hide_customer_key(&mut self, node: &Node) {
        let NodeKind::Scalar { text, .. } = &node.kind else {
            return;
        };
        let is_key = match self.last() {
            "customer_key" => true,
            "env" => self.path.ends_with("customer_key.env") && !is_name(text),
            _ => false,
        };
        if is_key {
            self.secrets.push(node.extent());
        }
    }

    /// Follows references, and selects an alternative by the kind of the node.
    fn pick(&self, node: &Node, schema: &'s Value) -> &'s Value {
        let mut schema = schema;
        while let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            schema = self
                .schema
                .pointer(target.trim_start_matches('#'))
                .unwrap_or(&Value::Null);
        }
        let Some(choices) = schema.get("anyOf").and_then(Value::as_array) else {
            return schema;
        };
        let wants_object = matches!(node.kind, NodeKind::Map(_));
        let mut resolved = choices.iter().map(|choice| self.pick(node, choice));
        resolved
            .find(|choice| (kind_of(choice) == "object") == wants_object)
            .unwrap_or(schema)
    }

    fn object(&mut self, entries: &[MapEntry], schema: &'s Value, at: &Range<usize>) -> Yaml {
        let properties = schema.get("properties").and_then(Value::as_object);
        let any = schema
            .get("additionalProperties")
            .filter(|any| any.is_object());
        let mut out = Mapping::new();
        let mut meant = Vec::new();
        let base = self.path.len();
        for entry in entries {
            if base > 0 {
                self.path.push('.');
            }
            self.path.push_str(&entry.key);
            let known = properties
                .and_then(|properties| properties.get(&entry.key))
                .or(any);
            match known {
                Some(schema) => {
                    let underline = match entry.value.kind {
                        NodeKind::Map(_) | NodeKind::List(_) => &entry.key_at,
                        NodeKind::Scalar { .. } | NodeKind::Refused => &entry.value.at,
                    };
                    let value = self.value(&entry.value, schema, underline);
                    let or_empty = || any.and_then(|_| self.empty_entry(&entry.value, schema));
                    if let Some(value) = value.or_else(or_empty) {
                        out.insert(Yaml::from(entry.key.as_str()), value);
                    }
                }
                None => meant.extend(self.unknown(entry, properties)),
            }
            self.path.truncate(base);
        }
        let required = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        for name in required.filter_map(Value::as_str) {
            let there = entries.iter().any(|entry| entry.key == name) || meant.contains(&name);
            if let (false, Some(field)) = (
                there,
                properties.and_then(|properties| properties.get(name)),
            ) {
                let message = format!("{} has no `{name}`", self.subject());
                self.refuse(at, message, format!("add {}", example(name, field)));
            }
        }
        Yaml::Mapping(out)
    }

    /// Returns an empty entry to replace an entry of `endpoints` or a list item that does not fit.
    /// Otherwise every use of the endpoint would be reported as a mistake too.
    fn empty_entry(&self, node: &Node, schema: &'s Value) -> Option<Yaml> {
        (kind_of(self.pick(node, schema)) == "object").then(|| Yaml::Mapping(Mapping::new()))
    }

    /// Reports an unknown field, and returns the field that the user probably meant.
    fn unknown(
        &mut self,
        entry: &MapEntry,
        known: Option<&'s Map<String, Value>>,
    ) -> Option<&'s str> {
        let name = entry.key.as_str();
        if self.path.ends_with(&format!("customer_key.{name}")) {
            self.secrets.push(entry.value.extent());
        } else if is_secret(name) {
            self.secrets.push(entry.value.extent());
            let remedy = "use `profile:` or `assume_role:`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            self.refuse(
                &entry.key_at,
                format!("`{name}`: secrets do not belong in a manifest"),
                remedy,
            );
            return None;
        }
        let names = || known.into_iter().flat_map(Map::keys).map(String::as_str);
        let meant = closest(name, names());
        let sections = sections_with_field(self.schema, name);
        let remedy = match (meant, sections.as_slice()) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, []) => format!(
                "the fields here are {}",
                names().collect::<Vec<_>>().join(", ")
            ),
            (None, sections) => {
                format!(
                    "it belongs under {}",
                    alternatives(sections.iter().map(String::as_str))
                )
            }
        };
        self.refuse(
            &entry.key_at,
            format!("there is no field `{name}` here"),
            remedy,
        );
        meant
    }

    fn array(&mut self, items: &[Node], schema: &'s Value) -> Yaml {
        let element = schema.get("items").unwrap_or(&Value::Null);
        let mut out = Vec::new();
        let base = self.path.len();
        for node in items {
            // Count only the items that are kept, so that the index matches the paths of the parsed
            // manifest.
            self.path.extend(["[", &out.len().to_string(), "]"]);
            let value = self.value(node, element, &node.at);
            out.extend(value.or_else(|| self.empty_entry(node, element)));
            self.path.truncate(base);
        }
        Yaml::Sequence(out)
    }

    fn string(&mut self, text: &str, schema: &Value, at: &Range<usize>) -> Option<Yaml> {
        let choices = choices(schema);
        if choices.is_empty() || choices.contains(&text) {
            return Some(Yaml::from(text));
        }
        let message = format!("{} cannot be `{text}`", self.subject());
        let remedy = match closest(text, choices.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write {}", alternatives(choices)),
        };
        self.refuse(at, message, remedy);
        None
    }

    fn integer(
        &mut self,
        text: &str,
        bare: bool,
        schema: &Value,
        at: &Range<usize>,
    ) -> Option<Yaml> {
        let number = text
            .parse::<u64>()
            .ok()
            .filter(|number| bare && number.to_string() == text);
        let bound = |name| schema.get(name).and_then(Value::as_u64);
        let fits = |number: &u64| {
            bound("minimum").is_none_or(|least| *number >= least)
                && bound("maximum").is_none_or(|most| *number <= most)
                && bound("const").is_none_or(|only| *number == only)
        };
        if let Some(number) = number.filter(fits) {
            return Some(Yaml::from(number));
        }
        let message = match number {
            Some(_) => format!("{} cannot be {text}", self.subject()),
            None => format!("{} must be a whole number", self.subject()),
        };
        let digits: String = text
            .chars()
            .filter(|c| !matches!(c, '_' | ',' | ' '))
            .collect();
        let remedy = match (bound("const"), digits.parse::<u64>()) {
            (Some(only), _) => format!("write {only}"),
            (None, Ok(meant)) if fits(&meant) => {
                format!("write {meant}, in digits and without quotes")
            }
            _ => match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("write a number from {least} to {most}"),
                (Some(least @ 1..), None) => format!("write a number of at least {least}"),
                _ => "write it in digits, without quotes".to_owned(),
            },
        };
        self.refuse(at, message, remedy);
        None
    }

    fn boolean(&mut self, text: &str, bare: bool, at: &Range<usize>) -> Option<Yaml> {
        match text {
            "true" if bare => return Some(Yaml::Bool(true)),
            "false" if bare => return Some(Yaml::Bool(false)),
            _ => {}
        }
        let remedy = match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" | "y" => "write true, without quotes",
            "false" | "no" | "off" | "0" | "n" => "write false, without quotes",
            _ => "write true or false",
        };
        let message = format!("{} must be true or false", self.subject());
        self.refuse(at, message, remedy);
        None
    }

    fn wrong_kind(&mut self, node: &Node, schema: &Value, field: &Value, at: &Range<usize>) {
        let wanted = match kind_of(schema) {
            "object" => "must contain fields",
            "array" => "must be a list",
            "integer" => "must be a whole number",
            "boolean" => "must be true or false",
            _ => "must be one value",
        };
        let found = match node.kind {
            NodeKind::Map(_) => "fields",
            NodeKind::List(_) => "a list",
            NodeKind::Scalar { .. } | NodeKind::Refused => "text",
        };
        let name = self.last();
        let remedy = match (kind_of(schema), name.ends_with(']')) {
            ("object", true) => "begin it with a field, as in `- name: value`".to_owned(),
            _ => match location_field(name, node) {
                Some(meant) => format!("write `{name}: {meant}`"),
                None => format!("write for instance {}", example(name, field)),
            },
        };
        self.refuse(
            at,
            format!("{} {wanted}, not {found}", self.subject()),
            remedy,
        );
    }

    /// Returns the last field of the path.
    fn last(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    fn subject(&self) -> String {
        match self.last() {
            "" => "the manifest".to_owned(),
            name => format!("`{name}`"),
        }
    }

    fn refuse(&mut self, at: &Range<usize>, message: String, remedy: impl Into<String>) {
        let mistake = MistakeAt {
            at: at.clone(),
            path: self.path.clone(),
            message,
            remedy: remedy.into(),
        };
        self.mistakes.push(mistake);
    }
}

/// Returns the schema's type; enumerations count as strings.
fn kind_of(schema: &Value) -> &str {
    match schema.get("type").and_then(Value::as_str) {
        Some(kind) => kind,
        None if schema.get("oneOf").is_some() || schema.get("enum").is_some() => "string",
        None => "",
    }
}

/// Returns the values that an enumeration allows, or nothing if any text is allowed.
fn choices(schema: &Value) -> Vec<&str> {
    let direct = schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let described = schema
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let constants = described.filter_map(|choice| choice.get("const"));
    direct.chain(constants).filter_map(Value::as_str).collect()
}

/// Returns the paths of the sections in the schema that contain a field of this name, such as
/// `transfers[].from`.
fn sections_with_field(root: &Value, name: &str) -> Vec<String> {
    fn walk(root: &Value, schema: &Value, path: &str, name: &str, found: &mut Vec<String>) {
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = root
                .pointer(target.trim_start_matches('#'))
                .unwrap_or(&Value::Null);
            return walk(root, target, path, name, found);
        }
        for (field, below) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if field == name {
                found.push(if path.is_empty() {
                    "the top level".to_owned()
                } else {
                    format!("`{path}`")
                });
            }
            let dot = if path.is_empty() { "" } else { "." };
            walk(root, below, &format!("{path}{dot}{field}"), name, found);
        }
        if let Some(below) = schema.get("items") {
            walk(root, below, &format!("{path}[]"), name, found);
        }
        if let Some(below) = schema
            .get("additionalProperties")
            .filter(|below| below.is_object())
        {
            walk(root, below, &format!("{path}.<name>"), name, found);
        }
        for below in schema
            .get("anyOf")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            walk(root, below, path, name, found);
        }
    }
    let mut found = Vec::new();
    walk(root, root, "", name, &mut found);
    found
}

/// Returns the text of a location with the field that it belongs into.
fn location_field(name: &str, node: &Node) -> Option<String> {
    let NodeKind::Scalar { text, .. } = &node.kind else {
        return None;
    };
    let field = match name {
        "report" | "from" | "to" if text.starts_with("s3://") => "s3",
        "report" => "json",
        "from" => "files",
        _ => return None,
    };
    Some(format!(
        "{{{field}: {}}}",
        flow(&Value::from(text.as_str()))
    ))
}

/// Returns `name: value` with the field's first example or its default.
fn example(name: &str, field: &Value) -> String {
    let value = field
        .pointer("/examples/0")
        .or_else(|| field.get("default"));
    match value {
        Some(value) => format!("`{name}: {}`", flow(value)),
        None => format!("`{name}: …`"),
    }
}

/// Returns a value in YAML's flow style.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", flow(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(flow).collect::<Vec<_>>().join(", ")
        ),
        Value::String(text) if text.contains(['*', '{', '}', ',', '[', ']']) => {
            format!("\"{text}\"")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_secret(name: &str) -> bool {
    let name: String = name
        .to_ascii_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    [
        "secret",
        "password",
        "token",
        "accesskey",
        "credential",
        "privatekey",
    ]
    .iter()
    .any(|word| name.contains(word))
}
