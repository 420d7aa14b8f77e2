//! Completion scripts for shells.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Cli;

/// Returns the script for a shell.
pub(super) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "s3haul", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    if shell == Shell::Bash {
        with_files(&script)
    } else {
        script
    }
}

/// The line that completes a command after its flags with values.
const LAST_RESORT: &str = "            COMPREPLY=( $(compgen -W \"${opts}\"";

/// Makes bash complete file names for commands that take a file. Before anything is typed,
/// clap_complete's script offers only flags and the names of arguments.
fn with_files(script: &str) -> String {
    let mut is_leaf = false;
    let lines = script.lines().map(|line| {
        let trimmed = line.trim_start();
        if let Some(options) = trimmed
            .strip_prefix("opts=\"")
            .and_then(|rest| rest.strip_suffix('"'))
        {
            let words: Vec<&str> = options
                .split(' ')
                .filter(|word| !word.starts_with(['<', '[']))
                .collect();
            // If all words are flags, the command has no subcommands.
            is_leaf = words.iter().all(|word| word.starts_with('-'));
            let indent = &line[..line.len() - trimmed.len()];
            return format!("{indent}opts=\"{}\"", words.join(" "));
        }
        match trimmed.split_once(" || ${COMP_CWORD} -eq ") {
            Some((_, rest)) if is_leaf => {
                let indent = &line[..line.len() - trimmed.len()];
                let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{indent}if [[ ${{cur}} == -*{rest}")
            }
            // With no words to offer, bash completes file names.
            _ if is_leaf && line.starts_with(LAST_RESORT) => "            COMPREPLY=()".to_owned(),
            _ => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bash_offers_files_to_run_and_commands_to_uploads() {
        let script = script(Shell::Bash);
        let section = |name: &str| {
            let start = script
                .find(&format!("        {name})\n            opts="))
                .unwrap();
            script[start..]
                .lines()
                .take(6)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let run = section("s3haul__subcmd__run");
        assert!(
            !run.contains("<JOB>") && !run.contains("COMP_CWORD} -eq"),
            "{run}"
        );
        let start = script
            .find("        s3haul__subcmd__run)\n            opts=")
            .unwrap();
        let whole = script[start..].split("\n            ;;\n").next().unwrap();
        assert!(
            whole.contains("            COMPREPLY=()\n            return 0"),
            "{whole}"
        );
        let uploads = section("s3haul__subcmd__uploads");
        assert!(
            uploads.contains("COMP_CWORD} -eq 2") && uploads.contains(" abort"),
            "{uploads}"
        );
    }

    /// Enumerations are completed in every shell.
    #[test]
    fn values_are_offered() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for value in ["require-checksum", "seaweedfs", "fastest", "follow"] {
                assert!(script.contains(value), "{shell}: {value}");
            }
        }
    }
}
