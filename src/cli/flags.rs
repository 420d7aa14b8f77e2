//! Remedies in the words of the command line. The library speaks of a manifest's fields, which
//! somebody who typed `s3haul copy` has never seen.

use clap::CommandFactory as _;

use super::Cli;

/// Replaces fields of a manifest by the flags of `copy` that stand for them.
pub(super) fn spoken(text: &str) -> String {
    let cli = Cli::command();
    let copy = cli.find_subcommand("copy");
    let is_flag = |name: &str| {
        copy.is_some_and(|copy| copy.get_arguments().any(|arg| arg.get_long() == Some(name)))
    };
    let text = with_exclude(text).replace("the endpoint's `", "`");
    let mut out = String::with_capacity(text.len());
    for (index, piece) in text.split('`').enumerate() {
        // Every other piece is between backticks.
        match (index % 2 == 1).then(|| flag(piece, &is_flag)).flatten() {
            Some(flag) => out.push_str(&flag),
            None if index % 2 == 1 => out.extend(["`", piece, "`"]),
            None => out.push_str(piece),
        }
    }
    out
}

/// Returns `limits.in_flight` or `archived: restore` as a flag, if there is one.
fn flag(field: &str, is_flag: &impl Fn(&str) -> bool) -> Option<String> {
    let (name, value) = field
        .split_once(": ")
        .map_or((field, None), |(name, value)| (name, Some(value)));
    let name = match name.rsplit('.').next().unwrap_or(name) {
        "url" => "endpoint-url".to_owned(),
        "tags" => "tag".to_owned(),
        last => last.replace('_', "-"),
    };
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    (is_plain && is_flag(&name)).then(|| match value {
        Some(value) => format!("--{name} {value}"),
        None => format!("--{name}"),
    })
}

/// Replaces `exclude: ["a/**"]` in a text by the flag, without backticks.
fn with_exclude(text: &str) -> String {
    match text
        .split_once("exclude: [\"")
        .and_then(|(before, rest)| Some((before, rest.split_once("\"]")?)))
    {
        Some((before, (glob, after))) => format!("{before}--exclude '{glob}'{after}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_flags() {
        for (text, said) in [
            (
                "write elsewhere, or leave that part out: exclude: [\"copy/**\"]",
                "write elsewhere, or leave that part out: --exclude 'copy/**'",
            ),
            (
                "lower `limits.requests_per_second`, or run again later",
                "lower --requests-per-second, or run again later",
            ),
            (
                "check the endpoint's `url`, DNS, proxy and firewall",
                "check --endpoint-url, DNS, proxy and firewall",
            ),
            (
                "write `archived: restore` or `archived: skip`",
                "write --archived restore or --archived skip",
            ),
            (
                "set the endpoint's `region: eu-west-1`",
                "set --region eu-west-1",
            ),
            (
                "run `s3haul retry REPORT`, or name a `role`",
                "run `s3haul retry REPORT`, or name a `role`",
            ),
        ] {
            assert_eq!(spoken(text), said);
        }
    }
}
