//! Walks the causes of SDK errors.
//!
//! The SDK wraps an error in several layers, some of them private. Code searches the layers for a
//! known type. Users see only the innermost text.

use std::error::Error;
use std::io;
use std::iter::successors;

/// Iterates over the error and its causes, outermost first.
///
/// Unlike `io::Error::source`, it includes the error that an `io::Error` carries.
pub(super) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        below(*error)
    })
}

fn below<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(carried) => Some(carried),
        None => error.source(),
    }
}

/// Returns the outermost cause of type `T`.
pub(super) fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(<dyn Error>::downcast_ref)
}

/// Returns the innermost cause in one line, without the error number of the operating system.
pub(super) fn plain(error: &(dyn Error + 'static)) -> String {
    let text = causes(error)
        .last()
        .map(ToString::to_string)
        .unwrap_or_default();
    one_line(&text)
}

/// Returns the first line of a text in a form that can end a sentence.
pub(super) fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let line = line
        .split(" (os error ")
        .next()
        .unwrap_or_default()
        .trim_end_matches(['.', ' ']);
    let mut letters = line.chars();
    match (letters.next(), letters.next()) {
        // Lowercases `Connection refused`, but neither `STS` nor `I`.
        (Some(first), Some(second))
            if first.is_ascii_uppercase() && second.is_ascii_lowercase() =>
        {
            format!("{}{}", first.to_ascii_lowercase(), &line[1..])
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_cause_is_told_in_one_line() {
        let refused = io::Error::from_raw_os_error(111);
        let outer = io::Error::other(io::Error::other(refused));
        assert_eq!(plain(&outer), "connection refused");
        assert_eq!(one_line("STS said no.\nAttempted:\n - this"), "STS said no");
    }
}
