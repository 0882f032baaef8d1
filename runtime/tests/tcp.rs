//! TCP: every function of `overlapped::net` where all goes well.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, StreamExt, future};
use overlapped::buf::{IoBuf, IoBufMut};
use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::net::{TcpListener, TcpStream, ToSocketAddrs, stack_of};
use support::{both, pattern, status, workers};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Both ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HERE).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = future::join(TcpStream::connect(address), listener.accept()).await;
    let (client, (server, peer)) = (client.unwrap(), server.unwrap());
    assert_eq!(peer, client.local_addr().unwrap());
    (client, server)
}

#[test]
fn connects_reads_and_writes() {
    both(async |_| {
        let (a, b) = pair().await;
        assert_eq!(a.peer_addr().unwrap(), b.local_addr().unwrap());
        assert_eq!(a.write(b"hello".to_vec()).await.unwrap(), (5, b"hello".to_vec()));
        assert_eq!(b.read(Vec::with_capacity(64)).await.unwrap(), (5, b"hello".to_vec()));
        // A read that waits.
        let (read, written) = future::join(a.read(vec![0; 3]), b.write(&b"abcde"[..])).await;
        assert_eq!((read.unwrap().1, written.unwrap().0), (b"abc".to_vec(), 5));
        assert_eq!(a.read(vec![0; 9].into_boxed_slice()).await.unwrap().0, 2);
        // Empty buffers ask for nothing, and wait for nothing.
        assert_eq!(a.read(Vec::new()).await.unwrap().0, 0);
        assert_eq!(a.write(Vec::new()).await.unwrap().0, 0);
        a.write_all(Vec::new()).await.unwrap();
        a.read_exact(Vec::new()).await.unwrap();
        assert!(format!("{a:?}").contains("stream"));
    });
}

#[test]
fn as_a_task_of_a_worker() {
    workers(2, |_| async {
        let (a, b) = pair().await;
        let echo = overlapped::spawn(async move {
            let mut total = 0;
            loop {
                let lease = b.read_lease().await.unwrap();
                if lease.is_empty() {
                    return total;
                }
                total += lease.len();
                b.write_all(lease).await.unwrap();
            }
        });
        for size in [1, 100, 4096, 100_000] {
            let send = a.write_all(pattern(size));
            let (sent, back) = future::join(send, a.read_exact(Vec::with_capacity(size))).await;
            sent.unwrap();
            assert!(back.unwrap().1 == pattern(size));
        }
        a.shutdown(Shutdown::Write).await.unwrap();
        assert_eq!(echo.await.unwrap(), 104_197);
    });
}

#[test]
fn vectored() {
    both(async |_| {
        let (a, b) = pair().await;
        let parts = vec![b"one".to_vec(), Vec::new(), b"three".to_vec()];
        let (n, parts) = a.write_vectored(parts).await.unwrap();
        assert_eq!((n, parts.len()), (8, 3));
        let room = vec![Vec::with_capacity(2), Vec::with_capacity(4), Vec::with_capacity(9)];
        let (n, room) = b.read_vectored(room).await.unwrap();
        assert_eq!(n, 8);
        assert_eq!(room, [b"on".to_vec(), b"ethr".to_vec(), b"ee".to_vec()]);
        let many = vec![vec![1]; 1025];
        let error = a.write_vectored(many.clone()).await.unwrap_err();
        assert_eq!(error.status(), overlapped::Status::INVALID_PARAMETER);
        assert_eq!(error.into_buf(), many);
        assert_eq!(a.write_vectored(many[1..].to_vec()).await.unwrap().0, 1024);
        b.read_exact(Vec::with_capacity(1024)).await.unwrap();
    });
}

#[test]
fn peeking_takes_nothing() {
    both(async |_| {
        let (a, b) = pair().await;
        let (peeked, _) = future::join(b.peek(vec![0; 3]), a.write(b"hello".to_vec())).await;
        assert_eq!(peeked.unwrap().1, b"hel");
        assert_eq!(b.peek(vec![0; 9]).await.unwrap().1, b"hello");
        assert_eq!(b.read(vec![0; 9]).await.unwrap().1, b"hello");
    });
}

#[test]
fn leases() {
    both(async |_| {
        let (a, b) = pair().await;
        let (lease, _) = future::join(b.read_lease(), a.write(b"hello".to_vec())).await;
        let mut lease = lease.unwrap();
        assert_eq!(&lease[..], b"hello");
        lease.advance(1);
        lease.truncate(3);
        assert_eq!(&lease[..], b"ell");
        // Sent as it is, and edited in place.
        lease[0] = b'E';
        let (n, lease) = b.write(lease).await.unwrap();
        assert_eq!((n, lease.slice(1..).into_inner().len()), (3, 3));
        assert_eq!(a.read(vec![0; 9]).await.unwrap().1, b"Ell");
        drop(a);
        assert!(b.read_lease().await.unwrap().is_empty());
        assert!(b.read_lease().await.unwrap().is_empty());
    });
}

