//! What a cache knows of one open file: its blocks, and who is doing what to which of them. No I/O here.
//!
//! **Invariants**, of whatever is under the lock:
//! - A block that is in `clean` is below as it is here, as far as the file goes; one in `dirty` may
//!   not be, and is in no other place. Nothing but a write-back that succeeded, a write over all of it,
//!   or a file that became shorter takes a block out of `dirty`.
//! - What a block has behind the end of the file is zero.
//! - Who reads or writes blocks below holds their range in `held`, alone. So no read brings back what a
//!   write has changed meanwhile, and two writes of one block arrive in their order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::task::Waker;

use overlapped_iomgr::Status;
use overlapped_iomgr::buf::AlignedBuf;
use quick_cache::UnitWeighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};

use super::mix::Mix;
use super::settings::{MOST_AT_ONCE, Mode, Settings};
use super::streams::Streams;

/// How memory for I/O below is aligned: as direct I/O wants it.
const MEMORY: usize = 4096;

/// The cache's memory is divided between clean and dirty blocks in so many parts.
const PARTS: usize = 8;

type Bytes = Box<[u8]>;
type Clean = Cache<u64, Bytes, UnitWeighter, Mix, DefaultLifecycle<u64, Bytes>>;

/// A block that is not below as it is here.
struct Dirty {
    bytes: Bytes,
    /// The number of the oldest write that is not below and not on its way there.
    since: Option<u64>,
    /// The same of what is on its way.
    leaving: Option<u64>,
}

/// See the module's header.
pub(super) struct Store {
    block: u64,
    /// Most blocks, of both kinds.
    capacity: usize,
    mode: Mode,
    clean: Clean,
    /// What `clean` may have.
    room: usize,
    dirty: BTreeMap<u64, Dirty>,
    /// Those on their way below.
    leaving: usize,
    /// Counts the writes taken here.
    writes: u64,
    /// The bytes up to here are there below: the file's length, as far as is known.
    pub(super) known: u64,
    /// The file's length has been asked for.
    pub(super) measured: bool,
    /// The file was opened for reading, too, as far as is known.
    pub(super) reads: bool,
    /// It was opened so that writes may be taken here, and go below later.
    pub(super) writes_later: bool,
    /// Ranges of blocks that somebody reads or writes below.
    held: Vec<Range<u64>>,
    /// Requests that are being worked on, or the one that is alone.
    inside: usize,
    alone: bool,
    /// Those that wait to be alone.
    pub(super) waiting_to_be_alone: usize,
    /// Somebody writes dirty blocks back because there are many.
    pub(super) cleaning: bool,
    /// Where that goes on.
    pub(super) cursor: u64,
    /// Why a block could not be written back, for the next flush.
    pub(super) failed: Option<Status>,
    streams: Streams,
    waiting: Vec<Waker>,
}

/// Dirty blocks on their way below.
pub(super) struct Leaving {
    pub(super) blocks: Range<u64>,
    pub(super) bytes: AlignedBuf,
}

/// What became of a part of a write that is to be taken here.
pub(super) enum Taken {
    Yes,
    /// The rest of the block is wanted first.
    Lacks,
    /// Too many blocks are dirty.
    Full,
}

impl Store {
    pub(super) fn new(settings: &Settings) -> Store {
        let capacity = settings.blocks();
        let (weighter, hash) = (UnitWeighter, Mix::default());
        let lifecycle = DefaultLifecycle::default();
        Store {
            block: u64::from(settings.block),
            capacity,
            mode: settings.mode,
            clean: Cache::with(capacity, capacity as u64, weighter, hash, lifecycle),
            room: capacity,
            dirty: BTreeMap::new(),
            leaving: 0,
            writes: 0,
            known: 0,
            measured: false,
            reads: true,
            writes_later: false,
            held: Vec::new(),
            inside: 0,
            alone: false,
            waiting_to_be_alone: 0,
            cleaning: false,
            cursor: 0,
            failed: None,
            streams: Streams::default(),
            waiting: Vec::new(),
        }
    }

    // Who is doing what.

    /// Lets a request in beside others.
    pub(super) fn enter(&mut self) -> bool {
        let free = !self.alone && self.waiting_to_be_alone == 0;
        self.inside += usize::from(free);
        free
    }

    /// Lets a request in alone.
    pub(super) fn enter_alone(&mut self) -> bool {
        let free = !self.alone && self.inside == 0;
        self.alone |= free;
        free
    }

