//! I-14: dispatch cannot return without having passed the request on.

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet};

struct Bad;

impl Driver for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let _ = (irp, lower);
    }
}

fn main() {}
