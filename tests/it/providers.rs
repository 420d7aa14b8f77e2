//! Writes the tables of providers in the documentation from their profiles.

use std::fmt::Write as _;

use s3haul::manifest::job::{Provider, Trust};
use s3haul::s3::Capabilities;
use s3haul::s3::capabilities::PartLimits;
use s3haul::size::ByteSize;

use crate::readme::assert_page_has;

fn table() -> String {
    let mut table = String::from(
        "| `provider` | copies in parts | in one request | pinned | `If-None-Match` | `If-Match` | proof | tags |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let mut row = |name: &str, capabilities: &Capabilities| {
        let Capabilities {
            copy_conditions,
            part_conditions,
            if_none_match,
            if_match,
            tags,
            tag_headers,
            ..
        } = *capabilities;
        let pinned = match (copy_conditions, part_conditions, capabilities.part_copy) {
            (true, true, _) | (true, _, false) => "by the server",
            (true, false, true) => "parts by a second HEAD",
            _ => "by a second HEAD",
        };
        let tags = match (tags, tag_headers) {
            (true, true) => "yes",
            (true, false) => "by a second request",
            (false, _) => "no",
        };
        let writes = |on: s3haul::s3::OnWrites| match on.to_string().trim_matches(['[', ']']) {
            "" => "-".to_owned(),
            names => names.to_owned(),
        };
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {pinned} | {} | {} | {} | {tags} |",
            parts(capabilities),
            if capabilities.max_copy == u64::MAX {
                "any size".to_owned()
            } else {
                ByteSize(capabilities.max_copy).to_string()
            },
            writes(if_none_match),
            writes(if_match),
            proof(capabilities),
        );
    };
    for provider in Provider::ALL
        .into_iter()
        .filter(|provider| *provider != Provider::Auto)
    {
        let name = serde_json::to_value(provider).unwrap();
        row(
            &format!("`{}`", name.as_str().unwrap()),
            &Capabilities::profile(provider),
        );
        if provider == Provider::Aws {
            row("`aws`, directory buckets", &Capabilities::DIRECTORY);
        }
    }
    table
}

fn parts(capabilities: &Capabilities) -> String {
    let PartLimits {
        max_part,
        max_parts,
        equal_parts,
        ..
    } = capabilities.parts;
    if !capabilities.part_copy {
        return "no".to_owned();
    }
    let mut text = "yes".to_owned();
    if max_parts < PartLimits::S3.max_parts {
        let _ = write!(
            text,
            ", at most {}",
            s3haul::size::display_count(u64::from(max_parts))
        );
    }
    if max_part < PartLimits::S3.max_part {
        let _ = write!(text, ", of at most {}", ByteSize(max_part));
    }
    if equal_parts {
        text.push_str(", all of one size");
    }
    text
}

fn proof(capabilities: &Capabilities) -> &'static str {
    match (capabilities.checksums, capabilities.content_etags) {
        (true, true) => "checksum, ETag",
        (true, false) => "checksum",
        (false, true) => "ETag",
        (false, false) => "size",
    }
}

/// Returns the table of what s3haul believes of each provider.
fn trust() -> String {
    let mut table = String::from(
        "| `provider` | source conditions | destination conditions | `ETag`s | order of lists | effects |\n\
         |---|---|---|---|---|---|\n",
    );
    let believed = |is: bool| if is { "believed" } else { "no" };
    let mut row = |name: &str, capabilities: &Capabilities| {
        let Capabilities {
            if_none_match,
            if_match,
            content_etags,
            ordered_lists,
            ..
        } = *capabilities;
        let source = match (capabilities.pins_copies(), capabilities.pins_parts()) {
            (true, true) => "believed",
            (true, false) => "believed for `CopyObject`",
            _ => "no",
        };
        let names = |on: s3haul::s3::OnWrites| on.to_string().trim_matches(['[', ']']).to_owned();
        let destination = match (names(if_none_match), names(if_match)) {
            (absent, same) if absent == same && absent.is_empty() => "no".to_owned(),
            (absent, same) if absent == same => absent,
            (absent, _) => format!("{absent} (`If-None-Match` only)"),
        };
        let effects = if capabilities.refuses_what_it_lacks() {
            "by the answer"
        } else {
            "after a check"
        };
        let (etags, order) = (believed(content_etags), believed(ordered_lists));
        let _ = writeln!(
            table,
            "| {name} | {source} | {destination} | {etags} | {order} | {effects} |"
        );
    };
    for provider in Provider::ALL
        .into_iter()
        .filter(|provider| *provider != Provider::Auto)
    {
        let name = serde_json::to_value(provider).unwrap();
        row(
            &format!("`{}`", name.as_str().unwrap()),
            &Capabilities::profile(provider),
        );
        if provider == Provider::Aws {
            row("`aws`, directory buckets", &Capabilities::DIRECTORY);
        }
    }
    let nothing = Capabilities {
        trust: Trust::Nothing,
        ..Capabilities::AWS
    };
    assert!(!nothing.pins_copies() && !nothing.refuses_what_it_lacks());
    table.push_str("| any, with `trust: nothing` | no | no | compared by HEAD | as above | no |\n");
    table
}

#[test]
fn the_table_of_trust_is_that_of_the_profiles() {
    assert_page_has("docs/semantics.md", "trust", &trust());
}

#[test]
fn the_table_is_that_of_the_profiles() {
    assert_page_has("docs/providers.md", "providers", &table());
}
