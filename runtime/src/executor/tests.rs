//! Workers that are not to run: `concurrency` says so here, whatever the machine is like.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::{Builder, JoinHandle, Runtime, spawn, spawn_local};
use crate::Backend;
use crate::time::sleep;

fn backends() -> Vec<Backend> {
    match Backend::from_environment().expect("a backend") {
        Some(backend) => vec![backend],
        None => vec![Backend::IoUring, Backend::Epoll],
    }
}

/// Runtimes of three workers, of which one is to run.
fn runtimes() -> impl Iterator<Item = Runtime> {
    backends().into_iter().map(|backend| {
        let runtime = Builder::new().workers(3).backend(backend).build().expect("a runtime");
        runtime.shared.concurrency.set(1);
        runtime
    })
}

fn until(mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn worker() -> usize {
    super::worker::with_current(super::worker::Worker::seat).expect("a worker")
}

/// Begins `what` on each of the workers, all of which are to run until it has begun.
fn on_each<F>(runtime: &Runtime, what: impl Fn() -> F) -> Vec<JoinHandle<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.shared.concurrency.set(3);
    let meet = Arc::new(Barrier::new(4));
    let begin = |()| {
        let (meet, what) = (meet.clone(), what());
        runtime.spawn(async move {
            // It keeps its worker.
            meet.wait();
            what.await
        })
    };
    let begun = [(); 3].map(begin);
    meet.wait();
    runtime.shared.concurrency.set(1);
    begun.into()
}

#[test]
fn what_is_runnable_elsewhere_comes_to_the_worker_that_is_to_run() {
    for runtime in runtimes() {
        let sleepers = on_each(&runtime, || async {
            let mut at_first = 0;
            for _ in 0..50 {
                sleep(Duration::from_millis(1)).await;
                at_first += usize::from(worker() == 0);
            }
            at_first
        });
        let at_first: usize =
            sleepers.into_iter().map(|task| runtime.block_on(task).unwrap()).sum();
        // Others may have stood in, on a machine that is busy.
        assert!(at_first > 75, "{at_first} of 150");
    }
}

#[test]
fn others_stand_in_for_a_worker_that_does_not_come_on() {
    for runtime in runtimes() {
        let ran = Arc::new(AtomicUsize::new(0));
        let run = |n: usize| {
            let ran = ran.clone();
            async move {
                // Through a timer, whose worker is another than the one that is stuck.
                sleep(Duration::from_millis(1)).await;
                ran.fetch_add(n, Ordering::SeqCst);
            }
        };
        let from_within = run(1);
        let stuck = runtime.spawn({
            let ran = ran.clone();
            async move {
                drop(spawn(from_within));
                until(|| ran.load(Ordering::SeqCst) == 11);
            }
        });
        // From another thread.
        let outside = runtime.spawn(run(10));
        runtime.block_on(async {
            outside.await.unwrap();
            stuck.await.unwrap();
        });
    }
}

/// What others do that take no common work, or have enough of their own, is no help for what waits.
#[test]
fn others_stand_in_whatever_the_rest_does() {
    for (allowed, runtime) in [1, 2].into_iter().flat_map(|n| runtimes().map(move |r| (n, r))) {
        let (ended, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let busy = on_each(&runtime, || {
            let (ended, go) = (ended.clone(), go.clone());
            async move {
                let seat = worker();
                if seat != 0 {
                    // Progress of its own, for ever: one that is to run never rests.
                    let body = async move {
                        while ended.load(Ordering::SeqCst) == 0 {
                            if seat < allowed {
                                crate::yield_now().await;
                            } else {
                                sleep(Duration::from_millis(1)).await;
                            }
                        }
                    };
                    return spawn_local(body).await.unwrap();
                }
                go.wait();
                drop(spawn({
                    let ended = ended.clone();
                    async move { ended.fetch_add(1, Ordering::SeqCst) }
                }));
                until(|| ended.load(Ordering::SeqCst) == 1);
            }
        });
        runtime.shared.concurrency.set(allowed);
        go.wait();
        for task in busy {
            runtime.block_on(task).unwrap();
        }
    }
}

#[test]
fn a_task_that_is_bound_to_a_worker_runs_there() {
    for runtime in runtimes() {
        let seats = on_each(&runtime, || async {
            let seat = worker();
            let bound = spawn_local(async move {
                for _ in 0..20 {
                    sleep(Duration::from_millis(1)).await;
                    assert_eq!(worker(), seat);
                }
            });
            bound.await.unwrap();
            seat
        });
        let mut seats: Vec<_> =
            seats.into_iter().map(|task| runtime.block_on(task).unwrap()).collect();
        seats.sort_unstable();
        assert_eq!(seats, [0, 1, 2]);
    }
}

#[test]
fn more_workers_than_cores_step_aside_and_come_back() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for backend in backends() {
        let workers = 4 * cores;
        let runtime = Builder::new().workers(workers).backend(backend).build().expect("a runtime");
        let allowed = || runtime.shared.concurrency.allowed();
        assert_eq!(allowed(), workers);
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..4 * workers)
            .map(|_| {
                let stop = stop.clone();
                runtime.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        crate::yield_now().await;
                    }
                })
            })
            .collect();
        // All want a core, and get as much done with fewer.
        until(|| allowed() < workers);
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        // Little to do, and nothing to lose.
        drop(runtime.spawn(async {
            loop {
                sleep(Duration::from_millis(1)).await;
            }
        }));
        until(|| allowed() == workers);
    }
}

#[test]
fn a_runtime_ends_whoever_is_to_run() {
    for runtime in runtimes() {
        let tasks: Vec<_> = (0..100)
            .map(|i| {
                runtime.spawn(async move {
                    loop {
                        sleep(Duration::from_micros(i * 10)).await;
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(5));
        let report = runtime.shutdown(Duration::from_secs(30));
        assert_eq!((report.tasks, report.stuck_workers), (100, 0));
        drop(tasks);
    }
}
