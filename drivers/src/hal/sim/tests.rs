//! The simulator as hardware: the contract of [`Hal`], whatever chance brings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;
use std::time::Duration;

use overlapped_iomgr::clock;
use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait};

use super::{Entered, Fault, FaultPlan, Simulator, hardware};
use crate::hal::system;

struct Bench {
    hal: Box<dyn Hal>,
    simulator: Simulator,
    done: Vec<Completion>,
    next: u64,
    _entered: Entered,
}

impl Bench {
    fn new(seed: u64, plan: FaultPlan) -> Bench {
        let simulator = Simulator::new(seed, plan, true);
        let entered = simulator.enter();
        let (hal, done) = (hardware().unwrap(), Vec::new());
        Bench { hal, simulator, done, next: 0, _entered: entered }
    }

    /// Submits; its token, or its result.
    fn submit(&mut self, op: Op) -> Result<Token, i32> {
        self.next += 8;
        let token = Token::new(self.next);
        // SAFETY: the tests keep what their operations name.
        unsafe { self.hal.submit(token, op, true) }.map_or(Ok(token), Err)
    }

    fn turn(&mut self, wait: Wait) -> Vec<Completion> {
        self.hal.turn(wait, &mut self.done).unwrap();
        std::mem::take(&mut self.done)
    }

    fn pipe(&self) -> [i32; 2] {
        system::here().pipe().unwrap().map(system::Descriptor::into_raw)
    }
}

fn read(fd: i32, buf: &mut [u8]) -> Op {
    Op::ReadStream { fd, buf: buf.as_mut_ptr(), len: buf.len() as u32, own: true }
}

fn write(fd: i32, buf: &[u8]) -> Op {
    Op::WriteStream { fd, buf: buf.as_ptr(), len: buf.len() as u32, own: true }
}

/// Reads that wait for ever, some of which are fed, and all of which are cancelled at random moments.
#[test]
fn every_operation_completes_exactly_once() {
    for seed in 0..30 {
        let mut bench = Bench::new(seed, FaultPlan { lost_cancels: 0.5, ..FaultPlan::rough() });
        let pipes: Vec<_> = (0..4).map(|_| bench.pipe()).collect();
        let mut memory = vec![[0u8; 64]; 400];
        let mut outstanding = BTreeMap::new();
        let mut choice = super::random::Random::new(seed);
        for (step, buf) in memory.iter_mut().enumerate() {
            let [reader, writer] = pipes[step % 4];
            let op = match choice.below(3) {
                0 => write(writer, buf),
                1 => read(reader, buf),
                _ => Op::Nop,
            };
            if let Ok(token) = bench.submit(op) {
                assert!(outstanding.insert(token.get(), ()).is_none());
            }
            if choice.below(2) == 0
                && let Some((&token, ())) = outstanding.range(choice.below(bench.next)..).next()
            {
                bench.hal.cancel(Token::new(token));
            }
            if choice.below(4) == 0 {
                for done in bench.turn(Wait::For(Duration::from_micros(choice.below(200)))) {
                    assert!(outstanding.remove(&done.token.get()).is_some(), "seed {seed}");
                }
            }
            assert_eq!(bench.hal.in_flight(), outstanding.len());
        }
        for (&token, ()) in &outstanding {
            bench.hal.cancel(Token::new(token));
            bench.hal.cancel(Token::new(token));
        }
        while !outstanding.is_empty() {
            for done in bench.turn(Wait::Forever) {
                assert!(outstanding.remove(&done.token.get()).is_some(), "seed {seed}");
            }
            assert!(!bench.simulator.is_stuck(), "a cancel was lost");
        }
        assert_eq!(bench.hal.in_flight(), 0);
        assert!(bench.turn(Wait::Forever).is_empty());
        // Nothing is left that could happen.
        assert!(bench.simulator.is_stuck());
    }
}

