//! A probe's findings about lists that lack keys.

use s3haul::probe::{How, Needs, ProbeVerdict};
use s3haul::s3::Operation as Request;

use super::{behind, finding, request, try_probe};
use crate::liar::{Asked, Lie};
use crate::world::{DESTINATION, World};

/// Removes the entries of a list whose keys contain one of these texts.
fn without(list: &str, parts: &[&str]) -> String {
    // The count would contradict the page.
    let (before, rest) = list.split_once("<KeyCount>").unwrap();
    let (_, after) = rest.split_once("</KeyCount>").unwrap();
    let list = format!("{before}{after}");
    let mut entries = list.split("<Contents>");
    let mut kept = entries.next().unwrap_or_default().to_owned();
    for entry in entries {
        let (entry, rest) = entry.split_once("</Contents>").unwrap();
        if !parts.iter().any(|part| entry.contains(part)) {
            kept.extend(["<Contents>", entry, "</Contents>"]);
        }
        kept += rest;
    }
    kept
}

#[tokio::test]
async fn a_list_that_lacks_a_plain_key_says_nothing_about_encodings() {
    let world = World::new().await;
    let bucket = behind(&world, |asked: &Asked| {
        if asked.lists(DESTINATION) {
            Lie::rewrite(|list| without(list, &["/a0</Key>", "%2Fa0</Key>"]))
        } else {
            Lie::Truth
        }
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let list = &request(&probe, Request::ListObjects).measured;
    assert!(
        list.how == How::Ignored && list.reason.contains("/list/a0"),
        "{list:?}"
    );
    assert_eq!(
        finding(&probe, "encoded_lists").verdict(),
        ProbeVerdict::Agrees
    );
}

#[tokio::test]
async fn an_encoding_is_unknown_if_no_list_has_the_key_that_needs_it() {
    let world = World::new().await;
    let bucket = behind(&world, |asked: &Asked| {
        if asked.lists(DESTINATION) {
            Lie::rewrite(|list| without(list, &["%C3%A9%2B", "\u{e9}+%"]))
        } else {
            Lie::Truth
        }
    })
    .await;
    let probe = try_probe(&bucket, &Needs::default()).await.unwrap();
    let encoded = finding(&probe, "encoded_lists");
    assert_eq!(encoded.verdict(), ProbeVerdict::Unknown);
    assert!(
        encoded.reason().contains("without an encoding too"),
        "{encoded:?}"
    );
}
