//! Level-2 filters: futures that go down and up with their request.

#![cfg(not(loom))]

mod support;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use overlapped_iomgr::filter::{Filter as Level2, Io, Next, Shared, heap_futures};
use overlapped_iomgr::wait::Event;
use overlapped_iomgr::{Class, Driver, FileHandle, Major, MajorSet, On, Stack, Status};
use support::*;

type Outcome = Result<usize, Status>;

/// A filter of reads and writes whose work is a function.
macro_rules! filter {
    ($name:ident { $($field:ident: $type:ty),* } |$this:ident, $next:ident, $io:ident| $body:expr) => {
        struct $name { $($field: $type),* }
        impl Level2 for $name {
            type Open = ();
            fn name(&self) -> &str { stringify!($name) }
            fn hooks(&self) -> MajorSet { MajorSet::of(&[Major::Read, Major::Write, Major::Flush]) }
            #[allow(unused_mut, reason = "not every body changes it")]
            async fn read(&self, _: &(), $next: Next<'_>, mut $io: Io<'_>) -> Outcome {
                let $this = self;
                $body
            }
            #[allow(unused_mut, reason = "not every body changes it")]
            async fn write(&self, _: &(), $next: Next<'_>, mut $io: Io<'_>) -> Outcome {
                let $this = self;
                $body
            }
        }
    };
}

fn on(filters: Vec<Arc<dyn Driver>>) -> Arc<Stack> {
    Stack::new(filters, Arc::new(Bottom::default())).unwrap()
}

fn file_with(filter: impl Level2) -> FileHandle {
    open(&on(vec![filter.into_driver()]), FD)
}

/// Both ways to complete: at once, and after some turns.
const STEPS: [Step; 2] = [Step::INLINE, Step::after(2)];

struct Xor(u8);

impl Level2 for Xor {
    type Open = ();
    fn name(&self) -> &str {
        "xor"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn class(&self) -> Class {
        Class::Transform
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let n = next.forward(&mut io).await?;
        io.received_mut(n).flatten().for_each(|byte| *byte ^= self.0);
        Ok(n)
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let secret: Vec<u8> = io.segments().flatten().map(|byte| byte ^ self.0).collect();
        next.forward(&mut io).from(secret).await.0
    }
}

#[test]
fn a_transforming_filter() {
    for step in STEPS {
        let harness = Harness::new();
        harness.sim.default_step(step);
        // Two of them undo each other in the middle, one is left below.
        let stack = on(vec![Xor(0x55).into_driver(), Xor(0x0f).into_driver()]);
        let (file, plain) = (open(&stack, FD), open(&on(vec![]), FD));
        let (n, given) = harness.block_on(write(&file, b"hello", 10)).unwrap();
        assert_eq!((n, &given[..]), (5, &b"hello"[..]), "the caller's own buffer comes back");
        let (_, stored) = harness.block_on(read(&plain, 5, 10)).unwrap();
        assert_eq!(stored, b"hello".map(|b| b ^ 0x5a));
        let (n, bytes) = harness.block_on(read(&file, 5, 10)).unwrap();
        assert_eq!((n, &bytes[..]), (5, &b"hello"[..]));

        let bufs = vec![b"ab".to_vec(), b"cde".to_vec()];
        let written = Vectored { bufs, offset: 0, write: true };
        let (status, n, _) = harness.block_on(overlapped_iomgr::Request::new(&file, written));
        assert_eq!((status, n), (Status::SUCCESS, 5));
        let bufs = vec![Vec::with_capacity(1), Vec::with_capacity(4)];
        let wanted = Vectored { bufs, offset: 0, write: false };
        let (status, n, mut bufs) = harness.block_on(overlapped_iomgr::Request::new(&file, wanted));
        assert_eq!((status, n), (Status::SUCCESS, 5));
        // SAFETY: five bytes have been read, one and four.
        unsafe {
            bufs[0].set_len(1);
            bufs[1].set_len(4);
        }
        assert_eq!(bufs, [&b"a"[..], b"bcde"]);
        // A transforming filter refuses what it does not know.
        let (status, _) = harness.block_on(plain_private(&file));
        assert_eq!(status, Status::NOT_SUPPORTED);
        drop((file, plain));
        harness.finish();
    }
}

fn plain_private(file: &FileHandle) -> overlapped_iomgr::Request<'_, Plain> {
    support::plain(file, Major::Private)
}

