//! Recognizes responses by their elements, whatever their root is called.
//!
//! The SDK refuses a document whose root has a name other than the one in S3's model; boto3 and
//! most other clients never look at it. Servers that were tested only with those clients name it
//! `ListPartsResponse`, or wrap the document in such an element. So this module gives the root the
//! name that the SDK expects, if the document has an element that only a response to this operation
//! has. Any other document (an HTML page, an object instead of its tags) stays unchanged and is
//! refused.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{
    ConfigBag, FrozenLayer, Intercept, RuntimeComponents, RuntimePlugin as _,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation as sdk;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::interceptors::context::{Error, Output};
use aws_smithy_runtime_api::client::orchestrator::{Metadata, OrchestratorError};
use aws_smithy_runtime_api::client::ser_de::{DeserializeResponse, SharedResponseDeserializer};

use super::page::holds_error;
use super::secrets::Secrets;
use super::xml::{Unreadable, XmlReader, XmlTag};

/// The root element that the SDK expects in the response to an operation.
#[derive(Debug)]
pub(super) struct Root {
    operation: &'static str,
    name: &'static str,
    /// The elements that identify the document; one of them is enough.
    marks: &'static [TellingElement],
    /// Returns the SDK's configuration of the operation, which holds its deserializer.
    layer: fn() -> Option<FrozenLayer>,
}

/// An element that only a response to one operation has.
#[derive(Debug)]
struct TellingElement {
    element: &'static str,
    /// The texts that it may hold; empty for any.
    values: &'static [&'static str],
}

/// The root of a list of objects. Some servers answer with such a list if they do not know a
/// request about a bucket. The SDK would read it as an empty list of uploads or versions.
const OBJECTS: &str = "ListBucketResult";
/// An element that all lists have.
const OF_ALL_LISTS: &str = "IsTruncated";

/// Builds the table of roots.
macro_rules! roots {
    ($($module:ident::$operation:ident => $name:literal, [$($element:literal $(= $($value:literal)|+)?),+];)+) => {
        const ROOTS: &[Root] = &[$(Root {
            operation: stringify!($operation),
            name: $name,
            marks: &[$(TellingElement { element: $element, values: &[$($($value),+)?] }),+],
            layer: || sdk::$module::$operation::new().config(),
        }),+];
    };
}

roots! {
    create_multipart_upload::CreateMultipartUpload => "InitiateMultipartUploadResult", ["UploadId"];
    complete_multipart_upload::CompleteMultipartUpload => "CompleteMultipartUploadResult", ["ETag"];
    copy_object::CopyObject => "CopyObjectResult", ["ETag"];
    upload_part_copy::UploadPartCopy => "CopyPartResult", ["ETag"];
    list_parts::ListParts => "ListPartsResult", ["Part", "IsTruncated", "MaxParts", "PartNumberMarker", "UploadId"];
    list_multipart_uploads::ListMultipartUploads => "ListMultipartUploadsResult", ["Upload", "IsTruncated", "MaxUploads", "UploadIdMarker"];
    list_object_versions::ListObjectVersions => "ListVersionsResult", ["Version", "DeleteMarker", "IsTruncated", "VersionIdMarker"];
    get_bucket_versioning::GetBucketVersioning => "VersioningConfiguration", ["Status" = "Enabled" | "Suspended"];
    get_object_tagging::GetObjectTagging => "Tagging", ["TagSet"];
    get_object_acl::GetObjectAcl => "AccessControlPolicy", ["AccessControlList"];
    get_object_retention::GetObjectRetention => "Retention", ["RetainUntilDate"];
    get_object_legal_hold::GetObjectLegalHold => "LegalHold", ["Status" = "ON" | "OFF"];
    list_object_annotations::ListObjectAnnotations => "ListObjectAnnotationsOutput", ["Annotations", "Annotation", "NextContinuationToken"];
}

