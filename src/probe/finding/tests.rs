//! Tests of the verdicts about findings.

use super::*;
use crate::manifest::job::{Attribute, Policy};

fn answer_from(how: How) -> ProbeAnswer {
    ProbeAnswer {
        how,
        reason: String::new(),
    }
}

fn flag(name: &'static str, stated: bool, how: How) -> ProbeFinding {
    ProbeFinding {
        name,
        claim: Claim::Flag {
            stated,
            measured: answer_from(how),
        },
        is_needed: true,
    }
}

fn writes(stated: OnWrites, [copy, put, complete]: [How; 3]) -> ProbeFinding {
    let claim = Claim::Writes {
        stated,
        copy: answer_from(copy),
        put: answer_from(put),
        complete: answer_from(complete),
    };
    ProbeFinding {
        name: "if_match",
        claim,
        is_needed: true,
    }
}

#[test]
fn a_verdict_tells_more_from_less_and_less_fails() {
    use How::{Ignored, Kept, Moot, Refused, Unknown};
    for (finding, verdict, fails) in [
        (flag("tags", true, Kept), ProbeVerdict::Agrees, false),
        (flag("tags", true, Ignored), ProbeVerdict::Lacks, true),
        (flag("tags", false, Kept), ProbeVerdict::CanDoMore, false),
        (flag("tags", false, Refused), ProbeVerdict::Agrees, false),
        (flag("tags", true, Unknown), ProbeVerdict::Unknown, true),
        (flag("tags", false, Unknown), ProbeVerdict::Unknown, false),
        (flag("tags", true, Moot), ProbeVerdict::Moot, false),
        (flag("equal_parts", false, Kept), ProbeVerdict::Lacks, true),
        (
            flag("equal_parts", true, Ignored),
            ProbeVerdict::CanDoMore,
            false,
        ),
        (
            flag("equal_parts", false, Unknown),
            ProbeVerdict::Unknown,
            true,
        ),
        (
            flag("equal_parts", true, Unknown),
            ProbeVerdict::Unknown,
            false,
        ),
        (
            writes(OnWrites::NONE, [Ignored, Kept, Ignored]),
            ProbeVerdict::CanDoMore,
            false,
        ),
        (
            writes(OnWrites::UPLOADS, [Kept, Kept, Refused]),
            ProbeVerdict::Lacks,
            true,
        ),
        (
            writes(OnWrites::UPLOADS, [Unknown, Kept, Kept]),
            ProbeVerdict::Unknown,
            false,
        ),
        (
            writes(OnWrites::UPLOADS, [Ignored, Kept, Unknown]),
            ProbeVerdict::Unknown,
            true,
        ),
        (
            writes(OnWrites::UPLOADS, [Ignored, Kept, Kept]),
            ProbeVerdict::Agrees,
            false,
        ),
        (
            writes(OnWrites::NONE, [Ignored; 3]),
            ProbeVerdict::Agrees,
            false,
        ),
        (writes(OnWrites::ALL, [Moot; 3]), ProbeVerdict::Moot, false),
    ] {
        assert_eq!(
            (finding.verdict(), finding.fails()),
            (verdict, fails),
            "{finding:?}"
        );
        let unneeded = ProbeFinding {
            is_needed: false,
            ..finding
        };
        assert_eq!(
            unneeded.fails(),
            verdict == ProbeVerdict::Lacks,
            "{unneeded:?}"
        );
    }
}

#[test]
fn what_is_not_known_is_not_stated() {
    let half_known = writes(OnWrites::UPLOADS, [How::Kept, How::Unknown, How::Ignored]);
    let all_but_one = OnWrites {
        complete: false,
        ..OnWrites::ALL
    };
    assert_eq!(half_known.statement(), Some(Value::Writes(all_but_one)));
    assert_eq!(
        writes(OnWrites::UPLOADS, [How::Unknown; 3]).statement(),
        None
    );
    assert_eq!(flag("tags", true, How::Unknown).statement(), None);
    assert_eq!(flag("tags", true, How::Kept).statement(), None);
    assert_eq!(
        flag("tags", true, How::Refused).statement(),
        Some(Value::Flag(false))
    );
}

#[test]
fn an_attribute_fails_the_job_by_its_policy() {
    use How::{Ignored, Kept, Refused, Unknown};
    let of = |attribute, policy, how| AttributeFinding {
        attribute,
        policy,
        is_named: false,
        put: answer_from(How::Moot),
        copy: answer_from(how),
        multipart: answer_from(Kept),
        sent_by_job: OnWrites {
            put: false,
            ..OnWrites::ALL
        },
        is_set_later: false,
    };
    for (attribute, policy, how, verdict, fails) in [
        (
            Attribute::Tags,
            Policy::Require,
            Ignored,
            ProbeVerdict::Lacks,
            true,
        ),
        (
            Attribute::Tags,
            Policy::Require,
            Unknown,
            ProbeVerdict::Unknown,
            true,
        ),
        (
            Attribute::Tags,
            Policy::Try,
            Ignored,
            ProbeVerdict::Loses,
            false,
        ),
        (
            Attribute::Tags,
            Policy::Try,
            Unknown,
            ProbeVerdict::Unknown,
            false,
        ),
        (
            Attribute::Tags,
            Policy::Skip,
            Ignored,
            ProbeVerdict::Moot,
            false,
        ),
        (
            Attribute::Tags,
            Policy::Require,
            Kept,
            ProbeVerdict::Agrees,
            false,
        ),
        (
            Attribute::Lock,
            Policy::Require,
            Ignored,
            ProbeVerdict::Lacks,
            true,
        ),
        (
            Attribute::Lock,
            Policy::Require,
            Refused,
            ProbeVerdict::Loses,
            false,
        ),
    ] {
        let finding = of(attribute, policy, how);
        assert_eq!(
            (finding.verdict(), finding.fails()),
            (verdict, fails),
            "{finding:?}"
        );
    }
    let named = AttributeFinding {
        is_named: true,
        ..of(Attribute::StorageClass, Policy::Try, Refused)
    };
    assert!(named.fails(), "each request carries it");
    let later = AttributeFinding {
        is_set_later: true,
        ..of(Attribute::Tags, Policy::Require, Ignored)
    };
    assert_eq!(later.verdict(), ProbeVerdict::Agrees);
    let uploads = OnWrites::UPLOADS;
    let unused = AttributeFinding {
        sent_by_job: uploads,
        ..of(Attribute::Tags, Policy::Require, Ignored)
    };
    assert!(
        !unused.fails(),
        "a job without copies does not care about CopyObject"
    );
}
