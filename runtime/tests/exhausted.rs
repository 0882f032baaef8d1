//! Exhausted descriptors: whatever needs one says so, nothing is lost or left open, and all works again
//! once there are some. Each test has its process to itself.

mod support;

use std::net::{IpAddr, Ipv4Addr};

use overlapped::fs::{self, File, OpenOptions};
use overlapped::io::{Clock, EventFd, TimerFd, pipe};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream};
use overlapped::{Backend, Builder, LocalRuntime};
use support::{Dir, alone, backends, child, descriptors, is_child, local, status, watch};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Sets how many descriptors the process may have.
fn allow_descriptors(count: u64) {
    // SAFETY: the structure is plain numbers, which the calls read and write.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// Fills the process's descriptors, but for so many.
fn fill(left: usize) -> Vec<std::fs::File> {
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    files.truncate(files.len() - left);
    files
}

/// Tries each thing that needs a descriptor; the errnos.
async fn attempts(dir: &Dir, peer: std::net::SocketAddr) -> Vec<(&'static str, Option<i32>)> {
    let mut found = Vec::new();
    macro_rules! attempt {
        ($($what:expr),* $(,)?) => { $(found.push((stringify!($what), status($what).errno()));)* };
    }
    let unix = dir.path("socket");
    attempt!(
        File::open(dir.path("f")).await,
        File::create(dir.path("new")).await,
        fs::read(dir.path("f")).await,
        fs::read_dir(dir.path("")).await,
        fs::tempfile_in(dir.path("")).await,
        fs::copy(dir.path("f"), dir.path("copy")).await,
        TcpListener::bind(HERE).await,
        TcpStream::connect(peer).await,
        UdpSocket::bind(HERE).await,
        UnixListener::bind(&unix),
        UnixStream::connect(&unix).await,
        UnixStream::pair(),
        UnixDatagram::pair(),
        pipe(),
        EventFd::new(0),
        TimerFd::new(Clock::Monotonic),
    );
    found
}

/// How an attempt ends when there are descriptors: the socket has been left by its listener.
fn expected(what: &str) -> Option<i32> {
    what.contains("UnixStream::connect").then_some(libc::ECONNREFUSED)
}

#[test]
fn every_open_says_that_descriptors_are_exhausted() {
    alone("every_open_says_that_descriptors_are_exhausted", |backend| {
        let dir = Dir::new();
        dir.file("f", "contents");
        let before = descriptors();
        let runtime = local(backend);
        runtime.block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let peer = listener.local_addr().unwrap();
            let open = File::open(dir.path("f")).await.unwrap();
            allow_descriptors(200);
            for left in [0, 1] {
                let files = fill(left);
                for (what, errno) in attempts(&dir, peer).await {
                    // With one left, what needs one has it.
                    let one = [None, expected(what)].contains(&errno) && left == 1;
                    assert!(errno == Some(libc::EMFILE) || one, "{what}, {left} left: {errno:?}");
                }
                // What is open goes on.
                assert_eq!(open.read_at(vec![0; 8], 0).await.unwrap().1, b"contents");
                // Those that got the first of two have given it back.
                drop(files);
                let _ = std::fs::remove_file(dir.path("socket"));
            }
            for (what, errno) in attempts(&dir, peer).await {
                assert_eq!(errno, expected(what), "{what}");
            }
        });
        drop(runtime);
        // None is left open; what a thread of the pool still had, it closes in its own time.
        support::until_blocking(|| descriptors() == before);
    });
}

/// A runtime, and the processor of a plain thread, need some themselves. What could not begin is not
/// waited for.
#[test]
fn a_runtime_without_descriptors_is_an_error() {
    const NAME: &str = "a_runtime_without_descriptors_is_an_error";
    if !is_child(NAME) {
        for backend in backends() {
            let said = child(NAME, |command| {
                command.env("OVERLAPPED_BACKEND", backend.to_string());
            });
            assert!(!said.contains("did not end cleanly"), "{said}");
        }
        return;
    }
    let _watch = watch(NAME);
    tracing_subscriber::fmt().with_ansi(false).init();
    let backend = Backend::from_environment().unwrap().unwrap();
    let dir = Dir::new();
    let path = dir.file("f", "contents");
    allow_descriptors(200);
    let files = fill(0);
    let one = Builder::new().backend(backend).build_local().map(drop::<LocalRuntime>);
    let many = Builder::new().backend(backend).workers(2).build().map(drop);
    for error in [one, many].map(Result::unwrap_err) {
        assert!(error.to_string().contains("Too many open files"), "{error}");
    }
    let read = move || OpenOptions::new().read(true).open_wait(&path);
    let there = read.clone();
    let refused = std::thread::spawn(move || there().map(drop)).join().unwrap();
    assert!(refused.is_err());
    drop(files);
    assert!(read().unwrap().close_wait().is_ok());
    local(backend).block_on(async { assert!(fs::read(dir.path("f")).await.is_ok()) });
}
