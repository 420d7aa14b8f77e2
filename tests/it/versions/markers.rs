//! Delete markers on servers whose answers do not show them.

use s3haul::execute::receipt::Ending;
use s3haul::manifest::job::Provider;
use s3haul::sandbox::{Content, ObjectSpec};

use super::{all_versions, endings, ids, kinds, there, write};
use crate::liar::{Answer, Asked, Liar, Lie};
use crate::world::{DESTINATION, Run, SOURCE, World};

fn deletes(asked: &Asked) -> bool {
    asked.method == "DELETE" && !asked.aborts()
}

fn messages(run: &Run) -> Vec<&str> {
    let failed = run
        .receipts
        .iter()
        .filter_map(|receipt| match &receipt.ending {
            Ending::Failed { error } => Some(error.message.as_str()),
            _ => None,
        });
    failed.collect()
}

#[tokio::test]
async fn a_marker_whose_id_the_answer_lacks_is_found_in_the_list() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "aMb");
    let liar = Liar::before(&world, |asked, answer: Answer| {
        if deletes(asked) {
            answer.without("x-amz-version-id")
        } else {
            answer
        }
    })
    .await;
    let run = liar.run(&world, all_versions(), Provider::Other).await;
    assert_eq!(run.outcome.failed_objects, 0, "{:?}", run.receipts);
    assert_eq!(there(&world, "k"), "aMb");
    let Ending::Done {
        destination_version,
        ..
    } = &endings(&run, "k")[1].ending
    else {
        panic!("{:?}", run.receipts)
    };
    assert_eq!(
        destination_version.as_ref(),
        Some(&ids(&world, DESTINATION, "k")[1])
    );
}

#[tokio::test]
async fn another_version_in_the_place_of_a_marker_is_named() {
    let world = World::versioned().await;
    write(&world, SOURCE, "k", "aM");
    let store = world.sandbox.store().clone();
    let liar = Liar::before(&world, move |asked, answer: Answer| {
        if deletes(asked) {
            let content = Content::bytes(b"another writer".to_vec());
            store.put_object(DESTINATION, "k", content, &ObjectSpec::default());
        }
        answer
    })
    .await;
    let run = liar.run(&world, all_versions(), Provider::Other).await;
    assert_eq!(kinds(&run), ["not-equal"], "{:?}", run.receipts);
    let newest = ids(&world, DESTINATION, "k").pop().unwrap();
    let said = format!("the newest version of the key is an object ({newest})");
    assert!(messages(&run)[0].contains(&said), "{:?}", messages(&run));
}

#[tokio::test]
async fn a_marker_that_was_not_written_is_noticed() {
    for (history, said) in [
        ("M", "lists no version of the key"),
        ("aM", "the newest version of the key is an object"),
    ] {
        let world = World::versioned().await;
        write(&world, SOURCE, "k", history);
        let liar = Liar::lying(&world, |asked: &Asked| {
            if !deletes(asked) {
                return Lie::Truth;
            }
            let head = [
                "HTTP/1.1 204 No Content",
                "x-amz-delete-marker: true",
                "x-amz-version-id: v1",
            ];
            Lie::Given(Answer {
                head: head.map(str::to_owned).to_vec(),
                body: Vec::new(),
            })
        })
        .await;
        let run = liar.run(&world, all_versions(), Provider::Other).await;
        assert_eq!(kinds(&run), ["not-equal"], "{:?}", run.receipts);
        assert!(messages(&run)[0].contains(said), "{:?}", messages(&run));
    }
}
