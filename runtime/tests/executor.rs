//! The executor: tasks, handles, fairness, the flavors and the macros.

mod support;

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use futures_util::future;
use overlapped::time::sleep;
use overlapped::{Builder, Flavor, yield_now};
use support::{
    Dir, backends, both, local, multi, poll_once, until, until_blocking, watch, workers,
};

#[test]
fn tasks_and_their_handles() {
    both(async |backend| {
        assert_eq!(overlapped::spawn(async { 1 }).await.unwrap(), 1);
        let slow = overlapped::spawn(async {
            sleep(Duration::from_millis(5)).await;
            2
        });
        assert!(!slow.is_finished());
        assert_eq!(slow.await.unwrap(), 2);
        // Dropping the handle detaches.
        let done = Arc::new(AtomicBool::new(false));
        let flag = done.clone();
        drop(overlapped::spawn(async move {
            yield_now().await;
            flag.store(true, Ordering::SeqCst);
        }));
        until(|| done.load(Ordering::SeqCst)).await;
        // Awaited in another runtime, on another thread.
        let task = overlapped::spawn(async {
            sleep(Duration::from_millis(5)).await;
            3
        });
        let other = std::thread::spawn(move || local(backend).block_on(task).unwrap());
        until(|| other.is_finished()).await;
        assert_eq!(other.join().unwrap(), 3);
        assert!(format!("{:?}", overlapped::spawn(async {})).contains("finished"));
    });
}

#[test]
fn aborting() {
    both(async |_| {
        let live = Arc::new(());
        let held = live.clone();
        let task = overlapped::spawn(async move {
            let _held = held;
            future::pending::<()>().await;
        });
        yield_now().await;
        task.abort();
        task.abort();
        let error = task.await.unwrap_err();
        assert!(error.is_cancelled() && !error.is_panic());
        assert_eq!(error.to_string(), "the task was aborted");
        assert!(std::io::Error::from(error).to_string().contains("aborted"));
        assert_eq!(Arc::strong_count(&live), 1);
        // A finished task stays finished.
        let task = overlapped::spawn(async { 5 });
        until(|| task.is_finished()).await;
        task.abort();
        assert_eq!(task.await.unwrap(), 5);
    });
}

/// An error like others: anybody's to look at, and to be put into another, whole.
#[test]
fn a_join_error_is_anybodys() {
    const fn is_anybodys<T: std::error::Error + Send + Sync + 'static>() {}
    const { is_anybodys::<overlapped::JoinError>() };
    both(async |_| {
        // What the panic carries is nobody else's to look at.
        let panicked = overlapped::spawn(async { std::panic::panic_any(Cell::new(7)) });
        let error = std::io::Error::other(panicked.await.unwrap_err());
        assert_eq!(error.to_string(), "the task panicked");
        let error = std::io::Error::from(error.downcast::<overlapped::JoinError>().unwrap());
        let back = error.into_inner().unwrap().downcast::<overlapped::JoinError>().unwrap();
        assert_eq!(back.into_panic().unwrap().downcast::<Cell<i32>>().unwrap().get(), 7);
    });
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("in a drop");
    }
}

#[test]
fn panics_stay_in_their_tasks() {
    both(async |_| {
        let error = overlapped::spawn(async { panic!("number {}", 5) }).await.unwrap_err();
        assert!(error.is_panic() && !error.is_cancelled());
        assert_eq!(error.to_string(), "the task panicked: number 5");
        let error = overlapped::spawn(async { panic!("static") }).await.unwrap_err();
        assert_eq!(*error.into_panic().unwrap().downcast::<&str>().unwrap(), "static");
        let error = overlapped::spawn(async { std::panic::panic_any(7) }).await.unwrap_err();
        assert_eq!(error.to_string(), "the task panicked");
        let error = overlapped::spawn_blocking(|| panic!("blocking")).await.unwrap_err();
        assert_eq!(error.to_string(), "the task panicked: blocking");
        // While it is dropped: after its end, and when it is aborted.
        let bomb = Bomb;
        let ended = overlapped::spawn(async move {
            let _bomb = bomb;
        });
        assert!(ended.await.unwrap_err().is_panic());
        let bomb = Bomb;
        let task = overlapped::spawn(async move {
            let _bomb = bomb;
            future::pending::<()>().await;
        });
        yield_now().await;
        task.abort();
        assert!(task.await.is_err());
        // All goes on.
        assert_eq!(overlapped::spawn(async { 1 }).await.unwrap(), 1);
        sleep(Duration::from_millis(1)).await;
    });
}

