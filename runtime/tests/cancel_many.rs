//! Cancelling by the thousand: nothing leaks, no connection and no byte is lost, on whatever
//! thread the futures are dropped.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future;
use overlapped::fs::File;
use overlapped::net::{TcpListener, TcpStream};
use overlapped::time::{sleep, timeout};
use support::{Dir, alone, descriptors, local, multi, pattern, poll_once, until, workers};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[test]
fn cancelled_opens_leak_no_descriptor() {
    alone("cancelled_opens_leak_no_descriptor", |backend| {
        let runtime = local(backend);
        runtime.block_on(async {
            let dir = Dir::new();
            let path = dir.file("f", "x");
            drop(File::open(&path).await.unwrap());
            sleep(Duration::from_millis(20)).await;
            let before = descriptors();
            for i in 0..10_000 {
                let mut open = Box::pin(File::open(&path));
                // Dropped before, at once, or some turns later.
                if i % 10 > 0 {
                    drop(poll_once(&mut open));
                }
                if i % 3 == 0 {
                    overlapped::yield_now().await;
                }
            }
            until(|| descriptors() <= before).await;
            File::open(&path).await.unwrap().close().await.unwrap();
            // New files are made, or not; none stays open.
            for i in 0..200 {
                let mut create = Box::pin(File::create(dir.path(&i.to_string())));
                drop(poll_once(&mut create));
            }
            until(|| descriptors() <= before).await;
        });
    });
}

#[test]
fn cancelled_connects_leak_no_descriptor() {
    alone("cancelled_connects_leak_no_descriptor", |backend| {
        let runtime = local(backend);
        runtime.block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let address = listener.local_addr().unwrap();
            let before = descriptors();
            // An address that answers, and one that never does.
            for address in [address, "192.0.2.1:9".parse().unwrap()] {
                for i in 0..500 {
                    let mut connect = Box::pin(TcpStream::connect(address));
                    drop(poll_once(&mut connect));
                    if i % 2 == 0 {
                        overlapped::yield_now().await;
                    }
                }
                for _ in 0..3 {
                    let limit = Duration::from_millis(1);
                    drop(timeout(limit, TcpStream::connect(address)).await);
                }
            }
            drop(listener);
            until(|| descriptors() < before).await;
        });
    });
}

/// 10,000 accepts are cancelled while 2,000 clients connect; each sends its number and must be
/// answered.
async fn accepts_come_and_go() {
    const CLIENTS: usize = 2000;
    const CANCELLED: usize = 10_000;
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let clients = overlapped::spawn(async move {
        for i in 0..CLIENTS {
            let client = TcpStream::connect(address).await.unwrap();
            client.write_all(i.to_le_bytes().to_vec()).await.unwrap();
            // Kept until it is answered: a connection that is lost hangs here.
            let ((), answer) = client.read_exact(Vec::with_capacity(8)).await.unwrap();
            assert_eq!(answer, (!i).to_le_bytes());
        }
    });
    let mut seen = 0;
    let mut cancelled = 0;
    while seen < CLIENTS {
        // Some more than can be: they park one behind the other.
        let mut accepts: Vec<_> = (0..6).map(|_| listener.accept()).collect();
        let ready = future::poll_fn(|cx| {
            let polls = accepts.iter_mut().map(|a| {
                use std::future::Future as _;
                std::pin::Pin::new(a).poll(cx)
            });
            Poll::Ready(polls.collect::<Vec<_>>())
        })
        .await;
        if cancelled % 5 == 0 {
            overlapped::yield_now().await;
        }
        drop(accepts);
        cancelled += ready.iter().filter(|r| r.is_pending()).count();
        let mut accepted: Vec<_> = ready.into_iter().filter(|r| r.is_ready()).collect();
        if accepted.is_empty() && cancelled > CANCELLED {
            accepted.push(Poll::Ready(listener.accept().await));
        }
        for connection in accepted {
            let Poll::Ready(connection) = connection else { unreachable!() };
            let (stream, _) = connection.unwrap();
            seen += 1;
            let ((), number) = stream.read_exact(Vec::with_capacity(8)).await.unwrap();
            let answer = number.iter().map(|b| !b).collect::<Vec<_>>();
            stream.write_all(answer).await.unwrap();
        }
    }
    clients.await.unwrap();
    while cancelled < CANCELLED {
        let mut accept = listener.accept();
        assert!(poll_once(&mut accept).is_pending());
        cancelled += 1;
    }
    assert!(timeout(Duration::from_millis(5), listener.accept()).await.is_err());
}

#[test]
fn cancelled_accepts_lose_no_connection() {
    alone("cancelled_accepts_lose_no_connection", |backend| {
        let before = descriptors();
        let runtime = local(backend);
        runtime.block_on(accepts_come_and_go());
        drop(runtime);
        assert!(descriptors() <= before, "{before} before, {} after", descriptors());
    });
}

