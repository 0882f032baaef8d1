//! Turns, in the order of asking: a lock that futures wait for.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use overlapped_iomgr::filter::Next;

/// See the module's header.
#[derive(Default)]
pub(super) struct Turns(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// Somebody has the turn, or it has been given to one that waits and has not looked.
    taken: bool,
    /// Who has been given it.
    given: Option<u64>,
    /// Counts those that have waited.
    last: u64,
    waiting: VecDeque<(u64, Waker)>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing of anybody else's runs while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn. `None`: the request has been cancelled before.
    pub(super) fn take<'t>(&'t self, next: Next<'t>) -> Take<'t> {
        Take { turns: self, next, id: None }
    }

    /// The turn, if nobody has it.
    pub(super) fn take_now(&self) -> Option<Turn<'_>> {
        let mut queue = self.lock();
        let free = !queue.taken;
        queue.taken = true;
        drop(queue);
        free.then_some(Turn(self))
    }

    /// The turn of one who has it already, and kept it by [`Turn::keep`].
    pub(super) fn kept(&self) -> Turn<'_> {
        Turn(self)
    }

    /// Gives the turn to the next one.
    pub(super) fn pass(&self) {
        let mut queue = self.lock();
        let waker = match queue.waiting.pop_front() {
            Some((id, waker)) => {
                queue.given = Some(id);
                Some(waker)
            }
            None => {
                queue.taken = false;
                None
            }
        };
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The turn; dropping it passes it on.
pub(super) struct Turn<'t>(&'t Turns);

impl Turn<'_> {
    /// It is passed on by [`Turns::pass`] later.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.pass();
    }
}

/// See [`Turns::take`].
pub(super) struct Take<'t> {
    turns: &'t Turns,
    next: Next<'t>,
    /// In the queue, or out of it with the turn.
    id: Option<u64>,
}

impl<'t> Future for Take<'t> {
    type Output = Option<Turn<'t>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let cancelled = self.next.is_cancelled();
        let mut queue = self.turns.lock();
        match self.id {
            None if !queue.taken => queue.taken = true,
            None if cancelled => return Poll::Ready(None),
            None => {
                queue.last += 1;
                let id = queue.last;
                queue.waiting.push_back((id, cx.waker().clone()));
                drop(queue);
                self.id = Some(id);
                return Poll::Pending;
            }
            Some(id) if queue.given == Some(id) => queue.given = None,
            Some(id) if cancelled => {
                queue.waiting.retain(|(other, _)| *other != id);
                drop(queue);
                self.id = None;
                return Poll::Ready(None);
            }
            Some(id) => {
                let place = queue.waiting.iter_mut().find(|(other, _)| *other == id);
                place.expect("waits").1.clone_from(cx.waker());
                return Poll::Pending;
            }
        }
        drop(queue);
        self.id = None;
        Poll::Ready(Some(Turn(self.turns)))
    }
}

impl Drop for Take<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut queue = self.turns.lock();
        if queue.given == Some(id) {
            queue.given = None;
            drop(queue);
            self.turns.pass();
        } else {
            queue.waiting.retain(|(other, _)| *other != id);
        }
    }
}
