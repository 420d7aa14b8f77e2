//! Rules about endpoints, and about the two endpoints of a transfer.

use std::time::Duration;

use super::Rules;
use crate::endpoint::url_mistake;
use crate::manifest::job::{Access, AssumeRole, MIN_PART, Provider, ResolvedEndpoint};

impl Rules<'_> {
    pub(super) fn endpoint(&mut self, path: &str, name: &str, resolved: &ResolvedEndpoint) {
        self.name(path, name);
        let endpoint = &resolved.stated;
        if let Some((message, remedy)) = endpoint.url.as_deref().and_then(url_mistake) {
            self.refuse(&format!("{path}.url"), message, remedy);
        }
        for mistake in &resolved.mistakes {
            // A mistake in the environment fails the run only when a transfer connects to the
            // endpoint.
            if let Some(field) = mistake.field {
                self.refuse(
                    &format!("{path}.{field}"),
                    &*mistake.message,
                    &*mistake.remedy,
                );
            }
        }
        let aws = resolved.url.is_none() && !self.refused_fields.about(&format!("{path}.url"));
        if aws && !matches!(endpoint.provider, Provider::Auto | Provider::Aws) {
            let message = "without `url` this endpoint is AWS, not another provider";
            self.refuse(
                &format!("{path}.provider"),
                message,
                "add the server's `url`",
            );
        }
        for (field, size) in [
            ("max_copy", endpoint.capabilities.max_copy),
            ("max_part", endpoint.capabilities.max_part),
        ] {
            if size.is_some_and(|size| size < MIN_PART) {
                let message = format!("`{field}` is less than S3's smallest part of {MIN_PART}");
                self.refuse(
                    &format!("{path}.capabilities.{field}"),
                    message,
                    format!("write at least {MIN_PART}"),
                );
            }
        }
        self.filled(&format!("{path}.region"), endpoint.region.as_deref());
        self.filled(&format!("{path}.profile"), endpoint.profile.as_deref());
        if let Some(role) = &endpoint.assume_role {
            self.assume_role(&format!("{path}.assume_role"), role);
        }
    }

    fn assume_role(&mut self, path: &str, role: &AssumeRole) {
        if !(role.arn.starts_with("arn:") && role.arn.contains(":role/")) {
            let remedy = "write it as arn:aws:iam::111122223333:role/name";
            self.refuse(
                &format!("{path}.arn"),
                format!("`{}` is not the ARN of a role", role.arn),
                remedy,
            );
        }
        self.filled(&format!("{path}.external_id"), role.external_id.as_deref());
        let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if let Some(name) = &role.session_name
            && !((2..=64).contains(&name.len()) && name.chars().all(legal))
        {
            let remedy = "use 2 to 64 letters, digits or any of _+=,.@-";
            self.refuse(
                &format!("{path}.session_name"),
                format!("`{name}` cannot name a session"),
                remedy,
            );
        }
        let span = Duration::from_mins(15)..=Duration::from_hours(12);
        if role
            .duration
            .is_some_and(|duration| !span.contains(&duration))
        {
            let message = "AWS gives out role credentials for 15 minutes to 12 hours";
            self.refuse(
                &format!("{path}.duration"),
                message,
                "write for instance 1h",
            );
        }
    }

    pub(super) fn access(
        &mut self,
        path: &str,
        access: &Access,
        endpoint: Option<&ResolvedEndpoint>,
    ) {
        let Some(owner) = &access.expected_owner else {
            return;
        };
        let path = format!("{path}.expected_owner");
        if owner.len() != 12 || !owner.bytes().all(|b| b.is_ascii_digit()) {
            let message = format!("`{owner}` is not an AWS account");
            self.refuse(
                &path,
                message,
                "write its 12 digits, for instance 111122223333",
            );
        } else if endpoint
            .is_some_and(|endpoint| !endpoint.is_aws() && endpoint.provider != Provider::Aws)
        {
            // Other servers ignore the header, so the user would rely on a check that never
            // happens.
            let message = "only AWS looks at the owner that is expected";
            self.refuse(&path, message, "remove it");
        }
    }

    /// Reports a copy between two servers. S3 copies only between buckets of one server; the copy
    /// would go to a bucket of the same name on the destination's server.
    pub(super) fn one_server(
        &mut self,
        path: &str,
        from: &ResolvedEndpoint,
        to: &ResolvedEndpoint,
    ) {
        if from.is_same_server(to) {
            return;
        }
        let message = format!(
            "server-side copy is not possible between two servers: {} and {}",
            from.describe(),
            to.describe()
        );
        let remedy = "copy within one endpoint (name it in both `from` and `to`); \
                      this version does not relay bytes between servers";
        self.refuse(&format!("{path}.to.endpoint"), message, remedy);
    }
}
