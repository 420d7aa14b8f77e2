//! The traps of YAML, unknown fields, and fields of the wrong type.

use s3haul::cli::draw;

use super::{parse, refused, transfer, with};

#[test]
fn an_empty_manifest_says_how_to_begin() {
    for text in ["⟦", "⟦# nothing\n", "⟦---\n", "⟦~"] {
        refused(text, &[("", "empty", "version: 1")]);
    }
    refused(
        "⟦- a\n",
        &[("", "the manifest must contain fields, not a list", "")],
    );
}

#[test]
fn duplicate_keys_name_the_first_one() {
    refused(
        &with("limits: {in_flight: 1}\n⟦limits: {in_flight: 2}\n"),
        &[(
            "limits",
            "a second time; the first is in line 4",
            "keep one",
        )],
    );
    refused(
        &transfer("from: {s3: s3://src/, ⟦s3: s3://other/}\nto: {s3: s3://dst/}"),
        &[("transfers[0].from.s3", "the first is in line 4", "")],
    );
}

#[test]
fn anchors_aliases_merge_keys_and_tags_are_refused() {
    refused(
        &with("defaults: ⟦&d\n  when: missing\n"),
        &[("defaults", "anchors", "`defaults:`")],
    );
    refused(
        &transfer("from: {s3: ⟦&b s3://src/}\nto: {s3: ⟦*b}"),
        &[
            ("transfers[0].from.s3", "anchors", ""),
            ("transfers[0].to.s3", "aliases", "defaults:"),
        ],
    );
    refused(
        &transfer("from: ⟦&f {s3: s3://src/}\n⟦<<: *f\nto: {s3: s3://dst/}"),
        &[
            ("transfers[0].from", "anchors", ""),
            ("transfers[0]", "merge keys", "`defaults:`"),
        ],
    );
    refused(&with("name: ⟦!!str x\n"), &[("name", "tags", "remove it")]);
}

#[test]
fn one_document_per_file() {
    refused(
        &format!("{}⟦---\nversion: 1\n", with("")),
        &[("", "second document", "one manifest per file")],
    );
}

#[test]
fn broken_yaml_guesses_the_habit_behind_it() {
    refused(
        "version: 1\ntransfers:\n⟦\t- from: x\n",
        &[("", "not YAML", "spaces")],
    );
    refused(
        &transfer("from: {s3: s3://src/, include: [⟦*.csv]}"),
        &[("transfers[0].from.include", "not YAML", "quote")],
    );
    refused(
        &transfer("from: {s3: $⟦{BUCKET}}"),
        &[("transfers[0].from", "not YAML", "\"${NAME}\"")],
    );
    refused("version: ⟦@x\n", &[("", "not YAML", "quotes")]);
    refused(
        "version: 1\n  name⟦: x\n",
        &[("", "not YAML", "indentation")],
    );
}

#[test]
fn deep_nesting_stops_the_reader() {
    for text in [
        "- ".repeat(100_000),
        "[".repeat(100_000),
        "{a: ".repeat(10_000),
    ] {
        let mistakes = parse(&text).unwrap_err();
        assert!(
            mistakes.as_slice()[0].message.contains("nested too deeply"),
            "{mistakes}"
        );
    }
}

#[test]
fn unknown_fields_are_met_with_what_was_meant() {
    refused(
        &transfer("⟦form: {s3: s3://src/}\nto: {s3: s3://dst/}"),
        &[("transfers[0].form", "no field `form`", "`from`")],
    );
    refused(
        &transfer("from: {s3: s3://src/}\nto: {s3: s3://dst/}\n⟦include: [a]"),
        &[(
            "transfers[0].include",
            "no field `include`",
            "under `transfers[].from`",
        )],
    );
    refused(
        &with("⟦diary: ./x\n"),
        &[("diary", "no field", "the fields here are")],
    );
    refused(
        &with("report: {⟦html: x}\n"),
        &[("report.html", "no field", "json")],
    );
}

