//! Filters and live changes that mean no good: nothing of it may touch memory that is gone, keep a
//! request or a change for ever, or change anybody else's bytes.

#![cfg(not(loom))]

mod support;

use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::buf::{IoBuf, Lease};
use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter as Level2, Io, Next, Shared, SharedMut};
use overlapped_iomgr::hal::Wait;
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Waited, wait_any};
use overlapped_iomgr::{
    CompletionPort, Disposition, Done, Driver, FileObject, Irp, IssuerScope, Lower, Major,
    MajorSet, On, Operation, Place, Request, Setup, Stack, Status, minor,
};
use support::*;

type Outcome = Result<usize, Status>;
type Futures<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

fn on(filters: Vec<Arc<dyn Driver>>) -> Arc<Stack> {
    Stack::new(filters, Arc::new(Bottom::default())).unwrap()
}

/// A filter of reads and writes whose function is a closure.
struct Does<F>(&'static str, F);

impl<F> Level2 for Does<F>
where
    F: for<'a> Fn(Next<'a>, Io<'a>) -> Futures<'a> + Send + Sync + 'static,
{
    type Open = ();
    fn name(&self) -> &str {
        self.0
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn read<'a>(
        &'a self,
        _: &'a (),
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Outcome> + Send + 'a {
        (self.1)(next, io)
    }
    fn write<'a>(
        &'a self,
        _: &'a (),
        next: Next<'a>,
        io: Io<'a>,
    ) -> impl Future<Output = Outcome> + Send + 'a {
        (self.1)(next, io)
    }
}

fn does<F>(name: &'static str, function: F) -> Arc<dyn Driver>
where
    F: for<'a> Fn(Next<'a>, Io<'a>) -> Futures<'a> + Send + Sync + 'static,
{
    Does(name, function).into_driver()
}

type Parts = Arc<Mutex<Vec<Shared>>>;

/// A write of eight bytes must wait for the parts, with its buffer.
fn expect_kept(stack: &Arc<Stack>, parts: &Parts) -> Status {
    let harness = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let file = open(stack, FD);
    let mut request = Request::new(&file, Write { buf: Counted::new(8, &alive), offset: 0 });
    let early = poll(&mut request).is_ready();
    drop(request);
    harness.turns(5);
    assert!(!early && alive.load(SeqCst) == 1, "parts of it are out, and the buffer is gone");
    let mut request = Request::new(&file, Write { buf: Counted::new(8, &alive), offset: 0 });
    assert!(poll(&mut request).is_pending());
    drop(mem::take(&mut *parts.lock().unwrap()));
    let status = harness.block_on(request).map_or_else(|e| e.status(), |_| Status::SUCCESS);
    harness.turns(3);
    assert_eq!(alive.load(SeqCst), 0);
    drop(file);
    harness.finish();
    status
}

/// The last thing a future does, its drop, may hand parts out.
#[test]
fn parts_handed_out_by_a_futures_drop() {
    struct Parting<'a>(Io<'a>, Parts);
    impl Future for Parting<'_> {
        type Output = Outcome;
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Outcome> {
            Poll::Ready(Ok(self.0.len()))
        }
    }
    impl Drop for Parting<'_> {
        fn drop(&mut self) {
            self.1.lock().unwrap().extend(self.0.share(0..self.0.len()));
        }
    }
    let parts = Parts::default();
    let out = parts.clone();
    let filter = does("parting", move |_, io| Box::pin(Parting(io, out.clone())));
    assert_eq!(expect_kept(&on(vec![filter]), &parts), Status::SUCCESS);
}

/// So may a function that panics before it has made its future.
#[test]
fn parts_handed_out_before_there_is_a_future() {
    let parts = Parts::default();
    let out = parts.clone();
    let filter = does("early", move |_, io| {
        out.lock().unwrap().extend(io.share(0..io.len()));
        panic!("wanted, before there is a future");
    });
    let stack = on(vec![filter]);
    assert_eq!(expect_kept(&stack, &parts), Status::DRIVER_INTERNAL_ERROR);
    assert_eq!(device(&stack, "early"), (true, 2));
}

