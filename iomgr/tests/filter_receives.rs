//! Level-2 filters and receives: pool buffers, which have no memory on the way down, and requests that a
//! filter wants back.

#![cfg(not(loom))]

mod support;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::filter::{Filter as Level2, Forward, Io, Lend, Next};
use overlapped_iomgr::{
    Disposition, Done, Driver, Irp, Lower, Major, MajorSet, On, Operation, Request, Setup, Stack,
    Status, minor,
};
use support::*;

type Outcome = Result<usize, Status>;

/// A receive into a pool buffer of so many bytes at most, 0 for any number.
struct Pooled(u32);

impl Operation for Pooled {
    type Output = Result<Vec<u8>, Status>;
    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        let limit = if self.0 == 0 { u32::MAX } else { self.0 };
        setup.minor(minor::POOLED).arg(u64::from(self.0)).limit(limit);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        let result = if done.status().is_error() { Err(done.status()) } else { Ok(()) };
        result.map(|()| done.take::<Lease>().to_vec())
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status)
    }
}

/// Has as many bytes as are wanted, twenty at most, and tells what it is asked.
struct Source(Log);

impl Driver for Source {
    fn name(&self) -> &str {
        "source"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        if irp.major() == Major::Close {
            return irp.complete(Status::SUCCESS, 0);
        }
        let (data, len) = irp.raw_data();
        self.0.add(format!("{} {} {}", irp.arg(), len, data.is_null()));
        let most = if irp.arg() == 0 { 20 } else { (irp.arg() as usize).min(20) };
        irp.complete_with_lease(Lease::from((0..most as u8).collect::<Vec<_>>()))
    }
}

/// Forwards with these limits, one after the other.
struct Cut(Vec<u32>);

impl Level2 for Cut {
    type Open = ();
    fn name(&self) -> &str {
        "cut"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let mut n = 0;
        for len in &self.0 {
            let offset = io.offset();
            n = next.forward(&mut io).at(offset, *len).await?;
            io.received_mut(n).flatten().for_each(|byte| *byte += 100);
        }
        Ok(n)
    }
}

/// The same at level 1.
struct CutTwice(Mutex<u32>);

impl Driver for CutTwice {
    fn name(&self) -> &str {
        "cut twice"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        irp.next().set_len(3);
        lower.forward(irp, On::ALL)
    }
    fn completed(&self, mut irp: overlapped_iomgr::Unwinding<'_>) -> overlapped_iomgr::Completion {
        let mut times = self.0.lock().unwrap();
        *times += 1;
        if *times % 2 == 1 {
            irp.next().set_len(11);
            return irp.retry(On::ALL);
        }
        irp.proceed()
    }
}

/// A pooled receive's limit is its length, also when it goes down again, with a buffer to let go of.
#[test]
fn a_pooled_receive_is_cut() {
    let cut = |lens: &[u32]| Cut(lens.to_vec()).into_driver();
    type Case<'a> = (Arc<dyn Driver>, u32, usize, &'a [&'a str]);
    let cases: [Case<'_>; 6] = [
        (cut(&[5]), 0, 5, &["5 5 true"]),
        (cut(&[5]), 3, 3, &["3 3 true"]),
        (cut(&[5, 9]), 0, 9, &["5 5 true", "9 9 true"]),
        (cut(&[5, 9]), 8, 8, &["5 5 true", "8 8 true"]),
        (cut(&[0]), 0, 1, &["1 1 true"]),
        (Arc::new(CutTwice(Mutex::new(0))), 0, 11, &["3 3 true", "11 11 true"]),
    ];
    for (filter, most, n, asked) in cases {
        let harness = Harness::new();
        let log = Log::default();
        let second = filter.name() == "cut twice";
        let stack = Stack::new([filter], Arc::new(Source(log.clone()))).unwrap();
        let file = open(&stack, FD);
        let bytes = harness.block_on(Request::new(&file, Pooled(most))).unwrap();
        let plus = if second { 0 } else { 100 };
        assert_eq!(bytes, (plus..plus + n as u8).collect::<Vec<_>>());
        assert_eq!(log.take(), asked);
        drop(file);
        harness.finish();
    }
}

/// Gives its request so long, and waits for what comes of it all the same.
struct Patience(Log, bool, u64);

enum Either<'i> {
    Plain(Forward<'i>),
    Lent(Lend<'i, Vec<u8>>),
}

impl Either<'_> {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<(Outcome, Vec<u8>)> {
        match self {
            Either::Plain(below) => Pin::new(below).poll(cx).map(|result| (result, vec![])),
            Either::Lent(below) => Pin::new(below).poll(cx),
        }
    }
    fn cancel(&self) {
        match self {
            Either::Plain(below) => below.cancel(),
            Either::Lent(below) => below.cancel(),
        }
    }
}