/// A waker that panics.
struct Fuse;

impl Wake for Fuse {
    fn wake(self: Arc<Self>) {
        panic!("a foreign waker");
    }
}

#[test]
fn panics_in_wakers() {
    both(async |_| {
        let dir = Dir::new();
        let file = overlapped::fs::File::open(dir.file("f", vec![7; 1 << 20])).await.unwrap();
        let waker = Waker::from(Arc::new(Fuse));
        let mut cx = Context::from_waker(&waker);
        let mut sleeps: Vec<_> =
            (0..3).map(|_| Box::pin(sleep(Duration::from_millis(2)))).collect();
        for sleep in &mut sleeps {
            assert!(sleep.as_mut().poll(&mut cx).is_pending());
        }
        let mut reads: Vec<_> = (0..64).map(|i| file.read_at(vec![0; 4096], i * 4096)).collect();
        let pending: Vec<_> = reads
            .iter_mut()
            .map(|read| std::pin::Pin::new(read).poll(&mut cx).is_pending())
            .collect();
        sleep(Duration::from_millis(20)).await;
        for (read, pending) in reads.into_iter().zip(pending) {
            if pending {
                assert_eq!(read.await.unwrap().0, 4096);
            }
        }
        future::join_all(sleeps).await;
    });
}

#[test]
fn local_tasks() {
    for backend in backends() {
        let runtime = local(backend);
        runtime.block_on(async {
            let shared = Rc::new(Cell::new(0));
            let tasks: Vec<_> = (0..100)
                .map(|i| {
                    let shared = shared.clone();
                    overlapped::spawn_local(async move {
                        yield_now().await;
                        shared.set(shared.get() + i);
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            assert_eq!((shared.get(), Rc::strong_count(&shared)), (4950, 1));
        });
        // What block_on leaves goes on in the next one.
        let mut task = None;
        runtime.block_on(async {
            task = Some(overlapped::spawn_local(async {
                sleep(Duration::from_millis(2)).await;
                8
            }));
        });
        assert_eq!(runtime.block_on(task.unwrap()).unwrap(), 8);
        // A thread has one runtime at a time.
        drop(runtime);
        // In a task of a multi-thread runtime they stay on their worker.
        let runtime = multi(backend, 3);
        let outer = runtime.spawn(async {
            let here = std::thread::current().id();
            let inner = overlapped::spawn_local(async move {
                for _ in 0..100 {
                    sleep(Duration::from_micros(100)).await;
                    assert_eq!(std::thread::current().id(), here);
                }
            });
            inner.await.unwrap();
        });
        runtime.block_on(outer).unwrap();
    }
}

#[test]
fn block_on_by_a_handle() {
    for backend in backends() {
        let _watch = watch(format!("handles on {backend}"));
        let runtime = multi(backend, 2);
        let handle = runtime.handle();
        let use_all = async || {
            let task = overlapped::spawn(async { std::thread::current().id() });
            assert_ne!(task.await.unwrap(), std::thread::current().id());
            sleep(Duration::from_millis(1)).await;
            overlapped::fs::read("/proc/self/status").await.unwrap();
            overlapped::spawn_blocking(|| 7).await.unwrap()
        };
        std::thread::scope(|scope| {
            let threads = [(); 3].map(|()| scope.spawn(|| handle.block_on(use_all())));
            assert_eq!(threads.map(|thread| thread.join().unwrap()), [7; 3]);
        });
        assert_eq!(handle.block_on(use_all()), 7);
        // Inside a runtime, and in a task.
        let inner = handle.clone();
        let panics = || catch_unwind(AssertUnwindSafe(|| inner.block_on(async {}))).is_err();
        assert!(handle.block_on(async { panics() }));
        let inner = handle.clone();
        let task = runtime.spawn(async move {
            catch_unwind(AssertUnwindSafe(|| inner.block_on(async {}))).is_err()
        });
        assert!(runtime.block_on(task).unwrap());
        // After its end it still drives the future, and spawns nothing.
        drop(runtime);
        handle.block_on(async {
            sleep(Duration::from_millis(1)).await;
            assert!(overlapped::spawn(async {}).await.unwrap_err().is_cancelled());
        });
        // A local runtime's tasks run while its own thread does.
        let local = local(backend);
        let handle = local.handle();
        assert!(catch_unwind(AssertUnwindSafe(|| handle.block_on(async {}))).is_err());
        let home = std::thread::current().id();
        let other = std::thread::spawn(move || {
            let task = async { overlapped::spawn(async { std::thread::current().id() }).await };
            handle.block_on(task).unwrap()
        });
        local.block_on(until(|| other.is_finished()));
        assert_eq!(other.join().unwrap(), home);
    }
}

#[test]
fn outside_a_runtime_spawning_panics_and_says_why() {
    let panic = std::panic::catch_unwind(|| overlapped::spawn(async {})).unwrap_err();
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap();
    assert!(text.contains("not in a runtime"), "{text}");
    assert!(std::panic::catch_unwind(|| overlapped::spawn_blocking(|| ())).is_err());
    let mut sleeping = sleep(Duration::from_secs(1));
    let poll = std::panic::AssertUnwindSafe(|| poll_once(&mut sleeping));
    assert!(std::panic::catch_unwind(poll).is_err());
}

#[test]
fn a_task_that_wakes_itself_starves_nobody() {
    workers(1, |_| async {
        let over = Arc::new(AtomicBool::new(false));
        let greedy: Vec<_> = (0..10)
            .map(|_| {
                let over = over.clone();
                overlapped::spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        yield_now().await;
                    }
                })
            })
            .collect();
        // Timers, files, sockets and blocking code.
        for _ in 0..10 {
            sleep(Duration::from_millis(1)).await;
            overlapped::fs::read("/proc/self/status").await.unwrap();
            overlapped::spawn_blocking(|| ()).await.unwrap();
            let listener = overlapped::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let connect = overlapped::net::TcpStream::connect(address);
            let (client, server) = future::join(connect, listener.accept()).await;
            let (client, server) = (client.unwrap(), server.unwrap().0);
            let sent = server.write(b"hello".to_vec());
            let (read, _) = future::join(client.read(vec![0; 9]), sent).await;
            assert_eq!(read.unwrap().0, 5);
        }
        over.store(true, Ordering::Relaxed);
        for task in greedy {
            task.await.unwrap();
        }
    });
}

/// At a runtime's end one task's future wakes another as it is dropped, which is dropped all the same,
/// once, and counted once.
#[test]
fn the_end_of_one_task_wakes_another() {
    struct Wakes(Rc<Cell<Option<Waker>>>, Rc<Cell<u32>>);
    impl Drop for Wakes {
        fn drop(&mut self) {
            self.1.set(self.1.get() + 1);
            if let Some(waker) = self.0.take() {
                waker.wake();
            }
        }
    }
    for backend in backends() {
        let runtime = local(backend);
        let (handle, waker, drops) = (runtime.handle(), Rc::default(), Rc::default());
        let (first, second) = runtime.block_on(async {
            let guard = |waker: &Rc<Cell<Option<Waker>>>| Wakes(waker.clone(), Rc::clone(&drops));
            let (wakes, woken) = (guard(&waker), guard(&Rc::default()));
            let first = overlapped::spawn_local(async move {
                let _wakes = wakes;
                future::pending::<()>().await;
            });
            let second = overlapped::spawn_local({
                let waker = waker.clone();
                async move {
                    let _woken = woken;
                    future::poll_fn(|cx| {
                        waker.set(Some(cx.waker().clone()));
                        std::task::Poll::<()>::Pending
                    })
                    .await;
                }
            });
            yield_now().await;
            yield_now().await;
            (first, second)
        });
        assert_eq!(handle.tasks(), 2);
        assert_eq!(runtime.shutdown(Duration::from_secs(5)).tasks, 2);
        assert_eq!((drops.get(), handle.tasks()), (2, 0));
        let other = local(backend);
        let (first, second) = other.block_on(future::join(first, second));
        assert!(first.unwrap_err().is_cancelled() && second.unwrap_err().is_cancelled());
    }
}

#[test]
fn a_hundred_thousand_tasks() {
    for backend in backends() {
        let _watch = watch(format!("100,000 tasks on {backend}"));
        let runtime = multi(backend, 4);
        let sum = Arc::new(AtomicUsize::new(0));
        let all = runtime.spawn({
            let sum = sum.clone();
            async move {
                let tasks: Vec<_> = (0..100_000usize)
                    .map(|i| {
                        let sum = sum.clone();
                        overlapped::spawn(async move {
                            yield_now().await;
                            sum.fetch_add(i, Ordering::Relaxed);
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
            }
        });
        runtime.block_on(all).unwrap();
        assert_eq!(sum.load(Ordering::Relaxed), 4_999_950_000);
        until_blocking(|| runtime.handle().tasks() == 0);
        let metrics = runtime.handle().metrics();
        assert_eq!(metrics.len(), 4);
        // Counted after each batch of polls.
        let polls = || runtime.handle().metrics().iter().map(|m| m.polls).sum::<u64>();
        until_blocking(|| polls() >= 200_000);
        assert!(metrics.iter().any(|m| m.turns > 0 && m.sleeps > 0), "{metrics:?}");
    }
}

#[test]
fn idle_workers_steal() {
    for backend in backends() {
        let _watch = watch(format!("stealing on {backend}"));
        let runtime = multi(backend, 2);
        // One task fills its own worker's queue and then keeps it busy: the others run all the
        // same.
        let done = Arc::new(AtomicUsize::new(0));
        let busy = runtime.spawn({
            let done = done.clone();
            async move {
                for _ in 0..64 {
                    let done = done.clone();
                    overlapped::spawn(async move {
                        done.fetch_add(1, Ordering::SeqCst);
                    });
                }
                until_blocking(|| done.load(Ordering::SeqCst) == 64);
            }
        });
        runtime.block_on(busy).unwrap();
        let metrics = runtime.handle().metrics();
        assert!(metrics.iter().any(|m| m.stolen > 0), "{metrics:?}");
    }
}

/// Timers make tasks runnable that a worker cannot keep up with: it asks for help, although none of
/// them has made another wait.
#[test]
fn a_worker_that_never_sleeps_is_helped() {
    for backend in backends() {
        let _watch = watch(format!("help on {backend}"));
        let runtime = multi(backend, 2);
        let threads = Arc::new(Mutex::new(std::collections::HashSet::new()));
        let start = Instant::now() + Duration::from_millis(20);
        let parent = runtime.spawn(async move {
            let mut tasks = Vec::new();
            for _ in 0..8 {
                let threads = threads.clone();
                tasks.push(overlapped::spawn(async move {
                    overlapped::time::sleep_until(start).await;
                    // Until the other worker has some too.
                    while {
                        let mut threads = threads.lock().unwrap();
                        threads.insert(std::thread::current().id());
                        threads.len() < 2
                    } {
                        let begin = Instant::now();
                        while begin.elapsed() < Duration::from_micros(200) {
                            std::hint::spin_loop();
                        }
                        yield_now().await;
                    }
                }));
                // It is at its timer before the next one begins: nobody has to wait so far.
                yield_now().await;
            }
            for task in tasks {
                task.await.unwrap();
            }
        });
        runtime.block_on(parent).unwrap();
    }
}

#[test]
fn sharded_tasks_stay_where_they_are() {
    for backend in backends() {
        let _watch = watch(format!("sharded on {backend}"));
        let builder = Builder::new().backend(backend).workers(3).flavor(Flavor::Sharded);
        let runtime = builder.thread_name("shard").build().unwrap();
        let tasks: Vec<_> = (0..60)
            .map(|_| {
                runtime.spawn(async {
                    let here = std::thread::current().id();
                    for _ in 0..50 {
                        yield_now().await;
                        sleep(Duration::from_micros(50)).await;
                        overlapped::spawn_blocking(|| ()).await.unwrap();
                        assert_eq!(std::thread::current().id(), here);
                    }
                    // A child starts beside its parent.
                    let child = overlapped::spawn(async { std::thread::current().id() });
                    assert_eq!(child.await.unwrap(), here);
                    assert!(std::thread::current().name().unwrap().starts_with("shard-"));
                    here
                })
            })
            .collect();
        let threads: Vec<ThreadId> = runtime.block_on(async {
            future::join_all(tasks).await.into_iter().map(Result::unwrap).collect()
        });
        let distinct: std::collections::HashSet<_> = threads.iter().collect();
        assert_eq!(distinct.len(), 3);
        assert!(runtime.handle().metrics().iter().all(|m| m.stolen == 0));
    }
}

#[test]
fn blocking_code() {
    for backend in backends() {
        let _watch = watch(format!("blocking on {backend}"));
        let runtime = Builder::new().backend(backend).workers(1).blocking_limit(2).build().unwrap();
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let jobs: Vec<_> = (0..20)
                .map(|i| {
                    let (running, most) = (running.clone(), most.clone());
                    overlapped::spawn_blocking(move || {
                        most.fetch_max(
                            running.fetch_add(1, Ordering::SeqCst) + 1,
                            Ordering::SeqCst,
                        );
                        std::thread::sleep(Duration::from_millis(2));
                        running.fetch_sub(1, Ordering::SeqCst);
                        i
                    })
                })
                .collect();
            for (i, job) in jobs.into_iter().enumerate() {
                assert_eq!(job.await.unwrap(), i);
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }
}

/// The runtime's workers.
fn worker_count() -> usize {
    overlapped::Handle::current().metrics().len()
}

/// Fills a worker's queue and keeps the worker; how many of the tasks have run meanwhile is for
/// `wait` to see.
async fn behind_a_busy_worker(wait: impl FnOnce(&AtomicUsize) + Send + 'static) {
    let busy = overlapped::spawn(async {
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..8 {
            let done = done.clone();
            overlapped::spawn(async move { done.fetch_add(1, Ordering::SeqCst) });
        }
        wait(&done);
    });
    busy.await.unwrap();
}

#[overlapped::test]
async fn the_test_macro() {
    assert_eq!(overlapped::spawn_local(async { 1 }).await.unwrap(), 1);
    assert_eq!(worker_count(), 1);
}

#[overlapped::test(workers = 2)]
async fn the_test_macro_with_workers() -> std::io::Result<()> {
    assert_eq!(overlapped::spawn(async { 1 }).await?, 1);
    assert_eq!(worker_count(), 2);
    behind_a_busy_worker(|done| until_blocking(|| done.load(Ordering::SeqCst) == 8)).await;
    overlapped::fs::read("/proc/self/status").await.map(drop)
}

#[overlapped::test(flavor = "sharded", workers = 2)]
async fn the_test_macro_with_a_flavor() {
    assert_eq!(worker_count(), 2);
    // Nobody else runs them, however long it takes.
    behind_a_busy_worker(|done| {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(done.load(Ordering::SeqCst), 0);
    })
    .await;
}

#[overlapped::test(flavor = "stealing")]
#[should_panic(expected = "below")]
async fn the_test_macro_with_other_attributes() {
    panic!("attributes go below");
}

#[test]
fn the_main_macro() {
    /// A program.
    #[overlapped::main]
    async fn main_with_workers() -> Result<u32, overlapped::Status> {
        Ok(overlapped::spawn(async { 1 }).await.unwrap())
    }
    /// Another.
    #[overlapped::main(flavor = "local")]
    async fn main_alone() -> u32 {
        overlapped::spawn_local(async { 2 }).await.unwrap()
    }
    #[overlapped::main(workers = 1_0, flavor = "sharded")]
    async fn main_with_ten() -> usize {
        worker_count()
    }
    assert_eq!((main_with_workers(), main_alone(), main_with_ten()), (Ok(1), 2, 10));
}

/// Mail that a worker reads right before it sleeps makes its own tasks runnable.
#[test]
fn a_sharded_worker_accepts_for_a_listener_made_elsewhere() {
    for backend in backends() {
        let _watchdog = watch(format!("sharded accept on {backend}"));
        for workers in [1, 2] {
            let builder = Builder::new().workers(workers).flavor(Flavor::Sharded);
            let runtime = builder.backend(backend).build().unwrap();
            for _ in 0..50 {
                runtime.block_on(async {
                    let listener = overlapped::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let address = listener.local_addr().unwrap();
                    let task = overlapped::spawn(async move { listener.accept().await.map(drop) });
                    let client = std::thread::spawn(move || std::net::TcpStream::connect(address));
                    task.await.unwrap().unwrap();
                    client.join().unwrap().unwrap();
                });
            }
        }
    }
}
