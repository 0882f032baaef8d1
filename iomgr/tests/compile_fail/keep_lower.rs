//! The way down does not outlive the dispatch either.

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
        let (held, disposition) = irp.hold();
        std::thread::spawn(move || {
            drop(lower);
            held.complete(Status::SUCCESS, 0);
        });
        disposition
    }
}

fn main() {}