impl Level2 for Patience {
    type Open = ();
    fn name(&self) -> &str {
        "patience"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Outcome {
        let mut sleep = pin!(next.sleep(Duration::from_millis(self.2)));
        let lent = vec![0; io.len()];
        let forward = next.forward(&mut io);
        let mut below =
            if self.1 { Either::Lent(forward.into(lent)) } else { Either::Plain(forward) };
        let mut cancelled = false;
        let (result, lent) = poll_fn(|cx| {
            if let Poll::Ready(result) = below.poll(cx) {
                return Poll::Ready(result);
            }
            if !cancelled && sleep.as_mut().poll(cx).is_ready() {
                cancelled = true;
                below.cancel();
            }
            Poll::Pending
        })
        .await;
        drop(below);
        io.put(0, &lent);
        self.0.add(format!("{:?} {cancelled}", result.map_err(|status| status.name())));
        result.map_err(|_| Status::IO_TIMEOUT)
    }
}

/// A cancel of what is below leaves its result to be seen, whichever that is.
#[test]
fn x5_a_filter_cancels_and_waits() {
    for lent in [false, true] {
        // It listens to the cancel; it does not, and has its bytes in the end.
        for (step, expected) in [
            (Step::GATED, "Err(Some(\"CANCELLED\")) true"),
            (Step::GATED.deaf(), "Ok(4) true"),
            (Step::after(2), "Ok(4) false"),
        ] {
            let harness = Harness::new();
            harness.sim.default_step(step);
            let log = Log::default();
            let time = if expected.ends_with("false") { 1_000_000 } else { 5 };
            let patience = Patience(log.clone(), lent, time).into_driver();
            let file = open(&Stack::new([patience], Arc::new(Bottom::default())).unwrap(), FD);
            let mut request = read(&file, 4, 0);
            assert!(poll(&mut request).is_pending());
            let wakes = Arc::new(Wakes::default());
            assert!(poll_counting(&mut request, &wakes).is_pending());
            if expected.starts_with("Ok(4) true") {
                harness.until("it has been cancelled", || harness.sim.cancels() > 0);
                harness.sim.open_gate();
            }
            harness.until("it has ended", || wakes.count() > 0);
            assert_eq!(now(&mut request).is_ok(), expected.starts_with("Ok"));
            assert_eq!(log.take(), [expected]);
            drop(request);
            drop(file);
            harness.finish();
        }
    }
}

/// Before anything has gone below, a cancel ends it there.
#[test]
fn a_cancel_before_it_has_gone() {
    let harness = Harness::new();
    harness.sim.default_step(Step::GATED);
    let log = Log::default();
    let patience = Patience(log.clone(), false, 0).into_driver();
    let file = open(&Stack::new([patience], Arc::new(Bottom::default())).unwrap(), FD);
    let failed = harness.block_on(read(&file, 4, 0)).unwrap_err();
    assert_eq!(failed.status(), Status::IO_TIMEOUT);
    assert_eq!(log.take(), ["Err(Some(\"CANCELLED\")) true"]);
    assert_eq!(harness.sim.submits(), 0);
    drop(failed);
    drop(file);
    harness.finish();
}
