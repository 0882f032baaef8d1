//! I-24f: a completion routine ends a request in one way.

use overlapped_iomgr::{Completion, On, Unwinding};

fn completed(irp: Unwinding<'_>) -> Completion {
    let (_held, _stop) = irp.reclaim();
    irp.retry(On::ALL)
}

fn main() {
    let _ = completed;
}
