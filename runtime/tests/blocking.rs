//! Blocking code: its limits, the queue before them, its threads, and its end.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlapped::net::{TcpListener, TcpStream};
use overlapped::{Backend, Builder, JoinHandle, LocalRuntime, spawn_blocking};
use support::{alone, backends, local, multi, until, until_blocking, watch};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(1000);

/// A local runtime with one thread for blocking code, as set.
fn single(backend: Backend, set: impl FnOnce(Builder) -> Builder) -> LocalRuntime {
    set(Builder::new().backend(backend).blocking_limit(1)).build_local().unwrap()
}

/// Occupies a thread for blocking code until the sender is dropped.
async fn occupy() -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel::<()>();
    let (begin, begun) = channel();
    let job = spawn_blocking(move || {
        begin.send(()).unwrap();
        let _ = stopped.recv();
    });
    until(|| begun.try_recv().is_ok()).await;
    (stop, job)
}

/// The names of this process's threads that begin like that.
fn threads(prefix: &str) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    // A thread may end meanwhile.
    let names = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn at_the_limit_code_waits_first_in_first_out() {
    for backend in backends() {
        let _watch = watch(format!("the queue on {backend}"));
        single(backend, |builder| builder).block_on(async {
            let (stop, first) = occupy().await;
            let order = Arc::new(Mutex::new(Vec::new()));
            let jobs: Vec<_> = (0..1000)
                .map(|i| {
                    let order = order.clone();
                    spawn_blocking(move || order.lock().unwrap().push(i))
                })
                .collect();
            assert!(order.lock().unwrap().is_empty() && !first.is_finished());
            drop(stop);
            for job in jobs {
                job.await.unwrap();
            }
            first.await.unwrap();
            assert_eq!(*order.lock().unwrap(), (0..1000).collect::<Vec<_>>());
        });
    }
}

#[test]
fn beyond_the_queues_bound_code_is_refused() {
    for backend in backends() {
        let _watch = watch(format!("the bound on {backend}"));
        for bound in [0, 2] {
            let runtime = single(backend, |builder| builder.blocking_queue(bound));
            runtime.block_on(async {
                let (stop, first) = occupy().await;
                let waiting: Vec<_> = (0..bound).map(|i| spawn_blocking(move || i)).collect();
                let held = Arc::new(());
                let inside = held.clone();
                let refused = spawn_blocking(move || drop(inside)).await.unwrap_err();
                assert!(refused.is_refused() && !refused.is_cancelled() && !refused.is_panic());
                assert!(refused.to_string().contains("queue is full"), "{refused}");
                assert_eq!(Arc::strong_count(&held), 1, "what is refused is dropped");
                let error = std::io::Error::from(refused);
                assert_eq!(error.kind(), std::io::ErrorKind::ResourceBusy);
                drop(stop);
                first.await.unwrap();
                for (i, job) in waiting.into_iter().enumerate() {
                    assert_eq!(job.await.unwrap(), i);
                }
                // The thread may not have come back yet, and then nobody may wait with a bound of 0.
                loop {
                    match spawn_blocking(|| 7).await {
                        Err(error) if bound == 0 && error.is_refused() => continue,
                        result => break assert_eq!(result.unwrap(), 7),
                    }
                }
            });
        }
    }
}

/// The bound counts those who wait, not those whose thread has yet to come.
#[test]
fn code_with_a_thread_of_its_own_does_not_wait() {
    for backend in backends() {
        let _watch = watch(format!("free threads on {backend}"));
        let builder = Builder::new().backend(backend).blocking_limit(8).blocking_queue(0);
        builder.build_local().unwrap().block_on(async {
            let (stop, stopped) = channel::<()>();
            let stopped = Arc::new(Mutex::new(stopped));
            let jobs: Vec<_> = (0..8)
                .map(|_| {
                    let stopped: Arc<Mutex<Receiver<()>>> = stopped.clone();
                    spawn_blocking(move || stopped.lock().unwrap().recv().is_err())
                })
                .collect();
            assert!(spawn_blocking(|| ()).await.unwrap_err().is_refused());
            drop(stop);
            for job in jobs {
                assert!(job.await.unwrap());
            }
        });
    }
}

/// Says when it is dropped, and panics.
struct Bomb(Arc<AtomicUsize>);

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("in a drop");
    }
}

#[test]
fn aborted_code_is_dropped_if_it_has_not_begun() {
    for backend in backends() {
        let _watch = watch(format!("aborts on {backend}"));
        single(backend, |builder| builder).block_on(async {
            let dropped = Arc::new(AtomicUsize::new(0));
            let ran = Arc::new(AtomicUsize::new(0));
            let (stop, first) = occupy().await;
            let (bomb, count) = (Bomb(dropped.clone()), ran.clone());
            let waiting = spawn_blocking(move || {
                count.fetch_add(1, Ordering::SeqCst);
                drop(bomb);
            });
            waiting.abort();
            assert!(waiting.await.unwrap_err().is_cancelled());
            assert_eq!(dropped.load(Ordering::SeqCst), 1);
            // What runs goes on.
            first.abort();
            assert!(first.await.unwrap_err().is_cancelled());
            drop(stop);
            spawn_blocking(|| ()).await.unwrap();
            assert_eq!(ran.load(Ordering::SeqCst), 0);
            // Its value is dropped, and if that panics, that is all.
            let (stop, stopped) = channel::<()>();
            let (begin, begun) = channel();
            let bomb = Bomb(dropped.clone());
            let job = spawn_blocking(move || {
                begin.send(()).unwrap();
                let _ = stopped.recv();
                bomb
            });
            until(|| begun.try_recv().is_ok()).await;
            job.abort();
            assert!(job.await.is_err());
            drop(stop);
            assert_eq!(spawn_blocking(|| 7).await.unwrap(), 7);
            assert_eq!(dropped.load(Ordering::SeqCst), 2);
        });
    }
}

