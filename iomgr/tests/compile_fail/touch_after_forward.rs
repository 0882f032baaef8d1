//! I-12: a request that was passed on is not looked at.

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
        let disposition = lower.forward(irp, On::ALL);
        if irp.is_cancelled() {
            return irp.complete(Status::CANCELLED, 0);
        }
        disposition
    }
}

fn main() {}