/// There is nothing below a bottom; its future hears of that.
#[test]
fn parts_handed_out_by_a_bottom() {
    let parts = Parts::default();
    let out = parts.clone();
    let bottom = does("bottom", move |next, mut io| {
        out.lock().unwrap().extend(io.share(0..io.len()));
        Box::pin(async move { next.forward(&mut io).await })
    });
    let stack = Stack::new([], bottom).unwrap();
    let harness = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    // Without a descriptor: it knows no close.
    let file = FileObject::new(stack, "bottomless", Box::new(())).unwrap();
    let mut request = Request::new(&file, Write { buf: Counted::new(8, &alive), offset: 0 });
    assert!(poll(&mut request).is_pending(), "a part of it is out");
    drop(mem::take(&mut *parts.lock().unwrap()));
    let error = harness.block_on(request).err().unwrap();
    assert_eq!(error.status(), Status::INVALID_DEVICE_REQUEST);
    drop((error, file));
    harness.finish();
}

/// A buffer that was lent and never taken back, whose drop panics.
#[test]
fn parts_are_out_and_a_lent_buffer_panics() {
    struct Bomb(Vec<u8>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("wanted, in a buffer's drop");
        }
    }
    // SAFETY: the vector's.
    unsafe impl IoBuf for Bomb {
        fn as_ptr(&self) -> *const u8 {
            self.0.as_ptr()
        }
        fn len(&self) -> usize {
            self.0.len()
        }
    }
    let parts = Parts::default();
    let out = parts.clone();
    let filter = does("bomb", move |next, mut io| {
        out.lock().unwrap().extend(io.share(0..io.len()));
        Box::pin(async move {
            let n = io.len();
            let mut lend = Box::pin(next.forward(&mut io).from(Bomb(vec![0; 8])));
            poll_fn(|cx| Poll::Ready(_ = lend.as_mut().poll(cx))).await;
            drop(lend);
            Ok(n)
        })
    });
    assert_eq!(expect_kept(&on(vec![filter]), &parts), Status::SUCCESS);
}

/// A request that is about to go below is not the filter's to look at, however its `Forward` went.
#[test]
fn a_forgotten_forward_takes_the_data_along() {
    let refused = Arc::new(AtomicBool::new(false));
    let saw = refused.clone();
    let filter = does("forgets", move |next, mut io| {
        let saw = saw.clone();
        Box::pin(async move {
            let mut forward = Box::pin(next.forward(&mut io));
            poll_fn(|cx| Poll::Ready(_ = forward.as_mut().poll(cx))).await;
            mem::forget(forward);
            let looks = catch_unwind(AssertUnwindSafe(|| io.share_mut(0..4).map(drop)));
            saw.store(looks.is_err(), SeqCst);
            next.forward(&mut io).await
        })
    });
    let harness = Harness::new();
    let file = open(&on(vec![filter]), FD);
    let (_, bytes) = harness.block_on(read(&file, 4, 7)).unwrap();
    assert_eq!(bytes, [7, 8, 9, 10]);
    assert!(refused.load(SeqCst), "the drivers below fill it at the same time");
    drop(file);
    harness.finish();
}

struct Pooled;

impl Operation for Pooled {
    type Output = (Status, Option<Lease>);
    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::POOLED).limit(100);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        (done.status(), done.try_take())
    }
    fn refuse(self, status: Status) -> Self::Output {
        (status, None)
    }
}

/// A bottom of pooled receives.
struct Pool;

impl Driver for Pool {
    fn name(&self) -> &str {
        "pool"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        if irp.major() != Major::Read {
            return irp.complete(Status::SUCCESS, 0);
        }
        irp.complete_with_lease(Lease::from(vec![9; 100]))
    }
}

