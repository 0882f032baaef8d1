//! Sets of tasks: results as they come, aborts, and sets that are dropped, emptied and moved.

mod support;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::future;
use overlapped::task::{CancellationToken, JoinSet};
use overlapped::yield_now;
use support::{backends, both, local, multi, poll_once, until, until_blocking, watch, workers};

/// Counts itself off when dropped.
struct Guard(Arc<AtomicUsize>);

impl Guard {
    fn new(live: &Arc<AtomicUsize>) -> Guard {
        live.fetch_add(1, Ordering::SeqCst);
        Guard(live.clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn results_come_in_the_order_of_the_ends() {
    both(async |_| {
        let gates: Vec<_> = (0..5).map(|_| CancellationToken::new()).collect();
        let mut set = JoinSet::new();
        for (i, gate) in gates.iter().cloned().enumerate() {
            set.spawn(async move {
                gate.cancelled().await;
                i
            });
        }
        assert_eq!((set.len(), set.is_empty()), (5, false));
        assert!(set.try_join_next().is_none());
        for i in [3, 0, 4, 1, 2] {
            gates[i].cancel();
            assert_eq!(set.join_next().await.unwrap().unwrap(), i);
        }
        assert!(set.is_empty() && set.join_next().await.is_none());
        assert!(format!("{set:?}").contains('0'));
        // Tasks of all kinds, and one that has ended before it is put in.
        set.spawn(async { 7 });
        set.spawn_blocking(|| 8);
        let mut values = set.join_all().await.unwrap();
        values.sort();
        assert_eq!(values, [7, 8]);
    });
}

#[test]
fn local_tasks_in_a_set() {
    for backend in backends() {
        local(backend).block_on(async {
            let shared = Rc::new(5);
            let mut set = JoinSet::new();
            for i in 0..10 {
                let shared = shared.clone();
                set.spawn_local(async move {
                    yield_now().await;
                    Rc::new(*shared + i)
                });
            }
            let values = set.join_all().await.unwrap();
            assert_eq!(values.iter().map(|v| **v).sum::<i32>(), 95);
            assert_eq!(Rc::strong_count(&shared), 1);
        });
    }
}

#[test]
fn a_join_that_is_dropped_loses_nothing() {
    workers(2, |_| async {
        let mut set = JoinSet::new();
        for i in 0..1000usize {
            set.spawn(async move {
                if i % 3 == 0 {
                    yield_now().await;
                }
                i
            });
        }
        let mut sum = 0;
        while !set.is_empty() {
            // Dropped while it waits, mostly before and sometimes after the wake.
            let mut next = Box::pin(set.join_next());
            if let Poll::Ready(result) = poll_once(&mut next) {
                sum += result.unwrap().unwrap();
                continue;
            }
            yield_now().await;
            drop(next);
            if let Some(result) = set.try_join_next() {
                sum += result.unwrap();
            }
        }
        assert_eq!(sum, 499_500);
    });
}

#[test]
fn failures_and_aborts() {
    both(async |_| {
        let mut set: JoinSet<u32> = JoinSet::new();
        let pending = set.spawn(future::pending());
        set.spawn(async { panic!("one of them") });
        assert!(set.join_next().await.unwrap().unwrap_err().is_panic());
        assert!(!pending.is_finished() && format!("{pending:?}").contains("false"));
        let again = pending.clone();
        drop(pending);
        again.abort();
        again.abort();
        assert!(set.join_next().await.unwrap().unwrap_err().is_cancelled());
        assert!(again.is_finished());
        // What has ended keeps its result when all are aborted.
        let done = set.spawn(async { 5 });
        until(|| done.is_finished()).await;
        for _ in 0..3 {
            set.spawn(future::pending());
        }
        set.abort_all();
        let (mut values, mut aborted) = (Vec::new(), 0);
        while let Some(result) = set.join_next().await {
            match result {
                Ok(value) => values.push(value),
                Err(error) => aborted += usize::from(error.is_cancelled()),
            }
        }
        assert_eq!((values, aborted), (vec![5], 3));
        // The first failure ends the others.
        let live = Arc::new(AtomicUsize::new(0));
        let guard = Guard::new(&live);
        set.spawn(async move {
            let _guard = guard;
            future::pending().await
        });
        set.spawn(async { panic!("and so all") });
        assert!(set.join_all().await.unwrap_err().is_panic());
        until(|| live.load(Ordering::SeqCst) == 0).await;
    });
}

#[test]
fn shutdown_waits_until_the_futures_are_gone() {
    both(async |_| {
        let live = Arc::new(AtomicUsize::new(0));
        let mut set = JoinSet::new();
        for _ in 0..50 {
            let guard = Guard::new(&live);
            set.spawn(async move {
                let _guard = guard;
                overlapped::time::sleep(std::time::Duration::from_secs(1000)).await;
            });
        }
        yield_now().await;
        set.shutdown().await;
        assert_eq!((live.load(Ordering::SeqCst), set.len()), (0, 0));
        set.spawn(async {});
        assert!(set.join_next().await.unwrap().is_ok());
    });
}

#[test]
fn a_dropped_set_aborts_and_a_detached_one_does_not() {
    both(async |_| {
        let live = Arc::new(AtomicUsize::new(0));
        let gate = CancellationToken::new();
        let fill = |set: &mut JoinSet<()>| {
            for _ in 0..10 {
                let (guard, gate) = (Guard::new(&live), gate.clone());
                set.spawn(async move {
                    let _guard = guard;
                    gate.cancelled().await;
                });
            }
        };
        let mut set = JoinSet::default();
        fill(&mut set);
        yield_now().await;
        drop(set);
        until(|| live.load(Ordering::SeqCst) == 0).await;

        let mut set = JoinSet::new();
        fill(&mut set);
        yield_now().await;
        set.detach_all();
        assert!(set.is_empty() && set.join_next().await.is_none());
        set.spawn(async {});
        assert_eq!(live.load(Ordering::SeqCst), 10);
        gate.cancel();
        until(|| live.load(Ordering::SeqCst) == 0).await;
        // The ends of those are not taken for that of the new one.
        assert!(set.join_next().await.unwrap().is_ok());
        assert!(set.join_next().await.is_none());
    });
}

/// With a look at each task for each result this would take ten thousand million looks.
#[test]
fn a_hundred_thousand_tasks_in_one_set() {
    for backend in backends() {
        let _watch = watch(format!("a large set on {backend}"));
        let runtime = multi(backend, 4);
        let task = runtime.spawn(async {
            let mut set = JoinSet::new();
            for i in 0..100_000usize {
                set.spawn(async move {
                    yield_now().await;
                    i
                });
            }
            let mut sum = 0;
            while let Some(result) = set.join_next().await {
                sum += result.unwrap();
            }
            sum
        });
        assert_eq!(runtime.block_on(task).unwrap(), 4_999_950_000);
    }
}

#[test]
fn a_set_outlives_its_runtime_and_moves() {
    for backend in backends() {
        let _watch = watch(format!("a moving set on {backend}"));
        let runtime = multi(backend, 2);
        let mut set = runtime.block_on(async {
            let mut set = JoinSet::new();
            let done = set.spawn(async { 1 });
            until(|| done.is_finished()).await;
            set.spawn(future::pending());
            set
        });
        drop(runtime);
        let thread = std::thread::spawn(move || {
            local(backend).block_on(async {
                assert_eq!(set.join_next().await.unwrap().unwrap(), 1);
                assert!(set.join_next().await.unwrap().unwrap_err().is_cancelled());
            });
        });
        until_blocking(|| thread.is_finished());
        thread.join().unwrap();
    }
}