#[test]
fn halves() {
    both(async |_| {
        let (a, b) = pair().await;
        let ((a_read, a_write), (b_read, b_write)) = (a.into_split(), b.into_split());
        let send = async {
            a_write.write_all(pattern(200_000)).await.unwrap();
            a_write.shutdown(Shutdown::Write).await.unwrap();
        };
        let receive = async {
            let mut total = 0;
            loop {
                let n = b_read.read(Vec::with_capacity(10_000)).await.unwrap().0;
                if n == 0 {
                    return total;
                }
                total += n;
            }
        };
        assert_eq!(future::join(send, receive).await.1, 200_000);
        // The other direction is still there.
        b_write.write(b"back".to_vec()).await.unwrap();
        assert_eq!(a_read.read(vec![0; 9]).await.unwrap().1, b"back");
        let (a_read, b_write) = a_read.reunite(b_write).unwrap_err();
        let a = a_read.reunite(a_write).unwrap();
        let b = b_read.reunite(b_write).unwrap();
        b.write(b"whole".to_vec()).await.unwrap();
        assert_eq!(a.read(vec![0; 9]).await.unwrap().1, b"whole");
        // Dropping one half ends nothing, dropping both ends the connection.
        let (read, write) = b.into_split();
        drop(read);
        write.write(b"alone".to_vec()).await.unwrap();
        assert_eq!(a.read(vec![0; 9]).await.unwrap().1, b"alone");
        drop(write);
        assert_eq!(a.read(vec![0; 9]).await.unwrap().0, 0);
    });
}

