//! What a hostile reader found wrong in the keeper of plain threads, and what must not come back.

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use overlapped::net::TcpStream;
use overlapped::wait::Event;
use overlapped::{CompletionPort, NoPacket};

fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

fn within(what: &str, body: impl FnOnce() + Send + 'static) {
    let (send, done) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        _ = send.send(());
    });
    match done.recv_timeout(Duration::from_secs(5)) {
        Ok(()) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
        Err(_) => {
            eprintln!("HANG: {what}");
            std::process::abort()
        }
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

/// As every executor that is not ours.
fn park_on<F: Future + Unpin>(mut future: F) -> F::Output {
    let me = thread::current();
    let waker = waker(move || me.unpark());
    loop {
        if let Poll::Ready(out) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return out;
        }
        thread::park();
    }
}

/// A waker of an event that panics kills the keeper: no request of any plain thread goes on after it.
#[test]
fn keeper_killed_by_a_waker() {
    within("requests of plain threads after a waker of an event has panicked", || {
        let (ours, mut theirs) = pair();
        let event = Event::manual(false);
        let bad = waker(|| panic!("a user's waker"));
        let mut signalled = Box::pin(event.signalled());
        assert!(signalled.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
        let block = ours.read_lease().signal(&event).unwrap();
        thread::sleep(Duration::from_millis(300));
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(300));
        drop(block);
        // Somebody else.
        thread::spawn(|| {
            let (ours, mut theirs) = pair();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                theirs.write_all(b"y").unwrap();
                thread::sleep(Duration::from_secs(60));
            });
            park_on(ours.read_lease()).unwrap();
        })
        .join()
        .unwrap();
    });
}

/// The same by a task's waker at a port (`next`).
#[test]
fn keeper_killed_by_a_waker_at_a_port() {
    within("requests of plain threads after a waker of a port has panicked", || {
        let (ours, mut theirs) = pair();
        let port = CompletionPort::new();
        let bad = waker(|| panic!("a user's waker"));
        let mut next = Box::pin(port.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
        ours.read_lease().post(&port, 1).unwrap();
        thread::sleep(Duration::from_millis(300));
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(300));
        thread::spawn(|| {
            let (ours, mut theirs) = pair();
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(300));
                theirs.write_all(b"y").unwrap();
                thread::sleep(Duration::from_secs(60));
            });
            park_on(ours.read_lease()).unwrap();
        })
        .join()
        .unwrap();
    });
}

/// It takes the other completions of the same turn with it: they never come.
#[test]
fn completions_of_the_same_turn_are_lost() {
    within("other completions of a turn that a waker's panic has left", || {
        let pairs: Vec<_> = (0..8).map(|_| pair()).collect();
        let port = CompletionPort::new();
        let event = Event::manual(false);
        let bad = waker(|| panic!("a user's waker"));
        let mut signalled = Box::pin(event.signalled());
        assert!(signalled.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
        for (i, (ours, _)) in pairs.iter().enumerate() {
            let request = ours.read_lease();
            let request = if i == 0 { request.event(&event) } else { request };
            // Not looked after by the keeper while the thread is inside.
            request.post(&port, i as u64).unwrap();
        }
        let held: Vec<_> = pairs.iter().map(|(_, theirs)| theirs.try_clone().unwrap()).collect();
        let writer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            for mut theirs in held {
                theirs.write_all(b"x").unwrap();
            }
        });
        let mut keys = Vec::new();
        let end = Instant::now() + Duration::from_secs(3);
        while keys.len() < 8 && Instant::now() < end {
            let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                port.remove(Some(Duration::from_millis(500)))
            }));
            match taken {
                Ok(Ok(packet)) => keys.push(packet.key()),
                Ok(Err(NoPacket::TimedOut)) | Err(_) => {}
                Ok(Err(other)) => panic!("{other:?}"),
            }
        }
        writer.join().unwrap();
        keys.sort();
        println!("packets of {keys:?}; outstanding {}, depth {}", port.outstanding(), port.depth());
        assert_eq!(keys.len(), 8, "LOST: packets never came");
    });
}

/// User code runs on the keeper with the processor's lock: a waker and a thread with a common lock stand still.
#[test]
fn lock_of_the_user_against_the_processors() {
    within("a waker that takes a lock, and its thread that looks with the lock held", || {
        let (ours, mut theirs) = pair();
        let (other, _other) = pair();
        let lock = Arc::new(Mutex::new(()));
        let its = lock.clone();
        let waker = waker(move || drop(its.lock()));
        let mut request = ours.read_lease();
        assert!(Pin::new(&mut request).poll(&mut Context::from_waker(&waker)).is_pending());
        let block = other.read_lease().start().unwrap();
        thread::sleep(Duration::from_millis(200));
        let held = lock.lock().unwrap();
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(!block.is_done());
        drop(held);
    });
}