impl Root {
    /// Returns the root of the response to this operation, if the response is a document.
    pub(super) fn of(operation: &str) -> Option<&'static Self> {
        ROOTS.iter().find(|root| root.operation == operation)
    }

    /// Returns the body of a response with its root renamed, or `None` if it can be read unchanged,
    /// or not at all.
    pub(super) fn renamed_in(&self, response: &HttpResponse) -> Option<SdkBody> {
        self.renamed(document_of(response)?)
            .ok()
            .flatten()
            .map(SdkBody::from)
    }

    fn renamed(&self, document: &str) -> Result<Option<String>, Unreadable> {
        let mut reader = XmlReader::new(document);
        let root = match reader.child()? {
            // Some servers answer like this for a bucket that never had versions.
            Some(XmlTag::Empty(root)) if self.means_no_versions(root) => {
                return Ok(Some(self.wrap("")));
            }
            Some(XmlTag::Open(root)) if root != self.name && root != "Error" => root,
            _ => return Ok(None),
        };
        let begin = document.len() - reader.left();
        let (mut is_known, mut is_empty) = (false, true);
        while let Some(tag) = reader.child()? {
            is_empty = false;
            if let XmlTag::Empty(name) = tag {
                is_known |= self.is_marked(root, name, "");
            }
            if let XmlTag::Open(name) = tag {
                let begin = document.len() - reader.left();
                reader.skip()?;
                is_known |= self.is_marked(
                    root,
                    name,
                    inner(document, begin, &reader).unwrap_or_default(),
                );
                // The root only wraps the document itself.
                if name == self.name {
                    return Ok(inner(document, begin, &reader).map(|inner| self.wrap(inner)));
                }
            }
        }
        let is_known = is_known || (is_empty && self.means_no_versions(root));
        Ok(inner(document, begin, &reader)
            .filter(|_| is_known)
            .map(|inner| self.wrap(inner)))
    }

    /// Returns true if an element with this text, directly below a root of this name, identifies
    /// the document.
    fn is_marked(&self, root: &str, element: &str, text: &str) -> bool {
        let mark = self.marks.iter().find(|mark| mark.element == element);
        mark.is_some_and(|mark| {
            let is_allowed = mark.values.is_empty() || mark.values.contains(&text.trim());
            is_allowed && !(root == OBJECTS && element == OF_ALL_LISTS)
        })
    }

    /// Returns true if the name of the root alone shows that a bucket has no versions.
    fn means_no_versions(&self, root: &str) -> bool {
        self.operation == "GetBucketVersioning" && root.starts_with(self.operation)
    }

    fn wrap(&self, inner: &str) -> String {
        format!("<{name}>{inner}</{name}>", name = self.name)
    }
}

/// Returns true if the document ends before its root element is closed. The SDK would read it as
/// complete.
pub(super) fn is_cut_off(response: &HttpResponse) -> bool {
    document_of(response).is_some_and(ends_early)
}

/// Returns true for a response about tags without a `TagSet`. The SDK would read it as an empty
/// set.
pub(super) fn lacks_tag_set(response: &HttpResponse) -> bool {
    document_of(response).is_some_and(|document| is_bare(document, "Tagging"))
}

/// Returns the document of a successful response.
fn document_of(response: &HttpResponse) -> Option<&str> {
    let is_success = response.status().is_success();
    let document = response.body().bytes().filter(|_| is_success)?;
    std::str::from_utf8(document).ok()
}

/// Returns true if the last tag of a document does not close its root.
fn ends_early(document: &str) -> bool {
    let Ok(Some(XmlTag::Open(root))) = XmlReader::new(document).child() else {
        return false;
    };
    let last = document
        .trim_end()
        .strip_suffix('>')
        .and_then(|document| document.rsplit_once("</"));
    let last = last.map(|(_, name)| name.trim_end().rsplit(':').next().unwrap_or_default());
    last != Some(root)
}

/// Returns true for a document with this root that contains no element.
fn is_bare(document: &str, name: &str) -> bool {
    let mut reader = XmlReader::new(document);
    match reader.child() {
        Ok(Some(XmlTag::Empty(root))) => root == name,
        Ok(Some(XmlTag::Open(root))) => root == name && matches!(reader.child(), Ok(None)),
        _ => false,
    }
}

/// Returns the text between `begin` and the tag that was closed last.
fn inner<'d>(document: &'d str, begin: usize, reader: &XmlReader<'_>) -> Option<&'d str> {
    let read = document.get(begin..document.len() - reader.left())?;
    read.get(..read.rfind("</")?)
}

/// Lets the SDK read responses whose root has any name.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnyRoot;

impl Intercept for AnyRoot {
    fn name(&self) -> &'static str {
        "AnyRoot"
    }

    fn modify_before_deserialization(
        &self,
        _: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let root = config
            .load::<Metadata>()
            .and_then(|operation| Root::of(operation.name()));
        if let Some(root) = root
            && let Some(layer) = (root.layer)()
        {
            let renaming = Renaming { root, layer };
            config
                .interceptor_state()
                .store_put(SharedResponseDeserializer::new(renaming));
        }
        Ok(())
    }
}

/// Renames the root of a response before the SDK reads it.
#[derive(Debug)]
struct Renaming {
    root: &'static Root,
    layer: FrozenLayer,
}

