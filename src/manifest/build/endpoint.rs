//! The sections under `endpoints:`.

use super::FieldReader;
use crate::endpoint::{ProxyError, ProxySetting};
use crate::location::LocalPath;
use crate::manifest::file::{AssumeRoleSection, EndpointSection};
use crate::manifest::job::{AssumeRole, Endpoint};

impl FieldReader<'_> {
    pub(super) fn endpoint(&mut self, name: &str, section: EndpointSection) -> Endpoint {
        let assume_role = section.assume_role.map(|role| self.assume_role(name, role));
        Endpoint {
            name: name.to_owned(),
            url: section.url,
            region: section.region,
            path_style: section.path_style,
            allow_http: section.allow_http.unwrap_or_default(),
            profile: section.profile,
            // The check of the shape has already refused a role without an ARN.
            assume_role: assume_role.filter(|role| !role.arn.is_empty()),
            ca_bundle: section.ca_bundle.map(|path| LocalPath(path.into())),
            proxy: section.proxy.and_then(|text| self.proxy(name, &text)),
            provider: section.provider.unwrap_or_default(),
            trust: section.trust.unwrap_or_default(),
            capabilities: section
                .capabilities
                .unwrap_or_default()
                .sized(|field, text| {
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
        let path = format!("endpoints.{endpoint}.assume_role.duration");
        let duration = self.duration(&path, section.duration);
        AssumeRole {
            arn: section.arn.unwrap_or_default(),
            external_id: section.external_id,
            session_name: section.session_name,
            duration,
        }
    }
}
