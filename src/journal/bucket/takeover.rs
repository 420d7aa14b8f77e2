//! Takes over a journal in S3: writes the next number, and thereby fences the previous writer.

use jiff::Timestamp;

use super::{BucketPlace, ROUNDS, StoredFiles};
use crate::journal::error::JournalError;
use crate::journal::holder::record_name;
use crate::journal::identity::{LeaseTerms, Writer};
use crate::journal::salvage::Salvage;
use crate::journal::segment::{Fence, FileName, Header, segment_name};

impl BucketPlace {
    /// Reads the journal and writes its next segment. Returns the number and the time of that
    /// segment, and the content of the journal. `checked` is the session that the journal may be
    /// taken from.
    ///
    /// Another session may take over at any moment. If it does so before the journal is read, it is
    /// the last writer there, and must be checked. If it does so later, it has written the next
    /// number.
    pub(super) async fn take_over(
        &self,
        writer: &Writer,
        terms: &LeaseTerms,
        checked: Option<Writer>,
    ) -> Result<(u64, Timestamp, StoredFiles), JournalError> {
        let checked = checked.map(|holder| holder.id);
        let mut rounds = 0;
        loop {
            let mut found = self.load().await?;
            let last = found.replay.header.as_ref();
            if last.map(|header| &header.writer.id) != checked.as_ref() {
                self.check_holder(writer, terms).await?;
            }
            let (number, next, at) = (found.next_segment, found.replay.next, self.now());
            let header = Header::new(number, next, writer, at).line();
            if !self.is_created(number, header.clone(), &mut rounds).await? {
                // The segments that were written meanwhile must be read first.
                self.check_holder(writer, terms).await?;
                continue;
            }
            self.try_condition(number, header).await?;
            let records = std::mem::take(&mut found.records).into_iter();
            let others = records.filter(|id| *id != writer.id);
            self.remove(std::mem::take(&mut found.stale)).await;
            self.remove_objects(others.map(|id| record_name(&id))).await;
            return Ok((number, at, found));
        }
    }

    /// Takes over a journal that cannot be read. Returns the number of the new segment, the fences
    /// that must be kept, and the uploads that could be read.
    pub(super) async fn take_unread(
        &self,
        writer: &Writer,
        terms: &LeaseTerms,
    ) -> Result<(u64, Vec<Fence>, Salvage), JournalError> {
        let mut rounds = 0;
        loop {
            let names = self.names().await?;
            self.check_holder(writer, terms).await?;
            let salvage = self.salvage(&names).await?;
            // Returns the number that the writer of this object would write next.
            let next =
                |name: &FileName| name.number() + u64::from(matches!(name, FileName::Segment(_)));
            let number = names.iter().map(next).max().unwrap_or(1);
            let at = self.now();
            let header = Header::new(number, 0, writer, at).line();
            if !self.is_created(number, header.clone(), &mut rounds).await? {
                continue;
            }
            self.try_condition(number, header).await?;
            // Any of these segments may be a fence.
            let segments = names.iter().filter_map(|name| match name {
                FileName::Segment(number) => Some(*number),
                FileName::Snapshot(_) => None,
            });
            let fences = segments
                .chain([number])
                .map(|segment| Fence { segment, at })
                .collect();
            return Ok((number, fences, salvage));
        }
    }

    /// Writes the first segment of a session. Returns false if another writer was faster, or an
    /// error if that has happened too often.
    async fn is_created(
        &self,
        number: u64,
        header: Vec<u8>,
        rounds: &mut u32,
    ) -> Result<bool, JournalError> {
        match self.create(&segment_name(number), header).await {
            Ok(()) => Ok(true),
            Err(JournalError::Fenced { .. }) if *rounds < ROUNDS => {
                *rounds += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
