//! Zeroes without end.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, Status};

use super::{Bytes, Medium, answer, fill_zero};
use crate::class::{FileType, Metadata};

/// As `/dev/zero`: reads bring zeroes, at every offset; writes are taken and forgotten.
#[derive(Debug, Default)]
pub struct Zero;

impl Medium for Zero {
    fn read(&self, irp: &mut Irp<'_>, _: u64) -> Bytes {
        let wanted = irp.len();
        Ok(fill_zero(irp, 0, wanted))
    }
    fn write(&self, irp: &Irp<'_>, at: Option<u64>) -> Result<(u64, usize), Status> {
        Ok((at.unwrap_or(0), irp.len()))
    }
    fn metadata(&self) -> Metadata {
        Metadata::of(FileType::char_device(), 0o666)
    }
}

impl Driver for Zero {
    fn name(&self) -> &str {
        "zero"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        answer(self, irp)
    }
}
