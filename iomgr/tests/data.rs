//! A request's scratch and its data: lent, received, reported, and never more than there is.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;

use overlapped_iomgr::{Major, On, Status};
use support::*;

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
