//! The watch over workers: what it reports of a task that does not come back, and to whom.
//!
//! The tasks block until they are reported, so nothing here depends on how long anything takes.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlapped::task::JoinSet;
use overlapped::{Backend, Builder, Flavor, Stall, yield_now};
use support::{alone, backends, until_blocking, watch};

const THRESHOLD: Duration = Duration::from_millis(4);

/// A builder that reports to the receiver.
fn reporting(backend: Backend, workers: usize, flavor: Flavor) -> (Builder, Receiver<Stall>) {
    let (send, receive): (Sender<Stall>, _) = channel();
    let builder = Builder::new().backend(backend).workers(workers).flavor(flavor);
    let hook = move |stall: &Stall| drop(send.send(stall.clone()));
    (builder.report_stalls(THRESHOLD, hook), receive)
}

#[test]
fn a_report_names_task_worker_and_duration() {
    for backend in backends() {
        for (workers, flavor) in [1, 2].into_iter().zip([Flavor::Stealing, Flavor::Sharded]) {
            let _watch = watch(format!("a stall on {backend}, {workers} workers"));
            let (builder, reports) = reporting(backend, workers, flavor);
            let runtime = builder.build().unwrap();
            let four = async move { [(); 4].map(|()| reports.recv().unwrap()) };
            let line = line!() + 1;
            let task = runtime.spawn(four);
            let id = task.id();
            let stalls = runtime.block_on(task).unwrap();
            for (i, stall) in stalls.iter().enumerate() {
                assert_eq!((stall.task, stall.spawned.line()), (Some(id), line), "{stall}");
                assert!(stall.spawned.file().ends_with("stalled.rs"));
                assert!(stall.worker < workers);
                // Again each time it has doubled.
                assert!(stall.duration >= THRESHOLD * (1 << i), "{stall}");
                assert!(stall.to_string().contains(&format!("task {id} spawned at")), "{stall}");
            }
            // Counted once, and there.
            let stalled = stalls[0].worker;
            for (worker, metrics) in runtime.handle().metrics().iter().enumerate() {
                assert_eq!(metrics.stalls, u64::from(worker == stalled));
            }
        }
    }
}

#[test]
fn the_place_is_that_of_the_users_call() {
    for backend in backends() {
        let _watch = watch(format!("places on {backend}"));
        let (builder, reports) = reporting(backend, 1, Flavor::Stealing);
        let runtime = builder.build().unwrap();
        let reports = Arc::new(Mutex::new(reports));
        let report = || {
            let reports = reports.clone();
            // What an earlier task has left is not for this one.
            async move {
                let reports = reports.lock().unwrap();
                reports.try_iter().for_each(drop);
                reports.recv().unwrap().spawned.line()
            }
        };
        let (line, task) = (line!(), runtime.handle().spawn(report()));
        assert_eq!(runtime.block_on(task).unwrap(), line);
        runtime.block_on(async {
            let (line, task) = (line!(), overlapped::spawn(report()));
            assert_eq!(task.await.unwrap(), line);
            let mut set = JoinSet::new();
            let line = line!() + 1;
            set.spawn(report());
            assert_eq!(set.join_next().await.unwrap().unwrap(), line);
        });
        let (local, reports) = reporting(backend, 1, Flavor::Stealing);
        let local = local.build_local().unwrap();
        let (line, stall) = (line!(), local.block_on(async { reports.recv().unwrap() }));
        assert_eq!((stall.task, stall.spawned.line()), (None, line));
        assert!(stall.to_string().contains("the future of `block_on`"), "{stall}");
        local.block_on(async {
            let line = line!() + 1;
            let task = overlapped::spawn_local(async move { reports.recv().unwrap() });
            let id = task.id();
            let stall = task.await.unwrap();
            assert_eq!((stall.task, stall.spawned.line()), (Some(id), line));
        });
    }
}

/// Only one task waits in its queue, so nobody was woken when it came (tokio#4941).
#[test]
fn what_waits_behind_a_stall_is_left_to_others() {
    for backend in backends() {
        let _watch = watch(format!("rescue on {backend}"));
        let (builder, _reports) = reporting(backend, 2, Flavor::Stealing);
        let runtime = builder.build().unwrap();
        for _ in 0..20 {
            let task = runtime.spawn(async {
                let here = std::thread::current().id();
                let done = Arc::new(AtomicBool::new(false));
                let ours = done.clone();
                let other = overlapped::spawn(async move {
                    ours.store(true, Ordering::SeqCst);
                    std::thread::current().id()
                });
                until_blocking(|| done.load(Ordering::SeqCst));
                assert_ne!(other.await.unwrap(), here);
            });
            runtime.block_on(task).unwrap();
        }
    }
}

#[test]
fn a_report_that_panics_ends_no_watch() {
    for backend in backends() {
        let _watch = watch(format!("a panicking report on {backend}"));
        let (send, reports) = channel();
        let hook = move |_: &Stall| {
            send.send(()).unwrap();
            panic!("in a report");
        };
        let runtime = Builder::new().backend(backend).report_stalls(THRESHOLD, hook);
        runtime.build_local().unwrap().block_on(async {
            for _ in 0..3 {
                reports.recv().unwrap();
                yield_now().await;
            }
        });
    }
}

fn watching(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.trim() == format!("{name}-stalls")).count()
}

#[test]
fn the_watch_exists_when_asked_for_and_ends_with_its_runtime() {
    for backend in backends() {
        let _watch = watch(format!("the watch's end on {backend}"));
        let builder = Builder::new().backend(backend).workers(1).thread_name("w");
        let plain = builder.clone().build().unwrap();
        plain.block_on(async { overlapped::spawn(async {}).await.unwrap() });
        assert_eq!(watching("w"), 0);
        let watched = builder.report_stalls(Duration::ZERO, |_| ());
        let (runtime, local) = (watched.clone().build().unwrap(), watched.build_local().unwrap());
        until_blocking(|| watching("w") == 2);
        drop(runtime);
        until_blocking(|| watching("w") == 1);
        assert_eq!(local.shutdown(Duration::ZERO).tasks, 0);
        until_blocking(|| watching("w") == 0);
    }
}

/// What has been logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stall_is_logged() {
    alone("a_stall_is_logged", |backend| {
        let log = Log::default();
        let theirs = log.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || theirs.clone());
        subscriber.with_ansi(false).init();
        let (builder, reports) = reporting(backend, 1, Flavor::Stealing);
        let stall = builder.build_local().unwrap().block_on(async { reports.recv().unwrap() });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN") && text.contains(&stall.to_string()), "{text}");
    });
}
