//! Reads a damaged journal whose run the user gives up.
//!
//! The new run needs only the uploads that the old run may have left open, because nothing else
//! knows their IDs. So every readable line is applied, even if others are missing. At worst, an
//! upload that has ended counts as open, and aborting it does no harm.

use super::segment::{FileName, Salvaged, pieces};
use super::state::RunState;

/// The open uploads that a damaged journal still shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Salvage {
    state: RunState,
    /// The number of lines that cannot be read.
    pub bad_lines: u64,
}

impl Salvage {
    /// Reads the files or objects of a journal, given in any order.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = (FileName, &'a [u8])>) -> Self {
        let mut files: Vec<_> = files.into_iter().collect();
        // A snapshot comes before the segment with its number.
        files.sort_unstable_by_key(|(name, _)| {
            (name.number(), matches!(name, FileName::Segment(_)))
        });
        let mut salvage = Self::default();
        for (_, bytes) in files {
            for piece in pieces(bytes) {
                match piece {
                    Some(Salvaged::Header) => {}
                    Some(Salvaged::State(state)) => salvage.state = *state,
                    Some(Salvaged::Event(at, event)) => salvage.state.apply(at, &event),
                    None => salvage.bad_lines += 1,
                }
            }
        }
        salvage
    }

    /// Returns the number of uploads that may be open.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.state.uploads.len()
    }

    /// Returns the state that a new journal begins with.
    pub(super) fn into_state(self) -> RunState {
        self.state.left_behind()
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{JournalEvent, UploadPlace};
    use super::super::identity::Writer;
    use super::super::segment::{Header, push_record, snapshot};
    use super::super::tests::{at, info, planned, range};
    use super::*;

    fn intended(upload: u64) -> JournalEvent {
        let (bucket, key) = ("bucket".parse().unwrap(), "k".parse().unwrap());
        let place = UploadPlace {
            endpoint: "default".into(),
            bucket,
            key,
        };
        JournalEvent::UploadIntended {
            upload,
            object: upload,
            place,
            server: None,
        }
    }

    fn segment(number: u64, events: &[JournalEvent]) -> Vec<u8> {
        let mut lines = Header::new(number, 0, &Writer::unknown(), at(0)).line();
        for (n, event) in (0..).zip(events) {
            push_record(&mut lines, n, at(n), event);
        }
        lines
    }

    #[test]
    fn each_line_counts_by_itself_and_a_snapshot_stands_before_its_segment() {
        let state = RunState {
            next_id: 3,
            ..RunState::default()
        };
        let old = segment(1, &[JournalEvent::RunBegan(info()), range(), intended(1)]);
        let middle = snapshot(
            &Header::new(2, 0, &Writer::unknown(), at(1)),
            0,
            &[],
            &state,
        );
        let mut new = segment(
            2,
            &[
                intended(4),
                planned(5, "a"),
                intended(6),
                JournalEvent::UploadEnded { upload: 6 },
            ],
        );
        let at = new.len() - 3;
        new[at] ^= 1;
        let files = [
            (FileName::Segment(2), new.as_slice()),
            (FileName::Snapshot(2), middle.as_slice()),
            (FileName::Segment(1), old.as_slice()),
        ];
        let salvage = Salvage::of(files);
        // The snapshot shows that 1 has ended. The end of 6 was in the bad line.
        assert_eq!((salvage.open_uploads(), salvage.bad_lines), (2, 1));
        let created = salvage.into_state();
        assert_eq!(created.uploads.keys().collect::<Vec<_>>(), [&4, &6]);
        assert_eq!(
            (created.next_id, created.run, created.ranges.len()),
            (7, None, 0)
        );
        // Without the snapshot, the segments count.
        assert_eq!(Salvage::of([files[0], files[2]]).open_uploads(), 3);
    }
}
