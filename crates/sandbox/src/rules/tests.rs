//! Tests that rules are shown as they are written, and that errors name the field.

use super::super::faults::Counts;
use super::*;

fn one(rule: &Value) -> Fault {
    let mut faults = parse(rule.to_string().as_bytes()).unwrap();
    assert_eq!(faults.len(), 1);
    faults.remove(0)
}

#[test]
fn a_rule_is_shown_as_it_is_read() {
    for (effect, shown) in [
        (json!("throttle"), None),
        (json!("truncate"), None),
        (json!("freeze"), Some(json!({ "freeze": "before" }))),
        (
            json!("expire"),
            Some(json!({ "answer": { "status": 400, "code": "ExpiredToken" } })),
        ),
        (
            json!("revoke"),
            Some(json!({ "answer": { "status": 400, "code": "InvalidToken" } })),
        ),
        (
            json!({ "answer": { "status": 403, "code": "AccessDenied" } }),
            None,
        ),
        (
            json!({ "answer": { "status": 500, "code": "InternalError", "when": "after" } }),
            None,
        ),
        (
            json!({ "answer": { "status": 200, "code": "InternalError", "when": "after" } }),
            None,
        ),
        (json!({ "delay": "1m 30s" }), None),
        (json!({ "skew": "-20m" }), None),
        (json!({ "skew": "+1h" }), Some(json!({ "skew": "1h" }))),
        (json!({ "close": "before" }), None),
        (json!({ "close": "after" }), None),
        (json!({ "reset": "before" }), None),
        (json!({ "reset": "after" }), None),
        (json!({ "freeze": "after" }), None),
    ] {
        let rule = json!({
            "operation": ["GetObject", "HeadObject"], "bucket": "b", "key": "k", "prefix": "p/", "access_key": "a",
            "token": "t", "every": 3, "count": 5, "from": "10s", "for": "1m", "effect": effect,
        });
        let mut expected = rule.clone();
        expected["effect"] = shown.unwrap_or(effect);
        for (name, number) in [("id", 7), ("matched", 2), ("struck", 1)] {
            expected[name] = number.into();
        }
        let rule = Rule {
            id: 7,
            fault: one(&rule),
            counts: Counts {
                matched: 2,
                struck: 1,
            },
        };
        assert_eq!(show(&rule), expected);
    }
    let rules =
        br#"[{"nth": 2, "effect": "throttle"}, {"probability": 0.5, "seed": 9, "effect": "throttle"}]"#;
    let rules = parse(rules).unwrap();
    assert_eq!(
        (rules[0].when, rules[1].when),
        (When::Nth(2), When::Chance(0.5, 9))
    );
}

#[test]
fn a_mistake_is_told_by_its_field() {
    for (rule, told) in [
        (json!([]), None),
        (json!(7), Some("rule: 7 is not an object")),
        (json!({}), Some("rule.effect: it is missing")),
        (
            json!([{ "effect": "throttle" }, { "efect": 1 }]),
            Some("rules[1].efect: there is no such field"),
        ),
        (
            json!({ "operation": "GetObjct", "effect": "throttle" }),
            Some("rule.operation: \"GetObjct\""),
        ),
        (
            json!({ "operation": [], "effect": "throttle" }),
            Some("rule.operation: the list is empty"),
        ),
        (
            json!({ "bucket": 7, "effect": "throttle" }),
            Some("rule.bucket: 7 is not a string"),
        ),
        (
            json!({ "nth": 0, "effect": "throttle" }),
            Some("rule.nth: 0 is not a whole number of 1 or more"),
        ),
        (
            json!({ "nth": 1, "every": 2, "effect": "throttle" }),
            Some("rule.nth: it cannot be combined with `every`"),
        ),
        (
            json!({ "seed": 1, "effect": "throttle" }),
            Some("rule.seed: it needs `probability`"),
        ),
        (
            json!({ "probability": 1.5, "effect": "throttle" }),
            Some("rule.probability: 1.5 is not a number"),
        ),
        (
            json!({ "from": "10", "effect": "throttle" }),
            Some("rule.from: "),
        ),
        (
            json!({ "for": 10, "effect": "throttle" }),
            Some("rule.for: 10 is not a string"),
        ),
        (
            json!({ "effect": "explode" }),
            Some("rule.effect: there is no effect `explode`; the effects are throttle"),
        ),
        (
            json!({ "effect": { "explode": 1 } }),
            Some("rule.effect.explode: there is no such field"),
        ),
        (
            json!({ "effect": {} }),
            Some("rule.effect: it must name one effect"),
        ),
        (
            json!({ "effect": { "delay": "1s", "skew": "1s" } }),
            Some("rule.effect: it must name one effect"),
        ),
        (
            json!({ "effect": { "delay": "soon" } }),
            Some("rule.effect.delay: "),
        ),
        (
            json!({ "effect": { "skew": "--1m" } }),
            Some("rule.effect.skew: "),
        ),
        (
            json!({ "effect": { "close": "now" } }),
            Some("rule.effect.close: `now` is neither"),
        ),
        (
            json!({ "effect": { "answer": { "code": "X" } } }),
            Some("rule.effect.answer.status: it is missing"),
        ),
        (
            json!({ "effect": { "answer": { "status": 99, "code": "X" } } }),
            Some("rule.effect.answer.status: 99 is not a status from 200 to 599"),
        ),
        (
            json!({ "effect": { "answer": { "status": 403 } } }),
            Some("rule.effect.answer.code: it is missing"),
        ),
        (
            json!({ "effect": { "answer": { "status": 403, "code": "<x>" } } }),
            Some("rule.effect.answer.code: `<x>` is not an error code"),
        ),
    ] {
        let parsed = parse(rule.to_string().as_bytes()).map(|faults| faults.len());
        match told {
            None => assert_eq!(parsed, Ok(0)),
            Some(told) => {
                let error = parsed.unwrap_err();
                assert!(error.starts_with(told), "{error}");
            }
        }
    }
    assert!(parse(b"{").unwrap_err().starts_with("this is not JSON"));
}
