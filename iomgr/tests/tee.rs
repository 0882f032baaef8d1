//! The copy of a result that a port gets beside a request's route (C-6, C-40, I-28).

#![cfg(not(loom))]

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Event, Waited, wait_any};
use overlapped_iomgr::{
    CompletionPort, FileHandle, Issued, Major, NoPacket, PortOptions, Request, Rights, Status,
};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

fn file() -> FileHandle {
    open(&stack(vec![], Bottom::default()), FD)
}

/// The one copy in the port.
#[track_caller]
fn copy(port: &CompletionPort) -> (u64, Status, usize) {
    let packet = port.remove(ZERO).expect("a copy");
    assert_eq!(packet.value(), 0);
    assert_eq!(port.remove(ZERO).unwrap_err(), NoPacket::TimedOut, "one");
    assert_eq!(port.outstanding(), 0);
    (packet.key(), packet.status(), packet.info())
}

/// C-40: by each route, at once and later, one result and one copy of it.
#[test]
fn c40_by_every_route() {
    for step in [Step::INLINE, Step::after(1)] {
        let h = Harness::new();
        let file = file();
        let (tee, port) = (CompletionPort::new(), CompletionPort::new());
        h.sim.default_step(step);
        let teed = || read(&file, 4, 0).tee(&tee, 7);
        let expected = (7, Status::SUCCESS, 4);
        // Awaited.
        assert_eq!(h.block_on(teed()).unwrap(), (4, vec![0, 1, 2, 3]));
        assert_eq!(copy(&tee), expected);
        // A packet.
        teed().post(&port, 1).unwrap();
        h.turns(2);
        assert_eq!(copy(&tee), expected);
        let packet = port.remove(ZERO).unwrap();
        assert_eq!(packet.key(), 1);
        assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().0, 4);
        // Looked at, with an event; given in either order.
        let event = Event::manual(false);
        for request in [teed().event(&event), read(&file, 4, 0).event(&event).tee(&tee, 7)] {
            event.reset();
            let block = request.start().unwrap();
            h.turns(2);
            assert!(event.is_set());
            assert_eq!(block.status(), Status::SUCCESS);
            assert_eq!(copy(&tee), expected);
            assert_eq!(block.take().unwrap().unwrap().0, 4);
        }
        // The packet of an associated file; skipped or not, the copy comes.
        port.associate(&file, 2).unwrap();
        for skips in [false, true] {
            if skips {
                file.skip_packet_on_success().unwrap();
            }
            let issued = teed().packet(3).unwrap();
            h.turns(2);
            assert_eq!(copy(&tee), expected);
            let done = skips && step.is_inline();
            assert_eq!(matches!(issued, Issued::Done(_)), done);
            assert_eq!(port.remove(ZERO).is_ok(), !done);
        }
        assert_eq!(port.outstanding(), 0);
        drop(file);
        h.finish();
    }
    // Waited for.
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let waited = thread::spawn(|| {
        let tee = CompletionPort::new();
        assert_eq!(read(&file(), 4, 0).tee(&tee, 7).wait().unwrap().0, 4);
        assert_eq!(copy(&tee), (7, Status::SUCCESS, 4));
    });
    waited.join().unwrap();
}

