//! How a request reports: events, the file object, APCs, status blocks, the file's port (C-2 to
//! C-19, I-28 to I-34).

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::apc::IoThread;
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Event, Waited, sleep, wait_all, wait_any};
use overlapped_iomgr::{
    CompletionPort, FileHandle, Issued, Major, NoPacket, PortOptions, Request, Status,
};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

fn plain_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    thread::spawn(run).join().unwrap()
}

fn file() -> FileHandle {
    open(&stack(vec![], Bottom::default()), FD)
}

/// C-2, D1: the status leaves PENDING last, and data and information are final then.
#[test]
fn c2_status_block() {
    let h = Harness::new();
    let file = file();
    h.sim.script([Step::after(2)]);
    let block = read(&file, 4, 8).start().unwrap();
    assert_eq!((block.status(), block.info(), block.is_done()), (Status::PENDING, 0, false));
    let block = block.take().unwrap_err();
    h.turns(2);
    assert_eq!((block.status(), block.info()), (Status::SUCCESS, 4));
    assert_eq!(block.take().unwrap().unwrap(), (4, vec![8, 9, 10, 11]));
    // Success at once is a result like any other (C-8).
    let block = read(&file, 2, 0).start().unwrap();
    assert_eq!((block.status(), block.info()), (Status::SUCCESS, 2));
    drop(block);
    // An error at once is the call's alone (I-31).
    h.sim.script([Step::INLINE.result(-5)]);
    assert_eq!(read(&file, 4, 0).start().unwrap_err().unwrap_err().status(), Status::from_errno(5));
    // Dropped, and cancelled by hand.
    h.sim.script([Step::GATED, Step::GATED]);
    drop(read(&file, 4, 0).start().unwrap());
    let block = read(&file, 4, 0).start().unwrap();
    block.cancel();
    h.turns(2);
    assert_eq!(block.status(), Status::CANCELLED);
    drop((block, file));
    h.finish();
}

/// C-3, I-28, I-33: the event is reset at issue and set after the result is there; the file object
/// is not signalled then. I-31: an error at once leaves it reset.
#[test]
fn c3_events() {
    let h = Harness::new();
    let file = file();
    let event = Event::manual(true);
    let watched = |file: &FileHandle| wait_any(&[file], ZERO, Alertable::No).unwrap();
    assert_eq!(watched(&file), Waited::Object(0), "C-7: created signalled");
    file.skip_signal().unwrap();
    assert_eq!(watched(&file), Waited::TimedOut, "C-18");
    let file = self::file();
    assert_eq!(watched(&file), Waited::Object(0));
    h.sim.script([Step::after(1), Step::after(1), Step::INLINE, Step::INLINE.result(-5)]);
    let block = read(&file, 4, 0).signal(&event).unwrap();
    assert!(!event.is_set());
    h.turn();
    assert!(event.is_set());
    assert_eq!(block.status(), Status::SUCCESS);
    assert_eq!(watched(&file), Waited::Object(0), "untouched");
    let plain = read(&file, 4, 0).start().unwrap();
    assert_eq!(watched(&file), Waited::TimedOut, "C-7: reset by the next issue");
    h.turn();
    assert_eq!(watched(&file), Waited::Object(0), "I-33: without an event, the file");
    event.reset();
    let inline = read(&file, 4, 0).signal(&event).unwrap();
    assert!(event.is_set(), "C-8");
    read(&file, 4, 0).signal(&event).unwrap_err().unwrap_err();
    assert!(!event.is_set(), "I-31, I-39");
    // Refused before it gets anywhere, by each route.
    let full = PortOptions::new().limit(0).create();
    event.set();
    assert!(read(&file, 4, 0).event(&event).post(&full, 1).is_err());
    assert!(!event.is_set(), "I-31, I-39");
    event.set();
    let deadlocks = read(&file, 4, 0).event(&event).wait().unwrap_err();
    assert_eq!((deadlocks.status(), event.is_set()), (Status::WOULD_DEADLOCK, false));
    drop((block, plain, inline, file));
    h.finish();
}

/// C-6: event and port together; the event is set before the packet is there (I-28).
#[test]
fn c6_event_and_packet() {
    let h = Harness::new();
    let file = file();
    let (event, port) = (Event::manual(false), CompletionPort::new());
    h.sim.script([Step::after(1)]);
    read(&file, 4, 0).event(&event).post(&port, 1).unwrap();
    h.turn();
    assert!(event.is_set());
    assert_eq!(port.remove(ZERO).unwrap().key(), 1);
    drop(file);
    h.finish();
}

