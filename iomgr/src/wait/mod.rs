//! Waiting: for [events](Event), file objects, ports and posted results; for one, any or all; with
//! a time limit; alertable or not (C-3, C-4, C-7, C-29).
//!
//! **Invariant.** A `Signal`'s state changes under its lock. Setting it tells all who wait; they look
//! again and take it themselves, under the locks of all they wait for, in the order of their
//! addresses. So no news is lost with somebody who leaves.

mod event;
pub(crate) mod sleeper;
mod told;

use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

pub use event::{Event, Signalled};

use crate::apc;
use crate::port;
use crate::status::Status;
use crate::sync::{Mutex, MutexGuard};
use sleeper::{Limit, Sleeper};

/// Who is told when a signal is set.
pub(crate) enum Waiter {
    Thread(Arc<Sleeper>),
    Task(Waker),
    /// Takes the signal by itself, once.
    Report(Arc<dyn Reporter>),
}

/// Whoever is told that it has taken a signal.
pub(crate) trait Reporter: Send + Sync {
    fn report(&self);
}

#[derive(Default)]
struct State {
    set: bool,
    next: u64,
    /// Threads, which stay until they leave by themselves.
    threads: Vec<(u64, Arc<Sleeper>)>,
    /// The others, who are told once. The oldest first.
    others: Vec<(u64, Waiter)>,
    /// Room for as many as there are in `others`, so that setting it needs no memory (I-1).
    spare: Vec<(u64, Waiter)>,
}

impl State {
    fn leave(&mut self, waiter: Waiter) -> u64 {
        self.next += 1;
        match waiter {
            Waiter::Thread(sleeper) => self.threads.push((self.next, sleeper)),
            other => {
                self.others.push((self.next, other));
                self.spare.reserve(self.others.len());
            }
        }
        self.next
    }

    /// Takes out those of `others` who learn that it is set: all, or, if it is `auto`, those up to the
    /// first that takes it.
    fn told(&mut self, auto: bool) -> Vec<(u64, Waiter)> {
        let takes = |(_, waiter): &(u64, Waiter)| auto && matches!(waiter, Waiter::Report(_));
        let taker = self.others.iter().position(takes);
        let mut told = std::mem::take(&mut self.spare);
        std::mem::swap(&mut told, &mut self.others);
        if let Some(taker) = taker {
            self.others.extend(told.drain(taker + 1..));
            self.set = false;
        }
        told
    }
}

/// What a wait looks at: on or off, and who waits for on.
pub(crate) struct Signal {
    /// Taking it turns it off (an auto-reset event, NT's synchronization event).
    auto: bool,
    state: Mutex<State>,
}

impl Signal {
    pub(crate) fn new(auto: bool, set: bool) -> Signal {
        Signal { auto, state: Mutex::new(State { set, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.lock().set
    }

    /// Sets it, for which no memory is needed (I-1). Whether it was set.
    pub(crate) fn set(&self) -> bool {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.set, true);
        // All of them: the first may want others too, and not be able to take this one.
        for (_, sleeper) in &state.threads {
            sleeper.tell();
        }
        if state.others.is_empty() {
            return before;
        }
        let mut told = state.told(self.auto);
        drop(state);
        for (_, waiter) in told.drain(..) {
            match waiter {
                Waiter::Task(waker) => crate::wake::wake(waker),
                Waiter::Report(reporter) => reporter.report(),
                Waiter::Thread(sleeper) => sleeper.tell(),
            }
        }
        let mut state = self.lock();
        if state.spare.capacity() < told.capacity() {
            state.spare = told;
        }
        before
    }

    /// Resets it. Whether it was set.
    pub(crate) fn reset(&self) -> bool {
        std::mem::replace(&mut self.lock().set, false)
    }

    /// Takes the signal if it is set; leaves `waiter` otherwise, under the number returned.
    pub(crate) fn take_or_leave(&self, waiter: impl FnOnce() -> Waiter) -> Option<u64> {
        let mut state = self.lock();
        if state.set {
            state.set = !self.auto;
            return None;
        }
        Some(state.leave(waiter()))
    }

    /// Takes a waiter off. Whether it was still waiting.
    pub(crate) fn forget(&self, id: u64) -> bool {
        let mut state = self.lock();
        if let Some(at) = state.threads.iter().position(|(other, _)| *other == id) {
            state.threads.swap_remove(at);
            return true;
        }
        let waiter = state.others.iter().position(|(other, _)| *other == id);
        let waiter = waiter.map(|at| state.others.remove(at));
        drop(state);
        // Dropping it is foreign code, if it is a waker.
        waiter.is_some()
    }
}

/// What can be waited for, from within.
pub(crate) trait Object {
    fn signal(&self) -> &Signal;
}

/// An object that a thread can wait for: an [`Event`], a [file object](crate::FileObject) (C-7), a
/// [completion port](crate::CompletionPort) (C-29).
#[expect(private_bounds, reason = "sealed")]
pub trait Waitable: Object {}
impl<T: Object + ?Sized> Waitable for T {}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// The object with that index has satisfied the wait; of a wait for all, 0.
    Object(usize),
    /// The time is over.
    TimedOut,
    /// One or more APCs have run instead ([`Status::USER_APC`]).
    Apc,
}

/// Whether APCs of the thread run while it waits (C-4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alertable {
    /// They do, and end the wait.
    Yes,
    /// They stay queued.
    No,
}

