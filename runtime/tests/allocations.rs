//! In steady state a request allocates nothing: files and sockets, futures and ports, bare and with
//! four filters, on both backends. Each test has its process to itself.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::{PassKind, pass};
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use overlapped::operation::{Flush, Read, Write};
use overlapped::{Backend, CompletionPort, Status};
use support::{Dir, alone, local, multi, pattern};

/// Counts allocations while it is told to.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static WATCHING: AtomicBool = AtomicBool::new(false);

fn count() {
    if WATCHING.load(Ordering::Relaxed) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: passes everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Warms up, and then lets `round` make many requests without one allocation.
async fn steady(what: &str, mut round: impl AsyncFnMut()) {
    for _ in 0..300 {
        round().await;
    }
    // On a loaded machine a pool may start a thread, or a list reach a new length, as late as here:
    // once, and not for each request. So one of three tries must be without any.
    let mut counts = Vec::with_capacity(3);
    for _ in 0..3 {
        COUNT.store(0, Ordering::SeqCst);
        WATCHING.store(true, Ordering::SeqCst);
        for _ in 0..300 {
            round().await;
        }
        WATCHING.store(false, Ordering::SeqCst);
        counts.push(COUNT.load(Ordering::SeqCst));
        if counts.ends_with(&[0]) {
            return;
        }
    }
    panic!("allocations in 300 rounds, three times: {counts:?}: {what}");
}

fn filters(count: usize) -> Vec<Arc<dyn Driver>> {
    let kinds = [PassKind::Routine, PassKind::Future].into_iter().cycle();
    kinds.take(count).map(pass).collect()
}

async fn open(dir: &Dir, filter: usize) -> File {
    let path = dir.file("f", pattern(1 << 20));
    let options = OpenOptions::new().read(true).write(true);
    let options = filters(filter).into_iter().fold(options, OpenOptions::filter);
    options.open(path).await.unwrap()
}

async fn files(_: Backend, filter: usize) {
    let dir = Dir::new();
    let file = open(&dir, filter).await;
    let mut buf = vec![7; 4096];
    let mut i = 0u64;
    steady(&format!("reads, {filter} filters"), async || {
        i += 1;
        buf = file.read_at(std::mem::take(&mut buf), i % 200 * 4096).await.unwrap().1;
    })
    .await;
    steady(&format!("writes, {filter} filters"), async || {
        i += 1;
        buf = file.write_at(std::mem::take(&mut buf), i % 200 * 4096).await.unwrap().1;
    })
    .await;
    // Small requests that cross the file system, and answer by themselves.
    let mut positions = [0u64; 32];
    let mut buffers: [Vec<u8>; 32] = std::array::from_fn(|_| vec![7; 4096]);
    for write in [false, true] {
        let what = if write { "writes" } else { "reads" };
        steady(&format!("32 {what} at once, {filter} filters"), async || {
            let mut reads: [_; 32] = std::array::from_fn(|_| None);
            let mut writes: [_; 32] = std::array::from_fn(|_| None);
            for lane in 0..32 {
                positions[lane] = (positions[lane] + lane as u64 + 1) % 200;
                let buf = std::mem::take(&mut buffers[lane]);
                let offset = positions[lane] * 4096;
                if write {
                    writes[lane] = Some(file.write_at(buf, offset));
                } else {
                    reads[lane] = Some(file.read_at(buf, offset));
                }
            }
            future::poll_fn(|cx| {
                let mut pending = false;
                macro_rules! poll {
                    ($requests:expr) => {
                        for (lane, request) in $requests.iter_mut().enumerate() {
                            if let Some(future) = request {
                                match future::FutureExt::poll_unpin(future, cx) {
                                    std::task::Poll::Pending => pending = true,
                                    std::task::Poll::Ready(result) => {
                                        buffers[lane] = result.unwrap().1;
                                        *request = None;
                                    }
                                }
                            }
                        }
                    };
                }
                poll!(reads);
                poll!(writes);
                if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
            })
            .await;
        })
        .await;
    }
}

async fn pair(filter: usize) -> (TcpStream, TcpStream) {
    let here: (IpAddr, u16) = (Ipv4Addr::LOCALHOST.into(), 0);
    let stack = stack_of(filters(filter)).unwrap();
    let listener = TcpListener::bind_with(here, stack.clone()).await.unwrap();
    let connect = TcpStream::connect_with(listener.local_addr().unwrap(), stack);
    let (client, server) = future::join(connect, listener.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

async fn sockets(_: Backend, filter: usize) {
    let (a, b) = pair(filter).await;
    // Owned buffers.
    let echo = overlapped::spawn(async move {
        let mut buf = vec![0; 4096];
        loop {
            let n;
            (n, buf) = b.read(buf).await.unwrap();
            if n == 0 {
                return;
            }
            buf = b.write_all(buf).await.unwrap().1;
        }
    });
    let mut buf = vec![7; 512];
    steady(&format!("echo with owned buffers, {filter} filters"), async || {
        buf = a.write_all(std::mem::take(&mut buf)).await.unwrap().1;
        buf = a.read_exact(std::mem::take(&mut buf)).await.unwrap().1;
    })
    .await;
    drop(a);
    echo.await.unwrap();
    // Leases.
    let (a, b) = pair(filter).await;
    let echo = overlapped::spawn(async move {
        loop {
            let lease = b.read_lease().await.unwrap();
            if lease.is_empty() {
                return;
            }
            b.write_all(lease).await.unwrap();
        }
    });
    steady(&format!("echo with leases, {filter} filters"), async || {
        buf = a.write_all(std::mem::take(&mut buf)).await.unwrap().1;
        let mut got = 0;
        while got < 512 {
            got += a.read_lease().await.unwrap().len();
        }
    })
    .await;
    drop(a);
    echo.await.unwrap();
}

#[test]
fn files_on_one_thread() {
    alone("files_on_one_thread", |backend| {
        for filter in [0, 4] {
            local(backend).block_on(files(backend, filter));
        }
    });
}

#[test]
fn files_on_a_worker() {
    alone("files_on_a_worker", |backend| {
        for filter in [0, 4] {
            let runtime = multi(backend, 2);
            runtime
                .block_on(runtime.spawn(async move { files_task(backend, filter).await }))
                .unwrap();
        }
    });
}

/// A part of [`files`] that may change workers.
async fn files_task(_: Backend, filter: usize) {
    let dir = Dir::new();
    let file = open(&dir, filter).await;
    let mut buf = vec![7; 4096];
    for watching in [false, true] {
        COUNT.store(0, Ordering::SeqCst);
        WATCHING.store(watching, Ordering::SeqCst);
        for i in 0..500u64 {
            buf = file.read_at(buf, i % 200 * 4096).await.unwrap().1;
            buf = file.write_at(buf, i % 200 * 4096).await.unwrap().1;
        }
        WATCHING.store(false, Ordering::SeqCst);
    }
    assert_eq!(COUNT.load(Ordering::SeqCst), 0, "{filter} filters");
}

#[test]
fn sockets_on_one_thread() {
    alone("sockets_on_one_thread", |backend| {
        for filter in [0, 4] {
            local(backend).block_on(sockets(backend, filter));
        }
    });
}

#[test]
fn datagrams() {
    alone("datagrams", |backend| {
        for filter in [0, 4] {
            local(backend).block_on(async {
                let stack = datagram_stack_of(filters(filter)).unwrap();
                let here = (Ipv4Addr::LOCALHOST, 0);
                let a = UdpSocket::bind_with(here, stack.clone()).await.unwrap();
                let b = UdpSocket::bind_with(here, stack).await.unwrap();
                let (a_address, b_address) = (a.local_addr().unwrap(), b.local_addr().unwrap());
                let mut buf = vec![7; 64];
                steady(&format!("messages, {filter} filters"), async || {
                    let message = std::mem::take(&mut buf);
                    let (received, sent) =
                        future::join(b.recv_from(vec![]), a.send_to("there", b_address)).await;
                    assert!(sent.is_ok() && received.unwrap().0.1 == a_address);
                    b.send_to("and back", a_address).await.unwrap();
                    buf = a.recv(message).await.unwrap().1;
                })
                .await;
            });
        }
    });
}

/// Asks so many times at once for a flush.
struct Forks(usize);

impl Filter for Forks {
    type Open = ();
    fn name(&self) -> &str {
        "forks"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Flush])
    }
    async fn flush(&self, _: &(), next: Next<'_>, _: Io<'_>) -> Result<usize, Status> {
        let flushes = (0..self.0).map(|_| next.request(Flush { data_only: true }));
        next.fork(flushes).first_error().await.map_err(Status::from)?.for_each(drop);
        Ok(0)
    }
}

/// A fork's children are in pooled memory. (That a filter waits for anything but its own request costs an
/// alarm, as ever: these are done at once.)
#[test]
fn forks() {
    alone("forks", |backend| {
        for children in [1, 3, 20] {
            local(backend).block_on(async {
                let options = OpenOptions::new().write(true).filter(Forks(children).into_driver());
                let file = options.on(Arc::new(Memory::new())).open("f").await.unwrap();
                steady(&format!("forks of {children}"), async || {
                    file.sync_data().await.unwrap();
                    // There is a number that are done at once between two turns.
                    overlapped::time::sleep(Duration::from_micros(1)).await;
                })
                .await;
            });
        }
    });
}

/// Tasks that end leave their memory to those that begin.
#[test]
fn tasks() {
    alone("tasks", |backend| {
        local(backend).block_on(async {
            steady("tasks, one by one", async || {
                assert_eq!(overlapped::spawn(async { [7; 20] }).await.unwrap(), [7; 20]);
            })
            .await;
            let mut tasks = Vec::with_capacity(50);
            steady("tasks, fifty at once", async || {
                tasks.extend((0..50).map(|i| overlapped::spawn(async move { i })));
                for task in tasks.drain(..) {
                    task.await.unwrap();
                }
            })
            .await;
        });
    });
}

#[test]
fn timers() {
    alone("timers", |backend| {
        local(backend).block_on(async {
            steady("sleeps and timeouts", async || {
                overlapped::time::sleep(Duration::from_micros(100)).await;
                let limit = Duration::from_secs(5);
                overlapped::time::timeout(limit, overlapped::yield_now()).await.unwrap();
            })
            .await;
        });
    });
}

#[test]
fn the_port_route() {
    alone("the_port_route", |_| {
        for filter in [0, 4] {
            let dir = Dir::new();
            let path = dir.file("f", pattern(1 << 20));
            let options = OpenOptions::new().read(true).write(true);
            let options = filters(filter).into_iter().fold(options, OpenOptions::filter);
            let file = options.open_wait(path).unwrap();
            let port = CompletionPort::new();
            let mut packets = Vec::with_capacity(64);
            let mut free: Vec<Vec<u8>> = (0..32).map(|_| vec![7; 4096]).collect();
            let mut round = |i: u64| {
                for lane in 0..32 {
                    let buf = free.pop().unwrap();
                    let offset = (i + lane) % 200 * 4096;
                    if lane % 2 == 0 {
                        file.read_at(buf, offset).post(&port, lane).unwrap();
                    } else {
                        file.write_at(buf, offset).post(&port, lane).unwrap();
                    }
                }
                while free.len() < 32 {
                    port.remove_many(&mut packets, 32, None).unwrap();
                    for packet in packets.drain(..) {
                        free.push(if packet.key() % 2 == 0 {
                            packet.into_output::<Read<Vec<u8>>>().unwrap().1
                        } else {
                            packet.into_output::<Write<Vec<u8>>>().unwrap().1
                        });
                    }
                }
            };
            // Until the thread pool of epoll has all its threads, too.
            (0..1000).for_each(&mut round);
            COUNT.store(0, Ordering::SeqCst);
            WATCHING.store(true, Ordering::SeqCst);
            (0..100).for_each(&mut round);
            WATCHING.store(false, Ordering::SeqCst);
            assert_eq!(COUNT.load(Ordering::SeqCst), 0, "{filter} filters");
        }
    });
}
