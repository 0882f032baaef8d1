//! What a bottom keeps for a file, asked for when a late result is found: on any thread, whatever becomes of
//! the stack meanwhile.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use overlapped_iomgr::hal::Completion as HalDone;
use overlapped_iomgr::{
    Disposition, Driver, FileObject, Irp, Late, Lower, MajorSet, Place, Request, Stack,
};
use support::*;

/// Counts the late results of each file.
#[derive(Default)]
struct Counts {
    bottom: Bottom,
    late: Arc<AtomicUsize>,
}

impl Driver for Counts {
    fn name(&self) -> &str {
        "counts"
    }
    fn hooks(&self) -> MajorSet {
        self.bottom.hooks()
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.bottom.dispatch(irp, lower)
    }
    fn hardware(&self, irp: Irp<'_>, done: HalDone) -> Disposition {
        self.bottom.hardware(irp, done)
    }
    fn abandoned(&self, _: &FileObject, late: Late<'_>) {
        let of_file = late.open_state::<AtomicUsize>();
        let before = of_file.fetch_add(1, SeqCst);
        assert_eq!(before, self.late.fetch_add(1, SeqCst), "it is the file's, and this driver's");
    }
    fn close_now(&self, file: &FileObject) {
        self.bottom.close_now(file);
    }
}

/// Keeps something else for each file.
fn above() -> Arc<dyn Driver> {
    Arc::new(Filter::new("above", |irp, lower| {
        assert!(irp.open_state::<String>().is_empty());
        lower.skip(irp)
    }))
}

/// a requester leaves on another thread, while filters come and go.
#[test]
fn x35_the_bottom_finds_its_own_on_any_thread() {
    let harness = Harness::new();
    let late = Arc::new(AtomicUsize::new(0));
    let bottom = Arc::new(Counts { late: late.clone(), ..Counts::default() });
    let file = open(&Stack::new([above()], bottom).unwrap(), FD);
    const ROUNDS: usize = 200;
    harness.sim.default_step(Step::after(1));
    let ended = AtomicBool::new(false);
    let (sender, receiver) = std::sync::mpsc::channel::<Request<'static, Read<Vec<u8>>>>();
    thread::scope(|scope| {
        scope.spawn(|| {
            receiver.into_iter().for_each(drop);
            ended.store(true, SeqCst);
        });
        for _ in 0..ROUNDS {
            let buf = Vec::with_capacity(8);
            let mut request = Request::owned(file.clone(), Read { buf, offset: 0 });
            assert!(poll(&mut request).is_pending());
            harness.turns(2);
            // It has its result, which nobody has looked at.
            sender.send(request).unwrap();
            let (attachment, _) = file.attach(Place::Top, above()).unwrap();
            harness.turn();
            drop(file.detach(&attachment).unwrap());
            harness.turn();
        }
        drop(sender);
        harness.until("the other thread's end", || ended.load(SeqCst));
    });
    assert_eq!(late.load(SeqCst), ROUNDS);
    assert!(file.stack().devices().all(|device| !device.is_faulted()));
    drop(file);
    harness.finish();
}