/// Logs what it finds when it is woken.
struct Finds<F>(&'static str, F, Log);

impl<F: Fn() -> String + Send + Sync> Wake for Finds<F> {
    fn wake(self: Arc<Self>) {
        self.2.add(format!("{}: {}", self.0, (self.1)()));
    }
}

/// I-28: the event, or the file object, first; then the copy; then the route.
#[test]
fn i28_the_order() {
    let h = Harness::new();
    the_order(&h);
    h.finish();
}

fn the_order(h: &Harness) {
    let file = Arc::new(file());
    let (tee, event, log) = (CompletionPort::new(), Event::manual(false), Log::default());
    let look = {
        let (tee, event, file) = (tee.clone(), event.clone(), file.clone());
        move || {
            let signalled = wait_any(&[&**file], ZERO, Alertable::No) == Ok(Waited::Object(0));
            format!("event {}, file {signalled}, copies {}", event.is_set(), tee.depth())
        }
    };
    look();
    let mut set = pin!(event.signalled());
    let waker = Waker::from(Arc::new(Finds("event", look.clone(), log.clone())));
    assert!(set.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    h.sim.script([Step::after(1), Step::after(1)]);
    let mut request = pin!(read(&file, 4, 0).event(&event).tee(&tee, 1));
    let waker = Waker::from(Arc::new(Finds("route", look.clone(), log.clone())));
    assert!(request.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    h.turn();
    assert_eq!(
        log.take(),
        ["event: event true, file true, copies 0", "route: event true, file true, copies 1"]
    );
    assert!(matches!(request.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(_))));
    copy(&tee);
    // I-33: without an event, the file object.
    event.reset();
    let mut next = pin!(tee.next());
    let waker = Waker::from(Arc::new(Finds("copy", look.clone(), log.clone())));
    assert!(next.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let _block = read(&file, 4, 0).tee(&tee, 1).start().unwrap();
    assert_eq!(look(), "event false, file false, copies 0");
    h.turn();
    assert_eq!(log.take(), ["copy: event false, file true, copies 0"]);
    assert!(matches!(next.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(_))));
    // To one port, the copy and the packet, in this order.
    h.sim.script([Step::after(1)]);
    read(&file, 4, 0).tee(&tee, 1).post(&tee, 2).unwrap();
    assert_eq!(tee.outstanding(), 2);
    h.turn();
    assert_eq!([tee.remove(ZERO).unwrap().key(), tee.remove(ZERO).unwrap().key()], [1, 2]);
}

/// I-31: an error at once is the call's alone. One that pended, and a warning, have their copies.
#[test]
fn i31_errors() {
    let h = Harness::new();
    let warn = Filter::new("warn", |irp, _| irp.complete(Status::BUFFER_OVERFLOW, 3));
    let file = open(&stack(vec![warn.hooks(&[Major::Flush])], Bottom::default()), FD);
    let (tee, event) = (CompletionPort::new(), Event::manual(true));
    h.sim.script([Step::INLINE.result(-5), Step::INLINE.result(-5), Step::after(1).result(-5)]);
    read(&file, 4, 0).tee(&tee, 1).event(&event).start().unwrap_err().unwrap_err();
    assert!(!event.is_set());
    now(&mut read(&file, 4, 0).tee(&tee, 1)).unwrap_err();
    assert_eq!((tee.depth(), tee.outstanding()), (0, 0));
    let block = read(&file, 4, 0).tee(&tee, 1).start().unwrap();
    h.turn();
    assert_eq!(copy(&tee), (1, Status::from_errno(5), 0));
    assert_eq!(now(&mut plain(&file, Major::Flush).tee(&tee, 2)).0, Status::BUFFER_OVERFLOW);
    assert_eq!(copy(&tee), (2, Status::BUFFER_OVERFLOW, 3));
    drop(block);
    drop(file);
    h.finish();
}

/// Refused at issue: no room, no right, or an APC (C-6), which leaves the event alone (I-39). The buffer
/// comes back, and nothing stays reserved.
#[test]
fn refusals() {
    let h = Harness::new();
    let file = file();
    let alive = Arc::<AtomicUsize>::default();
    let event = Event::manual(true);
    let request = || Request::new(&file, Read { buf: Counted::new(4, &alive), offset: 0 });
    let full = PortOptions::new().limit(1).create();
    h.sim.script([Step::GATED]);
    let mut first = read(&file, 4, 0).tee(&full, 1);
    assert!(poll(&mut first).is_pending());
    assert_eq!((full.depth(), full.outstanding()), (0, 1));
    let error = now(&mut request().event(&event).tee(&full, 2)).map(drop).unwrap_err();
    assert_eq!(error.status(), Status::QUOTA_EXCEEDED);
    assert!(!event.is_set());
    drop(error);
    let named = PortOptions::new().create_named("tee").unwrap();
    let reader = CompletionPort::open("tee", Rights::QUERY).unwrap();
    let error = now(&mut request().tee(&reader, 2)).map(drop).unwrap_err();
    assert_eq!(error.status(), Status::ACCESS_DENIED);
    drop(error);
    let error = request().post(&reader, 2).map(drop).unwrap_err().map(drop).unwrap_err();
    assert_eq!(error.status(), Status::ACCESS_DENIED, "nor by a route");
    drop(error);
    event.set();
    let apc = request().event(&event).tee(&named, 2).queue_apc(|_| panic!("C-6"));
    let error = apc.map(drop).unwrap_err().map(drop).unwrap_err();
    assert_eq!(error.status(), Status::INVALID_PARAMETER);
    assert!(event.is_set());
    drop(error);
    assert_eq!(alive.load(SeqCst), 0);
    for port in [&named, &reader] {
        assert_eq!((port.depth(), port.outstanding()), (0, 0));
    }
    h.sim.open_gate();
    h.turns(2);
    now(&mut first).unwrap();
    // What has come and not been taken fills the port, too.
    assert_eq!((full.depth(), full.outstanding()), (1, 1));
    now(&mut request().tee(&full, 2)).map(drop).unwrap_err();
    copy(&full);
    now(&mut request().tee(&full, 2)).map(drop).ok().unwrap();
    copy(&full);
    drop(first);
    drop(file);
    h.finish();
}

/// The requester leaves, or cancels: the copy says what has become of the request.
#[test]
fn the_requester_leaves() {
    let h = Harness::new();
    let file = file();
    let tee = CompletionPort::new();
    h.sim.script([Step::GATED, Step::GATED, Step::after(1).deaf()]);
    let mut dropped = read(&file, 4, 0).tee(&tee, 1);
    assert!(poll(&mut dropped).is_pending());
    drop(dropped);
    h.turns(2);
    assert_eq!(copy(&tee), (1, Status::CANCELLED, 0));
    let block = read(&file, 4, 0).tee(&tee, 2).start().unwrap();
    block.cancel();
    h.turns(2);
    assert_eq!(copy(&tee), (2, Status::CANCELLED, 0));
    drop(block);
    // Too late.
    let mut dropped = read(&file, 4, 0).tee(&tee, 3);
    assert!(poll(&mut dropped).is_pending());
    drop(dropped);
    h.turns(2);
    assert_eq!(copy(&tee), (3, Status::SUCCESS, 4));
    // Never issued, and of a kind that gives nothing.
    drop(read(&file, 4, 0).tee(&tee, 4));
    now(&mut read(&file, 4, 0).tee(&tee, 5)).unwrap();
    let packet = tee.remove(ZERO).unwrap();
    let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        packet.into_output::<Read<Vec<u8>>>().unwrap()
    }));
    assert!(wrong.is_err(), "a copy has no buffer");
    assert_eq!((tee.depth(), tee.outstanding()), (0, 0));
    drop(file);
    h.finish();
}

