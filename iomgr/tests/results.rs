//! Final completion: who is told of a result, how, and what goes with the last request of a file.

#![cfg(not(loom))]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::Poll;

use overlapped_iomgr::{CompletionPort, Major, On, Status};
use support::*;

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

/// CLEANUP when the last handle goes, CLOSE when the last request has gone too; `settled`
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
