//! Live changes that mean no good, and what filters keep for files meanwhile (O-8): no change waits for
//! ever, none is reported too early, and nothing that is kept goes too early or stays.

#![cfg(not(loom))]

#[path = "support/does.rs"]
mod does;
mod support;

use std::future::poll_fn;
use std::mem;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use does::*;
use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter as Level2, Io, Next};
use overlapped_iomgr::hal::Wait;
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::{
    CompletionPort, Disposition, Driver, FileObject, Irp, Lower, Major, MajorSet, Place, Request,
    Status,
};
use support::*;

/// What a filter keeps for a file, and how many of it have gone.
macro_rules! keeps {
    ($name:ident, $gone:ident) => {
        static $gone: AtomicUsize = AtomicUsize::new(0);
        #[derive(Default)]
        struct $name;
        impl Drop for $name {
            fn drop(&mut self) {
                $gone.fetch_add(1, SeqCst);
            }
        }
    };
}

keeps!(OfOld, OLD_GONE);

struct Old(Log);

impl Level2 for Old {
    type Open = OfOld;
    fn name(&self) -> &str {
        "old"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _kept: &OfOld, next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let result = next.forward(&mut io).await;
        self.0.add(format!("gone: {}", OLD_GONE.load(SeqCst)));
        result
    }
}

/// A request of before two changes still has what the second of them takes away.
#[test]
fn o8_a_later_change_waits_for_the_requests_of_earlier_ones() {
    let harness = Harness::new();
    harness.sim.script([Step::after(20)]);
    let log = Log::default();
    let file = open(&on(vec![Old(log.clone()).into_driver()]), FD);
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    let pass = Arc::new(Filter::new("pass", |irp, lower| lower.skip(irp)));
    let (_, attached) = file.attach(Place::Top, pass).unwrap();
    let detached = file.detach(&file.attachment("old").unwrap()).unwrap();
    harness.turns(5);
    assert!(!attached.is_done());
    assert!(!detached.is_done(), "it has not seen its last request");
    harness.block_on(request).unwrap();
    assert_eq!(log.take(), ["gone: 0"]);
    harness.block_on(async { (attached.await, detached.await) });
    assert_eq!(OLD_GONE.load(SeqCst), 1);
    // Very many, one after the other.
    harness.sim.script([Step::after(20)]);
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    let mut last = None;
    for _ in 0..20_000 {
        let pass = Arc::new(Filter::new("pass", |irp, lower| lower.skip(irp)));
        let (pass, _) = file.attach(Place::Top, pass).unwrap();
        last = Some(file.detach(&pass).unwrap());
    }
    harness.block_on(request).unwrap();
    harness.block_on(async { last.unwrap().await });
    drop(file);
    harness.finish();
}

keeps!(OfFirst, FIRST_GONE);

struct First;

impl Level2 for First {
    type Open = OfFirst;
    fn name(&self) -> &str {
        "first"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
}

/// The filter sees its first request when it has been detached already.
#[test]
fn o8_what_is_kept_for_the_file_after_the_detach_goes_too() {
    let waits = does("waits", |next, mut io| {
        Box::pin(async move {
            let mut polls = 0;
            let some_turns = poll_fn(|cx| {
                polls += 1;
                cx.waker().wake_by_ref();
                if polls == 5 { Poll::Ready(()) } else { Poll::Pending }
            });
            some_turns.await;
            next.forward(&mut io).await
        })
    });
    let harness = Harness::new();
    let file = open(&on(vec![waits, First.into_driver()]), FD);
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    let change = file.detach(&file.attachment("first").unwrap()).unwrap();
    harness.block_on(request).unwrap();
    harness.block_on(async { change.await });
    assert_eq!(FIRST_GONE.load(SeqCst), 1);
    drop(file);
    harness.finish();
}

struct Blocks;

impl Level2 for Blocks {
    type Open = ();
    fn name(&self) -> &str {
        "blocks"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { block: 512, ..below }
    }
}

struct Other;

impl Level2 for Other {
    type Open = AtomicUsize;
    fn name(&self) -> &str {
        "other"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, seen: &AtomicUsize, next: Next<'_>, mut io: Io<'_>) -> Outcome {
        assert_eq!(seen.fetch_add(1, SeqCst), 0, "another filter's");
        next.forward(&mut io).await
    }
}

/// What the I/O manager has put in keeps something for the file too; where it was, another device is.
#[test]
fn what_is_kept_for_one_device_is_not_anothers() {
    let harness = Harness::new();
    let file = open(&on(vec![]), FD);
    for _ in 0..50 {
        let (blocks, _) = file.attach(Place::Top, Blocks.into_driver()).unwrap();
        assert_eq!(harness.block_on(read(&file, 3, 1)).unwrap().1, [1, 2, 3]);
        harness.block_on(async { file.detach(&blocks).unwrap().await });
        drop(blocks);
        let (others, _): (Vec<_>, Vec<_>) =
            (0..3).map(|_| file.attach(Place::Top, Other.into_driver()).unwrap()).unzip();
        assert_eq!(harness.block_on(read(&file, 3, 1)).unwrap().1, [1, 2, 3]);
        for other in others {
            harness.block_on(async { file.detach(&other).unwrap().await });
        }
    }
    drop(file);
    harness.finish();
}

/// Whether it may be attached depends on who is there.
#[test]
fn a_filter_that_looks_who_is_there_may_be_asked() {
    struct Once;
    impl Driver for Once {
        fn name(&self) -> &str {
            "once"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Read])
        }
        fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
            lower.skip(irp)
        }
        fn may_attach(&self, file: &FileObject) -> Result<(), Status> {
            if file.attachment("once").is_some() { Err(Status::DEVICE_BUSY) } else { Ok(()) }
        }
        fn may_detach(&self, file: &FileObject) -> Result<(), Status> {
            if file.stack().devices().len() > 2 { Err(Status::DEVICE_BUSY) } else { Ok(()) }
        }
    }
    let harness = Harness::new();
    let file = open(&on(vec![]), FD);
    let (once, _) = file.attach(Place::Top, Arc::new(Once)).unwrap();
    assert!(file.attach(Place::Top, Arc::new(Once)).is_err());
    drop(file.detach(&once).unwrap());
    drop((once, file));
    harness.finish();
}