/// A buffer of the pool may be replaced by another: no part of it is handed out.
#[test]
fn a_pooled_receive_has_no_memory_of_its_own() {
    let parts: Arc<Mutex<Vec<SharedMut>>> = Arc::default();
    let out = parts.clone();
    let filter = does("gives", move |next, mut io| {
        let out = out.clone();
        Box::pin(async move {
            let n = next.forward(&mut io).await?;
            let part = io.share_mut(0..n)?;
            out.lock().unwrap().extend(part);
            io.give(Lease::from(vec![1; 3]));
            Ok(3)
        })
    });
    let harness = Harness::new();
    let stack = Stack::new([filter], Arc::new(Pool)).unwrap();
    let file = FileObject::new(stack, "pool", Box::new(())).unwrap();
    let mut request = Request::new(&file, Pooled);
    let (status, _) = now(&mut request);
    assert_eq!(status, Status::DRIVER_INTERNAL_ERROR, "it says so by a panic");
    assert!(parts.lock().unwrap().is_empty());
    drop(request);
    drop(file);
    harness.finish();
}

/// What a filter above lends is filled from the start on: none of it is zeroed.
#[test]
fn parts_of_lent_memory_keep_what_they_have() {
    let lends = Filter::new("lends", |mut irp, lower| {
        irp.next().lend_mut(vec![1u8; 8]);
        lower.forward(irp, On::ALL)
    })
    .completed(|mut irp| {
        let got = irp.lent::<Vec<u8>>().unwrap().clone();
        irp.copy_in(0, &got);
        irp.proceed()
    });
    let filter = does("parts", |_, mut io| {
        Box::pin(async move {
            let mut first = io.share_mut(0..4)?;
            first[0].copy_from_slice(&[7; 4]);
            // Somebody else may be writing the first at this moment.
            let second = io.share_mut(4..8)?;
            drop((first, second));
            Ok(8)
        })
    });
    let harness = Harness::new();
    let file = open(&on(vec![Arc::new(lends), filter]), FD);
    let (_, bytes) = harness.block_on(read(&file, 8, 0)).unwrap();
    assert_eq!(bytes, [7, 7, 7, 7, 1, 1, 1, 1]);
    drop(file);
    harness.finish();
}

/// A filter's own request starts below the filter, wherever the filter's request is.
#[test]
fn a_request_of_its_own_while_its_request_is_below() {
    let own = Arc::new(Mutex::new(Vec::new()));
    let result = own.clone();
    let filter = does("own", move |next, mut io| {
        let result = result.clone();
        Box::pin(async move {
            let mut forward = pin!(next.forward(&mut io));
            let mut polls = 0;
            let ends = poll_fn(|cx| {
                polls += 1;
                cx.waker().wake_by_ref();
                let ready = forward.as_mut().poll(cx).is_ready();
                assert!(!ready, "it is below for long");
                if polls == 2 { Poll::Ready(()) } else { Poll::Pending }
            });
            ends.await;
            let (_, bytes) = next
                .request(Read { buf: Vec::with_capacity(4), offset: 0 })
                .await
                .map_err(|e| e.status())?;
            *result.lock().unwrap() = bytes;
            forward.await
        })
    });
    let flips =
        Filter::new("flips", |irp, lower| lower.forward(irp, On::SUCCESS)).completed(|mut irp| {
            irp.received_mut().flatten().for_each(|byte| *byte ^= 0xff);
            irp.proceed()
        });
    let harness = Harness::new();
    harness.sim.script([Step::after(10)]);
    let file = open(&on(vec![filter, Arc::new(flips)]), FD);
    let (_, bytes) = harness.block_on(read(&file, 4, 0)).unwrap();
    assert_eq!(bytes, [0xff, 0xfe, 0xfd, 0xfc]);
    assert_eq!(*own.lock().unwrap(), bytes, "it has passed the filter between");
    drop(file);
    harness.finish();
}

/// The filter that panics is to blame, wherever its request is.
#[test]
fn a_panic_while_its_request_is_below() {
    let filter = does("panics", |next, mut io| {
        Box::pin(async move {
            let mut forward = pin!(next.forward(&mut io));
            let mut polls = 0;
            poll_fn(|cx| {
                polls += 1;
                assert!(polls < 2, "wanted, while the request is below");
                cx.waker().wake_by_ref();
                forward.as_mut().poll(cx)
            })
            .await
        })
    });
    let harness = Harness::new();
    harness.sim.default_step(Step::after(10));
    let stack = on(vec![filter]);
    let file = open(&stack, FD);
    let error = harness.block_on(read(&file, 4, 0)).err().unwrap();
    assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR);
    assert_eq!(device(&stack, "panics"), (true, 1));
    assert_eq!(device(&stack, "bottom"), (false, 0));
    drop((error, file));
    harness.finish();
}

