//! How many workers run at once: the runtime's concurrency, as a completion port has one (C-20).
//!
//! More threads that run than there are cores to run them make each other wait, and what waits is a
//! worker with all its tasks and requests, for some milliseconds each time. So workers that wait for
//! cores are too many. How many are enough is found by trial, for the cores may be taken by somebody
//! who would take the rest as well: as many fewer as wait run for a moment, and it stays so if about
//! as many tasks are polled as before. While those that run never rest, twice as many are tried from
//! time to time, and it stays so if that gains.
//!
//! ```text
//!               they wait for cores                  they never rest
//!   all run ────────────────────────▶ fewer run ◀──────────────────────▶ twice as many
//!      ▲            as many polls: kept │  otherwise: back, and a longer pause
//!      └────────────────────────────────┘ they mostly rest
//! ```
//!
//! A worker that is not to run keeps its processor, and the tasks that are bound to it; what its requests
//! make runnable it passes on. It still stands in for others that do not come on (`worker`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use overlapped_iomgr::panics::log;

/// Milliseconds between two looks: several slices of the scheduler's.
const WINDOW: u64 = 25;

/// Pauses between trials, in milliseconds: twice as long after each that has failed.
const FIRST_PAUSE: u64 = 250;
const LONGEST_PAUSE: u64 = 8000;

/// So much of their time spent in waiting for a core is too much.
const MUCH: f64 = 0.15;

/// A rate is one if there are so many polls in a window: workers count them some tens at a time.
const POLLS: f64 = 500.0;

/// Fewer are enough if they do so much of what more did.
const ENOUGH: f64 = 0.9;

/// Twice as many are worth it if they do so much of what fewer did.
const WORTH: f64 = 1.25;

/// What a thread has had of the cores since its start, as the scheduler counts it.
#[derive(Debug)]
pub(super) struct Schedule(File);

impl Schedule {
    /// The calling thread's. `None`: the system does not tell.
    pub(super) fn of_this_thread() -> Option<Schedule> {
        File::open("/proc/thread-self/schedstat").ok().map(Schedule)
    }

    /// Nanoseconds on a core, and ready to run without one.
    fn read(&self) -> Option<(u64, u64)> {
        let mut text = [0; 96];
        let n = self.0.read_at(&mut text, 0).ok()?;
        let mut numbers = std::str::from_utf8(&text[..n]).ok()?.split_ascii_whitespace();
        let mut next = || numbers.next()?.parse().ok();
        Some((next()?, next()?))
    }
}

/// Sums over all workers since their start.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Nanoseconds on a core.
    ran: u64,
    /// Nanoseconds ready to run without one.
    waited: u64,
    /// Task polls.
    polls: u64,
}

/// See the module's header. In cache lines of its own: every round of every worker reads it.
#[repr(align(128))]
pub(super) struct Concurrency {
    allowed: AtomicUsize,
    /// The millisecond of the next look.
    next: AtomicU64,
    judge: Mutex<Judge>,
}

impl Concurrency {
    pub(super) fn new(workers: usize) -> Concurrency {
        let judge = Judge { workers, allowed: workers, ..Judge::default() };
        Concurrency {
            allowed: AtomicUsize::new(workers),
            next: AtomicU64::new(0),
            judge: Mutex::new(judge),
        }
    }

    /// So many workers are to run: those of the first seats.
    #[inline]
    pub(super) fn allowed(&self) -> usize {
        self.allowed.load(Ordering::Relaxed)
    }

    /// Whether it is time for [`Concurrency::look`].
    #[inline]
    pub(super) fn is_due(&self, now: u64) -> bool {
        now >= self.next.load(Ordering::Relaxed)
    }

    /// Looks at how the workers get on, each by its schedule and its polls so far, and decides how many
    /// are to run. `true`: more than before.
    #[cold]
    pub(super) fn look<'a>(
        &self,
        clock: impl FnOnce() -> u64,
        mut workers: impl Iterator<Item = (Option<&'a Schedule>, u64)>,
    ) -> bool {
        // Somebody else looks.
        let Ok(mut judge) = self.judge.try_lock() else { return false };
        // Or has looked since.
        let now = clock();
        if !self.is_due(now) {
            return false;
        }
        self.next.store(now + WINDOW, Ordering::Relaxed);
        let before = judge.allowed;
        let sums = workers.try_fold(Sums::default(), |sums, (schedule, polls)| {
            let (ran, waited) = schedule.and_then(Schedule::read)?;
            let (ran, waited) = (sums.ran + ran, sums.waited + waited);
            Some(Sums { ran, waited, polls: sums.polls + polls })
        });
        match sums {
            Some(sums) => judge.look(now, sums),
            // Where the system does not tell, all are to run.
            None => judge.give_up(),
        }
        if judge.allowed != before {
            self.allowed.store(judge.allowed, Ordering::Relaxed);
            let (allowed, workers) = (judge.allowed, judge.workers);
            log(|| tracing::debug!(allowed, workers, "workers that are to run"));
        }
        judge.allowed > before
    }

