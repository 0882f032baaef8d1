//! Ports, events and sleeping threads, explored by loom: every packet reaches exactly one taker, no
//! news is slept through, and threads are counted right.
//!
//! The models run the real [`CompletionPort`], [`Event`], [`Word`], [`Told`], [`Mailbox`] and [`State`]. Threads
//! have no processors here: those that wait park.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p overlapped-iomgr --test loom_ports --release`

#![cfg(loom)]

#[path = "../src/sync/lock.rs"]
#[expect(dead_code, reason = "the models need its word only")]
mod lock;
#[path = "../src/loomed.rs"]
mod loomed;
#[path = "../src/processor/mailbox.rs"]
#[expect(dead_code, reason = "the models need its sleep only")]
mod mailbox;
#[path = "../src/wait/told.rs"]
mod told;

use std::pin::pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;

use lock::Word;
use mailbox::{Letter, Mailbox};
use overlapped_iomgr::irp::state::State;
use overlapped_iomgr::wait::Event;
use overlapped_iomgr::{CompletionPort, NoPacket, PortOptions, Status, WaitPacket};
use told::Told;

/// `crate::sync`, for what is included above.
mod sync {
    pub(crate) use crate::loomed::AtomicBool;
}

fn relax(_: u32) {
    thread::yield_now();
}

const ZERO: Option<Duration> = Some(Duration::ZERO);
/// Over as soon as it is looked at.
const SOON: Option<Duration> = Some(Duration::from_nanos(1));

/// With at most so many preemptions: a port's locks make many steps.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = builder.max_branches.max(10_000);
    builder.check(model);
}

fn post(port: &CompletionPort, key: u64) {
    port.post(key, 0, Status::SUCCESS, 0).unwrap();
}

fn key(port: &CompletionPort, timeout: Option<Duration>) -> Result<u64, NoPacket> {
    port.remove(timeout).map(|packet| packet.key())
}

/// C-14, C-20: a packet wakes whoever is about to sleep.
#[test]
fn post_and_remove() {
    explore(5, || {
        let port = CompletionPort::new();
        let theirs = port.clone();
        let thread = thread::spawn(move || (key(&theirs, None), key(&theirs, None)));
        post(&port, 1);
        post(&port, 2);
        assert_eq!(thread.join().unwrap(), (Ok(1), Ok(2)), "C-14");
        assert_eq!((port.depth(), key(&port, ZERO)), (0, Err(NoPacket::TimedOut)));
    });
}

/// Two post, two remove: each packet is taken once.
#[test]
fn two_and_two() {
    explore(3, || {
        let port = CompletionPort::new();
        let theirs = port.clone();
        let poster = thread::spawn(move || post(&theirs, 1));
        let theirs = port.clone();
        let taker = thread::spawn(move || key(&theirs, None).unwrap());
        post(&port, 2);
        let mine = key(&port, None).unwrap();
        assert_eq!(mine + taker.join().unwrap(), 3);
        poster.join().unwrap();
        assert_eq!(port.depth(), 0);
    });
}

/// C-14: what has come alone is not taken before what another is about to put into the queue.
#[test]
fn older_ones_first() {
    explore(4, || {
        let port = CompletionPort::new();
        // It belongs to the port from here on, and takes the shortest way.
        assert_eq!(key(&port, ZERO), Err(NoPacket::TimedOut));
        post(&port, 1);
        post(&port, 2);
        let theirs = port.clone();
        let taker = thread::spawn(move || key(&theirs, ZERO).unwrap());
        post(&port, 3);
        let mine = key(&port, ZERO).unwrap();
        assert_eq!(mine + taker.join().unwrap(), 3, "the two that came first");
        assert_eq!((port.depth(), key(&port, ZERO)), (1, Ok(3)));
    });
}

