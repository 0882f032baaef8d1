//! I-22: a request is completed once.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, Status};

struct Bad;

impl Driver for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let _ = lower;
        let _first = irp.complete(Status::SUCCESS, 0);
        irp.complete(Status::SUCCESS, 0)
    }
}

fn main() {}