/// A request on the stack of another processor's would be nobody's to wait for when that is changed.
#[test]
fn a_request_of_its_own_belongs_to_its_processor() {
    let filter = does("elsewhere", |next, mut io| {
        Box::pin(async move {
            let mut request = next.request(Read { buf: Vec::with_capacity(4), offset: 0 });
            let elsewhere = thread::scope(|scope| {
                scope
                    .spawn(|| drop(catch_unwind(AssertUnwindSafe(|| poll(&mut request))).map(drop)))
                    .join()
                    .is_ok()
            });
            assert!(elsewhere);
            match next.request(Plain::new(Major::Flush)).await {
                (Status::SUCCESS, _) => {}
                (status, _) => return Err(status),
            }
            // Inert all the same.
            match request.await {
                Ok((4, _)) => next.forward(&mut io).await,
                _ => Err(Status::UNSUCCESSFUL),
            }
        })
    });
    let harness = Harness::new();
    let file = open(&on(vec![filter]), FD);
    assert_eq!(harness.block_on(read(&file, 4, 1)).unwrap().1, [1, 2, 3, 4]);
    drop(file);
    harness.finish();
}

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

/// C-7: the file object says that a request of the client's is done, not one of a filter's.
#[test]
fn c7_requests_of_filters_do_not_signal_the_file() {
    let filter = does("flushes", |next, mut io| {
        Box::pin(async move {
            let (status, _) = next.request(Plain::new(Major::Flush)).await;
            assert_eq!(status, Status::SUCCESS);
            next.forward(&mut io).await
        })
    });
    let harness = Harness::new();
    harness.sim.default_step(Step::after(5));
    let file = open(&on(vec![filter]), FD);
    let watched = || wait_any(&[&file], Some(Duration::ZERO), Alertable::No).unwrap();
    assert_eq!(watched(), Waited::Object(0));
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    for _ in 0..7 {
        assert_eq!(watched(), Waited::TimedOut);
        harness.turn();
    }
    harness.block_on(request).unwrap();
    assert_eq!(watched(), Waited::Object(0));
    drop(file);
    harness.finish();
}

/// I-36: nobody has looked up the current offset for what starts below a filter.
#[test]
fn i36_a_request_of_its_own_has_no_current_offset() {
    let status = Arc::new(Mutex::new(Status::SUCCESS));
    let saw = status.clone();
    let filter = does("follows", move |next, mut io| {
        let saw = saw.clone();
        Box::pin(async move {
            let own = Read { buf: Vec::with_capacity(4), offset: u64::MAX };
            *saw.lock().unwrap() = next.request(own).await.err().unwrap().status();
            next.forward(&mut io).await
        })
    });
    let harness = Harness::new();
    let file = open(&on(vec![filter]), FD);
    file.set_seekable();
    file.make_synchronous(Alertable::No).unwrap();
    assert_eq!(harness.block_on(read(&file, 4, u64::MAX)).unwrap().1, [0, 1, 2, 3]);
    assert_eq!(*status.lock().unwrap(), Status::INVALID_PARAMETER);
    drop(file);
    harness.finish();
}

struct Sectors;

