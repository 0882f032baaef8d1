//! Every way a request can end, pass on and come back: dispatch, unwinding, final completion.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use overlapped_iomgr::{
    CancelSafeQueue, Class, CompletionPort, Driver, Held, Major, On, Part, Stack, StackError,
    Status,
};
use support::*;

const DEEP: Status = Status::OBJECT_NAME_COLLISION;

fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|i| i as u8).collect()
}

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

fn splitter(parts: Vec<Part>) -> Filter {
    Filter::new("split", move |irp, _| irp.split(&parts))
}

fn part(start: u32, len: u32, offset: u64) -> Part {
    Part { start, len, offset }
}

/// I-25: a parent completes when its children have; its result is what a reader of the whole range
/// can use.
#[test]
fn i25_split() {
    let parts = || vec![part(0, 4, 100), part(4, 4, 200), part(8, 4, 300)];
    let all: Vec<u8> = [pattern(100, 4), pattern(200, 4), pattern(300, 4)].concat();
    let fail = -5;
    let eio = Status::from_errno(5);
    // The children's steps, and what comes of it.
    let cases: Vec<([Step; 3], Result<usize, Status>)> = vec![
        ([Step::INLINE; 3], Ok(12)),
        ([Step::after(3), Step::after(1), Step::after(2)], Ok(12)),
        ([Step::INLINE, Step::after(2), Step::INLINE], Ok(12)),
        ([Step::INLINE, Step::INLINE.limit(2), Step::INLINE], Ok(6)),
        ([Step::after(2).limit(0), Step::after(1), Step::INLINE], Ok(0)),
        ([Step::INLINE, Step::after(1).result(fail), Step::INLINE], Ok(4)),
        ([Step::after(2).result(fail), Step::INLINE, Step::after(1)], Err(eio)),
        ([Step::INLINE, Step::INLINE, Step::INLINE.result(fail)], Ok(8)),
        ([Step::INLINE.result(fail); 3], Err(eio)),
    ];
    for (steps, expected) in cases {
        for reversed in [false, true] {
            let h = Harness::new();
            // The order of the parts decides the result; the order of completion does not.
            let file = open(&stack(vec![splitter(parts())], Bottom::default()), FD);
            h.sim.script(steps);
            let request = read(&file, 12, 0);
            match (h.block_on(request), expected) {
                (Ok((n, buf)), Ok(m)) => assert_eq!((n, &buf[..]), (m, &all[..m]), "{steps:?}"),
                (Err(e), Err(status)) => assert_eq!(e.status(), status, "{steps:?}"),
                (got, _) => panic!("{steps:?}: {:?}", got.map(|r| r.0)),
            }
            assert_eq!(h.sim.submits(), 3);
            if reversed {
                h.sim.script(steps);
                let result = h.block_on(write(&file, &[7; 12], 0));
                assert_eq!(result.map(|r| r.0).map_err(|e| e.status()), expected);
            }
            drop(file);
            h.finish();
        }
    }
}

/// The order in which parts are given need not be that of the data.
#[test]
fn i25_split_out_of_order() {
    let h = Harness::new();
    let parts = vec![part(8, 4, 300), part(0, 4, 100), part(4, 4, 200)];
    let file = open(&stack(vec![splitter(parts)], Bottom::default()), FD);
    h.sim.script([Step::after(1), Step::after(3), Step::after(2)]);
    let (n, buf) = h.block_on(read(&file, 12, 0)).unwrap();
    assert_eq!(n, 12);
    assert_eq!(buf, [pattern(100, 4), pattern(200, 4), pattern(300, 4)].concat());
    drop(file);
    h.finish();
}

/// A split below a split, with filters between.
#[test]
fn i25_nested_splits() {
    let h = Harness::new();
    let half = || {
        Filter::new("half", |irp, _| {
            let (n, at) = (irp.len() as u32, irp.offset());
            irp.split(&[part(0, n / 2, at), part(n / 2, n - n / 2, at + u64::from(n / 2))])
        })
    };
    let watch = Filter::new("watch", |irp, lower| lower.forward(irp, On::ALL));
    let file = open(&stack(vec![half(), watch, half(), half()], Bottom::default()), FD);
    for step in [Step::INLINE, Step::after(2)] {
        h.sim.default_step(step);
        assert_eq!(h.block_on(read(&file, 64, 32)).unwrap(), (64, pattern(32, 64)));
    }
    assert_eq!(h.sim.submits(), 16);
    drop(file);
    h.finish();
}

