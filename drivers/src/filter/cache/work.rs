//! A cache's work on one open file: what waits, and what goes below.

use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use overlapped_iomgr::Status;
use overlapped_iomgr::buf::{AlignedBuf, IoBuf, IoBufMut};
use overlapped_iomgr::filter::{Io, Next};

use super::Shared;
use super::settings::count;
use super::store::{Leaving, Store, Taken};
use crate::class::{QueryInformation, Read, Write, WriteVectored};

/// Writes of blocks that are under way at once.
const LANES: usize = 8;

/// How often what was cancelled is tried again when a file is closed: each time by somebody's hand.
const PATIENCE: usize = 1000;

/// As in `Status::OFFSET_OVERFLOW`.
const END_OF_OFFSETS: u64 = i64::MAX as u64;

/// An open file.
pub(super) struct Work {
    pub(super) shared: Arc<Shared>,
    store: Mutex<Store>,
}

/// A request that is being worked on.
pub(super) struct Inside<'w> {
    work: &'w Work,
    alone: bool,
}

/// Blocks that nobody else reads or writes below.
struct Holding<'w> {
    work: &'w Work,
    blocks: Range<u64>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.work.change(|store| store.leave(self.alone));
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.work.change(|store| store.let_go(&self.blocks));
    }
}

impl Work {
    pub(super) fn new(shared: Arc<Shared>) -> Work {
        let store = Store::new(&shared.settings);
        Work { shared, store: Mutex::new(store) }
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        // Whoever panics with it has changed one thing at a time.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something that others may wait for.
    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let (changed, waiters) = {
            let mut store = self.store();
            (change(&mut store), store.waiters())
        };
        waiters.into_iter().for_each(Waker::wake);
        changed
    }

