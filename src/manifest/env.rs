//! Replaces `${NAME}` in values.
//!
//! The replacement happens after the YAML is parsed: a variable cannot add fields, and its value is
//! not expanded again. Defaults (`${NAME:-x}`) are not supported, because a manifest in git should
//! show its meaning, and an unset variable is a deployment error.

/// The reasons why a `${…}` cannot be replaced, with the text to underline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum VariableMistake {
    /// No variable of that name is set.
    Unset(String),
    /// The text between the braces is not a name, or the brace is never closed.
    Malformed(String),
}

impl VariableMistake {
    /// Returns the text to find and underline in the source.
    pub(super) fn needle(&self) -> String {
        match self {
            Self::Unset(name) => format!("${{{name}}}"),
            Self::Malformed(inside) => format!("${{{inside}"),
        }
    }
}

/// Replaces every `${NAME}` in `raw` and turns `$${` into `${`. Also returns the mistakes.
pub(super) fn substitute(
    raw: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> (String, Vec<VariableMistake>) {
    let mut out = String::with_capacity(raw.len());
    let mut mistakes = Vec::new();
    let mut rest = raw;
    while let Some(dollar) = rest.find("${") {
        if let Some(before) = rest[..dollar].strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &rest[dollar + 2..];
            continue;
        }
        out.push_str(&rest[..dollar]);
        let inside = &rest[dollar + 2..];
        let (name, after) = inside.split_once('}').unwrap_or((inside, ""));
        let closed = name.len() < inside.len();
        match env(name) {
            _ if !closed || !is_name(name) => {
                mistakes.push(VariableMistake::Malformed(name.to_owned()));
            }
            Some(value) => out.push_str(&value),
            None => mistakes.push(VariableMistake::Unset(name.to_owned())),
        }
        rest = after;
    }
    out.push_str(rest);
    (out, mistakes)
}

/// Returns true if this is a valid name of an environment variable.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("${B}".to_owned()),
            "B" => Some("b".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once_and_escapes_stay() {
        for (raw, result) in [
            ("plain $ text $B", "plain $ text $B"),
            ("x${B}y${B}", "xbyb"),
            ("${A}", "${B}"),
            ("${EMPTY}", ""),
            ("$${B}", "${B}"),
            ("$$${B}", "$${B}"),
            ("ü${B}ü", "übü"),
        ] {
            assert_eq!(substitute(raw, &env), (result.to_owned(), vec![]), "{raw}");
        }
    }

    #[test]
    fn what_is_missing_or_no_name_is_told() {
        let (text, mistakes) = substitute("a${NO}b${B}${}c${A:-x}${1}${open", &env);
        assert_eq!(text, "abbc");
        let malformed = |inside: &str| VariableMistake::Malformed(inside.to_owned());
        let expected = [
            VariableMistake::Unset("NO".to_owned()),
            malformed(""),
            malformed("A:-x"),
            malformed("1"),
            malformed("open"),
        ];
        assert_eq!(mistakes, expected);
        assert_eq!(mistakes[2].needle(), "${A:-x");
    }
}
