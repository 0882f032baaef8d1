//! Time: sleeps, intervals and timeouts, their order, and timers that move between threads.

mod support;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future;
use overlapped::time::{
    Interval, MissedTicks, interval, interval_at, sleep, sleep_until, timeout, timeout_at,
};
use overlapped::yield_now;
use support::{backends, both, local, workers};

/// On one worker: two may run their tasks in any order.
#[test]
fn timers_end_in_their_order_and_never_early() {
    for backend in backends() {
        local(backend).block_on(async {
            // All are asleep before the first is due, even on a busy machine.
            let start = Instant::now() + Duration::from_millis(100);
            let order = Rc::new(RefCell::new(Vec::new()));
            let sleeps = [30u64, 10, 20, 0, 5, 40, 10].map(|ms| {
                let order = order.clone();
                overlapped::spawn_local(async move {
                    let deadline = start + Duration::from_millis(ms);
                    sleep_until(deadline).await;
                    assert!(Instant::now() >= deadline);
                    order.borrow_mut().push(ms);
                })
            });
            for sleep in sleeps {
                sleep.await.unwrap();
            }
            assert!(order.borrow().is_sorted(), "{order:?}");
        });
    }
}

#[test]
fn many_timers_and_odd_ones() {
    both(async |_| {
        // Many, and most of them dropped.
        let many: Vec<_> = (0..10_000u64).map(|i| sleep(Duration::from_micros(i))).collect();
        let mut many: Vec<_> = many.into_iter().map(Box::pin).collect();
        future::poll_fn(|cx| {
            for sleep in &mut many {
                let _ = sleep.as_mut().poll(cx);
            }
            Poll::Ready(())
        })
        .await;
        many.retain(|s| s.deadline().elapsed().subsec_nanos() % 7 == 0);
        future::join_all(many).await;
        // Far away, moved, and in the past.
        let mut far = sleep(Duration::MAX);
        assert!(future::poll_immediate(&mut far).await.is_none());
        far.reset(Instant::now() + Duration::from_millis(2));
        far.await;
        sleep_until(Instant::now() - Duration::from_millis(1)).await;
    });
}

#[test]
fn intervals() {
    both(async |_| {
        let period = Duration::from_millis(4);
        let mut ticks = interval(period);
        let first = ticks.tick().await;
        for i in 1..5 {
            assert_eq!(ticks.tick().await, first + i * period);
        }
        let late = async |ticks: Interval| {
            let mut ticks = ticks;
            let first = ticks.tick().await;
            std::thread::sleep(3 * period + period / 2);
            let due: [Instant; 3] = [ticks.tick().await, ticks.tick().await, ticks.tick().await];
            (first, due)
        };
        let (first, due) = late(interval(period)).await;
        assert_eq!(due, [1, 2, 3].map(|i| first + i * period));
        let (first, due) = late(interval(period).missed_ticks(MissedTicks::Delay)).await;
        assert!(due[0] == first + period && due[1] >= first + 4 * period);
        let (first, due) = late(interval(period).missed_ticks(MissedTicks::Skip)).await;
        assert_eq!((due[1] - first).as_nanos() % period.as_nanos(), 0);
        assert!(due[0] == first + period && due[1] >= first + 4 * period);
    });
    both(async |_| {
        let period = Duration::from_millis(4);
        // In the future: nothing before, and the grid begins there.
        let start = Instant::now() + period;
        let mut ticks = interval_at(start, period);
        assert!(future::poll_immediate(Box::pin(ticks.tick())).await.is_none());
        assert_eq!(ticks.tick().await, start);
        assert!(Instant::now() >= start);
        assert_eq!(ticks.tick().await, start + period);
        // In the past: ticks are missed from the beginning.
        let start = Instant::now() - 3 * period;
        let mut ticks = interval_at(start, period);
        for i in 0..4 {
            assert_eq!(
                future::poll_immediate(Box::pin(ticks.tick())).await,
                Some(start + i * period)
            );
        }
        let mut ticks = interval_at(start, period).missed_ticks(MissedTicks::Skip);
        assert_eq!(ticks.tick().await, start);
        assert!(ticks.tick().await >= start + 4 * period);
    });
    assert!(std::panic::catch_unwind(|| interval(Duration::ZERO)).is_err());
    assert!(std::panic::catch_unwind(|| interval_at(Instant::now(), Duration::ZERO)).is_err());
}

#[test]
fn timeouts() {
    both(async |_| {
        let soon = Duration::from_millis(3);
        let error = timeout(soon, future::pending::<()>()).await.unwrap_err();
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
        assert_eq!(timeout(Duration::from_secs(100), async { 5 }).await, Ok(5));
        assert_eq!(timeout(Duration::ZERO, async { 5 }).await, Ok(5));
        let now = Instant::now();
        assert!(timeout_at(now + soon, future::pending::<()>()).await.is_err());
        assert!(Instant::now() >= now + soon);
        assert!(timeout_at(now, future::pending::<()>()).await.is_err());
        assert_eq!(timeout_at(now, async { 5 }).await, Ok(5));
        let inner = timeout(Duration::from_secs(100), timeout(soon, future::pending::<()>()));
        assert!(inner.await.unwrap().is_err());
    });
}

#[test]
fn sleeps_that_move_between_threads() {
    workers(3, |_| async {
        let (send, receive) = std::sync::mpsc::channel();
        let dropper = std::thread::spawn(move || {
            receive.into_iter().for_each(drop::<overlapped::time::Sleep>)
        });
        let tasks: Vec<_> = (0..200u64)
            .map(|i| {
                let send = send.clone();
                overlapped::spawn(async move {
                    let mut sleep = sleep(Duration::from_micros(i * 20));
                    let _ = future::poll_immediate(&mut sleep).await;
                    yield_now().await;
                    // Dropped elsewhere, or awaited wherever this runs by now.
                    if i % 2 == 0 { send.send(sleep).unwrap() } else { sleep.await }
                })
            })
            .collect();
        drop(send);
        for task in tasks {
            task.await.unwrap();
        }
        dropper.join().unwrap();
    });
}
