//! I-21: nobody but the I/O manager makes a disposition.

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
        Disposition(())
    }
}

fn main() {}