/// C-30: a port that is closed takes no copies, and holds nobody up; one whose handles are gone dies
/// with the last request.
#[test]
fn c30_closed_ports() {
    let h = Harness::new();
    let file = file();
    let (tee, kept) = (CompletionPort::new(), CompletionPort::new());
    h.sim.script([Step::after(1), Step::after(1)]);
    let one = read(&file, 4, 0).tee(&tee, 1).start().unwrap();
    let other = read(&file, 4, 0).tee(&kept, 1).start().unwrap();
    drop(tee);
    kept.close();
    h.turn();
    assert_eq!((one.status(), other.status()), (Status::SUCCESS, Status::SUCCESS));
    assert_eq!((kept.depth(), kept.outstanding()), (0, 0));
    drop((one, other));
    drop(file);
    h.finish();
}

/// A copy that a dropped future has been handed goes back to the port, and counts as before.
#[test]
fn handed_and_given_back() {
    let h = Harness::new();
    let file = file();
    let tee = CompletionPort::new();
    let mut next = tee.next();
    assert!(poll(&mut next).is_pending());
    h.sim.script([Step::after(1)]);
    let block = read(&file, 4, 0).tee(&tee, 1).start().unwrap();
    h.turn();
    assert_eq!((tee.depth(), tee.outstanding()), (0, 1), "handed over");
    drop(next);
    assert_eq!((tee.depth(), tee.outstanding()), (1, 1));
    assert_eq!(copy(&tee), (1, Status::SUCCESS, 4));
    drop(block);
    drop(file);
    h.finish();
}

/// Threads that issue and threads that watch: as many copies as results, each with its own status.
#[test]
fn a_crowd() {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<1>) };
    const EACH: u64 = 300;
    let tee = CompletionPort::new();
    let seen = Arc::new(Mutex::new(vec![0usize; 4 * EACH as usize]));
    let watchers: Vec<_> = (0..2)
        .map(|_| {
            let (tee, seen) = (tee.clone(), seen.clone());
            thread::spawn(move || {
                while let Ok(packet) = tee.remove(None) {
                    assert_eq!(packet.status(), Status::SUCCESS);
                    assert_eq!(packet.info() as u64, packet.key() % 7 + 1);
                    seen.lock().unwrap()[packet.key() as usize] += 1;
                }
            })
        })
        .collect();
    let issuers: Vec<_> = (0..4u64)
        .map(|thread| {
            let tee = tee.clone();
            thread::spawn(move || {
                let file = file();
                for i in thread * EACH..(thread + 1) * EACH {
                    let len = (i % 7 + 1) as usize;
                    let request = read(&file, len, 0).tee(&tee, i);
                    match i % 3 {
                        0 => assert_eq!(request.wait().unwrap().0, len),
                        1 => {
                            let event = Event::auto(false);
                            let block = request.signal(&event).unwrap();
                            assert_eq!(event.wait(None), Ok(true));
                            assert_eq!(block.take().unwrap().unwrap().0, len);
                        }
                        _ => {
                            let port = CompletionPort::new();
                            request.post(&port, i).unwrap();
                            assert_eq!(port.remove(None).unwrap().info(), len);
                        }
                    }
                }
            })
        })
        .collect();
    issuers.into_iter().for_each(|thread| thread.join().unwrap());
    while tee.outstanding() > 0 {
        thread::yield_now();
    }
    tee.close();
    watchers.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(seen.lock().unwrap().iter().all(|count| *count == 1));
}
