//! I-12: a held request belongs to the `Held`.

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
        let (held, disposition) = irp.hold();
        held.complete(Status::SUCCESS, irp.len());
        disposition
    }
}

fn main() {}
