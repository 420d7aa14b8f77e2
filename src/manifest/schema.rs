//! The manifest's JSON schema (draft 2020-12), for editors and for the check of a manifest's shape.

use std::sync::LazyLock;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use super::file::ManifestFile;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(tidy));
    settings
        .into_generator()
        .into_root_schema_for::<ManifestFile>()
        .to_value()
});

/// Returns the schema of [`ManifestFile`]: titles, descriptions, examples, and defaults. It allows
/// no other fields.
#[must_use]
pub fn json() -> Value {
    SCHEMA.clone()
}

/// Returns the schema without a copy.
pub(super) fn shared() -> &'static Value {
    &SCHEMA
}

/// Removes `null`, which schemars allows for an `Option`. A manifest does not allow it: a field
/// without a value is either an unfinished line or an unexpected default. Also joins the lines of
/// doc comments, because editors would show their line breaks.
fn tidy(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            object.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if let [Value::Object(only)] = choices.as_slice() {
            let only = only.clone();
            object.remove("anyOf");
            object.extend(only);
        }
    }
}
