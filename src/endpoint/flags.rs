//! Writes an endpoint as command-line flags, for the commands that messages suggest.

use super::{Endpoint, Provider, ProxySetting, Trust};

impl Endpoint {
    /// Returns the flags for the settings of this endpoint. Roles and capabilities have no flags. A
    /// proxy with a password is omitted, because everybody on a machine can see command lines.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let Self {
            url,
            region,
            profile,
            path_style,
            allow_http,
            ca_bundle,
            proxy,
            provider,
            trust,
            // No flags exist for these.
            name: _,
            assume_role: _,
            capabilities: _,
        } = self;
        let proxy = proxy.as_ref().map(|proxy| match proxy {
            ProxySetting::None => "none",
            ProxySetting::Url(url) => url.as_str(),
        });
        let provider = match (provider, serde_json::to_value(provider)) {
            (Provider::Auto, _) | (_, Err(_)) => None,
            (_, Ok(word)) => word.as_str().map(str::to_owned),
        };
        let with_values = [
            ("--endpoint-url", url.clone()),
            ("--region", region.clone()),
            ("--profile", profile.clone()),
            (
                "--ca-bundle",
                ca_bundle
                    .as_ref()
                    .map(|file| file.as_path().display().to_string()),
            ),
            (
                "--proxy",
                proxy
                    .filter(|proxy| !proxy.contains('@'))
                    .map(str::to_owned),
            ),
            ("--provider", provider),
        ];
        let with_values = with_values
            .into_iter()
            .filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
        let mut flags: Vec<_> = with_values.flatten().collect();
        flags.extend(path_style.map(|style| format!("--path-style={style}")));
        flags.extend(allow_http.then(|| "--allow-http".to_owned()));
        flags.extend(match trust {
            Trust::Answers => None,
            Trust::Nothing => Some("--trust=nothing".to_owned()),
        });
        flags
    }
}
