//! Synchronous file objects (I-33, I-35, I-38, C-10, C-19).

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::apc::IoThread;
use overlapped_iomgr::buf::BufError;
use overlapped_iomgr::processor::set_hardware_factory;
use overlapped_iomgr::wait::{Alertable, Event, Waited, wait_any};
use overlapped_iomgr::{
    CompletionPort, Disposition, Driver, FileHandle, FileObject, Irp, Lower, Major, MajorSet,
    Request, Stack, Status,
};
use support::*;

const CURRENT: u64 = u64::MAX;
const ZERO: Option<Duration> = Some(Duration::ZERO);

fn synchronous(alertable: Alertable) -> FileHandle {
    let file = open(&stack(vec![], Bottom::default()), FD);
    file.set_seekable();
    file.make_synchronous(alertable).unwrap();
    file
}

fn set_position(file: &FileObject, offset: u64) -> Request<'_, Position> {
    Request::new(file, Position(Some(offset)))
}

fn position(file: &FileObject) -> Request<'_, Position> {
    Request::new(file, Position(None))
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
    assert_eq!(now(&mut set_position(&file, 50)), (Status::SUCCESS, 0));
    assert_eq!(now(&mut read(&file, 1, CURRENT)).unwrap().1, [50]);
    drop(reads);
    drop(file);
    h.finish();
}

/// I-35: the offset is asked for and set in turn, by requests that no driver sees.
#[test]
fn i35_the_offset_in_turn() {
    let h = Harness::new();
    let file = synchronous(Alertable::No);
    h.sim.script([Step::after(2), Step::after(1)]);
    let mut first = read(&file, 3, CURRENT);
    let mut asks = position(&file);
    let mut sets = set_position(&file, 50);
    let mut second = read(&file, 1, CURRENT);
    for pended in [poll(&mut first).is_pending(), poll(&mut asks).is_pending()] {
        assert!(pended);
    }
    assert!(poll(&mut sets).is_pending() && poll(&mut second).is_pending());
    assert_eq!(file.current_offset(), Some(0), "not before its turn");
    let submits = h.sim.submits();
    h.turns(8);
    assert_eq!(now(&mut first).unwrap().1, [0, 1, 2]);
    assert_eq!(now(&mut asks), (Status::SUCCESS, 3));
    assert_eq!(now(&mut sets), (Status::SUCCESS, 0));
    assert_eq!(now(&mut second).unwrap().1, [50]);
    assert_eq!(h.sim.submits(), submits + 1, "the second read alone");
    // Nobody has the file: at once.
    assert_eq!(now(&mut position(&file)), (Status::SUCCESS, 51));
    // By the other routes too.
    let block = position(&file).start().ok().unwrap();
    assert_eq!((block.status(), block.info()), (Status::SUCCESS, 51));
    let port = CompletionPort::new();
    position(&file).post(&port, 1).ok().unwrap();
    assert_eq!(port.remove(ZERO).unwrap().info(), 51);
    drop((first, asks, sets, second, block));
    drop(file);
    h.finish();
}

/// I-35: what has no offsets keeps none: the bottom learns that none was named. Appending writes go to
/// the end, wherever the current offset is; it is then where the driver says.
#[test]
fn i35_without_offsets_and_appending() {
    let h = Harness::new();
    let seen = Log::default();
    let (log, appended) = (seen.clone(), Arc::new(AtomicUsize::new(0)));
    let ends = appended.clone();
    let end = move |irp: Irp<'_>, _: Lower<'_>| {
        log.add(format!("{:?} {}", irp.major(), irp.offset() as i64));
        if irp.major() == Major::Write && irp.file().appends() {
            irp.file().appended_up_to(1000 + ends.fetch_add(1, SeqCst) as u64);
        }
        let written = if irp.major() == Major::Write { irp.len() } else { 0 };
        irp.complete(Status::SUCCESS, written)
    };
    let stack = stack(vec![Filter::new("end", end)], Bottom::default());
    let pipe = open(&stack, FD);
    pipe.make_synchronous(Alertable::No).unwrap();
    now(&mut read(&pipe, 4, CURRENT)).unwrap();
    now(&mut write(&pipe, b"1234", CURRENT)).unwrap();
    assert_eq!(seen.take(), ["Read -1", "Write -1"]);
    assert_eq!(pipe.current_offset(), Some(0));
    let appending = open(&stack, FD);
    appending.set_seekable();
    appending.set_appends();
    appending.make_synchronous(Alertable::No).unwrap();
    now(&mut write(&appending, b"1234", CURRENT)).unwrap();
    assert_eq!(appending.current_offset(), Some(1000));
    now(&mut read(&appending, 4, CURRENT)).unwrap();
    now(&mut write(&appending, b"1234", 7)).unwrap();
    assert_eq!(seen.take(), ["Write -1", "Read 1000", "Write 7"]);
    assert_eq!(appending.current_offset(), Some(1001));
    drop((pipe, appending));
    h.finish();
}

