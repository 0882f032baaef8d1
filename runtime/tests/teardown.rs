//! The end of a runtime: nothing is written to freed memory, nothing is left waiting, and requests
//! where nobody would finish them say so.

mod support;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use overlapped::buf::AlignedBuf;
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::time::sleep;
use overlapped::{CompletionPort, Request, Status, operation};
use support::{
    Dir, backends, both, descriptors, local, multi, poll_once, status, until_blocking, watch,
};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const BLOCK: usize = 4096;
const READS: usize = 512;

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

async fn open_direct(path: std::path::PathBuf) -> Option<File> {
    match OpenOptions::new().read(true).direct(true).open(path).await {
        Ok(file) => Some(file),
        Err(error) => {
            println!("skipped: no direct I/O: {error}");
            None
        }
    }
}

/// Fills new memory of the sizes that were freed, and looks at it 300 ms later.
fn nobody_writes_to_freed_memory() {
    let fresh: Vec<AlignedBuf> = (0..2 * READS)
        .map(|_| {
            let mut buf = AlignedBuf::new(16 * BLOCK, BLOCK);
            buf.fill(0xa5);
            buf
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    for buf in fresh {
        assert!(buf.iter().all(|&b| b == 0xa5), "freed memory was written to");
    }
}

#[test]
fn a_local_runtime_dropped_with_direct_reads_in_flight() {
    for backend in backends() {
        let _watch = watch(format!("direct reads on {backend}"));
        let dir = Dir::new();
        let path = dir.file("f", vec![7; READS * 16 * BLOCK]);
        let runtime = local(backend);
        runtime.block_on(async {
            let Some(file) = open_direct(path).await else { return };
            let file = Arc::new(file);
            for i in 0..READS {
                let file = file.clone();
                overlapped::spawn_local(async move {
                    let buf = AlignedBuf::new(16 * BLOCK, BLOCK);
                    let _ = file.read_at(buf, (i * 16 * BLOCK) as u64).await;
                });
            }
            overlapped::yield_now().await;
        });
        drop(runtime);
        nobody_writes_to_freed_memory();
    }
}

#[test]
fn a_runtime_dropped_with_direct_reads_in_flight() {
    for backend in backends() {
        let _watch = watch(format!("direct reads on {backend}"));
        let dir = Dir::new();
        let path = dir.file("f", vec![7; READS * 16 * BLOCK]);
        let runtime = multi(backend, 2);
        runtime.block_on(async {
            let Some(file) = open_direct(path).await else { return };
            let file = Arc::new(file);
            for i in 0..READS {
                let file = file.clone();
                overlapped::spawn(async move {
                    let buf = AlignedBuf::new(16 * BLOCK, BLOCK);
                    let _ = file.read_at(buf, (i * 16 * BLOCK) as u64).await;
                });
            }
            overlapped::yield_now().await;
        });
        drop(runtime);
        nobody_writes_to_freed_memory();
    }
}

#[test]
fn requests_dropped_after_their_runtime() {
    // The futures are outside: they outlive it, complete or not.
    for backend in backends() {
        let _watch = watch(format!("late futures on {backend}"));
        let dir = Dir::new();
        let path = dir.file("f", vec![7; 64 * 16 * BLOCK]);
        let runtime = local(backend);
        let file = runtime.block_on(File::open(path)).unwrap();
        let mut reads: Vec<_> =
            (0..64).map(|i| file.read_at(vec![0; 16 * BLOCK], (i * 16 * BLOCK) as u64)).collect();
        runtime.block_on(std::future::poll_fn(|cx| {
            for read in &mut reads {
                let _ = std::pin::Pin::new(read).poll(cx);
            }
            std::task::Poll::Ready(())
        }));
        drop(runtime);
        drop(reads);
        drop(file);
        nobody_writes_to_freed_memory();
    }
}

#[test]
fn a_runtime_dropped_with_everything_pending() {
    for backend in backends() {
        for workers in [0, 2] {
            let _watch = watch(format!("everything pending on {backend}, {workers} workers"));
            let live = Arc::new(AtomicUsize::new(0));
            let report = {
                let live = live.clone();
                let start = async move {
                    let listener = Arc::new(TcpListener::bind(HERE).await.unwrap());
                    let address = listener.local_addr().unwrap();
                    for _ in 0..50 {
                        let (guard, listener) = (Guard::new(&live), listener.clone());
                        overlapped::spawn(async move {
                            let _guard = guard;
                            // Some of these get the connections below, and then wait for data.
                            let (stream, _) = listener.accept().await.unwrap();
                            let _ = stream.read(vec![0; 4096]).await;
                        });
                        let guard = Guard::new(&live);
                        overlapped::spawn(async move {
                            let _guard = guard;
                            let stream = TcpStream::connect(address).await.unwrap();
                            let _ = stream.read_lease().await;
                        });
                        let guard = Guard::new(&live);
                        overlapped::spawn(async move {
                            let _guard = guard;
                            sleep(Duration::from_secs(1000)).await;
                        });
                    }
                    sleep(Duration::from_millis(20)).await;
                };
                let limit = Duration::from_secs(10);
                if workers == 0 {
                    let runtime = local(backend);
                    runtime.block_on(start);
                    runtime.shutdown(limit)
                } else {
                    let runtime = multi(backend, workers);
                    runtime.block_on(start);
                    runtime.shutdown(limit)
                }
            };
            assert_eq!(report.tasks, 150, "{report:?}");
            let left = (report.leaked_requests, report.blocking_threads, report.stuck_workers);
            assert_eq!(left, (0, 0, 0), "{report:?}");
            assert_eq!(live.load(Ordering::SeqCst), 0);
        }
    }
}

#[test]
fn blocking_code_is_waited_for_up_to_the_limit() {
    for backend in backends() {
        let _watch = watch(format!("blocking on {backend}"));
        let done = Arc::new(AtomicUsize::new(0));
        let (runtime, counted) = (multi(backend, 1), done.clone());
        runtime.spawn(async move {
            overlapped::spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(50));
                counted.fetch_add(1, Ordering::SeqCst);
            })
            .await
        });
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(runtime.shutdown(Duration::from_secs(20)).blocking_threads, 0);
        assert_eq!(done.load(Ordering::SeqCst), 1);
        // Not for ever.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let runtime = multi(backend, 1);
        let job = runtime.handle().spawn_blocking(move || stopped.recv());
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(runtime.shutdown(Duration::from_millis(20)).blocking_threads, 1);
        drop(stop);
        assert!(local(backend).block_on(job).unwrap_err().is_cancelled());
    }
}

