//! Distinguishes the connections that a server serves from the connections that it leaves waiting.
//!
//! A server may serve only a few connections at a time. The kernel of its machine accepts more, so
//! a request may go out on a connection that no process reads, and hang until it times out. Such a
//! connection looks like a connection with a slow request. But the server has never answered on it
//! while it answers on others, and many requests hang like that at once. Then `bucket/twice.rs`
//! abandons them with their connections, and the pacer allows no more requests in flight than there
//! are connections that the server serves.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use tokio::time::Instant;

/// The number of requests that must hang at once before a server counts as one that serves few
/// connections. If fewer hang, they are sent again instead ([`crate::pace::latency`]).
const MIN_HANGING: u32 = 4;
/// The maximum number of connections that are remembered. When there are more, the older half is
/// forgotten.
const MAX_REMEMBERED: usize = 16_384;

/// A server, or a proxy on the way to it.
#[derive(Debug, Default)]
pub(super) struct ServerConnections {
    /// The time of the last response on each connection, by its local address.
    answered: Mutex<HashMap<SocketAddr, Instant>>,
    /// The number of requests that hang on connections without any response so far.
    hanging: AtomicU32,
    /// Set once the server is known to serve few connections.
    is_limited: AtomicBool,
}

/// The connection of one request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    captured: CaptureSmithyConnection,
    server: Arc<ServerConnections>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.our_end()).finish()
    }
}

/// A request that hangs on a connection without any response so far.
#[derive(Debug)]
pub(crate) struct Hanging(Arc<ServerConnections>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ServerConnections {
    fn answered(&self) -> MutexGuard<'_, HashMap<SocketAddr, Instant>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Returns the connection of a request to `server`. `captured` holds the connection once the
    /// request is sent.
    pub(super) fn to(server: Arc<ServerConnections>, captured: CaptureSmithyConnection) -> Self {
        Self { captured, server }
    }

    fn our_end(&self) -> Option<SocketAddr> {
        self.captured.get()?.local_addr()
    }

    /// Notes a response on this connection.
    pub(super) fn answered(&self) {
        let Some(end) = self.our_end() else { return };
        let now = Instant::now();
        let mut answered = self.server.answered();
        if answered.len() >= MAX_REMEMBERED && !answered.contains_key(&end) {
            let mut times: Vec<_> = answered.values().copied().collect();
            let (_, middle, _) = times.select_nth_unstable(MAX_REMEMBERED / 2);
            let middle = *middle;
            answered.retain(|_, last| *last > middle);
        }
        answered.insert(end, now);
    }

    /// Returns true if the server has never answered on this connection but has answered on others
    /// since `since`.
    pub(super) fn is_unserved(&self, since: Instant) -> bool {
        let Some(end) = self.our_end() else {
            return false;
        };
        let answered = self.server.answered();
        !answered.contains_key(&end) && answered.values().any(|last| *last >= since)
    }

    /// Counts a request that hangs on this connection, until the returned guard is dropped.
    pub(crate) fn hang(&self) -> Hanging {
        self.server.hanging.fetch_add(1, Ordering::Relaxed);
        Hanging(Arc::clone(&self.server))
    }

    /// Returns the number of connections on which the server has answered since `since`, if the
    /// server is known to serve few: many requests hang at once now, or did earlier.
    pub(crate) fn limit(&self, since: Instant) -> Option<u32> {
        let is_many = self.server.hanging.load(Ordering::Relaxed) >= MIN_HANGING;
        if is_many {
            self.server.is_limited.store(true, Ordering::Relaxed);
        } else if !self.server.is_limited.load(Ordering::Relaxed) {
            return None;
        }
        let served = self.server.answered();
        let served = served.values().filter(|last| **last >= since).count();
        u32::try_from(served).ok().filter(|served| *served > 0)
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::client::connection::ConnectionMetadata;

    use super::*;

    fn connection(server: &Arc<ServerConnections>, port: u16) -> Connection {
        let captured = CaptureSmithyConnection::new();
        captured.set_connection_retriever(move || {
            let end = SocketAddr::from(([127, 0, 0, 1], port));
            let mut builder = ConnectionMetadata::builder();
            builder.set_local_addr(Some(end));
            Some(builder.proxied(false).poison_fn(|| {}).build())
        });
        Connection::to(Arc::clone(server), captured)
    }

    #[test]
    fn a_server_serves_few_connections_if_many_hang_while_others_are_answered() {
        let (server, began) = (Arc::new(ServerConnections::default()), Instant::now());
        let waiting: Vec<_> = (10..20).map(|port| connection(&server, port)).collect();
        assert!(
            waiting.iter().all(|one| !one.is_unserved(began)),
            "a server that answers no request is slow or away"
        );
        for port in [1, 2, 2] {
            connection(&server, port).answered();
        }
        assert!(waiting.iter().all(|one| one.is_unserved(began)));
        assert!(!connection(&server, 1).is_unserved(began));
        let mut hanging: Vec<_> = waiting.iter().take(3).map(Connection::hang).collect();
        assert_eq!(waiting[0].limit(began), None, "few are sent twice");
        hanging.push(waiting[3].hang());
        assert_eq!(waiting[0].limit(began), Some(2));
        drop(hanging);
        assert_eq!(waiting[0].limit(began), Some(2), "it is known by now");
        let later = Instant::now() + std::time::Duration::from_secs(1);
        assert_eq!(waiting[0].limit(later), None, "no request was answered");
        assert!(!waiting[0].is_unserved(later));
    }

    #[test]
    fn the_connections_of_a_long_run_take_no_more_memory() {
        let server = Arc::new(ServerConnections::default());
        for port in 1..=u16::MAX {
            connection(&server, port).answered();
        }
        assert!(server.answered().len() <= MAX_REMEMBERED);
    }
}
