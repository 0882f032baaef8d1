//! What a hostile reader of the core has found: each test fails without its mend.

mod support;

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use overlapped::net::{TcpListener, TcpStream};
use overlapped::operation::Read;
use overlapped::sim::Simulation;
use overlapped::wait::{self, Event};
use overlapped::{Block, CompletionPort, NoPacket, PortOptions, Status, WaitPacket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{alone, backends, local, multi, until_blocking};

fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

/// The same, whose home is another processor of this thread, and gone.
fn pair_of(backend: overlapped::Backend) -> (TcpStream, StdStream) {
    local(backend).block_on(async { pair() })
}

/// A waker that takes a request's result, and at once uses its memory for another request.
struct Again {
    stream: TcpStream,
    port: CompletionPort,
    block: Mutex<Option<Block<Read<Vec<u8>>>>>,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        let block = self.block.lock().unwrap().take();
        if let Some(block) = block {
            let (n, bytes) = block.take().expect("its event is set").unwrap();
            assert_eq!(&bytes[..n], b"first");
            self.stream.read(Vec::<u8>::with_capacity(16)).post(&self.port, 7).unwrap();
        }
    }
}

/// I-28, C-8: who hears by an event of a result may take it while the others are told.
#[test]
fn a_waker_of_an_event_may_use_the_requests_memory_anew() {
    alone("a_waker_of_an_event_may_use_the_requests_memory_anew", |_| {
        let port = CompletionPort::new();
        let (ours, mut theirs) = pair();
        let event = Event::manual(false);
        let block = ours.read(Vec::<u8>::with_capacity(16)).signal(&event).unwrap();
        let again =
            Arc::new(Again { stream: ours, port: port.clone(), block: Mutex::new(Some(block)) });
        let waker = Waker::from(again.clone());
        let mut signalled = Box::pin(event.signalled());
        assert!(signalled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        theirs.write_all(b"first").unwrap();
        // This thread's turn has the result, and wakes.
        let early = port.remove(Some(Duration::from_millis(300)));
        assert!(again.block.lock().unwrap().is_none(), "it was woken");
        assert!(matches!(early, Err(NoPacket::TimedOut)), "{early:?}");
        theirs.write_all(b"second").unwrap();
        let (n, bytes) = port.remove(None).unwrap().into_output::<Read<Vec<u8>>>().unwrap();
        assert_eq!(&bytes[..n], b"second");
    });
}

/// a thread may end while the keeper has its processor.
#[test]
fn a_thread_ends_while_the_keeper_is_at_work() {
    alone("a_thread_ends_while_the_keeper_is_at_work", |_| {
        let port = CompletionPort::new();
        let (ours, mut theirs) = pair();
        let (other, _theirs) = pair();
        for round in 0..2000u64 {
            thread::scope(|scope| {
                scope.spawn(|| {
                    ours.read(Vec::<u8>::with_capacity(1)).post(&port, round).unwrap();
                    // Issued by a future, it has the keeper come at once.
                    let mut read = Box::pin(other.read(Vec::<u8>::with_capacity(1)));
                    let mut cx = Context::from_waker(Waker::noop());
                    assert!(read.as_mut().poll(&mut cx).is_pending());
                    for _ in 0..round % 100 * 100 {
                        std::hint::spin_loop();
                    }
                    std::mem::forget(read);
                });
            });
            theirs.write_all(b"x").unwrap();
            let packet = port.remove(None).unwrap();
            assert!(packet.status().is_success(), "round {round}: {packet:?}");
        }
    });
}

/// A `block_on` that panics, because it is inside another, leaves that one as it was.
#[test]
fn a_nested_block_on_that_panics_changes_nothing() {
    for backend in backends() {
        let runtime = local(backend);
        runtime.block_on(async {
            let nested = catch_unwind(AssertUnwindSafe(|| runtime.block_on(async {})));
            assert!(nested.is_err());
            assert_eq!(overlapped::spawn_local(async { 7 }).await.unwrap(), 7);
        });
    }
}

/// A simulation that panics, because it is inside another, leaves that one as it was.
#[test]
fn a_nested_simulation_that_panics_changes_nothing() {
    let (left, report) = Simulation::new(1).run(async {
        overlapped::fs::write("/tmp/f", "outer").await.unwrap();
        let file = overlapped::fs::File::open("/tmp/f").await.unwrap();
        let nested = catch_unwind(|| Simulation::new(2).run(async {}));
        assert!(nested.is_err());
        let listener = TcpListener::bind("10.0.0.1:80").await.unwrap();
        drop(TcpStream::connect("10.0.0.1:80").await.unwrap());
        drop(listener);
        let bytes = file.read_at(Vec::<u8>::with_capacity(5), 0).await.unwrap().1;
        drop(file);
        assert_eq!(overlapped::fs::read("/tmp/f").await.unwrap(), bytes);
        bytes
    });
    assert_eq!(left, b"outer");
    assert!(report.left.is_nothing(), "{}", report.left);
    assert!(Simulation::new(3).run(async {}).1.left.is_nothing());
}

/// What a panic says may panic too, when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("a panic's payload panics");
        }
    }
}

