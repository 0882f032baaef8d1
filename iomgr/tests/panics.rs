//! Panics, and tokens dropped, in every place where foreign code runs: the request ends, the device
//! is marked, other requests go on, and nothing leaks (design, section 8; V-43).

#![cfg(not(loom))]

mod support;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use overlapped_iomgr::buf::{IoBuf, IoBufMut};
use overlapped_iomgr::{
    CancelSafeQueue, CompletionPort, FileHandle, Held, Irp, IssuerScope, Lower, Major, On,
    Operation, Part, Request, Setup, Status,
};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// Keeps a request that is in the hardware, and at the end finds it unharmed.
struct Bystander(Request<'static, Read<Vec<u8>>>);

impl Bystander {
    fn new(h: &Harness, file: &FileHandle) -> Bystander {
        h.sim.script([Step::GATED]);
        let read = Read { buf: Vec::with_capacity(4), offset: 50 };
        let mut request = Request::owned(file.clone(), read);
        assert!(poll(&mut request).is_pending());
        Bystander(request)
    }
    fn check(mut self, h: &Harness) {
        h.sim.open_gate();
        h.turn();
        assert_eq!(now(&mut self.0).unwrap(), (4, vec![50, 51, 52, 53]));
    }
}

/// Only the requests with this offset meet the panic.
const VICTIM: u64 = 7;

/// Dispatch panics before it has passed the token on: DRIVER_INTERNAL_ERROR.
#[test]
fn in_dispatch_before_passing_on() {
    let h = Harness::new();
    let log = Log::default();
    let seen = log.clone();
    let above =
        Filter::new("above", |irp, lower| lower.forward(irp, On::ERROR)).completed(move |irp| {
            seen.add(irp.status().name().unwrap());
            irp.proceed()
        });
    let bad = Filter::new("bad", |irp, lower| {
        assert_ne!(irp.offset(), VICTIM, "wanted");
        lower.skip(irp)
    });
    let stack = stack(vec![above, bad], Bottom::default());
    let file = open(&stack, FD);
    let bystander = Bystander::new(&h, &file);
    let error = now(&mut read(&file, 4, VICTIM)).unwrap_err();
    assert_eq!((error.status(), error.buf().capacity()), (Status::DRIVER_INTERNAL_ERROR, 4));
    assert_eq!(log.take(), ["DRIVER_INTERNAL_ERROR"]);
    assert_eq!(device(&stack, "above"), (false, 0));
    assert!(device(&stack, "bad").0);
    assert_eq!(device(&stack, "bottom"), (false, 0));
    now(&mut read(&file, 4, 0)).unwrap();
    bystander.check(&h);
    drop(file);
    h.finish();
}

type Way = fn(Irp<'_>, Lower<'_>, &CancelSafeQueue);

/// Dispatch panics after it has passed the token on: the request goes its way, and the blame is the
/// panicking driver's alone.
#[test]
fn in_dispatch_after_passing_on() {
    let ways: [(&str, Way); 6] = [
        ("complete", |mut irp, _, _| {
            let n = irp.copy_in(0, &[7, 8, 9, 10]);
            let _ = irp.complete(Status::SUCCESS, n);
        }),
        ("skip", |irp, lower, _| {
            let _ = lower.skip(irp);
        }),
        ("forward", |irp, lower, _| {
            let _ = lower.forward(irp, On::ALL);
        }),
        ("split", |irp, _, _| {
            let part = |start| Part { start, len: 2, offset: VICTIM + u64::from(start) };
            let _ = irp.split(&[part(0), part(2)]);
        }),
        ("hold", |irp, _, _| {
            let (held, _) = irp.hold();
            held.forward(On::ALL);
        }),
        ("park", |irp, _, queue| {
            let _ = irp.park(queue);
        }),
    ];
    for (name, way) in ways {
        for step in [Step::INLINE, Step::after(2)] {
            let h = Harness::new();
            let queue = Arc::new(CancelSafeQueue::new());
            let q = queue.clone();
            let bad = Filter::new("bad", move |irp, lower| {
                if irp.offset() == VICTIM {
                    way(irp, lower, &q);
                    panic!("wanted");
                }
                lower.skip(irp)
            });
            let stack = stack(vec![bad], Bottom::default());
            let file = open(&stack, FD);
            let bystander = Bystander::new(&h, &file);
            h.sim.script([step; 2]);
            let mut request = read(&file, 4, VICTIM);
            let mut polled = poll(&mut request);
            if let Some(held) = queue.remove() {
                assert!(polled.is_pending());
                held.skip();
            }
            h.turns(3);
            if polled.is_pending() {
                polled = poll(&mut request);
            }
            let std::task::Poll::Ready(result) = polled else { panic!("{name} hangs") };
            assert_eq!(result.unwrap(), (4, vec![7, 8, 9, 10]), "{name}");
            assert_eq!(device(&stack, "bad"), (true, 1), "{name}");
            assert_eq!(device(&stack, "bottom"), (false, 0), "{name}");
            h.sim.script([Step::INLINE; 2]);
            bystander.check(&h);
            drop(request);
            drop(file);
            h.finish();
        }
    }
}

/// A panic below a forwarding filter is the lower driver's fault only.
#[test]
fn blame_is_the_lowest() {
    let h = Harness::new();
    let fine = |name| Filter::new(name, |irp, lower| lower.forward(irp, On::ALL));
    let bad = Filter::new("bad", |_, _| panic!("wanted"));
    let stack = stack(vec![fine("a"), fine("b"), bad], Bottom::default());
    let file = open(&stack, FD);
    for _ in 0..2 {
        let error = now(&mut read(&file, 4, 0)).unwrap_err();
        assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR);
    }
    assert_eq!((device(&stack, "a").0, device(&stack, "b").0), (false, false));
    assert!(device(&stack, "bad").0 && device(&stack, "bad").1 >= 2);
    drop(file);
    h.finish();
}