filter!(
    Retry { tries: AtomicUsize } | this,
    next,
    io | {
        loop {
            this.tries.fetch_add(1, SeqCst);
            match next.forward(&mut io).await {
                Err(Status::DATA_ERROR) => {}
                result => break result,
            }
        }
    }
);

#[test]
fn i42_forwarding_again_is_a_retry() {
    for turns in [0, 2] {
        let harness = Harness::new();
        let log = Log::default();
        let below = {
            let (failures, log) = (AtomicUsize::new(2), log.clone());
            Filter::new("below", |irp, lower| lower.forward(irp, On::ALL)).completed(
                move |mut irp| {
                    log.add(format!("{}", irp.status().is_success()));
                    if failures.load(SeqCst) > 0 {
                        failures.fetch_sub(1, SeqCst);
                        irp.set_result(Status::DATA_ERROR, 0);
                    }
                    irp.proceed()
                },
            )
        };
        harness.sim.default_step(if turns == 0 { Step::INLINE } else { Step::after(turns) });
        let retry = Retry { tries: AtomicUsize::new(0) };
        let file = open(&on(vec![retry.into_driver(), Arc::new(below)]), FD);
        let (n, bytes) = harness.block_on(read(&file, 3, 7)).unwrap();
        assert_eq!((n, &bytes[..]), (3, &[7u8, 8, 9][..]));
        assert_eq!(log.take().len(), 3);
        drop(file);
        harness.finish();
    }
}

filter!(
    Moved {} | _this,
    next,
    io | {
        // The second half of what is asked for, from elsewhere, then the rest of the first half's place.
        let len = io.len() as u32;
        next.forward(&mut io).at(100, len / 2).await
    }
);

#[test]
fn to_another_offset_and_shorter() {
    let harness = Harness::new();
    let file = file_with(Moved {});
    let (n, bytes) = harness.block_on(read(&file, 10, 3)).unwrap();
    assert_eq!((n, &bytes[..]), (5, &[100u8, 101, 102, 103, 104][..]));
    drop(file);
    harness.finish();
}

filter!(
    Slow { log: Log } | this,
    next,
    io | {
        this.log.add("begins");
        next.sleep(Duration::from_millis(if io.offset() == 0 { 20 } else { 1_000_000 })).await;
        this.log.add(format!("slept, cancelled: {}", next.is_cancelled()));
        let result = next.forward(&mut io).await;
        this.log.add(format!("ends with {result:?}"));
        result
    }
);

#[test]
fn a_filter_may_sleep() {
    let harness = Harness::new();
    let log = Log::default();
    let file = file_with(Slow { log: log.clone() });
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    assert_eq!(log.take(), ["begins"]);
    let wakes = Arc::new(Wakes::default());
    assert!(poll_counting(&mut request, &wakes).is_pending());
    harness.until("it has slept", || wakes.count() > 0);
    assert_eq!(now(&mut request).unwrap().0, 4);
    assert_eq!(log.take(), ["slept, cancelled: false", "ends with Ok(4)"]);
    drop(request);
    drop(file);
    harness.finish();
}

/// cancelling is a message. The future runs to its end, the sleep ends, nothing goes below.
#[test]
fn x1_a_cancel_ends_the_sleep_and_the_future_runs_on() {
    let harness = Harness::new();
    let log = Log::default();
    let file = file_with(Slow { log: log.clone() });
    let mut request = read(&file, 4, 1);
    assert!(poll(&mut request).is_pending());
    harness.turns(3);
    assert_eq!(log.take(), ["begins"]);
    file.cancel_requests();
    harness.turns(3);
    let told = ["slept, cancelled: true", "ends with Err(Status::CANCELLED)"];
    let heard = log.take();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0] == told[0] && heard[1].starts_with("ends with Err("), "{heard:?}");
    assert_eq!(now(&mut request).unwrap_err().status(), Status::CANCELLED);
    drop(request);
    // So does the drop of the requester.
    let mut request = read(&file, 4, 1);
    assert!(poll(&mut request).is_pending());
    drop(request);
    harness.turns(3);
    assert_eq!(log.take().len(), 3);
    drop(file);
    harness.finish();
}

filter!(
    Watch { log: Log } | this,
    next,
    io | {
        let result = next.forward(&mut io).await;
        this.log.add(format!("{result:?}, cancelled: {}", next.is_cancelled()));
        // More of it does not go below.
        let again = next.forward(&mut io).await;
        this.log.add(format!("{:?}", again == Err(Status::CANCELLED)));
        result
    }
);

