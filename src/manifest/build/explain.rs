//! Messages and remedies for texts that cannot be parsed, by kind of error.

use super::super::job::FailureLimitError;
use super::super::keys::{GlobError, TemplateError};
use super::super::moment::MomentError;
use crate::location::LocationError;
use crate::size::SizeError;

/// An error that can be split into a message and a remedy.
pub(super) trait Explain {
    fn explain(&self) -> (String, String);
}

impl Explain for SizeError {
    fn explain(&self) -> (String, String) {
        match self {
            Self::NotANumber(text) => (
                format!("`{text}` is not a size"),
                "write a number and a unit, for instance 64MiB".to_owned(),
            ),
            Self::Unit { text, suggestion } => (
                format!("`{text}` has no binary unit"),
                format!("write {suggestion}"),
            ),
            Self::OutOfRange(_) => (
                self.to_string(),
                "write a smaller size, or one in whole bytes".to_owned(),
            ),
            Self::Duration(text) => (
                format!("`{text}` is not a duration"),
                "write for instance 30s, 15m or 2h".to_owned(),
            ),
        }
    }
}

impl Explain for FailureLimitError {
    fn explain(&self) -> (String, String) {
        let message = format!(
            "`{}` is neither a number of objects nor a percentage below 100%",
            self.0
        );
        (message, "write for instance 100 or 5%".to_owned())
    }
}

impl Explain for LocationError {
    fn explain(&self) -> (String, String) {
        match self {
            Self::NotS3(text) => (
                format!("`{text}` is not an S3 location"),
                self.remedy().unwrap_or_default(),
            ),
            Self::Bucket { name, reason } => (
                format!("`{name}` is not a bucket name: {reason}"),
                "write s3://bucket/key".to_owned(),
            ),
            Self::KeyTooLong(_) => (self.to_string(), "write a shorter key".to_owned()),
        }
    }
}

impl Explain for MomentError {
    fn explain(&self) -> (String, String) {
        (
            format!("`{}` is not a point in time", self.text),
            self.remedy.to_owned(),
        )
    }
}

impl Explain for GlobError {
    fn explain(&self) -> (String, String) {
        let remedy = match self {
            Self::Empty => "write `**` for all keys, or remove it".to_owned(),
            Self::Anchored(text) => {
                let key = match text.strip_prefix("s3://") {
                    Some(rest) => rest.split_once('/').map_or("", |(_, key)| key),
                    None => text,
                };
                match key.trim_start_matches(['.', '/']) {
                    "" => "write `**` for all keys, or remove it".to_owned(),
                    relative => format!("write it from there, for instance `{relative}`"),
                }
            }
            Self::Directory(text) => {
                let dir = text.trim_end_matches(['*', '/']);
                let below = if dir.is_empty() {
                    "**".to_owned()
                } else {
                    format!("{dir}/**")
                };
                format!(
                    "write `{below}` for everything below it, or `**/*/` for all marker objects"
                )
            }
            Self::Syntax { .. } => {
                "put a `\\` before a character that stands for itself".to_owned()
            }
        };
        (self.to_string(), remedy)
    }
}

impl Explain for TemplateError {
    fn explain(&self) -> (String, String) {
        let remedy = match self {
            Self::Unknown(_) => {
                "there are {key}, {dir}, {name}, {stem}, {ext} and {size}".to_owned()
            }
            Self::Brace(brace) => format!("write `{brace}{brace}` for the character itself"),
            Self::Doubled { placeholder, mark } => {
                format!("leave out the `{mark}` next to {{{placeholder}}}")
            }
            Self::Adjacent(one, other) => {
                format!("write something between them, for instance `{{{one}}}-{{{other}}}`")
            }
            Self::Collides(_) => {
                "use {key}, or {dir} with {name} or with {stem} and {ext}".to_owned()
            }
        };
        (self.to_string(), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::keys::KeyGlob;

    #[test]
    fn a_pattern_that_names_the_whole_key_is_shortened_to_what_may_match() {
        for (text, remedy) in [
            (
                "s3://lake/events/*.gz",
                "write it from there, for instance `events/*.gz`",
            ),
            ("./a", "write it from there, for instance `a`"),
            ("/a/**", "write it from there, for instance `a/**`"),
            ("/", "write `**` for all keys, or remove it"),
            ("s3://lake", "write `**` for all keys, or remove it"),
        ] {
            let error = text.parse::<KeyGlob>().unwrap_err();
            assert_eq!(error.explain().1, remedy, "{text}");
        }
    }
}
