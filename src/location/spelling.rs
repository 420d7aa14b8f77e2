//! Recognizes locations in the notation of other tools, consoles, and browsers, and suggests the
//! notation of s3haul.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{BucketName, S3Uri};

/// Returns the remedy for a text that is not an S3 location.
pub(super) fn remedy(text: &str) -> String {
    match suggestion(text).or_else(|| bare(text)) {
        Some(Suggestion::Location(location)) => format!("did you mean {location}?"),
        Some(Suggestion::Elsewhere(advice)) => advice,
        None => "write s3://bucket/key, or s3://bucket/prefix/ with a slash at the end".to_owned(),
    }
}

/// The meaning of a text that is neither `s3://…` nor a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suggestion {
    /// A location in the notation of s3haul, possibly followed by a flag.
    Location(String),
    /// A location of another service, with advice.
    Elsewhere(String),
}

impl std::fmt::Display for Suggestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Location(location) => write!(f, "did you mean {location}?"),
            Self::Elsewhere(advice) => f.write_str(advice),
        }
    }
}

/// Recognizes another notation of a location: `s3:/…`, `S3://…`, an ARN, an `https://` URL, or the
/// scheme of another service. Returns `None` for a text that may be a local path.
#[must_use]
pub fn suggestion(text: &str) -> Option<Suggestion> {
    let lower = text.to_ascii_lowercase();
    if let Some(arn) = lower
        .strip_prefix("s3://")
        .and_then(|rest| rest.starts_with("arn:").then(|| &text[5..]))
    {
        return of_arn(arn);
    }
    if lower.starts_with("arn:") {
        return of_arn(text);
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return match scheme.to_ascii_lowercase().as_str() {
            "s3" if scheme == "s3" => None,
            "s3" | "s3a" | "s3n" => at(rest.trim_start_matches('/'), ""),
            "http" | "https" => of_url(&scheme.to_ascii_lowercase(), rest),
            "file" => Some(Suggestion::Location(rest.to_owned())),
            "gs" => Some(Suggestion::Elsewhere(format!(
                "Google Cloud Storage speaks S3 too: write s3://{rest} with --provider gcs --endpoint-url https://storage.googleapis.com"
            ))),
            "az" | "azure" | "abfs" | "abfss" | "wasb" | "wasbs" | "hdfs" | "ftp" | "sftp"
            | "swift" => Some(Suggestion::Elsewhere(
                "only S3 and local files can be copied".to_owned(),
            )),
            _ => None,
        };
    }
    // `s3:/bucket/key` lacks a slash; `s3:bucket/key` is the notation of rclone.
    let rest = lower
        .starts_with("s3:")
        .then(|| text[3..].trim_start_matches('/'))?;
    at(rest, "")
}

/// Recognizes `bucket/key`, which may also be a local path.
#[must_use]
pub fn bare(text: &str) -> Option<Suggestion> {
    let is_path =
        text.starts_with(['/', '.', '~', '-']) || text.contains(['\\', ':']) || !text.contains('/');
    if is_path { None } else { at(text, "") }
}

/// Suggests `s3://` and `rest`, followed by `flags`, if that is a valid location.
fn at(rest: &str, flags: &str) -> Option<Suggestion> {
    let location: S3Uri = format!("s3://{rest}").parse().ok()?;
    Some(Suggestion::Location(format!("{location}{flags}")))
}

/// Recognizes the ARN of a bucket, of its objects, or of an access point. s3haul accepts the ARN of
/// an access point as a bucket, so `s3://` with such an ARN needs no suggestion.
fn of_arn(arn: &str) -> Option<Suggestion> {
    let fields: Vec<&str> = arn.splitn(6, ':').collect();
    let [_, _, service, region, _, resource] = fields.as_slice() else {
        return None;
    };
    if !service.to_ascii_lowercase().starts_with("s3") {
        return Some(Suggestion::Elsewhere("this ARN is not of S3".to_owned()));
    }
    if region.is_empty() && !resource.starts_with("accesspoint/") {
        // `bucket/*` in a policy means all objects.
        return at(resource.strip_suffix('*').unwrap_or(resource), "");
    }
    // In ARNs, the keys of access points follow `object/`.
    let rest = match resource.split_once("/object/") {
        Some((point, key)) => format!("{point}/{key}"),
        None => (*resource).to_owned(),
    };
    let head = arn.len() - resource.len();
    at(&format!("{}{rest}", &arn[..head]), "")
}

