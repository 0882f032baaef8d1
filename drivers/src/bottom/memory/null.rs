//! A file that is always empty, whatever is written to it.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, Status};

use super::{Bytes, Medium, answer};
use crate::class::{FileType, Metadata};

/// As `/dev/null`: reads are at the end of the file, writes are taken and forgotten.
#[derive(Debug, Default)]
pub struct Null;

impl Medium for Null {
    fn read(&self, _: &mut Irp<'_>, _: u64) -> Bytes {
        Ok(0)
    }
    fn write(&self, irp: &Irp<'_>, at: Option<u64>) -> Result<(u64, usize), Status> {
        Ok((at.unwrap_or(0), irp.len()))
    }
    fn metadata(&self) -> Metadata {
        Metadata::of(FileType::char_device(), 0o666)
    }
}

impl Driver for Null {
    fn name(&self) -> &str {
        "null"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        answer(self, irp)
    }
}
