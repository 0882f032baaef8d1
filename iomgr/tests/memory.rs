//! Memory that is short. Completing a request never needs any (I-1); issuing one may be refused for the
//! want of it (I-6), and a close cannot fail.
//!
//! This process has an allocator that counts, and that fails, for one thread at a time.

#![cfg(not(loom))]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::buf::BufError;
use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait, Wake};
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Event, Waited, sleep, wait_any};
use overlapped_iomgr::{
    CompletionPort, FileHandle, IssuerScope, On, Part, Processor, Request, Status, WaitPacket,
};
use support::*;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Counting begins with the next completion.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    /// Sizes from here on are refused.
    static FAILS_FROM: Cell<usize> = const { Cell::new(usize::MAX) };
}

struct Short;

fn refuses(size: usize) -> bool {
    if COUNTING.get() {
        COUNT.set(COUNT.get() + 1);
    }
    size >= FAILS_FROM.get()
}

// SAFETY: the system's allocator, which may refuse.
unsafe impl GlobalAlloc for Short {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if refuses(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Short = Short;

/// Lets one test run at a time: what others send to all processors of the process, as the end of an
/// issuer scope, is read in a turn that is counted here.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts from the next completion to the end of `run`.
#[track_caller]
fn needs_no_memory<T>(what: &str, run: impl FnOnce() -> T) -> T {
    COUNT.set(0);
    ARMED.set(true);
    let result = run();
    assert!(COUNTING.replace(false), "{what}: nothing has completed");
    assert_eq!(COUNT.get(), 0, "allocations: {what}");
    result
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// Hardware that allocates nothing in a turn, and completes all it has.
struct Quiet(Vec<(Token, Op)>);

impl Quiet {
    fn new() -> Quiet {
        Quiet(Vec::with_capacity(256))
    }
}

// SAFETY: each token is completed once.
unsafe impl Hal for Quiet {
    fn name(&self) -> &'static str {
        "quiet"
    }
    unsafe fn submit(&mut self, token: Token, op: Op, _alone: bool) -> Option<i32> {
        self.0.push((token, op));
        None
    }
    fn cancel(&mut self, _token: Token) {}
    fn turn(&mut self, _wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        for (token, op) in self.0.drain(..) {
            let result = match op {
                Op::Read { buf, len, .. } => {
                    // SAFETY: the caller's of `submit`: valid until this completion.
                    unsafe { buf.write_bytes(1, len as usize) };
                    len as i32
                }
                _ => 0,
            };
            done.push(Completion { token, result, lease: None });
        }
        if ARMED.replace(false) {
            COUNTING.set(true);
        }
        Ok(())
    }
    fn in_flight(&self) -> usize {
        self.0.len()
    }
    fn wake_handle(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }
}

fn quiet() -> io::Result<Box<dyn Hal>> {
    Ok(Box::new(Quiet::new()))
}

fn turn(processor: &Processor) {
    processor.turn(Wait::No, || true).unwrap();
}

fn file() -> FileHandle {
    // With filters: their routines are called on the way up.
    let forwards = |n: u32| Filter::new(format!("f{n}"), |irp, lower| lower.forward(irp, On::ALL));
    open(&stack((0..4).map(forwards).collect(), Bottom::default()), FD)
}

/// I-1: awaited, posted, looked at, by the file's port; with event, tee, deadline and scope; watched, and
/// on a synchronous file.
#[test]
fn i1_completing_needs_no_memory() {
    let _alone = alone();
    let processor = Processor::new(quiet).unwrap();
    let file = file();
    let limit = Duration::from_secs(3600);
    let scope = IssuerScope::new();
    let wakes = Arc::<Wakes>::default();
    // Awaited.
    let mut request = scope.run(|| {
        let mut request = read(&file, 4, 0).deadline(limit);
        assert!(poll_counting(&mut request, &wakes).is_pending());
        request
    });
    needs_no_memory("a future", || {
        turn(&processor);
        assert_eq!(wakes.count(), 1);
        now(&mut request).unwrap()
    });
    assert_eq!(scope.live(), 0);
    // Dropped, and then done.
    assert!(poll(&mut read(&file, 4, 0)).is_pending());
    needs_no_memory("a dropped future", || turn(&processor));
    // Posted: to a port where nobody waits, and where a task does.
    let (port, tee) = (CompletionPort::new(), CompletionPort::new());
    for waits in [false, true] {
        let (mut next, mut next_copy) = (port.next(), tee.next());
        if waits {
            assert!(poll_counting(&mut next, &wakes).is_pending());
            assert!(poll_counting(&mut next_copy, &wakes).is_pending());
        }
        read(&file, 4, 0).tee(&tee, 1).post(&port, 1).unwrap();
        needs_no_memory("a packet and a copy", || turn(&processor));
        for packet in [now(&mut next).unwrap(), now(&mut next_copy).unwrap()] {
            assert_eq!((packet.status(), packet.info()), (Status::SUCCESS, 4));
        }
    }
    // By the file's port.
    let other = self::file();
    port.associate(&other, 1).unwrap();
    read(&other, 4, 0).packet(1).unwrap();
    needs_no_memory("an associated packet", || {
        turn(&processor);
        port.remove(Some(Duration::ZERO)).unwrap().into_output::<Read<Vec<u8>>>().unwrap()
    });
    // Looked at; the file object is watched, and an event is set for which two tasks wait, and a packet.
    let watched = |file: &FileHandle| wait_any(&[file], Some(Duration::ZERO), Alertable::No);
    watched(&file).unwrap();
    for event in [Event::manual(false), Event::auto(false)] {
        let packet = WaitPacket::new();
        let (mut one, mut two) = (pin!(event.signalled()), pin!(event.signalled()));
        let waker = Waker::from(wakes.clone());
        let mut cx = Context::from_waker(&waker);
        assert!(one.as_mut().poll(&mut cx).is_pending());
        packet.associate(&event, &port, 5, 0).unwrap();
        assert!(two.as_mut().poll(&mut cx).is_pending());
        // The first packet of a port's own that is posted is made; it is kept for the next.
        port.post(1, 1, Status::SUCCESS, 0).unwrap();
        port.remove(Some(Duration::ZERO)).unwrap();
        let block = read(&file, 4, 0).signal(&event).unwrap();
        let plain = read(&file, 4, 0).start().unwrap();
        needs_no_memory("events", || turn(&processor));
        assert_eq!((block.status(), plain.status()), (Status::SUCCESS, Status::SUCCESS));
        assert_eq!(port.remove(Some(Duration::ZERO)).unwrap().key(), 5);
        assert_eq!(watched(&file), Ok(Waited::Object(0)));
    }
    // The next one's turn at a synchronous file object.
    let serial = self::file();
    serial.set_seekable();
    serial.make_synchronous(Alertable::No).unwrap();
    let mut both: Vec<_> = (0..2).map(|_| read(&serial, 4, u64::MAX)).collect();
    both.iter_mut().for_each(|request| assert!(poll(request).is_pending()));
    needs_no_memory("a turn", || {
        turn(&processor);
        turn(&processor);
        turn(&processor);
    });
    assert_eq!(serial.current_offset(), Some(8));
    both.iter_mut().for_each(|request| _ = now(request).unwrap());
    drop((both, request));
    drop((file, other, serial));
    turn(&processor);
    assert_eq!(processor.live(), 0);
}

/// Who posts gets the memory of packets that have been taken, though there are always others left.
#[test]
fn c14_memory_of_packets_goes_round() {
    let _alone = alone();
    let port = CompletionPort::new();
    let post = |value| port.post(0, value, Status::SUCCESS, 0).unwrap();
    let take = || port.remove(Some(Duration::ZERO)).unwrap().value();
    (0..3000).for_each(post);
    (0..100).for_each(|value| assert_eq!(take(), value));
    COUNT.set(0);
    COUNTING.set(true);
    for value in 100..10_000 {
        post(value + 2900);
        assert_eq!(take(), value);
    }
    COUNTING.set(false);
    // A block has the room of thirty; 2900 packets are in a hundred, all there is at a time.
    assert!(COUNT.get() < 50, "{} allocations", COUNT.get());
}

/// I-1, I-25: children, and their parent.
#[test]
fn i1_children() {
    let _alone = alone();
    let processor = Processor::new(quiet).unwrap();
    let parts: Vec<_> = (0..3).map(|i| Part { start: i * 4, len: 4, offset: 0 }).collect();
    let splits = Filter::new("splits", move |irp, _| irp.split(&parts));
    let file = open(&stack(vec![splits], Bottom::default()), FD);
    let port = CompletionPort::new();
    read(&file, 12, 0).post(&port, 1).unwrap();
    needs_no_memory("children", || turn(&processor));
    assert_eq!(port.remove(Some(Duration::ZERO)).unwrap().info(), 12);
    drop(file);
    turn(&processor);
}

/// I-1: waited for, and by an APC.
#[test]
fn i1_on_plain_threads() {
    let _alone = alone();
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(quiet) };
    let thread = thread::spawn(|| {
        let file = file();
        // The thread's own things are made by its first wait.
        read(&file, 4, 0).wait().unwrap();
        let request = read(&file, 4, 0);
        needs_no_memory("a wait", || request.wait().unwrap());
        let ran = Arc::<AtomicUsize>::default();
        let runs = ran.clone();
        let run = move |result: Result<(usize, Vec<u8>), BufError<Vec<u8>>>| {
            runs.store(result.map(|(n, _)| n).unwrap_or(0), SeqCst);
        };
        needs_no_memory("an APC", || {
            read(&file, 4, 0).queue_apc(run).unwrap();
            // The keeper may have driven the processor meanwhile: then this thread has not.
            assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
            COUNTING.set(true);
        });
        assert_eq!(ran.load(SeqCst), 4);
    });
    thread.join().unwrap();
}

/// Sizes of pages of IRPs are refused while this lives; buffers and the like are not.
struct NoPages;

impl NoPages {
    fn new() -> NoPages {
        FAILS_FROM.set(4096);
        NoPages
    }
}

impl Drop for NoPages {
    fn drop(&mut self) {
        FAILS_FROM.set(usize::MAX);
    }
}

/// IRPs in the first page of the smallest size class.
const FIRST: usize = 32;

fn bare() -> FileHandle {
    open(&stack(vec![], Bottom::default()), FD)
}

/// Takes IRPs until only `left` can be had without another page.
fn take_all_but(file: &FileHandle, left: usize) -> Vec<overlapped_iomgr::Block<Read<Vec<u8>>>> {
    (0..FIRST - left).map(|_| read(file, 1, 0).start().unwrap()).collect()
}

/// I-6: a request for which there is no IRP is refused, by each route: with the buffer, its event reset
/// (I-39), and nobody told. It can be tried again.
#[test]
fn i6_no_memory_for_the_irp() {
    let _alone = alone();
    let h = Harness::new();
    let file = bare();
    h.sim.default_step(Step::GATED);
    let held = take_all_but(&file, 0);
    let (port, tee, scope) = (CompletionPort::new(), CompletionPort::new(), IssuerScope::new());
    let other = bare();
    port.associate(&other, 1).unwrap();
    let alive = Arc::<AtomicUsize>::default();
    let event = Event::manual(true);
    let request = |file: &FileHandle| {
        event.set();
        let read = Read { buf: Counted::new(4, &alive), offset: 0 };
        Request::owned(file.clone(), read).event(&event)
    };
    type Refused = Result<(usize, Counted), BufError<Counted>>;
    let check = |refused: Refused| {
        let error = refused.map(drop).unwrap_err();
        assert_eq!(error.status(), Status::INSUFFICIENT_RESOURCES);
        drop(error.into_buf());
        assert_eq!(alive.load(SeqCst), 0);
        assert!(!event.is_set());
        for port in [&port, &tee] {
            assert_eq!((port.depth(), port.outstanding()), (0, 0));
        }
        assert_eq!(scope.live(), 0);
    };
    {
        let _short = NoPages::new();
        scope.run(|| {
            check(now(&mut request(&file)));
            check(request(&file).tee(&tee, 1).post(&port, 1).map(drop).unwrap_err());
            check(request(&other).packet(1).map(drop).unwrap_err());
            check(request(&file).tee(&tee, 1).start().map(drop).unwrap_err());
            check(request(&file).queue_apc(|_| panic!("refused")).map(drop).unwrap_err());
        });
    }
    // Later there is some.
    let mut again = request(&file);
    assert!(poll(&mut again).is_pending());
    h.sim.open_gate();
    h.turns(2);
    assert!(matches!(poll(&mut again), Poll::Ready(Ok((4, _)))));
    drop((again, held));
    drop((file, other));
    h.finish();
}

/// I-6 on a plain thread, which waits.
#[test]
fn i6_no_memory_for_a_wait() {
    let _alone = alone();
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(quiet) };
    let thread = thread::spawn(|| {
        let file = bare();
        let held = take_all_but(&file, 0);
        let event = Event::manual(true);
        {
            let _short = NoPages::new();
            let refused = read(&file, 4, 0).event(&event).wait().unwrap_err();
            assert_eq!(refused.status(), Status::INSUFFICIENT_RESOURCES);
            assert_eq!(refused.into_buf().capacity(), 4);
        }
        assert!(!event.is_set());
        assert_eq!(read(&file, 4, 0).wait().unwrap().0, 4);
        drop(held);
    });
    thread.join().unwrap();
}