/// C-4: exactly one call, at an alertable wait of the issuing thread, in order; never for errors at
/// once.
#[test]
fn c4_apcs() {
    plain_thread(|| {
        let file = file();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let note = |name: u64| {
            let calls = calls.clone();
            move |result: Result<(usize, Vec<u8>), _>| {
                calls.lock().unwrap().push((name, result.map(|(n, _): (usize, _)| n).ok()));
            }
        };
        read(&file, 4, 0).queue_apc(note(1)).unwrap();
        let later = calls.clone();
        let own = move || later.lock().unwrap().push((2, None));
        read(&file, 8, 0).wait().unwrap();
        read(&file, 8, 0).wait().unwrap();
        IoThread::current().unwrap().queue(own).unwrap();
        let cancelled = read(&file, 5, 0).queue_apc(note(3)).unwrap();
        read(&file, 8, 0).wait().unwrap();
        drop(cancelled);
        assert_eq!(sleep(ZERO, Alertable::No), Ok(Waited::TimedOut));
        assert!(calls.lock().unwrap().is_empty(), "not before");
        assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
        assert_eq!(*calls.lock().unwrap(), [(1, Some(4)), (2, None), (3, Some(5))]);
        assert_eq!(sleep(Some(Duration::from_millis(1)), Alertable::Yes), Ok(Waited::TimedOut));
        // C-6: APC and port.
        CompletionPort::new().associate(&file, 1).unwrap();
        let refused = read(&file, 4, 0).queue_apc(note(4)).unwrap_err().unwrap_err();
        assert_eq!(refused.status(), Status::INVALID_PARAMETER);
        let _ = sleep(Some(Duration::from_millis(20)), Alertable::Yes);
        assert!(calls.lock().unwrap().iter().all(|(name, _)| *name != 4));
    });
}

/// Nothing grows without bound when a thread never waits alertably.
#[test]
fn c4_apcs_have_a_limit() {
    plain_thread(|| {
        let here = IoThread::current().unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        let mut queued = 0;
        let refused = loop {
            let ran = ran.clone();
            match here.queue(move || _ = ran.fetch_add(1, SeqCst)) {
                Ok(()) => queued += 1,
                Err(status) => break status,
            }
        };
        assert_eq!(refused, Status::QUOTA_EXCEEDED);
        let file = file();
        let refused = read(&file, 1, 0).queue_apc(|_| ()).unwrap_err().unwrap_err();
        assert_eq!(refused.status(), Status::QUOTA_EXCEEDED);
        assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
        assert_eq!(ran.load(SeqCst), queued);
        read(&file, 1, 0).queue_apc(|_| ()).unwrap();
        here.queue(|| ()).unwrap();
    });
}

/// C-4, I-44: only the issuing thread runs it; one that ends runs nothing more, and nothing is lost.
#[test]
fn c4_apcs_of_a_thread_that_ends() {
    let alive = Arc::<AtomicUsize>::default();
    let buffer = Counted::new(4, &alive);
    let target = plain_thread(move || {
        let file = file();
        let request = Request::new(&file, Read { buf: buffer, offset: 0 });
        request.queue_apc(|_| panic!("the thread has ended")).ok().unwrap();
        read(&file, 4, 0).wait().unwrap();
        let target = IoThread::current().unwrap();
        target.queue(|| panic!("the thread has ended")).unwrap();
        target
    });
    assert_eq!(alive.load(SeqCst), 0);
    assert_eq!(target.queue(|| ()), Err(Status::NOT_FOUND));
}

