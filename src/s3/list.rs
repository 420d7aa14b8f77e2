//! `ListObjectsV2`, parsed from the response's text.
//!
//! A sync of a million objects that are all up to date reads two million list entries and does
//! nothing else, so an entry must cost almost nothing. Such a sync took 16.4 s of CPU time with the
//! SDK's parser and takes 8.3 s with this one. The SDK still handles the request, its signature,
//! and its failures; for a successful response, an interceptor replaces the SDK's parser with this
//! one. A page that was not parsed is never mistaken for an empty one.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ErrorMetadata};
use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
use aws_sdk_s3::types as sdk;
use aws_smithy_runtime_api::client::interceptors::context::{Error, Output};
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::ser_de::{DeserializeResponse, SharedResponseDeserializer};

use super::convert::{decode, is_archive};
use super::ids::{IdKind, possible_size};
use super::page::PageClaims;
use super::paging::follows;
use super::requests::{failure, fault};
use super::secrets::{Quoted, Secrets, TextPieces};
use super::xml::{Unreadable, XmlReader, XmlTag};
use super::{ArchiveState, Client, Failure, ListedObject, Operation, Page};
use crate::location::BucketName;

impl Client {
    /// Returns one page of keys in the order of their bytes. `after` is the last key seen so far.
    pub async fn list_objects(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page<ListedObject>, Failure> {
        self.list_at_most(None, bucket, prefix, after, token).await
    }

    /// Returns a page of at most one key.
    ///
    /// # Errors
    /// Fails for the same reasons as [`Client::list_objects`].
    pub async fn list_one(
        &self,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page<ListedObject>, Failure> {
        self.list_at_most(Some(1), bucket, prefix, after, token)
            .await
    }

    async fn list_at_most(
        &self,
        max_keys: Option<i32>,
        bucket: &BucketName,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Page<ListedObject>, Failure> {
        let encode = self.capabilities().encoded_lists;
        let reader = PageReader {
            knows_archives: self.capabilities().restore_status_in_lists,
            ..PageReader::default()
        };
        self.sdk
            .list_objects_v2()
            .bucket(bucket.as_str())
            .set_max_keys(max_keys)
            .set_prefix((!prefix.is_empty()).then(|| prefix.to_owned()))
            .set_start_after(after.map(str::to_owned))
            .set_continuation_token(token.map(str::to_owned))
            .set_encoding_type(encode.then_some(sdk::EncodingType::Url))
            .set_optional_object_attributes(self.asks_for_restores(bucket))
            .customize()
            .interceptor(reader.clone())
            .send()
            .await
            .map_err(|error| failure(Operation::ListObjects, bucket, None, &error))?;
        let faulty = |message| fault(Operation::ListObjects, bucket, None, message);
        let Some(ListPage {
            items,
            name,
            claims,
            truncated,
            next,
            mistake,
        }) = reader.take()
        else {
            return Err(faulty("the answer was not read as a list".to_owned()));
        };
        let contradiction = mistake.or_else(|| claims.contradiction(prefix, items.len()));
        if let Some(message) = contradiction.or_else(|| self.of_another(bucket, name.as_deref())) {
            return Err(faulty(message));
        }
        let next = IdKind::Token
            .optional(next)
            .and_then(|next| follows(truncated, next, None))
            .map_err(faulty)?;
        Ok(Page { items, next })
    }

    /// Returns an error message if the list names a bucket other than `bucket`. The name is checked
    /// only on endpoints whose responses are not trusted, because gateways rename buckets. It is
    /// never checked for access points and tenants, because their lists name another bucket.
    pub(super) fn of_another(&self, bucket: &BucketName, named: Option<&str>) -> Option<String> {
        let has_alias = bucket.as_str().contains(':') || bucket.as_str().ends_with("-s3alias");
        let named = named.filter(|named| *named != bucket.as_str() && !has_alias)?;
        let is_another = !self.capabilities().believes_answers();
        is_another.then(|| format!("the list belongs to the bucket `{named}`"))
    }
}

/// The contents of a response.
#[derive(Debug, Default, PartialEq)]
struct ListPage {
    items: Vec<ListedObject>,
    /// The bucket's name in the response.
    name: Option<String>,
    claims: PageClaims,
    /// The response's `IsTruncated`; absent if it has none.
    truncated: Option<bool>,
    next: Option<String>,
    /// The reason why a page that was parsed cannot be used: a key that is not UTF-8, or an object
    /// without a size.
    mistake: Option<String>,
}

/// Parses the response of one request and keeps its contents.
#[derive(Clone, Debug, Default)]
struct PageReader {
    knows_archives: bool,
    /// Absent until a response is parsed.
    listed: Arc<Mutex<Option<ListPage>>>,
}

impl PageReader {
    fn take(&self) -> Option<ListPage> {
        self.listed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Intercept for PageReader {
    fn name(&self) -> &'static str {
        "PageReader"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().status().is_success() {
            config
                .interceptor_state()
                .store_put(SharedResponseDeserializer::new(self.clone()));
        }
        Ok(())
    }
}

impl DeserializeResponse for PageReader {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        _: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        let document = std::str::from_utf8(response.body().bytes().unwrap_or_default());
        let document = document.map_err(|error| OrchestratorError::response(error.into()))?;
        match read(
            document,
            self.knows_archives,
            &Secrets::pieces_for(response),
        ) {
            Ok(listed) => {
                *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some(listed);
                Ok(Output::erase(ListObjectsV2Output::builder().build()))
            }
            Err(PageError::Refused(metadata)) => Err(OrchestratorError::operation(Error::erase(
                ListObjectsV2Error::generic(*metadata),
            ))),
            // Not wrapped in a `PageError`, so that a search of the causes finds it.
            Err(PageError::Quoted(quoted)) => Err(OrchestratorError::response(quoted.into())),
            Err(error) => Err(OrchestratorError::response(error.into())),
        }
    }
}

/// The reason why a document is not a page.
#[derive(Debug, thiserror::Error)]
enum PageError {
    /// The document is an error document, whatever the HTTP status is.
    #[error("{0:?}")]
    Refused(Box<ErrorMetadata>),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It repeats a secret of its request.
    #[error(transparent)]
    Quoted(#[from] Quoted),
}

/// Elements that only a page has. A document whose root has another name is a page if it holds one
/// of them.
const OF_A_PAGE: [&str; 7] = [
    "Contents",
    "IsTruncated",
    "KeyCount",
    "MaxKeys",
    "NextContinuationToken",
    "CommonPrefixes",
    "StartAfter",
];

/// Reads a page, which is recognized by its elements, whatever its root is called. No `ETag` may
/// repeat one of the `secrets`.
fn read(document: &str, knows_archives: bool, secrets: &TextPieces) -> Result<ListPage, PageError> {
    let mut reader = XmlReader::new(document);
    let mut is_page = match reader.child()? {
        Some(XmlTag::Open("Error")) => {
            return Err(PageError::Refused(Box::new(refusal(&mut reader)?)));
        }
        Some(XmlTag::Open(root)) => root == "ListBucketResult",
        _ => return Err(Unreadable.into()),
    };
    // A page has a thousand entries or none.
    let mut listed = ListPage::default();
    let (mut encoded, mut hollow) = (false, false);
    while let Some(tag) = reader.child()? {
        if let XmlTag::Open(name) | XmlTag::Empty(name) = tag {
            is_page = is_page || OF_A_PAGE.contains(&name);
        }
        match tag {
            XmlTag::Open("Contents") => {
                if listed.items.capacity() == 0 {
                    listed.items.reserve(1000);
                }
                let (object, mistake) = object(&mut reader, knows_archives, secrets)?;
                listed.mistake = listed.mistake.take().or(mistake);
                listed.items.push(object);
            }
            XmlTag::Open("IsTruncated") => {
                listed.truncated = match reader.text()?.trim() {
                    "true" | "True" | "TRUE" | "1" => Some(true),
                    "false" | "False" | "FALSE" | "0" => Some(false),
                    // If this were taken for the end of the list, keys would be missing.
                    _ => return Err(Unreadable.into()),
                }
            }
            XmlTag::Open("Name") => listed.name = Some(reader.text()?.into_owned()),
            XmlTag::Open("NextContinuationToken") => {
                listed.next = Some(reader.text()?.into_owned());
            }
            XmlTag::Open("EncodingType") => encoded = reader.text()?.trim() == "url",
            XmlTag::Open("Prefix") => listed.claims.prefix = Some(reader.text()?.into_owned()),
            XmlTag::Open("KeyCount") => listed.claims.count = reader.text()?.trim().parse().ok(),
            XmlTag::Open("CommonPrefixes") => {
                listed.claims.group = group(&mut reader)?.or(listed.claims.group);
            }
            // A server that fails late appends the error to what it has sent.
            XmlTag::Open("Error") => {
                return Err(PageError::Refused(Box::new(refusal(&mut reader)?)));
            }
            XmlTag::Open(_) => reader.skip()?,
            // An empty element does not say whether the list ends.
            XmlTag::Empty("IsTruncated") => return Err(Unreadable.into()),
            XmlTag::Empty("Contents") => hollow = true,
            XmlTag::Empty(_) | XmlTag::Close(_) => {}
        }
    }
    // Some servers write an empty list as one empty element.
    if hollow && listed.claims.count != Some(0) {
        listed.mistake = Some("the list contains an object without a key".to_owned());
    }
    if !is_page {
        return Err(Unreadable.into());
    }
    if encoded {
        for item in &mut listed.items {
            if !item.key.contains(['%', '+']) {
                continue;
            }
            let key = decode(item.key.to_string(), true).unwrap_or_else(|key| {
                listed.mistake = Some(format!("the list contains a key that is not UTF-8: {key}"));
                String::new()
            });
            item.key = key.into();
        }
    }
    listed.items.shrink_to_fit();
    Ok(listed)
}

/// Returns the prefix of a group of keys, unless it is missing or empty.
fn group(reader: &mut XmlReader<'_>) -> Result<Option<String>, Unreadable> {
    let mut prefix = None;
    while let Some(tag) = reader.child()? {
        match tag {
            XmlTag::Open("Prefix") => {
                prefix = Some(reader.text()?.into_owned()).filter(|it| !it.is_empty());
            }
            XmlTag::Open(_) => reader.skip()?,
            XmlTag::Empty(_) | XmlTag::Close(_) => {}
        }
    }
    Ok(prefix)
}

/// Returns the code and the message of an error.
fn refusal(reader: &mut XmlReader<'_>) -> Result<ErrorMetadata, Unreadable> {
    let mut metadata = ErrorMetadata::builder();
    while let Some(tag) = reader.child()? {
        match tag {
            XmlTag::Open("Code") => metadata = metadata.code(reader.text()?),
            XmlTag::Open("Message") => metadata = metadata.message(reader.text()?),
            XmlTag::Open(_) => reader.skip()?,
            XmlTag::Empty(_) | XmlTag::Close(_) => {}
        }
    }
    Ok(metadata.build())
}

/// Reads one object, and the first mistake in it, if there is one. The key stays encoded.
fn object(
    reader: &mut XmlReader<'_>,
    knows_archives: bool,
    secrets: &TextPieces,
) -> Result<(ListedObject, Option<String>), PageError> {
    let mut object = ListedObject {
        key: Arc::default(),
        size: 0,
        etag: None,
        modified: None,
        storage_class: None,
        archive: ArchiveState::Readable,
    };
    let (mut restore, mut size, mut mistake) = (None, None, None);
    while let Some(tag) = reader.child()? {
        match tag {
            XmlTag::Open("Key") => object.key = reader.text()?.into(),
            XmlTag::Open("Size") => size = reader.text()?.trim().parse().ok(),
            XmlTag::Open("ETag") => {
                let etag = reader.unquoted()?;
                secrets.check("an ETag", &etag)?;
                match IdKind::Etag.optional(Some(etag.into_owned())) {
                    Ok(etag) => object.etag = etag,
                    Err(message) => mistake = Some(message),
                }
            }
            XmlTag::Open("LastModified") => object.modified = reader.text()?.trim().parse().ok(),
            XmlTag::Open("StorageClass") => {
                let class = reader.text()?;
                object.storage_class = (class != "STANDARD").then(|| class.into_owned());
            }
            XmlTag::Open("RestoreStatus") => restore = Some(restore_status(reader)?),
            XmlTag::Open(_) => reader.skip()?,
            XmlTag::Empty(_) | XmlTag::Close(_) => {}
        }
    }
    match size {
        Some(size) => match possible_size(size, format_args!("size of `{}`", object.key)) {
            Ok(size) => object.size = size,
            Err(message) => mistake = Some(message),
        },
        None => mistake = Some(format!("the list contains no size for `{}`", object.key)),
    }
    if object.key.is_empty() {
        mistake = Some("the list contains an object without a key".to_owned());
    }
    if knows_archives && is_archive(object.storage_class.as_deref()) {
        object.archive = restore.unwrap_or(ArchiveState::Archived);
    }
    Ok((object, mistake))
}

/// Reads the archive state of an object from its `RestoreStatus`.
fn restore_status(reader: &mut XmlReader<'_>) -> Result<ArchiveState, Unreadable> {
    let (mut ongoing, mut expires) = (false, false);
    while let Some(tag) = reader.child()? {
        match tag {
            XmlTag::Open("IsRestoreInProgress") => {
                // Both are spellings of a boolean in XML, and some servers capitalize it.
                let text = reader.text()?;
                let text = text.trim();
                ongoing = text.eq_ignore_ascii_case("true") || text == "1";
            }
            XmlTag::Open("RestoreExpiryDate") => expires = !reader.text()?.is_empty(),
            XmlTag::Open(_) => reader.skip()?,
            XmlTag::Empty(_) | XmlTag::Close(_) => {}
        }
    }
    Ok(match (expires, ongoing) {
        (true, _) => ArchiveState::Readable,
        (false, true) => ArchiveState::Restoring,
        (false, false) => ArchiveState::Archived,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;
    use aws_smithy_runtime_api::http::Headers;

    use super::*;
    use crate::s3::causes::find;

    fn read(document: &str, knows_archives: bool) -> Result<ListPage, PageError> {
        super::read(document, knows_archives, &TextPieces::default())
    }

    const PAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>lake</Name><Prefix/><KeyCount>2</KeyCount>
<MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
<NextContinuationToken>1/a&amp;b==</NextContinuationToken>
<Contents><Key>a+b%2F%C3%A9&amp;</Key><LastModified>2026-11-22T18:05:01.000Z</LastModified>
<ETag>&quot;0123-2&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><Size>5</Size><StorageClass>STANDARD</StorageClass>
<Owner><ID>x</ID></Owner></Contents>
<Contents><Key>b</Key><ETag>"4567"</ETag><Size>0</Size><StorageClass>GLACIER</StorageClass>
<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus></Contents>
<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListBucketResult>"#;

    #[test]
    fn a_page_is_read() {
        let listed = read(PAGE, true).unwrap();
        assert_eq!(
            (listed.truncated, listed.next.as_deref()),
            (Some(true), Some("1/a&b=="))
        );
        let [one, other] = &listed.items[..] else {
            panic!("{listed:?}")
        };
        assert_eq!(
            (&*one.key, one.size, one.etag.as_deref()),
            ("a b/é&", 5, Some("0123-2"))
        );
        assert_eq!(one.modified, Some("2026-11-22T18:05:01Z".parse().unwrap()));
        assert_eq!(
            (&one.storage_class, one.archive),
            (&None, ArchiveState::Readable)
        );
        assert_eq!(
            (other.etag.as_deref(), other.storage_class.as_deref()),
            (Some("4567"), Some("GLACIER"))
        );
        assert_eq!(other.archive, ArchiveState::Restoring);
        for spelling in ["True", " true\n", "1"] {
            let page = PAGE.replace(">true</IsRestore", &format!(">{spelling}</IsRestore"));
            let listed = read(&page, true).unwrap();
            assert_eq!(
                listed.items[1].archive,
                ArchiveState::Restoring,
                "{spelling}"
            );
        }
        assert_eq!(
            read(PAGE, false).unwrap().items[1].archive,
            ArchiveState::Readable
        );
    }

    #[test]
    fn names_that_are_not_encoded_stay_as_they_are() {
        let plain = PAGE.replace("<EncodingType>url</EncodingType>", "");
        assert_eq!(
            read(&plain, true).unwrap().items[0].key.as_ref(),
            "a+b%2F%C3%A9&"
        );
        let bad = PAGE.replace("%C3%A9", "%C3");
        assert_eq!(
            read(&bad, true).unwrap().mistake.as_deref(),
            Some("the list contains a key that is not UTF-8: a+b%2F%C3&")
        );
    }

    #[test]
    fn an_error_is_one_whatever_the_status_says() {
        let document = "<?xml version=\"1.0\"?>  <Error><Code>SlowDown</Code><Message>Reduce</Message><RequestId>1</RequestId></Error>";
        let Err(PageError::Refused(metadata)) = read(document, true) else {
            panic!("no error")
        };
        assert_eq!(
            (metadata.code(), metadata.message()),
            (Some("SlowDown"), Some("Reduce"))
        );
    }

    #[test]
    fn a_page_whose_etag_repeats_a_secret_is_refused() {
        let secret = "0123456789abcdef-token";
        let mut headers = Headers::new();
        headers.insert("x-amz-security-token", secret);
        let body = SdkBody::from(PAGE.replace("4567", secret));
        let mut response = HttpResponse::new(200.try_into().unwrap(), body);
        response.add_extension(Secrets::of(&headers));
        let read = PageReader::default()
            .deserialize_nonstreaming_with_config(&response, &ConfigBag::base());
        let error = read.unwrap_err();
        assert!(find::<Quoted>(&error).is_some(), "{error:?}");
    }

    #[test]
    fn a_page_that_is_cut_off_is_never_taken_for_a_whole() {
        for end in (0..PAGE.len()).filter(|end| PAGE.is_char_boundary(*end)) {
            assert!(read(&PAGE[..end], true).is_err(), "{end}");
        }
        for bad in [
            "",
            "<html></html>",
            "<html><body>Contents</body></html>",
            "<Tagging><TagSet/></Tagging>",
        ] {
            assert!(read(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_is_known_by_its_elements() {
        for root in ["ListBucketV2Result", "ListObjectsV2Response", "Result"] {
            let other = PAGE.replace("ListBucketResult", root);
            assert_eq!(
                read(&other, true).unwrap(),
                read(PAGE, true).unwrap(),
                "{root}"
            );
        }
        assert_eq!(
            read("<ListBucketResult></ListBucketResult>", true).unwrap(),
            ListPage::default()
        );
    }

    #[test]
    fn what_a_page_says_about_itself_is_kept() {
        let claims = read(PAGE, true).unwrap().claims;
        assert_eq!(
            claims,
            PageClaims {
                prefix: None,
                count: Some(2),
                group: Some("p/".to_owned())
            }
        );
        let empty = "<ListBucketResult><KeyCount>0</KeyCount><Contents/><CommonPrefixes/><CommonPrefixes>\
            </CommonPrefixes></ListBucketResult>";
        let listed = read(empty, true).unwrap();
        assert_eq!(
            (listed.mistake, listed.claims.group, listed.items.len()),
            (None, None, 0)
        );
        let hollow = read("<ListBucketResult><Contents/></ListBucketResult>", true).unwrap();
        assert_eq!(
            hollow.mistake.as_deref(),
            Some("the list contains an object without a key")
        );
        let unsaid = PAGE.replace("<IsTruncated>true</IsTruncated>", "<IsTruncated/>");
        assert!(matches!(read(&unsaid, true), Err(PageError::Unreadable(_))));
        let late = PAGE.replace(
            "<CommonPrefixes>",
            "<Error><Code>InternalError</Code></Error><CommonPrefixes>",
        );
        let Err(PageError::Refused(error)) = read(&late, true) else {
            panic!("no error")
        };
        assert_eq!(error.code(), Some("InternalError"));
    }

    #[test]
    fn what_an_object_lacks_is_not_made_up() {
        let size = "<Size>5</Size>";
        for (bad, says) in [
            (PAGE.replace(size, ""), "no size for `a+b%2F%C3%A9&`"),
            (PAGE.replace(size, "<Size>-5</Size>"), "no size for"),
            (
                PAGE.replace(size, "<Size>9223372036854775807</Size>"),
                "accepts at most 9007199254740992",
            ),
            (
                PAGE.replace(size, "<Size>18446744073709551615</Size>"),
                "accepts at most 9007199254740992",
            ),
            (PAGE.replace("<Key>b</Key>", ""), "without a key"),
            (
                PAGE.replace("4567", &"4".repeat(2000)),
                "an ETag of 2000 bytes",
            ),
        ] {
            let mistake = read(&bad, true).unwrap().mistake.unwrap();
            assert!(mistake.contains(says), "{mistake}");
        }
    }
}
