//! The HTTP clients of the process. Endpoints with equal network settings share connections and TLS
//! sessions.
//!
//! The SDK's own client supports neither proxies nor private certificate authorities from the
//! environment. So each set of settings gets two pools, one for `http://` and one for `https://`.
//! The data that TLS needs, above all the machine's list of about 150 trusted certificates, is read
//! when the first request goes over TLS. An endpoint on plain HTTP never pays for it: reading the
//! list takes half of the CPU time at start-up (15 ms until the first request with it, 8 ms
//! without).

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::proxy::{self, ProxyConfig};
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector as HttpPool, tls};
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

use super::bounds::{self, ExpectedBody};
use super::progress::{self, Progress};
use super::served::{Connection, ServerConnections};
use crate::endpoint::{Network, NoProxy, ProxyUrl, Setting};

/// The time limit for TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// S3 closes idle connections after about 20 s, and a request sent on a closing connection fails
/// needlessly.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// Network settings with which no connection can be made.
#[derive(Debug, Error)]
pub(super) enum NetworkError {
    /// The CA bundle cannot be read.
    #[error("the CA bundle {path} ({origin}) cannot be read: {error}", path = path.display())]
    Unreadable {
        path: PathBuf,
        origin: String,
        error: std::io::Error,
    },
    /// The CA bundle contains no certificate.
    #[error("the CA bundle {path} ({origin}) contains no certificate in PEM format", path = path.display())]
    Empty { path: PathBuf, origin: String },
    /// The HTTP client refuses a proxy.
    #[error("the proxy {url} cannot be used: {error}")]
    Proxy {
        url: ProxyUrl,
        error: proxy::ProxyError,
    },
    /// TLS refuses the trusted certificates.
    #[error("the trusted certificates cannot be used: {0}")]
    Trust(BoxError),
}

/// Settings of a client in a form that can be compared and hashed.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Settings {
    http: Option<ProxyUrl>,
    https: Option<ProxyUrl>,
    no_proxy: NoProxy,
    /// The trusted certificates in PEM format; `None` for those of the machine.
    trusted: Option<Vec<Vec<u8>>>,
}

/// Returns the client for these network settings.
///
/// # Errors
/// [`NetworkError`] if the certificates cannot be read, or a proxy cannot be used.
pub(super) fn http_client(network: &Network) -> Result<SharedHttpClient, NetworkError> {
    let url =
        |setting: &Option<Setting<ProxyUrl>>| setting.as_ref().map(|setting| setting.value.clone());
    let settings = Settings {
        http: url(&network.http),
        https: url(&network.https),
        no_proxy: network.no_proxy.clone(),
        trusted: network.needed_ca_bundle().map(certificates).transpose()?,
    };
    for url in [&settings.http, &settings.https].into_iter().flatten() {
        proxy_config(url)?;
    }
    Ok(client_of(settings))
}

fn client_of(settings: Settings) -> SharedHttpClient {
    static CLIENTS: OnceLock<Mutex<HashMap<Settings, SharedHttpClient>>> = OnceLock::new();
    let mut clients = CLIENTS
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let client = clients.entry(settings.clone()).or_insert_with(|| {
        let (plain, secure, direct) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        SharedHttpClient::new(SharedPools(Arc::new(Pools {
            settings,
            plain,
            secure,
            direct,
            servers: Mutex::default(),
        })))
    });
    client.clone()
}

/// Reads the certificates of a bundle that TLS can use, each in PEM format. The SDK panics on
/// unusable ones.
fn certificates(bundle: &Setting<PathBuf>) -> Result<Vec<Vec<u8>>, NetworkError> {
    let (path, origin) = (bundle.value.clone(), bundle.origin.to_string());
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            return Err(NetworkError::Unreadable {
                path,
                origin,
                error,
            });
        }
    };
    let usable = |certificate: CertificateDer<'static>| {
        RootCertStore::empty()
            .add(certificate.clone())
            .is_ok()
            .then_some(certificate)
    };
    let found = CertificateDer::pem_slice_iter(&bytes)
        .filter_map(Result::ok)
        .filter_map(usable);
    let found: Vec<_> = found.map(|certificate| pem(&certificate)).collect();
    if found.is_empty() {
        Err(NetworkError::Empty { path, origin })
    } else {
        Ok(found)
    }
}

fn pem(certificate: &CertificateDer<'_>) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes()
}

fn proxy_config(url: &ProxyUrl) -> Result<ProxyConfig, NetworkError> {
    ProxyConfig::all(url.as_str()).map_err(|error| NetworkError::Proxy {
        url: url.clone(),
        error,
    })
}

/// Returns a connection pool that goes through this proxy, if there is one.
///
/// # Errors
/// [`NetworkError`] if the proxy or the trusted certificates cannot be used. A fallback to another
/// route or to other certificates would violate the user's settings.
fn pool(proxy: Option<&ProxyUrl>, trusted: TrustStore) -> Result<SharedHttpClient, NetworkError> {
    let proxy = proxy.map(proxy_config).transpose()?;
    let context = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .map_err(|error| NetworkError::Trust(error.into()))?;
    let client = Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = HttpPool::builder().pool_idle_timeout(POOL_IDLE);
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        builder.set_proxy_config(proxy.clone());
        builder
            .tls_provider(tls::Provider::Rustls(
                tls::rustls_provider::CryptoMode::AwsLc,
            ))
            .tls_context(context.clone())
            .build()
    });
    Ok(client)
}

