//! A disk that is always full.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, Status};

use super::{Bytes, Medium, answer, fill_zero};
use crate::class::{FileType, Metadata};

/// As `/dev/full`: reads bring zeroes, writes fail with `ENOSPC` (`StorageFull`).
#[derive(Debug, Default)]
pub struct Full;

impl Medium for Full {
    fn read(&self, irp: &mut Irp<'_>, _: u64) -> Bytes {
        let wanted = irp.len();
        Ok(fill_zero(irp, 0, wanted))
    }
    fn write(&self, _: &Irp<'_>, _: Option<u64>) -> Result<(u64, usize), Status> {
        Err(Status::from_errno(libc::ENOSPC))
    }
    fn metadata(&self) -> Metadata {
        Metadata::of(FileType::char_device(), 0o666)
    }
}

impl Driver for Full {
    fn name(&self) -> &str {
        "full"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        answer(self, irp)
    }
}
