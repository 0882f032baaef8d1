//! A turn that goes back and forth between two tasks.

use std::future::Future;
use std::sync::Mutex;
use std::task::{Poll, Waker};

/// How often it was taken, and who waits for it.
#[derive(Default)]
pub struct Turn(Mutex<(u64, Option<Waker>)>);

impl Turn {
    /// Waits until the count has the parity given, then adds one.
    pub fn pass(&self, parity: u64) -> impl Future<Output = ()> + Send + '_ {
        std::future::poll_fn(move |cx| {
            let mut turn = self.0.lock().expect("nobody panics");
            if turn.0 % 2 != parity {
                turn.1 = Some(cx.waker().clone());
                return Poll::Pending;
            }
            turn.0 += 1;
            let other = turn.1.take();
            drop(turn);
            if let Some(other) = other {
                other.wake();
            }
            Poll::Ready(())
        })
    }

    /// How often it was taken.
    pub fn count(&self) -> u64 {
        self.0.lock().expect("nobody panics").0
    }
}
