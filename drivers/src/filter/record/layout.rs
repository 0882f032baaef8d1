//! The layout of a log: that of Linux's device-mapper target `log-writes`, which QEMU's `blklogwrites` has
//! too.
//!
//! ```text
//!  sector 0      1        2 …              all numbers have their lowest byte first
//!   ┌───────┬────────┬────────┬────────┬──
//!   │ super │ entry  │  data  │ entry  │ …  data: as many sectors as the entry says; none of
//!   └───────┴────────┴────────┴────────┴──  discards, and a mark's name is in its entry's sector
//! ```

use std::fmt;

use overlapped_iomgr::Status;

/// Bytes of a sector in the logs made here.
pub(super) const SECTOR: usize = 512;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;

/// Bytes of the numbers of an entry: a mark's name begins behind them.
pub(super) const ENTRY: usize = 32;

/// The longest name of a mark, in bytes.
pub(super) const MOST_NAME: usize = SECTOR - ENTRY - 1;

/// What an entry is. A write has none of these, or those that the device was asked for with it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(u64);

impl Flags {
    /// A plain write.
    pub const NONE: Flags = Flags(0);
    /// What was in the device's cache has reached the medium.
    pub const FLUSH: Flags = Flags(1);
    /// The write itself has reached the medium.
    pub const FUA: Flags = Flags(2);
    /// The sectors hold nothing any more.
    pub const DISCARD: Flags = Flags(4);
    /// A name for a point in the log.
    pub const MARK: Flags = Flags(8);
    /// A write of a file system's own data.
    pub const METADATA: Flags = Flags(16);

    /// Whether all of the other's are set.
    pub fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (Flags::FLUSH, "FLUSH"),
            (Flags::FUA, "FUA"),
            (Flags::DISCARD, "DISCARD"),
            (Flags::MARK, "MARK"),
            (Flags::METADATA, "METADATA"),
        ];
        let mut set = f.debug_set();
        for (_, name) in all.into_iter().filter(|(flag, _)| self.has(*flag)) {
            set.entry(&format_args!("{name}"));
        }
        set.finish()
    }
}

/// What is wrong with a log, or with using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogError {
    /// The file does not begin as a log does.
    NotALog,
    /// A version that is not known.
    Version(u64),
    /// A sector's size that cannot be.
    SectorSize(u32),
    /// The entry of this number says what cannot be, or the log ends in its middle.
    Damaged(u64),
    /// A file could not be read or written.
    Io(Status),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::NotALog => f.write_str("this is no log of writes"),
            LogError::Version(version) => write!(f, "logs of version {version} are not known"),
            LogError::SectorSize(size) => write!(f, "the log has sectors of {size} bytes"),
            LogError::Damaged(entry) => write!(f, "entry {entry} of the log is damaged"),
            LogError::Io(status) => write!(f, "the log or its target: {status}"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<LogError> for std::io::Error {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(status) => status.into(),
            other => std::io::Error::new(std::io::ErrorKind::InvalidData, other),
        }
    }
}

impl From<Status> for LogError {
    fn from(status: Status) -> LogError {
        LogError::Io(status)
    }
}

/// The first sector, for so many entries.
pub(super) fn super_block(entries: u64) -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    for (i, number) in [MAGIC, VERSION, entries, SECTOR as u64].into_iter().enumerate() {
        sector[i * 8..][..8].copy_from_slice(&number.to_le_bytes());
    }
    sector
}

fn number(sector: &[u8], i: usize) -> u64 {
    u64::from_le_bytes(sector[i * 8..][..8].try_into().expect("eight bytes"))
}

/// How many entries, and bytes of a sector.
pub(super) fn parse_super(sector: &[u8]) -> Result<(u64, u64), LogError> {
    if sector.len() < 32 || number(sector, 0) != MAGIC {
        return Err(LogError::NotALog);
    }
    if number(sector, 1) != VERSION {
        return Err(LogError::Version(number(sector, 1)));
    }
    // Half a number wide.
    let size = number(sector, 3) as u32;
    if !size.is_power_of_two() || !(SECTOR as u32..=1 << 20).contains(&size) {
        return Err(LogError::SectorSize(size));
    }
    Ok((number(sector, 2), u64::from(size)))
}

/// An entry of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Its place in the log, from 0.
    pub number: u64,
    /// The first byte that it is about, in the recorded file.
    pub offset: u64,
    /// Bytes that it is about.
    pub len: u64,
    /// What it is.
    pub flags: Flags,
    /// A mark's name.
    pub name: Option<String>,
}

impl LogEntry {
    /// Bytes behind the entry in the log.
    pub(super) fn data(&self) -> u64 {
        if self.flags.has(Flags::DISCARD) { 0 } else { self.len }
    }

    /// Its first sector, of so many bytes.
    pub(super) fn parse(number_: u64, sector: &[u8]) -> Result<LogEntry, LogError> {
        let size = sector.len() as u64;
        let damaged = LogError::Damaged(number_);
        let bytes = |i| number(sector, i).checked_mul(size).filter(|n| *n <= i64::MAX as u64);
        let (offset, len) = (bytes(0).ok_or(damaged)?, bytes(1).ok_or(damaged)?);
        let flags = Flags(number(sector, 2));
        if flags.0 >= 32 || offset.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(damaged);
        }
        let name = if flags.has(Flags::MARK) {
            let end = usize::try_from(number(sector, 3)).ok().and_then(|n| n.checked_add(ENTRY));
            let name = end.and_then(|end| sector.get(ENTRY..end)).ok_or(damaged)?;
            Some(String::from_utf8_lossy(name).into_owned())
        } else {
            None
        };
        Ok(LogEntry { number: number_, offset, len, flags, name })
    }

    /// Its first sector.
    pub(super) fn sector(&self) -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        self.write(&mut sector);
        sector
    }

    /// As [`LogEntry::sector`], into so many zeroes.
    pub(super) fn write(&self, sector: &mut [u8]) {
        let name = self.name.as_deref().unwrap_or("");
        let size = SECTOR as u64;
        let numbers = [self.offset / size, self.len / size, self.flags.0, name.len() as u64];
        for (i, number) in numbers.into_iter().enumerate() {
            sector[i * 8..][..8].copy_from_slice(&number.to_le_bytes());
        }
        sector[ENTRY..][..name.len()].copy_from_slice(name.as_bytes());
    }
}
