//! Uploads: the files of a directory through the library, and a pipe through the command.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use s3haul::location::LocalPath;
use s3haul::manifest::job::{Source, Symlinks, Transfer};
use s3haul::size::MIB;

use super::{PART, Server, a_second_later, assert_bytes, bytes, on_server};

impl Server {
    /// Returns a transfer of a directory to the root of the destination.
    pub(super) fn upload_all(&self, path: &Path) -> Transfer {
        self.transfer(Source::Files {
            path: LocalPath(path.to_owned()),
            symlinks: Symlinks::Skip,
        })
    }
}

#[tokio::test]
async fn files_of_every_size_arrive_equal() {
    on_server(async |server| {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("empty", 0),
            ("one", 1),
            ("part", PART),
            ("part+1", PART + 1),
            ("sub/ü 100% + more?.csv", 17 * MIB),
        ];
        std::fs::create_dir(directory.path().join("sub")).unwrap();
        for (name, size) in files {
            std::fs::write(directory.path().join(name), bytes(size, size)).unwrap();
        }
        a_second_later().await;
        let run = server.run(server.upload_all(directory.path())).await;
        assert_eq!(run.outcome.done_objects, files.len() as u64);
        for (name, size) in files {
            assert_bytes(
                name,
                &server.get(&server.destination, name).await,
                &bytes(size, size),
            );
        }
        assert_eq!(run.receipt("sub/ü 100% + more?.csv").parts, 4);
        server.assert_no_upload_is_left().await;
        let again = server.run(server.upload_all(directory.path())).await;
        assert_eq!(
            (again.outcome.done_objects, again.outcome.skipped_objects),
            (0, 5),
            "{:?}",
            again.receipts
        );
    })
    .await;
}

#[tokio::test]
async fn a_file_gets_the_type_of_its_name() {
    on_server(async |server| {
        let directory = tempfile::tempdir().unwrap();
        for (name, size) in [("small.json", 10), ("large.json", PART + 1)] {
            std::fs::write(directory.path().join(name), bytes(1, size)).unwrap();
        }
        server.run(server.upload_all(directory.path())).await;
        for key in ["small.json", "large.json"] {
            let head = server
                .sdk
                .head_object()
                .bucket(&server.destination)
                .key(key)
                .send()
                .await
                .unwrap();
            assert_eq!(head.content_type(), Some("application/json"), "{key}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_pipe_of_every_length_arrives_equal() {
    on_server(async |server| {
        for size in [0, 1, PART, 17 * MIB] {
            let key = format!("piped {size}");
            let command = copy_from_pipe(server, &key);
            // Feeding the process blocks, and this thread may have to serve the sandbox.
            let piped = tokio::task::spawn_blocking(move || pipe(command, &bytes(size, size)));
            piped.await.unwrap();
            assert_bytes(
                &key,
                &server.get(&server.destination, &key).await,
                &bytes(size, size),
            );
        }
        server.assert_no_upload_is_left().await;
    })
    .await;
}

fn copy_from_pipe(server: &Server, key: &str) -> Command {
    let provider = serde_json::to_value(server.endpoint.provider).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_s3haul"));
    command
        .args(["copy", "-", &format!("s3://{}/{key}", server.destination)])
        .args(["--endpoint-url", server.endpoint.url.as_deref().unwrap()])
        .args([
            "--provider",
            provider.as_str().unwrap(),
            "--part-size",
            "5MiB",
            "--threshold",
            "5MiB",
        ])
        .env_clear()
        .env("AWS_ACCESS_KEY_ID", &server.credentials.access_key)
        .env("AWS_SECRET_ACCESS_KEY", &server.credentials.secret_key)
        .env("AWS_REGION", server.endpoint.region.as_deref().unwrap());
    command
}

fn pipe(mut command: Command, body: &[u8]) {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