#[test]
fn a_worker_that_is_stuck_is_reported() {
    for backend in backends() {
        let _watch = watch(format!("stuck on {backend}"));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let runtime = multi(backend, 2);
        runtime.spawn(async move { stopped.recv() });
        std::thread::sleep(Duration::from_millis(20));
        let report = runtime.shutdown(Duration::from_millis(50));
        assert_eq!(report.stuck_workers, 1, "{report:?}");
        drop(stop);
    }
}

/// Issues a request while it is dropped, and tells what came of it.
struct Issues(Arc<File>, std::sync::mpsc::Sender<Option<Status>>);

impl Drop for Issues {
    fn drop(&mut self) {
        let mut ask = Request::new(self.0.object(), operation::Flush { data_only: true });
        let told = match poll_once(&mut ask) {
            std::task::Poll::Ready(result) => Some(status(result)),
            std::task::Poll::Pending => None,
        };
        self.1.send(told).unwrap();
    }
}

#[test]
fn a_runtime_that_shuts_down_still_ends_what_drops_issue() {
    for backend in backends() {
        let _watch = watch(format!("drops that issue on {backend}"));
        let dir = Dir::new();
        let path = dir.file("f", "x");
        let (send, told) = std::sync::mpsc::channel();
        let runtime = local(backend);
        runtime.block_on(async {
            let file = Arc::new(File::open(path).await.unwrap());
            let issues = Issues(file, send);
            overlapped::spawn_local(async move {
                let _issues = issues;
                std::future::pending::<()>().await;
            });
            overlapped::yield_now().await;
        });
        let report = runtime.shutdown(Duration::from_secs(10));
        assert_eq!(report.leaked_requests, 0);
        if let Some(status) = told.recv().unwrap() {
            assert_eq!(status, Status::SHUTDOWN_IN_PROGRESS);
        }
    }
}