/// The packets' memory goes round while another thread posts, or takes, which may come late to it.
#[test]
fn memory_is_used_again() {
    for takes in [false, true] {
        explore(2, move || {
            let port = CompletionPort::new();
            // It belongs to the port from here on, and takes the shortest way.
            assert_eq!(key(&port, ZERO), Err(NoPacket::TimedOut));
            post(&port, 1);
            assert_eq!(key(&port, ZERO), Ok(1));
            post(&port, 2);
            post(&port, 3);
            let theirs = port.clone();
            let other = thread::spawn(move || match takes {
                false => Err(post(&theirs, 10)),
                // The second time it takes the shortest way too.
                true => Ok([0, 1].map(|_| key(&theirs, ZERO).expect("there always was one"))),
            });
            let mut taken = Vec::new();
            for posted in 4..=9 {
                post(&port, posted);
                taken.extend(key(&port, ZERO));
            }
            let their = other.join().unwrap();
            taken.extend(std::iter::from_fn(|| key(&port, ZERO).ok()));
            assert_eq!(port.depth(), 0);
            if let Ok(their) = their {
                taken.extend(their);
                taken.sort_unstable();
            } else {
                let at = taken.iter().position(|key| *key == 10).unwrap();
                taken.remove(at);
            }
            assert_eq!(taken, [2, 3, 4, 5, 6, 7, 8, 9], "C-14");
        });
    }
}

/// C-32: what is taken off has all others moved together; who takes meanwhile may come late to their memory.
#[test]
fn gathered() {
    explore(2, || {
        let port = CompletionPort::new();
        assert_eq!(key(&port, ZERO), Err(NoPacket::TimedOut));
        (1..=3).for_each(|key| post(&port, key));
        (1..=3).for_each(|posted| assert_eq!(key(&port, ZERO), Ok(posted)));
        let (event, packet) = (Event::auto(true), WaitPacket::new());
        packet.associate(&event, &port, 100, 0).unwrap();
        post(&port, 4);
        post(&port, 5);
        let theirs = port.clone();
        // A task's first look goes the shortest way at once.
        let taker = thread::spawn(move || {
            match pin!(theirs.next()).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(packet) => Some(packet.unwrap().key()),
                Poll::Pending => None,
            }
        });
        packet.cancel(true);
        let mut taken: Vec<_> = [0, 1].iter().filter_map(|_| key(&port, ZERO).ok()).collect();
        post(&port, 6);
        post(&port, 7);
        taken.extend(taker.join().unwrap());
        taken.extend(std::iter::from_fn(|| key(&port, ZERO).ok()));
        // The taker may have had it.
        taken.retain(|key| *key != 100);
        taken.sort_unstable();
        assert_eq!(taken, [4, 5, 6, 7]);
    });
}

/// C-25: a waiter whose time is over takes no packet along.
#[test]
fn post_and_time_out() {
    explore(5, || {
        let port = CompletionPort::new();
        let theirs = port.clone();
        let thread = thread::spawn(move || key(&theirs, SOON));
        post(&port, 1);
        match thread.join().unwrap() {
            Ok(1) => assert_eq!(port.depth(), 0),
            Err(NoPacket::TimedOut) => assert_eq!(key(&port, ZERO), Ok(1)),
            other => panic!("{other:?}"),
        }
    });
}

/// One of two waiters leaves: the packet goes to the other, who is woken.
#[test]
fn post_and_time_out_beside_another() {
    explore(3, || {
        let port = CompletionPort::new();
        let theirs = port.clone();
        let leaver = thread::spawn(move || key(&theirs, SOON).is_ok());
        let theirs = port.clone();
        let poster = thread::spawn(move || post(&theirs, 1));
        let stayed = port.clone();
        let stayer = thread::spawn(move || key(&stayed, None).unwrap());
        if leaver.join().unwrap() {
            post(&port, 2);
            assert_eq!(stayer.join().unwrap(), 2);
        } else {
            assert_eq!(stayer.join().unwrap(), 1);
        }
        poster.join().unwrap();
        assert_eq!(port.depth(), 0);
    });
}

