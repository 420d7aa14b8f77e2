//! What can still be read of a journal that is damaged, when its user gives the run up.
//!
//! Of a run that is begun anew nothing has to be known but the uploads that the old one may have left open: nobody else
//! knows their ids. So every line counts by itself here, and what is between two of them may be missing. At worst an
//! upload is taken for open that is over by now, and aborting that is no mistake.

use super::segment::{Name, Piece, pieces};
use super::state::RunState;

/// What a damaged journal still says of open uploads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Salvage {
    state: RunState,
    /// Lines that can not be read.
    pub bad_lines: u64,
}

impl Salvage {
    /// Reads the files or objects of a journal, given in any order.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = (Name, &'a [u8])>) -> Self {
        let mut files: Vec<_> = files.into_iter().collect();
        // A snapshot stands before the segment with its number.
        files.sort_unstable_by_key(|(name, _)| (name.number(), matches!(name, Name::Segment(_))));
        let mut salvage = Self::default();
        for (_, bytes) in files {
            for piece in pieces(bytes) {
                match piece {
                    Some(Piece::Header) => {}
                    Some(Piece::State(state)) => salvage.state = *state,
                    Some(Piece::Event(at, event)) => salvage.state.apply(at, &event),
                    None => salvage.bad_lines += 1,
                }
            }
        }
        salvage
    }

    /// Uploads that may be open.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.state.uploads.len()
    }

    /// What a new journal begins with.
    pub(super) fn into_state(self) -> RunState {
        self.state.left_behind()
    }
}
