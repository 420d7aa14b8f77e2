//! The sections under `endpoints:`.

use super::FieldReader;
use crate::endpoint::{ProxyError, ProxySetting};
use crate::location::LocalPath;
use crate::manifest::file::{AssumeRoleSection, EndpointSection};
use crate::manifest::job::{AssumeRole, Endpoint};

impl FieldReader<'_> {
    pub(super) fn endpoint(&mut self, name: &str, section: EndpointSection) -> Endpoint {
        let EndpointSection {
            url,
            region,
            path_style,
            allow_http,
            profile,
            assume_role,
            ca_bundle,
            proxy,
            provider,
            trust,
            capabilities,
        } = section;
        let assume_role = assume_role.map(|role| self.assume_role(name, role));
        Endpoint {
            name: name.to_owned(),
            url,
            region,
            path_style,
            allow_http: allow_http.unwrap_or_default(),
            profile,
            // The shape check has already refused a role without an ARN.
            assume_role: assume_role.filter(|role| !role.arn.is_empty()),
            ca_bundle: ca_bundle.map(|path| LocalPath(path.into())),
            proxy: proxy.and_then(|text| self.proxy(name, &text)),
            provider: provider.unwrap_or_default(),
            trust: trust.unwrap_or_default(),
            capabilities: capabilities.unwrap_or_default().sized(|field, text| {
                self.read(&format!("endpoints.{name}.capabilities.{field}"), text)
            }),
        }
    }

    fn proxy(&mut self, endpoint: &str, text: &str) -> Option<ProxySetting> {
        match text.parse() {
            Ok(proxy) => Some(proxy),
            Err(error) => {
                let error: ProxyError = error;
                self.refuse(
                    &format!("endpoints.{endpoint}.proxy"),
                    error,
                    ProxyError::REMEDY,
                );
                None
            }
        }
    }

    fn assume_role(&mut self, endpoint: &str, section: AssumeRoleSection) -> AssumeRole {
        let AssumeRoleSection {
            arn,
            external_id,
            session_name,
            duration,
        } = section;
        let path = format!("endpoints.{endpoint}.assume_role.duration");
        AssumeRole {
            arn: arn.unwrap_or_default(),
            external_id,
            session_name,
            duration: self.duration(&path, duration),
        }
    }
}