/// C-27, C-28.
#[test]
fn c27_alertable_removes() {
    plain_thread(|| {
        let port = CompletionPort::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let queue = || {
            let calls = calls.clone();
            let call = move || _ = calls.fetch_add(1, SeqCst);
            IoThread::current().unwrap().queue(call).unwrap();
        };
        // Of a thread that is new to the port, the APC goes first.
        queue();
        port.post(1, 0, Status::SUCCESS, 0).unwrap();
        assert_eq!(port.remove_alertable(None).unwrap_err(), NoPacket::Apc);
        assert_eq!(calls.load(SeqCst), 1);
        // Of one that belongs to it, the packet.
        queue();
        assert_eq!(port.remove_alertable(None).unwrap().key(), 1);
        assert_eq!(calls.load(SeqCst), 1);
        // C-28.
        assert_eq!(port.remove(ZERO).unwrap_err(), NoPacket::TimedOut);
        assert_eq!(calls.load(SeqCst), 1);
        assert_eq!(port.remove_alertable(None).unwrap_err().status(), Status::USER_APC);
        assert_eq!(calls.load(SeqCst), 2);
        // One that comes while it waits.
        let here = IoThread::current().unwrap();
        let theirs = calls.clone();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(5));
            here.queue(move || _ = theirs.fetch_add(1, SeqCst)).unwrap();
        });
        assert_eq!(port.remove_alertable(None).unwrap_err(), NoPacket::Apc);
        assert_eq!(calls.load(SeqCst), 3);
        thread.join().unwrap();
    });
}

/// C-10, C-11, C-12, C-19: association.
#[test]
fn c10_association() {
    let h = Harness::new();
    let file = file();
    let (port, other) = (CompletionPort::new(), CompletionPort::new());
    // C-12: issued before.
    h.sim.script([Step::after(1)]);
    assert!(matches!(read(&file, 4, 0).packet(9), Ok(Issued::Packet(_))));
    port.associate(&file, 7).unwrap();
    assert_eq!(other.associate(&file, 8), Err(Status::INVALID_PARAMETER), "C-10");
    h.turn();
    let packet = port.remove(ZERO).unwrap();
    assert_eq!((packet.key(), packet.value()), (7, 9));
    assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().0, 4);
    // C-8, and C-17 once it is set.
    assert!(matches!(read(&file, 4, 0).packet(1), Ok(Issued::Packet(_))));
    assert_eq!(port.remove(ZERO).unwrap().value(), 1);
    file.skip_packet_on_success().unwrap();
    match read(&file, 4, 0).packet(2) {
        Ok(Issued::Done(Ok((4, buffer)))) => assert_eq!(buffer, [0, 1, 2, 3]),
        other => panic!("{other:?}"),
    }
    h.sim.script([Step::after(1)]);
    assert!(matches!(read(&file, 4, 0).packet(3), Ok(Issued::Packet(_))), "it pended");
    h.turn();
    assert_eq!(port.remove(ZERO).unwrap().value(), 3);
    // C-16: an error at once.
    h.sim.script([Step::INLINE.result(-5)]);
    read(&file, 4, 0).packet(4).unwrap_err().unwrap_err();
    assert_eq!((port.depth(), port.outstanding()), (0, 0));
    // Nobody listens: the result goes nowhere, and nothing is lost.
    let deaf = self::file();
    let alive = Arc::<AtomicUsize>::default();
    let request = Request::new(&deaf, Read { buf: Counted::new(4, &alive), offset: 0 });
    assert!(request.packet(5).is_ok());
    assert_eq!(alive.load(SeqCst), 0);
    // C-31: the last handle of a file goes, and each request yields its packet.
    h.sim.script([Step::GATED, Step::GATED]);
    read(&file, 4, 0).packet(6).unwrap();
    read(&file, 4, 0).packet(7).unwrap();
    drop((file, deaf));
    h.turns(3);
    for value in [6, 7] {
        let packet = port.remove(ZERO).unwrap();
        assert_eq!((packet.value(), packet.status()), (value, Status::CANCELLED));
    }
    h.finish();
}

/// Waits for any and for all; auto-reset events are taken by one wait only, and by one for all only
/// when all are there.
#[test]
fn waits_for_any_and_all() {
    let (a, b) = (Event::auto(false), Event::auto(false));
    let manual = Event::manual(true);
    assert_eq!(wait_all(&[&a, &manual], ZERO, Alertable::No), Ok(Waited::TimedOut));
    a.set();
    assert_eq!(wait_all(&[&a, &b], ZERO, Alertable::No), Ok(Waited::TimedOut));
    assert!(a.is_set(), "nothing is taken");
    assert_eq!(wait_any(&[&b, &a], ZERO, Alertable::No), Ok(Waited::Object(1)));
    assert!(!a.is_set());
    let (theirs, other) = (a.clone(), b.clone());
    let thread = thread::spawn(move || plain_wait_all(&theirs, &other));
    thread::sleep(Duration::from_millis(2));
    a.set();
    thread::sleep(Duration::from_millis(2));
    b.set();
    assert_eq!(thread.join().unwrap(), Ok(Waited::Object(0)));
    assert!(!a.is_set() && !b.is_set() && manual.is_set());
    assert_eq!(wait_any(&[&a, &a, &manual], None, Alertable::No), Ok(Waited::Object(2)));
}