#[test]
fn a_cancel_reaches_what_would_wait_for_ever() {
    let mut bench = Bench::new(1, FaultPlan { lost_cancels: 1.0, ..FaultPlan::none() });
    let [reader, _writer] = bench.pipe();
    let mut buf = [0; 8];
    // Both before and after it has found nothing.
    for wait in [Duration::ZERO, Duration::from_secs(1)] {
        let token = bench.submit(read(reader, &mut buf)).unwrap();
        assert!(bench.turn(Wait::For(wait)).is_empty());
        bench.hal.cancel(token);
        let done = bench.turn(Wait::Forever);
        assert_eq!((done[0].token, done[0].result), (token, -libc::ECANCELED));
    }
}

#[test]
fn a_turn_lasts_no_longer_than_it_may() {
    let mut bench = Bench::new(2, FaultPlan { pending: 1.0, ..FaultPlan::none() });
    let start = clock::now();
    for limit in [1, 1000, 1_000_000_000] {
        let limit = Duration::from_nanos(limit);
        let before = clock::now();
        assert!(bench.turn(Wait::For(limit)).is_empty());
        assert_eq!(clock::now() - before, limit);
    }
    let [_reader, writer] = bench.pipe();
    let token = bench.submit(write(writer, b"x")).unwrap();
    assert!(
        bench.turn(Wait::No).is_empty()
            && bench.turn(Wait::For(Duration::from_nanos(1))).is_empty()
    );
    let done = bench.turn(Wait::Forever);
    assert_eq!((done[0].token, done[0].result), (token, 1));
    assert_eq!(bench.simulator.figures().elapsed, clock::now() - start);
    assert_eq!(bench.simulator.figures().faults.of(Fault::Pending), 1);
}

#[test]
fn who_wants_to_know_hears_that_nothing_can_happen() {
    struct Heard(AtomicBool);
    impl Wake for Heard {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let heard = Arc::new(Heard(AtomicBool::new(false)));
    let mut bench = Bench::new(3, FaultPlan::none());
    bench.simulator.on_stuck(heard.clone().into());
    // Another thread may have something to say.
    bench.hal.wake_handle().wake();
    bench.turn(Wait::Forever);
    assert!(!bench.simulator.is_stuck() && !heard.0.load(Ordering::Relaxed));
    bench.turn(Wait::Forever);
    assert!(bench.simulator.is_stuck() && heard.0.load(Ordering::Relaxed));
}

#[test]
fn a_descriptor_is_of_one_world_only() {
    let kernels = system::here().pipe().unwrap();
    let mut bench = Bench::new(4, FaultPlan::none());
    let [reader, writer] = bench.pipe();
    assert!(!kernels[0].is_from_here());
    assert_eq!(bench.submit(write(kernels[1].as_raw(), b"x")), Err(-libc::EBADF));
    assert!(!system::of(reader).is_readable(reader));
    let _ = bench.submit(write(writer, b"x"));
    bench.turn(Wait::For(Duration::from_secs(1)));
    assert!(system::of(reader).is_readable(reader) && !system::of(writer).is_readable(writer));
    drop(bench);

    let mut other = Bench::new(4, FaultPlan::none());
    assert_eq!(other.submit(write(writer, b"x")), Err(-libc::EBADF));
    assert_eq!(system::of(writer).close(writer), -libc::EBADF);
    drop(other);
    assert_eq!(system::of(writer).close(writer), -libc::EBADF);
    assert!(kernels[0].is_from_here());
}

#[test]
fn the_trace_tells_two_runs_apart() {
    let run = |seed, data: &[u8]| {
        let mut bench = Bench::new(seed, FaultPlan::none());
        let [reader, writer] = bench.pipe();
        let mut buf = [0; 4];
        let _ = bench.submit(read(reader, &mut buf));
        let _ = bench.submit(write(writer, data));
        bench.turn(Wait::For(Duration::from_secs(1)));
        bench.turn(Wait::For(Duration::from_secs(1)));
        (bench.simulator.figures().trace_hash, bench.simulator.figures().trace.unwrap())
    };
    assert_eq!(run(5, b"data"), run(5, b"data"));
    assert_ne!(run(5, b"data").0, run(6, b"data").0);
    assert_ne!(run(5, b"data").0, run(5, b"date").0);
    assert!(run(5, b"data").1.contains("write stream"));
}
