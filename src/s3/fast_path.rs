//! The fast path to a bucket, for the requests that s3haul sends by the million.
//!
//! For every request, the SDK resolves the endpoint again, merges layers of configuration, walks
//! some twenty interceptors, and asks a retry strategy that is off. That is more than half of the
//! CPU time of a small copy, and for later requests to the same bucket, none of it gives a
//! different result. So the SDK sends the first request, and a [`FastPath`] keeps its decisions:
//! the endpoint, the signing region, the source of the credentials, and the connection pool. The
//! requests in [`FastOperation`] then use the SDK's serialization, one signature, the SDK's
//! connector, and the SDK's deserialization. Special cases (directory buckets with their sessions,
//! signatures for several regions, unsigned requests) are not learned and stay with the SDK.
//!
//! With 20,000 objects of 1 KiB, each copied with a HEAD and a `CopyObject`, an object took 625 µs
//! of CPU time through the SDK and takes 270 µs on this path. Of these 270 µs, the kernel and HTTP
//! take 40 %, memory 30 %, the SDK's serialization 10 %, and signatures 1.3 %. A GiB of uploads
//! took 2.96 s and takes 0.96 s.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_sdk_s3::config::endpoint::{Endpoint, Params};
use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{
    ConfigBag, Credentials, FrozenLayer, Intercept, RuntimeComponents, RuntimePlugin,
};
use aws_sdk_s3::error::{BoxError, SdkError};
use aws_sdk_s3::operation as sdk;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use aws_smithy_async::time::TimeSource as _;
use aws_smithy_runtime_api::client::endpoint::EndpointResolverParams;
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnector as _, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::identity::Identity;
use aws_smithy_runtime_api::client::interceptors::context::{Input, OutputOrError};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::ser_de::{
    DeserializeResponse as _, SerializeRequest as _, SharedRequestSerializer,
    SharedResponseDeserializer,
};
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::access::AccessHeaders;
use super::bodies::Bodies;
use super::causes::plain;
use super::identity::Identities;
use super::octets;
use super::pool::CONNECT_TIMEOUT;
use super::roots::{Root, is_cut_off};
use super::secrets::Secrets;
use super::signature::{EMPTY, Signer, UNSIGNED, payload_hash};
use super::xml::Unreadable;
use crate::endpoint::is_plaintext;

const USER_AGENT: &str = concat!("s3haul/", env!("CARGO_PKG_VERSION"));

/// An operation whose requests can take the fast path.
pub(super) trait FastOperation {
    type Input: fmt::Debug + Send + Sync + 'static;
    type Output: fmt::Debug + Send + Sync + 'static;
    type Error: std::error::Error + fmt::Debug + Send + Sync + 'static;

    fn codec(codecs: &Codecs) -> &Codec;
}

macro_rules! fast_operations {
    ($($field:ident: $module:ident::$operation:ident => $input:ident, $output:ident, $error:ident;)+) => {
        /// The serializer of each request and the deserializer of its response.
        pub(super) struct Codecs {
            $($field: Codec,)+
        }

        impl Codecs {
            fn new() -> Option<Self> {
                Some(Self { $($field: Codec::of(&sdk::$module::$operation::new())?,)+ })
            }
        }

        $(impl FastOperation for sdk::$module::$operation {
            type Input = sdk::$module::$input;
            type Output = sdk::$module::$output;
            type Error = sdk::$module::$error;

            fn codec(codecs: &Codecs) -> &Codec {
                &codecs.$field
            }
        })+
    };
}

fast_operations! {
    head: head_object::HeadObject => HeadObjectInput, HeadObjectOutput, HeadObjectError;
    copy: copy_object::CopyObject => CopyObjectInput, CopyObjectOutput, CopyObjectError;
    create: create_multipart_upload::CreateMultipartUpload => CreateMultipartUploadInput, CreateMultipartUploadOutput, CreateMultipartUploadError;
    copy_part: upload_part_copy::UploadPartCopy => UploadPartCopyInput, UploadPartCopyOutput, UploadPartCopyError;
    part: upload_part::UploadPart => UploadPartInput, UploadPartOutput, UploadPartError;
    put: put_object::PutObject => PutObjectInput, PutObjectOutput, PutObjectError;
}

/// The SDK's serializer of a request and deserializer of its response.
pub(super) struct Codec {
    serializer: SharedRequestSerializer,
    /// Holds the deserializer, which cannot be cloned out of it.
    layer: FrozenLayer,
    /// The root element of the response's document, if it has one.
    root: Option<&'static Root>,
}

