//! `preserve`, `set`, and customer keys: valid values, and mistakes at their lines.

use rstest::rstest;
use s3haul::cli::draw;
use s3haul::manifest::job::{CustomerKeys, KeySource, Policy, Preserve, Preset, SetValues};

use super::{job, parse, refused, transfer};

fn preserve(defaults: &str, own: &str) -> Preserve {
    let text = transfer(&format!(
        "from: {{s3: s3://src/}}\nto: {{s3: s3://dst/}}\n{own}"
    ));
    job(&format!("{text}{defaults}")).transfers[0].preserve
}

#[test]
fn a_preset_is_where_the_policies_begin() {
    let everything = Preserve::from(Preset::Everything);
    assert_eq!(preserve("", ""), Preserve::default());
    assert_eq!(preserve("", "preserve: everything"), everything);
    assert_eq!(
        preserve("", "preserve: content-only"),
        Preset::ContentOnly.into()
    );
    let own = preserve("", "preserve: {tags: require, acl: try}");
    assert_eq!(
        own,
        Preserve {
            tags: Policy::Require,
            acl: Policy::Try,
            ..Preserve::default()
        }
    );
    let but = preserve("", "preserve: {preset: everything, acl: skip}");
    assert_eq!(
        but,
        Preserve {
            acl: Policy::Skip,
            ..everything
        }
    );
    // The transfer's fields are applied to the defaults, but its own preset replaces them.
    let defaults = "defaults: {preserve: {preset: everything, acl: skip}}\n";
    assert_eq!(
        preserve(defaults, "preserve: {lock: try}"),
        Preserve {
            lock: Policy::Try,
            ..but
        }
    );
    assert_eq!(preserve(defaults, "preserve: default"), Preserve::default());
    assert_eq!(
        preserve("defaults: {preserve: everything}\n", ""),
        everything
    );
}

#[test]
fn what_is_set_is_text_whatever_it_looks_like() {
    let text = transfer(
        "from: {s3: s3://src/, customer_key: {env: LAKE_KEY}}\n\
         to: {s3: s3://dst/, customer_key: {file: /run/key}}\n\
         set: {metadata: {Team: lake, year: 2026}, tags: {Stage: no}, content_type: text/csv, cache_control: no-store}",
    );
    let read = job(&text).transfers.remove(0);
    let pairs = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    let expected = SetValues {
        metadata: pairs(&[("team", "lake"), ("year", "2026")]),
        tags: pairs(&[("Stage", "no")]),
        content_type: Some("text/csv".to_owned()),
        cache_control: Some("no-store".to_owned()),
        ..SetValues::default()
    };
    assert_eq!(read.set, expected);
    let (source, destination) = (
        KeySource::Env("LAKE_KEY".to_owned()),
        KeySource::File("/run/key".into()),
    );
    let keys = CustomerKeys {
        source: Some(source),
        destination: Some(destination),
    };
    assert_eq!(read.customer_keys, keys);
}

#[rstest]
#[case(
    "preserve: ⟦all",
    "preserve",
    "cannot be `all`",
    "everything, default or content-only"
)]
#[case(
    "preserve: {tags: ⟦keep}",
    "preserve.tags",
    "cannot be `keep`",
    "require, try, skip or replace"
)]
#[case("preserve: {⟦tag: skip}", "preserve.tag", "no field `tag`", "`tags`?")]
#[case(
    "preserve: {tags: ⟦replace}",
    "preserve.tags",
    "no value is given",
    "add `set.tags`"
)]
#[case(
    "preserve: {acl: ⟦replace}",
    "preserve.acl",
    "no value is given",
    "add `to.acl`"
)]
#[case(
    "preserve: {storage_class: ⟦replace}",
    "preserve.storage_class",
    "no value is given",
    "to.storage_class"
)]
#[case(
    "preserve: {lock: ⟦replace}",
    "preserve.lock",
    "no setting can replace",
    "skip"
)]
#[case("set: {content_type: ⟦\"\"}", "set.content_type", "empty", "remove it")]
#[case(
    "set: {cache_control: ⟦größer}",
    "set.cache_control",
    "cannot be the value of a header",
    "ASCII"
)]
#[case(
    "set: {metadata: {owner: ⟦Jürgen}}",
    "set.metadata.owner",
    "cannot be sent",
    "=?UTF-8?B?SsO8cmdlbg==?="
)]
#[case(
    "set: {metadata: {\"a b\": ⟦x}}",
    "set.metadata.a b",
    "cannot be the name of a header",
    "letters"
)]
#[case(
    "set: {metadata: {x-amz-meta-a: ⟦x}}",
    "set.metadata.x-amz-meta-a",
    "adds the prefix `x-amz-meta-` itself",
    "write `a`"
)]
#[case(
    "set: {metadata: {a: x, A: ⟦y}}",
    "set.metadata.a",
    "twice",
    "keep one"
)]
#[case(
    "set: {tags: {\"aws:x\": ⟦y}}",
    "set.tags.aws:x",
    "AWS's own",
    "another key"
)]
#[case(
    "set: {tags: {a: ⟦\"b&c\"}}",
    "set.tags.a",
    "not accept this as a tag",
    "letters"
)]
fn policies_and_values(
    #[case] field: &str,
    #[case] path: &str,
    #[case] message: &str,
    #[case] remedy: &str,
) {
    let text = transfer(&format!(
        "from: {{s3: s3://src/}}\nto: {{s3: s3://dst/}}\n{field}"
    ));
    // Of two names that differ only in case, the first one is underlined if it has no position of
    // its own.
    let text = if path == "set.metadata.a" {
        text.replace("a: x, A: ⟦y", "A: x, a: ⟦y")
    } else {
        text
    };
    refused(&text, &[(&format!("transfers[0].{path}"), message, remedy)]);
}