/// Recognizes the URL of an object, a bucket, or a page of the AWS console.
fn of_url(scheme: &str, rest: &str) -> Option<Suggestion> {
    let rest = rest.split('#').next().unwrap_or(rest);
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    let decoded = |text: &str| {
        percent_decode_str(text)
            .decode_utf8()
            .ok()
            .map(Cow::into_owned)
    };
    let (host, path) = (authority.to_ascii_lowercase(), decoded(path)?);
    if host.ends_with("console.aws.amazon.com") || host.ends_with("console.amazonaws.cn") {
        let page = path.trim_start_matches("s3/");
        let bucket = page
            .strip_prefix("buckets/")
            .or_else(|| page.strip_prefix("object/"))?;
        let prefix = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("prefix="))
            .unwrap_or_default();
        return at(&format!("{bucket}/{}", decoded(prefix)?), "");
    }
    let aws = host
        .strip_suffix(".amazonaws.com")
        .or_else(|| host.strip_suffix(".amazonaws.com.cn"));
    if let Some(name) = aws {
        let is_s3 = |label: &str| label == "s3" || label.starts_with("s3-");
        // A bucket name may contain dots, so the last label that names S3 counts.
        let labels: Vec<&str> = name.split('.').collect();
        let s3 = labels.iter().rposition(|label| is_s3(label))?;
        return match labels[..s3].join(".") {
            bucket if bucket.is_empty() => at(&path, ""),
            bucket => at(&format!("{bucket}/{path}"), ""),
        };
    }
    // On other servers, the bucket is usually the first segment of the path.
    let bucket = path.split('/').next().unwrap_or_default();
    BucketName::new(bucket).ok()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    at(
        &path,
        &format!(" with --endpoint-url {scheme}://{authority}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_notations_are_understood() {
        for (text, location) in [
            ("s3:/lake/events/", "s3://lake/events/"),
            ("s3:lake/events/", "s3://lake/events/"),
            ("S3://lake/Events/", "s3://lake/Events/"),
            ("s3a://lake/x", "s3://lake/x"),
            ("arn:aws:s3:::lake/events/", "s3://lake/events/"),
            ("s3://arn:aws:s3:::lake/events/", "s3://lake/events/"),
            ("arn:aws-us-gov:s3:::lake", "s3://lake/"),
            ("arn:aws-cn:s3:::lake/*", "s3://lake/"),
            (
                "arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/object/a/b",
                "s3://arn:aws:s3:eu-west-1:111122223333:accesspoint/ap/a/b",
            ),
            (
                "https://lake.s3.eu-west-1.amazonaws.com/a%20b/c?versionId=1",
                "s3://lake/a b/c",
            ),
            ("https://lake.s3.amazonaws.com/", "s3://lake/"),
            (
                "https://my.lake.s3-eu-west-1.amazonaws.com/k",
                "s3://my.lake/k",
            ),
            (
                "https://lake.s3.dualstack.eu-west-1.amazonaws.com/k",
                "s3://lake/k",
            ),
            ("https://s3.eu-west-1.amazonaws.com/lake/k/", "s3://lake/k/"),
            (
                "https://s3.cn-north-1.amazonaws.com.cn/lake/k",
                "s3://lake/k",
            ),
            (
                "https://eu-west-1.console.aws.amazon.com/s3/buckets/lake?region=eu-west-1&prefix=a%2Fb/&tab=x",
                "s3://lake/a/b/",
            ),
            (
                "http://u:p@127.0.0.1:9000/lake/k",
                "s3://lake/k with --endpoint-url http://127.0.0.1:9000",
            ),
            ("file:///data/x", "/data/x"),
        ] {
            assert_eq!(
                suggestion(text),
                Some(Suggestion::Location(location.to_owned())),
                "{text}"
            );
        }
        assert!(
            suggestion("gs://lake/x")
                .unwrap()
                .to_string()
                .contains("--provider gcs")
        );
        assert!(
            suggestion("arn:aws:iam::111122223333:role/x")
                .unwrap()
                .to_string()
                .contains("not of S3")
        );
    }

    #[test]
    fn paths_and_locations_are_left_alone() {
        for text in [
            "s3://lake/x",
            "./x",
            "/data/x",
            "dir/file",
            "C:\\x",
            "-",
            "a b",
            "",
            "weird://x/y",
            "s3x/y",
        ] {
            assert_eq!(suggestion(text), None, "{text}");
        }
        for text in [
            "./x/y",
            "/data/x",
            "file",
            "-",
            "a:b/c",
            "~/x",
            "no spaces/x",
        ] {
            assert_eq!(bare(text), None, "{text}");
        }
        assert_eq!(
            bare("lake/events/"),
            Some(Suggestion::Location("s3://lake/events/".to_owned()))
        );
        assert_eq!(remedy("lake/events/"), "did you mean s3://lake/events/?");
        assert!(remedy("lake").contains("write s3://bucket/key"));
    }
}