fn plain_wait_all(a: &Event, b: &Event) -> Result<Waited, Status> {
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    wait_all(&[a, b, a], None, Alertable::No)
}

/// Many threads wait for one auto-reset event: each signal is taken exactly once.
#[test]
fn an_auto_event_among_threads() {
    const SIGNALS: usize = 2000;
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(hardware_after::<2>) };
    let (event, ack) = (Event::auto(false), Event::auto(false));
    let (stop, taken) = (Event::manual(false), Arc::new(AtomicUsize::new(0)));
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let (event, ack, stop, taken) =
                (event.clone(), ack.clone(), stop.clone(), taken.clone());
            thread::spawn(move || {
                loop {
                    // Some leave with time-outs, and must not take the news along.
                    let limit = (i % 2 == 0).then(|| Duration::from_micros(50));
                    match wait_any(&[&event, &stop], limit, Alertable::No).unwrap() {
                        Waited::Object(0) => {
                            taken.fetch_add(1, SeqCst);
                            ack.set();
                        }
                        Waited::Object(_) => return,
                        _ => {}
                    }
                }
            })
        })
        .collect();
    for signal in 0..SIGNALS {
        assert!(!event.set());
        assert_eq!(ack.wait(Some(Duration::from_secs(60))), Ok(true));
        assert_eq!(taken.load(SeqCst), signal + 1);
    }
    stop.set();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A task waits for an event; a future that is dropped has taken nothing.
#[test]
fn events_in_tasks() {
    let event = Event::auto(false);
    let wakes = Arc::<Wakes>::default();
    let mut one = event.signalled();
    let mut two = event.signalled();
    assert!(poll_counting(&mut one, &wakes).is_pending());
    assert!(poll_counting(&mut two, &wakes).is_pending());
    event.set();
    assert_eq!(wakes.count(), 2);
    drop(one);
    assert!(poll(&mut two).is_ready());
    assert!(!event.is_set());
}

/// A wait where it would stop what it waits for.
#[test]
fn waits_that_would_deadlock() {
    let h = Harness::new();
    let event = Event::manual(false);
    assert_eq!(event.wait(None), Err(Status::WOULD_DEADLOCK));
    assert_eq!(sleep(None, Alertable::No), Err(Status::WOULD_DEADLOCK));
    assert_eq!(event.wait(ZERO), Ok(false), "a poll is allowed everywhere");
    event.set();
    assert_eq!(event.wait(None), Ok(true));
    assert_eq!(CompletionPort::new().remove(None).unwrap_err(), NoPacket::WouldDeadlock);
    h.finish();
}

/// A warning is an error to completion routines and a success to whoever reports (0.1, I-30): block,
/// event and packet get it with its data.
#[test]
fn warnings_are_delivered() {
    let h = Harness::new();
    let warn = Filter::new("warn", |irp, _| irp.complete(Status::BUFFER_OVERFLOW, 0));
    let file = open(&stack(vec![warn.hooks(&[Major::Flush])], Bottom::default()), FD);
    let (event, port) = (Event::manual(false), CompletionPort::new());
    let block = plain(&file, Major::Flush).signal(&event).ok().unwrap();
    assert_eq!((block.status(), event.is_set()), (Status::BUFFER_OVERFLOW, true));
    plain(&file, Major::Flush).post(&port, 1).ok().unwrap();
    assert_eq!(port.remove(ZERO).unwrap().status(), Status::BUFFER_OVERFLOW);
    // D3: with its packet, although it came at once and the file skips successes.
    port.associate(&file, 2).unwrap();
    file.skip_packet_on_success().unwrap();
    assert!(matches!(plain(&file, Major::Flush).packet(3), Ok(Issued::Packet(_))));
    assert_eq!(port.remove(ZERO).unwrap().status(), Status::BUFFER_OVERFLOW);
    drop((block, file));
    h.finish();
}