    pub(super) fn leave(&mut self, alone: bool) {
        if alone { self.alone = false } else { self.inside -= 1 }
    }

    fn is_held(&self, blocks: &Range<u64>) -> bool {
        self.held.iter().any(|held| blocks.start < held.end && held.start < blocks.end)
    }

    pub(super) fn hold(&mut self, blocks: Range<u64>) -> bool {
        let free = !self.is_held(&blocks);
        if free {
            self.held.push(blocks);
        }
        free
    }

    pub(super) fn let_go(&mut self, blocks: &Range<u64>) {
        // Held ranges do not overlap, so it is the one.
        if let Some(at) = self.held.iter().position(|held| held == blocks) {
            self.held.swap_remove(at);
        }
    }

    /// Has the waker woken at the next change.
    pub(super) fn wait(&mut self, waker: Waker) {
        if !self.waiting.iter().any(|other| other.will_wake(&waker)) {
            self.waiting.push(waker);
        }
    }

    pub(super) fn waiters(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiting)
    }

    // Where things are.

    /// The blocks of a range of bytes.
    pub(super) fn blocks_of(&self, at: u64, len: u64) -> Range<u64> {
        at / self.block..at.saturating_add(len).div_ceil(self.block)
    }

    /// The first byte of a block.
    pub(super) fn start(&self, block: u64) -> u64 {
        block.saturating_mul(self.block)
    }

    /// How many bytes of a block are in the file.
    fn valid(&self, block: u64) -> usize {
        self.known.saturating_sub(self.start(block)).min(self.block) as usize
    }

    /// The part of `at..end` in its first block: the block, and which of its bytes.
    fn part(&self, at: u64, end: u64) -> (u64, Range<usize>) {
        let from = (at % self.block) as usize;
        let n = (end - at).min(self.block - from as u64) as usize;
        (at / self.block, from..from + n)
    }

    fn empty_block(&self) -> Bytes {
        vec![0; self.block as usize].into_boxed_slice()
    }

    /// How many blocks are dirty, but for those on their way.
    pub(super) fn dirty_blocks(&self) -> usize {
        self.dirty.len().saturating_sub(self.leaving)
    }

    /// The number of the last write that was taken here.
    pub(super) fn last_write(&self) -> u64 {
        self.writes
    }

    // Reading.

    /// Gives what is here of the bytes `at..end`, from the start to the first block that is not;
    /// yields where that ends, and whether that is because the file does.
    pub(super) fn copy(
        &mut self,
        mut at: u64,
        end: u64,
        mut give: impl FnMut(&[u8]),
    ) -> (u64, bool) {
        while at < end {
            let (block, part) = self.part(at, end);
            let until = self.valid(block).min(part.end);
            let bytes = match self.dirty.get(&block) {
                Some(dirty) => &dirty.bytes,
                None => match self.clean.get(&block) {
                    Some(bytes) => bytes,
                    None => break,
                },
            };
            let found = bytes.get(part.start..until).unwrap_or_default();
            give(found);
            at += found.len() as u64;
            if until < part.end {
                return (at, true);
            }
        }
        (at, false)
    }

    /// Notes a read; yields how many bytes to read ahead of it, at most `most`.
    pub(super) fn note_read(&mut self, at: u64, end: u64, most: u64) -> u64 {
        self.streams.note(at, end, self.block * 4, most)
    }

    /// Holds the blocks to be read for the bytes `at..end`, the first of which is not here, and as far
    /// as `ahead` if that is known to be there. `None`: somebody else has it.
    pub(super) fn hold_missing(&mut self, at: u64, end: u64, ahead: u64) -> Option<Range<u64>> {
        let first = at / self.block;
        let wanted = end.max(ahead.min(self.known)).div_ceil(self.block);
        let most = (MOST_AT_ONCE / self.block).max(1);
        let mut last = first;
        while last < wanted.min(first.saturating_add(most)) {
            let here = self.dirty.contains_key(&last) || self.clean.contains_key(&last);
            if here || self.is_held(&(last..last + 1)) {
                break;
            }
            last += 1;
        }
        (last > first).then(|| {
            self.held.push(first..last);
            first..last
        })
    }

    /// Blocks `first..` have been read: these bytes, behind which the file ends if `ended`. `known`:
    /// what was known when that began.
    pub(super) fn loaded(&mut self, first: u64, bytes: &[u8], ended: bool, known: u64) {
        let end = self.start(first) + bytes.len() as u64;
        if end > self.known {
            // Nothing says so if nothing was read.
            self.known = if bytes.is_empty() { self.known } else { end };
        } else if ended && self.known == known && self.dirty.is_empty() {
            // Somebody else has made it shorter.
            self.known = end;
        }
        for (block, part) in (first..).zip(bytes.chunks(self.block as usize)) {
            if self.dirty.contains_key(&block) {
                continue;
            }
            let mut bytes = self.empty_block();
            bytes[..part.len()].copy_from_slice(part);
            self.clean.insert(block, bytes);
        }
    }

    // Writing.

    /// Whether a write of these bytes may go below later: it makes the file no longer.
    pub(super) fn may_take(&self, end: u64) -> bool {
        self.writes_later && self.mode == Mode::WriteBack && end <= self.known
    }

    /// Takes the part of `at..end` in its first block, which `copy` brings. `loaded`: the block as it is
    /// below. Yields how many bytes.
    pub(super) fn take(
        &mut self,
        at: u64,
        end: u64,
        loaded: Option<&[u8]>,
        copy: impl FnOnce(&mut [u8]),
    ) -> (Taken, u64) {
        let (block, part) = self.part(at, end);
        let number = self.writes + 1;
        if let Some(dirty) = self.dirty.get_mut(&block) {
            copy(&mut dirty.bytes[part.clone()]);
            dirty.since = dirty.since.or(Some(number));
        } else {
            if !self.has_room() {
                return (Taken::Full, 0);
            }
            let whole = part.start == 0 && part.end >= self.valid(block);
            let mut bytes = match (self.clean.remove(&block), loaded) {
                (Some((_, bytes)), _) => bytes,
                (None, Some(loaded)) => {
                    let mut bytes = self.empty_block();
                    bytes[..loaded.len()].copy_from_slice(loaded);
                    bytes
                }
                (None, None) if whole => self.empty_block(),
                (None, None) => return (Taken::Lacks, 0),
            };
            copy(&mut bytes[part.clone()]);
            self.dirty.insert(block, Dirty { bytes, since: Some(number), leaving: None });
            self.divide();
        }
        self.writes = number;
        (Taken::Yes, part.len() as u64)
    }

    /// Whether one more block may become dirty: the clean ones keep a part.
    pub(super) fn has_room(&self) -> bool {
        self.dirty.len() < self.capacity - self.capacity / PARTS
    }

    /// Gives the clean blocks what memory the dirty ones leave, in whole parts.
    fn divide(&mut self) {
        let part = (self.capacity / PARTS).max(1);
        let parts = self.dirty.len().div_ceil(part).min(PARTS - 1);
        let room = self.capacity.saturating_sub(parts * part).max(part);
        if room != self.room {
            self.room = room;
            self.clean.set_capacity(room as u64);
        }
    }

    /// The bytes `at..end` have been written below; `copy` brings those from one offset on. `keep`:
    /// blocks written whole are kept here. The range is held.
    pub(super) fn written(
        &mut self,
        at: u64,
        end: u64,
        keep: bool,
        mut copy: impl FnMut(u64, &mut [u8]),
    ) {
        self.known = self.known.max(end);
        let mut at = at;
        while at < end {
            let (block, part) = self.part(at, end);
            let whole = part.start == 0 && part.end >= self.valid(block);
            if whole && self.dirty.remove(&block).is_some() {
                self.divide();
            }
            if let Some(dirty) = self.dirty.get_mut(&block) {
                copy(at, &mut dirty.bytes[part.clone()]);
            } else if whole && !keep {
                self.clean.remove(&block);
            } else if whole {
                let mut bytes = self.empty_block();
                copy(at, &mut bytes[part.clone()]);
                self.clean.insert(block, bytes);
            } else if let Some(mut bytes) = self.clean.peek_mut(&block) {
                copy(at, &mut bytes[part.clone()]);
            }
            at += part.len() as u64;
        }
    }

    /// Lets go of clean blocks.
    fn forget(&mut self, blocks: Range<u64>) {
        if blocks.end.saturating_sub(blocks.start) > self.clean.len() as u64 {
            self.clean.retain(|block, _| !blocks.contains(block));
        } else {
            blocks.for_each(|block| _ = self.clean.remove(&block));
        }
    }

    /// Nobody knows what is in these blocks below, nor where the file ends.
    pub(super) fn doubt(&mut self, blocks: Range<u64>) {
        self.forget(blocks);
        self.clean.remove(&(self.known / self.block));
        self.measured = false;
    }

    /// The file's length has been changed to `len`.
    pub(super) fn resized(&mut self, len: u64) {
        (self.known, self.measured) = (len, true);
        let (last, end) = (len.div_ceil(self.block), (len % self.block) as usize);
        self.clean.retain(|block, _| *block < last);
        self.dirty.split_off(&last);
        self.divide();
        if end > 0 {
            self.clear(last - 1, end..self.block as usize);
        }
    }

    /// A range of bytes has become zeroes below; the length has stayed.
    pub(super) fn zeroed(&mut self, at: u64, end: u64) {
        let end = end.min(self.known);
        let mut at = at;
        let blocks = at.div_ceil(self.block)..end / self.block;
        if blocks.start < blocks.end {
            self.forget(blocks.clone());
            let mut behind = self.dirty.split_off(&blocks.start).split_off(&blocks.end);
            self.dirty.append(&mut behind);
            self.divide();
        }
        while at < end {
            let (block, part) = self.part(at, end);
            at += part.len() as u64;
            if blocks.contains(&block) {
                at = self.start(blocks.end).max(at);
            } else {
                self.clear(block, part);
            }
        }
    }

    fn clear(&mut self, block: u64, part: Range<usize>) {
        if let Some(dirty) = self.dirty.get_mut(&block) {
            dirty.bytes[part].fill(0);
        } else if let Some(mut bytes) = self.clean.peek_mut(&block) {
            bytes[part].fill(0);
        }
    }

    // Writing back.

    /// Whether blocks hold a write up to the number `until`; and whether such a one may be taken.
    pub(super) fn is_left(&self, until: u64) -> Option<bool> {
        let due = |since: Option<u64>| since.is_some_and(|since| since <= until);
        let mut left = self.dirty.iter().filter(|(_, d)| due(d.since) || due(d.leaving)).peekable();
        left.peek()?;
        Some(left.any(|(&block, d)| due(d.since) && !self.is_held(&(block..block + 1))))
    }

    /// Takes neighbouring dirty blocks, the first that are at `from` or behind it, hold a write up to the
    /// number `until`, and are nobody's.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn pick(&mut self, from: u64, until: u64) -> Result<Option<Leaving>, Status> {
        let mut found: Option<Range<u64>> = None;
        for (&block, dirty) in self.dirty.range(from..) {
            let due = dirty.since.is_some_and(|since| since <= until);
            let free = due && !self.is_held(&(block..block + 1));
            match &mut found {
                None if free => found = Some(block..block + 1),
                None => {}
                Some(run) => {
                    let bytes = (run.end - run.start) * self.block;
                    if !free || block != run.end || bytes + self.block > MOST_AT_ONCE {
                        break;
                    }
                    run.end += 1;
                }
            }
        }
        let Some(blocks) = found else { return Ok(None) };
        let start = self.start(blocks.start);
        let len = self.known.min(self.start(blocks.end)).saturating_sub(start) as usize;
        let mut bytes = AlignedBuf::try_new(len, MEMORY)?;
        let dirty = self.dirty.range(blocks.clone());
        for ((_, dirty), part) in dirty.zip(bytes.chunks_mut(self.block as usize)) {
            part.copy_from_slice(&dirty.bytes[..part.len()]);
        }
        for (_, dirty) in self.dirty.range_mut(blocks.clone()) {
            dirty.leaving = dirty.since.take();
        }
        self.leaving += (blocks.end - blocks.start) as usize;
        self.held.push(blocks.clone());
        Ok(Some(Leaving { blocks, bytes }))
    }

    /// Blocks on their way are below, or not: then they are dirty as before.
    pub(super) fn left(&mut self, blocks: &Range<u64>, there: bool) {
        self.leaving -= (blocks.end - blocks.start) as usize;
        let mut clean = Vec::new();
        for (&block, dirty) in self.dirty.range_mut(blocks.clone()) {
            let leaving = dirty.leaving.take();
            if !there {
                dirty.since = leaving.or(dirty.since);
            } else if dirty.since.is_none() {
                clean.push(block);
            }
        }
        for block in &clean {
            if let Some(dirty) = self.dirty.remove(block) {
                self.clean.insert(*block, dirty.bytes);
            }
        }
        if !clean.is_empty() {
            self.divide();
        }
    }
}