/// A completion routine panics, before and after it has reclaimed or retried.
#[test]
fn in_completed() {
    for how in ["at once", "after reclaim", "after reclaim and complete", "in a retry's routine"] {
        for step in [Step::INLINE, Step::after(1)] {
            let h = Harness::new();
            let kept: Arc<Mutex<Option<Held>>> = Arc::default();
            let (keep, rounds) = (kept.clone(), AtomicUsize::new(0));
            let bad = Filter::new("bad", |irp, lower| lower.forward(irp, On::ALL)).completed(
                move |irp| {
                    if irp.offset() != VICTIM {
                        return irp.proceed();
                    }
                    match how {
                        "after reclaim" => *keep.lock().unwrap() = Some(irp.reclaim().0),
                        "after reclaim and complete" => {
                            irp.reclaim().0.complete(Status::SUCCESS, 4);
                        }
                        "in a retry's routine" if rounds.fetch_add(1, SeqCst) == 0 => {
                            return irp.retry(On::ALL);
                        }
                        _ => {}
                    }
                    panic!("wanted");
                },
            );
            let stack = stack(vec![bad], Bottom::default());
            let file = open(&stack, FD);
            let bystander = Bystander::new(&h, &file);
            h.sim.script([step]);
            let mut request = read(&file, 4, VICTIM);
            let mut polled = poll(&mut request);
            h.turns(2);
            if polled.is_pending() {
                if let Some(held) = kept.lock().unwrap().take() {
                    assert!(poll(&mut request).is_pending(), "its holder has it");
                    held.complete(Status::SUCCESS, 4);
                }
                polled = poll(&mut request);
            }
            let std::task::Poll::Ready(result) = polled else { panic!("{how} hangs") };
            match how {
                "at once" | "in a retry's routine" => {
                    assert_eq!(result.unwrap_err().status(), Status::DRIVER_INTERNAL_ERROR);
                }
                _ => assert_eq!(result.unwrap().0, 4),
            }
            assert_eq!(device(&stack, "bad"), (true, 1), "{how}");
            bystander.check(&h);
            drop(request);
            drop(file);
            h.finish();
        }
    }
}

/// The bottom panics where the hardware calls it.
#[test]
fn in_the_bottom() {
    for place in ["dispatch", "dispatch after submit", "hardware", "hardware after complete"] {
        for step in [Step::INLINE, Step::after(1)] {
            let h = Harness::new();
            let quirks = Arc::<Quirks>::default();
            let stack = stack(vec![], Bottom { quirks: quirks.clone(), ..Bottom::default() });
            let file = open(&stack, FD);
            let bystander = Bystander::new(&h, &file);
            h.sim.script([step]);
            *quirks.panic_in.lock().unwrap() = Some(place);
            let result = h.block_on(read(&file, 4, VICTIM));
            if place.contains("after") {
                assert_eq!(result.unwrap(), (4, vec![7, 8, 9, 10]));
            } else {
                assert_eq!(result.unwrap_err().status(), Status::DRIVER_INTERNAL_ERROR);
            }
            assert!(device(&stack, "bottom").0, "{place}");
            h.sim.script([]);
            bystander.check(&h);
            drop(file);
            h.finish();
        }
    }
}

