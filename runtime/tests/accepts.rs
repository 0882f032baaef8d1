//! Accepts of several threads on one listener: none depends on what another thread does.

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use overlapped::driver::Major;
use overlapped::net::{TcpListener, TcpStream};
use overlapped::operation::Accept;
use overlapped::{CompletionPort, Request, Status};
use support::{alone, backends, both, multi, poll_once, until, until_blocking, watch};

const HERE: &str = "127.0.0.1:0";

/// The thread in `block_on` has accepted once, and blocks; a worker's task accepts.
#[test]
fn a_task_accepts_while_the_thread_that_accepted_before_is_blocked() {
    for backend in backends() {
        let _watch = watch(format!("armed on a blocked thread, {backend}"));
        multi(backend, 2).block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let address = listener.local_addr().unwrap();
            let (client, first) =
                future::join(TcpStream::connect(address), listener.accept()).await;
            drop((client.unwrap(), first.unwrap()));
            let server = overlapped::spawn(async move { listener.accept().await.map(drop) });
            let client = std::net::TcpStream::connect(address).unwrap();
            until_blocking(|| server.is_finished());
            drop(client);
        });
    }
}

/// One plain thread has accepted, and serves; another accepts.
#[test]
fn a_plain_thread_accepts_while_another_that_accepted_before_is_busy() {
    alone("a_plain_thread_accepts_while_another_that_accepted_before_is_busy", |_| {
        let listener = std::net::TcpListener::bind(HERE).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = Arc::new(TcpListener::from_std(listener).unwrap());
        let first = std::net::TcpStream::connect(address).unwrap();
        listener.accept().wait().unwrap();
        let second = std::net::TcpStream::connect(address).unwrap();
        let other = std::thread::spawn(move || listener.accept().wait().map(drop));
        until_blocking(|| other.is_finished());
        drop((first, second));
    });
}

fn accepts_in_flight() -> usize {
    let all = overlapped::live_requests(Duration::from_secs(5)).requests;
    all.iter().filter(|r| r.major == Major::Accept && r.state != "complete").count()
}

/// A connection that came for an accept which was dropped reaches an accept that waits elsewhere:
/// it has either been taken for the first, or has used up the system's one wake for it.
#[test]
fn a_late_connection_reaches_an_accept_of_another_thread() {
    both(async |_| {
        let listener = Arc::new(TcpListener::bind(HERE).await.unwrap());
        let address = listener.local_addr().unwrap();
        for round in 0..100 {
            // First in the system's queue.
            let mut dropped = listener.accept();
            assert!(poll_once(&mut dropped).is_pending());
            overlapped::yield_now().await;
            let other = std::thread::spawn({
                let listener = listener.clone();
                move || listener.accept().wait().map(drop)
            });
            until(|| accepts_in_flight() == 2).await;
            let client = std::net::TcpStream::connect(address).unwrap();
            if round % 2 == 0 {
                // It is done before it is dropped.
                until(|| accepts_in_flight() == 1).await;
            }
            drop(dropped);
            until(|| other.is_finished()).await;
            other.join().unwrap().unwrap();
            drop(client);
        }
    });
}

/// A listener goes back to `std` while accepts wait on threads of their own: they end, and every
/// connection is either accepted by one of them, or given back with the listener.
#[test]
fn into_std_ends_the_accepts_of_other_threads() {
    alone("into_std_ends_the_accepts_of_other_threads", |backend| {
        let runtime = multi(backend, 2);
        runtime.block_on(async {
            let listener = TcpListener::bind(HERE).await.unwrap();
            let address = listener.local_addr().unwrap();
            let port = CompletionPort::new();
            for _ in 0..4 {
                let handle = listener.object().handle();
                let port = port.clone();
                overlapped::spawn(async move {
                    Request::new(&handle, Accept).post(&port, 1).map_err(drop).unwrap();
                })
                .await
                .unwrap();
            }
            let clients: Vec<_> =
                (0..6).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            let (std, ready) = listener.into_std().await.unwrap();
            let mut accepted = ready.len();
            let mut ended = 0;
            while ended < 4 {
                let Ok(packet) = port.remove(Some(Duration::ZERO)) else {
                    overlapped::time::sleep(Duration::from_millis(1)).await;
                    continue;
                };
                ended += 1;
                match packet.into_output::<Accept>() {
                    Ok(_) => accepted += 1,
                    Err(error) => assert_eq!(Status::from(&error), Status::CANCELLED),
                }
            }
            std.set_nonblocking(true).unwrap();
            accepted += std::iter::from_fn(|| std.accept().ok()).count();
            assert_eq!(accepted, clients.len());
        });
    });
}