    /// Waits until `attempt` has a result. [`Status::CANCELLED`], if the request is one that can be.
    async fn until<T>(
        &self,
        next: Next<'_>,
        closes: bool,
        mut attempt: impl FnMut(&mut Store) -> Option<T>,
    ) -> Result<T, Status> {
        poll_fn(|cx| {
            let mut store = self.store();
            if let Some(result) = attempt(&mut store) {
                return Poll::Ready(Ok(result));
            }
            if next.is_cancelled() && !closes {
                return Poll::Ready(Err(Status::CANCELLED));
            }
            store.wait(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Waits for those that want to be alone.
    pub(super) async fn enter(&self, next: Next<'_>) -> Result<Inside<'_>, Status> {
        self.until(next, false, |store| store.enter().then_some(())).await?;
        Ok(Inside { work: self, alone: false })
    }

    /// Waits for all others.
    pub(super) async fn enter_alone(
        &self,
        next: Next<'_>,
        closes: bool,
    ) -> Result<Inside<'_>, Status> {
        struct Waiting<'w>(&'w Work);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.change(|store| store.waiting_to_be_alone -= 1);
            }
        }
        self.store().waiting_to_be_alone += 1;
        let waiting = Waiting(self);
        self.until(next, closes, |store| store.enter_alone().then_some(())).await?;
        drop(waiting);
        Ok(Inside { work: self, alone: true })
    }

    async fn hold(&self, next: Next<'_>, blocks: Range<u64>) -> Result<Holding<'_>, Status> {
        self.until(next, false, |store| store.hold(blocks.clone()).then_some(())).await?;
        Ok(Holding { work: self, blocks })
    }

    /// Asks for the file's length, if nobody has. The request is inside.
    pub(super) async fn measure(&self, next: Next<'_>) {
        if self.store().measured {
            return;
        }
        // What has no length is learned by reading and writing.
        let len = next.request(QueryInformation).await.map_or(0, |found| found.len());
        let mut store = self.store();
        if !next.is_cancelled() {
            store.known = store.known.max(len);
            store.measured = true;
        }
    }

    // Reading.

    /// Reads the bytes from `done` on that are not here, and gives them to the request; yields how far
    /// that went, and whether the file ends there. `ahead`: read on up to this byte.
    pub(super) async fn miss<'a>(
        &self,
        next: Next<'a>,
        io: &mut Io<'a>,
        done: usize,
        ahead: u64,
    ) -> Result<(usize, bool), Status> {
        let (begin, end) = (io.offset(), io.offset() + io.len() as u64);
        let at = begin + done as u64;
        // One that is being read by somebody else is here soon.
        let blocks = self
            .until(next, false, |store| {
                let mut copied = done;
                let (reached, ended) = store.copy(at, end, |bytes| copied += io.put(copied, bytes));
                if reached > at || ended {
                    return Some(Err((copied, ended)));
                }
                store.hold_missing(at, end, ahead).map(Ok)
            })
            .await?;
        let blocks = match blocks {
            Ok(blocks) => blocks,
            Err(found) => return Ok(found),
        };
        let holding = Holding { work: self, blocks: blocks.clone() };
        let (known, start, last, wanted) = {
            let store = self.store();
            let wanted = store.start(store.blocks_of(at, end - at).end);
            (store.known, store.start(blocks.start), store.start(blocks.end), wanted)
        };
        let mut read = self.read_below(next, start, last).await;
        if read.is_err() && last > wanted && !next.is_cancelled() {
            // Nobody has asked for what may be the trouble.
            read = self.read_below(next, start, wanted).await;
        }
        let (bytes, n, ended) = read?;
        let counters = &self.shared.counters;
        count(&counters.bytes_below, n as u64);
        count(&counters.read_ahead, (start + n as u64).saturating_sub(wanted));
        self.store().loaded(blocks.start, &bytes[..n], ended, known);
        drop(holding);
        let from = ((at - start) as usize).min(n);
        let until = ((end - start) as usize).min(n);
        let copied = io.put(done, &bytes[from..until]);
        Ok((done + copied, ended))
    }

    /// Reads the bytes `start..end`, until the file ends: the bytes, how many, and whether it does.
    async fn read_below(
        &self,
        next: Next<'_>,
        start: u64,
        end: u64,
    ) -> Result<(AlignedBuf, usize, bool), Status> {
        let len = end.min(END_OF_OFFSETS).saturating_sub(start) as usize;
        let mut bytes = AlignedBuf::try_new(len, 4096)?;
        let mut done = 0;
        while done < len {
            count(&self.shared.counters.reads_below, 1);
            let part = Read::at(bytes.slice_mut(done..len), start + done as u64);
            let (n, part) = next.request(part).await.map_err(|error| error.status())?;
            bytes = part.into_inner();
            if n == 0 {
                return Ok((bytes, done, true));
            }
            done += n;
        }
        Ok((bytes, done, false))
    }

    // Writing.

    /// Takes a write; yields how many bytes. The rest must go below.
    pub(super) async fn take<'a>(&self, next: Next<'a>, io: &mut Io<'a>) -> Result<usize, Status> {
        let (begin, end) = (io.offset(), io.offset() + io.len() as u64);
        let mut at = begin;
        while at < end {
            let taken = {
                let mut store = self.store();
                if !store.may_take(end) {
                    return Ok((at - begin) as usize);
                }
                loop {
                    let skip = (at - begin) as usize;
                    let (taken, n) = store.take(at, end, None, |into| _ = io.copy_out(skip, into));
                    at += n;
                    if !matches!(taken, Taken::Yes) || at == end {
                        break taken;
                    }
                }
            };
            match taken {
                Taken::Yes => {}
                Taken::Lacks => match self.complete(next, io, at, end).await {
                    Ok(n) => at += n,
                    // What cannot be read can be written perhaps.
                    Err(_) if !next.is_cancelled() => return Ok((at - begin) as usize),
                    Err(status) if at == begin => return Err(status),
                    Err(_) => return Ok((at - begin) as usize),
                },
                Taken::Full => {
                    let high = self.shared.settings.high_blocks();
                    let has_room = self.until(next, false, |store| match store.has_room() {
                        true => Some(true),
                        false if store.cleaning || store.dirty_blocks() <= high => None,
                        false => store.is_left(u64::MAX)?.then_some(false),
                    });
                    let has_room = match has_room.await {
                        Err(_) if at > begin => return Ok((at - begin) as usize),
                        has_room => has_room?,
                    };
                    if !has_room && self.clean_down_to(next, high).await.is_err() {
                        return Ok((at - begin) as usize);
                    }
                }
            }
        }
        count(&self.shared.counters.writes_taken, 1);
        Ok((at - begin) as usize)
    }

