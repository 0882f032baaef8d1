//! The received bytes are borrowed from their request.

use overlapped_iomgr::{Completion, Unwinding};

fn completed(mut irp: Unwinding<'_>) -> Completion {
    let first = irp.received_mut().next();
    let completion = irp.proceed();
    first.unwrap()[0] = 1;
    completion
}

fn main() {
    let _ = completed;
}
