//! The one HTTP client of the process: connections and TLS sessions are shared by all endpoints and all their clients.
//!
//! What TLS takes, above all the machine's list of some hundred and fifty trusted certificates, is read with the first
//! request that goes over TLS: for an endpoint on plain HTTP that is never, and half of the processor time of the start-up
//! (15 ms until the first request with it, 8 without).

use std::sync::OnceLock;
use std::time::Duration;

use aws_sdk_s3::config::RuntimeComponents;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::http::HttpRequest;
use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};

/// For TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// S3 closes idle connections after about 20 s; a request sent into a closing connection fails for nothing.
const POOL_IDLE: Duration = Duration::from_secs(15);

/// The client.
pub(super) fn http_client() -> SharedHttpClient {
    static CLIENT: OnceLock<SharedHttpClient> = OnceLock::new();
    CLIENT.get_or_init(|| SharedHttpClient::new(Pools)).clone()
}

fn plain() -> &'static SharedHttpClient {
    static PLAIN: OnceLock<SharedHttpClient> = OnceLock::new();
    // Trusts nobody, and is never asked to.
    PLAIN.get_or_init(|| client(TrustStore::empty()))
}

fn secure() -> &'static SharedHttpClient {
    static SECURE: OnceLock<SharedHttpClient> = OnceLock::new();
    SECURE.get_or_init(|| client(TrustStore::default()))
}

fn client(trusted: TrustStore) -> SharedHttpClient {
    let builder = Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .pool_idle_timeout(POOL_IDLE);
    match TlsContext::builder().with_trust_store(trusted).build() {
        Ok(context) => builder.tls_context(context).build_https(),
        // What the builder does not take it does without: the machine's own list.
        Err(_) => builder.build_https(),
    }
}

/// A pool for plain connections, and one for those over TLS.
#[derive(Debug)]
struct Pools;

impl HttpClient for Pools {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            settings: settings.clone(),
            components: components.clone(),
            plain: OnceLock::new(),
            secure: OnceLock::new(),
        })
    }
}

/// Takes each request to the pool of its scheme.
#[derive(Debug)]
struct Connector {
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
    plain: OnceLock<SharedHttpConnector>,
    secure: OnceLock<SharedHttpConnector>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (connector, client): (_, fn() -> &'static SharedHttpClient) =
            if request.uri().starts_with("http://") { (&self.plain, plain) } else { (&self.secure, secure) };
        connector.get_or_init(|| client().http_connector(&self.settings, &self.components)).call(request)
    }
}
