//! An unlocked volume: where its bytes are, and the cipher.

use std::sync::{Mutex, PoisonError};

use overlapped_iomgr::Status;
use overlapped_iomgr::buf::AlignedBuf;
use overlapped_iomgr::filter::RangeLocks;

use super::error::LuksError;
use super::header::Header;
use super::key::Key;
use super::xts::{TWEAK_UNIT, Xts};

/// See the module's header.
pub(super) struct Volume {
    payload: u64,
    size: Option<u64>,
    sector: usize,
    tweak: u64,
    pub(super) xts: Xts,
    /// Of writes, where sectors are larger than what the I/O manager makes whole.
    pub(super) locks: RangeLocks,
    /// Memory for enciphered bytes that nobody uses now, of each of [`BUFFERS`].
    buffers: [Mutex<Vec<AlignedBuf>>; 2],
}

/// The most that is enciphered at once, in bytes.
pub(super) const PIECE: usize = 1 << 20;

/// Bytes of the memory that is kept, and how many of each are.
const BUFFERS: [(usize, usize); 2] = [(64 << 10, 32), (PIECE, 4)];

/// How memory is aligned: as direct I/O wants it.
const MEMORY: usize = 4096;

impl Volume {
    pub(super) fn new(header: &Header, key: Key) -> Result<Volume, LuksError> {
        let Header { payload, size, sector, tweak, .. } = *header;
        let (locks, buffers) = (RangeLocks::default(), Default::default());
        Ok(Volume { payload, size, sector, tweak, xts: Xts::new(key, sector)?, locks, buffers })
    }

    /// Bytes of a sector.
    pub(super) fn sector(&self) -> usize {
        self.sector
    }

    /// The tweak of the sector that begins at a byte.
    pub(super) fn tweak(&self, at: u64) -> u64 {
        self.tweak.wrapping_add(at / TWEAK_UNIT)
    }

    /// Where a byte is in the file.
    pub(super) fn place(&self, at: u64) -> Result<u64, Status> {
        let place = at.checked_add(self.payload).filter(|place| *place <= i64::MAX as u64);
        place.ok_or(Status::OFFSET_OVERFLOW)
    }

    /// How many of the bytes from `at` on are in the volume.
    pub(super) fn within(&self, at: u64, len: usize) -> usize {
        let left = self.size.map_or(u64::MAX, |size| size.saturating_sub(at));
        len.min(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Bytes of the volume in a file of so many.
    pub(super) fn len(&self, file: u64) -> u64 {
        let len = file.saturating_sub(self.payload);
        let len = len / self.sector as u64 * self.sector as u64;
        self.size.map_or(len, |size| len.min(size))
    }

    /// Whether it has a length of its own, whatever the file's.
    pub(super) fn is_fixed(&self) -> bool {
        self.size.is_some()
    }

    /// Memory for up to [`PIECE`] enciphered bytes.
    pub(super) fn buffer(&self, len: usize) -> Result<AlignedBuf, Status> {
        let class = usize::from(len > BUFFERS[0].0);
        let kept = self.buffers[class].lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(buffer) = kept {
            return Ok(buffer);
        }
        AlignedBuf::try_new(BUFFERS[class].0, MEMORY).map_err(|error| Status::from(&error))
    }

    /// Keeps memory for the next one. It has no plain bytes in it.
    pub(super) fn give_back(&self, buffer: AlignedBuf) {
        let class = usize::from(buffer.len() > BUFFERS[0].0);
        let mut buffers = self.buffers[class].lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS[class].1 {
            buffers.push(buffer);
        }
    }
}