#[test]
fn options() {
    both(async |_| {
        let (a, _b) = pair().await;
        a.set_nodelay(true).unwrap();
        assert!(a.options().tcp_nodelay().unwrap());
        a.options().set_keepalive(true).unwrap();
        assert!(a.options().keepalive().unwrap());
        let listener = TcpListener::bind(HERE).await.unwrap();
        assert!(listener.options().reuse_address().unwrap());
        assert!(listener.as_fd().as_raw_fd() == listener.as_raw_fd() && a.as_raw_fd() >= 0);
        // Nothing is inherited by other programs.
        // SAFETY: the call only looks.
        let flags = unsafe { libc::fcntl(a.as_fd().as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    });
}

#[test]
fn from_std_and_back() {
    for nonblocking in [false, true] {
        both(async |_| {
            let std = StdListener::bind(HERE).unwrap();
            std.set_nonblocking(nonblocking).unwrap();
            let listener = TcpListener::from_std(std).unwrap();
            let address = listener.local_addr().unwrap();
            let client = std::net::TcpStream::connect(address).unwrap();
            client.set_nonblocking(nonblocking).unwrap();
            let client = TcpStream::from_std(client).unwrap();
            let (server, _) = listener.accept().await.unwrap();
            // Waits, also where the socket of `std` would not.
            let (read, _) = future::join(client.read(vec![0; 9]), async {
                overlapped::time::sleep(Duration::from_millis(20)).await;
                server.write(b"hello".to_vec()).await.unwrap();
            })
            .await;
            assert_eq!(read.unwrap().1, b"hello");
            let (mut client, mut server) = (client.into_std().unwrap(), server.into_std().unwrap());
            client.write_all(b"plain").unwrap();
            let mut buf = [0; 5];
            server.read_exact(&mut buf).unwrap();
            assert_eq!(&buf, b"plain");
            let listener = listener.into_std().await.unwrap().0;
            let _client = std::net::TcpStream::connect(address).unwrap();
            listener.accept().unwrap();
        });
    }
}

#[test]
fn with_filters() {
    both(async |_| {
        let xor = || Arc::new(Xor(0x33)) as Arc<dyn Driver>;
        let routine = || pass(PassKind::Routine);
        let stack = stack_of([routine(), xor(), pass(PassKind::Future)]).unwrap();
        let listener = TcpListener::bind_with(HERE, stack.clone()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let plain = TcpStream::connect(address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        plain.write(b"abc".to_vec()).await.unwrap();
        let lease = server.read_lease().await.unwrap();
        assert_eq!(lease[..], [b'a' ^ 0x33, b'b' ^ 0x33, b'c' ^ 0x33]);
        server.write_vectored(vec![vec![0; 2], vec![1; 2]]).await.unwrap();
        assert_eq!(plain.read(vec![9; 9]).await.unwrap().1, [0x33, 0x33, 0x32, 0x32]);
        // The same filter on both sides is none.
        let filtered = TcpStream::connect_with(address, stack.clone()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let send = filtered.write_all(pattern(500_000));
        let (sent, received) =
            future::join(send, server.read_exact(Vec::with_capacity(500_000))).await;
        sent.unwrap();
        assert!(received.unwrap().1 == pattern(500_000));
        let (sent, peeked) =
            future::join(filtered.write(b"look".to_vec()), server.peek(vec![0; 9])).await;
        assert_eq!((sent.unwrap().0, &peeked.unwrap().1[..]), (4, &b"look"[..]));
        let std = std::net::TcpStream::connect(address).unwrap();
        let adopted = TcpStream::from_std_with(std, stack.clone()).unwrap();
        let (server, _) = listener.accept().await.unwrap();
        adopted.write(b"adopted".to_vec()).await.unwrap();
        assert_eq!(server.read(vec![0; 9]).await.unwrap().1, b"adopted");
        let std = StdListener::bind(HERE).unwrap();
        let listener = TcpListener::from_std_with(std, stack).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert_eq!(server.object().stack().devices().len(), 4);
        client.write(vec![0x33]).await.unwrap();
        assert_eq!(server.read(vec![1]).await.unwrap().1, [0]);
    });
}

#[test]
fn names_are_resolved() {
    both(async |_| {
        let listener = TcpListener::bind("localhost:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for name in [format!("localhost:{port}"), listener.local_addr().unwrap().to_string()] {
            let (client, server) =
                future::join(TcpStream::connect(name.as_str()), listener.accept()).await;
            assert_eq!(client.unwrap().peer_addr().unwrap().port(), port);
            server.unwrap();
            TcpStream::connect(name).await.unwrap();
            listener.accept().await.unwrap();
        }
        TcpStream::connect(("localhost", port)).await.unwrap();
        // The first that answers.
        let dead = StdListener::bind(HERE).unwrap().local_addr().unwrap();
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
        if listener.local_addr().unwrap().is_ipv4() {
            TcpStream::connect(&[dead, address][..]).await.unwrap();
        }
        assert_eq!(("127.0.0.1", 7).resolve().await.unwrap(), ["127.0.0.1:7".parse().unwrap()]);
        assert!("no port".resolve().await.is_err());
        assert!("surely.invalid:1".resolve().await.is_err());
        assert_eq!(
            status(TcpStream::connect(&[][..]).await).kind(),
            std::io::ErrorKind::InvalidInput
        );
        assert_eq!(
            status(TcpListener::bind(&[][..]).await).kind(),
            std::io::ErrorKind::InvalidInput
        );
    });
}

#[test]
fn connections_as_a_stream() {
    both(async |_| {
        let listener = TcpListener::bind(HERE).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async {
            let mut clients = Vec::new();
            for _ in 0..300 {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
            clients
        };
        let accept = async {
            let accepted = listener.incoming().take(300);
            accepted.map(|c| c.unwrap().1).collect::<Vec<_>>().await
        };
        let (clients, peers) = future::join(connect, accept).await;
        let ours: Vec<_> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
        assert_eq!(ours, peers);
    });
}

#[test]
fn the_traits_of_futures() {
    both(async |_| {
        let (a, b) = pair().await;
        let (mut a, mut b) = (a.compat(), b.compat());
        let send = async {
            a.write_all(b"line one\nline two\n").await.unwrap();
            a.write_all(&pattern(300_000)).await.unwrap();
            a.flush().await.unwrap();
            a.close().await.unwrap();
        };
        let receive = async {
            let mut line = String::new();
            b.read_line(&mut line).await.unwrap();
            b.read_line(&mut line).await.unwrap();
            assert_eq!(line, "line one\nline two\n");
            let mut rest = Vec::new();
            b.read_to_end(&mut rest).await.unwrap();
            assert!(rest == pattern(300_000));
            assert_eq!(b.read(&mut [0]).await.unwrap(), 0);
        };
        future::join(send, receive).await;
        // The other direction goes on.
        b.write_all(b"back").await.unwrap();
        b.flush().await.unwrap();
        let mut back = [0; 4];
        a.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"back");
    });
}

#[test]
fn buffers_of_every_kind() {
    both(async |_| {
        let (a, b) = pair().await;
        a.write(bytes::Bytes::from_static(b"bytes")).await.unwrap();
        let (_, got) = b.read(bytes::BytesMut::with_capacity(9)).await.unwrap();
        assert_eq!(&got[..], b"bytes");
        a.write(Box::new(*b"array")).await.unwrap();
        let (n, got) = b.read(Box::new([0u8; 5])).await.unwrap();
        assert_eq!((n, &got[..]), (5, &b"array"[..]));
        a.write("text").await.unwrap();
        let (_, got) = b.read(vec![b'.'; 6].slice_mut(1..5)).await.unwrap();
        assert_eq!(&got.into_inner()[..5], b".text");
    });
}
