//! A cache of a file's blocks in memory.
//!
//! ```text
//!   read ──▶ here? ─ yes ─▶ copied                        `store.rs`: what is here
//!              └─ no ─▶ read below, with what comes next    `work.rs`: who waits, what goes below
//!   write ─▶ taken, dirty (write-back) ─┐
//!         └▶ below, at once             └▶ below: flush, close, many dirty
//! ```

mod mix;
mod settings;
mod store;
mod streams;
mod work;

use std::fmt;
use std::sync::{Arc, OnceLock};

use overlapped_iomgr::driver::{Capabilities, Limits};
use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Class, FileObject, Group, Major, MajorSet, Status, minor};

pub use settings::{Counts, Mode, Settings, Unfit};

use crate::class::{CopyRange, Create};
use crate::text::{Entry, Made, Parameter, Parameters, Size, TextError};
use settings::{Counters, count};
use work::Work;

/// Keeps blocks of a file in memory: reads find them there, and writes, if it is write-back, go below
/// later. Each open file has blocks of its own: two opens of one file, each through a cache, do not see
/// each other's writes as long as those are in memory, nor what has become of blocks that they have
/// read before.
///
/// - A read that misses reads the blocks that it lacks, once, whoever else wants them; and, behind a
///   read that goes on where another has ended, those that come next.
/// - A flush writes every block back that was written before it, waits, and is then sent below. If
///   blocks could not be written back since the last one, it fails with that status, and they are kept.
/// - Cleanup and close write everything back. A file that is closed and could not be written fails its
///   close; what is lost then is logged and counted.
/// - A write that makes the file longer, an appending one, and one on a file that was opened with
///   `O_SYNC` or `O_DSYNC`, goes below at once; so the file's length is always true.
///
/// For files: what has no offsets passes by, and so do reads into pool buffers, which files refuse.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::cache::{Cache, Mode, Settings, Unfit};
///
/// let settings = Settings { size: 64 << 20, mode: Mode::WriteBack, ..Settings::default() };
/// let cache = Cache::new(settings.clone()).unwrap();
/// let handle = cache.handle();
/// let filter = overlapped_iomgr::Filter::into_driver(cache);
/// assert_eq!((filter.name(), handle.counts().hits), ("cache", 0));
/// assert_eq!(Cache::new(Settings { block: 1000, ..settings }).unwrap_err(), Unfit::Block);
/// ```
#[derive(Debug)]
pub struct Cache {
    shared: Arc<Shared>,
}

/// What all files of a cache have in common.
struct Shared {
    settings: Settings,
    counters: Counters,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// A view of a [`Cache`] that is in a stack.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// What it has counted up to now.
    pub fn counts(&self) -> Counts {
        self.shared.counters.read()
    }
}

impl Cache {
    /// A cache.
    ///
    /// # Errors
    /// Settings that do not go together.
    pub fn new(settings: Settings) -> Result<Cache, Unfit> {
        settings.check()?;
        let shared = Shared { settings, counters: Counters::default() };
        Ok(Cache { shared: Arc::new(shared) })
    }

    /// For looking at it once it is in a stack.
    pub fn handle(&self) -> Handle {
        Handle { shared: self.shared.clone() }
    }
}

/// What a cache keeps for an open file.
#[derive(Default)]
pub struct Open(OnceLock<Work>);

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl Open {
    fn work(&self, cache: &Cache) -> &Work {
        self.0.get_or_init(|| Work::new(cache.shared.clone()))
    }
}

/// The end of a request's bytes.
fn end_of(io: &Io<'_>) -> Result<u64, Status> {
    io.offset().checked_add(io.len() as u64).ok_or(Status::OFFSET_OVERFLOW)
}

impl Filter for Cache {
    type Open = Open;