/// A future that leaves a bomb when it is dropped.
struct LeavesBomb;

impl Drop for LeavesBomb {
    fn drop(&mut self) {
        panic_any(Bomb);
    }
}

/// A waker that does.
struct WakesBomb;

impl Wake for WakesBomb {
    fn wake(self: Arc<Self>) {
        panic_any(Bomb);
    }
}

/// A panic of a future, a buffer or a waker reaches nobody else, whatever it carries.
#[test]
fn panics_whose_payloads_panic_reach_nobody_else() {
    for backend in backends() {
        let _watch = support::watch(format!("bombs on {backend}"));
        let runtime = multi(backend, 1);
        let task = runtime.spawn(async {
            let bomb = LeavesBomb;
            overlapped::yield_now().await;
            std::mem::forget(bomb);
            7
        });
        assert_eq!(runtime.block_on(task).unwrap(), 7);
        let (started, has_started) = std::sync::mpsc::channel();
        let task = runtime.spawn(async move {
            let _bomb = LeavesBomb;
            started.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        has_started.recv().unwrap();
        task.abort();
        assert!(runtime.block_on(task).unwrap_err().is_cancelled());
        // The worker goes on.
        assert_eq!(runtime.block_on(runtime.spawn(async { 8 })).unwrap(), 8);

        let (done, task) = runtime.block_on(async {
            let (ours, mut theirs) = pair();
            let (other, mut others) = pair();
            let (event, done) = (Event::manual(false), Event::manual(false));
            let block = ours.read(Vec::<u8>::with_capacity(16)).signal(&event).unwrap();
            let mut signalled = Box::pin(event.signalled());
            let bomb = Waker::from(Arc::new(WakesBomb));
            assert!(signalled.as_mut().poll(&mut Context::from_waker(&bomb)).is_pending());
            let task = overlapped::spawn(async move { other.read(vec![0; 16]).await.unwrap().0 });
            overlapped::yield_now().await;
            theirs.write_all(b"first").unwrap();
            others.write_all(b"second").unwrap();
            event.signalled().await;
            assert!(block.is_done());
            (done, task.await.unwrap())
        });
        assert_eq!(task, 6);
        drop(done);
    }
}

/// S-19: who asks for counts gets an answer, though one processor has no time for it, and others come
/// and go.
#[test]
fn counts_are_had_while_threads_come_and_go() {
    let _watch = support::watch("counts");
    let runtime = multi(backends()[0], 1);
    let over = Arc::new(AtomicBool::new(false));
    let (busy, is_busy) = std::sync::mpsc::channel();
    let task = runtime.spawn({
        let over = over.clone();
        async move {
            busy.send(()).unwrap();
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    is_busy.recv().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let event = Event::manual(false);
                let wait = move || event.wait(Some(Duration::from_micros(1)));
                assert_eq!(thread::spawn(wait).join().unwrap(), Ok(false));
            }
        });
        for _ in 0..3 {
            let counts = overlapped::driver_counts(Duration::from_millis(50));
            assert_eq!(counts.silent.len(), 1, "{:?}", counts.silent);
        }
        over.store(true, Ordering::Relaxed);
    });
    runtime.block_on(task).unwrap();
    // For ever, if need be.
    assert!(overlapped::driver_counts(Duration::MAX).silent.is_empty());
    assert!(overlapped::live_requests(Duration::MAX).silent.is_empty());
}

/// A waker whose drop takes a lock.
struct Locks(Arc<Mutex<()>>);