#[test]
fn block_on_inside_a_task_panics_and_says_why() {
    both(async |backend| {
        let panics = |run: &dyn Fn()| {
            let run = std::panic::AssertUnwindSafe(run);
            let panic = std::panic::catch_unwind(run).expect_err("it must not block");
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap()
        };
        let text = panics(&|| overlapped::block_on(async {}));
        assert!(text.contains("block_on"), "{text}");
        let told = overlapped::spawn(async move {
            std::panic::catch_unwind(|| overlapped::block_on(async {})).is_err()
        });
        assert!(told.await.unwrap());
        // Another runtime's is no better.
        let other = overlapped::Builder::new().backend(backend).workers(1).build().unwrap();
        let text = panics(&|| other.block_on(async {}));
        assert!(text.contains("block_on"), "{text}");
        drop(other);
        assert!(overlapped::Builder::new().backend(backend).build_local().is_err());
        // All goes on.
        overlapped::spawn(async {}).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    });
}

#[test]
fn waiting_in_a_task_would_deadlock() {
    both(async |_| {
        let dir = Dir::new();
        let file = File::open(dir.file("f", "x")).await.unwrap();
        let error = file.read_at(vec![7], 0).wait().unwrap_err();
        assert_eq!((error.status(), error.into_buf()), (Status::WOULD_DEADLOCK, vec![7]));
        let opened = OpenOptions::new().read(true).open_wait(dir.path("f"));
        assert_eq!(status(opened), Status::WOULD_DEADLOCK);
        // A port is never waited at here, and can be looked at.
        let port = CompletionPort::new();
        assert!(port.remove(Some(Duration::from_secs(100))).is_err());
        port.post(1, 2, Status::SUCCESS, 3).unwrap();
        assert_eq!(port.remove(None).unwrap().key(), 1);
        assert_eq!(status(file.close_wait()), Status::WOULD_DEADLOCK);
    });
}

#[test]
fn handles_of_a_runtime_that_has_ended() {
    for backend in backends() {
        let _watch = watch(format!("handles on {backend}"));
        let runtime = multi(backend, 2);
        let handle = runtime.handle();
        let waits = runtime.spawn(std::future::pending::<()>());
        let done = runtime.spawn(async { 5 });
        until_blocking(|| done.is_finished());
        let aborted = runtime.spawn(std::future::pending::<()>());
        aborted.abort();
        drop(runtime);
        let after = handle.spawn(async { 6 });
        let job = handle.spawn_blocking(|| 7);
        assert_eq!(handle.tasks(), 0);
        waits.abort();
        let other = local(backend);
        other.block_on(async {
            assert!(waits.await.unwrap_err().is_cancelled());
            assert_eq!(done.await.unwrap(), 5);
            assert!(aborted.await.unwrap_err().is_cancelled());
            assert!(after.await.unwrap_err().is_cancelled());
            assert!(job.await.unwrap_err().is_cancelled());
        });
    }
}

#[test]
fn descriptors_of_runtimes_come_back() {
    support::alone("descriptors_of_runtimes_come_back", |backend| {
        drop(local(backend));
        drop(multi(backend, 2));
        let before = descriptors();
        for _ in 0..20 {
            let runtime = multi(backend, 2);
            let listener = runtime.block_on(TcpListener::bind(HERE)).unwrap();
            assert!(listener.as_raw_fd() > 0);
            runtime.spawn(async move { listener.accept().await.map(drop) });
            drop(runtime);
            local(backend).block_on(sleep(Duration::from_millis(1)));
        }
        until_blocking(|| descriptors() <= before);
    });
}