    fn name(&self) -> &str {
        "cache"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Create,
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::SetInformation,
            Major::FileSystemControl,
            Major::Cleanup,
            Major::Close,
        ])
    }

    /// What it does not know and carries data would go by what it holds.
    fn class(&self) -> Class {
        Class::Transform
    }

    fn limits(&self, below: Limits) -> Limits {
        let can = match self.shared.settings.mode {
            Mode::WriteBack => below.can.without(Capabilities::WRITE_THROUGH),
            Mode::WriteThrough => below.can,
        };
        let (preferred, messages) = (self.shared.settings.block, below.messages);
        let preferred = below.preferred.max(preferred);
        Limits { preferred, messages, can, ..Limits::NONE }
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Cache)
    }

    /// What is written on its way past the new filter would make what that reads meanwhile wrong.
    fn may_attach(&self, file: &FileObject) -> Result<(), Status> {
        if file.requests() > 0 { Err(Status::DEVICE_BUSY) } else { Ok(()) }
    }

    /// Requests that come by another way would not see what is not written back.
    fn may_detach(&self, _: &FileObject) -> Result<(), Status> {
        match self.shared.settings.mode {
            Mode::WriteBack => Err(Status::DEVICE_BUSY),
            Mode::WriteThrough => Ok(()),
        }
    }

    async fn read(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let work = open.work(self);
        if !io.file().is_seekable() || !work.store().reads {
            return next.forward(&mut io).await;
        }
        if !matches!(io.minor(), minor::NONE | minor::VECTORED) {
            return Err(Status::NOT_SUPPORTED);
        }
        let (at, end, len) = (io.offset(), end_of(&io)?, io.len());
        let (mut done, ahead, found) = {
            let (mut store, mut done) = (work.store(), 0);
            let settings = &self.shared.settings;
            // Not more than a small cache keeps until it is read.
            let most = settings.readahead.min(settings.size / 4);
            let ahead = store.note_read(at, end, most);
            let (_, ended) = store.copy(at, end, |bytes| done += io.put(done, bytes));
            (done, end.saturating_add(ahead), ended && store.measured)
        };
        let counters = &self.shared.counters;
        if found || done == len {
            count(&counters.hits, 1);
            return Ok(done);
        }
        count(&counters.misses, 1);
        // In a box, as the other long ways: a hit's future is small without it.
        let read = Box::pin(async {
            let _inside = work.enter(next).await?;
            work.measure(next).await;
            let mut ended = false;
            while done < len && !ended {
                (done, ended) = match work.miss(next, &mut io, done, ahead).await {
                    Err(status) if done == 0 || status == Status::CANCELLED => return Err(status),
                    // As a file that cannot be read on from here.
                    Err(_) => break,
                    Ok(got) => got,
                };
            }
            Ok(done)
        });
        read.await
    }

    async fn write(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let work = open.work(self);
        if !io.file().is_seekable() || io.is_empty() {
            return next.forward(&mut io).await;
        }
        if !matches!(io.minor(), minor::NONE | minor::VECTORED | minor::ALL) {
            return Err(Status::NOT_SUPPORTED);
        }
        if io.file().appends() {
            return Box::pin(self.append(work, next, io)).await;
        }
        let (end, len) = (end_of(&io)?, io.len());
        let _inside = work.enter(next).await?;
        if !work.store().measured {
            Box::pin(work.measure(next)).await;
        }
        let small = (len as u64) < self.shared.settings.around;
        let mut taken = 0;
        if small && work.store().may_take(end) {
            taken = Box::pin(work.take(next, &mut io)).await?;
            Box::pin(work.clean(next)).await;
        }
        if taken == len {
            return Ok(len);
        }
        match Box::pin(work.write_through(next, &mut io, taken)).await {
            Ok(n) => Ok(taken + n),
            // As a write that came short.
            Err(_) if taken > 0 => Ok(taken),
            failed => failed,
        }
    }

    async fn flush(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let work = open.work(self);
        let flushed = {
            let _inside = work.enter(next).await?;
            Box::pin(work.write_back(next, false)).await
        };
        // An error that is kept is for a flush that somebody waits for.
        match flushed {
            Err(Status::CANCELLED) => return Err(Status::CANCELLED),
            Err(status) => {
                work.store().failed = None;
                return Err(status);
            }
            Ok(()) => {}
        }
        match next.forward(&mut io).await {
            Err(Status::CANCELLED) => Err(Status::CANCELLED),
            result => {
                let failed = work.store().failed.take();
                result.and_then(|done| failed.map_or(Ok(done), Err))
            }
        }
    }

    async fn other(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match (io.major(), io.minor()) {
            (Major::Create, _) => {
                let flags = io.payload::<Create>().map(|create| create.flags);
                let done = next.forward(&mut io).await?;
                if let Some(flags) = flags {
                    let (work, access) = (open.work(self), flags & libc::O_ACCMODE);
                    let mut store = work.store();
                    store.reads = access != libc::O_WRONLY;
                    let at_once = libc::O_SYNC | libc::O_DSYNC;
                    store.writes_later = access != libc::O_RDONLY && flags & at_once == 0;
                }
                Ok(done)
            }
            (Major::Cleanup | Major::Close, _) => {
                Box::pin(self.end(open.work(self), next, io)).await
            }
            _ if !io.file().is_seekable() => next.forward(&mut io).await,
            (Major::SetInformation, minor::NONE) => {
                let work = open.work(self);
                Box::pin(async {
                    let (len, _alone) = (io.arg(), work.enter_alone(next, false).await?);
                    let result = next.forward(&mut io).await;
                    let mut store = work.store();
                    match result {
                        Ok(_) => store.resized(len),
                        // Whether it has happened is asked when it matters.
                        Err(_) => store.doubt(0..u64::MAX),
                    }
                    result
                })
                .await
            }
            (Major::FileSystemControl, minor::ZERO_DATA | minor::ZERO_RANGE) => {
                Box::pin(self.zero(open.work(self), next, io)).await
            }
            (Major::FileSystemControl, minor::COPY_RANGE) => {
                Box::pin(self.copy_range(open.work(self), next, io)).await
            }
            (Major::FileSystemControl, _) => Err(Status::NOT_SUPPORTED),
            _ => next.forward(&mut io).await,
        }
    }
}

