//! Refuses flags that have no effect, because a user who types a flag expects an effect.

use std::ffi::OsString;

use super::CliError;
use crate::printable::joined;
use crate::size::by_number;

/// A flag as users type it, and whether it was given.
pub(super) type Flag = (&'static str, bool);

/// Refuses those of `flags` that were given. `subject` and `why` form the start of the message.
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

/// Returns true if the value does not come from the environment. A variable applies to many
/// commands, a flag only to one.
pub(super) fn typed<T: PartialEq>(
    value: Option<&T>,
    variable: &str,
    read: impl Fn(OsString) -> Option<T>,
) -> bool {
    value.is_some_and(|value| std::env::var_os(variable).and_then(read).as_ref() != Some(value))
}
