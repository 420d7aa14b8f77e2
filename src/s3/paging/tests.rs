//! Lists that contradict the protocol, and lists that are only unusual.

use proptest::prelude::*;

use super::*;
use crate::s3::ArchiveState;

fn object(key: &str) -> ListedObject {
    ListedObject {
        key: key.into(),
        size: 1,
        etag: None,
        modified: None,
        storage_class: None,
        archive: ArchiveState::Readable,
    }
}

fn page(keys: &[&str], more: bool) -> Page<ListedObject> {
    Page {
        items: keys.iter().map(|key| object(key)).collect(),
        next: more.then(|| "t".to_owned()),
    }
}

fn paging(prefix: &str, order: Order) -> Paging {
    Paging::new(
        Operation::ListObjects,
        &BucketName::new("lake").unwrap(),
        prefix,
        order,
    )
}

/// Returns the keys that remain of a page with a new marker.
fn check(paging: &mut Paging, keys: &[&str]) -> Result<(PageVerdict, Vec<String>), Failure> {
    let mut page = page(keys, true);
    page.next = Some(fastrand::u64(..).to_string());
    let turn = paging.check(&mut page)?;
    Ok((
        turn,
        page.items
            .into_iter()
            .map(|item| item.key.to_string())
            .collect(),
    ))
}

#[test]
fn a_token_means_more_and_truncation_without_a_place_is_an_error() {
    let some = |text: &str| Some(text.to_owned());
    for truncated in [None, Some(false), Some(true)] {
        assert_eq!(
            follows(truncated, some("t"), None),
            Ok(some("t")),
            "{truncated:?}"
        );
    }
    assert_eq!(follows::<String>(None, None, some("k")), Ok(None));
    assert_eq!(follows::<String>(Some(false), None, some("k")), Ok(None));
    assert_eq!(follows(Some(true), None, some("k")), Ok(some("k")));
    assert!(follows::<String>(Some(true), None, None).is_err());
    // This is how S3 ends its lists of parts.
    let follows = |truncated, token: &str, last: &str, asked: &str| {
        follows_unless_last(truncated, some(token), some(last), Some(&asked.to_owned()))
    };
    assert_eq!(follows(Some(false), "3", "3", "0"), Ok(None));
    assert_eq!(
        follows(Some(false), "3", "", "3"),
        Ok(None),
        "an empty page that repeats its marker"
    );
    assert_eq!(follows(None, "3", "3", "0"), Ok(some("3")));
    assert_eq!(follows(Some(false), "2", "3", "0"), Ok(some("2")));
}

#[test]
fn keys_outside_the_prefix_and_beyond_the_limit_are_left_out_and_counted() {
    for order in [Order::Ascending, Order::Unknown] {
        let mut paging = paging("p/", order);
        let long = format!("p/{}", "x".repeat(1023));
        let (turn, left) = check(&mut paging, &["", "o/1", "p/1", "p/2", &long, "q/1"]).unwrap();
        assert_eq!(
            (turn, left),
            (PageVerdict::Next, vec!["p/1".to_owned(), "p/2".to_owned()])
        );
        let refused = paging.take_refused();
        let told: Vec<_> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0].contains("s3://lake/p/") && told[1].contains("1,024 bytes"),
            "{told:?}"
        );
        assert!(
            told[2].contains("keys outside the requested prefix (2, for example `o/1`)"),
            "{told:?}"
        );
        assert!(
            refused
                .iter()
                .all(|failure| *failure.kind() == FailureKind::ServerFault)
        );
        assert!(paging.take_refused().is_empty());
    }
}

#[test]
fn a_page_that_comes_again_is_asked_for_again_and_then_is_an_error() {
    for order in [Order::Ascending, Order::Unknown, Order::Short] {
        let mut paging = paging("", order);
        assert_eq!(
            check(&mut paging, &["a", "b"]).unwrap().0,
            PageVerdict::Next
        );
        for _ in 1..PAGE_TRIES {
            assert_eq!(
                check(&mut paging, &["a", "b"]).unwrap(),
                (PageVerdict::Again, vec![]),
                "{order:?}"
            );
        }
        let failure = check(&mut paging, &["a", "b"]).unwrap_err();
        assert_eq!(*failure.kind(), FailureKind::ServerFault);
        assert!(!failure.kind().is_retryable() && !failure.kind().may_pass_later());
        assert!(
            failure
                .to_string()
                .starts_with("ListObjectsV2 s3://lake/: server-fault: "),
            "{failure}"
        );
    }
    // A cache returns a stale response once.
    let mut paging = paging("", Order::Ascending);
    for (keys, turn) in [
        (["a", "b"], PageVerdict::Next),
        (["a", "b"], PageVerdict::Again),
        (["c", "d"], PageVerdict::Next),
    ] {
        assert_eq!(check(&mut paging, &keys).unwrap().0, turn);
    }
    assert_eq!(paging.again, 0);
}

