//! Shared by the integration tests: both backends, processes of their own, a watchdog, files.
//!
//! [`both`] runs an async test on each backend, on a local and on a multi-thread runtime.
//! [`workers`] runs it as a task of a worker. [`alone`] runs a test in a child process per
//! backend, with `OVERLAPPED_BACKEND` set: for tests that count descriptors or allocations, change
//! limits of the process, or use routes of plain threads.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use overlapped::{Backend, Builder, LocalRuntime, Runtime, Status};

/// What every test runs on: both backends, or the one that `OVERLAPPED_BACKEND` names.
pub fn backends() -> Vec<Backend> {
    match Backend::from_environment().expect("OVERLAPPED_BACKEND is a backend") {
        Some(backend) => vec![backend],
        None => vec![Backend::IoUring, Backend::Epoll],
    }
}

/// Longer than any test may take; a test that hangs ends its process and says so.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says in which child process we are.
const CHILD: &str = "OVERLAPPED_TEST_CHILD";

/// Ends the process when it is not dropped in time.
pub struct Watchdog(#[expect(dead_code, reason = "dropping it tells the thread")] mpsc::Sender<()>);

/// Watches over one test.
pub fn watch(what: impl Into<String>) -> Watchdog {
    let what = what.into();
    let (sender, receiver) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if receiver.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{what} hangs:");
            for request in overlapped::live_requests(Duration::from_secs(1)).requests {
                eprintln!("  {request:?}");
            }
            std::process::abort();
        }
    });
    Watchdog(sender)
}

fn watch_test(how: &str) -> Watchdog {
    watch(format!("{} {how}", std::thread::current().name().unwrap_or("a test")))
}

/// A runtime on the calling thread.
pub fn local(backend: Backend) -> LocalRuntime {
    Builder::new().backend(backend).build_local().expect("a local runtime")
}

/// A runtime with several workers.
pub fn multi(backend: Backend, workers: usize) -> Runtime {
    Builder::new().backend(backend).workers(workers).build().expect("a runtime")
}

/// Runs the test on both backends, each on a local runtime and in the `block_on` of a multi-thread
/// one.
pub fn both(test: impl AsyncFn(Backend)) {
    for backend in backends() {
        let _watch = watch_test(&format!("on {backend}, local"));
        local(backend).block_on(test(backend));
        let _watch = watch_test(&format!("on {backend}, multi-thread"));
        multi(backend, 2).block_on(test(backend));
    }
}

/// Runs the test on both backends as a task of a multi-thread runtime's worker.
pub fn workers<F>(count: usize, test: impl Fn(Backend) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for backend in backends() {
        let _watch = watch_test(&format!("on {backend}, workers"));
        let runtime = multi(backend, count);
        let task = runtime.spawn(test(backend));
        runtime.block_on(task).expect("the test's task");
    }
}

/// Whether this is a child process that [`alone`] or [`child`] has started for the test.
pub fn is_child(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|name| name == test)
}

/// Runs a test of this binary in a child process, with the settings made by `set`; its output.
pub fn child(test: &str, set: impl FnOnce(&mut Command)) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this test binary"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, test);
    set(&mut command);
    let output = command.output().expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "child {test} failed ({}):\n{said}", output.status);
    assert!(said.contains("1 passed"), "no such test: {test}\n{said}");
    said.into_owned()
}

/// Runs the body in a child process for each backend, with `OVERLAPPED_BACKEND` set to it. `name`
/// is the test's own.
pub fn alone(name: &str, body: impl FnOnce(Backend)) {
    if is_child(name) {
        let _watch = watch(name);
        return body(Backend::from_environment().expect("a backend").expect("set by the parent"));
    }
    for backend in backends() {
        child(name, |command| {
            command.env("OVERLAPPED_BACKEND", backend.to_string());
        });
    }
}

/// A directory of a test's own, on a real file system, removed at the end.
pub struct Dir(PathBuf);

impl Dir {
    /// An empty one.
    pub fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = path.join(format!("overlapped-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Dir(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file in it, with the contents given.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).expect("a file for the test");
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Open descriptors of the process that are files in the directory.
pub fn descriptors_in(dir: &Dir) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let files = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    files.filter(|file| file.starts_with(dir.path("").canonicalize().unwrap())).count()
}

/// Bytes that tell their place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

/// The status in an error.
pub fn status<T>(result: Result<T, impl Into<std::io::Error>>) -> Status {
    match result {
        Ok(_) => Status::SUCCESS,
        Err(error) => Status::from(error.into()),
    }
}

/// The kind of an error.
#[track_caller]
pub fn kind<T>(result: Result<T, impl Into<std::io::Error>>) -> ErrorKind {
    match result {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.into().kind(),
    }
}

/// Descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count() - 1
}

/// Polls a future once, with a waker that does nothing.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until `done`, letting the others go on; the watchdog limits it.
pub async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        overlapped::time::sleep(Duration::from_millis(1)).await;
    }
}

/// As [`until`], for plain threads.
pub fn until_blocking(mut done: impl FnMut() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A waker that remembers.
#[derive(Default)]
pub struct Flag(pub AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Numbers of a seed (SplitMix64), for random workloads that can be repeated.
pub struct Random(pub u64);

impl Random {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    /// One of them.
    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len() as u64) as usize]
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}
