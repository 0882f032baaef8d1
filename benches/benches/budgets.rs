//! What the framework itself costs a request, in nanoseconds, with a hardware that does nothing.
//!
//! `cargo bench -p overlapped-benches --bench budgets`

use std::future::Future;
use std::hint::black_box;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use overlapped_drivers::class::Read;
use overlapped_drivers::filter::{PassKind, pass};
use overlapped_iomgr::hal::{self, Hal, Op, Token, Wait, Wake};
use overlapped_iomgr::{
    Disposition, Driver, FileHandle, FileObject, Irp, Lower, Major, MajorSet, Processor, Request,
    Stack, Status,
};
use tower::util::BoxService;
use tower::{Service, ServiceExt, service_fn};

/// Finishes everything at once, or in the next turn.
struct Idle {
    inline: bool,
    queue: Vec<Token>,
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

// SAFETY: completes each token once, and touches no memory.
unsafe impl Hal for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }
    unsafe fn submit(&mut self, token: Token, _: Op, _: bool) -> Option<i32> {
        if self.inline {
            return Some(0);
        }
        self.queue.push(token);
        None
    }
    fn cancel(&mut self, _: Token) {}
    fn turn(&mut self, _: Wait, done: &mut Vec<hal::Completion>) -> io::Result<()> {
        let finish = |token| hal::Completion { token, result: 0, lease: None };
        done.extend(self.queue.drain(..).map(finish));
        Ok(())
    }
    fn in_flight(&self) -> usize {
        self.queue.len()
    }
    fn wake_handle(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }
}

struct Bottom;

impl Driver for Bottom {
    fn name(&self) -> &str {
        "bottom"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        // SAFETY: the operation names no memory, and its result is 0 bytes.
        unsafe { irp.submit(Op::Nop) }
    }
}

fn file(kind: PassKind, filters: usize) -> FileHandle {
    let filters = (0..filters).map(|_| pass(kind));
    let stack = Stack::new(filters, Arc::new(Bottom)).expect("not too deep");
    FileObject::new(stack, "", Box::new(())).expect("this thread has a processor")
}

/// Requests that complete inside dispatch, with a turn whenever it is time for one.
fn inline(processor: &Processor, file: &FileObject, n: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut buf = Vec::<u8>::with_capacity(64);
    for _ in 0..n {
        let mut request = pin!(Request::new(file, Read::at(buf, 0)));
        let result = loop {
            match request.as_mut().poll(&mut cx) {
                Poll::Ready(result) => break result,
                Poll::Pending => processor.turn(Wait::No, || true),
            }
            .expect("the idle hardware never fails");
        };
        buf = black_box(result).expect("succeeds").1;
    }
}

const BATCH: usize = 32;

/// Requests that pend, and are reaped in batches.
fn batches(processor: &Processor, file: &FileObject, n: usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bufs: Vec<Vec<u8>> = (0..BATCH).map(|_| Vec::with_capacity(64)).collect();
    let mut requests = Vec::with_capacity(BATCH);
    for _ in 0..n / BATCH {
        for buf in bufs.drain(..) {
            let mut request = Request::new(file, Read::at(buf, 0));
            assert!(Pin::new(&mut request).poll(&mut cx).is_pending());
            requests.push(request);
        }
        processor.turn(Wait::No, || true).expect("the idle hardware never fails");
        for mut request in requests.drain(..) {
            let Poll::Ready(result) = Pin::new(&mut request).poll(&mut cx) else {
                unreachable!("reaped above")
            };
            bufs.push(result.expect("succeeds").1);
        }
    }
}

const ROUND: usize = 320_000;
const ROUNDS: usize = 9;

/// Nanoseconds a request, the best of several rounds: what is left is noise that only adds.
fn best(mut run: impl FnMut(usize)) -> f64 {
    let time = |_| {
        let begin = Instant::now();
        run(ROUND);
        begin.elapsed().as_nanos() as f64 / ROUND as f64
    };
    (0..ROUNDS).map(time).fold(f64::MAX, f64::min)
}

fn main() -> Result<(), Status> {
    for (what, at_once) in [("complete inline", true), ("pend, batch 32", false)] {
        let hal = move || Ok(Box::new(Idle { inline: at_once, queue: Vec::new() }) as Box<dyn Hal>);
        let processor = Processor::new(hal).map_err(|error| Status::from(&error))?;
        let measure =
            |kind, filters| {
                let file = file(kind, filters);
                best(|n| {
                    if at_once {
                        inline(&processor, &file, n)
                    } else {
                        batches(&processor, &file, n)
                    }
                })
            };
        let none = measure(PassKind::Unhooked, 0);
        println!("{what}: {none:.1} ns");
        for (name, kind) in [
            ("not hooked", PassKind::Unhooked),
            ("skip", PassKind::Skip),
            ("completion routine", PassKind::Routine),
            ("async", PassKind::Future),
        ] {
            let eight = measure(kind, 8);
            println!("  a filter, {name}: {:.2} ns ({eight:.1} with eight)", (eight - none) / 8.0);
        }
    }
    for (what, pends) in [("ready", false), ("pending once", true)] {
        let measure = |layers| best(|n| layered(layers, pends, n));
        let (none, eight) = (measure(0), measure(8));
        println!("tower, a boxed layer, {what}: {:.2} ns", (eight - none) / 8.0);
    }
    Ok(())
}

/// For comparison: requests through layers of tower's, each a service that boxes its future, as layers
/// that are put together at run time do. They pend once or not.
fn layered(layers: usize, pends: bool, n: usize) {
    let bottom = service_fn(move |n: usize| {
        let mut left = u32::from(pends);
        std::future::poll_fn(move |_| match left {
            0 => Poll::Ready(Ok(n)),
            _ => {
                left -= 1;
                Poll::Pending
            }
        })
    });
    let mut stack: BoxService<usize, usize, Status> = BoxService::new(bottom);
    for _ in 0..layers {
        stack = BoxService::new(stack.map_response(|n: usize| n.wrapping_add(1)));
    }
    let mut cx = Context::from_waker(Waker::noop());
    for i in 0..n {
        assert!(stack.poll_ready(&mut cx).is_ready());
        let mut request = stack.call(i);
        let result = loop {
            if let Poll::Ready(result) = request.as_mut().poll(&mut cx) {
                break result;
            }
        };
        black_box(result).expect("succeeds");
    }
}
