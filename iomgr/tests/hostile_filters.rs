//! Filters that mean no good: nothing of it may touch memory that is gone, keep a request for ever, or
//! change anybody else's bytes. Live changes: `hostile_changes.rs`.

#![cfg(not(loom))]

#[path = "support/does.rs"]
mod does;
mod support;

use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use does::*;
use overlapped_iomgr::buf::{IoBuf, Lease};
use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter as Level2, Io, SharedMut};
use overlapped_iomgr::wait::{Alertable, Waited, wait_any};
use overlapped_iomgr::{
    Disposition, Done, Driver, FileObject, Irp, IssuerScope, Lower, Major, MajorSet, On, Operation,
    Request, Setup, Stack, Status, minor,
};
use support::*;

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
