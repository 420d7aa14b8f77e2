//! Reuses memory for parts of local files.
//!
//! Allocating a few MiB costs more than reading a cached file into them: the system zeroes every
//! page first, and takes the pages back when they are freed. So a buffer returns here once its part
//! is sent. It is lent again only to parts of at least half its capacity: a small part in a large
//! buffer would hold far more memory than its permits allow.
//!
//! Permits limit the total length of the parts that are in memory. A lent buffer may hold up to
//! twice that length. Kept buffers have no permits, so only as many are kept as fit into the limit
//! besides the lent ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::UPLOAD_MEMORY_MIB;

/// The smallest buffer that is kept. Below this size, fresh memory is as fast.
const WORTH_KEEPING: usize = 1 << 20;

/// The maximum total size of lent and kept buffers in bytes. Beyond it, no buffer is kept.
const MAX_BUFFER_BYTES: usize = (UPLOAD_MEMORY_MIB as usize) << 20;

/// Buffers that can be used again. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Stock>>);

/// The buffers that are kept, the oldest first.
#[derive(Debug, Default)]
struct Stock {
    kept: Vec<Vec<u8>>,
    /// The bytes of the kept buffers.
    kept_bytes: usize,
    /// The bytes of the lent buffers.
    lent_bytes: usize,
}

impl Stock {
    /// Takes a buffer for a part of this length.
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (length..=2 * length).contains(&buffer.capacity());
        let at = self.kept.iter().rposition(fits)?;
        let buffer = self.kept.swap_remove(at);
        self.kept_bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Removes buffers, the oldest first, until the total size is within the limit. No part of an
    /// old buffer's size was requested lately.
    fn shrink(&mut self) -> Vec<Vec<u8>> {
        let mut evicted = Vec::new();
        while self.kept_bytes + self.lent_bytes > MAX_BUFFER_BYTES && !self.kept.is_empty() {
            let oldest = self.kept.remove(0);
            self.kept_bytes -= oldest.capacity();
            evicted.push(oldest);
        }
        evicted
    }
}

impl Buffers {
    /// Lends a buffer of this length to `fill`, and returns the filled bytes. `fill` must overwrite
    /// all of it: the buffer may contain bytes of another part.
    ///
    /// # Errors
    /// Returns the error of `fill`.
    pub(super) fn filled<E>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        if length < WORTH_KEEPING {
            let mut buffer = vec![0; length];
            fill(&mut buffer)?;
            return Ok(buffer.into());
        }
        let (used, bytes, evicted) = {
            let mut stock = self.stock();
            let used = stock.take(length);
            let bytes = used.as_ref().map_or(length, Vec::capacity);
            stock.lent_bytes += bytes;
            (used, bytes, stock.shrink())
        };
        // Free these before memory for another buffer is allocated.
        drop(evicted);
        let buffer = used.unwrap_or_else(|| Vec::with_capacity(length));
        let mut lent = Lent {
            buffer,
            bytes,
            home: self.clone(),
        };
        lent.buffer.resize(length, 0);
        fill(&mut lent.buffer)?;
        Ok(Bytes::from_owner(lent))
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lent buffer. It goes back to `home` when it is dropped.
struct Lent {
    buffer: Vec<u8>,
    /// The bytes that count as lent.
    bytes: usize,
    home: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let evicted = {
            let mut stock = self.home.stock();
            stock.lent_bytes -= self.bytes;
            stock.kept_bytes += buffer.capacity();
            stock.kept.push(buffer);
            stock.shrink()
        };
        // Free these only after the lock is released.
        drop(evicted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_reads_it() {
        let buffers = Buffers::default();
        let filled = |length: usize, byte: u8| {
            buffers.filled(length, |buffer| {
                buffer.fill(byte);
                Ok::<(), ()>(())
            })
        };
        let first = filled(2 * WORTH_KEEPING, 1).unwrap();
        let (place, reader) = (first.as_ptr(), first.clone());
        drop(first);
        let second = filled(2 * WORTH_KEEPING, 2).unwrap();
        assert!(
            second.as_ptr() != place,
            "somebody still reads the first one"
        );
        assert!(reader.iter().all(|byte| *byte == 1));
        drop(reader);
        // A shorter buffer shows no bytes of the previous one.
        let third = filled(WORTH_KEEPING, 3).unwrap();
        assert_eq!((third.as_ptr(), third.len()), (place, WORTH_KEEPING));
        assert!(third.iter().all(|byte| *byte == 3));
    }

    #[test]
    fn no_buffer_is_lent_for_far_less_and_not_all_are_kept() {
        let buffers = Buffers::default();
        let filled = |length: usize| buffers.filled(length, |_| Ok::<(), ()>(())).unwrap();
        drop(filled(16 * WORTH_KEEPING));
        let small: Vec<_> = (0..10).map(|_| filled(WORTH_KEEPING)).collect();
        assert_eq!(
            buffers.stock().kept.len(),
            1,
            "the large one was left where it is"
        );
        drop(small);
        let large: Vec<_> = (0..20).map(|_| filled(32 * WORTH_KEEPING)).collect();
        drop(large);
        let all: usize = buffers.stock().kept.iter().map(Vec::capacity).sum();
        assert!(
            all > MAX_BUFFER_BYTES / 2 && all <= MAX_BUFFER_BYTES,
            "{all}"
        );
        assert_eq!(buffers.stock().kept_bytes, all);
        assert_eq!(buffers.stock().lent_bytes, 0);
    }

    #[test]
    fn kept_buffers_make_room_for_lent_ones() {
        let buffers = Buffers::default();
        let filled = |length: usize| buffers.filled(length, |_| Ok::<(), ()>(())).unwrap();
        let few: Vec<_> = (0..16).map(|_| filled(MAX_BUFFER_BYTES / 16)).collect();
        drop(few);
        assert_eq!(buffers.stock().kept_bytes, MAX_BUFFER_BYTES);
        let others: Vec<_> = (0..32).map(|_| filled(MAX_BUFFER_BYTES / 64)).collect();
        assert_eq!(buffers.stock().lent_bytes, MAX_BUFFER_BYTES / 2);
        assert_eq!(buffers.stock().kept_bytes, MAX_BUFFER_BYTES / 2);
        drop(others);
        assert_eq!(buffers.stock().kept_bytes, MAX_BUFFER_BYTES);
    }

    #[test]
    fn what_failed_to_be_filled_comes_back_too() {
        let buffers = Buffers::default();
        assert_eq!(buffers.filled(WORTH_KEEPING, |_| Err("no")), Err("no"));
        assert_eq!(buffers.stock().kept.len(), 1);
    }
}