#[test]
fn cancelled_accepts_lose_no_connection_on_workers() {
    workers(2, |_| accepts_come_and_go());
}

#[test]
fn futures_dropped_on_other_threads() {
    workers(2, |_| async {
        let dir = Dir::new();
        let file: &'static File =
            Box::leak(Box::new(File::open(dir.file("f", pattern(1 << 20))).await.unwrap()));
        let listener: &'static TcpListener =
            Box::leak(Box::new(TcpListener::bind(HERE).await.unwrap()));
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server: &'static TcpStream = Box::leak(Box::new(listener.accept().await.unwrap().0));
        let (send, receive) = std::sync::mpsc::channel::<Box<dyn Send>>();
        let dropped = Arc::new(AtomicUsize::new(0));
        let dropper = std::thread::spawn({
            let dropped = dropped.clone();
            move || {
                for future in receive {
                    drop(future);
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut received = 0;
        for i in 0..500u64 {
            let mut read = file.read_at(Vec::with_capacity(4096), i % 256 * 4096);
            drop(poll_once(&mut read));
            let mut open = Box::pin(File::open("/proc/self/exe"));
            drop(poll_once(&mut open));
            let mut accept = listener.accept();
            drop(poll_once(&mut accept));
            let (open, accept) = (Box::new(open), Box::new(accept));
            for future in [Box::new(read) as Box<dyn Send>, open, accept] {
                send.send(future).unwrap();
            }
            // One receive at a time.
            let mut receive = server.read_lease();
            if let Poll::Ready(lease) = poll_once(&mut receive) {
                received += lease.unwrap().len();
            }
            if i % 4 == 0 {
                client.write(vec![7; 3]).await.unwrap();
                overlapped::yield_now().await;
            }
            send.send(Box::new(receive)).unwrap();
            until(|| dropped.load(Ordering::Relaxed) == 4 * (i as usize + 1)).await;
        }
        until(|| dropped.load(Ordering::Relaxed) == 2000).await;
        drop(send);
        dropper.join().unwrap();
        let rest = 375 - received;
        let ((), all) = server.read_exact(Vec::with_capacity(rest)).await.unwrap();
        assert_eq!(all, vec![7; rest]);
        let other = overlapped::spawn(TcpStream::connect(listener.local_addr().unwrap()));
        listener.accept().await.unwrap();
        other.await.unwrap().unwrap();
    });
}

#[test]
fn requests_that_move_between_workers() {
    // Issued on one worker; polled, completed and dropped wherever the task is by then.
    workers(4, |_| async {
        let dir = Dir::new();
        let path = dir.file("f", pattern(1 << 20));
        let mut tasks = Vec::new();
        for i in 0..64u64 {
            let path = path.clone();
            tasks.push(overlapped::spawn(async move {
                let file = File::open(path).await.unwrap();
                let whole = pattern(1 << 20);
                for round in 0..100 {
                    let offset = (i * 37 + round * 101) % 255 * 4096;
                    let mut read = file.read_at(Vec::with_capacity(4096), offset);
                    if let Some(done) = future::poll_immediate(&mut read).await {
                        assert!(done.unwrap().1 == whole[offset as usize..][..4096]);
                        continue;
                    }
                    overlapped::yield_now().await;
                    if round % 3 == 0 {
                        drop(read);
                    } else {
                        let (n, buf) = read.await.unwrap();
                        assert!(n == 4096 && buf == whole[offset as usize..][..4096]);
                    }
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn aborted_tasks_with_requests_in_flight() {
    alone("aborted_tasks_with_requests_in_flight", |backend| {
        let runtime = multi(backend, 2);
        let before = descriptors();
        runtime.block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let address = listener.local_addr().unwrap();
            for _ in 0..20 {
                let mut tasks = Vec::new();
                let mut servers = Vec::new();
                for _ in 0..20 {
                    let (client, server) =
                        future::join(TcpStream::connect(address), listener.accept()).await;
                    let client = client.unwrap();
                    servers.push(server.unwrap().0);
                    tasks.push(overlapped::spawn(async move {
                        client.read(vec![0; 4096]).await.unwrap();
                    }));
                }
                overlapped::yield_now().await;
                for task in tasks {
                    task.abort();
                    assert!(task.await.unwrap_err().is_cancelled());
                }
                // Their sockets were closed with them.
                for server in servers {
                    assert_eq!(server.read(vec![0]).await.unwrap().0, 0);
                }
            }
        });
        assert_eq!(runtime.handle().tasks(), 0);
        drop(runtime);
        assert!(descriptors() <= before);
    });
}