/// A pool, or the reason why no request can use it.
type Pool = Result<SharedHttpClient, NetworkError>;

/// A pool for plain connections, one for TLS, and a client that bypasses the proxies. Each is
/// created for its first request.
struct Pools {
    settings: Settings,
    plain: OnceLock<Pool>,
    secure: OnceLock<Pool>,
    direct: OnceLock<SharedHttpClient>,
    /// The servers by origin: the URL up to its path.
    servers: Mutex<HashMap<String, Arc<ServerConnections>>>,
}

impl Pools {
    /// Returns the server of a URL.
    fn server(&self, url: &str) -> Arc<ServerConnections> {
        let host_at = url.find("://").map_or(0, |at| at + 3);
        let path_at = url[host_at..].find(['/', '?']).map(|at| host_at + at);
        let origin = &url[..path_at.unwrap_or(url.len())];
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = servers.get(origin) {
            return Arc::clone(server);
        }
        Arc::clone(servers.entry(origin.to_owned()).or_default())
    }

    /// Returns the client for hosts in `NO_PROXY`. The SDK's own list does not support ports.
    fn direct(&self) -> &SharedHttpClient {
        self.direct.get_or_init(|| {
            let Settings { trusted, .. } = self.settings.clone();
            client_of(Settings {
                http: None,
                https: None,
                no_proxy: NoProxy::default(),
                trusted,
            })
        })
    }

    /// Returns true if only `NO_PROXY` keeps a request to this URL from a proxy.
    fn is_exempt(&self, url: &str) -> bool {
        let Settings {
            http,
            https,
            no_proxy,
            ..
        } = &self.settings;
        let proxy = if url.starts_with("http://") {
            http
        } else {
            https
        };
        proxy.is_some() && no_proxy.covers_url(url)
    }

    fn plain(&self) -> Result<&SharedHttpClient, &NetworkError> {
        let pool = self.plain.get_or_init(|| {
            let Settings { http, .. } = &self.settings;
            let proxy_has_tls = http
                .as_ref()
                .is_some_and(|url| url.as_str().starts_with("https://"));
            let trusted = if proxy_has_tls {
                self.trusted()
            } else {
                TrustStore::empty()
            };
            pool(http.as_ref(), trusted)
        });
        pool.as_ref()
    }

    fn secure(&self) -> Result<&SharedHttpClient, &NetworkError> {
        self.secure
            .get_or_init(|| pool(self.settings.https.as_ref(), self.trusted()))
            .as_ref()
    }

    fn trusted(&self) -> TrustStore {
        let Some(certificates) = &self.settings.trusted else {
            return TrustStore::default();
        };
        certificates.iter().fold(TrustStore::empty(), |store, pem| {
            store.with_pem_certificate(pem.clone())
        })
    }
}

struct SharedPools(Arc<Pools>);

impl fmt::Debug for SharedPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedPools")
    }
}

impl HttpClient for SharedPools {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            pools: Self(Arc::clone(&self.0)),
            settings: settings.clone(),
            components: components.clone(),
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            direct: OnceLock::new(),
        })
    }
}

/// Routes each request to the pool of its scheme.
#[derive(Debug)]
struct Connector {
    pools: SharedPools,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
    plain: OnceLock<SharedHttpConnector>,
    secure: OnceLock<SharedHttpConnector>,
    direct: OnceLock<SharedHttpConnector>,
}

impl Connector {
    /// Returns the connector of the pool for requests to this URL.
    fn connector(&self, url: &str) -> Result<&SharedHttpConnector, &NetworkError> {
        let connect =
            |client: &SharedHttpClient| client.http_connector(&self.settings, &self.components);
        let pools = &self.pools.0;
        if pools.is_exempt(url) {
            return Ok(self.direct.get_or_init(|| connect(pools.direct())));
        }
        let (pool, connector) = if url.starts_with("http://") {
            (pools.plain()?, &self.plain)
        } else {
            (pools.secure()?, &self.secure)
        };
        Ok(connector.get_or_init(|| connect(pool)))
    }
}

impl HttpConnector for Connector {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let connector = match self.connector(request.uri()) {
            Ok(connector) => connector,
            Err(error) => {
                let error = ConnectorError::user(error.to_string().into());
                return HttpConnectorFuture::ready(Err(error));
            }
        };
        progress::track_body(&mut request);
        let captured = CaptureSmithyConnection::new();
        request.add_extension(captured.clone());
        let connection = Connection::to(self.pools.0.server(request.uri()), captured);
        if let Some(progress) = Progress::current() {
            progress.waits_on(connection.clone());
        }
        let (expected, answer) = (ExpectedBody::of(&request), connector.call(request));
        HttpConnectorFuture::new(async move {
            let answer = answer.await?;
            connection.answered();
            let limited = bounds::limit(answer, expected);
            limited.map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
