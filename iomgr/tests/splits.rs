//! One request split into several that complete it together (I-25). Where more than one thing happens at
//! once: `children.rs`.

#![cfg(not(loom))]

mod support;

use overlapped_iomgr::{CompletionPort, On, Part, Status};
use support::*;

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

/// cancelling the parent cancels the children, also those of children.
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