#[test]
fn x1_a_cancelled_request_comes_back_from_below() {
    let harness = Harness::new();
    harness.sim.default_step(Step::GATED);
    let log = Log::default();
    let file = file_with(Watch { log: log.clone() });
    let Ok(block) = read(&file, 4, 1).start() else { panic!("it pends") };
    harness.turns(2);
    assert!(log.take().is_empty());
    block.cancel();
    harness.turns(3);
    let heard = log.take();
    assert_eq!(heard.len(), 2);
    assert!(heard[0].ends_with("cancelled: true") && heard[1] == "true", "{heard:?}");
    drop(block);
    drop(file);
    harness.finish();
}

filter!(
    Stubborn {} | _this,
    next,
    io | {
        loop {
            if let Ok(n) = next.forward(&mut io).await {
                break Ok(n);
            }
        }
    }
);

/// A filter that never takes a cancel for an answer is not asked for ever.
#[test]
fn x1_a_stubborn_filter_is_ended() {
    let harness = Harness::new();
    harness.sim.default_step(Step::GATED);
    let stack = on(vec![Stubborn {}.into_driver()]);
    let file = open(&stack, FD);
    let mut request = read(&file, 4, 1);
    assert!(poll(&mut request).is_pending());
    file.cancel_requests();
    harness.turns(3);
    assert_eq!(now(&mut request).unwrap_err().status(), Status::CANCELLED);
    assert_eq!(device(&stack, "Stubborn"), (false, 1));
    drop(request);
    drop(file);
    harness.finish();
}

filter!(
    Gated { event: Event } | this,
    next,
    io | {
        this.event.signalled().await;
        next.forward(&mut io).await
    }
);

/// Whatever a future can wait for, woken from any thread.
#[test]
fn a_wake_from_another_thread() {
    let harness = Harness::new();
    let event = Event::manual(false);
    let file = file_with(Gated { event: event.clone() });
    let mut requests: Vec<_> = (0..3).map(|i| read(&file, 4, i)).collect();
    for request in &mut requests {
        assert!(poll(request).is_pending());
    }
    let wakes = Arc::new(Wakes::default());
    for request in &mut requests {
        assert!(poll_counting(request, &wakes).is_pending());
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(5));
            event.set();
        });
        harness.until("all three are done", || wakes.count() == 3);
    });
    for mut request in requests {
        assert_eq!(now(&mut request).unwrap().0, 4);
    }
    drop(file);
    harness.finish();
}

