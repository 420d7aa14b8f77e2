//! Explains why there are no credentials to sign with, and decides whether waiting may help.
//!
//! Three cases are distinguished: a configured provider that does not answer, a provider that was
//! never configured, and a provider that refuses. The container endpoint of a fresh node comes up
//! within seconds, but a missing profile never appears. s3haul tells these cases apart by the SDK's
//! error types, and by an error's text only if it has no type. The message names the provider and
//! its setting (a profile, a file, a variable, or a URL), which the SDK's errors leave out.

use std::error::Error;
use std::fmt;
use std::io;

use aws_config::imds::client::error::ImdsError;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;

use super::causes::{causes, find, one_line, plain};
use super::credential_chain::{Link, ProfileGone, Unsignable};
use super::failure::tls;
use super::process;
use crate::endpoint::{CredentialSource, ResolvedEndpoint};

/// The SDK's message when the metadata service answers 403. Its error type is private.
const METADATA_SHUT_OFF: &str = "IMDS is disabled or the caller has insufficient permissions";

/// The reason why a provider gave no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoIdentity {
    /// True if the provider is configured and may give credentials later.
    pub(super) may_pass: bool,
    /// Names the provider and the reason.
    pub(super) message: String,
}

impl fmt::Display for NoIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for NoIdentity {}

/// The settings that determine where credentials come from.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialOrigin {
    /// The endpoint's name.
    endpoint: String,
    /// The endpoint's `profile`.
    profile: Option<String>,
    /// The role of the endpoint's `assume_role`.
    role: Option<String>,
}

impl From<&ResolvedEndpoint> for CredentialOrigin {
    fn from(endpoint: &ResolvedEndpoint) -> Self {
        let role = endpoint.assume_role.as_ref().map(|role| role.arn.clone());
        Self {
            endpoint: endpoint.name.clone(),
            profile: endpoint.stated.profile.clone(),
            role,
        }
    }
}

/// The properties of this machine that affect its credentials.
pub(super) struct Machine<'a> {
    /// Reads an environment variable.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// True on an EC2 instance outside of Kubernetes, where the metadata service always exists.
    pub(super) is_instance: bool,
}

/// A provider of the SDK, for messages.
enum SdkProvider {
    Keys,
    Role(String),
    Profile(String),
    WebIdentity(String),
    Container {
        url: String,
        token_file: Option<String>,
    },
    Instance,
}