#[test]
fn panics_take_no_thread_along() {
    for backend in backends() {
        let _watch = watch(format!("panics on {backend}"));
        single(backend, |builder| builder).block_on(async {
            let here = spawn_blocking(|| std::thread::current().id()).await.unwrap();
            for i in 0..10 {
                let error = spawn_blocking(move || panic!("number {i}")).await.unwrap_err();
                assert_eq!(error.to_string(), format!("the task panicked: number {i}"));
            }
            let again = spawn_blocking(|| std::thread::current().id()).await.unwrap();
            assert_eq!(here, again);
        });
    }
}

#[test]
fn threads_have_names_and_end_when_idle() {
    for (backend, name) in backends().into_iter().zip(["bu", "be"]) {
        let _watch = watch(format!("threads on {backend}"));
        let set = |builder: Builder| builder.thread_name(name).blocking_keep_alive(Duration::ZERO);
        single(backend, set).block_on(async {
            let ask = || std::thread::current().name().map(str::to_owned);
            let first = spawn_blocking(ask).await.unwrap().unwrap();
            assert_eq!(first, format!("{name}-blocking-0"));
            until(|| threads(&format!("{name}-blocking")).is_empty()).await;
            // Idle threads are gone; the next job gets a new one.
            let second = spawn_blocking(ask).await.unwrap().unwrap();
            assert_eq!(second, format!("{name}-blocking-1"));
        });
        // With time to wait, a thread does more than one job.
        let set = |builder: Builder| builder.thread_name(name).blocking_keep_alive(LONG);
        let runtime = single(backend, set);
        runtime.block_on(async {
            for _ in 0..20 {
                let ask = || std::thread::current().name().map(str::to_owned);
                let name_of_it = spawn_blocking(ask).await.unwrap().unwrap();
                assert_eq!(name_of_it, format!("{name}-blocking-0"));
            }
        });
        // And ends with its runtime.
        drop(runtime);
        until_blocking(|| threads(&format!("{name}-blocking")).is_empty());
    }
}

#[test]
fn a_runtimes_end_drops_what_waits_and_counts_what_runs() {
    for backend in backends() {
        for workers in [0, 2] {
            let _watch = watch(format!("the end on {backend}, {workers} workers"));
            let dropped = Arc::new(AtomicUsize::new(0));
            let (bomb, count) = (Bomb(dropped.clone()), dropped.clone());
            let body = async {
                let (stop, first) = occupy().await;
                let waiting = spawn_blocking(move || drop(bomb));
                (stop, first, waiting)
            };
            let builder = Builder::new().backend(backend).blocking_limit(1).workers(workers);
            let (stop, first, waiting, report) = if workers == 0 {
                let runtime = builder.build_local().unwrap();
                let (stop, first, waiting) = runtime.block_on(body);
                (stop, first, waiting, runtime.shutdown(SHORT))
            } else {
                let runtime = builder.build().unwrap();
                let (stop, first, waiting) = runtime.block_on(body);
                (stop, first, waiting, runtime.shutdown(SHORT))
            };
            assert_eq!((report.blocking_threads, report.stuck_workers), (1, 0), "{report:?}");
            assert_eq!(count.load(Ordering::SeqCst), 1);
            let runtime = local(backend);
            assert!(runtime.block_on(waiting).unwrap_err().is_cancelled());
            assert!(runtime.block_on(first).unwrap_err().is_cancelled());
            drop(stop);
        }
        // Nothing is left to wait for, so the limit is not used up.
        let runtime = multi(backend, 1);
        runtime.block_on(async { spawn_blocking(|| ()).await.unwrap() });
        assert_eq!(runtime.shutdown(LONG).blocking_threads, 0);
    }
}

/// Blocking code that does not end takes the whole limit; the requests are cancelled all the same.
#[test]
fn stuck_code_does_not_keep_requests_from_ending() {
    for backend in backends() {
        let _watch = watch(format!("stuck code on {backend}"));
        let runtime = local(backend);
        let stop = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            overlapped::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                stream.read(vec![0; 16]).await
            });
            let stream = TcpStream::connect(address).await.unwrap();
            overlapped::spawn_local(async move { stream.read(vec![0; 16]).await });
            overlapped::time::sleep(Duration::from_millis(5)).await;
            occupy().await.0
        });
        let report = runtime.shutdown(SHORT);
        let left = (report.tasks, report.blocking_threads, report.leaked_requests);
        assert_eq!(left, (3, 1, 0), "{report:?}");
        drop(stop);
    }
}

#[test]
fn without_a_thread_to_be_had_code_is_refused() {
    alone("without_a_thread_to_be_had_code_is_refused", |backend| {
        local(backend).block_on(async {
            // Room for small things, not for another thread's stack.
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
            let size: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the calls read and write `limit` only.
            unsafe {
                libc::getrlimit(libc::RLIMIT_AS, &mut limit);
                let all = limit.rlim_cur;
                limit.rlim_cur = (size + 1024) * 1024;
                assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
                let error = spawn_blocking(|| 1).await.unwrap_err();
                assert!(error.is_refused(), "{error}");
                assert!(error.to_string().contains("no thread"), "{error}");
                limit.rlim_cur = all;
                assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
            }
            assert_eq!(spawn_blocking(|| 2).await.unwrap(), 2);
        });
    });
}