filter!(
    Halves {} | _this,
    next,
    io | {
        // Two requests of its own at once, in place of the one it was given.
        let half = io.len() / 2;
        let mut first = pin!(next.request(Read { buf: vec![0u8; half], offset: io.offset() }));
        let mut second =
            pin!(next.request(Read { buf: vec![0u8; half], offset: io.offset() + half as u64 }));
        let (mut a, mut b) = (None, None);
        poll_fn(|cx| {
            if a.is_none()
                && let Poll::Ready(r) = first.as_mut().poll(cx)
            {
                a = Some(r)
            }
            if b.is_none()
                && let Poll::Ready(r) = second.as_mut().poll(cx)
            {
                b = Some(r)
            }
            if a.is_some() && b.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let (a, b) = (a.unwrap().map_err(|e| e.status())?, b.unwrap().map_err(|e| e.status())?);
        io.put(0, &a.1[..a.0]);
        io.put(half, &b.1[..b.0]);
        Ok(a.0 + b.0)
    }
);

#[test]
fn requests_of_its_own_start_below_the_filter() {
    for step in STEPS {
        let harness = Harness::new();
        harness.sim.default_step(step);
        let log = Log::default();
        let watch = |name: &'static str| -> Arc<dyn Driver> {
            let log = log.clone();
            Arc::new(Filter::new(name, move |irp, lower| {
                log.add(format!("{name} {}", irp.offset()));
                lower.skip(irp)
            }))
        };
        let stack = on(vec![watch("above"), Halves {}.into_driver(), watch("below")]);
        let file = open(&stack, FD);
        let (n, bytes) = harness.block_on(read(&file, 8, 20)).unwrap();
        assert_eq!((n, bytes), (8, (20..28).collect::<Vec<u8>>()));
        assert_eq!(log.take(), ["above 20", "below 20", "below 24"]);
        drop(file);
        harness.finish();
    }
}

/// They end early with the request they are made for.
#[test]
fn x1_requests_of_its_own_are_cancelled_with_it() {
    let harness = Harness::new();
    harness.sim.default_step(Step::GATED);
    let file = file_with(Halves {});
    let mut request = read(&file, 8, 20);
    assert!(poll(&mut request).is_pending());
    assert_eq!(harness.sim.in_flight(), 2);
    // Not by file, which would find them by itself.
    drop(request);
    harness.turns(5);
    assert_eq!(harness.sim.in_flight(), 0);
    drop(file);
    harness.finish();
}

static KEPT: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

filter!(
    Keeper {} | _this,
    next,
    io | {
        let n = next.forward(&mut io).await?;
        KEPT.lock().unwrap().extend(io.share(1..n));
        Ok(n)
    }
);

/// A request does not complete while a part of its data is out.
#[test]
fn shared_data_keeps_the_request() {
    let harness = Harness::new();
    let alive = Arc::new(AtomicUsize::new(0));
    let file = file_with(Keeper {});
    let buf = Counted::new(8, &alive);
    let mut request = overlapped_iomgr::Request::new(&file, Write { buf, offset: 0 });
    assert!(poll(&mut request).is_pending());
    harness.turns(5);
    drop(request);
    harness.turns(5);
    assert_eq!(alive.load(SeqCst), 1, "the buffer is still there");
    let kept = std::mem::take(&mut *KEPT.lock().unwrap());
    assert_eq!(kept.iter().map(|s| s.len()).collect::<Vec<_>>(), [7]);
    thread::spawn(move || drop(kept)).join().unwrap();
    harness.turns(3);
    assert_eq!(alive.load(SeqCst), 0);
    drop(file);
    harness.finish();
}

filter!(
    Filler { log: Log } | this,
    next,
    io | {
        let clash = {
            let first = io.share_mut(0..4)?;
            let clash = io.share_mut(2..6).err();
            drop(first);
            clash
        };
        this.log.add(format!("{}", clash == Some(Status::INVALID_PARAMETER)));
        let mut parts = io.share_mut(2..6)?;
        let part = parts.remove(0);
        let (n, part) =
            next.request(Read { buf: part, offset: 50 }).await.map_err(|e| e.status())?;
        drop(part);
        Ok(2 + n)
    }
);

#[test]
fn parts_of_a_reads_memory_are_filled_by_others() {
    for step in STEPS {
        let harness = Harness::new();
        harness.sim.default_step(step);
        let log = Log::default();
        let file = file_with(Filler { log: log.clone() });
        let (n, bytes) = harness.block_on(read(&file, 8, 0)).unwrap();
        assert_eq!((n, &bytes[..]), (6, &[0u8, 0, 50, 51, 52, 53][..]));
        assert_eq!(log.take(), ["true"]);
        drop(file);
        harness.finish();
    }
}

filter!(
    Impatient { log: Log } | this,
    next,
    io | {
        // Gives the request up after one poll.
        let given_up = {
            let mut below = pin!(next.forward(&mut io));
            poll_fn(|cx| Poll::Ready(below.as_mut().poll(cx).is_pending())).await
        };
        this.log.add(format!("given up: {given_up}"));
        Err(Status::IO_TIMEOUT)
    }
);

filter!(
    Impatient2 { log: Log } | this,
    next,
    io | {
        let mut polls = 0;
        let mut sleep = pin!(next.sleep(Duration::from_millis(5)));
        {
            let mut below = pin!(next.forward(&mut io));
            poll_fn(|cx| {
                polls += 1;
                assert!(below.as_mut().poll(cx).is_pending());
                sleep.as_mut().poll(cx)
            })
            .await;
        }
        this.log.add(format!("slept after {} polls", polls > 1));
        Err(Status::IO_TIMEOUT)
    }
);

/// What is given up before it was sent never goes; what is below is asked to end, and waited for.
#[test]
fn a_forward_that_is_dropped() {
    let harness = Harness::new();
    harness.sim.default_step(Step::GATED);
    let log = Log::default();
    let alive = Arc::new(AtomicUsize::new(0));
    let file = file_with(Impatient { log: log.clone() });
    let failed = harness.block_on(read(&file, 4, 0)).unwrap_err();
    assert_eq!(failed.status(), Status::IO_TIMEOUT);
    assert_eq!(log.take(), ["given up: true"]);
    assert_eq!(harness.sim.in_flight(), 0);

    let file = file_with(Impatient2 { log: log.clone() });
    let buf = Counted::new(8, &alive);
    let mut request = overlapped_iomgr::Request::new(&file, support::Read { buf, offset: 0 });
    let wakes = Arc::new(Wakes::default());
    assert!(poll_counting(&mut request, &wakes).is_pending());
    harness.until("the filter has given up", || wakes.count() > 0);
    let failed = now(&mut request).map(drop).unwrap_err();
    assert_eq!(failed.status(), Status::IO_TIMEOUT);
    assert_eq!(log.take(), ["slept after true polls"]);
    drop(failed);
    assert_eq!(alive.load(SeqCst), 0);
    drop(request);
    drop(file);
    harness.finish();
}

filter!(
    Panics { place: usize } | this,
    next,
    io | {
        if this.place == 0 {
            panic!("wanted, before");
        }
        let shared = if io.major() == Major::Write { io.share(0..1) } else { vec![] };
        let result = next.forward(&mut io).await;
        if this.place == 1 {
            panic!("wanted, behind");
        }
        drop(shared);
        result
    }
);

#[test]
fn a_panic_is_the_requests_alone() {
    for step in STEPS {
        for place in [0, 1] {
            let harness = Harness::new();
            harness.sim.default_step(step);
            let stack = on(vec![Panics { place }.into_driver()]);
            let file = open(&stack, FD);
            let failed = harness.block_on(read(&file, 4, 0)).unwrap_err();
            assert_eq!(failed.status(), Status::DRIVER_INTERNAL_ERROR);
            let failed = harness.block_on(write(&file, b"abc", 0)).unwrap_err();
            assert_eq!(failed.status(), Status::DRIVER_INTERNAL_ERROR);
            assert_eq!(device(&stack, "Panics"), (true, 2));
            drop(file);
            harness.finish();
        }
    }
}

filter!(
    Elsewhere { log: Log } | this,
    next,
    io | {
        // Another thread may not poll what is this call's.
        let there = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let mut below = pin!(next.forward(&mut io));
                    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
                    _ = below.as_mut().poll(&mut cx);
                })
                .join()
        });
        this.log.add(format!("{}", there.is_err()));
        next.forward(&mut io).await
    }
);

