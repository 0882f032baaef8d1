//! Synchronous file objects (I-33, I-35, I-38, C-10, C-19).

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::apc::IoThread;
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Event, Waited, wait_any};
use overlapped_iomgr::{CompletionPort, FileHandle, Status};
use support::*;

const CURRENT: u64 = u64::MAX;

fn synchronous(alertable: Alertable) -> FileHandle {
    let file = open(&stack(vec![], Bottom::default()), FD);
    file.make_synchronous(alertable).unwrap();
    file
}

/// I-35: one at a time, in order, each where the one before ended.
#[test]
fn i35_one_at_a_time_with_a_current_offset() {
    let h = Harness::new();
    let file = synchronous(Alertable::No);
    assert_eq!(file.current_offset(), Some(0));
    h.sim.script([Step::after(2), Step::after(1), Step::INLINE.result(-5), Step::INLINE]);
    let mut reads: Vec<_> = (1..=4).map(|n| read(&file, n, CURRENT)).collect();
    for read in &mut reads {
        assert!(poll(read).is_pending());
    }
    assert_eq!(h.sim.in_flight(), 1, "the others wait");
    h.turns(8);
    let results: Vec<_> = reads.iter_mut().map(now).collect();
    assert_eq!(results[0].as_ref().unwrap().1, [0]);
    assert_eq!(results[1].as_ref().unwrap().1, [1, 2]);
    assert!(results[2].is_err());
    assert_eq!(results[3].as_ref().unwrap().1, [3, 4, 5, 6], "an error moves nothing");
    assert_eq!(file.current_offset(), Some(7));
    // An explicit offset moves the current one too.
    assert_eq!(now(&mut read(&file, 2, 100)).unwrap().1, [100, 101]);
    file.set_current_offset(50).unwrap();
    assert_eq!(now(&mut read(&file, 1, CURRENT)).unwrap().1, [50]);
    drop(reads);
    drop(file);
    h.finish();
}

/// A request that waits for its turn can be cancelled; those behind it go on.
#[test]
fn a_parked_request_is_cancelled() {
    let h = Harness::new();
    let file = synchronous(Alertable::No);
    h.sim.script([Step::after(3), Step::INLINE]);
    let mut first = read(&file, 1, CURRENT);
    assert!(poll(&mut first).is_pending());
    let second = read(&file, 1, CURRENT).start().unwrap();
    let mut third = read(&file, 1, CURRENT);
    assert!(poll(&mut third).is_pending());
    second.cancel();
    h.turn();
    assert_eq!(second.status(), Status::CANCELLED);
    h.turns(4);
    now(&mut first).unwrap();
    now(&mut third).unwrap();
    drop((second, first, third));
    drop(file);
    h.finish();
}

/// Thousands that all complete at once, one behind the other.
#[test]
fn many_in_a_row() {
    let h = Harness::new();
    let file = synchronous(Alertable::No);
    h.sim.script([Step::after(1)]);
    let mut reads: Vec<_> = (0..5000).map(|_| read(&file, 1, 7)).collect();
    for read in &mut reads {
        assert!(poll(read).is_pending());
    }
    h.until("all are done", || file.current_offset() == Some(8) && h.processor.live() > 0);
    h.turns(6000);
    for mut read in reads {
        now(&mut read).unwrap();
    }
    drop(file);
    h.finish();
}

/// C-10, C-19; and I-33: the file object is signalled beside the event.
#[test]
fn what_a_synchronous_file_refuses() {
    let h = Harness::new();
    let file = synchronous(Alertable::No);
    let invalid = Err(Status::INVALID_PARAMETER);
    assert_eq!(CompletionPort::new().associate(&file, 1), invalid);
    assert_eq!(file.skip_packet_on_success(), invalid);
    assert_eq!(file.skip_signal(), invalid);
    assert_eq!(file.make_synchronous(Alertable::Yes), invalid);
    let other = open(&stack(vec![], Bottom::default()), FD);
    assert_eq!(other.set_current_offset(1), invalid);
    assert_eq!(other.current_offset(), None);
    CompletionPort::new().associate(&other, 1).unwrap();
    assert_eq!(other.make_synchronous(Alertable::No), invalid);
    let event = Event::manual(false);
    let look = || wait_any(&[&file], Some(Duration::ZERO), Alertable::No);
    look().unwrap();
    h.sim.script([Step::after(1), Step::after(1)]);
    let plain = read(&file, 1, 0).start().unwrap();
    assert_eq!(look(), Ok(Waited::TimedOut));
    h.turn();
    let block = read(&file, 1, 0).signal(&event).unwrap();
    h.turns(2);
    assert!(event.is_set());
    assert_eq!(look(), Ok(Waited::Object(0)));
    drop((plain, block, file, other));
    h.finish();
}

/// I-38: an APC ends an alertable wait: the request is cancelled, and the call returns when it is
/// done. On one that is not alertable the APC stays queued.
#[test]
fn i38_alertable_waits() {
    fn never() -> std::io::Result<Box<dyn overlapped_iomgr::hal::Hal>> {
        let sim = Sim::new();
        sim.set_file(FD, vec![0; 64]);
        sim.default_step(Step::GATED);
        Ok(Box::new(sim.hal()))
    }
    // SAFETY: nothing in it minds which thread drives it.
    unsafe { set_hardware_factory(never) };
    let calls = Arc::new(AtomicUsize::new(0));
    let (send, targets) = std::sync::mpsc::channel();
    for alertable in [Alertable::Yes, Alertable::No] {
        let send = send.clone();
        let thread = thread::spawn(move || {
            send.send(IoThread::current().unwrap()).unwrap();
            read(&synchronous(alertable), 1, 0).wait().unwrap_err().status()
        });
        let target: IoThread = targets.recv().unwrap();
        thread::sleep(Duration::from_millis(10));
        let theirs = calls.clone();
        target.queue(move || _ = theirs.fetch_add(1, SeqCst)).unwrap();
        if alertable == Alertable::No {
            thread::sleep(Duration::from_millis(10));
            assert!(!thread.is_finished());
            while target.cancel_synchronous_io().is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(thread.join().unwrap(), Status::CANCELLED);
    }
    assert_eq!(calls.load(SeqCst), 1);
}
