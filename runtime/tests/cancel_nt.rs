//! NT's ways to cancel: by thread and file, by file, by request, of another thread's call, and issuer
//! scopes (X-20 to X-23, D4).

mod support;

use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use futures_util::future;
use overlapped::apc::IoThread;
use overlapped::fs::File;
use overlapped::net::{TcpListener, TcpStream};
use overlapped::wait::Event;
use overlapped::{CompletionPort, IssuerScope, Limits, Status};
use support::{Dir, alone, backends, both, local, pattern, poll_once, status, until_blocking};

fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

/// the calling thread's requests on this file, no others; gone when it returns.
#[test]
fn x20_cancel_io() {
    alone("x20_cancel_io", |_| {
        let (port, others) = (CompletionPort::new(), CompletionPort::new());
        let (a, _a) = pair();
        let (b, _b) = pair();
        let a = Arc::new(a);
        a.object().cancel_io().unwrap();
        a.read_lease().post(&port, 1).unwrap();
        b.read_lease().post(&port, 2).unwrap();
        let (theirs, report) = (a.clone(), others.clone());
        let (send, stay) = mpsc::channel::<()>();
        let (done, issued) = mpsc::channel();
        let thread = thread::spawn(move || {
            theirs.read_lease().post(&report, 3).unwrap();
            done.send(()).unwrap();
            _ = stay.recv();
        });
        issued.recv().unwrap();
        a.object().cancel_io().unwrap();
        let packet = port.remove(Some(Duration::ZERO)).unwrap();
        assert_eq!(
            (packet.key(), packet.status(), packet.info()),
            (1, Status::CANCELLED, 0),
            "X-23"
        );
        assert!(port.remove(Some(Duration::ZERO)).is_err(), "the other file's goes on");
        assert!(others.remove(Some(Duration::from_millis(20))).is_err(), "and the other thread's");
        a.object().cancel_io_ex().unwrap();
        assert_eq!(others.remove(None).unwrap().status(), Status::CANCELLED, "X-21");
        drop(send);
        thread.join().unwrap();
        until_blocking(|| a.object().cancel_io_ex() == Err(Status::NOT_FOUND));
        let handle = b.object().handle();
        b.object().cancel_io_ex().unwrap();
        port.remove(None).unwrap();
        drop(b);
        assert!(matches!(handle.cancel_io_ex(), Err(Status::NOT_FOUND)));
    });
}

/// one request.
#[test]
fn x21_one_request() {
    alone("x21_one_request", |_| {
        let (stream, _theirs) = pair();
        let event = Event::manual(false);
        let block = stream.read_lease().signal(&event).unwrap();
        block.cancel_io_ex().unwrap();
        event.wait(None).unwrap();
        assert_eq!((block.status(), block.info()), (Status::CANCELLED, 0), "X-23");
        assert_eq!(block.cancel_io_ex(), Err(Status::NOT_FOUND));
    });
}

/// the call that another thread is blocked in.
#[test]
fn x22_cancel_synchronous_io() {
    alone("x22_cancel_synchronous_io", |_| {
        let (stream, _theirs) = pair();
        let (send, target) = mpsc::channel();
        let thread = thread::spawn(move || {
            send.send(IoThread::current().unwrap()).unwrap();
            // An asynchronous request of the thread is not met.
            let other = stream.read_lease().start().unwrap();
            let result = status(stream.read_lease().wait());
            (result, other.status())
        });
        let target = target.recv().unwrap();
        until_blocking(|| target.cancel_synchronous_io().is_ok());
        assert_eq!(thread.join().unwrap(), (Status::CANCELLED, Status::PENDING));
        assert_eq!(target.cancel_synchronous_io(), Err(Status::NOT_FOUND));
    });
}

#[test]
fn x20_is_for_plain_threads() {
    both(async |_| {
        let (listener, address) = listen().await;
        let (stream, theirs) = future::join(TcpStream::connect(address), listener.accept()).await;
        let (stream, _theirs) = (stream.unwrap(), theirs.unwrap());
        assert_eq!(stream.object().cancel_io(), Err(Status::WOULD_DEADLOCK));
        assert_eq!(stream.object().cancel_io_ex(), Err(Status::NOT_FOUND));
        let mut read = stream.read_lease();
        assert!(poll_once(&mut read).is_pending());
        stream.object().cancel_io_ex().unwrap();
        assert_eq!(status(read.await), Status::CANCELLED);
    });
}