/// I-6, I-25: a child for which there is no IRP fails as any other part does.
#[test]
fn i6_no_memory_for_a_child() {
    let _alone = alone();
    for (left, expected) in [(1, Err(Status::INSUFFICIENT_RESOURCES)), (3, Ok(8)), (4, Ok(12))] {
        let h = Harness::new();
        let plain = bare();
        h.sim.script(vec![Step::GATED; FIRST - left]);
        let held = take_all_but(&plain, left);
        let parts: Vec<_> = (0..3).map(|i| Part { start: i * 4, len: 4, offset: 0 }).collect();
        let splits = Filter::new("splits", move |irp, _| irp.split(&parts));
        let file = open(&stack(vec![splits], Bottom::default()), FD);
        h.sim.default_step(Step::after(1));
        let mut request = read(&file, 12, 0);
        let result = {
            let _short = NoPages::new();
            match poll(&mut request) {
                Poll::Ready(result) => result,
                Poll::Pending => {
                    h.turns(2);
                    now(&mut request)
                }
            }
        };
        assert_eq!(result.map(|(n, _)| n).map_err(|error| error.status()), expected);
        h.sim.open_gate();
        h.turns(2);
        drop((request, held));
        drop((file, plain));
        h.finish();
    }
}

/// a close cannot fail: without an IRP the driver closes with none.
#[test]
fn x33_no_memory_for_a_close() {
    let _alone = alone();
    let h = Harness::new();
    let plain = bare();
    h.sim.default_step(Step::GATED);
    let held = take_all_but(&plain, 0);
    let bottom = Bottom::default();
    let counts = bottom.counts.clone();
    let file = open(&stack(vec![], bottom), FD);
    {
        let _short = NoPages::new();
        drop(file);
    }
    assert_eq!((counts.closed.load(SeqCst), counts.closed_now.load(SeqCst)), (0, 1));
    h.sim.open_gate();
    h.turns(2);
    drop(held);
    drop(plain);
    h.finish();
}