#[test]
fn a_future_is_polled_by_its_call_alone() {
    let harness = Harness::new();
    let log = Log::default();
    let file = file_with(Elsewhere { log: log.clone() });
    assert_eq!(harness.block_on(read(&file, 4, 0)).unwrap().0, 4);
    assert_eq!(log.take(), ["true"]);
    drop(file);
    harness.finish();
}

/// Writes something when the file is closed.
struct LastWords {
    log: Log,
}

impl Level2 for LastWords {
    type Open = ();
    fn name(&self) -> &str {
        "last words"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Close])
    }
    async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let written = next.request(Write { buf: b"end".to_vec(), offset: 0 }).await;
        let written = written.map(|(n, _)| n).map_err(|error| error.status());
        self.log.add(format!("cancelled: {}, {written:?}", next.is_cancelled()));
        next.forward(&mut io).await
    }
}

/// what a filter writes when a file is closed is written, whether or not anybody waits for that.
#[test]
fn x33_requests_of_a_close_survive_its_requester() {
    let harness = Harness::new();
    harness.sim.default_step(Step::after(3));
    let log = Log::default();
    let file = file_with(LastWords { log: log.clone() });
    let mut close = plain(&file, Major::Close);
    assert!(poll(&mut close).is_pending());
    drop(close);
    harness.turns(10);
    assert_eq!(log.take(), ["cancelled: true, Ok(3)"]);
    assert_eq!(&harness.sim.file(FD)[..3], b"end");
    drop(file);
    harness.finish();
}

/// Counts a file's reads, and says so when the file goes.
struct Tally;

#[derive(Default)]
struct Reads(AtomicUsize);

static GONE: AtomicUsize = AtomicUsize::new(0);

impl Drop for Reads {
    fn drop(&mut self) {
        GONE.fetch_add(*self.0.get_mut(), SeqCst);
    }
}

