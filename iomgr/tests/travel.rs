//! How a request moves from driver to driver (Z-13): in a loop, and in the order in which drivers pass
//! requests on.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use overlapped_iomgr::wait::Alertable;
use overlapped_iomgr::{CancelSafeQueue, FileHandle, Held, MAX_LOCATIONS, On, Request, Status};
use support::*;

/// What the drivers of a test leave for each other.
type Shelf<T> = Arc<Mutex<Option<T>>>;

/// However deep a stack is, its drivers' calls stand side by side on the thread's own.
#[test]
fn z13_calls_do_not_nest() {
    let (open_calls, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let filters = (0..MAX_LOCATIONS - 1).map(|i| {
        let (open_calls, seen) = (open_calls.clone(), seen.clone());
        Filter::new("counts", move |irp, lower| {
            assert_eq!(open_calls.fetch_add(1, SeqCst), 0, "inside another's");
            let passed_on = if i % 2 == 0 { lower.skip(irp) } else { lower.forward(irp, On::ALL) };
            seen.fetch_add(1, SeqCst);
            open_calls.fetch_sub(1, SeqCst);
            passed_on
        })
    });
    let stack = stack(filters.collect(), Bottom::default());
    let harness = Harness::new();
    let file = open(&stack, FD);
    now(&mut read(&file, 4, 0)).unwrap();
    assert_eq!(seen.load(SeqCst), MAX_LOCATIONS - 1);
    drop(file);
    harness.finish();
}

/// A driver that passes two requests on in one dispatch says which is the first to meet the next driver.
#[test]
fn what_is_passed_on_first_comes_first() {
    for kept_first in [true, false] {
        let queue = Arc::new(CancelSafeQueue::new());
        let kept = queue.clone();
        let two = Filter::new("two", move |irp, lower| match irp.offset() {
            1 => irp.park(&kept),
            2 => {
                let parked = kept.remove().expect("parked before");
                if kept_first {
                    parked.forward(On::ALL);
                    lower.forward(irp, On::ALL)
                } else {
                    let passed_on = lower.forward(irp, On::ALL);
                    parked.forward(On::ALL);
                    passed_on
                }
            }
            _ => lower.skip(irp),
        });
        let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
        let sees = seen.clone();
        let below = Filter::new("below", move |irp, lower| {
            sees.lock().unwrap().push(irp.offset());
            lower.skip(irp)
        });
        let stack = stack(vec![two, below], Bottom::default());
        let harness = Harness::new();
        let file = open(&stack, FD);
        let mut first = read(&file, 4, 1);
        assert!(poll(&mut first).is_pending());
        now(&mut read(&file, 4, 2)).unwrap();
        harness.block_on(first).unwrap();
        let order = if kept_first { [1, 2] } else { [2, 1] };
        assert_eq!(*seen.lock().unwrap(), order);
        drop(file);
        harness.finish();
    }
}

/// A filter that writes down the offsets that come to it.
fn notes(seen: &Arc<Mutex<Vec<u64>>>) -> Filter {
    let seen = seen.clone();
    Filter::new("notes", move |irp, lower| {
        seen.lock().unwrap().push(irp.offset());
        lower.skip(irp)
    })
}

/// A filter that passes the request at 1 on, and then issues one at 2 of the file on the shelf.
fn issues(target: &Shelf<FileHandle>) -> Filter {
    let target = target.clone();
    Filter::new("issues", move |irp, lower| {
        if irp.offset() != 1 {
            return lower.skip(irp);
        }
        let passed_on = lower.forward(irp, On::ALL);
        let file = target.lock().unwrap().take().unwrap();
        now(&mut Request::owned(file, Read { buf: Vec::with_capacity(4), offset: 2 })).unwrap();
        passed_on
    })
}

/// A driver's own request, issued when it has passed another one on, comes after that.
#[test]
fn what_is_issued_comes_after_what_was_passed_on() {
    let (seen, target): (Arc<Mutex<Vec<u64>>>, Shelf<FileHandle>) = Default::default();
    let issues = issues(&target);
    let stack = stack(vec![issues, notes(&seen)], Bottom::default());
    let harness = Harness::new();
    let file = open(&stack, FD);
    *target.lock().unwrap() = Some(file.clone());
    now(&mut read(&file, 4, 1)).unwrap();
    assert_eq!(*seen.lock().unwrap(), [1, 2]);
    drop(file);
    harness.finish();
}

/// Nor does it overtake when the request that was passed on stays with a driver below, pends or ends in
/// the middle.
#[test]
fn what_was_passed_on_may_pend_or_be_kept_before_its_driver_returns() {
    for way in ["pends", "is kept", "is completed", "panics"] {
        let (seen, kept): (Arc<Mutex<Vec<u64>>>, Shelf<Held>) = Default::default();
        let target: Shelf<FileHandle> = Arc::default();
        let issues = issues(&target);
        let keep = kept.clone();
        let below = Filter::new("below", move |mut irp, lower| match (irp.offset(), way) {
            (1, "is kept") => {
                let (held, disposition) = irp.hold();
                *keep.lock().unwrap() = Some(held);
                disposition
            }
            (1, "is completed") => {
                let n = irp.copy_in(0, &[1; 4]);
                irp.complete(Status::SUCCESS, n)
            }
            (1, "panics") => panic!("wanted"),
            _ => lower.skip(irp),
        });
        let stack = stack(vec![issues, notes(&seen), below], Bottom::default());
        let harness = Harness::new();
        if way == "pends" {
            harness.sim.script([Step::after(2)]);
        }
        let file = open(&stack, FD);
        *target.lock().unwrap() = Some(file.clone());
        let mut first = read(&file, 4, 1);
        let polled = poll(&mut first);
        assert_eq!(*seen.lock().unwrap(), [1, 2], "{way}");
        if let Some(held) = kept.lock().unwrap().take() {
            held.skip();
        }
        let result = match polled {
            std::task::Poll::Ready(result) => result,
            std::task::Poll::Pending => harness.block_on(&mut first),
        };
        match way {
            "panics" => {
                let status = result.unwrap_err().status();
                assert_eq!(status, Status::DRIVER_INTERNAL_ERROR);
                assert!(device(&stack, "below").0);
            }
            _ => assert_eq!(result.unwrap().0, 4, "{way}"),
        }
        assert_eq!(device(&stack, "issues"), (false, 0), "{way}");
        drop(first);
        drop(file);
        harness.finish();
    }
}

/// A request that is parked by its issue, from a driver that has passed another one on, gets its turn.
#[test]
fn i35_a_request_parked_behind_another_gets_its_turn() {
    let kept: Shelf<Held> = Arc::default();
    let second: Shelf<Request<'static, Read<Vec<u8>>>> = Arc::default();
    let target: Shelf<FileHandle> = Arc::default();
    let keep = kept.clone();
    let keeps = Filter::new("keeps", move |irp, lower| {
        if irp.offset() != 1 {
            return lower.skip(irp);
        }
        let (held, disposition) = irp.hold();
        *keep.lock().unwrap() = Some(held);
        disposition
    });
    let (own, file) = (second.clone(), target.clone());
    let issues = Filter::new("issues", move |irp, lower| {
        let passed_on = lower.forward(irp, On::ALL);
        let file = file.lock().unwrap().take().unwrap();
        let mut request = Request::owned(file, Read { buf: Vec::with_capacity(4), offset: 2 });
        assert!(poll(&mut request).is_pending());
        *own.lock().unwrap() = Some(request);
        passed_on
    });
    let ends = Filter::new("ends", move |irp, lower| {
        let held = kept.lock().unwrap().take().unwrap();
        held.complete(Status::SUCCESS, 0);
        lower.skip(irp)
    });
    let (one, two) =
        (stack(vec![keeps], Bottom::default()), stack(vec![issues, ends], Bottom::default()));
    let harness = Harness::new();
    harness.sim.default_step(Step::after(1));
    let file = open(&one, FD);
    file.make_synchronous(Alertable::No).unwrap();
    let other = open(&two, FD);
    *target.lock().unwrap() = Some(file.clone());
    let mut first = read(&file, 4, 1);
    assert!(poll(&mut first).is_pending());
    harness.block_on(read(&other, 4, 0)).unwrap();
    now(&mut first).unwrap();
    let request = second.lock().unwrap().take().unwrap();
    harness.block_on(request).unwrap();
    drop(first);
    drop((file, other));
    harness.finish();
}

/// What is put into a queue by a driver that has passed another request on is there at once.
#[test]
fn a_queue_has_what_is_put_in_behind_another() {
    let (queue, kept) = (Arc::new(CancelSafeQueue::new()), Shelf::<Held>::default());
    let inserted = queue.clone();
    let queues = Filter::new("queues", move |irp, lower| match irp.offset() {
        1 => {
            let (held, disposition) = irp.hold();
            *kept.lock().unwrap() = Some(held);
            disposition
        }
        2 => {
            let passed_on = lower.forward(irp, On::ALL);
            inserted.insert(kept.lock().unwrap().take().unwrap());
            assert_eq!(inserted.len(), 1);
            passed_on
        }
        _ => irp.park(&inserted),
    });
    let stack = stack(vec![queues], Bottom::default());
    let harness = Harness::new();
    let file = open(&stack, FD);
    let mut first = read(&file, 4, 1);
    assert!(poll(&mut first).is_pending());
    now(&mut read(&file, 4, 2)).unwrap();
    let mut third = read(&file, 4, 3);
    assert!(poll(&mut third).is_pending());
    for offset in [1, 3] {
        let held = queue.remove().unwrap();
        assert_eq!(held.offset(), offset);
        held.complete(Status::SUCCESS, 0);
    }
    now(&mut first).unwrap();
    now(&mut third).unwrap();
    drop((first, third));
    drop((file, stack));
    harness.finish();
}
