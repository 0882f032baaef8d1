//! The data of a write is borrowed from its request.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet, On};

struct Bad;

impl Driver for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let data = irp.segments().next();
        let disposition = lower.forward(irp, On::ALL);
        assert!(data.is_some());
        disposition
    }
}

fn main() {}
