//! Adds the headers that a bucket needs on *every* request: its expected owner and the payer.
//!
//! An interceptor adds them, so that new kinds of requests get them too. A copy involves two
//! buckets: its request goes to the destination, and `x-amz-copy-source` names the source. That
//! header identifies a copy.

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::http::Headers;

use super::octets;
use crate::manifest::job::Access;

/// Adds the headers of a bucket to its requests.
#[derive(Clone, Debug, Default)]
pub(super) struct AccessHeaders {
    /// The settings of the bucket that the requests go to.
    pub(super) own: Access,
    /// The settings of the bucket that copies read.
    pub(super) source: Access,
}

impl AccessHeaders {
    /// Returns the names and values of the headers for one request.
    fn of(&self, is_copy: bool) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if let Some(owner) = &self.own.expected_owner {
            headers.push(("x-amz-expected-bucket-owner", owner.clone()));
        }
        if let Some(owner) = self.source.expected_owner.as_ref().filter(|_| is_copy) {
            headers.push(("x-amz-source-expected-bucket-owner", owner.clone()));
        }
        // One header covers both buckets of a copy.
        if self.own.requester_pays || (is_copy && self.source.requester_pays) {
            headers.push(("x-amz-request-payer", "requester".to_owned()));
        }
        headers
    }

    /// Adds the headers to the headers of a request.
    ///
    /// # Errors
    /// Fails if a value is not valid in a header.
    pub(super) fn add_to(&self, headers: &mut Headers) -> Result<(), BoxError> {
        let is_copy = headers.contains_key("x-amz-copy-source");
        for (name, value) in self.of(is_copy) {
            headers.try_insert(name, value)?;
        }
        Ok(())
    }
}

impl Intercept for AccessHeaders {
    fn name(&self) -> &'static str {
        "AccessHeaders"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.add_to(context.request_mut().headers_mut())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Every response passes here. The SDK fails on header values that are not UTF-8.
        octets::make_readable(context.response_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_names_both_owners_and_one_payer() {
        let access = |owner: &str, requester_pays| Access {
            expected_owner: Some(owner.to_owned()),
            requester_pays,
        };
        let headers = AccessHeaders {
            own: access("2", false),
            source: access("1", true),
        };
        let own = ("x-amz-expected-bucket-owner", "2".to_owned());
        assert_eq!(headers.of(false), std::slice::from_ref(&own));
        let source = ("x-amz-source-expected-bucket-owner", "1".to_owned());
        assert_eq!(
            headers.of(true),
            [own, source, ("x-amz-request-payer", "requester".to_owned())]
        );
        assert_eq!(AccessHeaders::default().of(true), []);
    }
}