#[test]
fn a_list_that_goes_round_ends() {
    let pages = [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]];
    for order in [Order::Ascending, Order::Unknown, Order::Short] {
        let mut paging = paging("", order);
        let mut seen = Vec::new();
        let ended = pages
            .iter()
            .cycle()
            .take(20)
            .find_map(|keys| match check(&mut paging, keys) {
                Ok((_, keys)) => {
                    seen.extend(keys);
                    None
                }
                Err(failure) => Some(failure),
            });
        assert!(ended.is_some(), "{order:?}");
        assert_eq!(seen, pages.concat(), "{order:?}: nothing twice");
    }
}

#[test]
fn empty_pages_are_borne_and_an_endless_row_of_them_is_not() {
    for order in [Order::Ascending, Order::Unknown, Order::Short] {
        let mut paging = paging("", order);
        for key in ["a", "b"] {
            for _ in 0..MAX_EMPTY_PAGES {
                assert_eq!(check(&mut paging, &[]).unwrap().0, PageVerdict::Next);
            }
            assert_eq!(check(&mut paging, &[key]).unwrap().0, PageVerdict::Next);
        }
        let failed = (0..=MAX_EMPTY_PAGES).find_map(|_| check(&mut paging, &[]).err());
        assert_eq!(*failed.unwrap().kind(), FailureKind::ServerFault);
        // A list that leads back to the same page is not a list either.
        let mut back = self::paging("", order);
        let failed = (0..=PAGE_TRIES).find_map(|_| back.check(&mut page(&[], true)).err());
        assert_eq!(*failed.unwrap().kind(), FailureKind::ServerFault);
        // The last page may be empty.
        assert_eq!(
            paging.check(&mut page(&[], false)).unwrap(),
            PageVerdict::Next
        );
    }
    // Pages whose keys are all removed count as empty pages.
    let mut paging = paging("p/", Order::Unknown);
    assert!((0..=MAX_EMPTY_PAGES).any(|_| check(&mut paging, &["q"]).is_err()));
}

#[test]
fn keys_that_do_not_ascend_are_noticed() {
    for (pages, behind) in [
        (vec![vec!["a", "c", "b", "d"]], None),
        (vec![vec!["a", "a"]], None),
        (vec![vec!["b", "c"], vec!["c", "d"]], None),
        (vec![vec!["b", "c"]], Some("b")),
        (vec![vec!["b", "c"], vec!["a"]], None),
    ] {
        let mut paging = paging("", Order::Ascending).behind(behind.map(str::to_owned));
        let failed = pages
            .iter()
            .find_map(|keys| check(&mut paging, keys).err())
            .unwrap();
        assert_eq!(*failed.kind(), FailureKind::Invalid, "{pages:?}");
        assert!(
            failed.to_string().contains("ordered_lists: false"),
            "{failed}"
        );
    }
    let mut paging = paging("", Order::Ascending).behind(Some("A".to_owned()));
    assert!(check(&mut paging, &["a", "a/b", "a0", "é"]).is_ok());
}

#[test]
fn a_key_that_comes_twice_on_one_page_is_told() {
    let mut list = paging("", Order::Unknown);
    assert_eq!(
        check(&mut list, &["b", "a b", "a b"]).unwrap().1,
        ["b", "a b"]
    );
    let told = list
        .take_refused()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        told.contains("the same key twice on one page (1, for example `a b`)"),
        "{told}"
    );
    // An entry of the previous page that is sent again is not a key twice on one page.
    assert_eq!(check(&mut list, &["a b", "c"]).unwrap().1, ["c"]);
    assert!(list.take_refused().is_empty());
}

#[test]
fn versions_of_a_key_go_on_over_pages_and_none_comes_twice() {
    let version = |key: &str, id: &str| ListedVersion {
        key: key.to_owned(),
        id: id.to_owned(),
        is_marker: false,
        is_latest: false,
        size: 1,
        etag: None,
        modified: None,
        storage_class: None,
        archive: ArchiveState::Readable,
    };
    let check = |paging: &mut Paging, versions: &[(&str, &str)]| {
        let items = versions.iter().map(|(key, id)| version(key, id)).collect();
        paging.check(&mut Page {
            items,
            next: Some(()),
        })
    };
    let lake = BucketName::new("lake").unwrap();
    let new = || Paging::new(Operation::ListObjectVersions, &lake, "", Order::Grouped);
    let mut good = new();
    for versions in [
        &[("a", "2"), ("a", "1")][..],
        &[("a", "0"), ("b", "2")],
        &[("b", "1")],
    ] {
        assert_eq!(check(&mut good, versions).unwrap(), PageVerdict::Next);
    }
    let mut twice = new();
    check(&mut twice, &[("a", "2"), ("a", "1")]).unwrap();
    assert_eq!(
        *check(&mut twice, &[("a", "1"), ("a", "0")])
            .unwrap_err()
            .kind(),
        FailureKind::ServerFault
    );
    let latest = |is_latest: bool, id: &str| ListedVersion {
        is_latest,
        ..version("a", id)
    };
    let page = |versions: [bool; 2], list: &mut Paging, id: &str| {
        let items = versions
            .into_iter()
            .enumerate()
            .map(|(at, is)| latest(is, &format!("{id}{at}")))
            .collect();
        list.check(&mut Page {
            items,
            next: Some(()),
        })
        .map_err(|failure| failure.kind().clone())
    };
    let (mut leading, mut stale) = (new(), new());
    assert_eq!(
        page([true, false], &mut leading, "2"),
        Ok(PageVerdict::Next)
    );
    assert_eq!(
        page([false, true], &mut leading, "1"),
        Ok(PageVerdict::Next),
        "several are called so"
    );
    assert_eq!(page([false, false], &mut stale, "2"), Ok(PageVerdict::Next));
    assert_eq!(
        page([true, false], &mut stale, "1"),
        Err(FailureKind::ServerFault),
        "oldest first"
    );
    let mut back = new();
    check(&mut back, &[("b", "2")]).unwrap();
    assert!(check(&mut back, &[("a", "1")]).is_err());
}

