//! TCP at its edges: peers that end, reset or stall, and addresses that cannot be had.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt, future};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::time::{sleep, timeout};
use overlapped::{Backend, Request, Status, operation};
use support::{alone, both, descriptors, kind, local, pattern, poll_once, status, workers};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
    (client.unwrap(), server.unwrap().0)
}

/// Closes so that the peer gets a reset.
fn reset(stream: TcpStream) {
    stream.options().set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn half_closed_peers() {
    both(async |_| {
        let (a, b) = pair().await;
        a.write(b"last".to_vec()).await.unwrap();
        a.shutdown(Shutdown::Write).await.unwrap();
        assert_eq!(kind(a.write(b"x".to_vec()).await), ErrorKind::BrokenPipe);
        let error = b.read_exact(Vec::with_capacity(9)).await.unwrap_err();
        assert_eq!((error.status(), &error.buf()[..]), (Status::END_OF_FILE, &b"last"[..]));
        for _ in 0..3 {
            assert_eq!(b.read(vec![0; 9]).await.unwrap().0, 0);
            assert_eq!(b.peek(vec![0; 9]).await.unwrap().0, 0);
            assert!(b.read_lease().await.unwrap().is_empty());
            assert_eq!(b.read_vectored(vec![vec![0; 9]]).await.unwrap().0, 0);
        }
        // The other direction works until it is ended too.
        b.write_all(pattern(100_000)).await.unwrap();
        b.shutdown(Shutdown::Both).await.unwrap();
        let ((), all) = a.read_exact(Vec::with_capacity(100_000)).await.unwrap();
        assert!(all == pattern(100_000));
        assert_eq!(a.read(vec![0; 9]).await.unwrap().0, 0);
    });
}

#[test]
fn shutting_down_ends_a_read_that_waits() {
    both(async |_| {
        let (a, b) = pair().await;
        let (read, ()) = future::join(a.read(vec![0; 9]), async {
            sleep(Duration::from_millis(10)).await;
            a.shutdown(Shutdown::Read).await.unwrap();
        })
        .await;
        assert_eq!(read.unwrap().0, 0);
        drop(b);
        // One that is not connected any more says so, or accepts it.
        let _ = a.shutdown(Shutdown::Both).await;
    });
}

#[test]
fn reset_peers() {
    both(async |_| {
        // While a read waits.
        let (a, b) = pair().await;
        let (read, ()) = future::join(a.read(vec![7; 9]), async {
            sleep(Duration::from_millis(10)).await;
            reset(b);
        })
        .await;
        let error = read.unwrap_err();
        assert_eq!(error.status().errno(), Some(libc::ECONNRESET));
        assert_eq!(error.buf(), &[7; 9]);
        assert_eq!(kind::<()>(Err(error)), ErrorKind::ConnectionReset);
        assert_eq!(kind(a.peer_addr()), ErrorKind::NotConnected);
        assert_eq!(kind(a.write(vec![1]).await), ErrorKind::BrokenPipe);
        // While a lease is waited for, while a write is stuck, and before a read.
        let (a, b) = pair().await;
        let (read, ()) = future::join(a.read_lease(), async {
            sleep(Duration::from_millis(10)).await;
            reset(b);
        })
        .await;
        assert_eq!(kind(read), ErrorKind::ConnectionReset);
        let (a, b) = pair().await;
        let (written, ()) = future::join(a.write_all(pattern(32 << 20)), async {
            sleep(Duration::from_millis(10)).await;
            reset(b);
        })
        .await;
        let error = written.unwrap_err();
        assert_eq!(error.buf().len(), 32 << 20);
        let kind_of = kind::<()>(Err(error));
        assert!(matches!(kind_of, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind_of}");
        let (a, b) = pair().await;
        reset(b);
        assert_eq!(kind(a.read_vectored(vec![vec![0; 9]]).await), ErrorKind::ConnectionReset);
        // The traits of futures tell it too.
        let (a, b) = pair().await;
        reset(b);
        let mut a = a.compat();
        assert_eq!(kind(a.read(&mut [0]).await), ErrorKind::ConnectionReset);
        assert!(a.write_all(&pattern(1 << 20)).await.is_err());
    });
}

#[test]
fn stalled_peers_stall_nobody_else() {
    workers(2, |_| async {
        let (a, b) = pair().await;
        let stuck = overlapped::spawn(async move {
            let (_, sent) = a.write_all(pattern(32 << 20)).await.unwrap();
            assert_eq!(sent.len(), 32 << 20);
        });
        for _ in 0..20 {
            let (c, d) = pair().await;
            c.write(b"still here".to_vec()).await.unwrap();
            assert_eq!(d.read(vec![0; 64]).await.unwrap().0, 10);
        }
        assert!(!stuck.is_finished());
        // A deadline on the stalled read of another.
        let (c, _d) = pair().await;
        let read = c.read(vec![0; 9]).deadline(Duration::from_millis(10)).await;
        assert_eq!(status(read), Status::IO_TIMEOUT);
        let ((), all) = b.read_exact(Vec::with_capacity(32 << 20)).await.unwrap();
        assert!(all == pattern(32 << 20));
        stuck.await.unwrap();
    });
}

#[test]
fn slow_readers_get_everything() {
    both(async |_| {
        let (a, b) = pair().await;
        a.options().set_send_buffer_size(16 * 1024).unwrap();
        b.options().set_recv_buffer_size(512 * 1024).unwrap();
        let send = async {
            a.write_all(pattern(1 << 20)).await.unwrap();
            // And in parts of several.
            let mut parts = vec![pattern(100_000), pattern(100_000)];
            let mut left = 200_000;
            while left > 0 {
                let n;
                (n, parts) = a.write_vectored(parts).await.unwrap();
                left -= n;
                let mut skip = n;
                parts.retain_mut(|part| {
                    let drop = skip.min(part.len());
                    part.drain(..drop);
                    skip -= drop;
                    !part.is_empty()
                });
            }
            a.shutdown(Shutdown::Write).await.unwrap();
        };
        let receive = async {
            let (mut all, mut i) = (Vec::new(), 0);
            loop {
                let lease = b.read_lease().await.unwrap();
                if lease.is_empty() {
                    return all;
                }
                all.extend_from_slice(&lease);
                i += 1;
                if i % 64 == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        };
        let ((), all) = future::join(send, receive).await;
        assert!(all == [pattern(1 << 20), pattern(100_000), pattern(100_000)].concat());
    });
}

#[test]
fn addresses_that_cannot_be_had() {
    both(async |_| {
        let taken = TcpListener::bind(HERE).await.unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(kind(TcpListener::bind(address).await), ErrorKind::AddrInUse);
        // The second choice is taken then.
        let second: SocketAddr = HERE.into();
        let listener = TcpListener::bind(&[address, second][..]).await.unwrap();
        assert_ne!(listener.local_addr().unwrap(), address);
        let foreign: SocketAddr = "192.0.2.1:0".parse().unwrap();
        assert_eq!(kind(TcpListener::bind(foreign).await), ErrorKind::AddrNotAvailable);
        // A port that nobody listens on: bound, so that no other test gets it.
        let domain = socket2::Domain::IPV4;
        let dead = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        dead.bind(&second.into()).unwrap();
        let dead = dead.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(kind(TcpStream::connect(dead).await), ErrorKind::ConnectionRefused);
        let v6: SocketAddr = (Ipv6Addr::LOCALHOST, dead.port()).into();
        let error = TcpStream::connect(&[v6, dead][..]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn the_wrong_family_is_named() {
    both(async |_| {
        // An IPv6 address on an IPv4 socket.
        let domain = socket2::Domain::IPV4;
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
        let stream = TcpStream::from_std(socket.into()).unwrap();
        let v6: SocketAddr = (Ipv6Addr::LOCALHOST, 80).into();
        let connect = operation::Connect { address: Box::new(v6.into()) };
        let error = Request::new(stream.object(), connect).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT));
        // Neither connected nor listening.
        assert_eq!(kind(stream.read(vec![0]).await), ErrorKind::NotConnected);
        assert_eq!(kind(stream.shutdown(Shutdown::Both).await), ErrorKind::NotConnected);
        let written = status(stream.write(vec![0]).await).errno();
        assert!(matches!(written, Some(libc::EPIPE | libc::ENOTCONN)), "{written:?}");
        // A file's operations are not a socket's.
        let flush = operation::Flush { data_only: false };
        Request::new(stream.object(), flush).await.unwrap();
        let set = Request::new(stream.object(), operation::SetLength { len: 1 }).await;
        assert_eq!(status(set), Status::INVALID_DEVICE_REQUEST);
        // A connected one cannot be connected again.
        let (a, b) = pair().await;
        let address = b.local_addr().unwrap();
        // Linux takes the first one after a non-blocking connect for a question, and says yes.
        let again = || operation::Connect { address: Box::new(address.into()) };
        let _ = Request::new(a.object(), again()).await;
        let told = Request::new(a.object(), again()).await;
        assert_eq!(status(told).errno(), Some(libc::EISCONN));
        b.write(b"fine".to_vec()).await.unwrap();
        assert_eq!(a.read(vec![0; 9]).await.unwrap().1, b"fine");
        // A stream that does not listen.
        let listener = TcpListener::from_std(std_listener(&a)).unwrap();
        assert_eq!(kind(listener.accept().await), ErrorKind::InvalidInput);
    });
}

/// A descriptor of a connected socket, wrongly called a listener.
fn std_listener(stream: &TcpStream) -> std::net::TcpListener {
    std::os::fd::AsFd::as_fd(stream).try_clone_to_owned().unwrap().into()
}

#[test]
fn closed_streams_refuse_requests() {
    both(async |_| {
        let (a, b) = pair().await;
        // SAFETY: nobody uses the descriptor but through the stream.
        Request::new(a.object(), unsafe { operation::Close::new() }).await.unwrap();
        assert_eq!(b.read(vec![0; 9]).await.unwrap().0, 0);
        let error = a.read(vec![7; 9]).await.unwrap_err();
        assert_eq!((error.status(), &error.buf()[..]), (Status::FILE_CLOSED, &[7; 9][..]));
        assert_eq!(status(a.write(vec![7; 9]).await), Status::FILE_CLOSED);
        assert_eq!(status(a.read_lease().await), Status::FILE_CLOSED);
        assert_eq!(status(a.shutdown(Shutdown::Both).await), Status::FILE_CLOSED);
    });
}

#[test]
fn dropping_a_stream_closes_it_although_requests_are_in_flight() {
    both(async |_| {
        let (a, b) = pair().await;
        let mut read = Box::pin(a.read(vec![0; 9]));
        assert!(timeout(Duration::from_millis(5), &mut read).await.is_err());
        drop(read);
        drop(a);
        assert_eq!(b.read(vec![0; 9]).await.unwrap().0, 0);
        // Shared by a task that reads: closing it ends the read.
        let (a, b) = pair().await;
        let a = Arc::new(a);
        let reader = a.clone();
        let task = overlapped::spawn(async move { reader.read(vec![0; 9]).await.map(|r| r.0) });
        sleep(Duration::from_millis(5)).await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        drop(a);
        assert_eq!(b.read(vec![0; 9]).await.unwrap().0, 0);
    });
}

#[test]
fn descriptors_come_back() {
    alone("descriptors_come_back", |backend: Backend| {
        let runtime = local(backend);
        runtime.block_on(async {
            drop(pair().await);
            sleep(Duration::from_millis(20)).await;
            let before = descriptors();
            for _ in 0..200 {
                let (a, b) = pair().await;
                a.write(b"x".to_vec()).await.unwrap();
                b.read(vec![0]).await.unwrap();
            }
            support::until(|| descriptors() <= before).await;
        });
    });
}

/// T-122a: a listing says which connection a request is on.
#[test]
fn t122a_sockets_are_listed_by_their_addresses() {
    both(async |_| {
        let (a, b) = pair().await;
        let listener = TcpListener::bind(HERE).await.unwrap();
        let (unix, _other) = overlapped::net::UnixStream::pair().unwrap();
        let datagrams = overlapped::net::UdpSocket::bind(HERE).await.unwrap();
        let (mut read, mut accept) = (a.read(vec![0; 9]), listener.accept());
        let (mut local, mut receive) = (unix.read(vec![0; 9]), datagrams.recv_from(vec![0; 9]));
        assert!(poll_once(&mut read).is_pending() && poll_once(&mut accept).is_pending());
        assert!(poll_once(&mut local).is_pending() && poll_once(&mut receive).is_pending());
        let requests = overlapped::live_requests(Duration::ZERO).requests;
        let names = |file: u64| {
            let of_it = requests.iter().filter(move |request| request.file == file);
            of_it.map(|request| request.file_name.clone()).collect::<Vec<_>>()
        };
        let ends = [a.local_addr().unwrap(), b.local_addr().unwrap()];
        assert_eq!(names(a.object().id()), [format!("{} to {}", ends[0], ends[1])]);
        assert_eq!(names(listener.object().id()), [listener.local_addr().unwrap().to_string()]);
        assert_eq!(names(unix.object().id()), ["unnamed to unnamed"]);
        assert_eq!(names(datagrams.object().id()), [datagrams.local_addr().unwrap().to_string()]);
    });
}