impl Cache {
    /// A write to the end of the file, wherever that is.
    async fn append<'a>(
        &self,
        work: &Work,
        next: Next<'a>,
        mut io: Io<'a>,
    ) -> Result<usize, Status> {
        let _alone = work.enter_alone(next, false).await?;
        count(&self.shared.counters.writes_through, 1);
        let result = next.forward(&mut io).await;
        work.store().doubt(0..0);
        result
    }

    async fn zero<'a>(&self, work: &Work, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let (at, len) = (io.offset(), io.arg());
        let _alone = work.enter_alone(next, false).await?;
        work.measure(next).await;
        let result = next.forward(&mut io).await;
        let mut store = work.store();
        match result {
            Ok(_) => store.zeroed(at, at.saturating_add(len)),
            Err(_) => {
                let blocks = store.blocks_of(at, len);
                store.doubt(blocks);
            }
        }
        result
    }

    async fn copy_range<'a>(
        &self,
        work: &Work,
        next: Next<'a>,
        mut io: Io<'a>,
    ) -> Result<usize, Status> {
        let len = io.payload::<CopyRange>().ok_or(Status::INVALID_PARAMETER)?.range().1;
        let (at, _alone) = (io.offset(), work.enter_alone(next, false).await?);
        // Parts of blocks, around the range, or in it if less is copied.
        work.write_back(next, false).await?;
        let result = next.forward(&mut io).await;
        let mut store = work.store();
        let blocks = store.blocks_of(at, len);
        store.doubt(blocks);
        result
    }

    /// Cleanup and close.
    async fn end<'a>(&self, work: &Work, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let flushed = {
            let _alone = work.enter_alone(next, true).await?;
            let flushed = work.write_back(next, true).await;
            if io.major() == Major::Close {
                // Whoever comes now is to hear from below that the file is closed.
                let mut store = work.store();
                (store.reads, store.writes_later) = (false, false);
            }
            flushed
        };
        if let Err(status) = flushed
            && io.major() == Major::Close
        {
            let blocks = work.store().dirty_blocks();
            count(&self.shared.counters.blocks_lost, blocks as u64);
            let file = io.file().name();
            tracing::error!(file, blocks, %status, "a file is closed that could not be written");
        }
        let closed = next.forward(&mut io).await;
        flushed?;
        closed
    }
}

impl Parameter for Mode {
    const EXPECTED: &'static str = "writeback or writethrough";
    fn read(value: &str) -> Option<Mode> {
        match value {
            "writeback" => Some(Mode::WriteBack),
            "writethrough" => Some(Mode::WriteThrough),
            _ => None,
        }
    }
}

/// `cache` in stacks' texts.
pub(crate) const ENTRY: Entry = Entry {
    name: "cache",
    about: "keeps blocks in memory: cache(size=8M, mode=writeback|writethrough)",
    make,
};

fn make(p: &mut Parameters<'_>) -> Result<Made, TextError> {
    let default = Settings::default();
    let Size(size) = p.or("size", Size(default.size))?;
    let mode = p.or("mode", default.mode)?;
    let Size(block) = p.or("block", Size(u64::from(default.block)))?;
    let high = p.optional("high")?.map(|Size(high)| high);
    let low = p.optional("low")?.map(|Size(low)| low);
    let Size(readahead) = p.or("readahead", Size(default.readahead))?;
    let Size(around) = p.or("around", Size(default.around))?;
    let block = u32::try_from(block).unwrap_or(0);
    let settings = Settings { size, mode, block, high, low, readahead, around };
    match Cache::new(settings) {
        Ok(cache) => Ok(Made::Filter(cache.into_driver())),
        Err(unfit) => {
            let (key, takes) = unfit.words();
            Err(p.error(key, takes))
        }
    }
}
