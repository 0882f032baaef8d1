//! Every way a request can pass on and come back: dispatch and unwinding. What it carries: `data.rs`;
//! what becomes of it: `results.rs`; several of one: `splits.rs`.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::{
    CancelSafeQueue, Class, CompletionPort, Driver, Held, Major, On, Part, Stack, StackError,
    Status,
};
use support::*;

const DEEP: Status = Status::OBJECT_NAME_COLLISION;

/// I-22: a driver completes inside dispatch; nobody below sees the request.
#[test]
fn complete_in_dispatch() {
    let h = Harness::new();
    let answer = Filter::new("answer", |mut irp, _| {
        let n = irp.copy_in(0, b"hello");
        irp.complete(Status::SUCCESS, n)
    });
    let file = open(&stack(vec![answer], Bottom::default()), FD);
    assert_eq!(now(&mut read(&file, 16, 0)).unwrap(), (5, b"hello".to_vec()));
    assert_eq!(h.sim.submits(), 0);
    drop(file);
    h.finish();
}

/// I-7, I-9: the bottom completes at once, or later, below filters that skip.
#[test]
fn skip_passes_through() {
    let h = Harness::new();
    let skip = || Filter::new("skip", |irp, lower| lower.skip(irp));
    let file = open(&stack(vec![skip(), skip()], Bottom::default()), FD);
    assert_eq!(now(&mut read(&file, 4, 10)).unwrap(), (4, pattern(10, 4)));
    h.sim.script([Step::after(3)]);
    assert_eq!(h.block_on(read(&file, 4, 20)).unwrap(), (4, pattern(20, 4)));
    assert_eq!(h.block_on(write(&file, b"abc", 5)).unwrap().0, 3);
    assert_eq!(&h.sim.file(FD)[4..9], b"\x04abc\x08");
    drop(file);
    h.finish();
}

/// I-23: which outcomes call a routine: status class × selector, and the cancel *mark*.
#[test]
fn i23_selectors() {
    let statuses = [Status::SUCCESS, Status::from_raw(0x4000_0001), Status::BUFFER_OVERFLOW, DEEP];
    let selectors = [
        On::SUCCESS,
        On::ERROR,
        On::CANCEL,
        On::SUCCESS | On::ERROR,
        On::SUCCESS | On::CANCEL,
        On::ERROR | On::CANCEL,
        On::ALL,
    ];
    for status in statuses {
        for on in selectors {
            for cancelled in [false, true] {
                for pended in [false, true] {
                    i23_case(status, on, cancelled, pended);
                }
            }
        }
    }
}

fn i23_case(status: Status, on: On, cancelled: bool, pended: bool) {
    if cancelled && !pended {
        return; // Nobody can cancel a request that completes in its dispatch.
    }
    let h = Harness::new();
    let called = Arc::new(AtomicUsize::new(0));
    let count = called.clone();
    let watch =
        Filter::new("watch", move |irp, lower| lower.forward(irp, on)).completed(move |irp| {
            assert_eq!(irp.status(), status);
            count.fetch_add(1, SeqCst);
            irp.proceed()
        });
    let parked: Arc<Mutex<Option<Held>>> = Arc::default();
    let keep = parked.clone();
    let end = Filter::new("end", move |irp, _| {
        if !pended {
            return irp.complete(status, 0);
        }
        let (held, disposition) = irp.hold();
        *keep.lock().unwrap() = Some(held);
        disposition
    });
    let file = open(&stack(vec![watch, end], Bottom::default()), FD);
    let port = CompletionPort::new();
    let cancel = plain(&file, Major::Read).post(&port, 1);
    if let Some(held) = parked.lock().unwrap().take() {
        let cancel = cancel.unwrap();
        if cancelled {
            cancel.cancel();
            assert!(held.is_cancelled(), "X-1: the holder can ask");
        }
        held.complete(status, 0);
        let packet = port.remove(Some(std::time::Duration::ZERO)).unwrap();
        assert_eq!(packet.status(), status);
    }
    let selected = (status.is_success() && (on | On::SUCCESS) == on)
        || (!status.is_success() && (on | On::ERROR) == on)
        || (cancelled && (on | On::CANCEL) == on);
    let what = format!("{status:?}, {on:?}, cancelled {cancelled}, pended {pended}");
    assert_eq!(called.load(SeqCst), usize::from(selected), "{what}");
    drop(port);
    drop(file);
    h.finish();
}

