//! Writes recorded in the order in which they happened, and replayed.
//!
//! ```text
//!   write ─▶ below ─▶ completed: its place in the log, and its data there ─▶ client     this file, `log.rs`
//!   flush ─▶ its place in the log ─▶ below ─▶ completed: written there ─▶ client
//!   log ───▶ entry by entry onto another file, as far as wanted                        `replay.rs`
//! ```

mod layout;
mod log;
mod replay;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use layout::SECTOR;
pub use layout::{Flags, LogEntry, LogError};
use log::Log;
use overlapped_iomgr::buf::AlignedBuf;
use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Major, MajorSet, Status, minor};
pub use replay::Replay;

use crate::class::{Metadata, QueryInformation, Read, ZeroData, ops::CURRENT};
use crate::text::{Entry, Made};

/// Records every write, flush and trim of a file that succeeds, with its data, in a log: what has reached
/// the medium when, for [`Replay`] to rebuild any moment of it.
///
/// The log has the layout of Linux's device-mapper target `log-writes`, and of QEMU's `blklogwrites`.
/// Writes are logged in the order in which they completed. A flush stands behind the writes that had
/// completed when it began, and before those that completed later. A request completes when it is in the
/// log; if that cannot be written, it and all later ones fail with the log's error.
///
/// A clone records to the same log.
///
/// ```
/// # mod overlapped {
/// #     pub use overlapped_iomgr::Driver;
/// #     pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::filter::Filter; }
/// # }
/// use overlapped::driver::{Filter, filter::Record};
/// let record = Record::to("writes.log");
/// let driver = record.clone().into_driver();
/// # use overlapped::Driver as _;
/// assert_eq!(driver.name(), "record");
/// ```
#[derive(Clone)]
pub struct Record {
    log: Arc<Log>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").finish_non_exhaustive()
    }
}

impl Record {
    /// Its name in stacks' texts.
    pub const ENTRY: Entry = Entry {
        name: "record",
        about: "logs writes, flushes and trims: record(log=PATH)",
        make: |p| Ok(Made::Filter(Record::to(p.main::<PathBuf>("log")?).into_driver())),
    };

    /// Records to this file, which is made, or emptied, when the first file is opened through the filter.
    pub fn to(log: impl Into<PathBuf>) -> Record {
        Record { log: Arc::new(Log::new(log.into())) }
    }

    /// Puts a name at this point of the log: behind all writes that have completed.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it may leave the mark, or an entry that says nothing.
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] for a name of more than 479 bytes, and the log's error.
    pub async fn mark(&self, name: &str) -> Result<(), Status> {
        self.log.mark(name).await
    }

    /// Logs what has been written: whole sectors, behind room for an entry. The place is taken at once: in
    /// the order in which this is called.
    fn written(
        &self,
        offset: u64,
        mut bytes: Vec<u8>,
    ) -> impl Future<Output = Result<(), Status>> + Send + '_ {
        let len = (bytes.len() - SECTOR) as u64;
        let place = self.log.reserve(len);
        let entry = LogEntry { number: place.number, offset, len, flags: Flags::NONE, name: None };
        entry.write(&mut bytes[..SECTOR]);
        async move { self.log.put(place, bytes).await }
    }

    /// Logs that a range has become zeroes: whole sectors as a discard, parts of some as writes.
    async fn zeroed(&self, next: Next<'_>, range: Range<u64>) -> Result<(), Status> {
        let sector = SECTOR as u64;
        let (first, last) = (range.start / sector * sector, range.end / sector * sector);
        let whole = range.start.next_multiple_of(sector)..last;
        if !whole.is_empty() {
            let place = self.log.reserve(0);
            let (number, flags) = (place.number, Flags::DISCARD);
            let (offset, len) = (whole.start, whole.end - whole.start);
            let entry = LogEntry { number, offset, len, flags, name: None };
            self.log.put(place, entry.sector()).await?;
        }
        let mut edges = Vec::new();
        for (edge, at) in [(first, range.start), (last, range.end)] {
            if !at.is_multiple_of(sector) && !edges.contains(&edge) {
                edges.push(edge);
            }
        }
        for edge in edges {
            // Aligned, as direct I/O wants it.
            let read = next.request(Read::at(AlignedBuf::new(SECTOR, 4096), edge)).await;
            let (n, content) = read.map_err(|error| error.status())?;
            let mut bytes = vec![0; 2 * SECTOR];
            bytes[SECTOR..][..n].copy_from_slice(&content[..n]);
            self.written(edge, bytes).await?;
        }
        Ok(())
    }
}

