//! Children, retries and slots that are used again (I-25, I-40, I-42), where more than one thing happens
//! at once. The plain cases are in `splits.rs`, `dispatch.rs` and `cancel.rs`.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::{Block, Cancel, CompletionPort, FileHandle, On, Part, Status};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);
const EIO: i32 = -5;

fn thirds() -> Filter {
    Filter::new("thirds", |irp, _| {
        let part = |i: u32| Part { start: i * 4, len: 4, offset: u64::from(i) * 4 };
        irp.split(&[part(0), part(1), part(2)])
    })
}

fn split_file(above: Vec<Filter>) -> FileHandle {
    let mut filters = above;
    filters.push(thirds());
    open(&stack(filters, Bottom::default()), FD)
}

/// I-25: the driver above sees one request, with one result.
#[test]
fn i25_seen_from_above() {
    for (steps, expected) in [
        ([Step::INLINE; 3], (Status::SUCCESS, 12)),
        ([Step::after(2), Step::INLINE, Step::after(1)], (Status::SUCCESS, 12)),
        ([Step::after(1), Step::INLINE.result(EIO), Step::INLINE], (Status::SUCCESS, 4)),
        ([Step::after(1).result(EIO), Step::INLINE, Step::INLINE], (Status::from_errno(5), 0)),
    ] {
        let h = Harness::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sees = seen.clone();
        let above =
            Filter::new("above", |irp, lower| lower.forward(irp, On::ALL)).completed(move |irp| {
                sees.lock().unwrap().push((irp.status(), irp.info()));
                irp.proceed()
            });
        let file = split_file(vec![above]);
        h.sim.script(steps);
        let _ = h.block_on(read(&file, 12, 0));
        assert_eq!(*seen.lock().unwrap(), [expected], "once");
        drop(file);
        h.finish();
    }
}

/// X-3, I-25: what ends the parent early ends its children; the parent has its result when the last of
/// them has, one that does not listen included, and the result is what they did.
#[test]
fn i25_cancelled_in_the_middle() {
    #[derive(Clone, Copy, Debug)]
    enum How {
        Handle,
        Drop,
        Deadline,
        Foreign,
    }
    for how in [How::Handle, How::Drop, How::Deadline, How::Foreign] {
        let h = Harness::new();
        let file = split_file(vec![]);
        let tee = CompletionPort::new();
        h.sim.script([Step::INLINE, Step::GATED, Step::after(5).deaf()]);
        let request = read(&file, 12, 0).tee(&tee, 1);
        let mut block: Option<Block<_>> = Some(match how {
            How::Deadline => request.deadline(Duration::from_millis(1)).start().unwrap(),
            _ => request.start().unwrap(),
        });
        assert_eq!(h.sim.in_flight(), 2);
        let cancel = block.as_ref().unwrap().canceller();
        match how {
            How::Handle => cancel.cancel(),
            How::Drop => drop(block.take()),
            How::Deadline => thread::sleep(Duration::from_millis(3)),
            How::Foreign => thread::spawn(move || cancel.cancel()).join().unwrap(),
        }
        h.until("the cancel has come", || h.sim.cancels() == 2);
        h.turn();
        assert_eq!(tee.depth(), 0, "{how:?}: one child is deaf");
        h.until("the last child is done", || h.sim.in_flight() == 0);
        let packet = tee.remove(ZERO).unwrap();
        assert_eq!((packet.status(), packet.info()), (Status::SUCCESS, 4), "{how:?}");
        if let Some(block) = block {
            let (n, bytes) = block.take().unwrap().unwrap();
            assert_eq!((n, &bytes[..]), (4, &[0, 1, 2, 3][..]));
        }
        drop(file);
        h.finish();
    }
    // Nothing done: what ended it is the result.
    for deadline in [false, true] {
        let h = Harness::new();
        let file = split_file(vec![]);
        h.sim.default_step(Step::GATED);
        let request = read(&file, 12, 0);
        let request = if deadline { request.deadline(Duration::from_millis(1)) } else { request };
        let block = request.start().unwrap();
        if !deadline {
            block.cancel();
        }
        h.until("it is done", || block.is_done());
        let expected = if deadline { Status::IO_TIMEOUT } else { Status::CANCELLED };
        assert_eq!(block.status(), expected);
        drop(block);
        drop(file);
        h.finish();
    }
}