/// Waits until one of the objects is signalled, and takes the signal of that one alone: the first of
/// them if there are several. `None`: without limit.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::wait::{Alertable, Event, Waited, wait_any};
/// use std::time::Duration;
///
/// let (one, two) = (Event::auto(false), Event::auto(true));
/// assert_eq!(wait_any(&[&one, &two], None, Alertable::No), Ok(Waited::Object(1)));
/// let soon = Some(Duration::from_millis(1));
/// assert_eq!(wait_any(&[&one, &two], soon, Alertable::No), Ok(Waited::TimedOut));
/// ```
///
/// # Errors
/// [`Status::WOULD_DEADLOCK`] on a runtime's worker or inside a completion routine, unless the limit
/// is zero: there, await [`Event::signalled`].
pub fn wait_any(
    objects: &[&dyn Waitable],
    timeout: Option<Duration>,
    alertable: Alertable,
) -> Result<Waited, Status> {
    wait_for(objects, timeout, alertable, |signals| {
        let mut states: Vec<_> = lock_all(signals);
        let found = signals.iter().position(|signal| of(&mut states, signal).set)?;
        let signal = signals[found];
        of(&mut states, signal).set = !signal.auto;
        Some(found)
    })
}

/// Waits until all of the objects are signalled at one moment, and takes all the signals; until then
/// it takes none. `None`: without limit.
///
/// # Errors
/// As [`wait_any`].
pub fn wait_all(
    objects: &[&dyn Waitable],
    timeout: Option<Duration>,
    alertable: Alertable,
) -> Result<Waited, Status> {
    wait_for(objects, timeout, alertable, |signals| {
        let mut states: Vec<_> = lock_all(signals);
        if !states.iter().all(|(_, state)| state.set) {
            return None;
        }
        for signal in signals {
            of(&mut states, signal).set = !signal.auto;
        }
        Some(0)
    })
}

type Locked<'a> = (*const Signal, MutexGuard<'a, State>);

/// Each once, in the order of their addresses.
fn lock_all<'a>(signals: &[&'a Signal]) -> Vec<Locked<'a>> {
    let mut sorted: Vec<&Signal> = signals.to_vec();
    sorted.sort_unstable_by_key(|signal| std::ptr::from_ref(*signal));
    sorted.dedup_by_key(|signal| std::ptr::from_ref(*signal));
    sorted.into_iter().map(|signal| (std::ptr::from_ref(signal), signal.lock())).collect()
}

fn of<'a>(states: &'a mut [Locked<'_>], signal: &Signal) -> &'a mut State {
    let mut all = states.iter_mut();
    let found = all.find(|(address, _)| std::ptr::eq(*address, signal));
    &mut found.expect("all are locked").1
}

/// Takes the waiters that a wait has left off.
struct Left<'a>(Vec<(&'a Signal, u64)>);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        for (signal, id) in self.0.drain(..) {
            signal.forget(id);
        }
    }
}

fn wait_for(
    objects: &[&dyn Waitable],
    timeout: Option<Duration>,
    alertable: Alertable,
    mut take: impl FnMut(&[&Signal]) -> Option<usize>,
) -> Result<Waited, Status> {
    let signals: Vec<&Signal> = objects.iter().map(|object| object.signal()).collect();
    if let Some(found) = take(&signals) {
        return Ok(Waited::Object(found));
    }
    let limit = Limit::new(timeout);
    let mut left = Left(Vec::new());
    let apcs = (alertable == Alertable::Yes).then(apc::listen);
    let blocked = (!limit.is_poll()).then(port::blocked);
    let waited = sleeper::wait(limit, None::<fn() -> bool>, |sleeper| {
        if left.0.is_empty() {
            for signal in &signals {
                let id = signal.lock().leave(Waiter::Thread(sleeper.clone()));
                left.0.push((signal, id));
            }
        }
        if let Some(found) = take(&signals) {
            return Some(Waited::Object(found));
        }
        apcs.as_ref()?.at(sleeper);
        apc::is_queued().then_some(Waited::Apc)
    })?;
    drop((left, apcs, blocked));
    let waited = waited.unwrap_or(Waited::TimedOut);
    if waited == Waited::Apc {
        // Without anything locked, or registered.
        apc::run();
    }
    Ok(waited)
}

/// Sleeps until the time is over, or, if alertable, APCs have run. `None`: without limit.
///
/// # Errors
/// As [`wait_any`].
pub fn sleep(timeout: Option<Duration>, alertable: Alertable) -> Result<Waited, Status> {
    wait_for(&[], timeout, alertable, |_| None)
}
