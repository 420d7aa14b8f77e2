//! The environment variables and the shared AWS configuration files, read once.
//!
//! A variable that is set but empty counts as unset, because shells and Kubernetes manifests unset
//! variables that way. The only exception is `${NAME}` in a manifest, which is replaced by the
//! variable's value even if the value is empty.
//!
//! Files that do not exist count as empty. If a named profile is in neither file, the result is an
//! [`EndpointMistake`](super::EndpointMistake) that names the files searched.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_runtime::env_config::property::PropertiesKey;
use aws_runtime::env_config::section::EnvConfigSections;
use aws_runtime::env_config::source;
use aws_types::os_shim_internal::{Env, Fs};
use futures::FutureExt as _;

/// The profile that applies if the user names none.
const DEFAULT_PROFILE: &str = "default";

/// Environment variables and shared configuration files.
#[derive(Clone, Default)]
pub struct Environment {
    /// The variables by name.
    variables: BTreeMap<String, String>,
    /// The parsed sections of both files.
    sections: EnvConfigSections,
    /// The two shared files and their states.
    files: Vec<ConfigFile>,
    /// The text of the files that exist.
    contents: Vec<(EnvConfigFileKind, String)>,
    /// The syntax error that makes the files unusable.
    syntax_error: Option<String>,
    /// Names of AWS and proxy variables whose values are not UTF-8.
    not_utf8: Vec<String>,
    /// Names of the `services` sections.
    services: BTreeSet<String>,
    /// Set if only `${NAME}` in manifests may use the variables.
    is_isolated: bool,
}

/// One of the two shared files, and the reason if its profiles are not available.
#[derive(Clone, Debug)]
struct ConfigFile {
    kind: EnvConfigFileKind,
    path: PathBuf,
    state: FileState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FileState {
    Read,
    Missing,
    Unreadable(String),
}

/// A profile of the shared configuration files.
#[derive(Clone, Copy)]
pub struct Profile<'a> {
    name: &'a str,
    sections: &'a EnvConfigSections,
}