impl Codec {
    fn of(operation: &impl RuntimePlugin) -> Option<Self> {
        let layer = operation.config()?;
        Some(Self {
            serializer: layer.load::<SharedRequestSerializer>()?.clone(),
            root: layer
                .load::<Metadata>()
                .and_then(|operation| Root::of(operation.name())),
            layer: layer
                .load::<SharedResponseDeserializer>()
                .is_some()
                .then_some(layer)?,
        })
    }
}

/// The fast path to a bucket: sends requests without most of the SDK.
pub(super) struct FastPath {
    endpoint: String,
    signer: Signer,
    /// True if TLS protects the requests, so that a body with a checksum needs no signature.
    is_private: bool,
    connector: SharedHttpConnector,
    identities: Identities,
    access: AccessHeaders,
    codecs: Codecs,
    pub(super) bodies: Bodies,
}

/// A header that a request sends in addition to its input.
pub(super) type Header = Option<(&'static str, String)>;

impl FastPath {
    /// Returns the path on which the SDK sent `request`, if other requests can take it too.
    fn of(
        request: &HttpRequest,
        components: &RuntimeComponents,
        config: &ConfigBag,
        learn: &LearnFastPath,
    ) -> Option<Self> {
        let params = config.load::<EndpointResolverParams>()?.get::<Params>()?;
        let endpoint = config.load::<Endpoint>()?;
        if params.bucket() != Some(&learn.bucket) || endpoint.headers().next().is_some() {
            return None;
        }
        // Credential=KEY/20150830/us-east-1/s3/aws4_request
        let authorization = request.headers().get("authorization")?;
        let scope = authorization
            .strip_prefix("AWS4-HMAC-SHA256 Credential=")?
            .split(',')
            .next()?;
        let mut scope = scope.rsplit('/');
        let (Some("aws4_request"), Some("s3"), Some(region)) =
            (scope.next(), scope.next(), scope.next())
        else {
            return None;
        };
        // Requests with the token of a session belong to directory buckets.
        if request.headers().contains_key("x-amz-s3session-token") {
            return None;
        }
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .build();
        Some(Self {
            endpoint: endpoint.url().to_owned(),
            signer: Signer::new(endpoint.url(), region.to_owned(), "s3".to_owned()),
            is_private: !is_plaintext(endpoint.url()),
            connector: components
                .http_client()?
                .http_connector(&settings, components),
            identities: learn.identities.clone(),
            access: learn.access.clone(),
            codecs: Codecs::new()?,
            bodies: Bodies::default(),
        })
    }

    /// Sends a request and reads the response.
    pub(super) async fn send<S: FastOperation>(
        &self,
        input: Result<S::Input, impl Into<BoxError>>,
        header: Header,
        signs_body: bool,
    ) -> Result<S::Output, SdkError<S::Error, HttpResponse>> {
        let input = Input::erase(input.map_err(SdkError::construction_failure)?);
        let exchanged = self
            .exchange(S::codec(&self.codecs), input, header, signs_body)
            .await;
        let (parsed, response) =
            exchanged.map_err(|error| error.map_service_error(|never| match never {}))?;
        let error = match parsed {
            Ok(output) => {
                let other = |_| SdkError::response_error("an answer to another request", response);
                return output.downcast().map_err(other);
            }
            Err(error) if error.is_operation_error() => error,
            Err(error) => return Err(SdkError::response_error(plain(&error), response)),
        };
        let mut refusal = None;
        drop(error.map_operation_error(|error| refusal = error.downcast().ok()));
        Err(match refusal {
            Some(refusal) => SdkError::service_error(refusal, response),
            None => SdkError::response_error("an error of another request", response),
        })
    }

    async fn exchange(
        &self,
        codec: &Codec,
        input: Input,
        header: Header,
        signs_body: bool,
    ) -> Result<(OutputOrError, HttpResponse), SdkError<Infallible, HttpResponse>> {
        let cached = self
            .identities
            .to_sign()
            .await
            .map_err(SdkError::construction_failure)?;
        let offset = self.identities.clock().offset();
        let request = self.request(codec, input, header, signs_body, &cached.identity);
        let request = request.map_err(SdkError::construction_failure)?;
        let secrets = Secrets::of(request.headers());
        let mut response = self
            .connector
            .call(request)
            .await
            .map_err(SdkError::dispatch_failure)?;
        response.add_extension(secrets);
        self.identities
            .clock()
            .witness(&mut response, cached.generation, offset);
        let body = std::mem::replace(response.body_mut(), SdkBody::taken());
        match ByteStream::new(body).collect().await {
            Ok(bytes) => *response.body_mut() = SdkBody::from(bytes.into_bytes()),
            Err(error) => return Err(SdkError::response_error(error, response)),
        }
        if let Err(error) = Secrets::missing_in(&response) {
            return Err(SdkError::response_error(error, response));
        }
        if let Err(error) = octets::make_readable(&mut response) {
            return Err(SdkError::response_error(error, response));
        }
        // The SDK returns the text of `Expires` in a separate field, and would fail on a text
        // that is not a date.
        let headers = response.headers_mut();
        if let Some(expires) = headers.remove("expires")
            && let Err(error) = headers.try_insert("expiresstring", expires)
        {
            return Err(SdkError::response_error(error, response));
        }
        if codec.root.is_some() && is_cut_off(&response) {
            return Err(SdkError::response_error(Unreadable, response));
        }
        if let Some(document) = codec.root.and_then(|root| root.renamed_in(&response)) {
            *response.body_mut() = document;
        }
        let parsed = match codec.layer.load::<SharedResponseDeserializer>() {
            Some(codec) => {
                codec.deserialize_nonstreaming_with_config(&response, &ConfigBag::base())
            }
            None => {
                return Err(SdkError::response_error(
                    "nothing reads this answer",
                    response,
                ));
            }
        };
        Ok((parsed, response))
    }

    /// Builds and signs the request.
    fn request(
        &self,
        codec: &Codec,
        input: Input,
        header: Header,
        signs_body: bool,
        identity: &Identity,
    ) -> Result<HttpRequest, BoxError> {
        let mut request = codec
            .serializer
            .serialize_input(input, &mut ConfigBag::base())?;
        request.uri_mut().set_endpoint(&self.endpoint)?;
        let headers = request.headers_mut();
        headers.try_insert("user-agent", USER_AGENT)?;
        if let Some((name, value)) = header {
            headers.try_insert(name, value)?;
        }
        self.access.add_to(headers)?;
        let payload = match request.body().bytes() {
            Some([]) => EMPTY.to_owned(),
            Some(bytes) if signs_body || !self.is_unsigned(request.headers()) => {
                payload_hash(bytes)
            }
            _ => {
                self.bodies.sent_unsigned();
                UNSIGNED.to_owned()
            }
        };
        let credentials = identity
            .data::<Credentials>()
            .ok_or("the credentials are none to sign with")?;
        let mut request = octets::restore(request)?;
        self.signer.sign(
            &mut request,
            credentials,
            self.identities.clock().now(),
            &payload,
        )?;
        Ok(request)
    }

    /// Returns true if a body needs no signature: TLS protects it from changes, and a checksum
    /// reveals damage.
    fn is_unsigned(&self, headers: &Headers) -> bool {
        self.is_private
            && !self.bodies.must_be_signed()
            && headers
                .iter()
                .any(|(name, _)| name.starts_with("x-amz-checksum-"))
    }
}

impl fmt::Debug for FastPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastPath")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Learns the fast path to a bucket from the first request to it that the server accepts.
#[derive(Clone, Debug)]
pub(super) struct LearnFastPath {
    pub(super) bucket: String,
    pub(super) access: AccessHeaders,
    pub(super) identities: Identities,
    pub(super) fast_path: Arc<OnceLock<FastPath>>,
}

/// Adds a header to a request that the SDK sends.
#[derive(Clone, Debug)]
pub(super) struct Extra {
    pub(super) name: &'static str,
    pub(super) value: String,
}

impl Intercept for Extra {
    fn name(&self) -> &'static str {
        "Extra"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        context
            .request_mut()
            .headers_mut()
            .try_insert(self.name, self.value.clone())?;
        Ok(())
    }
}

/// A fast path that no response has confirmed yet.
#[derive(Debug)]
struct Tried(Option<FastPath>);

impl Storable for Tried {
    type Storer = StoreReplace<Self>;
}

impl Intercept for LearnFastPath {
    fn name(&self) -> &'static str {
        "LearnFastPath"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.fast_path.get().is_none()
            && let Some(fast_path) = FastPath::of(context.request(), components, config, self)
        {
            config.interceptor_state().store_put(Tried(Some(fast_path)));
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().status().is_success()
            && let Some(tried) = config.get_mut_from_interceptor_state::<Tried>()
            && let Some(fast_path) = tried.0.take()
        {
            // Another request may have stored its path first.
            let _ = self.fast_path.set(fast_path);
        }
        Ok(())
    }
}