#[test]
fn secrets_are_refused_and_not_shown() {
    let text = with(
        "endpoints:\n  x: {⟦secret_access_key: hunter2, ⟦access-key: AKIAX, ⟦session_token: [t0ken, more]}\n",
    );
    refused(
        &text,
        &[
            (
                "endpoints.x.secret_access_key",
                "secrets do not belong",
                "profile",
            ),
            ("endpoints.x.access-key", "secrets", "AWS_ACCESS_KEY_ID"),
            ("endpoints.x.session_token", "secrets", ""),
        ],
    );
    let shown = draw(&parse(&text.replace('⟦', "")).unwrap_err(), true);
    for secret in ["hunter2", "AKIAX", "t0ken", "more"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let text = with("endpoints:\n  x: {url: ⟦http://user:hunter2@host}\n");
    refused(
        &text,
        &[("endpoints.x.url", "secrets do not belong", "profile")],
    );
    let shown = draw(&parse(&text.replace('⟦', "")).unwrap_err(), false);
    assert!(
        !shown.contains("hunter2") && shown.contains("http://************@host"),
        "{shown}"
    );
}

#[test]
fn missing_fields_come_with_an_example() {
    refused(
        "⟦⟦name: x\n",
        &[
            ("", "no `version`", "`version: 1`"),
            ("", "no `transfers`", "{from: {s3: s3://"),
        ],
    );
    refused(
        &transfer("from: {s3: s3://src/}").replace("name", "⟦name"),
        &[("transfers[0]", "no `to`", "to: {s3: ")],
    );
    refused(
        &transfer("from: {s3: s3://src/}\n⟦to: {}"),
        &[("transfers[0].to", "`to` has no `s3`", "s3: s3://")],
    );
}

#[test]
fn values_of_another_kind_are_refused() {
    refused(
        "version: 1\n⟦transfers: {from: x}\n",
        &[("transfers", "must be a list, not fields", "transfers: [")],
    );
    refused(
        "version: 1\ntransfers: [⟦s3://a/]\n",
        &[(
            "transfers[0]",
            "must contain fields, not text",
            "- name: value",
        )],
    );
    refused(
        &transfer("from: ⟦s3://src/\nto: {s3: s3://dst/}"),
        &[(
            "transfers[0].from",
            "`from` must contain fields, not text",
            "write `from: {s3: s3://src/}`",
        )],
    );
    refused(
        &transfer("from: {s3: s3://src/, include: ⟦\"*.csv\"}\nto: {s3: s3://dst/}"),
        &[(
            "transfers[0].from.include",
            "must be a list",
            "[\"**/*.parquet\"]",
        )],
    );
    refused(
        &transfer("from: {⟦s3: [s3://src/]}\nto: {s3: s3://dst/}"),
        &[(
            "transfers[0].from.s3",
            "must be one value, not a list",
            "s3: s3://",
        )],
    );
    refused(
        &with("name: ⟦~\n"),
        &[("name", "`name` has no value", "remove the line")],
    );
    refused(&with("⟦limits:\n"), &[("limits", "no value", "")]);
    refused(&with("name: ⟦\"${EMPTY}\"\n"), &[("name", "no value", "")]);
}

#[test]
fn numbers_booleans_and_words_say_what_they_may_be() {
    for (typed, message, remedy) in [
        ("3_000", "must be a whole number", "write 3000"),
        ("\"3000\"", "must be a whole number", "write 3000"),
        ("0", "cannot be 0", "from 1 to 4294967295"),
        ("-1", "must be a whole number", "from 1 to"),
        ("1e3", "must be a whole number", "from 1 to"),
        ("99999999999", "cannot be 99999999999", "from 1 to"),
        ("010", "must be a whole number", "write 10"),
    ] {
        refused(
            &with(&format!("limits: {{in_flight: ⟦{typed}}}\n")),
            &[("limits.in_flight", message, remedy)],
        );
    }
    for (typed, remedy) in [
        ("yes", "write true"),
        ("\"true\"", "without quotes"),
        ("No", "write false"),
        ("2", "true or false"),
    ] {
        let text = with(&format!("endpoints: {{x: {{path_style: ⟦{typed}}}}}\n"));
        refused(
            &text,
            &[("endpoints.x.path_style", "must be true or false", remedy)],
        );
    }
    refused(
        &with("defaults: {when: ⟦change}\n"),
        &[("defaults.when", "`when` cannot be `change`", "`changed`")],
    );
    refused(
        &with("defaults: {when: ⟦weekly}\n"),
        &[("defaults.when", "", "missing, changed or always")],
    );
    refused(
        "version: ⟦2\ntransfers: [{from: {files: x}, to: {s3: s3://dst/}}]\n",
        &[("version", "cannot be 2", "write 1")],
    );
    refused(
        "version: ⟦1.0\ntransfers: [{from: {files: x}, to: {s3: s3://dst/}}]\n",
        &[("version", "whole number", "write 1")],
    );
}

#[test]
fn variables_are_underlined_themselves() {
    refused(
        &transfer("from: {s3: \"s3://⟦${NO_SUCH}/a/⟦${x-y}/${BUCKET}/\"}\nto: {s3: s3://dst/}"),
        &[
            (
                "transfers[0].from.s3",
                "`NO_SUCH` is not set",
                "$${NO_SUCH}",
            ),
            (
                "transfers[0].from.s3",
                "`${x-y` is not a variable",
                "${NAME}",
            ),
        ],
    );
}

#[test]
fn a_report_without_a_field_is_shown_in_one() {
    for (report, meant) in [
        ("./r.jsonl", "write `report: {json: ./r.jsonl}`"),
        ("s3://ops/r/", "write `report: {s3: s3://ops/r/}`"),
    ] {
        refused(
            &with(&format!("report: ⟦{report}\n")),
            &[("report", "must contain fields, not text", meant)],
        );
    }
}

#[test]
fn the_end_says_that_skipped_checks_follow() {
    for (text, follow) in [
        ("version: 1\ntransfers: [", true),
        (
            &*transfer(
                "from: {s3: s3://src/}\nto: {s3: s3://dst/, endpoint: nope, storage_class: STANDARD_AI}",
            ),
            true,
        ),
        (
            &*transfer("from: {s4: s3://src/}\nto: {s3: s3://dst/}"),
            true,
        ),
        (
            &*transfer("from: {s3: s3://src/}\nto: {s3: s3://dst/, storage_class: STANDARD_AI}"),
            false,
        ),
        (&*with("limits: {in_flight: 0}\n"), false),
    ] {
        let shown = parse(text).unwrap_err().to_string();
        assert_eq!(shown.ends_with("further checks follow"), follow, "{shown}");
    }
}

/// These checks need only fields that are right.
#[test]
fn a_mistake_in_a_transfer_hides_no_other_one() {
    let text = "version: 1\ntransfers:\n  \
        - {name: a, verify: nope, from: {s3: s3://src/}, to: {s3: s3://dst/}}\n  \
        - {name: b, after: [nothing], from: {s3: s3://src2/}, to: {s3: s3://dst/}}\n";
    let mistakes = parse(text).unwrap_err().to_string();
    for told in [
        "cannot be `nope`",
        "no transfer has the name `nothing`",
        "may write the same keys",
    ] {
        assert!(mistakes.contains(told), "{mistakes}");
    }
    assert!(mistakes.ends_with("3 mistakes in job.yaml"), "{mistakes}");
}