/// `abandoned` and `settled` panic: reported, and without effect on the request.
#[test]
fn in_the_bottoms_notices() {
    let h = Harness::new();
    let (counts, quirks) =
        (Arc::<BottomCounts>::default(), Arc::new(Quirks { settle: true, ..Quirks::default() }));
    let stack = stack(vec![], Bottom { counts: counts.clone(), quirks: quirks.clone() });
    let file = open(&stack, FD);
    let bystander = Bystander::new(&h, &file);
    let panic_in = |place| *quirks.panic_in.lock().unwrap() = Some(place);

    panic_in("settled");
    assert_eq!(h.block_on(read(&file, 4, 0)).unwrap().0, 4);
    assert_eq!(device(&stack, "bottom"), (true, 1));

    panic_in("abandoned");
    h.sim.script([Step::after(1).deaf()]);
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    drop(request);
    h.turn();
    assert_eq!((counts.abandoned.load(SeqCst), device(&stack, "bottom")), (1, (true, 2)));
    assert_eq!(counts.settled.load(SeqCst), 2, "settled all the same");
    bystander.check(&h);
    drop(file);
    h.finish();
}

struct BadWaker;
impl Wake for BadWaker {
    fn wake(self: Arc<Self>) {
        panic!("wanted");
    }
}

/// A waker panics when it is woken: the others that completed in that turn are told all the same.
#[test]
fn in_a_waker() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    h.sim.default_step(Step::after(1));
    let wakes = Arc::<Wakes>::default();
    let bad = Waker::from(Arc::new(BadWaker));
    let (mut first, mut second) = (read(&file, 4, 0), read(&file, 4, 0));
    assert!(Pin::new(&mut first).poll(&mut Context::from_waker(&bad)).is_pending());
    assert!(poll_counting(&mut second, &wakes).is_pending());
    h.turn();
    assert_eq!(wakes.count(), 1);
    now(&mut first).unwrap();
    now(&mut second).unwrap();
    drop((first, second));
    drop(file);
    h.finish();
}

/// A waker panics when it is cloned: the poll panics, and the request is not lost.
#[test]
fn in_a_wakers_clone() {
    use std::task::{RawWaker, RawWakerVTable};
    static TABLE: RawWakerVTable =
        RawWakerVTable::new(|_| panic!("wanted"), |_| {}, |_| {}, |_| {});
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    // SAFETY: the functions ignore their argument.
    let bad = unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE)) };
    for poll_first in [false, true] {
        h.sim.script([Step::after(2)]);
        let mut request = read(&file, 4, 0);
        if poll_first {
            assert!(poll(&mut request).is_pending());
        }
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = Pin::new(&mut request).poll(&mut Context::from_waker(&bad));
        }));
        assert!(polled.is_err());
        assert_eq!(h.block_on(request).unwrap().0, 4);
    }
    drop(file);
    h.finish();
}

/// A buffer whose drop panics.
struct Bomb(Counted);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "wanted");
    }
}

// SAFETY: the inner buffer keeps the contract.
unsafe impl IoBuf for Bomb {
    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Bomb {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        self.0.capacity()
    }
    unsafe fn set_len(&mut self, _n: usize) {}
}

/// A buffer or a scratch value panics when it is dropped: neither the turn nor the other requests
/// that completed in it are harmed.
#[test]
fn in_a_payloads_drop() {
    let h = Harness::new();
    let lend = Filter::new("lend", |mut irp, lower| {
        if irp.offset() == VICTIM {
            irp.next().lend_mut(Bomb(Counted::new(4, &Arc::default())));
        }
        lower.forward(irp, On::ALL)
    });
    let stack = stack(vec![lend], Bottom::default());
    let file = open(&stack, FD);
    let alive = Arc::<AtomicUsize>::default();

    // The payload of a dropped future, disposed of by the turn.
    h.sim.default_step(Step::after(1));
    let bomb = Read { buf: Bomb(Counted::new(4, &alive)), offset: 0 };
    let mut abandoned = Request::new(&file, bomb);
    let mut other = read(&file, 4, 0);
    assert!(poll(&mut abandoned).is_pending());
    assert!(poll(&mut other).is_pending());
    drop(abandoned);
    h.turn();
    assert_eq!(alive.load(SeqCst), 0);
    assert_eq!(now(&mut other).unwrap().0, 4);
    drop(other);

    // A location's scratch, or lent buffer.
    let (mut victim, mut other) = (read(&file, 4, VICTIM), read(&file, 4, 0));
    assert!(poll(&mut victim).is_pending());
    assert!(poll(&mut other).is_pending());
    h.turn();
    assert_eq!(now(&mut other).unwrap().0, 4);
    let error = now(&mut victim).unwrap_err();
    assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR, "nothing was copied up");
    assert!(device(&stack, "lend").0);
    drop((victim, other));
    drop(file);
    h.finish();
}