impl Machine<'_> {
    /// Returns a variable, unless it is unset or empty.
    fn var(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }

    fn profile(&self, origin: &CredentialOrigin) -> String {
        match (&origin.profile, self.var("AWS_PROFILE")) {
            (Some(name), _) => format!("profile `{name}`"),
            (None, Some(name)) => format!("profile `{name}` (AWS_PROFILE)"),
            (None, None) => "profile `default`".to_owned(),
        }
    }

    fn web_identity(&self) -> Option<SdkProvider> {
        self.var("AWS_ROLE_ARN")?;
        let file = self.var("AWS_WEB_IDENTITY_TOKEN_FILE")?;
        Some(SdkProvider::WebIdentity(file))
    }

    fn container(&self) -> Option<SdkProvider> {
        let token_file = self.var("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
        let relative = self.var("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let url = if let Some(path) = relative {
            format!("http://169.254.170.2{path} (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI)")
        } else {
            let url = self.var("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
            format!("{url} (AWS_CONTAINER_CREDENTIALS_FULL_URI)")
        };
        Some(SdkProvider::Container { url, token_file })
    }

    /// Returns the provider that the SDK asks if neither the environment nor a profile has
    /// credentials.
    fn after_the_profile(&self) -> SdkProvider {
        self.web_identity()
            .or_else(|| self.container())
            .unwrap_or(SdkProvider::Instance)
    }

    /// Returns the provider that a source represents.
    fn provider(&self, source: &CredentialSource, origin: &CredentialOrigin) -> SdkProvider {
        let provider = match source {
            CredentialSource::Environment => Some(SdkProvider::Keys),
            CredentialSource::Profile(_) => Some(SdkProvider::Profile(self.profile(origin))),
            CredentialSource::WebIdentity => self.web_identity(),
            CredentialSource::Container => self.container(),
            CredentialSource::InstanceMetadata => None,
        };
        provider.unwrap_or(SdkProvider::Instance)
    }

    /// Names the provider that was last asked for credentials: `link` of a chain, or the provider
    /// that the settings select.
    pub(super) fn asked(&self, origin: &CredentialOrigin, link: Option<&Link>) -> String {
        if let Some(Link { source, name }) = link {
            return match name {
                Some(name) => name.clone(),
                None => self.provider(source, origin).to_string(),
            };
        }
        if let Some(role) = &origin.role {
            return SdkProvider::Role(role.clone()).to_string();
        }
        if origin.profile.is_some() || self.var("AWS_PROFILE").is_some() {
            return self.profile(origin);
        }
        match self.after_the_profile() {
            SdkProvider::Instance => {
                format!("{} or {}", self.profile(origin), SdkProvider::Instance)
            }
            provider => provider.to_string(),
        }
    }

    /// Returns true if the metadata service is expected to answer.
    fn expects_metadata(&self) -> bool {
        self.is_instance || self.var("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_some()
    }
}

/// Calls `ask` with the environment of this machine, and with whether it is an EC2 instance.
pub(super) fn with_machine<T>(ask: impl FnOnce(&Machine<'_>) -> T) -> T {
    let env = |name: &str| std::env::var(name).ok();
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    // In a pod, access to metadata may be blocked on purpose. Users who need it there set its
    // endpoint.
    let is_instance = vendor.trim() == "Amazon EC2" && env("KUBERNETES_SERVICE_HOST").is_none();
    ask(&Machine {
        env: &env,
        is_instance,
    })
}

impl fmt::Display for SdkProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys => f.write_str("the keys in AWS_ACCESS_KEY_ID"),
            Self::Role(arn) => write!(f, "role {arn} (`assume_role`)"),
            Self::Profile(profile) => f.write_str(profile),
            Self::WebIdentity(file) => {
                write!(
                    f,
                    "web identity with the token in {file} (AWS_WEB_IDENTITY_TOKEN_FILE)"
                )
            }
            Self::Container { url, .. } => write!(f, "container credentials at {url}"),
            Self::Instance => f.write_str("EC2 instance metadata (IMDS)"),
        }
    }
}

