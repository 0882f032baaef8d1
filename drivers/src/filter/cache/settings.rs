//! What can be chosen of a cache, and what it counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes of one read or write that the cache makes below.
pub(super) const MOST_AT_ONCE: u64 = 1 << 20;

/// When writes go below.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// At once: the write is done when it is done below.
    #[default]
    WriteThrough,
    /// Later: when the file is flushed or closed, or when many blocks wait for that. A write is done
    /// when the cache has it.
    WriteBack,
}

/// What a [`Cache`](super::Cache) is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Bytes of blocks, of each open file; at least 8 blocks.
    pub size: u64,
    /// When writes go below.
    pub mode: Mode,
    /// Bytes of a block: a power of two from 512 to 1 MiB.
    pub block: u32,
    /// So many bytes of blocks not written back have some written back; at most seven eighths of
    /// `size`. `None`: half of it.
    pub high: Option<u64>,
    /// Down to so many bytes; at most `high`. `None`: half of that.
    pub low: Option<u64>,
    /// Most bytes that are read ahead of a sequential reader, at most 1 MiB; 0: none.
    pub readahead: u64,
    /// Writes of so many bytes or more go below at once, and are not kept: they are as fast without a
    /// copy, and would push out what is of more use.
    pub around: u64,
}

impl Default for Settings {
    /// 8 MiB, write-through, blocks of 4 KiB, read-ahead of 128 KiB, and writes from 1 MiB on go around.
    fn default() -> Self {
        Settings {
            size: 8 << 20,
            mode: Mode::default(),
            block: 4096,
            high: None,
            low: None,
            readahead: 128 << 10,
            around: 1 << 20,
        }
    }
}

/// Settings that do not go together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unfit {
    /// The block is no power of two from 512 to 1 MiB.
    Block,
    /// The size is less than 8 blocks, or more blocks than can be counted.
    Size,
    /// The high mark is above seven eighths of the size, or less than a block.
    High,
    /// The low mark is above the high one.
    Low,
    /// The read-ahead is more than 1 MiB.
    ReadAhead,
}

impl Unfit {
    /// The parameter, and what it takes.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Unfit::Block => ("block", "a power of two from 512 to 1M"),
            Unfit::Size => ("size", "at least 8 blocks"),
            Unfit::High => ("high", "at least a block, and at most seven eighths of the size"),
            Unfit::Low => ("low", "at most the high mark"),
            Unfit::ReadAhead => ("readahead", "at most 1M"),
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, takes) = self.words();
        write!(f, "a cache's '{key}' takes {takes}")
    }
}

impl std::error::Error for Unfit {}

impl Settings {
    pub(super) fn check(&self) -> Result<(), Unfit> {
        if !self.block.is_power_of_two() || !(512..=1 << 20).contains(&self.block) {
            return Err(Unfit::Block);
        }
        let blocks = self.size / u64::from(self.block);
        if blocks < 8 || u32::try_from(blocks).is_err() {
            return Err(Unfit::Size);
        }
        if self.high_blocks() == 0 || self.high_blocks() > self.blocks() / 8 * 7 {
            return Err(Unfit::High);
        }
        if self.low_blocks() > self.high_blocks() {
            return Err(Unfit::Low);
        }
        if self.readahead > MOST_AT_ONCE {
            return Err(Unfit::ReadAhead);
        }
        Ok(())
    }

    fn in_blocks(&self, bytes: u64) -> usize {
        usize::try_from(bytes / u64::from(self.block)).unwrap_or(usize::MAX)
    }

    pub(super) fn blocks(&self) -> usize {
        self.in_blocks(self.size)
    }

    pub(super) fn high_blocks(&self) -> usize {
        self.in_blocks(self.high.unwrap_or(self.size / 2))
    }

    pub(super) fn low_blocks(&self) -> usize {
        self.low.map_or(self.high_blocks() / 2, |low| self.in_blocks(low))
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident)*) => {
        /// What a [`Cache`](super::Cache) has counted, of all its files, since it was made.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Counts { $($(#[$doc])* pub $name: u64),* }

        #[derive(Default)]
        pub(super) struct Counters { $(pub(super) $name: AtomicU64),* }

        impl Counters {
            pub(super) fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counts! {
    /// Reads that found all they asked for.
    hits
    /// Reads that did not.
    misses
    /// Reads that the cache has made below.
    reads_below
    /// Bytes of those.
    bytes_below
    /// Bytes that were read ahead, among those.
    read_ahead
    /// Writes that were taken, to go below later.
    writes_taken
    /// Writes that went below at once.
    writes_through
    /// Writes by which the cache has written blocks back.
    write_backs
    /// Blocks of those.
    blocks_written_back
    /// Writes of blocks that failed. The blocks are kept.
    failed_write_backs
    /// Blocks that could not be written back before their file was closed: lost.
    blocks_lost
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
