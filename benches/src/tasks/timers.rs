//! Timers that are dropped before they fire, as those of time-outs are, and sleeps that fire.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Runtime;

/// Longer than a run.
const NEVER: Duration = Duration::from_secs(3600);

/// Timers made and dropped between two yields: fewer than any runtime lets a task poll in one go.
const GROUP: u64 = 64;

/// Makes, polls and drops timers one by one, while an earlier one is pending.
pub async fn behind_another<R: Runtime>(rounds: u64) {
    let mut earlier = pin!(R::sleep(NEVER / 2));
    begin(earlier.as_mut()).await;
    alone::<R>(rounds).await;
}

/// The same with no other timer: each is the earliest.
pub async fn alone<R: Runtime>(rounds: u64) {
    for i in 0..rounds {
        begin(pin!(R::sleep(NEVER))).await;
        breathe::<R>(i).await;
    }
}

/// A thousand at a time, the oldest dropped for each new one.
pub async fn many<R: Runtime>(rounds: u64) {
    let mut pending: Vec<_> = (0..1000).map(|_| Box::pin(R::sleep(NEVER))).collect();
    for i in 0..rounds {
        let slot = &mut pending[i as usize % 1000];
        slot.set(R::sleep(NEVER));
        begin(slot.as_mut()).await;
        breathe::<R>(i).await;
    }
}

/// A task for each sleep, all within half a second. Gives how late they were at the 99th
/// percentile, in nanoseconds.
pub async fn sleeps<R: Runtime>(rounds: u64) -> u64 {
    let limit = |i: u64| Duration::from_micros(100_000 + i * 7919 % 500_000);
    let sleep = |i| {
        R::spawn(async move {
            let begin = Instant::now();
            R::sleep(limit(i)).await;
            let late = begin.elapsed().checked_sub(limit(i)).expect("no sleep ends early");
            late.as_nanos() as u64
        })
    };
    let tasks: Vec<_> = (0..rounds).map(sleep).collect();
    let mut late = Vec::with_capacity(tasks.len());
    for task in tasks {
        late.push(task.await);
    }
    late.sort_unstable();
    late[late.len() * 99 / 100]
}

/// Polls a timer once, which is when it is registered.
async fn begin(mut sleep: Pin<&mut impl Future<Output = ()>>) {
    let poll = std::future::poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx)));
    assert!(poll.await.is_pending(), "it has hardly begun");
}

async fn breathe<R: Runtime>(i: u64) {
    if i % GROUP == GROUP - 1 {
        R::yield_now().await;
    }
}