/// An operation panics while it is moved into the request: the caller sees it, nothing is lost.
#[test]
fn in_prepare() {
    struct Bad(Counted);
    impl Operation for Bad {
        type Output = ();
        fn major(&self) -> Major {
            Major::Private
        }
        fn prepare(self, setup: &mut Setup<'_>) {
            setup.payload(self.0);
            panic!("wanted");
        }
        fn finish(_: &mut overlapped_iomgr::Done<'_>) {}
        fn refuse(self, _: Status) {}
    }
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let alive = Arc::<AtomicUsize>::default();
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = poll(&mut Request::new(&file, Bad(Counted::new(4, &alive))));
    }));
    assert!(polled.is_err());
    assert_eq!((h.processor.live(), alive.load(SeqCst)), (0, 0));
    // By the other routes: what the request was admitted to has its place back.
    let (port, scope) = (CompletionPort::new(), IssuerScope::new());
    port.associate(&file, 1).unwrap();
    let other = open(&stack(vec![], Bottom::default()), FD);
    let panics = |route: &dyn Fn(Request<'_, Bad>)| {
        let request = Request::new(&file, Bad(Counted::new(4, &alive)));
        let route = std::panic::AssertUnwindSafe(|| scope.run(|| route(request)));
        assert!(std::panic::catch_unwind(route).is_err());
        assert_eq!((h.processor.live(), alive.load(SeqCst)), (0, 0));
        assert_eq!((port.outstanding(), scope.live(), scope.bytes()), (0, 0, 0));
    };
    panics(&|request| _ = request.post(&port, 1));
    panics(&|request| _ = request.packet(1));
    panics(&|request| _ = request.start());
    let unassociated = || Request::new(&other, Bad(Counted::new(4, &alive)));
    panics(&|_| _ = unassociated().queue_apc(|()| ()));
    drop((file, other));
    h.finish();
}

/// An operation panics while its caller takes the result.
#[test]
fn in_finish() {
    struct Bad(Counted);
    impl Operation for Bad {
        type Output = ();
        fn major(&self) -> Major {
            Major::Private
        }
        fn prepare(self, setup: &mut Setup<'_>) {
            setup.payload(self.0);
        }
        fn finish(_: &mut overlapped_iomgr::Done<'_>) {
            panic!("wanted");
        }
        fn refuse(self, _: Status) {}
    }
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let alive = Arc::<AtomicUsize>::default();
    for step in [Step::INLINE, Step::after(1)] {
        h.sim.script([step]);
        let request = Request::new(&file, Bad(Counted::new(4, &alive)));
        let blocked =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| h.block_on(request)));
        assert!(blocked.is_err());
        assert_eq!((h.processor.live(), alive.load(SeqCst)), (0, 0));
    }
    drop(file);
    h.finish();
}

/// Work sent to a processor panics: the work behind it runs.
#[test]
fn in_work_sent() {
    let h = Harness::new();
    let ran = Arc::<AtomicUsize>::default();
    let handle = h.processor.handle();
    let count = ran.clone();
    std::thread::spawn(move || {
        assert!(handle.run(|| panic!("wanted")));
        assert!(handle.run(move || {
            count.fetch_add(1, SeqCst);
        }));
    })
    .join()
    .unwrap();
    h.turn();
    assert_eq!(ran.load(SeqCst), 1);
    h.finish();
}

/// V-43: a dropped `Irp` completes its request with an error, and the device is reported, but not
/// as faulted.
#[test]
fn dropped_irp() {
    let h = Harness::new();
    // The types leave only this way to drop one and return.
    let spare = Arc::new(Mutex::new(None));
    let bad = Filter::new("bad", move |irp, _| {
        if irp.offset() == VICTIM {
            drop(irp);
            return spare.lock().unwrap().take().expect("kept below");
        }
        let (held, disposition) = irp.hold();
        *spare.lock().unwrap() = Some(disposition);
        held.forward(On::ALL);
        panic!("wanted");
    });
    let stack = stack(vec![bad], Bottom::default());
    let file = open(&stack, FD);
    let bystander = Bystander::new(&h, &file);
    assert_eq!(device(&stack, "bad"), (true, 1));
    let error = now(&mut read(&file, 4, VICTIM)).unwrap_err();
    assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR);
    assert_eq!(device(&stack, "bad"), (true, 2));
    bystander.check(&h);
    drop(file);
    h.finish();
}