/// Parts that make no sense, and requests that cannot be split.
#[test]
fn split_refuses() {
    let h = Harness::new();
    for parts in [vec![], vec![part(0, 5, 0)], vec![part(4, 1, 0)], vec![part(u32::MAX, 1, 0)]] {
        let file = open(&stack(vec![splitter(parts)], Bottom::default()), FD);
        let error = now(&mut read(&file, 4, 0)).unwrap_err();
        assert_eq!(error.status(), Status::INVALID_PARAMETER);
    }
    let file = open(&stack(vec![splitter(vec![part(0, 1, 0)])], Bottom::default()), FD);
    let bufs = vec![vec![0; 2]; 2];
    let request = Vectored { bufs, offset: 0, write: false };
    let mut request = overlapped_iomgr::Request::new(&file, request);
    assert_eq!(now(&mut request).0, Status::NOT_SUPPORTED);
    drop(request);
    drop(file);
    h.finish();
}

/// X-1: cancelling the parent cancels the children, also those of children.
#[test]
fn cancel_of_a_split_parent() {
    let h = Harness::new();
    let half = || {
        Filter::new("half", |irp, _| {
            let n = irp.len() as u32;
            irp.split(&[part(0, n / 2, 0), part(n / 2, n - n / 2, 0)])
        })
    };
    let file = open(&stack(vec![half(), half()], Bottom::default()), FD);
    h.sim.default_step(Step::GATED);
    let port = CompletionPort::new();
    let cancel = read(&file, 16, 0).post(&port, 9).unwrap();
    assert_eq!(h.processor.live(), 7);
    cancel.cancel();
    h.turns(2);
    assert_eq!(h.sim.cancels(), 4);
    let packet = port.remove(Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!((packet.status(), packet.key()), (Status::CANCELLED, 9));
    drop((packet, file));
    h.finish();
}

/// Scratch is each location's own, and dropped when the request has unwound past it.
#[test]
fn scratch_is_per_location() {
    #[derive(Clone)]
    struct Mark(&'static str, Log);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.1.add(format!("drop {}", self.0));
        }
    }
    let h = Harness::new();
    let log = Log::default();
    let layer = |name: &'static str| {
        let (down, up) = (log.clone(), log.clone());
        Filter::new(name, move |mut irp, lower| {
            assert!(irp.scratch::<Mark>().is_none(), "{name} starts without");
            irp.set_scratch(Mark(name, down.clone()));
            lower.forward(irp, On::ALL)
        })
        .completed(move |irp| {
            let mark = irp.scratch::<Mark>().expect("kept");
            assert_eq!(mark.0, name);
            up.add(format!("up {name}"));
            irp.proceed()
        })
    };
    let file = open(&stack(vec![layer("a"), layer("b"), layer("c")], Bottom::default()), FD);
    for step in [Step::INLINE, Step::after(2)] {
        h.sim.script([step]);
        h.block_on(read(&file, 4, 0)).unwrap();
        assert_eq!(
            log.take(),
            ["up c", "drop c", "up b", "drop b", "up a", "drop a"].map(String::from)
        );
    }
    // I-23d: dropped also where no routine runs.
    drop(file);
    let keep = log.clone();
    let blind = Filter::new("blind", move |mut irp, lower| {
        irp.set_scratch(Mark("blind", keep.clone()));
        lower.forward(irp, On::ERROR)
    });
    let file = open(&stack(vec![blind], Bottom::default()), FD);
    h.block_on(read(&file, 4, 0)).unwrap();
    assert_eq!(log.take(), ["drop blind"]);
    drop(file);
    // I-9: nor does a driver that gets the location of one that has skipped get what that kept there.
    let skips = |name: &'static str| {
        let keep = log.clone();
        Filter::new(name, move |mut irp, lower| {
            keep.add(format!("{name} has {}", irp.scratch::<Mark>().map_or("none", |mark| mark.0)));
            irp.set_scratch(Mark(name, keep.clone()));
            lower.skip(irp)
        })
    };
    let file = open(&stack(vec![skips("a"), skips("b")], Bottom::default()), FD);
    h.block_on(read(&file, 4, 0)).unwrap();
    assert_eq!(log.take(), ["a has none", "drop a", "b has none", "drop b"]);
    drop(file);
    h.finish();
}

