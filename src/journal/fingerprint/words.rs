//! Formats a setting for a message about its change.

/// Returns the text of a setting for a message. A group of values is recorded as
/// `Name { field: value }`. The message shows only the fields that are set.
pub(super) fn shown(text: &str) -> String {
    let Some((name, fields)) = text
        .strip_suffix(" }")
        .and_then(|text| text.split_once(" { "))
    else {
        return text.to_owned();
    };
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return text.to_owned();
    }
    let set: Vec<_> = fields_of(fields)
        .into_iter()
        .filter(|field| {
            ![": None", ": none", ": {}", ": []"]
                .iter()
                .any(|empty| field.ends_with(empty))
        })
        .map(|field| match field.split_once(": Some(") {
            Some((name, value)) => format!("{name}: {}", value.strip_suffix(')').unwrap_or(value)),
            None => field.to_owned(),
        })
        .collect();
    format!("({})", set.join(", "))
}

/// Splits `a: {"x": "y"}, b: None` into its fields.
fn fields_of(text: &str) -> Vec<&str> {
    let (mut fields, mut depth, mut start) = (Vec::new(), 0_u32, 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                fields.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    fields.push(text[start..].trim());
    fields
}
