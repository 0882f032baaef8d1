//! Completion ports (C-5 to C-32) and the synchronous route (C-1), from plain threads.

#![cfg(not(loom))]

mod support;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::{CompletionPort, FileHandle, On, Request, Status};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// Runs on a plain thread of its own, which gets a processor when it first needs one, and loses it
/// when it ends.
fn plain_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    thread::spawn(run).join().unwrap()
}

/// C-14, C-15: packets are FIFO, whatever their kind and however many; the depth counts those nobody
/// has taken.
#[test]
fn c14_fifo() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = CompletionPort::new();
    for key in 0..300 {
        match key % 3 {
            0 => port.post(key, key * 10, Status::BUFFER_OVERFLOW, 77).unwrap(),
            1 => drop(read(&file, 4, 0).post(&port, key).unwrap()),
            _ => {
                h.sim.script([Step::after(1)]);
                read(&file, 4, 0).post(&port, key).unwrap();
                h.turn();
            }
        }
    }
    assert_eq!(port.clone().depth(), 300);
    assert_eq!(format!("{port:?}"), "CompletionPort { depth: 300 }");
    for key in 0..300 {
        let mut packet = port.remove(ZERO).unwrap();
        assert_eq!(packet.key(), key);
        if key % 3 == 0 {
            let seen = (packet.value(), packet.status(), packet.info());
            assert_eq!(seen, (key * 10, Status::BUFFER_OVERFLOW, 77));
            assert!(packet.take::<Vec<u8>>().is_none());
        } else {
            assert_eq!((packet.value(), packet.info()), (0, 4));
            assert_eq!(packet.take::<Vec<u8>>().unwrap().capacity(), 4);
        }
    }
    assert_eq!(port.depth(), 0);
    drop((file, port));
    h.finish();
}

/// Two requests in flight report in the order of their completion.
#[test]
fn c14_order_is_that_of_completion() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = CompletionPort::new();
    h.sim.script([Step::after(3), Step::after(1), Step::after(2)]);
    for key in 0..3 {
        read(&file, 4, 0).post(&port, key).unwrap();
    }
    h.turns(3);
    let mut packets = Vec::new();
    let _ = port.remove_many(&mut packets, 9, ZERO);
    assert_eq!(packets.iter().map(|p| p.key()).collect::<Vec<_>>(), [1, 2, 0]);
    packets.clear();
    drop((file, port));
    h.finish();
}

/// The depth is one that was, also while others post and take.
#[test]
fn depth_beside_others() {
    let (port, ends) = (CompletionPort::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for key in 0..200_000 {
                port.post(key, 0, Status::SUCCESS, 0).unwrap();
                assert_eq!(port.remove(ZERO).unwrap().key(), key);
            }
            ends.store(true, SeqCst);
        });
        while !ends.load(SeqCst) {
            assert!(port.depth() <= 1);
        }
    });
}

/// C-26: up to so many, oldest first, appended; none is lost.
#[test]
fn c26_remove_many() {
    let port = CompletionPort::new();
    let mut packets = Vec::new();
    assert_eq!(port.remove_many(&mut packets, 0, None), Ok(0), "nothing to wait for");
    (0..10).for_each(|key| port.post(key, 0, Status::SUCCESS, 0).unwrap());
    assert_eq!(port.remove_many(&mut packets, 0, None), Ok(0));
    assert_eq!(port.remove_many(&mut packets, 3, None), Ok(3));
    assert_eq!(port.remove_many(&mut packets, 4, ZERO), Ok(4));
    assert_eq!(port.remove_many(&mut packets, usize::MAX, ZERO), Ok(3));
    assert!(port.remove_many(&mut packets, 1, ZERO).is_err());
    assert_eq!(packets.iter().map(|p| p.key()).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}

/// C-25: a timeout ends the wait with nothing, and nothing is registered afterwards.
#[test]
fn c25_timeouts() {
    plain_thread(|| {
        let port = CompletionPort::new();
        assert!(port.remove(ZERO).is_err());
        for _ in 0..3 {
            assert!(port.remove(Some(Duration::from_millis(1))).is_err());
        }
        port.post(1, 0, Status::SUCCESS, 0).unwrap();
        assert_eq!(port.remove(Some(Duration::MAX)).unwrap().key(), 1);
        assert!(port.remove(ZERO).is_err());
    });
}

/// C-30: packets die with the port, and their buffers with them; also those that come later.
#[test]
fn c30_packets_die_with_the_port() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let alive = Arc::<AtomicUsize>::default();
    let request = || Request::new(&file, Read { buf: Counted::new(4, &alive), offset: 0 });
    let port = CompletionPort::new();
    for _ in 0..3 {
        request().post(&port, 0).ok().unwrap();
        h.sim.script([Step::after(1)]);
        request().post(&port, 0).ok().unwrap();
    }
    assert_eq!((port.depth(), alive.load(SeqCst)), (3, 6));
    drop(port);
    assert_eq!(alive.load(SeqCst), 3, "what is in flight goes on");
    h.turn();
    assert_eq!(alive.load(SeqCst), 0);
    // On another thread.
    let port = CompletionPort::new();
    request().post(&port, 0).ok().unwrap();
    thread::spawn(move || drop(port)).join().unwrap();
    assert_eq!(alive.load(SeqCst), 0);
    drop(file);
    h.finish();
}

