//! A processor that is torn down by code which it has called itself.

#![cfg(not(loom))]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};

use overlapped_iomgr::{Done, Held, Major, Operation, Processor, Request, Setup, Status};
use support::*;

thread_local! {
    /// Bytes that this thread has allocated, less those that it has freed.
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.set(BYTES.get() + layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// For a result's taker to end.
    static PROCESSOR: RefCell<Option<Processor>> = const { RefCell::new(None) };
}

/// Ends the thread's processor when its result is taken, of which it leaves the payload.
struct Ends(Arc<()>);

impl Operation for Ends {
    type Output = Status;
    fn major(&self) -> Major {
        Major::Flush
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.payload(self.0);
    }
    fn finish(done: &mut Done<'_>) -> Status {
        drop(PROCESSOR.take().expect("taken once"));
        done.status()
    }
    fn refuse(self, status: Status) -> Status {
        status
    }
}

/// A processor may be torn down by the code that takes a result, while it is in use: nothing is used after
/// it is gone, and nothing is left behind.
#[test]
fn a_processor_ends_while_a_result_is_taken() {
    let mut before = 0;
    // Some of what the first round allocates is for good.
    for (round, pends) in [false, true, false, true].into_iter().enumerate() {
        if round == 2 {
            before = BYTES.get();
        }
        let Harness { processor, sim } = Harness::new();
        let kept: Arc<Mutex<Option<Held>>> = Arc::default();
        let keep = kept.clone();
        let answers = Filter::new("answers", move |irp, _| {
            if !pends {
                return irp.complete(Status::SUCCESS, 0);
            }
            let (held, disposition) = irp.hold();
            *keep.lock().unwrap() = Some(held);
            disposition
        });
        let (bottom, payload) = (Bottom::default(), Arc::new(()));
        let counts = bottom.counts.clone();
        let file = open(&stack(vec![answers.hooks(&[Major::Flush])], bottom), FD);
        let mut request = Request::new(&file, Ends(payload.clone()));
        if pends {
            assert!(poll(&mut request).is_pending());
            kept.lock().unwrap().take().unwrap().complete(Status::SUCCESS, 0);
        }
        PROCESSOR.set(Some(processor));
        assert_eq!(now(&mut request), Status::SUCCESS);
        drop(request);
        assert_eq!((Arc::strong_count(&payload), sim.in_flight()), (1, 0));
        drop(file);
        assert_eq!(counts.closed.load(SeqCst) + counts.closed_now.load(SeqCst), 1);
    } // A processor's memory is a dozen kilobytes.
    assert!(BYTES.get() - before < 1000, "{} bytes are left", BYTES.get() - before);
}