/// I-21: a disposition that belongs to another request is not believed.
#[test]
fn i21_foreign_disposition() {
    let h = Harness::new();
    let spare = Arc::new(Mutex::new(None));
    let held: Arc<Mutex<Vec<Held>>> = Arc::default();
    let keep = held.clone();
    let bad = Filter::new("bad", move |irp, _| {
        if irp.offset() == VICTIM {
            // Says "finished", and keeps it.
            keep.lock().unwrap().push(irp.hold().0);
            return spare.lock().unwrap().take().expect("kept below");
        }
        *spare.lock().unwrap() = Some(irp.complete(Status::END_OF_FILE, 0));
        panic!("wanted");
    });
    let file = open(&stack(vec![bad], Bottom::default()), FD);
    assert_eq!(now(&mut read(&file, 4, 0)).unwrap_err().status(), Status::END_OF_FILE);
    let mut request = read(&file, 4, VICTIM);
    assert!(poll(&mut request).is_pending());
    held.lock().unwrap().pop().unwrap().complete(Status::SUCCESS, 0);
    assert_eq!(now(&mut request).unwrap().0, 0);
    drop(request);
    drop(file);
    h.finish();
}

/// V-43: a dropped `Held` completes its request, from whatever thread, also while unwinding.
#[test]
fn dropped_held() {
    for how in ["here", "elsewhere", "by a panic", "reclaimed", "with its queue"] {
        let h = Harness::new();
        let kept: Arc<Mutex<Vec<Held>>> = Arc::default();
        let queue = Arc::new(CancelSafeQueue::new());
        let (keep, keep_up, q) = (kept.clone(), kept.clone(), Arc::downgrade(&queue));
        let hold = Filter::new("hold", move |irp, lower| match how {
            "reclaimed" => lower.forward(irp, On::ALL),
            "with its queue" => irp.park(&q.upgrade().unwrap()),
            _ => {
                let (held, disposition) = irp.hold();
                keep.lock().unwrap().push(held);
                disposition
            }
        })
        .completed(move |irp| {
            let (held, completion) = irp.reclaim();
            keep_up.lock().unwrap().push(held);
            completion
        });
        let stack = stack(vec![hold], Bottom::default());
        let file = open(&stack, FD);
        let mut request = read(&file, 4, 0);
        assert!(poll(&mut request).is_pending());
        let held = kept.lock().unwrap().pop();
        match how {
            "here" | "reclaimed" => drop(held),
            "with its queue" => drop(queue),
            "elsewhere" => std::thread::spawn(move || drop(held)).join().unwrap(),
            _ => {
                let unwound = std::thread::spawn(move || {
                    let _held = held;
                    panic!("wanted");
                });
                assert!(unwound.join().is_err());
            }
        }
        h.turn();
        let status = now(&mut request).unwrap_err().status();
        if how == "with its queue" {
            assert_eq!((status, device(&stack, "hold")), (Status::CANCELLED, (false, 0)));
        } else {
            assert_eq!(status, Status::DRIVER_INTERNAL_ERROR, "{how}");
            assert_eq!(device(&stack, "hold"), (false, 1), "{how}");
        }
        drop(request);
        drop(file);
        h.finish();
    }
}

/// A child's driver panics: the parent gets the child's error.
#[test]
fn in_a_child() {
    let h = Harness::new();
    let split = Filter::new("split", |irp, _| {
        let part = |start, offset| Part { start, len: 2, offset };
        irp.split(&[part(0, 0), part(2, VICTIM)])
    });
    let bad = Filter::new("bad", |irp, lower| {
        assert_ne!(irp.offset(), VICTIM, "wanted");
        lower.forward(irp, On::ALL)
    });
    let stack = stack(vec![split, bad], Bottom::default());
    let file = open(&stack, FD);
    for step in [Step::INLINE, Step::after(1)] {
        h.sim.script([step]);
        assert_eq!(h.block_on(read(&file, 4, 0)).unwrap(), (2, vec![0, 1]));
    }
    assert!(device(&stack, "bad").0 && !device(&stack, "split").0);
    drop(file);
    h.finish();
}

/// A driver panics with a posted request: an immediate error, so no packet (I-31).
#[test]
fn i31_a_panic_posts_no_packet() {
    let h = Harness::new();
    let bad = Filter::new("bad", |_, _| panic!("wanted"));
    let file = open(&stack(vec![bad], Bottom::default()), FD);
    let port = CompletionPort::new();
    let result = read(&file, 4, 0).post(&port, 0).unwrap_err();
    assert_eq!(result.unwrap_err().status(), Status::DRIVER_INTERNAL_ERROR);
    assert!(port.remove(ZERO).is_err());
    drop((file, port));
    h.finish();
}
