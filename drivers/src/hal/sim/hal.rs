//! The simulator as a processor's hardware.
//!
//! A turn does what is due. If it may sleep and nothing is, it moves the clock to the next thing that
//! will be, or to its limit: no time passes outside. A turn that may not sleep moves the clock too,
//! now and then: tasks that are busy take time, and one that asks again and again whether something
//! has happened is to find that it has.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait, Wake};
use overlapped_iomgr::panics::log;

use super::Simulator;
use super::engine::Step;

/// The most completions of one turn.
const BATCH: u64 = 32;
/// So many turns without anything to do, and not allowed to sleep, take [`BUSY`] nanoseconds.
const IDLE_TURNS: u32 = 16;
const BUSY: u64 = 50_000;
/// A sleep lasts at the most so many nanoseconds too long: what becomes due meanwhile comes at once.
const OVERSLEPT: u64 = 20_000;

/// Remembers that somebody called.
#[derive(Default)]
pub(super) struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub(super) struct SimHal {
    simulator: Simulator,
    bell: Arc<Bell>,
    idle_turns: u32,
    /// The turn that comes is not to count.
    roused: bool,
}

impl SimHal {
    pub(super) fn new(simulator: Simulator) -> SimHal {
        SimHal { simulator, bell: Arc::default(), idle_turns: 0, roused: false }
    }

    /// Does what is due, up to a number that chance chooses. Whether anything was.
    fn work(&mut self, done: &mut Vec<Completion>) -> bool {
        let before = done.len();
        let most = {
            let engine = &mut *self.simulator.engine();
            // Not drawn where there is nothing: a turn more or less is to change nothing.
            if engine.next_due().is_none_or(|due| due > engine.now()) {
                return false;
            }
            before + 1 + engine.machine.fate.random.below(BATCH) as usize
        };
        while done.len() < most {
            let step = self.simulator.engine().step();
            match step {
                Step::Nothing => break,
                Step::Silent => {}
                Step::Completed(completion) => done.push(completion),
                Step::Call(key, run, arg) => {
                    // With nothing borrowed: it asks the world.
                    // SAFETY: whoever submitted it vouches for it until its completion.
                    let result = catch_unwind(AssertUnwindSafe(|| unsafe { run(arg) }));
                    let result = result.unwrap_or_else(report);
                    self.simulator.engine().called(key, result);
                }
            }
        }
        done.len() > before
    }

    fn advance_to(&self, time: u64) {
        let by = self.simulator.engine().advance_to(time);
        self.simulator.advance(by);
    }
}

fn report(payload: Box<dyn Any + Send>) -> i32 {
    log(|| tracing::error!("a blocking call panicked"));
    // A value of the user's, whose `drop` might panic in its turn.
    std::mem::forget(payload);
    -libc::EIO
}

// SAFETY: the engine completes each token it was given exactly once (its invariant), with the number of
// bytes it has put into the operation's memory, which it touches before that only.
unsafe impl Hal for SimHal {
    fn name(&self) -> &'static str {
        "simulated"
    }

    fn seed(&self) -> u64 {
        self.simulator.engine().machine.fate.random.apart()
    }

    unsafe fn submit(&mut self, token: Token, op: Op, alone: bool) -> Option<i32> {
        self.idle_turns = 0;
        // SAFETY: the caller's.
        unsafe { self.simulator.engine().submit(token, op, alone) }
    }

    fn cancel(&mut self, token: Token) {
        self.simulator.engine().cancel(token);
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        let limit = match wait {
            Wait::For(limit) => {
                let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
                self.simulator.engine().now().saturating_add(limit)
            }
            Wait::No | Wait::Forever => u64::MAX,
        };
        loop {
            if self.work(done) {
                (self.idle_turns, self.roused) = (0, false);
                return Ok(());
            }
            let (now, due) = {
                let engine = &mut *self.simulator.engine();
                (engine.now(), engine.next_due())
            };
            if wait == Wait::No {
                self.idle_turns += u32::from(!std::mem::take(&mut self.roused));
                if self.idle_turns == IDLE_TURNS {
                    self.idle_turns = 0;
                    self.advance_to(due.map_or(now + BUSY, |due| due.clamp(now, now + BUSY)));
                }
                return Ok(());
            }
            self.idle_turns = 0;
            match due {
                Some(due) if due <= limit => {
                    let slack = self.simulator.engine().machine.fate.random.below(OVERSLEPT);
                    self.advance_to(due.max(now).saturating_add(slack).min(limit));
                }
                _ if limit < u64::MAX => {
                    self.advance_to(limit);
                    return Ok(());
                }
                _ => {
                    // Somebody else may have called, on another thread.
                    if !self.bell.0.swap(false, Ordering::SeqCst) {
                        self.simulator.get_stuck();
                    }
                    return Ok(());
                }
            }
        }
    }

    fn roused(&mut self) {
        self.roused = true;
    }

    fn in_flight(&self) -> usize {
        self.simulator.engine().in_flight()
    }

    fn wake_handle(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }
}
