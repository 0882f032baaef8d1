//! An `Irp` stays on its thread; `hold` is the way to another.

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
        std::thread::scope(|scope| {
            scope.spawn(move || irp.complete(Status::SUCCESS, 0)).join().unwrap()
        })
    }
}

fn main() {}