impl Level2 for Tally {
    type Open = Reads;
    fn name(&self) -> &str {
        "tally"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, reads: &Reads, next: Next<'_>, mut io: Io<'_>) -> Outcome {
        reads.0.fetch_add(1, SeqCst);
        next.forward(&mut io).await?;
        Ok(reads.0.load(SeqCst))
    }
}

#[test]
fn state_is_kept_for_each_open_file() {
    let harness = Harness::new();
    harness.sim.set_file(FD + 1, vec![0; 100]);
    let stack = on(vec![Tally.into_driver(), Tally.into_driver()]);
    let (one, other) = (open(&stack, FD), open(&stack, FD + 1));
    for _ in 0..3 {
        harness.block_on(read(&one, 9, 0)).unwrap();
    }
    assert_eq!(harness.block_on(read(&one, 9, 0)).unwrap().0, 4);
    assert_eq!(harness.block_on(read(&other, 9, 0)).unwrap().0, 1);
    assert_eq!(GONE.load(SeqCst), 0);
    drop(one);
    harness.turns(3);
    assert_eq!(GONE.load(SeqCst), 8, "two devices of one file, four reads each");
    drop(other);
    harness.turns(3);
    assert_eq!(GONE.load(SeqCst), 10);
    harness.finish();
}

filter!(
    Large {} | _this,
    next,
    io | {
        let large = [io.len() as u8; 8192];
        let n = next.forward(&mut io).await?;
        Ok(n.min(usize::from(large[n])))
    }
);

#[test]
fn a_large_future_is_counted() {
    let harness = Harness::new();
    let file = file_with(Large {});
    let before = heap_futures();
    assert_eq!(harness.block_on(read(&file, 4, 0)).unwrap().0, 4);
    assert!(heap_futures() > before);
    drop(file);
    harness.finish();
}

/// Both levels in one stack, in any order.
#[test]
fn both_levels_mix() {
    for step in STEPS {
        let harness = Harness::new();
        harness.sim.default_step(step);
        let xor = |key: u8| -> Arc<dyn Driver> {
            let filter = Filter::new("level 1", |irp, lower| lower.forward(irp, On::SUCCESS));
            Arc::new(filter.completed(move |mut irp| {
                irp.received_mut().flatten().for_each(|byte| *byte ^= key);
                irp.proceed()
            }))
        };
        let stack = on(vec![xor(1), Xor(2).into_driver(), xor(4), Xor(8).into_driver(), xor(16)]);
        let file = open(&stack, FD);
        let (n, bytes) = harness.block_on(read(&file, 3, 0)).unwrap();
        assert_eq!((n, &bytes[..]), (3, &[31u8, 30, 29][..]));
        drop(file);
        harness.finish();
    }
}

/// The processor's teardown: sleeping calls are told, and end.
#[test]
fn a_teardown_ends_sleeping_calls() {
    let harness = Harness::new();
    let log = Log::default();
    let file = file_with(Slow { log: log.clone() });
    let mut request = read(&file, 4, 1);
    assert!(poll(&mut request).is_pending());
    let report = harness.processor.shutdown(Duration::from_secs(5));
    assert_eq!(report.leaked, 0);
    assert_eq!(log.take().len(), 3, "it ran to its end");
    assert_eq!(now(&mut request).unwrap_err().status(), Status::CANCELLED);
    drop(request);
    drop(file);
}

/// Changes what a request carries, and finds no value in a request that carries a buffer.
struct Answers;

impl Level2 for Answers {
    type Open = ();
    fn name(&self) -> &str {
        "answers"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Private, Major::Write])
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        assert!(io.payload_mut::<Vec<u8>>().is_none(), "it is the caller's buffer");
        next.forward(&mut io).await
    }
    async fn other(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let n = next.forward(&mut io).await?;
        assert!(io.payload_mut::<u32>().is_none(), "of another type");
        *io.payload_mut::<u64>().expect("it carries one") += 1;
        Ok(n)
    }
}

#[test]
fn what_a_request_carries_can_be_changed() {
    for step in STEPS {
        let harness = Harness::new();
        harness.sim.default_step(step);
        let file = file_with(Answers);
        let carry = overlapped_iomgr::Request::new(&file, support::Carry(41u64));
        assert_eq!(harness.block_on(carry), (Status::SUCCESS, Some(42)));
        assert_eq!(harness.block_on(write(&file, b"abc", 0)).unwrap().0, 3);
        drop(file);
        harness.finish();
    }
}
