//! What a hostile reader found wrong in ports, events and waits, and what must not come back.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use overlapped::apc::IoThread;
use overlapped::wait::{Alertable, Event, Waited, sleep};
use overlapped::{CompletionPort, NoPacket, PortOptions, Status, WaitPacket};

/// Runs it on a thread of its own; fails when it is not done in five seconds.
fn within(what: &str, body: impl FnOnce() + Send + 'static) {
    let (send, done) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        _ = send.send(());
    });
    match done.recv_timeout(Duration::from_secs(5)) {
        Ok(()) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
        Err(_) => panic!("HANG: {what}"),
    }
}

struct Does<F: Fn() + Send + Sync>(F);
impl<F: Fn() + Send + Sync + 'static> Wake for Does<F> {
    fn wake(self: Arc<Self>) {
        (self.0)()
    }
}
fn waker(f: impl Fn() + Send + Sync + 'static) -> Waker {
    Arc::new(Does(f)).into()
}

/// `Sleeper::of` keeps the sleeper of a processor that is gone (`block_on`'s own).
#[test]
fn stale_sleeper_after_block_on() {
    within("remove after block_on", || {
        let port = CompletionPort::new();
        let runtime = overlapped::Builder::new().workers(1).build().unwrap();
        runtime.block_on(async {
            // "A timeout of zero polls, and is allowed everywhere."
            assert_eq!(port.remove(Some(Duration::ZERO)).unwrap_err(), NoPacket::TimedOut);
        });
        let poster = port.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            poster.post(1, 1, Status::SUCCESS, 0).unwrap();
        });
        port.remove(None).unwrap();
    });
}

/// The same with an event.
#[test]
fn stale_sleeper_event() {
    within("wait after block_on", || {
        let event = Event::auto(false);
        let runtime = overlapped::Builder::new().workers(1).build().unwrap();
        runtime.block_on(async { assert_eq!(event.wait(Some(Duration::ZERO)), Ok(false)) });
        let setter = event.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            setter.set();
        });
        assert_eq!(event.wait(None), Ok(true));
    });
}

/// A thread that removes inside `blocking` is counted twice; the port stands still for ever.
#[test]
fn removing_inside_blocking_counts_twice() {
    within("concurrency 1, remove inside blocking", || {
        let port = PortOptions::new().concurrency(1).create();
        for i in 0..2 {
            port.post(i, 0, Status::SUCCESS, 0).unwrap();
        }
        port.remove(None).unwrap();
        CompletionPort::blocking(|| port.remove(None).unwrap());
        // Counted twice now: at its next remove one of them goes, and there is no room.
        port.post(2, 0, Status::SUCCESS, 0).unwrap();
        port.remove(None).unwrap();
    });
}

/// The same by an APC: `wait_for` runs APCs while it still counts as blocked.
#[test]
fn removing_inside_an_apc_counts_twice() {
    within("concurrency 1, remove inside an APC", || {
        let port = PortOptions::new().concurrency(1).create();
        for i in 0..3 {
            port.post(i, 0, Status::SUCCESS, 0).unwrap();
        }
        port.remove(None).unwrap();
        let inner = port.clone();
        IoThread::current().unwrap().queue(move || _ = inner.remove(None).unwrap()).unwrap();
        assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
        port.remove(None).unwrap();
    });
}

/// A worker that polls the port with no time is counted as running for ever.
#[test]
fn a_task_that_polls_occupies_the_port() {
    within("concurrency 1, polled once in a task", || {
        let port = PortOptions::new().concurrency(1).create();
        let runtime = overlapped::Builder::new().workers(1).build().unwrap();
        let polled = port.clone();
        let task = runtime.spawn(async move { polled.remove(Some(Duration::ZERO)).is_err() });
        assert!(runtime.block_on(task).unwrap());
        port.post(1, 1, Status::SUCCESS, 0).unwrap();
        port.remove(None).unwrap();
    });
}

/// `WaitPacket::report` queues with its lock held: a waker that binds it again is stuck.
#[test]
fn wait_packet_bound_again_in_the_waker() {
    within("associate inside the waker of next()", || {
        let (event, port) = (Event::auto(false), CompletionPort::new());
        let packet = Arc::new(WaitPacket::new());
        packet.associate(&event, &port, 1, 1).unwrap();
        let (again, its_event, its_port) = (packet.clone(), event.clone(), port.clone());
        let waker = waker(move || {
            // An executor that goes on inside `wake`: takes the packet and binds anew.
            _ = again.associate(&its_event, &its_port, 2, 2);
        });
        let mut next = pin!(port.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        event.set();
    });
}

/// A cancel between the set of an event and the report of its packet: the signal has been taken for the
/// packet, so it comes, and the cancel says so.
#[test]
fn wait_packet_cancel_between_set_and_report() {
    let (event, port) = (Event::auto(false), CompletionPort::new());
    let packet = Arc::new(WaitPacket::new());
    let cancelled = Arc::new(AtomicBool::new(true));
    let (its, told) = (packet.clone(), cancelled.clone());
    let waker = waker(move || told.store(its.cancel(false), Ordering::SeqCst));
    let mut signalled = Box::pin(event.signalled());
    assert!(signalled.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    packet.associate(&event, &port, 1, 1).unwrap();
    event.set();
    assert!(!cancelled.load(Ordering::SeqCst));
    assert_eq!((port.depth(), event.is_set()), (1, false));
}

/// One waker that panics in `close` leaves the other waiters asleep.
#[test]
fn close_with_a_panicking_waker() {
    within("close, with a waker that panics", || {
        let port = CompletionPort::new();
        let waker = waker(|| panic!("a user's waker"));
        let mut next = Box::pin(port.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let waits = port.clone();
        let (send, about) = mpsc::channel();
        let thread = thread::spawn(move || {
            send.send(()).unwrap();
            waits.remove(None).unwrap_err()
        });
        about.recv().unwrap();
        thread::sleep(Duration::from_millis(200));
        let closer = port.clone();
        _ = thread::spawn(move || closer.close()).join();
        assert_eq!(thread.join().unwrap(), NoPacket::Closed);
    });
}

/// One waker that panics in `set` takes the news from the others.
#[test]
fn set_with_a_panicking_waker() {
    let event = Event::manual(false);
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let (bad, good) = (
        waker(|| panic!("a user's waker")),
        waker(move || _ = count.fetch_add(1, Ordering::SeqCst)),
    );
    let (mut a, mut b) = (Box::pin(event.signalled()), Box::pin(event.signalled()));
    assert!(a.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
    assert!(b.as_mut().poll(&mut Context::from_waker(&good)).is_pending());
    let setter = event.clone();
    _ = thread::spawn(move || setter.set()).join();
    assert_eq!(woken.load(Ordering::SeqCst), 1, "LOST: the second task was never woken");
}