/// C-30: whoever waits, or is about to, comes back.
#[test]
fn close_and_remove() {
    explore(3, || {
        let port = CompletionPort::new();
        let theirs = port.clone();
        let taker = thread::spawn(move || key(&theirs, None));
        let theirs = port.clone();
        let poster = thread::spawn(move || theirs.post(1, 0, Status::SUCCESS, 0));
        port.close();
        let posted = poster.join().unwrap();
        match taker.join().unwrap() {
            Ok(1) => assert_eq!(posted, Ok(())),
            Err(NoPacket::Closed) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(port.post(2, 0, Status::SUCCESS, 0), Err(Status::INVALID_HANDLE));
        assert_eq!((port.depth(), key(&port, None)), (0, Err(NoPacket::Closed)));
    });
}

#[derive(Default)]
struct Wakes(AtomicUsize);
impl Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A `Next` that is dropped gives back what it was handed.
#[test]
fn next_dropped() {
    explore(3, || {
        let port = CompletionPort::new();
        let waker: Waker = std::sync::Arc::new(Wakes::default()).into();
        let mut next = Box::pin(port.next());
        assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let theirs = port.clone();
        let taker = thread::spawn(move || key(&theirs, None));
        let theirs = port.clone();
        let poster = thread::spawn(move || post(&theirs, 1));
        drop(next);
        assert_eq!(taker.join().unwrap(), Ok(1));
        poster.join().unwrap();
        assert_eq!(port.depth(), 0);
    });
}

/// A task is woken for a packet that comes while it says that it waits.
#[test]
fn next_is_woken() {
    explore(5, || {
        let port = CompletionPort::new();
        let wakes = std::sync::Arc::new(Wakes::default());
        let waker: Waker = wakes.clone().into();
        let theirs = port.clone();
        let poster = thread::spawn(move || post(&theirs, 1));
        let mut next = pin!(port.next());
        let mut poll = || next.as_mut().poll(&mut Context::from_waker(&waker));
        let first = poll();
        poster.join().unwrap();
        match first {
            Poll::Ready(packet) => assert_eq!(packet.unwrap().key(), 1),
            Poll::Pending => {
                assert_eq!(wakes.0.load(SeqCst), 1);
                assert!(poll().is_ready());
            }
        }
    });
}

/// C-20 to C-25: with a concurrency of one, one runs at a time; and who ends makes room.
#[test]
fn one_runs_at_a_time() {
    explore(3, || {
        let port = PortOptions::new().concurrency(1).create();
        let running = Arc::new(AtomicUsize::new(0));
        let threads = [0, 1].map(|_| {
            let (port, running) = (port.clone(), running.clone());
            thread::spawn(move || {
                port.remove(None).unwrap();
                assert_eq!(running.fetch_add(1, SeqCst), 0);
                running.fetch_sub(1, SeqCst);
            })
        });
        post(&port, 1);
        post(&port, 2);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        post(&port, 3);
        assert_eq!(key(&port, None), Ok(3), "those that have ended are not counted");
    });
}

/// C-23: another is released in the place of one that blocks.
#[test]
fn one_that_blocks_makes_room() {
    explore(3, || {
        let port = PortOptions::new().concurrency(1).create();
        post(&port, 1);
        assert_eq!(key(&port, None), Ok(1));
        let theirs = port.clone();
        let other = thread::spawn(move || key(&theirs, None));
        post(&port, 2);
        let got = CompletionPort::blocking(|| other.join().unwrap());
        assert_eq!(got, Ok(2));
        post(&port, 3);
        assert_eq!(key(&port, None), Ok(3));
    });
}

/// C-25: whoever leaves with nothing is counted as running again, once.
#[test]
fn time_outs_are_counted() {
    explore(5, || {
        let port = PortOptions::new().concurrency(1).create();
        let theirs = port.clone();
        let leaver = thread::spawn(move || key(&theirs, SOON).is_ok());
        post(&port, 1);
        if !leaver.join().unwrap() {
            assert_eq!(key(&port, None), Ok(1));
        }
        post(&port, 2);
        assert_eq!(key(&port, None), Ok(2), "nobody is counted who has gone");
    });
}

/// A port's lock: one has it at a time, and sees what the one before did.
#[test]
fn the_lock() {
    loom::model(|| {
        let shared = Arc::new((Word::new(), UnsafeCell::new(0)));
        let add = |(word, count): &(Word, UnsafeCell<i32>)| {
            if !word.try_take() {
                word.wait();
            }
            // SAFETY: loom reports an access that conflicts.
            count.with_mut(|count| unsafe { *count += 1 });
            word.free();
        };
        let theirs = shared.clone();
        let thread = thread::spawn(move || add(&theirs));
        add(&shared);
        thread.join().unwrap();
        // SAFETY: as above.
        assert_eq!(shared.1.with(|count| unsafe { *count }), 2);
    });
}

/// No letters are sent here.
struct Never;
// SAFETY: there is none.
unsafe impl Letter for Never {
    unsafe fn link(_: NonNull<Never>, _: *mut Never) {}
    unsafe fn next(_: NonNull<Never>) -> *mut Never {
        std::ptr::null_mut()
    }
}

/// The sleeper's protocol on a processor: `sleeper::wait`, `Sleeper::tell` and `Core::turn`. Of two
/// tellers one is stale: its news has been seen by the time that it tells.
#[test]
fn told_and_asleep() {
    explore(3, || {
        struct All {
            told: Told,
            mail: Mailbox<Never, ()>,
            /// What the thread sleeps in: an eventfd.
            hardware: Notify,
            /// Behind a lock, as all that is waited for.
            news: Mutex<usize>,
        }
        let all = Arc::new(All {
            told: Told::new(),
            mail: Mailbox::new(),
            hardware: Notify::new(),
            news: Mutex::new(0),
        });
        let tell = |all: &All| {
            *all.news.lock().unwrap() += 1;
            all.told.tell();
            if all.mail.wakes() {
                all.hardware.notify();
            }
        };
        let theirs = all.clone();
        let other = thread::spawn(move || tell(&theirs));
        let theirs = all.clone();
        let another = thread::spawn(move || tell(&theirs));
        // Twice: the second wait may find what the first has left.
        for wanted in 1..=2 {
            loop {
                all.told.begin();
                if *all.news.lock().unwrap() >= wanted {
                    break;
                }
                if all.mail.prepare_sleep() && !all.told.is() {
                    all.hardware.wait();
                }
                all.mail.awake();
            }
        }
        other.join().unwrap();
        another.join().unwrap();
    });
}

/// A manual-reset event lets all go who wait, also one that is about to.
#[test]
fn manual_events() {
    explore(3, || {
        let event = Event::manual(false);
        let threads = [None, SOON].map(|limit| {
            let event = event.clone();
            thread::spawn(move || event.wait(limit).unwrap())
        });
        event.set();
        let [waits, leaves] = threads.map(|thread| thread.join().unwrap());
        assert!(waits);
        let _ = leaves;
        assert!(event.is_set(), "nobody takes it");
    });
}

/// An auto-reset event is taken once for each time that it is set; one whose time is over leaves the
/// signal to others.
#[test]
fn auto_events() {
    explore(3, || {
        let event = Event::auto(false);
        let theirs = event.clone();
        let leaver = thread::spawn(move || theirs.wait(SOON).unwrap());
        let theirs = event.clone();
        let stayer = thread::spawn(move || theirs.wait(None).unwrap());
        event.set();
        if leaver.join().unwrap() {
            event.set();
        }
        assert!(stayer.join().unwrap());
        assert!(!event.is_set());
    });
}

/// C-2: whoever sees that the request is done sees its data, information and status.
#[test]
fn status_blocks() {
    loom::model(|| {
        struct Slot {
            state: State,
            data: UnsafeCell<u8>,
            information: UnsafeCell<usize>,
            status: UnsafeCell<u32>,
        }
        let slot = Arc::new(Slot {
            state: State::new(),
            data: UnsafeCell::new(0),
            information: UnsafeCell::new(0),
            status: UnsafeCell::new(0x103),
        });
        let owner = slot.clone();
        let owner = thread::spawn(move || {
            // SAFETY: loom reports an access that conflicts.
            owner.data.with_mut(|data| unsafe { *data = 7 });
            // SAFETY: as above.
            owner.status.with_mut(|status| unsafe { *status = 0 });
            // SAFETY: as above.
            owner.information.with_mut(|information| unsafe { *information = 1 });
            owner.state.complete();
        });
        // `Block::status`, `Block::info`.
        if slot.state.is_done() {
            // SAFETY: as above.
            assert_eq!(slot.status.with(|status| unsafe { *status }), 0);
            // SAFETY: as above.
            assert_eq!(slot.information.with(|information| unsafe { *information }), 1);
            // SAFETY: as above.
            assert_eq!(slot.data.with(|data| unsafe { *data }), 7);
        }
        owner.join().unwrap();
        assert!(slot.state.is_done());
    });
}
