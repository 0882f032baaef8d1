//! I-12: an `Irp` does not outlive the dispatch that lent it: statics.

use std::cell::RefCell;

use overlapped_iomgr::{Disposition, Driver, Irp, Lower, MajorSet};

thread_local! {
    static KEPT: RefCell<Option<Irp<'static>>> = const { RefCell::new(None) };
}

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
        KEPT.with_borrow_mut(|kept| *kept = Some(irp));
        panic!()
    }
}

fn main() {}