impl Filter for Record {
    type Open = ();

    fn name(&self) -> &str {
        "record"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Create,
            Major::Write,
            Major::Flush,
            Major::SetInformation,
            Major::FileSystemControl,
            Major::Close,
        ])
    }

    /// The log knows sectors only. Zeroes that keep their space are logged as they are written, and a write
    /// that is to be durable as itself and a flush.
    fn limits(&self, below: Limits) -> Limits {
        let not = Capabilities::ZERO.with(Capabilities::WRITE_THROUGH);
        Limits { block: below.block.max(SECTOR as u32), can: below.can.without(not), ..below }
    }

    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if io.offset() == CURRENT || io.file().appends() {
            return Err(Status::NOT_SUPPORTED);
        }
        self.log.check()?;
        self.log.file(Some(next)).await?;
        let n = next.forward(&mut io).await?.min(io.len());
        // A part of a sector cannot be logged; it is as good as not written.
        let n = n / SECTOR * SECTOR;
        if n == 0 {
            return if io.is_empty() { Ok(0) } else { Err(Status::DISK_FULL) };
        }
        let mut bytes = vec![0; SECTOR];
        bytes.reserve_exact(io.len());
        io.segments().for_each(|part| bytes.extend_from_slice(part));
        bytes.truncate(SECTOR + n);
        self.written(io.offset(), bytes).await?;
        Ok(n)
    }

    async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.log.check()?;
        self.log.file(Some(next)).await?;
        let place = self.log.reserve(0);
        let result = next.forward(&mut io).await;
        // One that has failed leaves an entry that says nothing, for its place is taken.
        let flags = if result.is_ok() { Flags::FLUSH } else { Flags::NONE };
        let entry = LogEntry { number: place.number, offset: 0, len: 0, flags, name: None };
        let number = place.number;
        let logged = self.log.put(place, entry.sector()).await;
        let n = result?;
        logged?;
        self.log.settle(Some(next), number + 1).await?;
        Ok(n)
    }

    async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match (io.major(), io.minor()) {
            (Major::Create, _) => {
                self.log.file(Some(next)).await?;
                next.forward(&mut io).await
            }
            (Major::Close, _) => {
                let closed = next.forward(&mut io).await;
                // Nobody is left to hear of an error.
                _ = self.log.finish().await;
                closed
            }
            (Major::SetInformation, minor::NONE) => {
                self.log.check()?;
                let (new, old) = (io.arg(), next.request(QueryInformation).await);
                let old = old.as_ref().map(Metadata::len).map_err(Status::from)?;
                let n = next.forward(&mut io).await?;
                if new < old {
                    self.zeroed(next, new..old.next_multiple_of(SECTOR as u64)).await?;
                }
                Ok(n)
            }
            (Major::FileSystemControl, minor::ZERO_DATA) => {
                self.log.check()?;
                let its = *io.payload::<ZeroData>().ok_or(Status::INVALID_PARAMETER)?;
                let n = next.forward(&mut io).await?;
                self.zeroed(next, its.offset..its.offset + its.len).await?;
                Ok(n)
            }
            // Data that is not seen here cannot be logged.
            (Major::FileSystemControl, _) => Err(Status::NOT_SUPPORTED),
            _ => next.forward(&mut io).await,
        }
    }
}