/// `into_output` with the wrong operation panics, and the packet's memory is not lost.
#[test]
fn wrong_types() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = CompletionPort::new();
    read(&file, 4, 0).post(&port, 0).unwrap();
    port.post(0, 0, Status::SUCCESS, 0).unwrap();
    for _ in 0..2 {
        let packet = port.remove(ZERO).unwrap();
        let take = std::panic::AssertUnwindSafe(|| packet.into_output::<Read<Counted>>());
        assert!(std::panic::catch_unwind(take).is_err());
    }
    drop((file, port));
    h.finish();
}

/// C-1: plain threads wait; the result comes back on their own stack.
#[test]
fn c1_wait_on_plain_threads() {
    let threads: Vec<_> = (0..4u64)
        .map(|n| {
            // SAFETY: nothing in it minds which thread drives it.
            unsafe { set_hardware_factory(hardware_after::<2>) };
            thread::spawn(move || {
                let counts = Arc::<BottomCounts>::default();
                let bottom = Bottom { counts: counts.clone(), ..Bottom::default() };
                let file = open(&stack(vec![], bottom), FD);
                for i in 0..if cfg!(miri) { 5 } else { 100 } {
                    let (k, buf) = read(&file, 4, n + i).wait().unwrap();
                    assert_eq!((k, buf[0]), (4, (n + i) as u8));
                }
                assert_eq!(write(&file, b"abc", 0).wait().unwrap().0, 3);
                assert_eq!(read(&file, 3, 0).wait().unwrap().1, b"abc");
                drop(file);
                counts
            })
        })
        .collect();
    for thread in threads {
        let counts = thread.join().unwrap();
        assert_eq!((counts.closed.load(SeqCst), counts.closed_now.load(SeqCst)), (1, 0));
    }
}

/// A thread that posts and removes drives its own requests; a deadline works there as well.
#[test]
fn plain_threads_and_ports() {
    plain_thread(|| {
        let file = open(&stack(vec![], Bottom::default()), FD);
        let port = CompletionPort::new();
        for key in 0..10 {
            read(&file, 1, key).post(&port, key).unwrap();
        }
        for key in 0..10 {
            let packet = port.remove(None).unwrap();
            assert_eq!(packet.key(), key);
            assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap(), (1, vec![key as u8]));
        }
    });
    plain_thread(|| {
        let never = Filter::new("never", {
            let queue = overlapped_iomgr::CancelSafeQueue::new();
            move |irp, _| irp.park(&queue)
        });
        let file = open(&stack(vec![never], Bottom::default()), FD);
        let error = read(&file, 4, 0).deadline(Duration::from_millis(2)).wait().unwrap_err();
        assert_eq!(error.status(), Status::IO_TIMEOUT);
        // what the thread leaves behind is cancelled when it ends.
        let port = CompletionPort::new();
        read(&file, 4, 0).post(&port, 0).unwrap();
        assert_eq!(port.depth(), 0);
    });
}

/// C-20: packets wake threads that sleep in a remove; every packet is taken exactly once.
#[test]
fn c20_several_threads() {
    const PACKETS: u64 = if cfg!(miri) { 40 } else { 2_000 };
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let port = CompletionPort::new();
    let done = Arc::new(AtomicBool::new(false));
    let takers: Vec<_> = (0..3)
        .map(|n| {
            let (port, done) = (port.clone(), done.clone());
            thread::spawn(move || {
                let mut keys = Vec::new();
                let mut many = Vec::new();
                while !(done.load(SeqCst) && port.depth() == 0) {
                    if n == 0 {
                        let _ = port.remove_many(&mut many, 8, Some(Duration::from_millis(20)));
                        keys.extend(many.drain(..).map(|p| p.key()));
                    } else {
                        keys.extend(port.remove(Some(Duration::from_millis(20))).map(|p| p.key()));
                    }
                }
                keys
            })
        })
        .collect();
    let issuers: Vec<_> = (0..2)
        .map(|n| {
            let port = port.clone();
            thread::spawn(move || {
                let file = open(&stack(vec![], Bottom::default()), FD);
                for i in 0..PACKETS / 4 {
                    let key = n + 4 * i;
                    read(&file, 4, 0).post(&port, key).unwrap();
                    port.post(key + 2, 0, Status::SUCCESS, 0).unwrap();
                    // Drives what was posted.
                    read(&file, 4, 0).wait().unwrap();
                }
            })
        })
        .collect();
    issuers.into_iter().for_each(|i| i.join().unwrap());
    done.store(true, SeqCst);
    let keys: Vec<u64> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
    assert_eq!(keys.len(), PACKETS as usize);
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), PACKETS as usize);
}

