//! Writes docs/manifest-fields.md from the schema: every field with its type, default, example, and
//! meaning.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use s3haul::manifest::schema;
use serde_json::Value;

use crate::readme::assert_page_has;

/// A mapping of the manifest, with all places where it may occur.
struct Section {
    schema: Value,
    paths: Vec<String>,
}

/// The sections of the manifest in the order in which they are visited, by the names of their
/// definitions.
struct Reference {
    root: Value,
    order: Vec<String>,
    sections: BTreeMap<String, Section>,
    /// The choices that have been explained.
    explained: Vec<String>,
}

impl Reference {
    fn new() -> Self {
        let root = serde_json::to_value(schema::json()).unwrap();
        let mut reference = Self {
            root: root.clone(),
            order: Vec::new(),
            sections: BTreeMap::new(),
            explained: Vec::new(),
        };
        reference.visit("", &root, "");
        reference
    }

    /// Returns the name and the schema behind a reference, or those of a mapping that is defined in
    /// place.
    fn definition(&self, schema: &Value) -> Option<(String, Value)> {
        if let (Some(_), Some(title)) = (schema.get("properties"), schema["title"].as_str()) {
            return Some((title.to_owned(), schema.clone()));
        }
        let name = schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")?;
        Some((name.to_owned(), self.root["$defs"][name].clone()))
    }

    /// Adds the section at `path`, and everything below it.
    fn visit(&mut self, name: &str, schema: &Value, path: &str) {
        if let Some(section) = self.sections.get_mut(name) {
            section.paths.push(path.to_owned());
            return;
        }
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            for choice in schema
                .get("anyOf")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                if let Some((name, schema)) = self.definition(choice) {
                    self.visit(&name, &schema, path);
                }
            }
            return;
        };
        self.order.push(name.to_owned());
        self.sections.insert(
            name.to_owned(),
            Section {
                schema: schema.clone(),
                paths: vec![path.to_owned()],
            },
        );
        for (field, schema) in properties {
            let path = if path.is_empty() {
                field.clone()
            } else {
                format!("{path}.{field}")
            };
            for (inner, path) in [
                (Some(schema), path.clone()),
                (schema.get("items"), format!("{path}[]")),
                (schema.get("additionalProperties"), format!("{path}.NAME")),
            ] {
                if let Some((name, schema)) = inner.and_then(|inner| self.definition(inner)) {
                    self.visit(&name, &schema, &path);
                }
            }
        }
    }

    /// Returns the type of a field in words.
    fn type_of(&self, schema: &Value) -> String {
        if let Some(title) = schema["title"]
            .as_str()
            .filter(|_| schema.get("properties").is_some())
        {
            return format!("[{title}](#{})", title.replace(' ', "-"));
        }
        if let Some((_, definition)) = self.definition(schema) {
            return self.type_of(&definition);
        }
        if let Some(constant) = schema.get("const") {
            return format!("`{constant}`");
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            return choices
                .iter()
                .map(|choice| self.type_of(choice))
                .collect::<Vec<_>>()
                .join(", or ");
        }
        if let Some(choices) = constants(schema) {
            return choices
                .iter()
                .map(|(name, _)| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", ");
        }
        match schema["type"].as_str() {
            Some("array") => format!("list of {}", self.type_of(&schema["items"])),
            Some("object") => format!(
                "names, each with {}",
                self.type_of(&schema["additionalProperties"])
            ),
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("integer") => "number".to_owned(),
            Some("string") => "text".to_owned(),
            _ if schema.get("type").is_some_and(Value::is_array) => "number or text".to_owned(),
            _ => panic!("a type without words: {schema}"),
        }
    }

    /// Writes the table of a section, and the meanings of its choices that have not been explained
    /// yet.
    fn write_section(&mut self, out: &mut String, name: &str) {
        let section = &self.sections[name].schema;
        let properties = section["properties"].as_object().unwrap().clone();
        let required: Vec<&str> = section["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        out.push_str("| field | type | default | example | meaning |\n|---|---|---|---|---|\n");
        for (field, schema) in &properties {
            let mark = if required.contains(&field.as_str()) {
                " (required)"
            } else {
                ""
            };
            let default = schema
                .get("default")
                .filter(|value| !value.is_null())
                .map_or(String::new(), code);
            let example = schema["examples"].get(0).map_or(String::new(), code);
            let meaning = schema["description"]
                .as_str()
                .unwrap()
                .replace('\n', " ")
                .replace('|', "\\|");
            writeln!(
                out,
                "| `{field}`{mark} | {} | {default} | {example} | {meaning} |",
                self.type_of(schema)
            )
            .unwrap();
        }
        for (field, schema) in &properties {
            let schema = schema.get("items").unwrap_or(schema);
            let Some((name, definition)) = self.definition(schema) else {
                continue;
            };
            let Some(choices) = constants(&definition) else {
                continue;
            };
            if self.explained.contains(&name) {
                continue;
            }
            self.explained.push(name);
            write!(out, "\n`{field}`:\n\n").unwrap();
            for (name, meaning) in choices {
                writeln!(out, "- `{name}`: {}", meaning.replace('\n', " ")).unwrap();
            }
        }
    }

    fn page(mut self) -> String {
        let mut out = String::new();
        for name in self.order.clone() {
            let section = &self.sections[&name];
            if !name.is_empty() {
                let title = section.schema["title"].as_str().unwrap();
                let paths = section
                    .paths
                    .iter()
                    .map(|path| format!("`{path}`"))
                    .collect::<Vec<_>>()
                    .join(", ");
                let text = section.schema["description"]
                    .as_str()
                    .unwrap()
                    .replace('\n', " ");
                write!(out, "\n## {title}\n\nAt {paths}. {text}\n\n").unwrap();
            }
            self.write_section(&mut out, &name);
        }
        out
    }
}

/// Returns the names and meanings of a schema that is a choice between constants.
fn constants(schema: &Value) -> Option<Vec<(String, String)>> {
    let choices = schema.get("oneOf")?.as_array()?.iter();
    choices
        .map(|choice| {
            Some((
                choice.get("const")?.as_str()?.to_owned(),
                choice["description"].as_str()?.to_owned(),
            ))
        })
        .collect()
}

/// Returns a value as one line of YAML, in code style.
fn code(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{}`", text.replace('|', "\\|")),
        other => format!("`{}`", flow(other).replace('|', "\\|")),
    }
}

/// Returns a value in YAML's flow style.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let fields = map
                .iter()
                .map(|(name, value)| format!("{name}: {}", flow(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(flow).collect::<Vec<_>>().join(", ")
            )
        }
        Value::String(text) if text.contains(['*', '{', '%', ' ']) => format!("\"{text}\""),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn the_page_of_fields_is_that_of_the_schema() {
    assert_page_has(
        "docs/manifest-fields.md",
        "fields",
        &Reference::new().page(),
    );
}
