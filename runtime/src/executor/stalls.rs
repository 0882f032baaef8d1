//! The watch over workers: reports a task whose poll does not come back.
//!
//! A worker writes down what it does (`Doing`), which costs it a plain store or two for each poll,
//! watched or not. A thread of the watch's own, which exists only when it was asked for, looks at
//! that from time to time: the same poll seen for as long as the threshold is a stall.
//!
//! Nothing here touches a task: its number and its place are copied to where they may be read at
//! any time.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use overlapped_iomgr::panics::{caught, log};

use super::shared::Shared;
use super::task::TaskId;

/// A worker that has not come back from a task's poll; see [`Builder::report_stalls`].
///
/// [`Builder::report_stalls`]: crate::Builder::report_stalls
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stall {
    /// Which worker of its runtime, as in [`Handle::metrics`](crate::Handle::metrics).
    pub worker: usize,
    /// The task; `None`: the future of a local runtime's `block_on`.
    pub task: Option<TaskId>,
    /// Where it was spawned, or where `block_on` was called.
    pub spawned: &'static Location<'static>,
    /// How long the poll has been seen to last; it has lasted up to a quarter of the threshold
    /// longer.
    pub duration: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Some(task) => write!(f, "task {task} spawned at {}", self.spawned)?,
            None => write!(f, "the future of `block_on` at {}", self.spawned)?,
        }
        write!(f, " has kept worker {} for {:?}", self.worker, self.duration)
    }
}

type Hook = Arc<dyn Fn(&Stall) + Send + Sync>;

/// What was asked of the watch.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) threshold: Duration,
    pub(super) hook: Hook,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stalls").field("threshold", &self.threshold).finish_non_exhaustive()
    }
}

/// What a worker does: written by its thread alone, and in cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Doing {
    /// The number of the poll that it is in; 0: in none.
    poll: AtomicU64,
    /// The address of the task being polled, a mere number to others.
    task: AtomicPtr<()>,
    /// Where the task was spawned.
    spawned: AtomicPtr<Location<'static>>,
}

impl Doing {
    /// A poll begins, numbered as none before.
    #[inline]
    pub(super) fn begin(&self, poll: u64, spawned: &'static Location<'static>) {
        self.spawned.store(ptr::from_ref(spawned).cast_mut(), Ordering::Relaxed);
        // Release: the watch finds the place of this poll, or of a later one.
        self.poll.store(poll, Ordering::Release);
    }

    /// The polls are over.
    #[inline]
    pub(super) fn end(&self) {
        self.poll.store(0, Ordering::Relaxed);
    }

    /// The number of the poll that it is in, as far as others can see; 0: in none.
    pub(super) fn poll(&self) -> u64 {
        self.poll.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_task(&self, task: *const ()) {
        self.task.store(task.cast_mut(), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn task(&self) -> *const () {
        self.task.load(Ordering::Relaxed)
    }
}

/// What the watch has seen of one worker.
struct Seen {
    poll: u64,
    since: Instant,
    /// Reported when it has lasted so long.
    next: Duration,
    /// Looked up at the first sight of the poll: if it is the same poll much later, the worker was
    /// not about to write something else.
    task: Option<TaskId>,
    spawned: *const Location<'static>,
}

impl Seen {
    fn nothing(now: Instant) -> Seen {
        Seen { poll: 0, since: now, next: Duration::MAX, task: None, spawned: ptr::null() }
    }

    /// Looks again. Returns how long a poll has lasted that is to be reported, the first time at
    /// the threshold and then whenever that time has doubled, and whether it is the first time.
    fn look(
        &mut self,
        doing: &Doing,
        now: Instant,
        threshold: Duration,
    ) -> Option<(Duration, bool)> {
        let poll = doing.poll.load(Ordering::Acquire);
        if poll != self.poll {
            *self = Seen {
                poll,
                since: now,
                next: threshold,
                task: NonZeroUsize::new(doing.task().addr()).map(TaskId::of),
                spawned: doing.spawned.load(Ordering::Relaxed),
            };
        }
        let duration = now.saturating_duration_since(self.since);
        if poll == 0 || duration < self.next {
            return None;
        }
        let is_first = self.next == threshold;
        self.next = duration * 2;
        Some((duration, is_first))
    }
}

/// Ends the watch when dropped.
pub(super) struct Watch(Arc<(Mutex<bool>, Condvar)>);

impl Watch {
    /// Begins to watch a runtime's workers, from a thread of that name.
    pub(super) fn begin(settings: Settings, shared: Arc<Shared>, name: &str) -> io::Result<Watch> {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = over.clone();
        let body = move || watch(&settings, &shared, &theirs);
        thread::Builder::new().name(format!("{name}-stalls")).spawn(body)?;
        Ok(Watch(over))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

fn watch(settings: &Settings, shared: &Shared, over: &(Mutex<bool>, Condvar)) {
    let threshold = settings.threshold;
    let mut seen: Vec<_> = shared.seats.iter().map(|_| Seen::nothing(Instant::now())).collect();
    loop {
        let guard = over.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = over.1.wait_timeout_while(guard, threshold / 4, |over| !*over);
        if *wait.unwrap_or_else(PoisonError::into_inner).0 {
            return;
        }
        for (worker, (seat, seen)) in shared.seats.iter().zip(&mut seen).enumerate() {
            let Some((duration, is_first)) = seen.look(&seat.doing, Instant::now(), threshold)
            else {
                continue;
            };
            // SAFETY: written by `begin` before the poll's number, and from a static.
            let spawned = unsafe { &*seen.spawned };
            if is_first {
                seat.counts.count_stall();
            }
            let stall = Stall { worker, task: seen.task, spawned, duration };
            log(|| tracing::warn!(%stall, "a task keeps its worker from all others"));
            if caught(|| (settings.hook)(&stall)).is_none() {
                log(|| tracing::error!("the report of a stall panicked"));
            }
            // What waits in its queue need not wait for it.
            shared.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_poll_is_a_stall_and_many_short_ones_are_not() {
        let ms = Duration::from_millis;
        let (begin, doing) = (Instant::now(), Doing::default());
        let mut seen = Seen::nothing(begin);
        let mut look = |at: u64| seen.look(&doing, begin + ms(at), ms(10));
        // Asleep for long.
        assert_eq!((look(0), look(1000)), (None, None));
        // A poll for each look.
        for poll in 1..100 {
            doing.begin(poll, Location::caller());
            assert_eq!(look(1000 + poll * 9), None);
        }
        // One that lasts is reported, and again when it has lasted twice as long.
        doing.begin(100, Location::caller());
        assert_eq!((look(2000), look(2009)), (None, None));
        assert_eq!((look(2010), look(2019)), (Some((ms(10), true)), None));
        assert_eq!((look(2021), look(2041)), (Some((ms(21), false)), None));
        assert_eq!(look(2042), Some((ms(42), false)));
        // Its end is one, also when the worker sleeps then, and the next poll counts anew.
        doing.end();
        assert_eq!((look(2100), look(9000)), (None, None));
        doing.begin(101, Location::caller());
        assert_eq!((look(9001), look(9010)), (None, None));
        assert_eq!(look(9011), Some((ms(10), true)));
    }
}