/// Explains why a provider gave no credentials, and what the user can do if waiting does not help.
/// `link` is the source that was asked last. `worked_before` is true if it gave credentials earlier
/// in this process.
pub(super) fn explain(
    error: &(dyn Error + 'static),
    origin: &CredentialOrigin,
    link: Option<&Link>,
    machine: &Machine<'_>,
    worked_before: bool,
) -> NoIdentity {
    let mut no_identity = sort(error, origin, link, machine, worked_before);
    if !no_identity.may_pass {
        let field = format!("endpoints.{}", origin.endpoint);
        let remedy = if find::<process::ProcessFailure>(error).is_some() {
            format!(
                "; run the program by hand, correct it or the profile's `credential_process`, or name another profile in \
                 `{field}.profile`"
            )
        } else if origin.profile.is_some() {
            format!("; check `{field}.profile` and what the profile says")
        } else {
            format!(
                "; check AWS_PROFILE, AWS_ACCESS_KEY_ID, and `{field}.profile` or `{field}.assume_role`"
            )
        };
        no_identity.message.push_str(&remedy);
    }
    no_identity
}

fn sort(
    error: &(dyn Error + 'static),
    origin: &CredentialOrigin,
    link: Option<&Link>,
    machine: &Machine<'_>,
    worked_before: bool,
) -> NoIdentity {
    if let Some(failed) = find::<process::ProcessFailure>(error) {
        return NoIdentity {
            may_pass: failed.may_pass || worked_before,
            message: failed.to_string(),
        };
    }
    if let Some(ProfileGone(reason)) = find::<ProfileGone>(error) {
        return NoIdentity {
            may_pass: true,
            message: format!("{}: {reason}", machine.profile(origin)),
        };
    }
    if let Some(unsignable) = find::<Unsignable>(error) {
        return NoIdentity {
            may_pass: false,
            message: unsignable.to_string(),
        };
    }
    let errors: Vec<&CredentialsError> = causes(error)
        .filter_map(<dyn Error>::downcast_ref)
        .collect();
    let Some(last) = errors.last() else {
        // Every other error of a provider has a public type, so this is the time limit of the
        // identity cache.
        let message = format!(
            "{} does not answer: {}",
            machine.asked(origin, link),
            plain(error)
        );
        return NoIdentity {
            may_pass: true,
            message,
        };
    };
    // An assumed role wraps the error of its base provider.
    let by_role = origin.role.is_some() && errors.len() > 1;
    let layers = errors.len() - usize::from(by_role);
    let is_shut_off = full_text(*last).contains(METADATA_SHUT_OFF);
    if matches!(last, CredentialsError::CredentialsNotLoaded(_)) || is_shut_off {
        return not_loaded(last, layers > 1, origin, link, machine, worked_before);
    }
    let provider = match last {
        _ if origin.role.is_some() && !by_role => {
            SdkProvider::Role(origin.role.clone().unwrap_or_default())
        }
        _ if let Some(link) = link => machine.provider(&link.source, origin),
        // Only profiles wrap other providers, and only they can assume further roles.
        _ if layers > 1 || origin.profile.is_some() || is_about_profiles(last) => {
            SdkProvider::Profile(machine.profile(origin))
        }
        _ => machine.after_the_profile(),
    };
    let (may_pass, reason) = reason(last, &provider);
    NoIdentity {
        may_pass: may_pass || worked_before,
        message: format!("{provider}: {reason}"),
    }
}

/// Explains that no credentials were found. `wrapped` is true if a profile names the provider that
/// has none.
fn not_loaded(
    error: &CredentialsError,
    wrapped: bool,
    origin: &CredentialOrigin,
    link: Option<&Link>,
    machine: &Machine<'_>,
    worked_before: bool,
) -> NoIdentity {
    let text = full_text(error);
    // The SDK's error type for this is private.
    let metadata_is_shut_off = text.contains(METADATA_SHUT_OFF);
    let metadata_is_away = text.contains("could not communicate with IMDS");
    let may_pass = worked_before || (metadata_is_away && (wrapped || machine.expects_metadata()));
    let profile = machine.profile(origin);
    let message = if wrapped {
        format!("{profile}: {}", plain(error))
    } else if let Some(link) = link.filter(|_| worked_before) {
        let asked = machine.asked(origin, Some(link));
        match link.source {
            _ if metadata_is_away => format!("{asked} does not answer"),
            CredentialSource::Profile(_) => format!("{asked}: it has no credentials any more"),
            _ => format!("{asked}: {}", plain(error)),
        }
    } else if may_pass {
        format!("{} does not answer", machine.after_the_profile())
    } else if let Some(message) = missing_profile(error) {
        message
    } else if origin.profile.is_some() {
        format!("{profile} has no credentials")
    } else {
        let half = match (
            machine.var("AWS_ACCESS_KEY_ID"),
            machine.var("AWS_SECRET_ACCESS_KEY"),
        ) {
            (Some(_), None) => " (AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY)",
            (None, Some(_)) => " (AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID)",
            _ => "",
        };
        let metadata = match machine.var("AWS_EC2_METADATA_DISABLED") {
            Some(value) if value.eq_ignore_ascii_case("true") => {
                "; instance metadata is turned off (AWS_EC2_METADATA_DISABLED)"
            }
            _ if metadata_is_shut_off => "; the instance metadata service refuses to answer",
            _ if metadata_is_away => "; there is no instance metadata service here",
            _ => "",
        };
        format!(
            "none found in the environment{half}, in {profile}, or from a web identity or container{metadata}"
        )
    };
    NoIdentity { may_pass, message }
}

/// Returns the SDK's message about a profile that does not exist, or whose `source_profile` does
/// not exist.
fn missing_profile(error: &CredentialsError) -> Option<String> {
    let message = plain(error);
    ["was not defined", "could not find source profile"]
        .iter()
        .any(|word| message.contains(word))
        .then_some(message)
}

/// Joins the texts of all causes.
fn full_text(error: &(dyn Error + 'static)) -> String {
    causes(error)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Returns true for errors that only profiles cause: a profile that cannot be read, or a login with
/// SSO or `aws login`.
fn is_about_profiles(error: &CredentialsError) -> bool {
    let text = full_text(error);
    ["ProfileFile", "profile", "SSO", "login"]
        .iter()
        .any(|word| text.contains(word))
}

/// Returns true if the failure of a provider may be transient, and describes its reason.
fn reason(error: &CredentialsError, provider: &SdkProvider) -> (bool, String) {
    if let Some((_, _, message)) = find::<rustls::Error>(error).and_then(tls::permanent) {
        return (false, message);
    }
    if let Some(refused) = find::<SdkError<AssumeRoleError, HttpResponse>>(error).and_then(sts_says)
    {
        return refused;
    }
    if let Some(refused) =
        find::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>(error).and_then(sts_says)
    {
        return refused;
    }
    // The provider itself reads a token file, and wraps the system's error directly.
    if let Some(file) = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
    {
        let name = match provider {
            SdkProvider::WebIdentity(file) => format!("{file}: "),
            SdkProvider::Container {
                token_file: Some(file),
                ..
            } => {
                format!("{file} (AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE): ")
            }
            _ => "the file of its `web_identity_token_file`: ".to_owned(),
        };
        // The kubelet may write the file a moment later.
        return (
            file.kind() == io::ErrorKind::NotFound,
            format!("{name}{}", one_line(&file.to_string())),
        );
    }
    let text = full_text(error);
    let may_pass = match error {
        CredentialsError::ProviderTimedOut(_) => true,
        CredentialsError::InvalidConfiguration(_) => false,
        _ => {
            let lost = find::<ConnectorError>(error).is_some_and(|failure| !failure.is_user());
            // The response of an HTTP provider broke off.
            let broken = find::<SdkError<CredentialsError, HttpResponse>>(error).is_some();
            lost || broken || find::<ImdsError>(error).is_some() || is_busy(&text)
        }
    };
    (may_pass, words(error, &text))
}

/// Describes the innermost cause, with the file that it is about.
fn words(error: &CredentialsError, text: &str) -> String {
    let all: Vec<_> = causes(error).collect();
    let mut words = match all.as_slice() {
        // The error of the operating system names no file, but the error around it does.
        [.., wrapper, last] if last.is::<io::Error>() => {
            format!("{}: {}", one_line(&wrapper.to_string()), plain(error))
        }
        _ => with_plain_status(&plain(error))
            .replace("code exit status: ", "status ")
            .trim_end_matches(". Stderr:")
            .to_owned(),
    };
    if text.contains("SSO") || text.contains("/sso/cache/") {
        words.push_str(" (log in with `aws sso login`)");
    }
    words
}

/// Replaces each `StatusCode(503)` by `HTTP 503`.
fn with_plain_status(text: &str) -> String {
    const BEFORE: &str = "StatusCode(";
    let mut parts = text.split(BEFORE);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((status, rest)) if status.bytes().all(|byte| byte.is_ascii_digit()) => {
                plain.extend(["HTTP ", status, rest]);
            }
            _ => plain.extend([BEFORE, part]),
        }
    }
    plain
}

/// Describes the response of STS, and returns true if the failure may be transient. Returns `None`
/// if STS did not answer.
fn sts_says<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<(bool, String)> {
    let SdkError::ServiceError(answer) = error else {
        return None;
    };
    let status = answer.raw().status().as_u16();
    let code = answer
        .err()
        .code()
        .map_or_else(|| format!("HTTP {status}"), str::to_owned);
    let message = answer.err().message().unwrap_or("no message");
    let is_busy = status >= 500
        || status == 429
        || code.contains("Throttl")
        || code == "IDPCommunicationError";
    Some((
        is_busy,
        format!("STS answers {code}: {}", one_line(message)),
    ))
}

/// Returns true if the message of a provider, which has no type, says that it is busy.
pub(super) fn is_busy(text: &str) -> bool {
    let statuses = [
        "StatusCode(5",
        "StatusCode(404)",
        "StatusCode(408)",
        "StatusCode(429)",
    ];
    let words = [
        "timed out",
        "timeout",
        "TooManyRequests",
        "Throttl",
        "ServiceUnavailable",
        "InternalServer",
    ];
    statuses
        .iter()
        .chain(&words)
        .any(|word| text.contains(word))
}

#[cfg(test)]
mod tests;