impl Environment {
    /// Reads the variables of this process and the files that they name.
    #[must_use]
    pub fn load() -> Self {
        let mut environment = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    environment.variables.insert(name, value);
                }
                Err(_) if is_setting(&name) => environment.not_utf8.push(name),
                Err(_) => {}
            }
        }
        let mut contents = Vec::new();
        for (kind, variable, default) in [
            (
                EnvConfigFileKind::Config,
                "AWS_CONFIG_FILE",
                "~/.aws/config",
            ),
            (
                EnvConfigFileKind::Credentials,
                "AWS_SHARED_CREDENTIALS_FILE",
                "~/.aws/credentials",
            ),
        ] {
            let path = environment.expand(environment.variable(variable).unwrap_or(default));
            let state = match fs::read(&path) {
                Ok(bytes) => {
                    contents.push((kind, String::from_utf8_lossy(&bytes).into_owned()));
                    FileState::Read
                }
                Err(error) if is_missing(error.kind()) => FileState::Missing,
                Err(error) => FileState::Unreadable(error.to_string()),
            };
            environment.files.push(ConfigFile { kind, path, state });
        }
        environment.parse(&contents);
        environment.contents = contents;
        environment
    }

    /// Returns an environment with these variables and these texts of the two files, for tests and
    /// libraries.
    #[must_use]
    pub fn of<'a>(
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
        config: &str,
        credentials: &str,
    ) -> Self {
        let variables = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut environment = Self {
            variables: variables.collect(),
            ..Self::default()
        };
        environment.parse(&[
            (EnvConfigFileKind::Config, config.to_owned()),
            (EnvConfigFileKind::Credentials, credentials.to_owned()),
        ]);
        environment
    }

    /// Returns the environment of a job that runs in a sandbox: `${NAME}` is still replaced, but no
    /// variable, profile, or file affects an endpoint.
    #[must_use]
    pub fn isolated(self) -> Self {
        Self {
            variables: self.variables,
            is_isolated: true,
            ..Self::default()
        }
    }

    /// Returns true if endpoints may not take settings from this environment.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    fn parse(&mut self, contents: &[(EnvConfigFileKind, String)]) {
        // The SDK panics if there are no files.
        if contents.is_empty() {
            return;
        }
        for (kind, text) in contents {
            // The SDK ignores `services` sections in the credentials file.
            if matches!(kind, EnvConfigFileKind::Config) {
                self.services
                    .extend(services_sections(text).map(str::to_owned));
            }
        }
        match sections(contents) {
            Ok(sections) => self.sections = sections,
            Err(error) => {
                // The SDK does not say which file is broken.
                let broken = contents
                    .chunks(1)
                    .find(|content| sections(content).is_err());
                let is_config = |kind: EnvConfigFileKind| matches!(kind, EnvConfigFileKind::Config);
                let broken = broken
                    .and_then(|content| content.first())
                    .map(|(kind, _)| is_config(*kind));
                let file = self
                    .files
                    .iter()
                    .find(|file| Some(is_config(file.kind)) == broken);
                let place = file
                    .map(|file| format!("{}: ", file.path.display()))
                    .unwrap_or_default();
                self.syntax_error = Some(format!("{place}{error}"));
            }
        }
    }

    fn expand(&self, path: &str) -> PathBuf {
        let home = self
            .variable("HOME")
            .or_else(|| self.variable("USERPROFILE"));
        match (path.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
            _ => PathBuf::from(path),
        }
    }

    /// Returns the variable's value even if it is empty or the environment is isolated. Only
    /// `${NAME}` may use this.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Returns the variable's value as a setting, or `None` if the variable is unset or empty, or
    /// if the environment is isolated.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        let text = self.text(name).filter(|_| !self.is_isolated)?.trim();
        (!text.is_empty()).then_some(text)
    }

    /// Returns the profile of this name, if it is in one of the files.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<Profile<'_>> {
        let profile = self.sections.get_profile(name)?;
        Some(Profile {
            name: profile.name(),
            sections: &self.sections,
        })
    }

    /// Returns the name of the profile that applies when an endpoint names none, and the variable
    /// that chose it.
    #[must_use]
    pub fn selected_profile(&self) -> (&str, Option<&'static str>) {
        for variable in ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"] {
            if let Some(name) = self.variable(variable) {
                return (name, Some(variable));
            }
        }
        (DEFAULT_PROFILE, None)
    }

    /// Returns the names of all profiles, sorted.
    #[must_use]
    pub fn profile_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.sections.profiles().collect();
        names.sort_unstable();
        names
    }

    /// Returns the files that were searched for profiles, as text for the end of a message.
    #[must_use]
    pub fn searched(&self) -> String {
        let file = |file: &ConfigFile| match &file.state {
            FileState::Read => file.path.display().to_string(),
            FileState::Missing => format!("{} (missing)", file.path.display()),
            FileState::Unreadable(error) => format!("{} ({error})", file.path.display()),
        };
        if self.files.is_empty() {
            return "the shared AWS configuration".to_owned();
        }
        self.files
            .iter()
            .map(file)
            .collect::<Vec<_>>()
            .join(" and ")
    }

    /// Returns the error that makes the files unusable: a syntax error, or a file that cannot be
    /// read.
    #[must_use]
    pub fn broken_files(&self) -> Option<String> {
        let unreadable = self.files.iter().find_map(|file| match &file.state {
            FileState::Unreadable(error) => Some(format!("{}: {error}", file.path.display())),
            _ => None,
        });
        self.syntax_error.clone().or(unreadable)
    }

    /// Returns the names of AWS and proxy variables whose values are not UTF-8.
    #[must_use]
    pub fn not_utf8(&self) -> &[String] {
        &self.not_utf8
    }

    /// Returns true if a `services` section has this name.
    #[must_use]
    pub fn has_services(&self, name: &str) -> bool {
        self.services.contains(name)
    }

    /// Returns the text of the files that exist, for the SDK's own credential providers: the files
    /// may change or vanish before the providers would read them.
    #[must_use]
    pub(crate) fn contents(&self) -> &[(EnvConfigFileKind, String)] {
        &self.contents
    }
}

impl fmt::Debug for Environment {
    /// Shows names only, because variables and profiles contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("variables", &self.variables.keys())
            .field("profiles", &self.profile_names())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Profile<'_> {
    /// Shows the name only, because profiles contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Profile").field(&self.name).finish()
    }
}

impl<'a> Profile<'a> {
    /// Returns the profile's name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Returns a property, unless it is empty.
    #[must_use]
    pub fn get(&self, property: &str) -> Option<&'a str> {
        let value = self.sections.get_profile(self.name)?.get(property)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// Returns a setting nested below the property `s3`, such as `addressing_style`.
    #[must_use]
    pub fn s3(&self, setting: &str) -> Option<&'a str> {
        nested(self.sections.get_profile(self.name)?.get("s3")?, setting)
    }

    /// Returns the URL of a service from the profile's `services` section, or else the profile's
    /// own `endpoint_url`.
    #[must_use]
    pub fn service_url(&self, service: &str) -> Option<&'a str> {
        self.url_in_services(service)
            .or_else(|| self.get("endpoint_url"))
    }

    fn url_in_services(&self, service: &str) -> Option<&'a str> {
        let key = PropertiesKey::builder()
            .section_key("services")
            .section_name(self.get("services")?)
            .property_name(service)
            .sub_property_name("endpoint_url")
            .build()
            .ok()?;
        let url = self.sections.other_sections().get(&key)?.trim();
        (!url.is_empty()).then_some(url)
    }

    /// Returns true if the profile configures credentials.
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        const WAYS: [&str; 8] = [
            "aws_access_key_id",
            "aws_secret_access_key",
            "role_arn",
            "credential_process",
            "sso_session",
            "sso_start_url",
            "login_session",
            "web_identity_token_file",
        ];
        WAYS.iter().any(|way| self.get(way).is_some())
    }
}

