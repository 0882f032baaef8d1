//! Load: what ten thousand idle connections cost, and what becomes of a flood that nobody reaps. Each
//! test has its process to itself.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::Later;
use overlapped::fs::{File, OpenOptions};
use overlapped::net::TcpListener;
use overlapped::operation::Read;
use overlapped::wait::{self, Alertable};
use overlapped::{
    Backend, Builder, HardwareConfig, IssuerScope, Limits, PortOptions, Request, Status,
    driver_counts,
};
use support::{Dir, alone, local, pattern, poll_once, until};

/// Counts the bytes that are allocated.
struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    LIVE.fetch_add(bytes, Ordering::Relaxed);
}

// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn live() -> isize {
    LIVE.load(Ordering::SeqCst)
}

/// Resident bytes of this process.
fn resident() -> isize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<isize>().unwrap() * 1024
}

/// Raises the limit of descriptors as far as it goes.
fn allow_descriptors() -> u64 {
    // SAFETY: the structure is plain numbers, which the calls read and write.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur
    }
}

const CONNECTIONS: usize = 10_000;

/// Where the clients connect to, in the environment of their process.
const ADDRESS: &str = "OVERLAPPED_TEST_ADDRESS";

/// The other end of [`idle_connections_are_small`], in a process of its own: connects, and when it is
/// told to, sends a byte on each connection and gets it back. As a test of its own it does nothing.
#[test]
fn clients() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    allow_descriptors();
    let address: SocketAddr = address.parse().unwrap();
    let mut streams: Vec<_> =
        (0..CONNECTIONS).map(|_| StdStream::connect(address).unwrap()).collect();
    println!("connected");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&[i as u8]).unwrap();
    }
    for (i, stream) in streams.iter_mut().enumerate() {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [i as u8]);
    }
    println!("echoed");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Most bytes that an idle connection with a waiting receive may cost: its file object, its request and
/// its task.
const BAR: isize = 2048;