/// A processor that ends with a request on the old stack does not keep the others from reporting.
#[test]
fn o8_a_leak_is_reported_and_the_change_is_done() {
    let sim = Sim::new();
    sim.set_file(FD, vec![7; 4096]);
    let harness = Harness::with(&sim);
    let file = open(&on(vec![]), FD);
    let (issued, end, read_mail) = (Barrier::new(2), Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = Harness::with(&sim);
            let mut request = read(&file, 4, 0);
            assert!(poll(&mut request).is_ready());
            sim.script([Step::GATED.deaf()]);
            let mut request = read(&file, 4, 0);
            assert!(poll(&mut request).is_pending());
            issued.wait();
            end.wait();
            assert_eq!(other.processor.shutdown(Duration::ZERO).leaked, 1);
            mem::forget(request);
            read_mail.wait();
        });
        issued.wait();
        let pass = Arc::new(Filter::new("pass", |irp, lower| lower.skip(irp)));
        let (_, change) = file.attach(Place::Top, pass).unwrap();
        end.wait();
        read_mail.wait();
        harness.turns(3);
        assert!(change.is_done());
    });
    // A request that is leaked keeps its file.
    drop(file);
    harness.processor.turn(Wait::No, || true).unwrap();
}

/// Closes some turns later.
struct Lingers;

impl Level2 for Lingers {
    type Open = ();
    fn name(&self) -> &str {
        "lingers"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Close])
    }
    async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let mut polls = 0;
        let some_turns = poll_fn(|cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 5 { Poll::Ready(()) } else { Poll::Pending }
        });
        some_turns.await;
        next.forward(&mut io).await
    }
}

static TURNED: AtomicPtr<Harness> = AtomicPtr::new(std::ptr::null_mut());

/// A close tells the filters before it is issued: what they change then is found by the close too.
#[test]
fn o8_a_change_while_a_close_announces_itself() {
    let changes = Filter::new("changes", |irp, lower| {
        let pass = Arc::new(Filter::new("pass", |irp, lower| lower.skip(irp)));
        drop(irp.file().attach(Place::Top, pass).unwrap());
        // SAFETY: the test's, on its thread.
        unsafe { &*TURNED.load(SeqCst) }.turns(2);
        lower.skip(irp)
    })
    .hooks(&[Major::Cleanup]);
    let mut harness = Harness::new();
    TURNED.store(&raw mut harness, SeqCst);
    let file = open(&on(vec![Arc::new(changes), Lingers.into_driver()]), FD);
    // A slot that has been used before.
    harness.block_on(read(&file, 4, 0)).unwrap();
    let (status, _) = harness.block_on(plain(&file, Major::Close));
    assert_eq!(status, Status::SUCCESS);
    drop(file);
    harness.finish();
}

/// a call sleeps, and asks for more, when its thread has ended; a change waits for it.
#[test]
fn x31_a_call_outlives_its_thread() {
    // SAFETY: simulated hardware, of which every thread has its own.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let port = CompletionPort::new();
    let to = port.clone();
    let issue = move || {
        let filter = does("sleeps", |next, mut io| {
            Box::pin(async move {
                next.sleep(Duration::from_millis(100)).await;
                let own = Read { buf: Vec::with_capacity(4), offset: 9 };
                let (n, _) = next.request(own).await.map_err(|e| e.status())?;
                assert_eq!(n, 4);
                next.sleep(Duration::from_millis(10)).await;
                next.forward(&mut io).await
            })
        });
        let file = open(&on(vec![filter]), FD);
        read(&file, 4, 3).post(&to, 7).unwrap();
        file
    };
    let file = thread::spawn(issue).join().unwrap();
    let change = file.detach(&file.attachment("sleeps").unwrap()).unwrap();
    assert!(!change.is_done());
    let packet = port.remove(Some(Duration::from_secs(10))).unwrap();
    assert_eq!((packet.key(), packet.status(), packet.info()), (7, Status::SUCCESS, 4));
    assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().1, [3, 4, 5, 6]);
    change.wait().unwrap();
}

/// Results are left behind on one thread while the stack changes on another.
#[test]
fn x35_what_nobody_takes_while_the_stack_changes() {
    let harness = Harness::new();
    let file = open(&on(vec![]), FD);
    let (send, receive) = std::sync::mpsc::sync_channel(0);
    thread::scope(|scope| {
        scope.spawn(move || receive.iter().for_each(drop::<Request<'_, Read<Vec<u8>>>>));
        for i in 0..2000 {
            harness.sim.script([Step::after(1)]);
            let mut request = read(&file, 4, i);
            assert!(poll(&mut request).is_pending());
            harness.turns(2);
            let pass = Arc::new(Filter::new("pass", |irp, lower| lower.skip(irp)));
            let (pass, _) = file.attach(Place::Top, pass).unwrap();
            send.send(request).unwrap();
            harness.turn();
            drop(file.detach(&pass).unwrap());
        }
        drop(send);
    });
    harness.turns(3);
    drop(file);
    harness.finish();
}
