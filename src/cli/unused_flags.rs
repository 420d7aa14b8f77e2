//! Refuses flags that have no effect: a user who types one expects an effect.

use std::ffi::OsString;

use super::CliError;
use crate::printable::joined;
use crate::size::by_number;

/// A flag as it is typed, and whether it was.
pub(super) type Flag = (&'static str, bool);

/// Refuses those of `flags` that were given. `subject` and `why` begin the message.
pub(super) fn refuse(
    subject: &str,
    why: &str,
    flags: &[Flag],
    remedy: &str,
) -> Result<(), CliError> {
    let given: Vec<_> = flags
        .iter()
        .filter(|(_, given)| *given)
        .map(|(flag, _)| *flag)
        .collect();
    if given.is_empty() {
        return Ok(());
    }
    let has = by_number(given.len() as u64, "has", "have");
    let list = joined(given, "and");
    Err(CliError::Usage(format!(
        "{subject} {why}: {list} {has} no effect here; {remedy}"
    )))
}

/// Returns true for a value that the environment does not explain. A variable is set for many
/// commands, a flag for one.
pub(super) fn typed<T: PartialEq>(
    value: Option<&T>,
    variable: &str,
    read: impl Fn(OsString) -> Option<T>,
) -> bool {
    value.is_some_and(|value| std::env::var_os(variable).and_then(read).as_ref() != Some(value))
}