fn idle(backend: Backend) {
    assert!(allow_descriptors() > CONNECTIONS as u64 + 500, "needs more descriptors");
    // The pool of receives is reserved once a processor, whatever the number of connections.
    let mut config = HardwareConfig::default();
    config.backend = Some(backend);
    (config.uring.pool_buffers, config.epoll.buffers) = (8, 8);
    let runtime = Builder::new().hardware(config).workers(2).build().unwrap();
    runtime.block_on(async {
        // A network address for each backend, so that ports do not run out.
        let host = if backend == Backend::Epoll { 8 } else { 9 };
        let address: SocketAddr = (Ipv4Addr::new(127, 0, 0, host), 0).into();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(AtomicUsize::new(0));
        let counter = served.clone();
        let before = (live(), resident());
        overlapped::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let served = counter.clone();
                overlapped::spawn(async move {
                    loop {
                        let lease = stream.read_lease().await.unwrap();
                        if lease.is_empty() {
                            break;
                        }
                        stream.write_all(lease).await.unwrap();
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        let mut clients = Command::new(std::env::current_exe().unwrap())
            .args(["clients", "--exact", "--nocapture"])
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut orders = clients.stdin.take().unwrap();
        let lines = BufReader::new(clients.stdout.take().unwrap()).lines();
        // A thread of its own: what it does blocks.
        let (send, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| send.send(line))
        });
        let hears = async |word: &str| until(|| said.try_iter().any(|line| line == word)).await;
        hears("connected").await;
        // Each has its receive with the hardware.
        let waiting = || driver_counts(Duration::from_secs(5)).of("stream").in_flight;
        until(|| waiting() == CONNECTIONS as u64).await;
        let each = |before: isize, after: isize| (after - before) / CONNECTIONS as isize;
        let (bytes, pages) = (each(before.0, live()), each(before.1, resident()));
        println!("{backend}: {bytes} bytes allocated, {pages} resident, for each connection");
        assert!(bytes < BAR, "{bytes} bytes allocated for each connection");
        assert!(pages < BAR, "{pages} resident bytes for each connection");
        // They are not only small.
        orders.write_all(b"\n").unwrap();
        hears("echoed").await;
        orders.write_all(b"\n").unwrap();
        until(|| clients.try_wait().unwrap().is_some()).await;
        until(|| served.load(Ordering::SeqCst) == CONNECTIONS).await;
        assert_eq!(waiting(), 0);
    });
}

#[test]
fn idle_connections_are_small() {
    alone("idle_connections_are_small", idle);
}

/// How many are let in.
const MOST: usize = 1000;

/// Requests of a flood.
const FLOOD: usize = 100_000;

/// Issues a flood of requests, of which `issue` says whether they were refused, keeping what is let in:
/// all beyond the limit are refused, and memory stays where it was at the limit.
fn flood(what: &str, mut issue: impl FnMut() -> Result<(), Status>) {
    let (mut admitted, mut at_limit) = (0, 0);
    for i in 0..FLOOD {
        match issue() {
            Ok(()) => admitted += 1,
            Err(status) => assert_eq!(status, Status::QUOTA_EXCEEDED, "{what}"),
        }
        if i == 2 * MOST {
            at_limit = live();
        }
    }
    assert_eq!(admitted, MOST, "{what}");
    // The keeper or a pool may have begun meanwhile: but nothing is kept for each.
    let grown = live() - at_limit;
    assert!(grown < FLOOD as isize, "{what}: {grown} bytes more after the flood");
}

fn refused<T>(result: Result<Result<T, impl Into<std::io::Error>>, Status>) -> Status {
    match result {
        Ok(result) => support::status(result),
        Err(status) => status,
    }
}

/// The files that a flood is made of: on the hardware, and in memory.
fn files(dir: &Dir) -> [File; 2] {
    let options = OpenOptions::new().read(true).write(true);
    let real = options.clone().open_wait(dir.file("f", pattern(4096))).unwrap();
    let memory = options.on(Arc::new(Memory::new())).open_wait("f").unwrap();
    memory.write_at(pattern(4096), 0).wait().unwrap();
    [real, memory]
}

/// T-121b, S-18, S-19, by the routes of a plain thread.
#[test]
fn a_flood_on_a_thread_is_refused_at_its_limit() {
    alone("a_flood_on_a_thread_is_refused_at_its_limit", |_| {
        let dir = Dir::new();
        for file in files(&dir) {
            let read = || file.read_at(Vec::<u8>::with_capacity(16), 0);
            let works = |when: &str| assert_eq!(read().wait().unwrap().0, 16, "{when}");
            // A port's own limit.
            let (port, other) =
                (PortOptions::new().limit(MOST).create(), PortOptions::new().create());
            flood("a port", || {
                read().post(&port, 0).map(drop).map_err(|error| refused::<()>(Ok(error.map(drop))))
            });
            works("beside a full port");
            read().post(&other, 0).map(drop).unwrap();
            other.remove(None).unwrap();
            for _ in 0..MOST {
                assert!(port.remove(None).unwrap().status().is_success());
            }
            read().post(&port, 7).map(drop).unwrap();
            assert_eq!(port.remove(None).unwrap().key(), 7);
            // An opener's, in a port that it shares with others.
            let scope = IssuerScope::with_limits(Limits { requests: MOST, ..Limits::NONE });
            flood("an opener's packets", || {
                let posted = scope.run(|| read().post(&other, 0));
                posted.map(drop).map_err(|error| refused::<()>(Ok(error.map(drop))))
            });
            read().post(&other, 7).map(drop).unwrap();
            let keys: Vec<_> = (0..=MOST).map(|_| other.remove(None).unwrap().key()).collect();
            assert_eq!(keys.iter().filter(|&&key| key == 7).count(), 1);
            support::until_blocking(|| scope.outstanding() == 0);
            // Its status blocks.
            let mut blocks = Vec::with_capacity(MOST);
            flood("blocks", || {
                let started = scope.run(|| read().start());
                started
                    .map(|block| blocks.push(block))
                    .map_err(|error| refused::<()>(Ok(error.map(drop))))
            });
            works("beside blocks");
            assert!(read().start().is_ok(), "another opener's");
            blocks.clear();
            support::until_blocking(|| scope.outstanding() == 0);
            // Its callbacks.
            let ran = Arc::new(AtomicUsize::new(0));
            flood("APCs", || {
                let ran = ran.clone();
                let queued =
                    scope.run(|| read().queue_apc(move |_| _ = ran.fetch_add(1, Ordering::SeqCst)));
                queued.map(drop).map_err(|error| refused::<()>(Ok(error.map(drop))))
            });
            works("beside APCs");
            while ran.load(Ordering::SeqCst) < MOST {
                wait::sleep(Some(Duration::from_millis(20)), Alertable::Yes).unwrap();
            }
            support::until_blocking(|| scope.outstanding() == 0);
            // Bytes.
            let scope = IssuerScope::with_limits(Limits { bytes: 16 * MOST, ..Limits::NONE });
            let mut blocks = Vec::with_capacity(MOST);
            flood("bytes", || {
                let started = scope.run(|| read().start());
                started
                    .map(|block| blocks.push(block))
                    .map_err(|error| refused::<()>(Ok(error.map(drop))))
            });
            blocks.clear();
            support::until_blocking(|| scope.bytes() == 0);
            // A file object's.
            file.object().limit_requests(MOST as u32);
            let mut blocks = Vec::with_capacity(MOST);
            flood("a file object", || {
                let started = read().start();
                started
                    .map(|block| blocks.push(block))
                    .map_err(|error| refused::<()>(Ok(error.map(drop))))
            });
            let [_, beside] = files(&dir);
            assert_eq!(beside.read_at(vec![0; 16], 0).wait().unwrap().0, 16);
            blocks.clear();
            support::until_blocking(|| file.object().requests() == 0);
            works("after all");
            file.close_wait().unwrap();
        }
    });
}

/// The same for futures: polled once, and never again.
#[test]
fn a_flood_of_futures_is_refused_at_its_limit() {
    alone("a_flood_of_futures_is_refused_at_its_limit", |backend| {
        local(backend).block_on(async {
            let (reader, writer) = overlapped::io::pipe().unwrap();
            let options = OpenOptions::new().read(true).write(true);
            let later = options.filter(Arc::new(Later)).on(Arc::new(Memory::new()));
            let later = later.open("f").await.unwrap();
            later.write_at("x", 0).await.unwrap();
            for (file, waits) in [(reader.object(), true), (later.object(), false)] {
                let read = || Request::new(file, Read::at(Vec::<u8>::with_capacity(16), 0));
                for of_the_file in [false, true] {
                    let scope = IssuerScope::with_limits(Limits { requests: MOST, ..Limits::NONE });
                    if of_the_file {
                        file.limit_requests(MOST as u32);
                    }
                    let mut kept = Vec::with_capacity(MOST);
                    flood("futures", || {
                        let mut read = read();
                        let mut poll = || poll_once(&mut read);
                        let polled = if of_the_file { poll() } else { scope.run(poll) };
                        match polled {
                            Poll::Ready(Err(error)) => Err(error.status()),
                            Poll::Ready(Ok(_)) => panic!("it has nothing to read yet"),
                            Poll::Pending => {
                                kept.push(read);
                                Ok(())
                            }
                        }
                    });
                    if !waits {
                        // All done, and none taken: no room yet.
                        until(|| scope.live() == 0).await;
                        overlapped::yield_now().await;
                        let again =
                            if of_the_file { read().await } else { scope.wrap(read()).await };
                        assert_eq!(support::status(again), Status::QUOTA_EXCEEDED);
                    }
                    kept.clear();
                    until(|| scope.outstanding() == 0 && file.requests() == 0).await;
                    file.limit_requests(u32::MAX);
                    if waits {
                        writer.write("x").await.unwrap();
                    }
                    assert_eq!(read().await.unwrap().1, b"x");
                }
            }
        });
    });
}