/// I-22: completion routines run from the bottom up; each may change the result on the way.
#[test]
fn i22_bottom_to_top_and_status_changes() {
    let h = Harness::new();
    let log = Log::default();
    let layer = |name: &'static str, sets: Option<(Status, usize)>| {
        let (down, up) = (log.clone(), log.clone());
        Filter::new(name, move |irp, lower| {
            down.add(format!("{name} down"));
            lower.forward(irp, On::ALL)
        })
        .completed(move |mut irp| {
            up.add(format!("{name} up {} {}", irp.status().name().unwrap(), irp.info()));
            if let Some((status, info)) = sets {
                irp.set_result(status, info);
            }
            irp.proceed()
        })
    };
    let filters = vec![
        layer("a", Some((Status::SUCCESS, 2))),
        layer("b", None),
        layer("c", Some((Status::ACCESS_DENIED, 0))),
    ];
    let file = open(&stack(filters, Bottom::default()), FD);
    for step in [Step::INLINE, Step::after(1)] {
        h.sim.script([step]);
        // The last word is a's: 2 of the 4 bytes that were read.
        assert_eq!(h.block_on(read(&file, 4, 0)).unwrap(), (2, vec![0, 1]));
        let lines = [
            "a down",
            "b down",
            "c down",
            "c up SUCCESS 4",
            "b up ACCESS_DENIED 0",
            "a up ACCESS_DENIED 0",
        ];
        assert_eq!(log.take(), lines);
    }
    drop(file);
    h.finish();
}

/// I-22: pending is no result to complete with. The driver is reported, those above and the requester see
/// an error, whichever way it was said.
#[test]
fn i22_pending_is_no_result() {
    for how in 0..3 {
        let h = Harness::new();
        let log = Log::default();
        let sees = log.clone();
        let above =
            Filter::new("above", |irp, lower| lower.forward(irp, On::ALL)).completed(move |irp| {
                sees.add(format!("{} {}", irp.status().name().unwrap_or("?"), irp.info()));
                irp.proceed()
            });
        let culprit = Filter::new("culprit", move |irp, lower| match how {
            0 => irp.complete(Status::PENDING, 4),
            1 => {
                let (held, disposition) = irp.hold();
                held.complete(Status::PENDING, 4);
                disposition
            }
            _ => lower.forward(irp, On::ALL),
        })
        .completed(|mut irp| {
            irp.set_result(Status::PENDING, 4);
            irp.proceed()
        });
        let stack = stack(vec![above, culprit], Bottom::default());
        let file = open(&stack, FD);
        let error = h.block_on(read(&file, 4, 0)).unwrap_err();
        assert_eq!(error.status(), Status::DRIVER_INTERNAL_ERROR, "{how}");
        assert_eq!(log.take(), ["DRIVER_INTERNAL_ERROR 0"], "{how}");
        assert_eq!(device(&stack, "culprit"), (false, 1), "{how}");
        assert_eq!(device(&stack, "above"), (false, 0), "{how}");
        drop(file);
        h.finish();
    }
}

