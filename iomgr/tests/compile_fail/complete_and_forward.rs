//! I-22: a completed request is not passed on.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On, Status};

struct Bad;

impl Driver for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let _first = irp.complete(Status::SUCCESS, 0);
        lower.forward(irp, On::ALL)
    }
}

fn main() {}
