//! Timers of a processor: deadlines of requests, and wakers of sleeping tasks.

use std::ptr::NonNull;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::{Core, Remote};
use crate::clock::{self, epoch};
use crate::hal::Wait;
use crate::irp::finish;
use crate::irp::slot::{SlotPtr, flags};
use crate::wake;
use crate::wheel::TimerKey;

pub(crate) enum Timer {
    /// A request's deadline; taken off when the request completes.
    Deadline(SlotPtr),
    /// A task's sleep.
    Wake(Waker),
}

/// Milliseconds; see [`TimerId::insert`].
const NEAR: u64 = 2;

/// A timer of the calling thread's processor; see [`TimerId::insert`].
#[derive(Debug)]
pub struct TimerId {
    key: TimerKey,
    processor: u32,
}

/// Milliseconds since the process's epoch, rounded down.
pub(crate) fn tick_of(at: Instant) -> u64 {
    millis(at.saturating_duration_since(epoch()))
}

/// Whole milliseconds; as many as there can be for what is too far.
fn millis(since: Duration) -> u64 {
    since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis()))
}

/// As [`tick_of`], rounded up, so that a timer never fires early.
fn tick_after(at: Instant) -> u64 {
    let since = at.saturating_duration_since(epoch());
    millis(since).saturating_add(u64::from(!since.subsec_nanos().is_multiple_of(1_000_000)))
}

impl TimerId {
    /// Wakes `waker` at `deadline` (to the millisecond, never earlier), unless that has passed. Far
    /// from the time of the processor's last turn it is not compared with the clock, which costs as
    /// much as the rest: one that has passed meanwhile then wakes in the next turn.
    ///
    /// # Panics
    /// When the calling thread drives no processor.
    pub fn insert(deadline: Instant, waker: &Waker) -> Option<TimerId> {
        let insert = |core: &Core| {
            let (tick, now) = (tick_after(deadline), core.now());
            if tick <= now || tick <= now + NEAR && clock::now() >= deadline {
                return None;
            }
            let timer = Timer::Wake(waker.clone());
            let key = core.wheel.borrow_mut().insert(tick, timer);
            Some(TimerId { key, processor: core.remote.id() })
        };
        Core::with_current(insert).expect("a timer needs a processor: await it inside a runtime")
    }

    /// Gives the timer the waker of the task that polls now. `false`: it has fired, or it is not
    /// the calling thread's processor's.
    pub fn update(&self, waker: &Waker) -> bool {
        Core::with_current(|core| {
            if self.processor != core.remote.id() {
                return false;
            }
            match core.wheel.borrow_mut().get_mut(self.key) {
                Some(Timer::Wake(old)) if old.will_wake(waker) => return true,
                Some(Timer::Wake(_)) => {}
                _ => return false,
            }
            // Cloning and dropping wakers may run code of the user's, which may use timers.
            let mut new = waker.clone();
            match core.wheel.borrow_mut().get_mut(self.key) {
                Some(Timer::Wake(old)) => std::mem::swap(old, &mut new),
                _ => return false,
            }
            drop(new);
            true
        })
        .unwrap_or(false)
    }

    /// Takes the timer off; another processor's takes it off in its next turn.
    pub fn remove(self) {
        let here = Core::with_current(|core| {
            (self.processor == core.remote.id()).then(|| core.take_timer(self.key))
        });
        // Outside the borrow: dropping a waker may run code of the user's.
        if let Some(Some(timer)) = here {
            return drop(timer);
        }
        // The task has moved since. Left alone, the timer would keep it until it fires.
        if let Some(remote) = Remote::by_id(self.processor) {
            let key = self.key;
            // A processor that is gone has dropped its timers.
            let _ = remote.run(Box::new(move |core| drop(wake::to_drop(core.take_timer(key)))));
        }
    }
}

impl Core {
    fn take_timer(&self, key: TimerKey) -> Option<Timer> {
        self.wheel.borrow_mut().remove(key)
    }

    /// When the next timer is due, if there is one that is not too far to be expressed.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let tick = self.wheel.borrow().next_deadline()?;
        epoch().checked_add(Duration::from_millis(tick))
    }

    /// Shortens a wait to the next timer's.
    #[inline]
    pub(super) fn bounded_by_timers(&self, wait: Wait) -> Wait {
        if self.wheel.borrow().is_empty() { wait } else { self.until_next_timer(wait) }
    }

    fn until_next_timer(&self, wait: Wait) -> Wait {
        let limit = match wait {
            Wait::No => return Wait::No,
            Wait::Forever => None,
            Wait::For(limit) => Some(limit),
        };
        let Some(at) = self.next_timer() else { return wait };
        match at.checked_duration_since(clock::now()) {
            None | Some(Duration::ZERO) => Wait::No,
            Some(left) => Wait::For(limit.map_or(left, |limit| limit.min(left))),
        }
    }

    #[inline]
    pub(super) fn fire_timers(&self) -> bool {
        let now = self.now.get();
        !self.wheel.borrow_mut().skip_to(now) && self.fire_until(now)
    }

    fn fire_until(&self, now: u64) -> bool {
        let mut fired = false;
        loop {
            let timer = self.wheel.borrow_mut().pop_expired(now);
            match timer {
                None => return fired,
                Some(Timer::Wake(waker)) => {
                    wake::wake(waker);
                }
                // SAFETY: a deadline is taken off when its request completes, so this one has not.
                Some(Timer::Deadline(slot)) => unsafe {
                    (*slot.0.as_ptr()).timer = None;
                    (*slot.0.as_ptr()).flags.set(flags::TIMED_OUT);
                    finish::cancel(slot);
                },
            }
            fired = true;
        }
    }

    pub(super) fn take_timers(&self) -> crate::wheel::Wheel<Timer> {
        self.wheel.replace(crate::wheel::Wheel::new())
    }

    /// Sets a request's deadline.
    ///
    /// # Safety
    /// The slot is in flight on this processor.
    pub(crate) unsafe fn set_deadline(&self, slot: SlotPtr, at: Instant) {
        let key = self.wheel.borrow_mut().insert(tick_after(at), Timer::Deadline(slot));
        let slot: NonNull<_> = slot.0;
        // SAFETY: the caller's.
        unsafe {
            (*slot.as_ptr()).timer = Some(key);
            (*slot.as_ptr()).flags.set(flags::TIMED);
        }
    }

    pub(crate) fn cancel_deadline(&self, key: TimerKey) {
        self.wheel.borrow_mut().remove(key);
    }
}