/// I-36: a read or write of a file that has offsets must name one, unless the file object is synchronous
/// or the write appends; what is negative as NT sees it, and not that value, is refused everywhere. No
/// driver sees the request, the buffer comes back, the file object stays signalled (I-39), and a
/// packet does not come (I-31).
#[test]
fn i36_offsets() {
    let h = Harness::new();
    let port = CompletionPort::new();
    let stack = stack(vec![], Bottom::default());
    let file = |seekable: bool, appends: bool, synchronous: bool| {
        let file = open(&stack, FD);
        if seekable {
            file.set_seekable();
        }
        if appends {
            file.set_appends();
        }
        if synchronous {
            file.make_synchronous(Alertable::No).unwrap();
        }
        file
    };
    // What reaches the hardware fails there.
    h.sim.default_step(Step::INLINE.result(-5));
    for (seekable, appends, synchronous) in [
        (true, false, false),
        (true, true, false),
        (true, false, true),
        (true, true, true),
        (false, false, false),
        (false, false, true),
    ] {
        let file = file(seekable, appends, synchronous);
        let what = format!("seekable {seekable}, appends {appends}, synchronous {synchronous}");
        for negative in [CURRENT, CURRENT - 1, CURRENT - 2, 1 << 63] {
            let none = negative == CURRENT && (!seekable || synchronous);
            for write in [false, true] {
                let legal = none || write && appends && negative == CURRENT;
                let expected =
                    if legal { Status::from_errno(5) } else { Status::INVALID_PARAMETER };
                let result = |result: Result<(usize, Vec<u8>), BufError<Vec<u8>>>| {
                    let error = result.unwrap_err();
                    (error.status(), error.into_buf().capacity())
                };
                let submits = h.sim.submits();
                let awaited = match write {
                    false => result(now(&mut read(&file, 4, negative))),
                    true => result(now(&mut self::write(&file, b"1234", negative))),
                };
                assert_eq!(awaited.0, expected, "{what}, write {write}, {negative:#x}");
                assert!(awaited.1 >= 4, "the buffer comes back");
                assert_eq!(h.sim.submits() - submits, usize::from(legal), "{what}, write {write}");
            }
            if !none {
                assert_eq!(wait_any(&[&file], ZERO, Alertable::No), Ok(Waited::Object(0)));
                let refused = read(&file, 4, negative).post(&port, 1).unwrap_err().unwrap_err();
                assert_eq!(refused.status(), Status::INVALID_PARAMETER);
                let refused = read(&file, 4, negative).start().unwrap_err().unwrap_err();
                assert_eq!(refused.status(), Status::INVALID_PARAMETER);
                assert_eq!(
                    wait_any(&[&file], ZERO, Alertable::No),
                    Ok(Waited::Object(0)),
                    "I-39: checked before the file object's signal is reset"
                );
            }
        }
    }
    assert_eq!((port.depth(), port.outstanding()), (0, 0));
    h.finish();
}

/// Closes as real bottoms do: takes the descriptor away, and waits for the other requests.
struct Closing(Bottom);

impl Driver for Closing {
    fn name(&self) -> &str {
        "closing"
    }
    fn hooks(&self) -> MajorSet {
        self.0.hooks()
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        match irp.major() {
            Major::Close => {
                // SAFETY: numbers of the simulated hardware.
                unsafe { irp.file().set_fd(-1) };
                match irp.when_alone() {
                    Ok(irp) => irp.complete(Status::SUCCESS, 0),
                    Err(waits) => waits,
                }
            }
            _ if irp.file().fd() < 0 => irp.complete(Status::FILE_CLOSED, 0),
            _ => self.0.dispatch(irp, lower),
        }
    }
    fn hardware(&self, irp: Irp<'_>, done: overlapped_iomgr::hal::Completion) -> Disposition {
        self.0.hardware(irp, done)
    }
}

/// X-33, I-35: a close waits for the requests that were issued before it and after it, and none of
/// these waits for the close.
#[test]
fn a_close_waits_for_no_turn() {
    let h = Harness::new();
    let stack = Stack::new([], Arc::new(Closing(Bottom::default()))).unwrap();
    let file = open(&stack, FD);
    file.set_seekable();
    file.make_synchronous(Alertable::No).unwrap();
    h.sim.script([Step::after(2)]);
    let mut before = read(&file, 1, CURRENT);
    assert!(poll(&mut before).is_pending());
    let mut close = plain(&file, Major::Close);
    assert!(poll(&mut close).is_pending());
    let mut after = read(&file, 1, CURRENT);
    assert!(poll(&mut after).is_pending());
    h.turns(3);
    assert_eq!(now(&mut before).unwrap().0, 1);
    h.turns(3);
    assert_eq!(now(&mut after).unwrap_err().status(), Status::FILE_CLOSED);
    h.turns(3);
    assert_eq!(now(&mut close).0, Status::SUCCESS);
    drop((before, after, close));
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