impl DeserializeResponse for Renaming {
    fn deserialize_nonstreaming_with_config(
        &self,
        response: &HttpResponse,
        config: &ConfigBag,
    ) -> Result<Output, OrchestratorError<Error>> {
        let Some(inner) = self.layer.load::<SharedResponseDeserializer>() else {
            return Err(OrchestratorError::other("nothing reads this answer"));
        };
        Secrets::missing_in(response)
            .map_err(|quoted| OrchestratorError::response(quoted.into()))?;
        if is_cut_off(response) {
            return Err(OrchestratorError::response(Unreadable.into()));
        }
        if document_of(response).is_some_and(holds_error) {
            return Err(OrchestratorError::response(
                "the document ends in an error".into(),
            ));
        }
        if self.root.operation == "GetObjectTagging" && lacks_tag_set(response) {
            return Err(OrchestratorError::response(
                "the document has no set of tags".into(),
            ));
        }
        let Some(document) = self.root.renamed_in(response) else {
            return inner.deserialize_nonstreaming_with_config(response, config);
        };
        let mut renamed = HttpResponse::new(response.status(), document);
        for (name, value) in response.headers() {
            renamed
                .headers_mut()
                .append(name.to_owned(), value.to_owned());
        }
        inner.deserialize_nonstreaming_with_config(&renamed, config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(operation: &str, document: &str) -> Option<String> {
        Root::of(operation)
            .unwrap()
            .renamed(document)
            .ok()
            .flatten()
    }

    #[test]
    fn a_root_of_another_name_is_renamed() {
        let parts =
            "<Part><PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag></Part> <IsTruncated/>";
        for begin in ["", "<?xml version=\"1.0\"?>\n"] {
            let other = format!(
                "{begin}<s:ListPartsResponse xmlns:s=\"x\">{parts}</s:ListPartsResponse>\n"
            );
            let expected = format!("<ListPartsResult>{parts}</ListPartsResult>");
            assert_eq!(renamed("ListParts", &other), Some(expected.clone()));
            let wrapped =
                format!("{begin}<R><A/><ListPartsResult x=\"y\">{parts}</ListPartsResult><B/></R>");
            assert_eq!(renamed("ListParts", &wrapped), Some(expected));
        }
        assert_eq!(
            renamed(
                "CreateMultipartUpload",
                "<InitiateMultipartUpload><UploadId>u</UploadId></InitiateMultipartUpload>"
            ),
            Some(
                "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                    .to_owned()
            )
        );
        for (operation, name, inner) in [
            ("GetObjectLegalHold", "LegalHold", "<Status> OFF </Status>"),
            (
                "GetBucketVersioning",
                "VersioningConfiguration",
                "<MfaDelete/><Status>Suspended</Status>",
            ),
            (
                "GetObjectRetention",
                "Retention",
                "<Mode>X</Mode><RetainUntilDate>2032</RetainUntilDate>",
            ),
            (
                "ListObjectVersions",
                "ListVersionsResult",
                "<IsTruncated>false</IsTruncated>",
            ),
        ] {
            let expected = format!("<{name}>{inner}</{name}>");
            assert_eq!(
                renamed(operation, &format!("<Response>{inner}</Response>")),
                Some(expected)
            );
        }
        for never in [
            "<GetBucketVersioningResponse/>",
            "<GetBucketVersioningResponse></GetBucketVersioningResponse>",
        ] {
            let expected = "<VersioningConfiguration></VersioningConfiguration>";
            assert_eq!(
                renamed("GetBucketVersioning", never).as_deref(),
                Some(expected)
            );
        }
    }

    #[test]
    fn a_document_without_its_end_is_cut_off() {
        let whole =
            "<?xml version=\"1.0\"?>\n<s:L xmlns:s=\"x\"><Upload><Key>a</Key></Upload><A/></s:L>\n";
        for end in whole.find("<s:L xmlns:s=\"x\">").unwrap() + 17..whole.len() - 1 {
            assert!(ends_early(&whole[..end]), "{}", &whole[..end]);
        }
        for other in [
            whole,
            "<A/>",
            "",
            "  ",
            "text",
            "<?xml version=\"1.0\"?>",
            "<A></A >",
        ] {
            assert!(!ends_early(other), "{other}");
        }
    }

    #[test]
    fn a_document_without_elements_is_bare() {
        for document in [
            "<Tagging/>",
            "<?xml version=\"1.0\"?><Tagging xmlns=\"x\"> </Tagging>",
        ] {
            assert!(is_bare(document, "Tagging"), "{document}");
        }
        for document in [
            "",
            "<Tagging><TagSet/></Tagging>",
            "<Tagging><TagSet></TagSet></Tagging>",
            "<Other/>",
        ] {
            assert!(!is_bare(document, "Tagging"), "{document}");
        }
    }

    #[test]
    fn nothing_else_is_taken_for_the_answer() {
        for root in ROOTS {
            let right = format!("<{name}><X/></{name}>", name = root.name);
            for document in [
                right.as_str(),
                "",
                "<html><head><title>Status</title></head><body></body></html>",
                "<Error><Code>SlowDown</Code><Status/><ETag/><Part/></Error>",
                "<Other/>",
                "<Other></Other>",
                "{\"UploadId\": 1}",
                "<R><UploadId>u</UploadId>",
                // A server may send such an object instead of one of its attributes.
                "<order><Status>open</Status><Mode>express</Mode></order>",
                "<order><Status/><Mode/></order>",
                "<order><Status><ON/></Status></order>",
                // A list of objects is not an empty list of uploads or versions.
                "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key></Contents></ListBucketResult>",
            ] {
                assert_eq!(
                    renamed(root.operation, document),
                    None,
                    "{} {document}",
                    root.operation
                );
            }
            // The name of the root alone identifies nothing, except a bucket without versions.
            let alias = format!("<{}Response></{}Response>", root.operation, root.operation);
            let is_known = root.operation == "GetBucketVersioning";
            assert_eq!(
                renamed(root.operation, &alias).is_some(),
                is_known,
                "{alias}"
            );
        }
        assert!(Root::of("HeadObject").is_none());
    }
}