/// A write goes down with a lent buffer; the caller's comes back untouched.
#[test]
fn lent_buffers() {
    for step in [Step::INLINE, Step::after(2)] {
        let h = Harness::new();
        let xor = Filter::new("xor", |mut irp, lower| {
            let bytes: Vec<u8> = irp.segments().flatten().map(|b| b ^ 0xFF).collect();
            irp.next().lend(bytes);
            lower.forward(irp, On::ALL)
        })
        .completed(|irp| {
            assert_eq!(irp.lent::<Vec<u8>>().unwrap(), &[!b'a', !b'b']);
            assert_eq!(irp.segments().collect::<Vec<_>>(), [b"ab"], "the caller's, in place");
            irp.proceed()
        })
        .hooks(&[Major::Write]);
        let file = open(&stack(vec![xor], Bottom::default()), FD);
        h.sim.script([step]);
        let buf = b"ab".to_vec();
        let address = buf.as_ptr();
        let request = overlapped_iomgr::Request::new(&file, Write { buf, offset: 0 });
        let (n, buf) = h.block_on(request).unwrap();
        assert_eq!((n, &buf[..], buf.as_ptr()), (2, &b"ab"[..], address));
        assert_eq!(&h.sim.file(FD)[..3], [!b'a', !b'b', 2]);
        drop(file);
        h.finish();
    }
}

/// A read goes down with a lent buffer, and the driver copies up what it likes.
#[test]
fn lent_buffers_for_reads() {
    let h = Harness::new();
    let bounce = Filter::new("bounce", |mut irp, lower| {
        irp.next().lend_mut(vec![0u8; 8]);
        lower.forward(irp, On::ALL)
    })
    .completed(|mut irp| {
        assert_eq!(irp.info(), 8);
        assert_eq!(irp.received_mut().count(), 0, "nothing is in the caller's buffer yet");
        let lent = irp.lent::<Vec<u8>>().unwrap()[2..5].to_vec();
        assert_eq!(irp.copy_in(0, &lent), 3);
        irp.set_result(Status::SUCCESS, 3);
        irp.proceed()
    });
    let file = open(&stack(vec![bounce], Bottom::default()), FD);
    for step in [Step::INLINE, Step::after(1)] {
        h.sim.script([step]);
        assert_eq!(h.block_on(read(&file, 16, 0)).unwrap(), (3, vec![2, 3, 4]));
    }
    drop(file);
    h.finish();
}

/// What was read can be changed in place, segment by segment, and nothing beyond it.
#[test]
fn received_mut_is_what_was_read() {
    let h = Harness::new();
    let xor =
        Filter::new("xor", |irp, lower| lower.forward(irp, On::SUCCESS)).completed(|mut irp| {
            let total: usize = irp.received_mut().map(|s| s.len()).sum();
            assert_eq!(total, irp.info());
            irp.received_mut().flatten().for_each(|b| *b ^= 0xFF);
            irp.proceed()
        });
    let file = open(&stack(vec![xor], Bottom::default()), FD);
    let (n, buf) = h.block_on(read(&file, 10, 4094)).unwrap();
    assert_eq!((n, buf), (2, vec![!0xFE, !0xFF]));
    h.sim.script([Step::after(1).limit(5)]);
    let bufs = vec![Vec::with_capacity(3), Vec::with_capacity(3), Vec::with_capacity(3)];
    let request = Vectored { bufs, offset: 1, write: false };
    let (status, n, _) = h.block_on(overlapped_iomgr::Request::new(&file, request));
    assert_eq!((status, n), (Status::SUCCESS, 5));
    drop(file);
    h.finish();
}