    /// Takes a part of a block whose rest is read first; yields how many bytes.
    async fn complete<'a>(
        &self,
        next: Next<'a>,
        io: &mut Io<'a>,
        at: u64,
        end: u64,
    ) -> Result<u64, Status> {
        let blocks = self.store().blocks_of(at, 1);
        let _holding = self.hold(next, blocks.clone()).await?;
        let (start, last, known) = {
            let store = self.store();
            (store.start(blocks.start), store.start(blocks.end), store.known)
        };
        let (bytes, n, ended) = self.read_below(next, start, last).await?;
        count(&self.shared.counters.bytes_below, n as u64);
        let mut store = self.store();
        if ended {
            store.loaded(blocks.start, &bytes[..n], ended, known);
            if !store.may_take(end) {
                return Ok(0);
            }
        }
        let skip = (at - io.offset()) as usize;
        Ok(store.take(at, end, Some(&bytes[..n]), |into| _ = io.copy_out(skip, into)).1)
    }

    /// Sends a write below, but for its first `taken` bytes, and keeps what is here in step.
    pub(super) async fn write_through<'a>(
        &self,
        next: Next<'a>,
        io: &mut Io<'a>,
        taken: usize,
    ) -> Result<usize, Status> {
        let (begin, len) = (io.offset(), io.len() - taken);
        let at = begin + taken as u64;
        let blocks = self.store().blocks_of(at, len as u64);
        let _holding = self.hold(next, blocks.clone()).await?;
        count(&self.shared.counters.writes_through, 1);
        let result = if taken == 0 {
            next.forward(io).await
        } else {
            let buffers = io.share(taken..taken + len);
            let written = next.request(WriteVectored { buffers, offset: at }).await;
            written.map(|(n, _)| n).map_err(|error| error.status())
        };
        let mut store = self.store();
        match result {
            Ok(n) => {
                let keep = (len as u64) < self.shared.settings.around;
                store.written(at, at + n.min(len) as u64, keep, |from, into| {
                    _ = io.copy_out((from - begin) as usize, into);
                });
            }
            Err(_) => store.doubt(blocks),
        }
        result
    }

    /// Writes some back, if many are dirty and nobody does so.
    pub(super) async fn clean(&self, next: Next<'_>) {
        let settings = &self.shared.settings;
        let many = {
            let store = self.store();
            !store.cleaning && store.dirty_blocks() > settings.high_blocks()
        };
        if many {
            // Errors are kept for the next flush.
            _ = self.clean_down_to(next, settings.low_blocks()).await;
        }
    }

    async fn clean_down_to(&self, next: Next<'_>, blocks: usize) -> Result<(), Status> {
        struct Cleaning<'w>(&'w Work);
        impl Drop for Cleaning<'_> {
            fn drop(&mut self) {
                self.0.change(|store| store.cleaning = false);
            }
        }
        if std::mem::replace(&mut self.store().cleaning, true) {
            return Ok(());
        }
        let _cleaning = Cleaning(self);
        let from = self.store().cursor;
        for from in [from, 0] {
            let cursor = AtomicU64::new(from);
            let result = self.sweep(next, &cursor, u64::MAX, blocks).await;
            self.store().cursor = cursor.into_inner();
            if let Err(status) = result {
                if status != Status::CANCELLED {
                    self.store().failed = Some(status);
                }
                return Err(status);
            }
            if self.store().dirty_blocks() <= blocks {
                break;
            }
        }
        Ok(())
    }

    /// Writes back all that was taken up to now, and waits for what others are writing back.
    pub(super) async fn write_back(&self, next: Next<'_>, closes: bool) -> Result<(), Status> {
        let until = self.store().last_write();
        let mut tries = if closes { PATIENCE } else { 0 };
        loop {
            // Others may have some of it, and may fail.
            let left = self.until(next, closes, |store| match store.is_left(until) {
                Some(false) => None,
                left => Some(left.is_some()),
            });
            if !left.await? {
                return Ok(());
            }
            match self.sweep(next, &AtomicU64::new(0), until, 0).await {
                Ok(()) => {}
                Err(Status::CANCELLED) if tries > 0 => tries -= 1,
                Err(status) => return Err(status),
            }
        }
    }

    /// Writes back what is dirty from the cursor's block on and holds a write up to the number `until`,
    /// but what others hold; down to so many blocks.
    async fn sweep(
        &self,
        next: Next<'_>,
        cursor: &AtomicU64,
        until: u64,
        enough: usize,
    ) -> Result<(), Status> {
        let lanes = (0..LANES).map(|_| self.lane(next, cursor, until, enough));
        next.fork(lanes).all().await.collect()
    }

    async fn lane(
        &self,
        next: Next<'_>,
        cursor: &AtomicU64,
        until: u64,
        enough: usize,
    ) -> Result<(), Status> {
        loop {
            let leaving = {
                let mut store = self.store();
                if store.dirty_blocks() <= enough {
                    return Ok(());
                }
                store.pick(cursor.load(Ordering::Relaxed), until)?
            };
            let Some(Leaving { blocks, bytes }) = leaving else { return Ok(()) };
            cursor.store(blocks.end, Ordering::Relaxed);
            let leaving = Departure { work: self, blocks, there: false };
            leaving.write(next, bytes).await?;
        }
    }
}

/// Blocks on their way below.
struct Departure<'w> {
    work: &'w Work,
    blocks: Range<u64>,
    there: bool,
}

impl Departure<'_> {
    async fn write(mut self, next: Next<'_>, mut bytes: AlignedBuf) -> Result<(), Status> {
        let counters = &self.work.shared.counters;
        let start = self.work.store().start(self.blocks.start);
        let (mut done, len) = (0, bytes.len());
        while done < len {
            count(&counters.write_backs, 1);
            let part = Write::at(IoBuf::slice(bytes, done..), start + done as u64);
            match next.request(part).await {
                Ok((n, part)) if n > 0 => {
                    bytes = part.into_inner();
                    done += n;
                }
                failed => {
                    let status = failed.map_or_else(|e| e.status(), |_| Status::DISK_FULL);
                    if status != Status::CANCELLED {
                        count(&counters.failed_write_backs, 1);
                    }
                    return Err(status);
                }
            }
        }
        count(&counters.blocks_written_back, self.blocks.end - self.blocks.start);
        self.there = true;
        Ok(())
    }
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        self.work.change(|store| {
            store.left(&self.blocks, self.there);
            store.let_go(&self.blocks);
        });
    }
}