/// Parses the text of the shared files.
fn sections(contents: &[(EnvConfigFileKind, String)]) -> Result<EnvConfigSections, String> {
    let mut files = EnvConfigFiles::builder();
    for (kind, text) in contents {
        files = files.with_contents(*kind, text);
    }
    // All texts are in memory, so the future is ready at once.
    let loaded = source::load(&Env::from_slice(&[]), &Fs::real(), &files.build()).now_or_never();
    let source = loaded.ok_or("the shared configuration files cannot be parsed")?;
    let source = source.map_err(|error| error.to_string())?;
    EnvConfigSections::parse(source).map_err(|error| error.to_string())
}

/// Returns true if an error of opening a file means that the file does not exist. With
/// `HOME=/dev/null`, the parent of `~/.aws` is not a directory.
fn is_missing(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Returns true for variables that affect endpoints.
fn is_setting(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    upper.starts_with("AWS_") || upper.ends_with("_PROXY") || upper == "SSL_CERT_FILE"
}

/// Returns the names of the sections `[services NAME]`.
fn services_sections(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let rest = line
            .strip_prefix('[')?
            .trim_start()
            .strip_prefix("services")?;
        let name = rest.split(']').next()?;
        name.starts_with(char::is_whitespace).then(|| name.trim())
    })
}

/// Returns a setting in the indented lines below a property.
fn nested<'a>(lines: &'a str, setting: &str) -> Option<&'a str> {
    let value = lines.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case(setting)
            .then(|| value.trim())
    })?;
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
[default]
region = eu-west-1
[profile prod]
services = lab
s3 =
  addressing_style = virtual
  use_dualstack_endpoint = true
[services lab]
s3 =
  endpoint_url = http://lab.example:9000
";

    #[test]
    fn nested_settings_and_services_are_found() {
        let environment = Environment::of(
            [("EMPTY", ""), ("SET", "x")],
            CONFIG,
            "[prod]\naws_access_key_id = a\n",
        );
        let prod = environment.profile("prod").unwrap();
        assert_eq!(prod.s3("addressing_style"), Some("virtual"));
        assert_eq!(prod.s3("use_dualstack_endpoint"), Some("true"));
        assert_eq!(prod.service_url("s3"), Some("http://lab.example:9000"));
        assert_eq!(prod.service_url("sts"), None);
        assert!(prod.has_credentials());
        let default = environment.profile("default").unwrap();
        assert_eq!(
            (default.get("region"), default.has_credentials()),
            (Some("eu-west-1"), false)
        );
        assert!(environment.profile("nope").is_none());
        assert_eq!(
            (environment.variable("EMPTY"), environment.text("EMPTY")),
            (None, Some(""))
        );
    }

    #[test]
    fn services_sections_are_those_that_the_sdk_reads() {
        let lab = "[ services lab ]\ns3 =\n  endpoint_url = http://lab.example:9000\n";
        let user = "[profile p]\nservices = lab\n";
        let of_config = Environment::of([], &format!("{user}{lab}"), "");
        assert!(of_config.has_services("lab"));
        let url = of_config
            .profile("p")
            .unwrap()
            .service_url("s3")
            .map(str::to_owned);
        assert_eq!(url.as_deref(), Some("http://lab.example:9000"));
        let of_credentials = Environment::of([], user, lab);
        assert!(!of_credentials.has_services("lab"));
        assert_eq!(of_credentials.profile("p").unwrap().service_url("s3"), None);
    }

    #[test]
    fn a_file_below_something_that_is_no_directory_is_missing() {
        let error = fs::read("/dev/null/.aws/config").unwrap_err();
        assert!(is_missing(error.kind()), "{error}");
        assert!(!is_missing(io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn the_environment_selects_a_profile_unless_the_variable_is_empty() {
        let of = |variables: &[(&'static str, &'static str)]| {
            Environment::of(variables.iter().copied(), CONFIG, "")
                .selected_profile()
                .0
                .to_owned()
        };
        assert_eq!(of(&[("AWS_PROFILE", "")]), "default");
        assert_eq!(
            of(&[("AWS_PROFILE", "prod"), ("AWS_DEFAULT_PROFILE", "other")]),
            "prod"
        );
        assert_eq!(of(&[("AWS_DEFAULT_PROFILE", "other")]), "other");
    }

    #[test]
    fn secrets_are_not_printed() {
        let keys = "[prod]\naws_secret_access_key = hunter2\n";
        let environment = Environment::of([("AWS_SECRET_ACCESS_KEY", "hunter2")], CONFIG, keys);
        assert!(!format!("{environment:?}").contains("hunter2"));
        let prod = environment.profile("prod").unwrap();
        assert_eq!(format!("{prod:?}"), "Profile(\"prod\")");
    }
}