async fn listen() -> (TcpListener, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// D4: what is issued in a scope, on whatever worker, is cancelled and joined when it is closed; what
/// is issued outside goes on.
#[test]
fn d4_a_scope_is_closed() {
    both(async |_| {
        let (listener, address) = listen().await;
        let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
        let (client, server) = (Arc::new(client.unwrap()), server.unwrap().0);
        let scope = IssuerScope::new();
        let mut tasks = Vec::new();
        for _ in 0..4 {
            let (scope, client) = (scope.clone(), client.clone());
            tasks.push(overlapped::spawn(async move {
                scope.wrap(async { status(client.read_lease().await) }).await
            }));
        }
        let mut outside = server.read_lease();
        assert!(poll_once(&mut outside).is_pending());
        support::until(|| scope.live() == 4).await;
        scope.close().await;
        assert_eq!(scope.live(), 0);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Status::CANCELLED);
        }
        // Refused from now on.
        let refused = scope.run(|| poll_once(&mut client.read_lease()));
        assert!(matches!(refused, std::task::Poll::Ready(Err(_))));
        client.write_all(b"x".to_vec()).await.unwrap();
        assert_eq!(&outside.await.unwrap()[..], b"x");
        scope.close().await;
    });
}

/// A scope's requests on several threads; it is closed by another.
#[test]
fn d4_a_scope_of_threads() {
    alone("d4_a_scope_of_threads", |_| {
        let scope = IssuerScope::new();
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let scope = scope.clone();
                thread::spawn(move || {
                    let (stream, _theirs) = pair();
                    scope.run(|| status(stream.read_lease().wait()))
                })
            })
            .collect();
        until_blocking(|| scope.live() == 3);
        assert_eq!(scope.close_wait(Some(Duration::from_secs(60))), Ok(true));
        for thread in threads {
            assert_eq!(thread.join().unwrap(), Status::CANCELLED);
        }
    });
}

/// Cancelling is not closing; scopes nest, and the inner one counts.
#[test]
fn d4_cancel_and_nesting() {
    for backend in backends() {
        local(backend).block_on(async {
            let (listener, address) = listen().await;
            let (client, server) =
                future::join(TcpStream::connect(address), listener.accept()).await;
            let (client, server) = (client.unwrap(), server.unwrap().0);
            let (outer, inner) = (IssuerScope::new(), IssuerScope::new());
            let (mut one, mut two) = (client.read_lease(), server.read_lease());
            outer.run(|| {
                assert!(poll_once(&mut one).is_pending());
                inner.run(|| assert!(poll_once(&mut two).is_pending()));
            });
            assert_eq!((outer.live(), inner.live()), (1, 1));
            inner.cancel();
            assert_eq!(status(two.await), Status::CANCELLED);
            assert_eq!((outer.live(), inner.live()), (1, 0));
            let again = inner.wrap(server.write_all(b"x".to_vec())).await;
            again.unwrap();
            assert_eq!(&one.await.unwrap()[..], b"x");
            assert_eq!(outer.live(), 0);
        });
    }
}

/// Limits of a scope: what goes beyond is refused at issue, with its buffer; what ends makes room.
#[test]
fn d4_limits_of_a_scope() {
    both(async |_| {
        let dir = Dir::new();
        let file = File::open(dir.file("f", pattern(4096))).await.unwrap();
        let (listener, address) = listen().await;
        let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap().0);
        let scope = IssuerScope::with_limits(Limits { requests: 3, bytes: 1000 });
        let read = |n: usize| scope.wrap(file.read_at(Vec::with_capacity(n), 0));
        assert_eq!(read(1000).await.unwrap().0, 1000);
        let refused = read(1001).await.unwrap_err();
        assert_eq!(
            (refused.status(), refused.into_buf().capacity()),
            (Status::QUOTA_EXCEEDED, 1001)
        );
        let mut one = client.read(Vec::with_capacity(600));
        let mut two = server.read(Vec::with_capacity(400));
        scope.run(|| {
            assert!(poll_once(&mut one).is_pending());
            assert!(poll_once(&mut two).is_pending());
        });
        assert_eq!((scope.live(), scope.bytes()), (2, 1000));
        assert_eq!(status(read(1).await), Status::QUOTA_EXCEEDED);
        // Requests without data are counted too, as requests.
        let mut three = listener.accept();
        scope.run(|| assert!(poll_once(&mut three).is_pending()));
        let four = scope.run(|| poll_once(&mut listener.accept()));
        assert!(
            matches!(four, Poll::Ready(Err(error)) if Status::from(&error) == Status::QUOTA_EXCEEDED)
        );
        drop(three);
        client.write_all(vec![1]).await.unwrap();
        assert_eq!(two.await.unwrap().0, 1);
        support::until(|| scope.live() == 1).await;
        assert_eq!(scope.bytes(), 600);
        assert_eq!(read(400).await.unwrap().0, 400);
        drop(one);
        support::until(|| scope.live() == 0).await;
        assert_eq!(scope.bytes(), 0);
    });
}
