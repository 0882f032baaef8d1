//! I-12: an `Irp` does not outlive the dispatch that lent it: drivers.

use std::sync::Mutex;

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet};

struct Bad(Mutex<Option<Irp<'static>>>);

impl Driver for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let _ = lower;
        *self.0.lock().unwrap() = Some(irp);
        panic!()
    }
}

fn main() {}
