//! Decides whether a stream uses colors: by `--color`, then by the environment, then by whether
//! the stream is a terminal.

use std::io::IsTerminal;

use clap::ColorChoice;

/// The environment's settings for colors.
#[derive(Clone, Copy, Debug, Default)]
struct ColorEnvironment {
    no_color: bool,
    force: bool,
    is_dumb: bool,
}

impl ColorEnvironment {
    fn read() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        Self {
            no_color: set("NO_COLOR"),
            force: std::env::var_os("CLICOLOR_FORCE")
                .is_some_and(|value| !value.is_empty() && value != "0"),
            is_dumb: is_dumb(),
        }
    }
}

/// Returns true for a terminal that only prints (TERM is `dumb` or unset). It supports neither
/// colors nor redrawing.
pub(super) fn is_dumb() -> bool {
    console::is_dumb()
}

/// Returns true if `stream` uses colors.
pub(super) fn is_on(choice: ColorChoice, stream: &impl IsTerminal) -> bool {
    decide(choice, stream.is_terminal(), ColorEnvironment::read())
}

/// Decides whether to use colors, with the same precedence as clap's own messages.
fn decide(choice: ColorChoice, is_terminal: bool, environment: ColorEnvironment) -> bool {
    let ColorEnvironment {
        no_color,
        force,
        is_dumb,
    } = environment;
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => !no_color && (force || (is_terminal && !is_dumb)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_colours_only_if_it_is_asked_for() {
        let plain = ColorEnvironment::default();
        let no_color = ColorEnvironment {
            no_color: true,
            ..plain
        };
        let (force, dumb) = (
            ColorEnvironment {
                force: true,
                ..plain
            },
            ColorEnvironment {
                is_dumb: true,
                ..plain
            },
        );
        for (choice, is_terminal, environment, on) in [
            (ColorChoice::Auto, true, plain, true),
            (ColorChoice::Auto, false, plain, false),
            (ColorChoice::Auto, true, no_color, false),
            (ColorChoice::Auto, true, dumb, false),
            (ColorChoice::Auto, false, force, true),
            (ColorChoice::Always, false, no_color, true),
            (ColorChoice::Never, true, force, false),
        ] {
            assert_eq!(
                decide(choice, is_terminal, environment),
                on,
                "{choice} {is_terminal} {environment:?}"
            );
        }
    }
}
