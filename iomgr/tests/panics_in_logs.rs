//! A subscriber of `tracing` that panics takes nobody along. In a process of its own: which events a
//! subscriber is asked for is decided for all threads.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use overlapped_iomgr::Status;
use support::*;

/// Only the requests with this offset meet the panic.
const VICTIM: u64 = 7;

/// A subscriber that panics at every event.
struct Raging(Arc<AtomicUsize>);

impl tracing::Subscriber for Raging {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, SeqCst);
        panic!("wanted, in the log");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The program's log is foreign code too: what it is told of ends as if it were not told.
#[test]
fn in_the_programs_log() {
    let told = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(Raging(told.clone()), || {
        let h = Harness::new();
        let quirks = Arc::new(Quirks { overstate: 100, ..Quirks::default() });
        let drops = Filter::new("drops", |irp, lower| match irp.offset() {
            VICTIM => panic!("wanted"),
            _ => lower.skip(irp),
        });
        let bottom = Bottom { quirks: quirks.clone(), ..Bottom::default() };
        let stack = stack(vec![drops], bottom);
        let file = open(&stack, FD);
        // Said in dispatch, in final completion, in a requester's drop, and of a waker.
        let failed = h.block_on(read(&file, 4, VICTIM)).unwrap_err();
        assert_eq!(failed.status(), Status::DRIVER_INTERNAL_ERROR);
        h.sim.script([Step::after(1)]);
        assert_eq!(h.block_on(read(&file, 4, 0)).unwrap().0, 4, "cut to what there is");
        *quirks.panic_in.lock().unwrap() = Some("abandoned");
        h.sim.script([Step::after(1)]);
        let mut late = read(&file, 4, 0);
        assert!(poll(&mut late).is_pending());
        h.turn();
        drop(late);
        assert!(quirks.panic_in.lock().unwrap().is_none(), "it was told of the late result");
        assert!(told.load(SeqCst) >= 3, "{told:?}");
        drop(file);
        h.finish();
    });
}
