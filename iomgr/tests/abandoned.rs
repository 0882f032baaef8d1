//! What a driver is shown of a result that nobody takes stays while it looks, whatever it does meanwhile.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use overlapped_iomgr::{
    Disposition, Driver, FileObject, Held, Irp, IssuerScope, Late, Limits, Lower, Major, MajorSet,
    Request, Stack, Status,
};
use support::*;

struct Abandons {
    scope: IssuerScope,
    alive: Arc<AtomicUsize>,
    kept: Arc<Mutex<Option<Held>>>,
    seen: Arc<AtomicUsize>,
}

impl Driver for Abandons {
    fn name(&self) -> &str {
        "abandons"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        if irp.major() != Major::Read {
            return irp.complete(Status::SUCCESS, 0);
        }
        let (held, disposition) = irp.hold();
        *self.kept.lock().unwrap() = Some(held);
        disposition
    }
    fn abandoned(&self, file: &FileObject, late: Late<'_>) {
        if late.major() != Major::Read {
            return;
        }
        // Refused; but the mail, which says that the requester has left, is read before that.
        let refused = self.scope.run(|| now(&mut read(file, 4, 0)));
        assert_eq!(refused.unwrap_err().status(), Status::QUOTA_EXCEEDED);
        assert_eq!(self.alive.load(SeqCst), 1);
        self.seen.store(late.received().flatten().filter(|byte| **byte == 7).count(), SeqCst);
    }
}

/// X-35, after the requester has left on another thread.
#[test]
fn x35_what_is_abandoned_stays_while_its_driver_looks() {
    let (alive, seen): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let kept: Arc<Mutex<Option<Held>>> = Arc::default();
    let scope = IssuerScope::with_limits(Limits { requests: 0, bytes: 0 });
    let bottom = Abandons { scope, alive: alive.clone(), kept: kept.clone(), seen: seen.clone() };
    let stack = Stack::new([], Arc::new(bottom)).unwrap();
    let harness = Harness::new();
    let file = open(&stack, FD);
    let operation = Read { buf: Counted::new(64, &alive), offset: 0 };
    let mut request = Request::owned(file.clone(), operation);
    assert!(poll(&mut request).is_pending());
    std::thread::spawn(move || drop(request)).join().unwrap();
    let mut held = kept.lock().unwrap().take().unwrap();
    assert_eq!(held.copy_in(0, &[7; 64]), 64);
    held.complete(Status::SUCCESS, 64);
    assert_eq!(seen.load(SeqCst), 64);
    assert_eq!(alive.load(SeqCst), 0, "let go of once");
    drop(file);
    harness.finish();
}