    #[cfg(test)]
    pub(super) fn set(&self, allowed: usize) {
        // Not while somebody looks.
        let _judge = self.judge.lock();
        self.next.store(u64::MAX, Ordering::Relaxed);
        self.allowed.store(allowed, Ordering::Relaxed);
    }
}

/// Decides; knows no clock and no threads.
#[derive(Default)]
struct Judge {
    workers: usize,
    allowed: usize,
    /// The last look, and what it saw.
    at: u64,
    sums: Sums,
    trial: Option<Trial>,
    /// No trial begins before.
    rests_until: u64,
    pause: u64,
}

/// Another number of workers is tried.
#[derive(Clone, Copy)]
struct Trial {
    from: usize,
    /// Polls in a millisecond before.
    rate: f64,
    /// The first look after the change tells nothing yet.
    is_settled: bool,
}

impl Judge {
    fn look(&mut self, now: u64, sums: Sums) {
        let passed = now.saturating_sub(self.at);
        let since = |now: u64, then: u64| now.saturating_sub(then) as f64 / passed.max(1) as f64;
        let rate = since(sums.polls, self.sums.polls);
        // Nanoseconds in a millisecond: cores' worth.
        let waited = since(sums.waited, self.sums.waited) / 1e6;
        let ran = since(sums.ran, self.sums.ran) / 1e6;
        (self.at, self.sums) = (now, sums);
        if passed > 4 * WINDOW {
            // Nobody has looked for long: they have slept, or it is the first look.
            return self.give_up();
        }
        match self.trial {
            Some(ref mut trial) if !trial.is_settled => trial.is_settled = true,
            Some(trial) => self.end_trial(trial, now, rate),
            None => self.begin_trial(now, rate, waited, ran),
        }
    }

    /// All are to run, until there is something to go by.
    fn give_up(&mut self) {
        (self.trial, self.allowed) = (None, self.workers);
    }

    fn begin_trial(&mut self, now: u64, rate: f64, waited: f64, ran: f64) {
        let fewer = self.allowed.saturating_sub((waited.round() as usize).max(1)).max(1);
        let (allowed, all) = (self.allowed as f64, self.allowed == self.workers);
        let has_rested = now >= self.rests_until;
        if rate * (WINDOW as f64) < POLLS {
            self.give_up();
        } else if !all && ran < allowed / 2.0 {
            // There is little to do, so nothing to lose.
            self.give_up();
            self.pause = FIRST_PAUSE;
        } else if has_rested && waited >= allowed * MUCH && fewer < self.allowed {
            self.try_with(fewer, rate);
        } else if has_rested && !all && ran >= allowed * 0.9 {
            self.try_with((self.allowed * 2).min(self.workers), rate);
        }
    }

    fn try_with(&mut self, allowed: usize, rate: f64) {
        self.trial = Some(Trial { from: self.allowed, rate, is_settled: false });
        self.allowed = allowed;
    }

