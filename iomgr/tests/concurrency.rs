//! A port's concurrency value, its waiters, its names and its end (C-20 to C-32).

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Event, Waited, sleep, wait_any};
use overlapped_iomgr::{CompletionPort, NoPacket, PortOptions, Rights, Status, WaitPacket};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// A thread that does as it is told.
struct Puppet {
    orders: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl Puppet {
    fn new() -> Puppet {
        // SAFETY: nothing in it minds which thread drives it.
        unsafe { set_hardware_factory(hardware_after::<2>) };
        let (orders, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let thread = thread::spawn(move || todo.into_iter().for_each(|order| order()));
        Puppet { orders: Some(orders), thread: Some(thread) }
    }

    /// Has it do something; what comes of it.
    fn order<T: Send + 'static>(
        &self,
        order: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (send, answer) = mpsc::channel();
        let order = Box::new(move || _ = send.send(order()));
        self.orders.as_ref().unwrap().send(order).unwrap();
        answer
    }

    fn removes(&self, port: &CompletionPort) -> mpsc::Receiver<Result<u64, NoPacket>> {
        let port = port.clone();
        self.order(move || port.remove(None).map(|packet| packet.key()))
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        self.orders.take();
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

fn post(port: &CompletionPort, key: u64) {
    port.post(key, 0, Status::SUCCESS, 0).unwrap();
}

/// Nothing comes for a while: the only way to see that nothing happens.
fn silent<T: std::fmt::Debug>(answer: &mpsc::Receiver<T>) {
    assert!(answer.recv_timeout(Duration::from_millis(30)).is_err());
}

fn comes<T>(answer: &mpsc::Receiver<T>) -> T {
    answer.recv_timeout(Duration::from_secs(60)).expect("an answer")
}

/// C-20: with the maximum running, packets queue; the next is taken when one of the threads asks
/// again (C-22: the same one, without a switch).
#[test]
fn c20_the_maximum() {
    let port = PortOptions::new().concurrency(1).create();
    let (a, b) = (Puppet::new(), Puppet::new());
    post(&port, 1);
    assert_eq!(comes(&a.removes(&port)), Ok(1));
    let waits = b.removes(&port);
    post(&port, 2);
    silent(&waits);
    assert_eq!(port.depth(), 1);
    assert_eq!(comes(&a.removes(&port)), Ok(2), "C-22");
    post(&port, 3);
    silent(&waits);
    drop(a);
    assert_eq!(comes(&waits), Ok(3), "C-24: a thread that ends does not run");
    drop(b);
}

/// C-20: the thread that blocked last is released first.
#[test]
fn c20_last_in_first_out() {
    let port = PortOptions::new().concurrency(3).create();
    let threads = [Puppet::new(), Puppet::new(), Puppet::new()];
    let mut waits = Vec::new();
    for thread in &threads {
        waits.push(thread.removes(&port));
        silent(waits.last().unwrap());
    }
    for (key, wait) in waits.iter().enumerate().rev() {
        post(&port, key as u64);
        assert_eq!(comes(wait), Ok(key as u64));
    }
}

/// C-21, C-24: a thread that goes to another port leaves the one before, which may release another
/// thread.
#[test]
fn c21_to_another_port() {
    let (port, other) = (PortOptions::new().concurrency(1).create(), CompletionPort::new());
    let (a, b) = (Puppet::new(), Puppet::new());
    post(&port, 1);
    assert_eq!(comes(&a.removes(&port)), Ok(1));
    let waits = b.removes(&port);
    post(&port, 2);
    silent(&waits);
    post(&other, 9);
    assert_eq!(comes(&a.removes(&other)), Ok(9));
    assert_eq!(comes(&waits), Ok(2));
}

/// C-23: a thread that blocks in one of the runtime's waits, or says that it blocks, does not count;
/// when it runs again there may be more than the maximum, and nobody is released until there are
/// fewer.
#[test]
fn c23_blocked_threads() {
    for says_so in [false, true] {
        let port = PortOptions::new().concurrency(1).create();
        let (a, b, c) = (Puppet::new(), Puppet::new(), Puppet::new());
        post(&port, 1);
        assert_eq!(comes(&a.removes(&port)), Ok(1));
        let (waits_b, event) = (b.removes(&port), Event::manual(false));
        post(&port, 2);
        silent(&waits_b);
        let theirs = event.clone();
        let blocks = a.order(move || {
            if says_so {
                CompletionPort::blocking(|| {
                    while !theirs.is_set() {
                        thread::sleep(Duration::from_millis(1));
                    }
                });
            } else {
                theirs.wait(None).unwrap();
            }
        });
        assert_eq!(comes(&waits_b), Ok(2), "released in its place");
        event.set();
        comes(&blocks);
        // Two run now. One of them asks again: that is not enough.
        let waits_c = c.removes(&port);
        post(&port, 3);
        silent(&waits_c);
        let waits_b = b.removes(&port);
        silent(&waits_b);
        drop(a);
        // C-20: the one that waited last, of those who wait.
        assert_eq!(comes(&waits_b), Ok(3));
        drop(b);
        post(&port, 4);
        assert_eq!(comes(&waits_c), Ok(4));
    }
}

/// C-25: a remove that times out, or polls, leaves the count as it was.
#[test]
fn c25_time_outs_restore_the_count() {
    let port = PortOptions::new().concurrency(1).create();
    let (a, b) = (Puppet::new(), Puppet::new());
    let theirs = port.clone();
    let polls = a.order(move || {
        for limit in [ZERO, Some(Duration::from_millis(2)), ZERO] {
            assert_eq!(theirs.remove(limit).unwrap_err(), NoPacket::TimedOut);
        }
    });
    comes(&polls);
    // It belongs to the port, and counts.
    let waits = b.removes(&port);
    post(&port, 1);
    silent(&waits);
    drop(a);
    assert_eq!(comes(&waits), Ok(1));
}

/// C-26: packets go to one thread, up to as many as it asks for.
#[test]
fn c26_many_to_one_thread() {
    let port = PortOptions::new().concurrency(1).create();
    let a = Puppet::new();
    let theirs = port.clone();
    let removes = a.order(move || {
        let mut packets = Vec::new();
        let mut sizes = Vec::new();
        while packets.len() < 10 {
            sizes.push(theirs.remove_many(&mut packets, 4, None).unwrap());
        }
        (sizes, packets.iter().map(|p| p.key()).collect::<Vec<_>>())
    });
    (0..10).for_each(|key| post(&port, key));
    let (sizes, keys) = comes(&removes);
    assert!(sizes.iter().all(|n| (1..=4).contains(n)), "{sizes:?}");
    assert_eq!(keys, (0..10).collect::<Vec<_>>());
}

/// C-29: the port as an object: on while there are packets; waiting takes none, and satisfies all who
/// wait; a thread in a remove gets the packet before they see it.
#[test]
fn c29_the_port_as_an_object() {
    let port = CompletionPort::new();
    let look = |port: &CompletionPort| wait_any(&[port], ZERO, Alertable::No).unwrap();
    assert_eq!(look(&port), Waited::TimedOut);
    let (a, b) = (Puppet::new(), Puppet::new());
    let waits: Vec<_> = [&a, &b]
        .map(|puppet| {
            let port = port.clone();
            puppet.order(move || wait_any(&[&port], None, Alertable::No).unwrap())
        })
        .into();
    waits.iter().for_each(silent);
    post(&port, 1);
    for wait in &waits {
        assert_eq!(comes(wait), Waited::Object(0));
    }
    assert_eq!((look(&port), port.depth()), (Waited::Object(0), 1));
    port.remove(ZERO).unwrap();
    assert_eq!(look(&port), Waited::TimedOut);
    let removes = a.removes(&port);
    silent(&removes);
    post(&port, 2);
    assert_eq!(look(&port), Waited::TimedOut);
    assert_eq!(comes(&removes), Ok(2));
}

/// C-30: closing with waiters; what comes later goes nowhere.
#[test]
fn c30_closing() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = CompletionPort::new();
    let (a, b) = (Puppet::new(), Puppet::new());
    let waits = [a.removes(&port), b.removes(&port)];
    waits.iter().for_each(silent);
    h.sim.script([Step::after(1)]);
    let alive = Arc::<AtomicUsize>::default();
    let request = Read { buf: Counted::new(4, &alive), offset: 0 };
    overlapped_iomgr::Request::new(&file, request).post(&port, 1).ok().unwrap();
    let mut task = port.next();
    assert!(poll(&mut task).is_pending());
    port.close();
    for wait in &waits {
        let closed = comes(wait).unwrap_err();
        assert_eq!((closed, closed.status()), (NoPacket::Closed, Status::ABANDONED_WAIT_0));
    }
    assert_eq!(now(&mut task).unwrap_err(), NoPacket::Closed);
    assert_eq!(port.post(1, 0, Status::SUCCESS, 0), Err(Status::INVALID_HANDLE));
    h.turn();
    assert_eq!((alive.load(SeqCst), port.depth(), port.outstanding()), (0, 0, 0));
    assert_eq!(port.remove(None).unwrap_err(), NoPacket::Closed);
    drop(task);
    drop((port, file));
    h.finish();
}

/// Names: another handle of the same port, with the rights asked for.
#[test]
fn ports_by_name() {
    let port = PortOptions::new().create_named("tests/ports-by-name").unwrap();
    let again = PortOptions::new().create_named("tests/ports-by-name").unwrap_err();
    assert_eq!(again, Status::OBJECT_NAME_COLLISION);
    assert_eq!(PortOptions::new().create_named("").unwrap_err(), Status::OBJECT_NAME_INVALID);
    let query = CompletionPort::open("tests/ports-by-name", Rights::QUERY).unwrap();
    let modify = CompletionPort::open("tests/ports-by-name", Rights::MODIFY).unwrap();
    assert_eq!(query.post(1, 0, Status::SUCCESS, 0), Err(Status::ACCESS_DENIED));
    assert_eq!(query.remove(ZERO).unwrap_err(), NoPacket::AccessDenied);
    assert_eq!(now(&mut query.next()).unwrap_err(), NoPacket::AccessDenied);
    post(&modify, 5);
    assert_eq!(query.depth(), 1);
    drop(port);
    assert_eq!(modify.remove(ZERO).unwrap().key(), 5, "C-13: handles keep it");
    drop((query, modify));
    let gone = CompletionPort::open("tests/ports-by-name", Rights::ALL).unwrap_err();
    assert_eq!(gone, Status::OBJECT_NAME_NOT_FOUND);
    PortOptions::new().create_named("tests/ports-by-name").unwrap();
}

/// A task takes packets; a future that is dropped gives the one back that it was handed, as the
/// oldest.
#[test]
fn next_in_tasks() {
    let port = PortOptions::new().concurrency(1).create();
    let wakes = Arc::<Wakes>::default();
    let mut one = port.next();
    assert!(poll_counting(&mut one, &wakes).is_pending());
    post(&port, 1);
    post(&port, 2);
    assert_eq!((wakes.count(), port.depth()), (1, 1));
    drop(one);
    let next = || match poll(&mut port.next()) {
        Poll::Ready(packet) => packet.unwrap().key(),
        Poll::Pending => panic!("there is a packet"),
    };
    // The concurrency value is about threads.
    assert_eq!((next(), next()), (1, 2));
    // A thread and a task wait; the last to come goes first.
    let a = Puppet::new();
    let removes = a.removes(&port);
    silent(&removes);
    let mut task = port.next();
    assert!(poll_counting(&mut task, &wakes).is_pending());
    post(&port, 3);
    assert_eq!(now(&mut task).unwrap().key(), 3);
    post(&port, 4);
    assert_eq!(comes(&removes), Ok(4));
}

/// C-32: an event reports to a port, once; the binding, and a packet that is queued, can be taken back.
#[test]
fn c32_wait_completion_packets() {
    let (port, packet) = (CompletionPort::new(), WaitPacket::new());
    for event in [Event::auto(false), Event::manual(false)] {
        packet.associate(&event, &port, 1, 2).unwrap();
        assert_eq!(packet.associate(&event, &port, 1, 2), Err(Status::INVALID_PARAMETER));
        assert_eq!(port.depth(), 0);
        event.set();
        event.set();
        assert_eq!(port.depth(), 1, "one-shot");
        let taken = port.remove(ZERO).unwrap();
        assert_eq!((taken.key(), taken.value(), taken.status()), (1, 2, Status::SUCCESS));
        // A second set found nobody waiting; the event is on.
        assert!(event.reset());
    }
    // Set already.
    let event = Event::auto(true);
    packet.associate(&event, &port, 3, 0).unwrap();
    assert!(!event.is_set());
    (100..140).for_each(|key| post(&port, key));
    assert!(!packet.cancel(false), "it is queued");
    assert!(packet.cancel(true));
    assert!(packet.cancel(true), "it is bound to nothing");
    // Of several, the right one, out of their middle.
    let other = WaitPacket::new();
    for (packet, key) in [(&packet, 3), (&other, 3)] {
        event.set();
        packet.associate(&event, &port, key, 0).unwrap();
        post(&port, 140);
    }
    assert!(packet.cancel(true));
    let keys: Vec<u64> = (0..43).map(|_| port.remove(ZERO).unwrap().key()).collect();
    assert!(keys.iter().copied().eq((100..140).chain([140, 3, 140])));
    assert!(!other.cancel(true), "it has been taken");
    assert!(port.remove(ZERO).is_err());
    // Taken back before it is set; dropped.
    packet.associate(&event, &port, 5, 0).unwrap();
    assert!(packet.cancel(false));
    WaitPacket::new().associate(&event, &port, 6, 0).unwrap();
    event.set();
    assert_eq!((port.depth(), event.is_set()), (0, true));
    let query = PortOptions::new().create_named("tests/c32").unwrap();
    let denied = CompletionPort::open("tests/c32", Rights::QUERY).unwrap();
    assert_eq!(packet.associate(&event, &denied, 1, 1), Err(Status::ACCESS_DENIED));
    drop(query);
    // It wakes a thread that waits at the port.
    event.reset();
    let a = Puppet::new();
    let removes = a.removes(&port);
    packet.associate(&event, &port, 7, 0).unwrap();
    silent(&removes);
    event.set();
    assert_eq!(comes(&removes), Ok(7));
}

/// Nothing grows without bound when nobody reaps: requests and posts are refused.
#[test]
fn limits() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = PortOptions::new().limit(3).create();
    h.sim.script([Step::after(1), Step::INLINE, Step::INLINE]);
    for key in 0..3 {
        read(&file, 4, 0).post(&port, key).unwrap();
    }
    let refused = read(&file, 4, 0).post(&port, 3).unwrap_err().unwrap_err();
    assert_eq!(refused.status(), Status::QUOTA_EXCEEDED);
    port.associate(&file, 0).unwrap();
    let refused = read(&file, 4, 0).packet(3).unwrap_err().unwrap_err();
    assert_eq!(refused.status(), Status::QUOTA_EXCEEDED);
    assert_eq!((port.depth(), port.outstanding()), (2, 3));
    h.turn();
    assert_eq!(port.post(1, 0, Status::SUCCESS, 0), Err(Status::INSUFFICIENT_RESOURCES));
    // Taking makes room, failing takes none.
    port.remove(ZERO).unwrap();
    h.sim.script([Step::INLINE.result(-5)]);
    read(&file, 4, 0).post(&port, 4).unwrap_err().unwrap_err();
    read(&file, 4, 0).post(&port, 5).unwrap();
    assert_eq!((port.depth(), port.outstanding()), (3, 3));
    while port.remove(ZERO).is_ok() {}
    assert_eq!(port.outstanding(), 0);
    drop(file);
    h.finish();
}

/// Many threads, a small maximum, threads that block, time out, end: every packet is taken once, and
/// the count is right in the end.
#[test]
fn a_crowd() {
    const PACKETS: u64 = 20_000;
    let port = PortOptions::new().concurrency(2).create();
    let taken = Arc::new(AtomicUsize::new(0));
    let sum = Arc::new(AtomicUsize::new(0));
    let puppets: Vec<_> = (0..6).map(|_| Puppet::new()).collect();
    let mut ends = Vec::new();
    for (i, puppet) in puppets.iter().enumerate() {
        let (port, taken, sum) = (port.clone(), taken.clone(), sum.clone());
        ends.push(puppet.order(move || {
            loop {
                let limit = (i % 3 == 0).then(|| Duration::from_micros(20));
                let mut packets = Vec::new();
                match port.remove_many(&mut packets, 1 + i, limit) {
                    Ok(_) => {}
                    Err(NoPacket::Closed) => return,
                    Err(_) => continue,
                }
                for packet in packets {
                    sum.fetch_add(packet.key() as usize, SeqCst);
                    if taken.fetch_add(1, SeqCst).is_multiple_of(100) {
                        sleep(Some(Duration::from_micros(10)), Alertable::No).unwrap();
                    }
                }
            }
        }));
    }
    for key in 0..PACKETS {
        post(&port, key);
    }
    while taken.load(SeqCst) < PACKETS as usize {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(sum.load(SeqCst) as u64, PACKETS * (PACKETS - 1) / 2);
    port.close();
    ends.iter().for_each(comes);
}
