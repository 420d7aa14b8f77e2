//! Compares content headers, whose values servers may rewrite.

use super::text::is_alike;
use crate::s3::ContentHeaders;

/// Compares the requested value of a header with the shown one.
type Same<'a> = &'a dyn Fn(&str, &str) -> bool;

/// The rules for a comparison of headers.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan) struct HeaderRules {
    /// True if a header that was not requested counts as a difference.
    pub(in crate::plan) compares_others: bool,
    /// True if the server may have added a charset or `aws-chunked` to a value.
    pub(in crate::plan) may_add: bool,
}

/// Returns the name of the first header that is missing or different.
pub(in crate::plan) fn unlike_headers(
    asked: &ContentHeaders,
    shown: &ContentHeaders,
    rules: HeaderRules,
) -> Option<&'static str> {
    let is_same_type = |asked: &str, shown: &str| {
        let plain = |text: &str| text.to_ascii_lowercase().replace([' ', '\t'], "");
        let (asked, shown) = (plain(asked), plain(shown));
        let is_added = |rest: &str| rules.may_add && rest.starts_with(";charset=");
        asked == shown || shown.strip_prefix(&asked).is_some_and(is_added)
    };
    let is_same_encoding = |asked: &str, shown: &str| {
        let is_added = |coding: &str| rules.may_add && coding == "aws-chunked";
        let codings = |text: &str| {
            let all = text
                .split(',')
                .map(|coding| coding.trim().to_ascii_lowercase());
            all.filter(|coding| !coding.is_empty() && !is_added(coding))
                .collect::<Vec<_>>()
        };
        codings(asked) == codings(shown)
    };
    let is_same_list = |asked: &str, shown: &str| asked.replace(' ', "") == shown.replace(' ', "");
    let is_same_date = |asked: &str, shown: &str| {
        let date = |text: &str| {
            jiff::fmt::rfc2822::parse(text.trim())
                .ok()
                .map(|date| date.timestamp())
        };
        is_alike(asked, shown) || (date(asked).is_some() && date(asked) == date(shown))
    };
    // Destructure, so that the compiler reports any header that is not compared.
    let ContentHeaders {
        content_type,
        content_encoding,
        content_language,
        content_disposition,
        cache_control,
        expires,
        website_redirect,
    } = asked;
    let ContentHeaders {
        content_type: shown_type,
        content_encoding: shown_encoding,
        content_language: shown_language,
        content_disposition: shown_disposition,
        cache_control: shown_cache,
        expires: shown_expires,
        website_redirect: shown_redirect,
    } = shown;
    let all: &[(&Option<String>, &Option<String>, &'static str, Same<'_>)] = &[
        (content_type, shown_type, "Content-Type", &is_same_type),
        (
            content_encoding,
            shown_encoding,
            "Content-Encoding",
            &is_same_encoding,
        ),
        (
            content_language,
            shown_language,
            "Content-Language",
            &is_same_list,
        ),
        (
            content_disposition,
            shown_disposition,
            "Content-Disposition",
            &is_alike,
        ),
        (cache_control, shown_cache, "Cache-Control", &is_same_list),
        (expires, shown_expires, "Expires", &is_same_date),
        (website_redirect, shown_redirect, "redirect", &is_alike),
    ];
    let differs = all.iter().find(|(asked, shown, _, is_same)| {
        let is_compared = asked.is_some() || rules.compares_others;
        let asked = asked.as_deref().unwrap_or_default();
        is_compared && !is_same(asked, shown.as_deref().unwrap_or_default())
    });
    differs.map(|(_, _, name, _)| *name)
}
