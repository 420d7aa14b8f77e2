//! Jobs with `from` equal to `to` that change nothing, or request a change that cannot be made.

use rstest::rstest;

fn mistakes(from: &str, to: &str, more: &str) -> Option<String> {
    let text =
        format!("version: 1\ntransfers: [{{from: {{s3: {from}}}, to: {{s3: {to}}}{more}}}]\n");
    s3haul::manifest::job::Job::parse(&text, "job.yaml", &s3haul::endpoint::Environment::default())
        .err()
        .map(|mistakes| mistakes.to_string())
}

#[rstest]
#[case(
    "",
    "",
    "nothing to change",
    "`storage_class`, `set`, `encryption`, or `acl`"
)]
#[case(
    ", storage_class: STANDARD_IA",
    ", when: missing",
    "every object is there",
    "remove `when: missing`"
)]
#[case(
    ", storage_class: STANDARD_IA",
    ", on_mismatch: remove",
    "the only copy",
    "remove it"
)]
#[case(
    ", storage_class: STANDARD_IA",
    ", prove: read",
    "they are one object",
    "remove it"
)]
#[case(
    "",
    ", preserve: {tags: require}",
    "nothing to change",
    "`storage_class`, `set`, `encryption`, or `acl`"
)]
fn refusals_have_a_reason_and_a_remedy(
    #[case] to: &str,
    #[case] more: &str,
    #[case] why: &str,
    #[case] remedy: &str,
) {
    for place in ["s3://b01/", "s3://b01/a/", "s3://b01/a"] {
        let text = mistakes(place, &format!("{place}{to}"), more).expect("it was accepted");
        assert!(text.contains(why) && text.contains(remedy), "{text}");
    }
}

#[test]
fn histories_and_nested_prefixes_are_no_changes_in_place() {
    let class = ", storage_class: STANDARD_IA";
    let all = mistakes("s3://b01/, versions: all", &format!("s3://b01/{class}"), "").unwrap();
    assert!(all.contains("each of its versions once more"), "{all}");
    let nested = mistakes("s3://b01/a/", &format!("s3://b01/a/x/{class}"), "").unwrap();
    assert!(nested.contains("copied again"), "{nested}");
    let two = format!(
        "s3://b01/{class}}}}}, {{from: {{s3: s3://b01/x/}}, to: {{s3: s3://b01/x/, storage_class: GLACIER_IR"
    );
    let two = mistakes("s3://b01/", &two, "").unwrap();
    assert!(two.contains("may write the same keys"), "{two}");
}

#[rstest]
#[case("s3://b01/, storage_class: STANDARD_IA", "")]
#[case("s3://b01/, encryption: s3", "")]
#[case("s3://b01/, acl: private", "")]
#[case("s3://b01/, customer_key: {env: KEY}", "")]
#[case("s3://b01/", ", set: {cache_control: no-store}")]
#[case("s3://b01/", ", set: {metadata: {a: b}}, when: always")]
#[case("s3://b01/", ", set: {tags: {a: b}}")]
#[case("s3://b01/", ", preserve: {metadata: skip}")]
fn each_of_these_is_a_change(#[case] to: &str, #[case] more: &str) {
    assert_eq!(mistakes("s3://b01/", to, more), None);
}
