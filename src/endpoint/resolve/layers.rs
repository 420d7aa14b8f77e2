//! The sources of settings that the user did not type, and the functions that read them in order of
//! precedence.

use super::super::Endpoint;
use super::super::environment::{Environment, Profile};
use super::super::server::url_mistake;
use super::{EndpointMistake, Setting, SettingOrigin};

/// The signing Region if no setting names one. Amazon S3 responds with the bucket's own Region;
/// most other servers accept this default.
const DEFAULT_REGION: &str = "us-east-1";
const REGIONS: [&str; 2] = ["AWS_REGION", "AWS_DEFAULT_REGION"];
const URLS: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// The sources of settings that the user did not type.
pub(super) struct Layers<'e> {
    /// The variables and files.
    pub(super) environment: &'e Environment,
    /// The profile that the endpoint names. It takes precedence over the environment.
    named: Option<Profile<'e>>,
    /// The profile that the environment selects. Environment variables take precedence over it.
    selected: Option<Profile<'e>>,
    /// True if the manifest or flags name the profile.
    pub(super) profile_was_stated: bool,
    /// The settings that cannot be used.
    pub(super) mistakes: Vec<EndpointMistake>,
    /// The S3 URL, if it was refused.
    pub(super) refused_url: Option<Setting<String>>,
}

impl<'e> Layers<'e> {
    pub(super) fn of(endpoint: &Endpoint, environment: &'e Environment) -> Self {
        let mut mistakes = Vec::new();
        if let Some(error) = environment.broken_files() {
            let remedy = "correct the file, or name another one with AWS_CONFIG_FILE".to_owned();
            let message = format!("the shared AWS configuration cannot be read: {error}");
            mistakes.push(EndpointMistake {
                field: None,
                message,
                remedy,
            });
        }
        let mut find = |name: &str, who: &str| {
            let found = environment.profile(name);
            if found.is_none() && mistakes.is_empty() {
                let message = format!(
                    "{who}there is no profile `{name}` in {}",
                    environment.searched()
                );
                let names = environment.profile_names();
                let remedy = match names.len() {
                    0 => "name the file that has it with AWS_CONFIG_FILE".to_owned(),
                    1..=12 => format!("name one of these: {}", names.join(", ")),
                    count => format!("name one of the {count} profiles there"),
                };
                mistakes.push(EndpointMistake {
                    field: Some("profile"),
                    message,
                    remedy,
                });
            }
            found
        };
        let named = endpoint
            .profile
            .as_deref()
            .filter(|_| !environment.is_isolated());
        let stated = named.map(str::trim).filter(|name| !name.is_empty());
        let (named, selected) = match (stated, environment.selected_profile()) {
            (Some(name), _) => (find(name, ""), None),
            (None, (name, Some(variable))) => {
                (None, find(name, &format!("{variable} is set, but ")))
            }
            (None, (name, None)) => (None, environment.profile(name)),
        };
        for name in environment.not_utf8() {
            let message = format!("the variable {name} is not UTF-8");
            mistakes.push(EndpointMistake {
                field: None,
                message,
                remedy: "correct it, or unset it".to_owned(),
            });
        }
        let services = named
            .or(selected)
            .and_then(|profile| Some((profile, profile.get("services")?)));
        if let Some((profile, services)) =
            services.filter(|(_, name)| !environment.has_services(name))
        {
            let message = format!(
                "the profile `{}` names `services = {services}`, and there is no section [services {services}] in {}",
                profile.name(),
                environment.searched()
            );
            let remedy = "add the section, or remove the line".to_owned();
            mistakes.push(EndpointMistake {
                field: stated.map(|_| "profile"),
                message,
                remedy,
            });
        }
        Self {
            environment,
            named,
            selected,
            profile_was_stated: stated.is_some(),
            mistakes,
            refused_url: None,
        }
    }