/// I-24f: a routine takes the request back; the completion goes on above it when it says so, from
/// this thread or from another.
#[test]
fn i24f_reclaim_and_complete_later() {
    for step in [Step::INLINE, Step::after(1)] {
        for foreign in [false, true] {
            let h = Harness::new();
            let parked: Arc<Mutex<Option<Held>>> = Arc::default();
            let keep = parked.clone();
            let log = Log::default();
            let above = log.clone();
            let top = Filter::new("top", |irp, lower| lower.forward(irp, On::ALL)).completed(
                move |irp| {
                    above.add(format!("{:?}", std::thread::current().id()));
                    irp.proceed()
                },
            );
            let reclaim = Filter::new("reclaim", |irp, lower| lower.forward(irp, On::ALL))
                .completed(move |irp| {
                    assert_eq!(irp.info(), 4);
                    let (held, completion) = irp.reclaim();
                    *keep.lock().unwrap() = Some(held);
                    completion
                });
            let file = open(&stack(vec![top, reclaim], Bottom::default()), FD);
            h.sim.script([step]);
            let wakes = Arc::<Wakes>::default();
            let mut request = read(&file, 4, 8);
            assert!(poll_counting(&mut request, &wakes).is_pending());
            h.turns(3);
            assert!(poll_counting(&mut request, &wakes).is_pending(), "still held");
            assert!(log.take().is_empty());
            let held = parked.lock().unwrap().take().expect("reclaimed");
            assert_eq!((held.major(), held.len(), held.offset()), (Major::Read, 4, 8));
            if foreign {
                std::thread::spawn(move || held.complete(Status::SUCCESS, 3)).join().unwrap();
                h.turn();
            } else {
                held.complete(Status::SUCCESS, 3);
            }
            assert_eq!(wakes.count(), 1, "one wake");
            assert_eq!(now(&mut request).unwrap(), (3, pattern(8, 3)));
            // Completion routines run on the owner's thread.
            assert_eq!(log.take(), [format!("{:?}", std::thread::current().id())]);
            drop(request);
            drop(file);
            h.finish();
        }
    }
}

/// I-42: a routine sends the request down again, any number of times, without recursion.
#[test]
fn i42_retry() {
    for (tries, step) in [(1, Step::INLINE), (1, Step::after(1)), (50_000, Step::INLINE)] {
        let h = Harness::new();
        let left = Arc::new(AtomicUsize::new(tries));
        let retry = Filter::new("retry", |irp, lower| lower.forward(irp, On::ERROR)).completed(
            move |mut irp| {
                assert_eq!(irp.status(), Status::from_errno(5));
                if left.load(SeqCst) == 0 {
                    return irp.proceed();
                }
                left.fetch_sub(1, SeqCst);
                irp.next().set_offset(4);
                irp.retry(On::ERROR)
            },
        );
        let file = open(&stack(vec![retry], Bottom::default()), FD);
        h.sim.script((0..tries).map(|_| step.result(-5)));
        h.sim.script([step]);
        assert_eq!(h.block_on(read(&file, 4, 0)).unwrap(), (4, pattern(4, 4)));
        assert_eq!(h.sim.submits(), tries + 1);
        drop(file);
        h.finish();
    }
}

/// A driver may hold a request and complete it before its dispatch returns: it is not lost.
#[test]
fn held_and_completed_inside_dispatch() {
    let h = Harness::new();
    let hold = Filter::new("hold", |irp, _| {
        let (held, disposition) = irp.hold();
        held.complete(Status::END_OF_FILE, 0);
        disposition
    });
    let file = open(&stack(vec![hold], Bottom::default()), FD);
    let error = now(&mut read(&file, 4, 0)).unwrap_err();
    assert_eq!((error.status(), error.buf().capacity()), (Status::END_OF_FILE, 4));
    drop(file);
    h.finish();
}

