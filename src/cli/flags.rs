//! Translates remedies into flags. The library names manifest fields, which a user of `s3haul copy`
//! has never seen.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use clap::CommandFactory as _;

use super::Cli;

/// The flags of `copy`, with true for those that take a value.
static FLAGS: LazyLock<BTreeMap<String, bool>> = LazyLock::new(|| {
    let cli = Cli::command();
    let copy = cli.find_subcommand("copy");
    let arguments = copy.into_iter().flat_map(clap::Command::get_arguments);
    let flag = |argument: &clap::Arg| {
        let name = argument.get_long()?.to_owned();
        Some((name, argument.get_action().takes_values()))
    };
    arguments.filter_map(flag).collect()
});

/// Replaces manifest fields with the corresponding flags of `copy`. If the text already names the
/// flag in parentheses after the field, the flag appears only once.
pub(super) fn spoken(text: &str) -> String {
    let takes_value = |name: &str| FLAGS.get(name).copied();
    let text = with_exclude(text).replace("the endpoint's `", "`");
    // No flag stands for a role.
    let text = text
        .replace(" or `endpoints.default.assume_role`", "")
        .replace(" or `assume_role`", "");
    let mut out = String::with_capacity(text.len());
    let mut last_flag = None;
    for (index, piece) in text.split('`').enumerate() {
        // Every second piece is between backticks.
        let flag = (index % 2 == 1)
            .then(|| flag(piece, &takes_value))
            .flatten();
        match &flag {
            Some(flag) => out.push_str(flag),
            None if index % 2 == 1 => out.extend(["`", piece, "`"]),
            None => out.push_str(without_flag(piece, last_flag.as_deref())),
        }
        last_flag = flag;
    }
    out
}

/// Returns the flag for a field such as `limits.in_flight` or `archived: restore`, if there is one.
/// `takes_value` tells whether a flag takes a value, and returns `None` if there is no such flag.
fn flag(field: &str, takes_value: &impl Fn(&str) -> Option<bool>) -> Option<String> {
    let (name, value) = field
        .split_once(": ")
        .map_or((field, None), |(name, value)| (name, Some(value)));
    let name = match name.rsplit('.').next().unwrap_or(name) {
        "url" => "endpoint-url".to_owned(),
        "tags" => "tag".to_owned(),
        "set" => "metadata".to_owned(),
        "encryption" => "sse".to_owned(),
        last => last.replace('_', "-"),
    };
    let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    if !is_plain {
        return None;
    }
    let value = value.map(|value| match (name.as_str(), value) {
        ("sse", "s3") => "AES256",
        ("sse", "kms") => "aws:kms",
        ("sse", "dsse") => "aws:kms:dsse",
        _ => value,
    });
    match (value, takes_value(&name)?) {
        (Some(value), true) => Some(format!("--{name} {value}")),
        (None, _) | (Some("true"), false) => Some(format!("--{name}")),
        // A flag cannot turn a switch off.
        (Some(_), false) => None,
    }
}

/// Removes ` (--allow-http)` after a field that this flag has just replaced.
fn without_flag<'t>(text: &'t str, flag: Option<&str>) -> &'t str {
    let name = flag.and_then(|flag| flag.split(' ').next());
    let repeated = text
        .strip_prefix(" (")
        .and_then(|rest| rest.split_once(')'))
        .filter(|(words, _)| words.split(' ').next() == name);
    repeated.map_or(text, |(_, rest)| rest)
}

/// Replaces `exclude: ["a/**"]` with the flag, without backticks.
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
                "write an https:// URL, or allow it with `allow_http: true` (--allow-http)",
                "write an https:// URL, or allow it with --allow-http",
            ),
            (
                "`when: always` (--when always) copies it again; `allow_http: false` (--x) or `prove: read` (slow)",
                "--when always copies it again; `allow_http: false` (--x) or --prove read (slow)",
            ),
            (
                "check AWS_PROFILE, and `endpoints.default.profile` or `endpoints.default.assume_role`",
                "check AWS_PROFILE, and --profile",
            ),
            (
                "AWS_PROFILE and the endpoint's `profile` or `assume_role`",
                "AWS_PROFILE and --profile",
            ),
            (
                "name what to change: `storage_class`, `set`, `encryption`, or `acl`",
                "name what to change: --storage-class, --metadata, --sse, or --acl",
            ),
            ("write `encryption: kms`", "write --sse aws:kms"),
            (
                "gives up in 3.0s (`patience`)",
                "gives up in 3.0s (--patience)",
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