    /// Returns the profile whose settings apply.
    pub(super) fn profile(&self) -> Option<Profile<'e>> {
        self.named.or(self.selected)
    }

    /// Returns the setting from the first layer that has it, parsed by `read`.
    pub(super) fn pick<T>(
        &mut self,
        stated: Option<T>,
        property: &dyn Fn(Profile<'e>) -> Option<&'e str>,
        variables: &[&'static str],
        read: &dyn Fn(&str) -> Result<T, String>,
    ) -> Option<Setting<T>> {
        if let Some(value) = stated {
            return Some(Setting::stated(value));
        }
        let of_profile = |profile: Profile<'e>| {
            Some((
                property(profile)?,
                SettingOrigin::Profile(profile.name().to_owned()),
            ))
        };
        let of_variable = |variable: &&'static str| {
            Some((
                self.environment.variable(variable)?,
                SettingOrigin::Variable(variable),
            ))
        };
        let (text, origin) = self
            .named
            .and_then(of_profile)
            .or_else(|| variables.iter().find_map(of_variable))
            .or_else(|| self.selected.and_then(of_profile))?;
        match read(text) {
            Ok(value) => Some(Setting { value, origin }),
            Err(message) => {
                let is_named =
                    matches!(origin, SettingOrigin::Profile(_)) && self.profile_was_stated;
                let field = is_named.then_some("profile");
                let remedy = format!("correct it ({origin})");
                self.mistakes.push(EndpointMistake {
                    field,
                    message,
                    remedy,
                });
                None
            }
        }
    }

    pub(super) fn flag(
        &mut self,
        property: &'static str,
        variable: &'static str,
    ) -> Option<Setting<bool>> {
        let of_profile =
            |profile: Profile<'e>| profile.get(property).or_else(|| profile.s3(property));
        self.pick(
            None,
            &of_profile,
            &[variable],
            &|text| match text.to_ascii_lowercase().as_str() {
                "true" => Ok(true),
                "false" => Ok(false),
                _ => Err(format!("`{property}` is `{text}`; write true or false")),
            },
        )
    }

    pub(super) fn ignores_urls(&mut self) -> bool {
        let ignores = self.flag(
            "ignore_configured_endpoint_urls",
            "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
        );
        ignores.is_some_and(|ignores| ignores.value)
    }

    pub(super) fn service_url(
        &mut self,
        service: &'static str,
        variables: &[&'static str],
    ) -> Option<Setting<String>> {
        if self.ignores_urls() {
            return None;
        }
        self.pick(
            None,
            &|profile| profile.service_url(service),
            variables,
            &text,
        )
    }

    pub(super) fn url(&mut self, endpoint: &Endpoint) -> Option<Setting<String>> {
        let without_slash = |url: &str| url.trim().trim_end_matches('/').to_owned();
        if let Some(url) = &endpoint.url {
            return Some(Setting::stated(without_slash(url)));
        }
        let url = self.service_url("s3", &URLS)?;
        if let Some((message, remedy)) = url_mistake(&url.value) {
            let message = format!("{}: {message}", url.origin);
            let is_named =
                matches!(url.origin, SettingOrigin::Profile(_)) && self.profile_was_stated;
            self.mistakes.push(EndpointMistake {
                field: is_named.then_some("profile"),
                message,
                remedy,
            });
            self.refused_url = Some(url);
            return None;
        }
        Some(Setting {
            value: without_slash(&url.value),
            origin: url.origin,
        })
    }

    /// Returns the Region that requests are signed for.
    pub(super) fn region(&mut self, endpoint: &Endpoint) -> Setting<String> {
        let region = self.pick(
            endpoint.region.clone(),
            &|profile| profile.get("region"),
            &REGIONS,
            &text,
        );
        let region = region.unwrap_or(Setting {
            value: DEFAULT_REGION.to_owned(),
            origin: SettingOrigin::Default,
        });
        // The Region becomes a label of host names and a part of every signature.
        if !region
            .value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
        {
            let is_stated = region.origin == SettingOrigin::Stated;
            self.mistakes.push(EndpointMistake {
                field: is_stated.then_some("region"),
                message: format!("`{}` is not a Region ({})", region.value, region.origin),
                remedy: "use letters, digits, and hyphens, for instance eu-west-1".to_owned(),
            });
        }
        region
    }

    /// Returns true for path-style addressing, false for virtual-hosted, or `None` if no layer sets
    /// it.
    pub(super) fn path_style(&mut self, endpoint: &Endpoint) -> Option<bool> {
        let path_style = self.pick(
            endpoint.path_style,
            &|profile| {
                profile
                    .s3("addressing_style")
                    .filter(|style| !style.eq_ignore_ascii_case("auto"))
            },
            &[],
            &|style| match style.to_ascii_lowercase().as_str() {
                "path" => Ok(true),
                "virtual" => Ok(false),
                _ => Err(format!(
                    "`{style}` is not an addressing style; write path, virtual, or auto"
                )),
            },
        );
        path_style.map(|style| style.value)
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands beside readers that can fail"
)]
fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}
