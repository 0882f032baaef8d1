//! What a hostile reader found wrong in the ends of ports and threads, and what must not come back.

use std::future::Future;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use overlapped::apc::IoThread;
use overlapped::net::TcpStream;
use overlapped::wait::{Alertable, wait_any};
use overlapped::{CompletionPort, PortOptions, Status};

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

/// A closed port never satisfies a wait for it as an object: `signal()` and `show` reset it.
#[test]
fn waiting_for_a_closed_port() {
    within("wait_any for a port that is closed", || {
        let port = CompletionPort::new();
        port.close();
        wait_any(&[&port], None, Alertable::No).unwrap();
    });
}

/// Second waiter arrives in between: resets what `close` has set.
#[test]
fn closed_port_reset_by_another_look() {
    let port = CompletionPort::new();
    assert!(wait_any(&[&port], Some(Duration::from_millis(1)), Alertable::No).is_ok());
    port.close();
    let first = wait_any(&[&port], Some(Duration::from_millis(50)), Alertable::No).unwrap();
    assert_eq!(
        first,
        overlapped::wait::Waited::Object(0),
        "close has set it, the wait's own look resets it"
    );
}

/// A waker that polls the port, run by the keeper: the keeper thread counts as running there for ever.
#[test]
fn keeper_occupies_the_port() {
    within("concurrency 1, polled in a waker that the keeper runs", || {
        let port = PortOptions::new().concurrency(1).create();
        let (ours, mut theirs) = pair();
        let polled = port.clone();
        let waker = waker(move || _ = polled.remove(Some(Duration::ZERO)));
        let mut request = ours.read_lease();
        assert!(Pin::new(&mut request).poll(&mut Context::from_waker(&waker)).is_pending());
        thread::sleep(Duration::from_millis(200));
        theirs.write_all(b"x").unwrap();
        thread::sleep(Duration::from_millis(200));
        port.post(1, 1, Status::SUCCESS, 0).unwrap();
        port.remove(None).unwrap();
    });
}

#[derive(Debug)]
struct Bad(Vec<u8>);
impl Drop for Bad {
    fn drop(&mut self) {
        panic!("a user's buffer")
    }
}
// SAFETY: a vector's memory, which stays where it is.
unsafe impl overlapped::buf::IoBuf for Bad {
    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}
// SAFETY: as above.
unsafe impl overlapped::buf::IoBufMut for Bad {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        self.0.capacity()
    }
    unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the same contract.
        unsafe { self.0.set_len(len) }
    }
}

/// A buffer whose drop panics, in a packet that comes to a closed port: kills the keeper.
#[test]
fn keeper_killed_by_a_buffer() {
    within("requests of plain threads after a buffer's drop has panicked", || {
        let (ours, mut theirs) = pair();
        let port = CompletionPort::new();
        ours.read(Bad(Vec::with_capacity(8))).post(&port, 1).unwrap();
        port.close();
        thread::sleep(Duration::from_millis(200));
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

/// An APC that has not run, and whose drop panics, ends the process when its thread ends.
#[test]
fn apc_dropped_at_thread_exit_aborts() {
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("a user's capture")
        }
    }
    let loud = Loud;
    let thread = thread::spawn(move || {
        IoThread::current().unwrap().queue(move || std::mem::forget(loud)).unwrap();
    });
    _ = thread.join();
}