/// A filter cannot show the requester, or itself, bytes that nobody has filled.
#[test]
fn s9_unfilled_bytes_are_never_reported() {
    let h = Harness::new();
    let liar =
        Filter::new("liar", |irp, lower| lower.forward(irp, On::ALL)).completed(|mut irp| {
            irp.set_result(Status::SUCCESS, 64);
            let shown: usize = irp.received_mut().map(|s| s.len()).sum();
            assert_eq!(shown, 5);
            irp.proceed()
        });
    let stack = stack(vec![liar], Bottom::default());
    let file = open(&stack, FD);
    h.sim.script([Step::after(1).limit(5)]);
    assert_eq!(h.block_on(read(&file, 64, 0)).unwrap(), (5, pattern(0, 5)));
    assert_eq!(device(&stack, "liar"), (false, 1));
    drop(file);
    h.finish();
}

/// I-29, V-19: more bytes than there are is a driver bug: clamped and reported.
#[test]
fn i29_information_is_clamped() {
    let h = Harness::new();
    for step in [Step::INLINE, Step::after(1)] {
        let quirks = Arc::new(Quirks { overstate: 1000, ..Quirks::default() });
        let stack = stack(vec![], Bottom { quirks, ..Bottom::default() });
        let file = open(&stack, FD);
        h.sim.script([step, step]);
        assert_eq!(h.block_on(read(&file, 8, 0)).unwrap(), (8, pattern(0, 8)));
        assert_eq!(h.block_on(write(&file, b"123", 100)).unwrap().0, 3);
        assert_eq!(device(&stack, "bottom"), (false, 2));
    }
    h.finish();
}

/// I-27: completion inside dispatch wakes nobody; a pended one wakes once.
#[test]
fn i27_inline_completion_does_not_wake() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let wakes = Arc::<Wakes>::default();
    assert!(poll_counting(&mut read(&file, 4, 0), &wakes).is_ready());
    assert_eq!(wakes.count(), 0);
    h.sim.script([Step::after(1)]);
    let mut request = read(&file, 4, 0);
    assert!(poll_counting(&mut request, &wakes).is_pending());
    assert!(poll_counting(&mut request, &wakes).is_pending());
    assert_eq!(wakes.count(), 0);
    h.turn();
    assert_eq!(wakes.count(), 1);
    assert!(poll_counting(&mut request, &wakes).is_ready());
    assert_eq!(h.sim.wakes(), 0, "nor does it wake the processor");
    drop(request);
    drop(file);
    h.finish();
}

/// The waker of the last poll is the one that is woken.
#[test]
fn the_last_waker_counts() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    h.sim.script([Step::after(1)]);
    let (first, second) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
    let mut request = read(&file, 4, 0);
    assert!(poll_counting(&mut request, &first).is_pending());
    assert!(poll_counting(&mut request, &second).is_pending());
    h.turn();
    assert_eq!((first.count(), second.count()), (0, 1));
    drop(request);
    drop(file);
    h.finish();
}

/// I-31: an immediate error posts no packet; C-8: an immediate success posts exactly one.
#[test]
fn i31_c8_immediate_results_and_ports() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = CompletionPort::new();
    let zero = Some(std::time::Duration::ZERO);

    h.sim.script([Step::INLINE.result(-9)]);
    let error = read(&file, 4, 0).post(&port, 1).unwrap_err().unwrap_err();
    assert_eq!((error.status(), error.buf().capacity()), (Status::from_errno(9), 4));
    assert_eq!(port.depth(), 0);

    read(&file, 4, 7).post(&port, 2).unwrap().cancel();
    assert_eq!(port.depth(), 1);
    let packet = port.remove(zero).unwrap();
    assert_eq!((packet.key(), packet.info()), (2, 4));
    assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap(), (4, pattern(7, 4)));

    // I-30: a pended error does post.
    h.sim.script([Step::after(1).result(-9)]);
    read(&file, 4, 0).post(&port, 3).unwrap();
    h.turn();
    let packet = port.remove(zero).unwrap();
    assert_eq!((packet.key(), packet.status()), (3, Status::from_errno(9)));
    assert!(packet.into_output::<Read<Vec<u8>>>().is_err());

    // I-39: a refused request posts nothing either, and gives the operation back.
    let operation = Plain { check: Status::INVALID_PARAMETER, ..Plain::new(Major::Flush) };
    let refused = overlapped_iomgr::Request::new(&file, operation).post(&port, 4);
    assert_eq!(refused.unwrap_err(), (Status::INVALID_PARAMETER, 0));
    assert!(port.remove(zero).is_err());
    drop((file, port));
    h.finish();
}

