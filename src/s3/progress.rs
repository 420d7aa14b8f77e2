//! Bounds the time of one attempt, depending on the progress of an object's bytes.
//!
//! s3haul must not wait for a silent server longer than the run's patience. A slow upload of a
//! part, or a slow download of a range, is not silence. The connector (`s3::pool`) notes the bytes
//! that move. Each 64 KiB count as progress; a byte per second does not. It also notes the
//! connection that the request waits on (`s3::served`).

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpRequest;
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::served::Connection;

/// The number of bytes that count as progress.
const STEP: u64 = 64 << 10;
/// The number of bytes of a body that are written to the socket at once.
const PIECE: usize = 256 << 10;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// The progress of an attempt: the last time at which bytes moved, and its connection.
#[derive(Debug)]
pub(crate) struct Progress {
    began: Instant,
    /// Milliseconds from `began` to the last progress.
    last: AtomicU64,
    /// The bytes that moved since the last progress.
    bytes: AtomicU64,
    /// The connection of the attempt's request, once it is sent.
    connection: OnceLock<Connection>,
}

impl Progress {
    /// Returns the progress of an attempt that begins now.
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            connection: OnceLock::new(),
        })
    }

    /// Returns the time at which the attempt began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Notes the connection that the request waits on. If an attempt sends several requests, the
    /// first one counts.
    pub(super) fn waits_on(&self, connection: Connection) {
        let _ = self.connection.set(connection);
    }

    /// Returns the connection that the request waits on, if the server has never answered on it but
    /// has answered on others since the attempt began.
    pub(crate) fn unserved(&self) -> Option<&Connection> {
        let connection = self.connection.get()?;
        connection.is_unserved(self.began).then_some(connection)
    }

    /// Returns the progress of the current attempt, if there is one.
    pub(crate) fn current() -> Option<Arc<Self>> {
        PROGRESS.try_with(Arc::clone).ok()
    }

    /// Notes bytes that moved.
    pub(super) fn moved(&self, bytes: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP {
            self.bytes.store(0, Ordering::Relaxed);
            let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last.store(elapsed, Ordering::Relaxed);
        }
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

/// Attributes `request` to the current attempt, even if it is spawned as another task.
pub(crate) fn carried<F: Future>(request: F) -> impl Future<Output = F::Output> {
    PROGRESS.scope(Progress::current().unwrap_or_else(Progress::begin), request)
}

/// Runs an attempt for at most `total`, and ends it after `quiet` without progress of an object's
/// bytes.
///
/// # Errors
/// Returns the time without progress as an error if the attempt took too long.
pub(crate) fn within<F: Future>(
    progress: Arc<Progress>,
    quiet: Duration,
    total: Duration,
    attempt: F,
) -> impl Future<Output = Result<F::Output, Duration>> {
    // Boxed, because the future of an object would otherwise contain it twice.
    let mut attempt = Box::pin(PROGRESS.scope(Arc::clone(&progress), attempt));
    async move {
        let end = progress.began + total;
        loop {
            let deadline = end.min(progress.last() + quiet);
            match timeout_at(deadline, attempt.as_mut()).await {
                Ok(outcome) => return Ok(outcome),
                Err(_) if deadline >= end || progress.last() + quiet <= deadline => {
                    return Err(progress.last().elapsed());
                }
                Err(_) => {}
            }
        }
    }
}

/// Makes a long request body record its progress.
pub(super) fn track_body(request: &mut HttpRequest) {
    let Some(progress) = Progress::current() else {
        return;
    };
    let length = request.body().bytes().map_or(0, <[u8]>::len);
    if length > PIECE {
        let whole = std::mem::replace(request.body_mut(), SdkBody::taken());
        let pieces = Pieces {
            whole,
            piece: Bytes::new(),
            left: length as u64,
            progress,
        };
        *request.body_mut() = SdkBody::from_body_1_x(pieces);
    }
}

/// A body that is sent in pieces.
struct Pieces {
    /// The body, which gives all its bytes at once.
    whole: SdkBody,
    /// The bytes that the body has returned and that are not sent yet.
    piece: Bytes,
    /// The number of bytes not sent yet.
    left: u64,
    progress: Arc<Progress>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.piece.is_empty() {
            match ready!(Pin::new(&mut this.whole).poll_frame(cx))
                .transpose()?
                .map(Frame::into_data)
            {
                Some(Ok(bytes)) => this.piece = bytes,
                _ => return Poll::Ready(None),
            }
        }
        let piece = this.piece.split_to(PIECE.min(this.piece.len()));
        this.left = this.left.saturating_sub(piece.len() as u64);
        this.progress.moved(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Moves this many bytes in each of this many seconds, and nothing afterwards.
    async fn moving(bytes: u64, seconds: u32) {
        let progress = Progress::current().unwrap();
        for _ in 0..seconds {
            sleep(SECOND).await;
            progress.moved(bytes);
        }
        pending::<()>().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_when_nothing_moves_or_at_the_total() {
        for (bytes, seconds, ended_after) in [(0, 0, 3), (STEP, 5, 8), (STEP, 60, 20), (1, 60, 3)] {
            let began = Instant::now();
            let ended = within(
                Progress::begin(),
                SECOND * 3,
                SECOND * 20,
                moving(bytes, seconds),
            )
            .await;
            assert!(ended.is_err());
            assert_eq!(
                began.elapsed().as_secs(),
                ended_after,
                "{bytes} bytes in each of {seconds} s"
            );
        }
        assert_eq!(
            within(Progress::begin(), SECOND, SECOND, async { 5 }).await,
            Ok(5)
        );
    }
}