proptest! {
    #[test]
    fn a_list_without_order_loses_nothing(
        keys in proptest::collection::hash_set("[a-c]{1,4}", 1..60),
        length in 1..9_usize,
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        for order in [Order::Unknown, Order::Short] {
            let mut paging = paging("", order);
            let mut seen = Vec::new();
            for keys in keys.chunks(length) {
                let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                let (turn, left) = check(&mut paging, &keys).unwrap();
                prop_assert_eq!(turn, PageVerdict::Next);
                seen.extend(left);
            }
            prop_assert_eq!(&seen, &keys);
        }
    }
}

#[test]
fn a_list_that_its_caller_remembers_is_bounded() {
    for order in [Order::Ascending, Order::Unknown, Order::Short] {
        let mut paging = paging("", order).at_most(3);
        for keys in [&["a", "b"][..], &["c"]] {
            check(&mut paging, keys).unwrap();
        }
        let failure = check(&mut paging, &["d"]).unwrap_err();
        assert_eq!(*failure.kind(), FailureKind::ServerFault, "{order:?}");
    }
}

/// Reads pages of a list that never ends, until it fails. Returns the number of pages.
fn pages_of<T: PageEntry>(
    operation: Operation,
    mut page: impl FnMut(u32) -> Vec<T>,
) -> (u32, Failure) {
    let bucket = BucketName::new("lake").unwrap();
    let mut paging = Paging::new(operation, &bucket, "", Order::Short);
    let mut number = 0;
    loop {
        number += 1;
        let mut page = Page {
            items: page(number),
            next: Some(number),
        };
        if let Err(failure) = paging.check(&mut page) {
            return (number, failure);
        }
        assert!(number < 20_000, "it does not end");
    }
}

fn upload(key: &str, id: u32) -> OpenUpload {
    OpenUpload {
        key: key.to_owned(),
        upload_id: id.to_string(),
        initiated: None,
        storage_class: None,
    }
}

#[test]
fn a_list_of_uploads_to_one_key_of_parts_or_of_annotations_ends() {
    let part = |number| PartDone {
        number,
        size: 1,
        etag: String::new(),
        checksum: None,
    };
    let uploads = |page: u32| {
        let first = page * 1000;
        (first..first + 1000).map(|id| upload("k", id)).collect()
    };
    let (pages, failure) = pages_of(Operation::ListMultipartUploads, uploads);
    assert_eq!((pages, failure.kind()), (11, &FailureKind::ServerFault));
    let message = &failure.details().message;
    assert!(message.contains("11000 uploads to one key"), "{message}");
    let (pages, _) = pages_of(Operation::ListMultipartUploads, |page| {
        vec![upload("k", page)]
    });
    assert_eq!(pages, MAX_PAGES_AT_A_KEY + 1);
    let (pages, failure) = pages_of(Operation::ListParts, |page| vec![part(page)]);
    assert_eq!(pages, MAX_PAGES_AT_A_KEY + 1);
    let message = &failure.details().message;
    assert!(message.contains("parts of one upload"), "{message}");
    let annotation = |number: u32| AnnotationEntry {
        name: number.to_string(),
        size: 1,
    };
    let (pages, failure) = pages_of(Operation::ListObjectAnnotations, |page| {
        vec![annotation(page)]
    });
    assert_eq!(pages, MAX_PAGES_AT_A_KEY + 1);
    let message = &failure.details().message;
    assert!(message.contains("annotations of one object"), "{message}");
    // Many keys with one upload each are a legitimate list.
    let bucket = BucketName::new("lake").unwrap();
    let mut paging = Paging::new(Operation::ListMultipartUploads, &bucket, "", Order::Short);
    for number in 0..2 * MAX_AT_A_KEY {
        let mut page = Page {
            items: vec![upload(&number.to_string(), 1)],
            next: Some(number),
        };
        assert_eq!(paging.check(&mut page).unwrap(), PageVerdict::Next);
    }
}