#[test]
fn limits_of_s3_are_checked_before_anything_is_sent() {
    let with = |set: &str| {
        transfer(&format!(
            "from: {{s3: s3://src/}}\nto: {{s3: s3://dst/}}\nset: {set}"
        ))
    };
    let long = "x".repeat(2048);
    refused(
        &with(&format!("{{⟦metadata: {{a: {long}}}}}")),
        &[("transfers[0].set.metadata", "2049 bytes", "")],
    );
    let tags: Vec<_> = (0..11).map(|i| format!("t{i}: x")).collect();
    let tags = format!("{{⟦tags: {{{}}}}}", tags.join(", "));
    refused(
        &with(&tags),
        &[("transfers[0].set.tags", "at most 10", "remove some")],
    );
    let key = format!("{{tags: {{{}: ⟦x}}}}", "k".repeat(129));
    let path = format!("transfers[0].set.tags.{}", "k".repeat(129));
    refused(&with(&key), &[(&path, "1 to 128", "shorter")]);
    let value = format!("{{content_type: ⟦{long}}}");
    refused(
        &with(&value),
        &[("transfers[0].set.content_type", "too long", "1024")],
    );
}

#[rstest]
#[case(
    "from: {s3: s3://src/, ⟦customer_key: {}}",
    "from.customer_key",
    "does not say where",
    "`env:`"
)]
#[case(
    "from: {s3: s3://src/, ⟦customer_key: {env: A, file: b}}",
    "from.customer_key",
    "both `env` and `file`",
    "keep one"
)]
#[case(
    "from: {files: x, ⟦customer_key: {env: A}}",
    "from.customer_key",
    "applies only to `s3`",
    "remove"
)]
fn customer_keys(
    #[case] from: &str,
    #[case] path: &str,
    #[case] message: &str,
    #[case] remedy: &str,
) {
    let text = transfer(&format!("{from}\nto: {{s3: s3://dst/}}"));
    let mistakes = parse(&text.replace('⟦', "")).unwrap_err();
    let found = &mistakes.as_slice()[0];
    assert_eq!(found.path, format!("transfers[0].{path}"));
    assert!(
        found.message.contains(message) && found.remedy.contains(remedy),
        "{found:?}"
    );
}

#[test]
fn one_kind_of_encryption_is_enough() {
    let to = "to: {s3: s3://dst/, customer_key: {env: A}, encryption: ⟦s3}";
    let text = transfer(&format!("from: {{s3: s3://src/}}\n{to}"));
    refused(
        &text,
        &[("transfers[0].to.encryption", "not both", "remove one")],
    );
    let to = "to: {s3: s3://dst/, customer_key: {env: A}}\npreserve: {annotations: ⟦try}";
    let text = transfer(&format!("from: {{s3: s3://src/}}\n{to}"));
    refused(
        &text,
        &[(
            "transfers[0].preserve.annotations",
            "cannot have annotations",
            "skip",
        )],
    );
}

#[test]
fn a_key_that_was_written_down_is_not_repeated() {
    let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    for customer_key in [
        key.to_owned(),
        format!("{{key: {key}}}"),
        format!("{{env: {key}}}"),
    ] {
        let text = transfer(&format!(
            "from: {{s3: s3://src/, customer_key: {customer_key}}}\nto: {{s3: s3://dst/}}"
        ));
        let shown = draw(&parse(&text).unwrap_err(), false);
        assert!(!shown.contains("MDEyMz"), "{shown}");
    }
}
