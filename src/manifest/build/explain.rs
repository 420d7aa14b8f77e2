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
            // Only the caller knows the source's prefix.
            Self::Anchored(text) if text.starts_with("s3://") => {
                "leave out the bucket and the source's prefix".to_owned()
            }
            Self::Anchored(text) => match text.trim_start_matches(['.', '/']) {
                "" => "write `**` for all keys, or remove it".to_owned(),
                relative => format!("write `{relative}`"),
            },
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
            Self::Collides(_) => {
                "use {key}, or {dir} with {name} or with {stem} and {ext}".to_owned()
            }
            Self::Unclear(_) => {
                "use {key} or {dir} once, {stem} before {ext}, and a `/` between other placeholders, for instance \
                 `{size}/{key}` or `{ext}/{dir}{stem}`"
                    .to_owned()
            }
        };
        (self.to_string(), remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::keys::{KeyGlob, Template};

    #[test]
    fn a_pattern_that_names_the_whole_key_is_shortened_to_what_may_match() {
        for (text, remedy) in [
            (
                "s3://lake/events/*.gz",
                "leave out the bucket and the source's prefix",
            ),
            ("./a", "write `a`"),
            ("/a/**", "write `a/**`"),
            ("/", "write `**` for all keys, or remove it"),
        ] {
            let error = text.parse::<KeyGlob>().unwrap_err();
            assert_eq!(error.explain().1, remedy, "{text}");
        }
    }

    #[test]
    fn a_template_that_is_suggested_is_accepted() {
        for error in [
            TemplateError::Unclear(String::new()),
            TemplateError::Collides(String::new()),
        ] {
            let remedy = error.explain().1;
            let suggested = remedy.split('`').skip(1).step_by(2);
            for text in suggested.filter(|text| text.contains('{')) {
                assert!(text.parse::<Template>().is_ok(), "{text}");
            }
        }
    }
}