impl Level2 for Sectors {
    type Open = ();
    fn name(&self) -> &str {
        "sectors"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn limits(&self, below: Limits) -> Limits {
        Limits { block: 512, ..below }
    }
}

/// a write that waits for its neighbour ends when it is cancelled.
#[test]
fn x1_a_write_that_waits_for_its_block_is_cancelled() {
    let harness = Harness::new();
    harness.sim.default_step(Step::after(50));
    let file = open(&on(vec![Sectors.into_driver()]), FD);
    let mut first = write(&file, b"first", 1);
    assert!(poll(&mut first).is_pending());
    let second = write(&file, b"second", 100).start().map_err(drop).unwrap();
    harness.turns(3);
    second.cancel();
    harness.turns(3);
    assert_eq!(second.status(), Status::CANCELLED);
    drop(second);
    harness.sim.default_step(Step::INLINE);
    harness.block_on(first).unwrap();
    assert_eq!(harness.sim.file(FD)[..8], *b"\0first\x06\x07");
    drop(file);
    harness.finish();
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

/// What admits a client's request admits what filters make of it: two, where one is allowed.
#[test]
fn limits_of_clients_are_not_the_filters() {
    let harness = Harness::new();
    harness.sim.default_step(Step::after(2));
    let file = open(&on(vec![Sectors.into_driver()]), FD);
    file.limit_requests(1);
    assert_eq!(harness.block_on(read(&file, 3, 1)).unwrap().1, [1, 2, 3]);
    harness.sim.default_step(Step::INLINE);
    let scope = IssuerScope::with_limits(overlapped_iomgr::Limits { requests: 1, bytes: 100 });
    let bytes = scope.run(|| now(&mut read(&file, 3, 1)).unwrap().1);
    assert_eq!(bytes, [1, 2, 3]);
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

/// a cancel is heard while the request is below, where nobody listens.
#[test]
fn x1_a_call_hears_of_a_cancel_while_its_request_is_below() {
    let slept = Arc::new(AtomicBool::new(false));
    let saw = slept.clone();
    let filter = does("both", move |next, mut io| {
        let saw = saw.clone();
        Box::pin(async move {
            let mut forward = pin!(next.forward(&mut io));
            let mut sleep = pin!(next.sleep(Duration::from_secs(1000)));
            poll_fn(|cx| {
                if !saw.load(SeqCst) && sleep.as_mut().poll(cx).is_ready() {
                    saw.store(true, SeqCst);
                }
                forward.as_mut().poll(cx)
            })
            .await
        })
    });
    let harness = Harness::new();
    harness.sim.default_step(Step::GATED.deaf());
    let file = open(&on(vec![filter]), FD);
    let request = read(&file, 4, 0).start().map_err(drop).unwrap();
    harness.turns(2);
    request.cancel();
    harness.turns(2);
    assert!(slept.load(SeqCst), "its sleep ends");
    assert!(!request.is_done());
    harness.sim.open_gate();
    harness.turns(3);
    assert!(request.is_done());
    drop(request);
    drop(file);
    harness.finish();
}

/// Whatever filters do, in whatever order, while their stacks change and their requests are cancelled: every
/// request ends, every change is reported, and nothing is left.
#[test]
fn all_of_it_by_chance() {
    #[derive(Clone)]
    struct Dice(Arc<AtomicUsize>);
    impl Dice {
        fn roll(&self, sides: usize) -> usize {
            let mut x = self.0.load(SeqCst);
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            self.0.store(x, SeqCst);
            (x >> 8) % sides
        }
    }

    struct Kept(Arc<AtomicUsize>);
    static KEPT: Mutex<Option<Arc<AtomicUsize>>> = Mutex::new(None);
    impl Default for Kept {
        fn default() -> Kept {
            let kept = KEPT.lock().unwrap().clone().unwrap();
            kept.fetch_add(1, SeqCst);
            Kept(kept)
        }
    }
    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    struct Any(Dice, Parts);
    impl Any {
        async fn act(&self, kept: &Kept, next: Next<'_>, mut io: Io<'_>) -> Outcome {
            let mut result = Err(Status::UNSUCCESSFUL);
            for _ in 0..self.0.roll(4) {
                match self.0.roll(9) {
                    0 => next.sleep(Duration::from_millis(self.0.roll(3) as u64)).await,
                    1 => {
                        let own = Read { buf: Vec::with_capacity(4), offset: 0 };
                        drop(next.request(own).await);
                    }
                    2 if io.major() == Major::Write => {
                        let parts = io.share(0..io.len());
                        self.1.lock().unwrap().extend(parts);
                    }
                    3 if io.major() == Major::Write => {
                        result = next.forward(&mut io).from(vec![1; 4]).await.0;
                    }
                    3 | 4 => {
                        // Given up, before or after it has gone.
                        let mut forward = Box::pin(next.forward(&mut io));
                        let polls = self.0.roll(3);
                        let mut polled = 0;
                        poll_fn(|cx| {
                            cx.waker().wake_by_ref();
                            polled += 1;
                            if polled > polls || forward.as_mut().poll(cx).is_ready() {
                                return Poll::Ready(());
                            }
                            Poll::Pending
                        })
                        .await;
                        drop(forward);
                        return Ok(0);
                    }
                    5 if self.0.roll(10) == 0 => panic!("wanted, by chance"),
                    6 => {
                        let forward = next.forward(&mut io);
                        let own = next.request(Plain::new(Major::Flush));
                        let (mut forward, mut own) = (pin!(forward), pin!(own));
                        let mut has = false;
                        result = poll_fn(|cx| {
                            has = has || own.as_mut().poll(cx).is_ready();
                            forward.as_mut().poll(cx)
                        })
                        .await;
                    }
                    _ => result = next.forward(&mut io).await,
                }
                assert!(kept.0.load(SeqCst) > 0, "what is kept is there");
            }
            result
        }
    }
    impl Level2 for Any {
        type Open = Kept;
        fn name(&self) -> &str {
            "any"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Read, Major::Write])
        }
        async fn read(&self, kept: &Kept, next: Next<'_>, io: Io<'_>) -> Outcome {
            self.act(kept, next, io).await
        }
        async fn write(&self, kept: &Kept, next: Next<'_>, io: Io<'_>) -> Outcome {
            self.act(kept, next, io).await
        }
    }

    let (kept, alive) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    *KEPT.lock().unwrap() = Some(kept.clone());
    for seed in 1..60 {
        let dice = Dice(Arc::new(AtomicUsize::new(seed * 0x9E37_79B9)));
        let parts = Parts::default();
        let harness = Harness::new();
        let any = || Any(dice.clone(), parts.clone()).into_driver();
        let file = open(&on(vec![any(), any()]), FD);
        let (mut requests, mut attached, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            harness.sim.default_step(match dice.roll(4) {
                0 => Step::INLINE,
                n => Step::after(n as u32 * 3),
            });
            match dice.roll(10) {
                0..4 => {
                    let buf = Counted::new(8, &alive);
                    let request = Request::owned(file.clone(), Write { buf, offset: 0 });
                    let _ = request.start().map(|block| requests.push(block));
                }
                4 if !requests.is_empty() => {
                    drop(requests.swap_remove(dice.roll(requests.len())));
                }
                5 => {
                    let (one, change) = file.attach(Place::Top, any()).unwrap();
                    attached.push(one);
                    changes.push(change);
                }
                6 if !attached.is_empty() => {
                    let one = attached.swap_remove(dice.roll(attached.len()));
                    changes.push(file.detach(&one).unwrap());
                }
                7 => drop(mem::take(&mut *parts.lock().unwrap())),
                8 => {
                    let mut request = Box::pin(read(&file, 8, 3));
                    _ = poll(&mut request);
                }
                _ => harness.turn(),
            }
            requests.retain(|request| request.status() == Status::PENDING);
        }
        harness.until("all end", || {
            drop(mem::take(&mut *parts.lock().unwrap()));
            requests.iter().all(|request| request.is_done()) && harness.sim.in_flight() == 0
        });
        drop(requests);
        harness.until("all changes are done", || {
            drop(mem::take(&mut *parts.lock().unwrap()));
            changes.iter().all(overlapped_iomgr::Change::is_done)
        });
        drop((attached, file));
        harness.until("the file is closed", || {
            drop(mem::take(&mut *parts.lock().unwrap()));
            harness.processor.live() == 0
        });
        assert_eq!((kept.load(SeqCst), alive.load(SeqCst)), (0, 0));
        harness.finish();
    }
}
