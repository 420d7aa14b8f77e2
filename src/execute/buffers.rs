//! Reuses memory for parts of local files.
//!
//! Allocating a few MiB costs more than reading a cached file into them: the system zeroes every
//! page first, and takes the pages back when they are freed. So a buffer comes back here once its
//! part is sent, up to a limit. It is lent again only to parts of at least half its capacity: a
//! small part in a large buffer would hold far more memory than its permits allow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The smallest buffer that is kept. Below this size, fresh memory is as fast.
const WORTH_KEEPING: usize = 1 << 20;

/// The most bytes that are kept.
const MOST_KEPT: usize = 256 << 20;

/// Buffers that can be used again. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

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
        let used = {
            let mut kept = self.kept();
            let fits = |buffer: &Vec<u8>| (length..=2 * length).contains(&buffer.capacity());
            kept.iter().rposition(fits).map(|at| kept.swap_remove(at))
        };
        let mut lent = Lent {
            buffer: used.unwrap_or_default(),
            home: self.clone(),
        };
        lent.buffer.resize(length, 0);
        fill(&mut lent.buffer)?;
        Ok(Bytes::from_owner(lent))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lent buffer. It goes back to `home` when it is dropped.
struct Lent {
    buffer: Vec<u8>,
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
        // Declared before the guard, so that large buffers are freed after it is unlocked.
        let mut gone = Vec::new();
        let mut kept = self.home.kept();
        // Drops the oldest buffers first, because parts of their sizes have not been requested
        // lately.
        let mut all: usize = buffer.capacity() + kept.iter().map(Vec::capacity).sum::<usize>();
        while all > MOST_KEPT && !kept.is_empty() {
            let oldest = kept.remove(0);
            all -= oldest.capacity();
            gone.push(oldest);
        }
        if all <= MOST_KEPT {
            kept.push(buffer);
        }
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
            buffers.kept().len(),
            1,
            "the large one was left where it is"
        );
        drop(small);
        let large: Vec<_> = (0..20).map(|_| filled(32 * WORTH_KEEPING)).collect();
        drop(large);
        let all: usize = buffers.kept().iter().map(Vec::capacity).sum();
        assert!(all > MOST_KEPT / 2 && all <= MOST_KEPT, "{all}");
    }

    #[test]
    fn what_failed_to_be_filled_comes_back_too() {
        let buffers = Buffers::default();
        assert_eq!(buffers.filled(WORTH_KEEPING, |_| Err("no")), Err("no"));
        assert_eq!(buffers.0.lock().unwrap().len(), 1);
    }
}