    fn end_trial(&mut self, trial: Trial, now: u64, rate: f64) {
        self.trial = None;
        let needed = if self.allowed < trial.from { ENOUGH } else { WORTH };
        if rate >= needed * trial.rate {
            self.pause = FIRST_PAUSE;
        } else {
            self.allowed = trial.from;
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        }
        self.rests_until = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose cores go to those that want them, in equal parts.
    struct Machine {
        cores: f64,
        /// Threads of others that always want to run.
        others: f64,
        /// What the others have done for the workers' every poll: a load that waits for its answers.
        serves: bool,
        now: u64,
        sums: Sums,
    }

    impl Machine {
        fn new(cores: f64, others: f64, serves: bool) -> Machine {
            Machine { cores, others, serves, now: 1, sums: Sums::default() }
        }

        /// One window, in which the workers do what there is of so many cores' worth of work.
        fn pass(&mut self, judge: &mut Judge, work: f64) -> usize {
            let workers = (judge.allowed as f64).min(work);
            let share = (self.cores / (workers + self.others)).min(1.0);
            let (ran, waited) = (workers * share, workers * (1.0 - share));
            // What serves is what the slower side does.
            let done = if self.serves { ran.min(self.others * share) } else { ran };
            self.now += WINDOW;
            let nanoseconds = |cores: f64| (cores * WINDOW as f64 * 1e6) as u64;
            self.sums.ran += nanoseconds(ran);
            self.sums.waited += nanoseconds(waited);
            self.sums.polls += (done * 10_000.0) as u64;
            judge.look(self.now, self.sums);
            judge.allowed
        }

        /// In how many of so many windows each number of workers was allowed.
        fn allowed(&mut self, judge: &mut Judge, windows: usize) -> Vec<usize> {
            let mut seen = vec![0; judge.workers + 1];
            for _ in 0..windows {
                seen[self.pass(judge, f64::MAX)] += 1;
            }
            seen
        }
    }

    fn judge(workers: usize) -> Judge {
        Judge { workers, allowed: workers, ..Judge::default() }
    }

    #[test]
    fn workers_that_take_the_cores_from_their_clients_are_too_many() {
        let (mut machine, mut judge) = (Machine::new(2.0, 1.0, true), judge(2));
        machine.allowed(&mut judge, 8);
        // Two workers are tried now and then, in vain, and more and more seldom.
        let seen = machine.allowed(&mut judge, 400);
        assert!(seen[1] > 360 && seen[2] > 0, "{seen:?}");
        let seen = machine.allowed(&mut judge, 4000);
        assert!(seen[1] > 3900 && seen[2] > 0, "{seen:?}");
    }

    #[test]
    fn more_workers_than_cores_are_too_many() {
        let (mut machine, mut judge) = (Machine::new(2.0, 0.0, false), judge(8));
        let seen = machine.allowed(&mut judge, 1000);
        assert!(seen[2] > 950, "{seen:?}");
    }

    #[test]
    fn cores_are_not_left_to_others_who_take_what_they_get() {
        let (mut machine, mut judge) = (Machine::new(16.0, 16.0, false), judge(16));
        machine.allowed(&mut judge, 8);
        let seen = machine.allowed(&mut judge, 4000);
        assert!(seen[16] > 3900 && seen[16] < 4000, "{seen:?}");
    }

    #[test]
    fn workers_come_back_when_the_cores_do() {
        let (mut machine, mut judge) = (Machine::new(4.0, 3.0, true), judge(4));
        machine.allowed(&mut judge, 100);
        assert!(judge.allowed < 4, "{}", judge.allowed);
        (machine.others, machine.serves) = (0.0, false);
        // The longest pause, and two trials.
        machine.allowed(&mut judge, (LONGEST_PAUSE / WINDOW + 40) as usize);
        assert_eq!(judge.allowed, 4);
    }

    #[test]
    fn all_may_run_when_there_is_little_to_do() {
        let (mut machine, mut judge) = (Machine::new(2.0, 1.0, true), judge(2));
        machine.allowed(&mut judge, 8);
        assert_eq!(judge.allowed, 1);
        assert_eq!(machine.pass(&mut judge, 0.3), 2);
        // And nobody is sent away for nothing.
        for _ in 0..100 {
            assert_eq!(machine.pass(&mut judge, 0.3), 2);
        }
    }

    #[test]
    fn few_polls_say_nothing() {
        let (mut machine, mut judge) = (Machine::new(2.0, 1.0, true), judge(2));
        machine.allowed(&mut judge, 8);
        assert_eq!(judge.allowed, 1);
        // Its polls last: whatever their number has been, all may run.
        for _ in 0..100 {
            (machine.now, machine.sums.ran) = (machine.now + WINDOW, machine.sums.ran + 25_000_000);
            (machine.sums.waited, machine.sums.polls) =
                (machine.sums.waited + 25_000_000, machine.sums.polls + 400);
            judge.look(machine.now, machine.sums);
        }
        assert_eq!((judge.allowed, judge.trial.is_none()), (2, true));
    }

    #[test]
    fn a_trial_through_which_the_workers_have_slept_says_nothing() {
        let (mut machine, mut judge) = (Machine::new(2.0, 1.0, true), judge(2));
        while judge.trial.is_none() {
            machine.pass(&mut judge, f64::MAX);
        }
        assert_eq!(judge.allowed, 1);
        machine.now += 1000;
        machine.pass(&mut judge, f64::MAX);
        assert_eq!((judge.allowed, judge.trial.is_none()), (2, true));
    }

    #[test]
    fn the_system_tells_how_a_thread_gets_on() {
        let schedule = Schedule::of_this_thread().expect("Linux has it");
        let ran = || schedule.read().expect("two numbers").0;
        let before = ran();
        let begin = std::time::Instant::now();
        // The scheduler writes it down at its ticks.
        while ran() == before {
            assert!(begin.elapsed().as_secs() < 60, "it runs, and that is not counted");
            std::hint::spin_loop();
        }
    }
}