impl Wake for Locks {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Locks {
    fn drop(&mut self) {
        drop(self.0.lock());
    }
}

/// The keeper drops what a request carries, as it wakes, without the processor: a thread may hold the
/// lock that this wants, and want its processor.
#[test]
fn what_the_keeper_drops_may_want_what_the_thread_has() {
    alone("what_the_keeper_drops_may_want_what_the_thread_has", |_| {
        let (ours, _theirs) = pair();
        let lock = Arc::new(Mutex::new(()));
        let mut read = Box::pin(ours.read(Vec::<u8>::with_capacity(16)));
        let waker = Waker::from(Arc::new(Locks(lock.clone())));
        assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(waker);
        let held = lock.lock();
        // It is cancelled, and ends while this thread is away.
        drop(read);
        thread::sleep(Duration::from_millis(100));
        let mut other = Box::pin(ours.read(Vec::<u8>::with_capacity(16)));
        assert!(other.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(held);
        // The lock is wanted, and had, later.
        until_blocking(|| Arc::strong_count(&lock) == 1);
    });
}

/// C-8, C-14: however a port is used, each packet that was posted is taken once.
#[test]
fn no_packet_is_lost_or_doubled_whoever_takes_it() {
    const POSTERS: u64 = 2;
    const EACH: u64 = 6000;
    // Once somebody has waited for the port as an object, no packet goes through its inbox.
    for (concurrency, watched) in [(0, false), (0, true), (1, false), (1, true)] {
        let _watch = support::watch(format!("concurrency {concurrency}"));
        let mut options = PortOptions::new().limit(64);
        if concurrency > 0 {
            options = options.concurrency(concurrency);
        }
        let port = options.create();
        let taken = AtomicU64::new(0);
        let seen: Vec<AtomicBool> = (0..POSTERS * EACH).map(|_| AtomicBool::new(false)).collect();
        let take = |packet: overlapped::Packet| {
            if packet.key() == 1 {
                assert!(!seen[packet.value() as usize].swap(true, Ordering::Relaxed));
                taken.fetch_add(1, Ordering::SeqCst);
            }
        };
        let done = || taken.load(Ordering::SeqCst) == POSTERS * EACH;
        thread::scope(|scope| {
            for poster in 0..POSTERS {
                let port = &port;
                scope.spawn(move || {
                    for i in 0..EACH {
                        while port.post(1, poster * EACH + i, Status::SUCCESS, 0).is_err() {
                            thread::yield_now();
                        }
                    }
                });
            }
            scope.spawn(|| {
                let (event, packet) = (Event::auto(false), WaitPacket::new());
                while !done() {
                    let _ = packet.associate(&event, &port, 2, 0);
                    event.set();
                    packet.cancel(true);
                    let _ = packet.associate(&event, &port, 2, 1);
                    packet.cancel(false);
                }
            });
            for taker in 0..3u64 {
                let (port, take, done) = (&port, &take, &done);
                scope.spawn(move || {
                    let mut random = support::Random(taker);
                    let mut many = Vec::new();
                    while !done() {
                        let soon = Some(Duration::from_micros(random.below(60)));
                        match random.below(6) {
                            0 => _ = port.remove_many(&mut many, 5, soon),
                            1 => _ = port.remove(soon).map(take),
                            2 => {
                                let mut next = port.next();
                                if let Poll::Ready(packet) = support::poll_once(&mut next) {
                                    take(packet.unwrap());
                                } else {
                                    thread::yield_now();
                                    if let Poll::Ready(packet) = support::poll_once(&mut next) {
                                        take(packet.unwrap());
                                    }
                                }
                            }
                            3 => _ = support::poll_once(&mut port.next()).map(|p| take(p.unwrap())),
                            4 if watched => _ = wait::wait_any(&[port], soon, wait::Alertable::No),
                            _ => CompletionPort::blocking(thread::yield_now),
                        }
                        many.drain(..).for_each(take);
                    }
                });
            }
        });
        while let Ok(packet) = port.remove(Some(Duration::ZERO)) {
            assert_eq!(packet.key(), 2);
        }
        assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed)));
        assert_eq!((port.depth(), port.outstanding()), (0, 0));
    }
}

/// A receive that is cancelled just when its turn has come lets the next one have it.
#[test]
fn a_receive_cancelled_in_its_turn_passes_it_on() {
    for backend in backends() {
        let _watch = support::watch(format!("receives on {backend}"));
        let (ours, mut theirs) = pair_of(backend);
        let (meet, ours) = (Barrier::new(2), &ours);
        thread::scope(|scope| {
            scope.spawn(|| {
                local(backend).block_on(async {
                    meet.wait();
                    let mut second = Box::pin(ours.read(Vec::<u8>::with_capacity(8)));
                    assert!(support::poll_once(&mut second).is_pending());
                    meet.wait();
                    // Meanwhile its turn comes: that waits in this processor's mail.
                    meet.wait();
                    drop(second);
                    overlapped::time::sleep(Duration::from_millis(20)).await;
                });
                meet.wait();
            });
            local(backend).block_on(async {
                let mut first = Box::pin(ours.read(Vec::<u8>::with_capacity(8)));
                assert!(support::poll_once(&mut first).is_pending());
                meet.wait();
                meet.wait();
                let mut third = Box::pin(ours.read(Vec::<u8>::with_capacity(8)));
                assert!(support::poll_once(&mut third).is_pending());
                theirs.write_all(b"1").unwrap();
                assert_eq!(first.await.unwrap(), (1, b"1".to_vec()));
                meet.wait();
                meet.wait();
                theirs.write_all(b"3").unwrap();
                assert_eq!(third.await.unwrap(), (1, b"3".to_vec()));
            });
        });
    }
}

/// What is spawned on a local runtime from elsewhere while it ends is cancelled, and says so.
#[test]
fn what_is_spawned_while_a_local_runtime_ends_has_an_end() {
    let _watch = support::watch("spawns");
    for round in 0..100 {
        let runtime = local(backends()[round % backends().len()]);
        let ended = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                let (handle, ended) = (runtime.handle(), &ended);
                scope.spawn(move || {
                    let mut tasks = Vec::new();
                    while !ended.load(Ordering::Relaxed) {
                        tasks.push(handle.spawn(async {}));
                    }
                    until_blocking(|| tasks.iter().all(|task| task.is_finished()));
                });
            }
            runtime.block_on(overlapped::time::sleep(Duration::from_millis(1)));
            drop(runtime);
            ended.store(true, Ordering::Relaxed);
        });
    }
}
