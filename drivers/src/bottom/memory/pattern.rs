//! Data that can be computed: reads make it, writes are compared with it.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, Status};

use super::{Bytes, Medium, answer};
use crate::class::{FileType, Metadata};

/// Bytes that are one value of the function.
const BLOCK: usize = 8;

/// A file whose every byte is a function of its offset and a seed: what a filter above makes of its
/// data can be checked at any size, without keeping any.
///
/// A read brings the bytes of its range. A write succeeds if it brings the very bytes that are there,
/// and fails with [`Status::DATA_ERROR`] (`InvalidData`) if one differs; beyond the end, with
/// `ENOSPC`.
#[derive(Debug)]
pub struct Pattern {
    seed: u64,
    len: u64,
}

impl Pattern {
    /// A file of `len` bytes.
    pub fn new(seed: u64, len: u64) -> Pattern {
        Pattern { seed, len }
    }

    /// The bytes from the byte `offset` on.
    pub fn fill(&self, offset: u64, bytes: &mut [u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let skip = (at % BLOCK as u64) as usize;
            let n = (BLOCK - skip).min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&self.block(at / BLOCK as u64)[skip..][..n]);
            (at, rest) = (at.wrapping_add(n as u64), later);
        }
    }

    fn block(&self, number: u64) -> [u8; BLOCK] {
        // SplitMix64: neighbours and near seeds have nothing in common.
        let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(self.seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

impl Medium for Pattern {
    fn read(&self, irp: &mut Irp<'_>, at: u64) -> Bytes {
        let wanted = self.len.saturating_sub(at).min(irp.len() as u64) as usize;
        let mut part = [0; 512];
        let mut done = 0;
        while done < wanted {
            let n = part.len().min(wanted - done);
            self.fill(at + done as u64, &mut part[..n]);
            done += irp.copy_in(done, &part[..n]);
        }
        Ok(done)
    }

    fn write(&self, irp: &Irp<'_>, at: Option<u64>) -> Result<(u64, usize), Status> {
        let start = at.unwrap_or(self.len);
        let mut at = start;
        if irp.is_empty() {
            return Ok((start, 0));
        }
        let room = self.len.saturating_sub(start).min(irp.len() as u64) as usize;
        if room == 0 {
            return Err(Status::from_errno(libc::ENOSPC));
        }
        let mut left = room;
        let mut part = [0; 512];
        for segment in irp.segments() {
            for bytes in segment[..left.min(segment.len())].chunks(part.len()) {
                let right = &mut part[..bytes.len()];
                self.fill(at, right);
                if right != bytes {
                    return Err(Status::DATA_ERROR);
                }
                (at, left) = (at + bytes.len() as u64, left - bytes.len());
            }
        }
        Ok((start, room))
    }

    fn metadata(&self) -> Metadata {
        Metadata::of(FileType::regular(), 0o666).sized(self.len, 0)
    }
}

impl Driver for Pattern {
    fn name(&self) -> &str {
        "pattern"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        answer(self, irp)
    }
}
