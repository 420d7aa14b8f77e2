//! Finds the profile in a chain of profiles that has the credentials, and their kind.
//!
//! This module follows the SDK (`aws-config`, `profile/credentials/repr.rs`), which does not report
//! the profile that it found. s3haul needs that profile because it runs a `credential_process`
//! itself, and because its messages name the source of the credentials.

use super::environment::{Environment, Profile};

/// The kind of a profile's credentials, before any role is assumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// Keys in the shared files.
    Keys,
    /// The `credential_process` with this command line.
    Process(String),
    /// A login with `aws sso login`.
    Sso,
    /// A login with `aws login`.
    Session,
    /// A token in a file.
    WebIdentity,
    /// The source that `credential_source` names.
    Source,
}

/// The profile at the end of a chain of `source_profile` properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// The name of the profile.
    pub(crate) profile: String,
    /// The kind of the profile's credentials.
    pub(crate) login: Login,
    /// True if the profile names itself as its `source_profile`.
    pub(crate) is_its_own_source: bool,
}

impl Environment {
    /// Returns the profile that provides the credentials for the profile `name`, or `None` if the
    /// SDK would find none.
    #[must_use]
    pub(crate) fn base_of(&self, name: &str) -> Option<Base> {
        let mut profile = self.profile(name)?;
        let mut seen = Vec::new();
        loop {
            if seen.contains(&profile.name()) {
                return None;
            }
            seen.push(profile.name());
            // The keys of a source profile take precedence over its other settings.
            if seen.len() > 1 && has_keys(profile) {
                return Some(base(profile, Login::Keys, false));
            }
            let assumes_role = profile.get("role_arn").is_some()
                && profile.get("web_identity_token_file").is_none();
            let source = profile
                .get("source_profile")
                .filter(|_| assumes_role && profile.get("credential_source").is_none());
            match source {
                Some(source) if source != profile.name() => profile = self.profile(source)?,
                source => return Some(base(profile, login(profile)?, source.is_some())),
            }
        }
    }
}

fn base(profile: Profile<'_>, login: Login, is_its_own_source: bool) -> Base {
    Base {
        profile: profile.name().to_owned(),
        login,
        is_its_own_source,
    }
}

fn has_keys(profile: Profile<'_>) -> bool {
    let keys = ["aws_access_key_id", "aws_secret_access_key"];
    keys.iter().all(|key| profile.get(key).is_some())
}

fn login(profile: Profile<'_>) -> Option<Login> {
    const SSO: [&str; 5] = [
        "sso_session",
        "sso_region",
        "sso_start_url",
        "sso_account_id",
        "sso_role_name",
    ];
    let has = |property: &str| profile.get(property).is_some();
    if has("credential_source") {
        Some(Login::Source)
    } else if has("role_arn") && has("web_identity_token_file") {
        Some(Login::WebIdentity)
    } else if SSO.iter().any(|property| has(property)) {
        Some(Login::Sso)
    } else if has("login_session") {
        Some(Login::Session)
    } else if let Some(command) = profile.get("credential_process") {
        Some(Login::Process(command.to_owned()))
    } else {
        has_keys(profile).then_some(Login::Keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[profile program]
credential_process = /bin/program --user me
[profile both]
credential_process = /bin/program
aws_access_key_id = a
aws_secret_access_key = b
[profile sso]
sso_session = corp
credential_process = /bin/program
[profile role]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = program
[profile role-of-keys]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = both
[profile itself]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = itself
credential_process = /bin/itself
[profile instance]
role_arn = arn:aws:iam::111122223333:role/x
credential_source = Ec2InstanceMetadata
[profile loop]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = pool
[profile pool]
role_arn = arn:aws:iam::111122223333:role/x
source_profile = loop
";

    #[test]
    fn the_profile_with_the_credentials_is_found() {
        let environment = Environment::of([], CONFIG, "");
        let base = |name: &str| {
            let base = environment.base_of(name)?;
            Some((base.profile, base.login, base.is_its_own_source))
        };
        let program = |command: &str| Login::Process(command.to_owned());
        for (name, expected) in [
            (
                "program",
                ("program", program("/bin/program --user me"), false),
            ),
            ("both", ("both", program("/bin/program"), false)),
            ("sso", ("sso", Login::Sso, false)),
            (
                "role",
                ("program", program("/bin/program --user me"), false),
            ),
            ("role-of-keys", ("both", Login::Keys, false)),
            ("itself", ("itself", program("/bin/itself"), true)),
            ("instance", ("instance", Login::Source, false)),
        ] {
            let (profile, login, is_its_own_source) = expected;
            assert_eq!(
                base(name),
                Some((profile.to_owned(), login, is_its_own_source)),
                "{name}"
            );
        }
        assert_eq!(base("loop"), None);
        assert_eq!(base("nobody"), None);
    }
}