/// the parent is cancelled while its children are being made: those that come later end as
/// well, before the hardware has them.
#[test]
fn i25_cancelled_while_splitting() {
    let h = Harness::new();
    let handle: Arc<Mutex<Option<Cancel>>> = Arc::default();
    let theirs = handle.clone();
    let count = Arc::<AtomicUsize>::default();
    let below = Filter::new("below", move |irp, lower| {
        if count.fetch_add(1, SeqCst) == 1 {
            theirs.lock().unwrap().take().unwrap().cancel();
        }
        lower.skip(irp)
    });
    // Holds the request until there is a handle.
    let held = Arc::new(Mutex::new(None));
    let holds = held.clone();
    let once = Filter::new("once", move |irp, lower| {
        let mut holds = holds.lock().unwrap();
        if holds.is_some() {
            return lower.skip(irp);
        }
        let (it, disposition) = irp.hold();
        *holds = Some(Some(it));
        disposition
    });
    let file = open(&stack(vec![once, thirds(), below], Bottom::default()), FD);
    h.sim.default_step(Step::GATED);
    let block = read(&file, 12, 0).start().unwrap();
    *handle.lock().unwrap() = Some(block.canceller());
    let it = held.lock().unwrap().as_mut().unwrap().take().unwrap();
    it.redispatch();
    h.turns(2);
    assert_eq!(block.status(), Status::CANCELLED);
    assert_eq!((h.sim.submits(), h.sim.cancels()), (1, 1), "the first alone had got there");
    drop(block);
    drop(file);
    h.finish();
}

/// I-42, I-25: a split request that fails is retried, many times, at once and later: no recursion, no
/// slot is lost, and the last try's result counts.
#[test]
fn i42_many_retries_of_a_split() {
    const TRIES: usize = 5000;
    for pends in [false, true] {
        let h = Harness::new();
        let left = Arc::new(AtomicUsize::new(TRIES));
        let tries = left.clone();
        let retry = Filter::new("retry", |irp, lower| lower.forward(irp, On::ERROR)).completed(
            move |irp| {
                if tries.fetch_sub(1, SeqCst) == 1 {
                    return irp.proceed();
                }
                irp.retry(On::ERROR)
            },
        );
        let file = split_file(vec![retry]);
        let step = if pends { Step::after(1) } else { Step::INLINE };
        h.sim.default_step(step.result(EIO));
        let error = h.block_on(read(&file, 12, 0)).unwrap_err();
        assert_eq!(error.status(), Status::from_errno(5));
        assert_eq!((left.load(SeqCst), h.sim.submits()), (0, TRIES * 3));
        drop(file);
        h.finish();
    }
}

/// I-42: a retry for ever is ended by a cancel.
#[test]
fn i42_a_cancel_ends_retries() {
    let h = Harness::new();
    let retry = Filter::new("retry", |irp, lower| lower.forward(irp, On::ALL))
        .completed(|irp| if irp.status().is_error() { irp.retry(On::ALL) } else { irp.proceed() });
    let file = split_file(vec![retry]);
    h.sim.default_step(Step::after(1).result(EIO));
    let block = read(&file, 12, 0).start().unwrap();
    h.turns(50);
    assert_eq!(block.status(), Status::PENDING);
    block.cancel();
    h.turns(3);
    assert_eq!(block.status(), Status::CANCELLED);
    drop(block);
    drop(file);
    h.finish();
}

/// I-40: a slot that is used again is another request: a handle of the old one cancels nothing, however
/// often the slot has been used, from this thread and from another.
#[test]
fn i40_stale_handles() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    h.sim.default_step(Step::after(1));
    let mut stale = Vec::new();
    for i in 0..200 {
        let block = read(&file, 4, i).start().unwrap();
        // The slot is the same each time: the last one to be freed is the first to be taken.
        assert_eq!(h.processor.live(), 1);
        for old in &stale {
            Cancel::cancel(old);
        }
        if i % 50 == 49 {
            let theirs = stale.clone();
            thread::spawn(move || theirs.iter().for_each(Cancel::cancel)).join().unwrap();
        }
        h.turn();
        assert_eq!(block.status(), Status::SUCCESS);
        stale.push(block.canceller());
        drop(block);
    }
    assert_eq!(h.sim.cancels(), 0);
    // Of one that was complete when its call returned, too.
    h.sim.default_step(Step::INLINE);
    let done = read(&file, 4, 0).start().unwrap();
    let old = done.canceller();
    assert_eq!(done.cancel_io_ex(), Err(Status::NOT_FOUND));
    drop(done);
    h.sim.default_step(Step::after(1));
    let block = read(&file, 4, 0).start().unwrap();
    old.cancel();
    h.turn();
    assert_eq!(block.status(), Status::SUCCESS);
    drop(block);
    drop(file);
    h.finish();
}