/// I-30: a warning is delivered like a success, with its data.
#[test]
fn i30_warnings_are_delivered() {
    let h = Harness::new();
    let warn =
        Filter::new("warn", |irp, lower| lower.forward(irp, On::ALL)).completed(|mut irp| {
            let n = irp.info();
            irp.set_result(Status::BUFFER_OVERFLOW, n);
            irp.proceed()
        });
    let file = open(&stack(vec![warn], Bottom::default()), FD);
    assert_eq!(now(&mut read(&file, 4, 0)).unwrap(), (4, pattern(0, 4)));
    let port = CompletionPort::new();
    read(&file, 4, 0).post(&port, 1).unwrap();
    let packet = port.remove(Some(std::time::Duration::ZERO)).unwrap();
    assert_eq!((packet.status(), packet.info()), (Status::BUFFER_OVERFLOW, 4));
    drop((packet, file, port));
    h.finish();
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

/// X-33: CLEANUP when the last handle goes, CLOSE when the last request has gone too; `settled`
/// once for each request that asked for it.
#[test]
fn x33_close_and_settled() {
    let h = Harness::new();
    let (counts, quirks) = (Arc::default(), Arc::new(Quirks { settle: true, ..Quirks::default() }));
    let bottom = Bottom { counts: Arc::clone(&counts), quirks };
    let seen = Log::default();
    let log = seen.clone();
    let watch = Filter::new("watch", move |irp, lower| {
        log.add(format!("{:?}", irp.major()));
        lower.skip(irp)
    })
    .hooks(&[Major::Read, Major::Cleanup, Major::Close]);
    let file = open(&stack(vec![watch], bottom), FD);
    now(&mut read(&file, 4, 0)).unwrap();
    assert_eq!(counts.settled.load(SeqCst), 1);
    h.sim.script([Step::GATED.deaf()]);
    let port = CompletionPort::new();
    read(&file, 4, 0).post(&port, 0).unwrap();
    drop(file.clone());
    assert_eq!(seen.take(), ["Read", "Read"]);
    drop(file);
    assert_eq!(seen.take(), ["Cleanup"]);
    assert_eq!((h.sim.cancels(), counts.closed.load(SeqCst)), (1, 0));
    h.turn();
    assert_eq!((counts.settled.load(SeqCst), counts.closed.load(SeqCst)), (1, 0));
    h.sim.open_gate();
    h.turn();
    assert_eq!(seen.take(), ["Close"]);
    assert_eq!((counts.settled.load(SeqCst), counts.closed.load(SeqCst)), (2, 1));
    assert_eq!(port.depth(), 1, "X-5: the read succeeded all the same");
    drop(port);
    h.finish();
}

/// The bits of a status survive the way to `io::Error` and back.
#[test]
fn status_round_trip() {
    let mut bits: Vec<u32> = (0..=0xFFFF).map(|errno| 0xE00E_0000 | errno).collect();
    let mut x = 0x1234_5678_u32;
    for _ in 0..100_000 {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        bits.push(x);
    }
    bits.extend([0, 0x103, 0x8000_0005, 0xC000_0120, u32::MAX]);
    for bits in bits {
        let status = Status::from_raw(bits);
        assert_eq!(Status::from(std::io::Error::from(status)), status, "{bits:08X}");
    }
}

/// A processor can be used again and again: slots go back.
#[test]
fn many_requests_one_slab() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    h.sim.default_step(Step::after(1));
    for round in 0..20 {
        let mut requests: Vec<_> = (0..200).map(|i| read(&file, 4, i)).collect();
        for request in &mut requests {
            assert!(matches!(poll(request), Poll::Pending));
        }
        assert_eq!(h.processor.live(), 200);
        h.turn();
        for (i, request) in requests.iter_mut().enumerate() {
            assert_eq!(now(request).unwrap(), (4, pattern(i, 4)), "round {round}");
        }
        assert_eq!(h.processor.live(), 0);
    }
    drop(file);
    h.finish();
}