/// A thread that waits without a timeout is woken by a packet of another thread's.
#[test]
fn c20_wakes_a_sleeper() {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let port = CompletionPort::new();
    let (send, receive) = mpsc::channel();
    let theirs = port.clone();
    let sleeper = thread::spawn(move || {
        while let Ok(packet) = theirs.remove(None)
            && packet.key() < 100
        {
            send.send(packet.key()).unwrap();
        }
    });
    for key in 0..100 {
        port.post(key, 0, Status::SUCCESS, 0).unwrap();
        assert_eq!(receive.recv().unwrap(), key);
    }
    port.post(100, 0, Status::SUCCESS, 0).unwrap();
    sleeper.join().unwrap();
}

/// A packet of a processor that is gone can still be read.
#[test]
fn packets_outlive_their_thread() {
    let port = CompletionPort::new();
    let theirs = port.clone();
    plain_thread(move || {
        let file = open(&stack(vec![], Bottom::default()), FD);
        read(&file, 4, 9).post(&theirs, 1).unwrap();
        // Left in flight.
        read(&file, 4, 9).wait().unwrap();
        read(&file, 4, 9).post(&theirs, 2).unwrap();
    });
    assert_eq!(port.depth(), 2);
    let first = port.remove(ZERO).unwrap().into_output::<Read<Vec<u8>>>();
    assert_eq!(first.unwrap(), (4, vec![9, 10, 11, 12]));
    let second = port.remove(ZERO).unwrap().into_output::<Read<Vec<u8>>>();
    assert_eq!(second.unwrap_err().status(), Status::CANCELLED);
}

/// WOULD_DEADLOCK: on a loop's thread, and inside a completion routine.
#[test]
fn would_deadlock() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let error = read(&file, 4, 0).wait().unwrap_err();
    assert_eq!((error.status(), error.buf().capacity()), (Status::WOULD_DEADLOCK, 4));
    assert!(CompletionPort::new().remove(None).is_err(), "never waits here");
    assert_eq!(h.sim.submits(), 0);
    drop(file);
    h.finish();

    plain_thread(|| {
        let kept: Arc<Mutex<Option<FileHandle>>> = Arc::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (keep, see) = (kept.clone(), seen.clone());
        let filter =
            Filter::new("waits", |irp, lower| lower.forward(irp, On::ALL)).completed(move |irp| {
                if let Some(file) = keep.lock().unwrap().take() {
                    see.lock().unwrap().push(read(&file, 4, 0).wait().unwrap_err().status());
                    assert!(CompletionPort::new().remove(None).is_err());
                }
                irp.proceed()
            });
        let file = open(&stack(vec![filter], Bottom::default()), FD);
        *kept.lock().unwrap() = Some(file.clone());
        read(&file, 4, 0).wait().unwrap();
        assert_eq!(*seen.lock().unwrap(), [Status::WOULD_DEADLOCK]);
    });
}

/// C-42: a future is polled on a plain thread; the keeper drives its request.
#[test]
fn c42_a_future_on_a_plain_thread() {
    // SAFETY: as above.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let (n, buffer) = plain_thread(|| {
        let file = open(&stack(vec![], Bottom::default()), FD);
        block_on_elsewhere(read(&file, 4, 3)).unwrap()
    });
    assert_eq!((n, &buffer[..]), (4, &[3, 4, 5, 6][..]));
}

/// An executor that knows nothing of processors.
fn block_on_elsewhere<F: Future + Unpin>(mut future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// C-6: a request has one route: one that has been polled can neither be waited for nor posted.
#[test]
fn c6_one_route() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    for posts in [false, true] {
        h.sim.script([Step::after(1)]);
        let mut request = read(&file, 4, 0);
        assert!(poll(&mut request).is_pending());
        let reroute = std::panic::AssertUnwindSafe(|| {
            if posts {
                let _ = request.post(&CompletionPort::new(), 0);
            } else {
                let _ = request.wait();
            }
        });
        assert!(std::panic::catch_unwind(reroute).is_err());
        h.turns(2);
        assert_eq!(h.processor.live(), 0, "nothing is lost by it");
    }
    drop(file);
    h.finish();
}

/// A file used by several processors at once is closed once, at home.
#[test]
fn files_across_processors() {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let h = Harness::new();
    let counts = Arc::<BottomCounts>::default();
    let bottom = Bottom { counts: counts.clone(), ..Bottom::default() };
    let file = open(&stack(vec![], bottom), FD);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let file = file.clone();
            thread::spawn(move || {
                for i in 0..if cfg!(miri) { 10 } else { 200 } {
                    assert_eq!(read(&file, 1, i).wait().unwrap().1, [i as u8]);
                }
            })
        })
        .collect();
    drop(file);
    for thread in threads {
        while !thread.is_finished() {
            h.turn();
        }
        thread.join().unwrap();
    }
    h.turns(2);
    assert_eq!((counts.closed.load(SeqCst), counts.closed_now.load(SeqCst)), (1, 0));
    h.finish();
}