/// The driver that holds may be the last to keep the stack alive: its own call is not cut off.
#[test]
fn completes_the_last_request_of_a_file_inside_its_own_dispatch() {
    let h = Harness::new();
    struct Guard(Arc<AtomicBool>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Guard(dropped.clone());
    let seen = Arc::new(AtomicUsize::new(0));
    let (parked, see) = (Arc::new(Mutex::new(None)), seen.clone());
    let keep = parked.clone();
    let hold = Filter::new("hold", move |irp, _| {
        let (held, disposition) = irp.hold();
        if keep.lock().unwrap().is_none() && see.load(SeqCst) == 0 {
            *keep.lock().unwrap() = Some(held);
        } else {
            held.complete(Status::SUCCESS, 0);
            assert!(!guard.0.load(SeqCst), "the driver is dropped while it runs");
        }
        see.fetch_add(1, SeqCst);
        disposition
    })
    .hooks(&[Major::Read]);
    let file = open(&stack(vec![hold], Bottom::default()), FD);
    let port = CompletionPort::new();
    read(&file, 4, 0).post(&port, 1).unwrap();
    drop(file);
    let held: Held = parked.lock().unwrap().take().unwrap();
    held.redispatch();
    assert_eq!(seen.load(SeqCst), 2);
    assert_eq!(port.depth(), 1);
    h.turns(2);
    assert!(dropped.load(SeqCst), "and with the file goes the driver");
    drop(port);
    h.finish();
}

/// As above, when the file's home is another processor, which frees it meanwhile.
#[test]
fn completes_the_last_request_of_a_file_of_another_processor() {
    struct Guard(Arc<AtomicBool>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    let home = Harness::new();
    let dropped = Arc::new(AtomicBool::new(false));
    let guard = Guard(dropped.clone());
    let early = Arc::new(AtomicBool::new(true));
    let see = early.clone();
    let parked: Arc<Mutex<Option<Held>>> = Arc::default();
    let (completed, is_completed) = mpsc::channel();
    let (turned, has_turned) = mpsc::channel::<()>();
    let (keep, passes) = (parked.clone(), AtomicUsize::new(0));
    let signals = Mutex::new((completed, has_turned));
    let hold = Filter::new("hold", move |irp, _| {
        let (held, disposition) = irp.hold();
        if passes.fetch_add(1, SeqCst) == 0 {
            *keep.lock().unwrap() = Some(held);
            return disposition;
        }
        // All that is needed afterwards: if the driver goes, so does what it has.
        let (is_gone, early) = (guard.0.clone(), see.clone());
        let has_turned = {
            let mut signals = signals.lock().unwrap();
            held.complete(Status::SUCCESS, 0);
            signals.0.send(()).unwrap();
            std::mem::replace(&mut signals.1, mpsc::channel().1)
        };
        has_turned.recv().unwrap();
        early.store(is_gone.load(SeqCst), SeqCst);
        disposition
    })
    .hooks(&[Major::Read]);
    let file = open(&stack(vec![hold], Bottom::default()), FD);
    let (sim, theirs) = (home.sim.clone(), file.clone());
    let other = thread::spawn(move || {
        let there = Harness::with(&sim);
        let port = CompletionPort::new();
        read(&theirs, 4, 0).post(&port, 1).unwrap();
        drop(theirs);
        parked.lock().unwrap().take().unwrap().redispatch();
        assert_eq!(port.depth(), 1);
        drop(port);
        there.turns(2);
        assert_eq!(there.processor.shutdown(Duration::ZERO).leaked, 0);
    });
    drop(file);
    home.until("the request is completed", || is_completed.try_recv().is_ok());
    home.turns(10);
    turned.send(()).unwrap();
    other.join().unwrap();
    assert!(!early.load(SeqCst), "the driver is dropped while it runs");
    home.until("with the file goes the driver", || dropped.load(SeqCst));
    home.finish();
}

/// X-10 to X-13: park, remove, then each way on from a `Held`.
#[test]
fn park_then_every_way_on() {
    for foreign in [false, true] {
        for way in ["complete", "forward", "skip", "redispatch", "park again"] {
            let h = Harness::new();
            let queue = Arc::new(CancelSafeQueue::new());
            let (q, open_now) = (queue.clone(), Arc::new(AtomicBool::new(false)));
            let (gate, ups) = (open_now.clone(), Arc::new(AtomicUsize::new(0)));
            let count = ups.clone();
            let park =
                Filter::new(
                    "park",
                    move |irp, lower| {
                        if gate.load(SeqCst) { lower.skip(irp) } else { irp.park(&q) }
                    },
                )
                .completed(move |irp| {
                    count.fetch_add(1, SeqCst);
                    irp.proceed()
                });
            let file = open(&stack(vec![park], Bottom::default()), FD);
            let mut request = read(&file, 4, 12);
            assert!(poll(&mut request).is_pending());
            assert_eq!(queue.len(), 1);
            let held = queue.remove().unwrap();
            assert!(queue.is_empty());
            open_now.store(true, SeqCst);
            let q = queue.clone();
            let act = move || match way {
                "complete" => held.complete(Status::END_OF_FILE, 0),
                "forward" => held.forward(On::ALL),
                "skip" => held.skip(),
                "redispatch" => held.redispatch(),
                _ => q.insert(held),
            };
            if foreign {
                std::thread::spawn(act).join().unwrap();
                h.turn();
            } else {
                act();
            }
            if way == "park again" {
                assert!(poll(&mut request).is_pending());
                assert_eq!(queue.len(), 1);
                queue.remove().unwrap().skip();
            }
            match (way, now(&mut request)) {
                ("complete", result) => {
                    assert_eq!(result.unwrap_err().status(), Status::END_OF_FILE);
                }
                (_, result) => assert_eq!(result.unwrap(), (4, pattern(12, 4))),
            }
            assert_eq!(ups.load(SeqCst), usize::from(way == "forward"));
            drop(request);
            drop(file);
            h.finish();
        }
    }
}

/// Filters see the majors they hook and no others; observers pass what they do not know, and
/// transforming filters refuse it if it carries data.
#[test]
fn hooks_and_classes() {
    let h = Harness::new();
    let log = Log::default();
    let layer = |name: &'static str, hooks: &[Major], class| {
        let seen = log.clone();
        Filter::new(name, move |irp, lower| {
            seen.add(name);
            lower.forward(irp, On::ALL)
        })
        .hooks(hooks)
        .class(class)
    };
    let filters = vec![
        layer("r", &[Major::Read], Class::Observe),
        layer("w", &[Major::Write], Class::Router),
        layer("none", &[], Class::Observe),
        layer("rw", &[Major::Read, Major::Write], Class::Transform),
    ];
    let stack = stack(filters, Bottom::default());
    let file = open(&stack, FD);
    now(&mut read(&file, 1, 0)).unwrap();
    assert_eq!(log.take(), ["r", "rw"]);
    now(&mut write(&file, b"x", 0)).unwrap();
    assert_eq!(log.take(), ["w", "rw"]);
    // Carries no data: passes the transformer.
    assert_eq!(now(&mut plain(&file, Major::Flush)).0, Status::SUCCESS);
    // Carries data, and the transformer does not know it.
    assert_eq!(now(&mut plain(&file, Major::Private)).0, Status::NOT_SUPPORTED);
    assert_eq!(now(&mut plain(&file, Major::DeviceControl)).0, Status::NOT_SUPPORTED);
    assert!(log.take().is_empty());
    let path: Vec<_> = stack.explain(Major::Private).map(|v| v.device.name().to_owned()).collect();
    assert_eq!(path, ["rw", "bottom"]);
    assert_eq!(stack.devices().len(), 5);
    drop(file);
    h.finish();
}

/// V-13 cannot happen: below the bottom is an error, whichever way a driver goes there.
#[test]
fn below_the_bottom() {
    let h = Harness::new();
    let ways: [fn(overlapped_iomgr::Irp<'_>, overlapped_iomgr::Lower<'_>) -> _; 4] = [
        |irp, lower| lower.skip(irp),
        |irp, lower| lower.forward(irp, On::ALL),
        |mut irp, lower| {
            irp.next().set_offset(1);
            lower.skip(irp)
        },
        |irp, _| irp.split(&[Part { start: 0, len: 1, offset: 0 }]),
    ];
    for way in ways {
        let bottom: Arc<dyn Driver> = Arc::new(Filter::new("end", way));
        let watch: Arc<dyn Driver> =
            Arc::new(Filter::new("watch", |irp, lower| lower.forward(irp, On::ERROR)));
        for filters in [vec![], vec![watch]] {
            let file = open(&Stack::new(filters, bottom.clone()).unwrap(), -1);
            let error = now(&mut read(&file, 4, 0)).unwrap_err();
            assert_eq!(error.status(), Status::INVALID_DEVICE_REQUEST);
        }
    }
    // A held request too, from this thread and another.
    let keep: Arc<Mutex<Option<Held>>> = Arc::default();
    let hold = keep.clone();
    let bottom = Filter::new("end", move |irp, _| {
        let (held, disposition) = irp.hold();
        *hold.lock().unwrap() = Some(held);
        disposition
    });
    let file = open(&Stack::new([], Arc::new(bottom)).unwrap(), -1);
    for foreign in [false, true] {
        let mut request = read(&file, 4, 0);
        assert!(poll(&mut request).is_pending());
        let held = keep.lock().unwrap().take().unwrap();
        if foreign {
            std::thread::spawn(move || held.forward(On::ALL)).join().unwrap();
            h.turn();
        } else {
            held.skip();
        }
        assert_eq!(now(&mut request).unwrap_err().status(), Status::INVALID_DEVICE_REQUEST);
    }
    drop(file);
    h.finish();
}

/// O-10: a stack of 64 works, whatever its drivers do; 65 is refused.
#[test]
fn depth_limit() {
    let h = Harness::new();
    for forwards in [false, true] {
        let layers = |n| {
            (0..n).map(move |i| {
                Arc::new(Filter::new(format!("layer {i}"), move |mut irp, lower| {
                    if !forwards {
                        return lower.skip(irp);
                    }
                    let at = irp.offset();
                    irp.next().set_offset(at + 1);
                    lower.forward(irp, On::ALL)
                })) as Arc<dyn Driver>
            })
        };
        for depth in [1, 2, 3, 4, 8, 9, 63, 64] {
            let stack = Stack::new(layers(depth - 1), Arc::new(Bottom::default())).unwrap();
            let file = open(&stack, FD);
            for step in [Step::INLINE, Step::after(1)] {
                h.sim.script([step]);
                let at = if forwards { depth - 1 } else { 0 };
                assert_eq!(h.block_on(read(&file, 4, 0)).unwrap(), (4, pattern(at, 4)));
            }
        }
        let error = Stack::new(layers(64), Arc::new(Bottom::default())).unwrap_err();
        assert_eq!(error, StackError::TooDeep { drivers: 65 });
        assert!(error.to_string().contains("65"));
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
    }
    h.finish();
}

/// I-8, I-9: a driver that prepared the next location and then skips has its changes obeyed.
#[test]
fn skip_after_changing_the_next_location() {
    let h = Harness::new();
    let up = Arc::new(AtomicUsize::new(0));
    let count = up.clone();
    let shift = Filter::new("shift", |mut irp, lower| {
        irp.next().set_offset(9).set_len(2);
        lower.skip(irp)
    })
    .completed(move |irp| {
        count.fetch_add(1, SeqCst);
        irp.proceed()
    });
    let file = open(&stack(vec![shift], Bottom::default()), FD);
    assert_eq!(now(&mut read(&file, 4, 0)).unwrap(), (2, pattern(9, 2)));
    assert_eq!(up.load(SeqCst), 0);
    drop(file);
    h.finish();
}

/// I-9: what a driver had lent is back when it skips; the driver below, which has its location then, keeps
/// a value of its own there.
#[test]
fn skip_after_lending() {
    let h = Harness::new();
    let parked: Arc<Mutex<Option<Held>>> = Arc::default();
    let keep = parked.clone();
    let passes = AtomicUsize::new(0);
    let lends = Filter::new("lends", move |mut irp, lower| {
        if passes.fetch_add(1, SeqCst) > 0 {
            return lower.skip(irp);
        }
        irp.next().lend_mut(vec![0; 4]);
        lower.forward(irp, On::ALL)
    })
    .completed(move |irp| {
        let (held, completion) = irp.reclaim();
        *keep.lock().unwrap() = Some(held);
        completion
    });
    let keeps = Filter::new("keeps", |mut irp, lower| {
        irp.next().set_len(3);
        irp.set_scratch(5usize);
        lower.forward(irp, On::ALL)
    })
    .completed(|mut irp| {
        assert_eq!((irp.scratch(), irp.info()), (Some(&5usize), 3));
        irp.set_result(Status::SUCCESS, 2);
        irp.proceed()
    });
    let file = open(&stack(vec![lends, keeps], Bottom::default()), FD);
    let mut request = read(&file, 4, 8);
    assert!(poll(&mut request).is_pending());
    parked.lock().unwrap().take().expect("reclaimed").redispatch();
    assert_eq!(h.block_on(request).unwrap(), (2, pattern(8, 2)));
    drop(file);
    h.finish();
}
