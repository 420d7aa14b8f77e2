//! Combines the answers about capabilities with the stated ones.

use crate::manifest::job::Attribute;
use crate::probe::conditions::Conditions;
use crate::probe::finding::{Claim, ProbeAnswer, ProbeFinding};
use crate::probe::needs::Needs;
use crate::s3::Capabilities;

/// The answers to the questions about capabilities.
pub(super) struct Answers {
    pub(super) part_copy: ProbeAnswer,
    pub(super) equal_parts: ProbeAnswer,
    pub(super) conditions: Conditions,
    pub(super) etags: ProbeAnswer,
    pub(super) checksums: ProbeAnswer,
    pub(super) object_size: ProbeAnswer,
    pub(super) ordered_lists: ProbeAnswer,
    pub(super) encoded_lists: ProbeAnswer,
    pub(super) encoded_uploads: ProbeAnswer,
    pub(super) tags: ProbeAnswer,
    pub(super) tag_headers: ProbeAnswer,
    pub(super) odd_part_sources: ProbeAnswer,
}

impl Answers {
    /// Combines each answer with the capability that the profile or the manifest states, and notes
    /// whether the job needs it.
    pub(super) fn findings(self, stated: &Capabilities, needs: &Needs) -> Vec<ProbeFinding> {
        let wants_tags = needs.wants(Attribute::Tags);
        let flag = |name, stated, measured, is_needed| ProbeFinding {
            name,
            claim: Claim::Flag { stated, measured },
            is_needed,
        };
        let writes = |name, stated, [copy, put, complete]: [ProbeAnswer; 3]| {
            let claim = Claim::Writes {
                stated,
                copy,
                put,
                complete,
            };
            ProbeFinding {
                name,
                claim,
                is_needed: needs.conditions,
            }
        };
        let conditions = self.conditions;
        vec![
            flag("part_copy", stated.part_copy, self.part_copy, needs.copies),
            flag(
                "equal_parts",
                stated.parts.equal_parts,
                self.equal_parts,
                needs.copies,
            ),
            flag(
                "copy_conditions",
                stated.copy_conditions,
                conditions.copy_source,
                needs.copies,
            ),
            flag(
                "part_conditions",
                stated.part_conditions,
                conditions.part_source,
                needs.copies,
            ),
            writes(
                "if_none_match",
                stated.if_none_match,
                conditions.if_none_match,
            ),
            writes("if_match", stated.if_match, conditions.if_match),
            flag("content_etags", stated.content_etags, self.etags, true),
            flag("checksums", stated.checksums, self.checksums, true),
            flag("object_size", stated.object_size, self.object_size, true),
            flag(
                "ordered_lists",
                stated.ordered_lists,
                self.ordered_lists,
                true,
            ),
            flag(
                "encoded_lists",
                stated.encoded_lists,
                self.encoded_lists,
                true,
            ),
            flag(
                "encoded_uploads",
                stated.encoded_uploads,
                self.encoded_uploads,
                false,
            ),
            flag("tags", stated.tags, self.tags, wants_tags),
            flag(
                "tag_headers",
                stated.tag_headers,
                self.tag_headers,
                wants_tags,
            ),
            flag(
                "odd_part_sources",
                stated.odd_part_sources,
                self.odd_part_sources,
                needs.copies,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Provider;

    #[test]
    fn each_finding_has_a_consequence() {
        let unknown = || ProbeAnswer::unknown("no answer");
        let writes = || [unknown(), unknown(), unknown()];
        let answers = Answers {
            part_copy: unknown(),
            equal_parts: unknown(),
            conditions: Conditions {
                copy_source: unknown(),
                part_source: unknown(),
                if_none_match: writes(),
                if_match: writes(),
            },
            etags: unknown(),
            checksums: unknown(),
            object_size: unknown(),
            ordered_lists: unknown(),
            encoded_lists: unknown(),
            encoded_uploads: unknown(),
            tags: unknown(),
            tag_headers: unknown(),
            odd_part_sources: unknown(),
        };
        let stated = Capabilities::profile(Provider::Aws);
        for finding in answers.findings(&stated, &Needs::default()) {
            assert!(finding.consequence().is_some(), "{}", finding.name);
        }
    }
}
