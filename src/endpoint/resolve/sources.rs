//! Determines the possible sources of credentials.

use super::super::environment::Profile;
use super::layers::Layers;
use super::{CredentialSource, EndpointMistake};

impl Layers<'_> {
    /// Returns true if credentials come from a service that is reached over TLS, even if the
    /// endpoint does not use TLS.
    pub(super) fn asks_credential_services(&self, credentials: &[CredentialSource]) -> bool {
        const WAYS: [&str; 4] = ["role_arn", "sso_session", "sso_start_url", "login_session"];
        let asks = |source: &CredentialSource| match source {
            CredentialSource::WebIdentity => true,
            CredentialSource::Container => {
                let url = self
                    .environment
                    .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
                url.is_some_and(|url| url.starts_with("https://"))
            }
            CredentialSource::Profile(name) => {
                let profile = self.environment.profile(name);
                profile.is_some_and(|profile| WAYS.iter().any(|way| profile.get(way).is_some()))
            }
            CredentialSource::Environment | CredentialSource::InstanceMetadata => false,
        };
        credentials.iter().any(asks)
    }

    /// Returns the sources of credentials, in the order in which they are tried.
    pub(super) fn credentials(&mut self) -> Vec<CredentialSource> {
        if self.environment.is_isolated() {
            return Vec::new();
        }
        let set = |name: &str| self.environment.variable(name).is_some();
        let mut sources = Vec::new();
        let profile = self.profile().filter(Profile::has_credentials);
        let of_profile =
            profile.map(|profile| CredentialSource::Profile(profile.name().to_owned()));
        if self.profile_was_stated {
            if let Some(profile) = of_profile {
                // Never fall back from the credentials of a named profile to another source.
                return vec![profile];
            }
        } else {
            let key = set("AWS_ACCESS_KEY_ID");
            let secret = set("AWS_SECRET_ACCESS_KEY");
            match (key, secret) {
                // As in the SDK, the old name `SECRET_ACCESS_KEY` counts too, but only with a key
                // ID: alone, it may belong to another program.
                (true, false) if set("SECRET_ACCESS_KEY") => {
                    sources.push(CredentialSource::Environment);
                }
                (true, true) => sources.push(CredentialSource::Environment),
                (true, false) | (false, true) => {
                    let (has, lacks) = if key {
                        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
                    } else {
                        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
                    };
                    self.mistakes.push(EndpointMistake {
                        field: None,
                        message: format!("{has} is set, but {lacks} is not"),
                        remedy: "set both, or neither".to_owned(),
                    });
                }
                (false, false) => {}
            }
            // botocore tries a web identity after a profile's role and before a profile's keys.
            let has_role = profile.is_some_and(|profile| profile.get("role_arn").is_some());
            let is_web = set("AWS_WEB_IDENTITY_TOKEN_FILE") && set("AWS_ROLE_ARN");
            let web_identity = is_web.then_some(CredentialSource::WebIdentity);
            if has_role {
                sources.extend(of_profile.into_iter().chain(web_identity));
            } else {
                sources.extend(web_identity.into_iter().chain(of_profile));
            }
        }
        if set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            || set("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        {
            sources.push(CredentialSource::Container);
        }
        let disabled = self.environment.variable("AWS_EC2_METADATA_DISABLED");
        if !disabled.is_some_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
            sources.push(CredentialSource::InstanceMetadata);
        }
        sources
    }
}
