//! Unix sockets: streams, listeners, datagrams, descriptors passed along.

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt, StreamExt, future};
use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::net::{UnixDatagram, UnixListener, UnixStream, datagram_stack_of, stack_of};
use overlapped::time::{sleep, timeout};
use support::{Dir, alone, both, descriptors, kind, pattern, poll_once, until, workers};

/// Long enough for a request to complete that can.
async fn a_while() {
    sleep(Duration::from_millis(10)).await;
}

/// A name in the abstract namespace that nobody else has.
fn abstract_name() -> SocketAddr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("overlapped-{}-{n}", std::process::id());
    SocketAddr::from_abstract_name(name).unwrap()
}

#[test]
fn streams_by_path_and_by_abstract_name() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("socket");
        let by_path = SocketAddr::from_pathname(&path).unwrap();
        for address in [by_path, abstract_name()] {
            let listener = UnixListener::bind(&address).unwrap();
            let (client, server) =
                future::join(UnixStream::connect(&address), listener.accept()).await;
            let (client, (server, peer)) = (client.unwrap(), server.unwrap());
            assert!(peer.is_unnamed());
            assert!(client.local_addr().unwrap().is_unnamed());
            for found in [client.peer_addr(), listener.local_addr(), server.local_addr()] {
                let found = found.unwrap();
                assert_eq!(found.as_pathname(), address.as_pathname());
                assert_eq!(found.as_abstract_name(), address.as_abstract_name());
            }
            let (read, written) =
                future::join(server.read(vec![0; 9]), client.write("hello")).await;
            assert_eq!((read.unwrap().1, written.unwrap().0), (b"hello".to_vec(), 5));
            for side in [&client, &server] {
                let peer = side.peer_credentials().unwrap();
                assert_eq!(peer.pid, std::process::id() as i32);
                // SAFETY: the calls only look.
                unsafe { assert_eq!((peer.uid, peer.gid), (libc::geteuid(), libc::getegid())) };
            }
            listener.close().await.unwrap();
        }
        assert!(path.exists());
        assert_eq!(kind(UnixListener::bind(&path)), ErrorKind::AddrInUse);
    });
}

#[test]
fn errors_are_the_systems() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("socket");
        assert_eq!(kind(UnixStream::connect(&path).await), ErrorKind::NotFound);
        drop(StdListener::bind(&path).unwrap());
        assert_eq!(kind(UnixStream::connect(&path).await), ErrorKind::ConnectionRefused);
        let nobody = abstract_name();
        assert_eq!(kind(UnixStream::connect(&nobody).await), ErrorKind::ConnectionRefused);
        for bad in ["x".repeat(108), "zero\0byte".to_string()] {
            assert_eq!(kind(UnixStream::connect(&bad).await), ErrorKind::InvalidInput);
            assert_eq!(kind(UnixListener::bind(&bad)), ErrorKind::InvalidInput);
        }
        assert_eq!(kind(UnixListener::bind(dir.path("no/socket"))), ErrorKind::NotFound);
        let (a, b) = UnixStream::pair().unwrap();
        b.write("left over").await.unwrap();
        drop(b);
        assert_eq!(a.read(vec![0; 20]).await.unwrap().1, b"left over");
        assert_eq!(a.read(vec![0; 20]).await.unwrap().0, 0);
        until(|| a.options().peer_addr().is_ok()).await;
        assert_eq!(kind(a.write("x").await), ErrorKind::BrokenPipe);
        a.close().await.unwrap();
    });
}

#[test]
fn a_stream_does_what_a_tcp_stream_does() {
    workers(2, |_| async {
        let (a, b) = UnixStream::pair().unwrap();
        assert!(a.local_addr().unwrap().is_unnamed() && a.peer_addr().unwrap().is_unnamed());
        let (read, write) = a.into_split();
        let echo = overlapped::spawn(async move {
            loop {
                let lease = b.read_lease().await.unwrap();
                if lease.is_empty() {
                    return;
                }
                b.write_all(lease).await.unwrap();
            }
        });
        let (sent, back) = future::join(
            write.write_all(pattern(300_000)),
            read.read_exact(Vec::with_capacity(300_000)),
        )
        .await;
        sent.unwrap();
        assert!(back.unwrap().1 == pattern(300_000));
        write.write_vectored(vec!["one", "two"]).await.unwrap();
        assert_eq!(read.peek(vec![0; 3]).await.unwrap().1, b"one");
        let room = vec![Vec::with_capacity(2), Vec::with_capacity(9)];
        assert_eq!(read.read_vectored(room).await.unwrap().1, [b"on".to_vec(), b"etwo".to_vec()]);
        write.shutdown(Shutdown::Write).await.unwrap();
        echo.await.unwrap();
        assert_eq!(read.reunite(write).unwrap().read(vec![0; 9]).await.unwrap().0, 0);
    });
}

#[test]
fn futures_traits_std_and_incoming() {
    both(async |_| {
        let address = abstract_name();
        let listener = StdListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let mut std = StdStream::connect_addr(&address).unwrap();
        let mut incoming = listener.incoming();
        let (server, _) = incoming.next().await.unwrap().unwrap();
        let mut server = server.compat();
        server.write_all(b"compat").await.unwrap();
        server.flush().await.unwrap();
        let mut buf = [0; 6];
        std.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"compat");
        std.write_all(b"back").unwrap();
        let mut buf = [0; 4];
        server.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"back");
        server.close().await.unwrap();
        let client = UnixStream::from_std(std).unwrap();
        assert_eq!(client.read(vec![0; 9]).await.unwrap().0, 0);
        let mut std = client.into_std().unwrap();
        assert_eq!(std.read(&mut buf).unwrap(), 0);
        drop(incoming);
        let mut accept = listener.accept();
        assert!(poll_once(&mut accept).is_pending());
        let _waits = StdStream::connect_addr(&address).unwrap();
        a_while().await;
        drop(accept);
        let (std, ready) = listener.into_std().await.unwrap();
        if ready.is_empty() {
            std.accept().unwrap();
        }
        assert!(ready.len() <= 1);
        // What came for a read that was dropped would be lost to `std`.
        let (a, b) = UnixStream::pair().unwrap();
        let mut read = a.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        b.write("late").await.unwrap();
        a_while().await;
        drop(read);
        assert_eq!(kind(a.into_std()), ErrorKind::ResourceBusy);
    });
}

#[test]
fn a_dropped_accept_loses_no_connection() {
    both(async |_| {
        let address = abstract_name();
        let listener = UnixListener::bind(&address).unwrap();
        for i in 0..20u8 {
            let mut accept = listener.accept();
            assert!(poll_once(&mut accept).is_pending());
            let client = UnixStream::connect(&address).await.unwrap();
            client.write(vec![i]).await.unwrap();
            drop(accept);
            let (server, _) = listener.accept().await.unwrap();
            assert_eq!(server.read(vec![0; 9]).await.unwrap().1, [i]);
        }
    });
}

#[test]
fn filters_on_streams_and_datagrams() {
    both(async |_| {
        let filters = || [Arc::new(Xor(0x5A)) as Arc<dyn Driver>, pass(PassKind::Future)];
        let address = abstract_name();
        let listener = UnixListener::bind_with(&address, stack_of(filters()).unwrap()).unwrap();
        let plain = UnixStream::connect(&address).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.write("abc").await.unwrap();
        let changed: Vec<u8> = b"abc".iter().map(|b| b ^ 0x5A).collect();
        assert_eq!(plain.read(vec![0; 9]).await.unwrap().1, changed);
        plain.write(changed.clone()).await.unwrap();
        assert_eq!(server.read(vec![0; 9]).await.unwrap().1, b"abc");

        let stack = datagram_stack_of(filters()).unwrap();
        let (a, b) = (abstract_name(), abstract_name());
        let filtered = UnixDatagram::bind_with(&a, stack).unwrap();
        let plain = UnixDatagram::bind(&b).unwrap();
        filtered.send_to("abc", &b).await.unwrap();
        assert_eq!(plain.recv(vec![0; 9]).await.unwrap().1, changed);
        for _ in 0..2 {
            plain.send_to(changed.clone(), &a).await.unwrap();
        }
        assert_eq!(filtered.recv_from(vec![0; 9]).await.unwrap().1, b"abc");
        // A warning is no success to a completion routine (I-23), and data all the same (0.1).
        let (message, buf) = filtered.recv(Vec::with_capacity(2)).await.unwrap();
        assert!(message.truncated);
        assert_eq!(buf, b"ab");
        // Late data has been through the filters once.
        let mut first = filtered.recv(vec![0; 9]);
        assert!(poll_once(&mut first).is_pending());
        plain.send_to(changed.clone(), &a).await.unwrap();
        a_while().await;
        drop(first);
        assert_eq!(filtered.recv(vec![0; 9]).await.unwrap().1, b"abc");
    });
}

#[test]
fn datagrams_keep_their_boundaries() {
    both(async |_| {
        let dir = Dir::new();
        let (a_path, b_path) = (dir.path("a"), dir.path("b"));
        let a = UnixDatagram::bind(&a_path).unwrap();
        let b = UnixDatagram::bind(&b_path).unwrap();
        for message in ["one", "", "three"] {
            assert_eq!(a.send_to(message, &b_path).await.unwrap().0, message.len());
        }
        let (peeked, buf) = b.peek(Vec::with_capacity(2)).await.unwrap();
        assert!(peeked.truncated && buf == b"on");
        let ((message, from), buf) = b.peek_from(Vec::with_capacity(9)).await.unwrap();
        assert_eq!((message.len, message.truncated, &buf[..]), (3, false, &b"one"[..]));
        assert_eq!(from.as_pathname(), Some(&*a_path));
        assert_eq!(b.recv_from(vec![0; 9]).await.unwrap().1, b"one");
        let ((message, _), buf) = b.recv_from(vec![0; 9]).await.unwrap();
        assert_eq!((message.len, buf.len()), (0, 0), "an empty message is a message");
        let (message, buf) = b.recv(Vec::with_capacity(4)).await.unwrap();
        assert_eq!((message.len, message.truncated, &buf[..]), (4, true, &b"thre"[..]));
        // An empty buffer takes a message too, unlike from a stream.
        a.send_to("gone", &b_path).await.unwrap();
        let (message, _) = b.recv(Vec::new()).await.unwrap();
        assert_eq!((message.len, message.truncated), (0, true));
        // Someone without an address.
        let nobody = UnixDatagram::unbound().unwrap();
        nobody.connect(&b_path).await.unwrap();
        assert_eq!(nobody.peer_addr().unwrap().as_pathname(), Some(&*b_path));
        nobody.send("from nobody").await.unwrap();
        let ((_, from), buf) = b.recv_from(vec![0; 20]).await.unwrap();
        assert!(from.is_unnamed() && buf == b"from nobody");
        // Errors.
        assert_eq!(kind(nobody.send(vec![0; 8 << 20]).await), kind_of(libc::EMSGSIZE));
        assert_eq!(kind(a.send("x").await), ErrorKind::NotConnected);
        assert_eq!(kind(a.send_to("x", dir.path("none")).await), ErrorKind::NotFound);
        assert_eq!(kind(a.send_to("x", "zero\0byte").await), ErrorKind::InvalidInput);
        drop(b);
        until(|| true).await;
        assert_eq!(kind(nobody.send("x").await), ErrorKind::ConnectionRefused);
        let (a, b) = UnixDatagram::pair().unwrap();
        assert_eq!(a.peer_credentials().unwrap().pid, std::process::id() as i32);
        a.shutdown(Shutdown::Write).await.unwrap();
        assert_eq!(kind(a.send("x").await), ErrorKind::BrokenPipe);
        b.send("y").await.unwrap();
        let a = UnixDatagram::from_std(a.into_std().unwrap()).unwrap();
        assert_eq!(a.recv(vec![0; 9]).await.unwrap().1, b"y");
        b.close().await.unwrap();
    });
}

fn kind_of(errno: i32) -> ErrorKind {
    std::io::Error::from_raw_os_error(errno).kind()
}

#[test]
fn a_message_for_a_dropped_receive_is_the_next_ones_whole() {
    both(async |_| {
        let (a_name, b_name) = (abstract_name(), abstract_name());
        let a = UnixDatagram::bind(&a_name).unwrap();
        let b = UnixDatagram::bind(&b_name).unwrap();
        for _ in 0..20 {
            // Complete and not looked at; another waits.
            let mut first = b.recv(vec![0; 9]);
            assert!(poll_once(&mut first).is_pending());
            a.send_to("first", &b_name).await.unwrap();
            a.send_to("second", &b_name).await.unwrap();
            a_while().await;
            let mut peek = b.peek_from(vec![0; 9]);
            let _ = poll_once(&mut peek);
            drop((first, peek));
            let ((peeked, from), buf) = b.peek_from(Vec::with_capacity(2)).await.unwrap();
            assert!(peeked.truncated && buf == b"fi");
            assert_eq!(from.as_abstract_name(), a_name.as_abstract_name());
            let ((message, from), buf) = b.recv_from(Vec::with_capacity(3)).await.unwrap();
            assert!(message.truncated && buf == b"fir", "cut as the system cuts");
            assert_eq!(from.as_abstract_name(), a_name.as_abstract_name());
            assert_eq!(b.recv(vec![0; 9]).await.unwrap().1, b"second", "the rest is gone");
            // An empty one.
            let mut empty = b.recv_from(vec![0; 9]);
            assert!(poll_once(&mut empty).is_pending());
            a.send_to("", &b_name).await.unwrap();
            a_while().await;
            drop(empty);
            assert_eq!(b.recv(vec![0; 9]).await.unwrap().0.len, 0);
        }
    });
}

#[test]
fn no_message_is_lost_or_out_of_order_when_receives_time_out() {
    both(async |_| {
        let (a, b) = UnixDatagram::pair().unwrap();
        const COUNT: u32 = 3000;
        let send = async {
            for i in 0..COUNT {
                a.send(i.to_ne_bytes().to_vec()).await.unwrap();
                if i % 7 == 0 {
                    overlapped::yield_now().await;
                }
            }
        };
        let receive = async {
            let (mut next, mut dropped) = (0, 0u32);
            while next < COUNT {
                // Every other receive is given up at once, whatever has become of it.
                let limit = Duration::from_micros(u64::from(next % 3) * 20);
                let got = if dropped % 2 == 0 {
                    let mut receive = b.recv(Vec::with_capacity(8));
                    match poll_once(&mut receive) {
                        std::task::Poll::Ready(got) => Some(got),
                        _ => None,
                    }
                } else {
                    timeout(limit, b.recv(Vec::with_capacity(8))).await.ok()
                };
                match got {
                    Some(got) => {
                        assert_eq!(got.unwrap().1, next.to_ne_bytes());
                        next += 1;
                        dropped += next % 2;
                    }
                    None => {
                        dropped += 1;
                        overlapped::yield_now().await;
                    }
                }
            }
        };
        future::join(send, receive).await;
    });
}

fn a_file(dir: &Dir, contents: &str) -> OwnedFd {
    File::open(dir.file("passed", contents)).unwrap().into()
}

fn read_all(descriptor: OwnedFd) -> String {
    // SAFETY: the call only looks.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    let mut text = String::new();
    File::from(descriptor).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn descriptors_are_passed() {
    both(async |_| {
        let dir = Dir::new();
        let (a, b) = UnixStream::pair().unwrap();
        let (n, (_, kept)) =
            a.write_with_descriptors("with", vec![a_file(&dir, "contents")]).await.unwrap();
        assert_eq!((n, kept.len()), (4, 1), "they stay open here");
        let (message, buf) = b.read_with_descriptors(vec![0; 9], 4).await.unwrap();
        assert_eq!((message.len, &buf[..]), (4, &b"with"[..]));
        assert!(!message.descriptors_lost);
        let [descriptor] = <[OwnedFd; 1]>::try_from(message.descriptors).unwrap();
        assert_eq!(read_all(descriptor), "contents");
        // The other way, and while the receive waits.
        let (received, sent) = future::join(
            a.read_with_descriptors(vec![0; 9], 1),
            b.write_with_descriptors("x", vec![a_file(&dir, "1"), a_file(&dir, "2")]),
        )
        .await;
        sent.unwrap();
        let message = received.unwrap().0;
        assert!(message.descriptors_lost, "there was room for fewer");
        assert_eq!(message.descriptors.len(), 1);
        // Nothing but bytes, and nothing but descriptors.
        b.write("plain").await.unwrap();
        let (message, _) = a.read_with_descriptors(vec![0; 9], 1).await.unwrap();
        assert!(message.descriptors.is_empty() && !message.descriptors_lost);
        let error = a.write_with_descriptors("", vec![a_file(&dir, "3")]).await.unwrap_err();
        assert_eq!(error.into_buf().1.len(), 1);

        let (a, b) = UnixDatagram::pair().unwrap();
        a.send_with_descriptors("", vec![a_file(&dir, "datagram")]).await.unwrap();
        let (message, _) = b.recv_with_descriptors(Vec::new(), 9).await.unwrap();
        assert_eq!((message.len, message.truncated), (0, false));
        assert_eq!(read_all(message.descriptors.into_iter().next().unwrap()), "datagram");
        let many: Vec<_> = (0..254).map(|_| a_file(&dir, "")).collect();
        assert_eq!(kind(a.send_with_descriptors("x", many).await), ErrorKind::InvalidInput);
    });
}

#[test]
fn no_descriptor_leaks_whatever_is_dropped() {
    alone("no_descriptor_leaks_whatever_is_dropped", |backend| {
        support::local(backend).block_on(async {
            let dir = Dir::new();
            let pass = a_file(&dir, "contents");
            let one = || vec![pass.try_clone().unwrap()];
            let (a, b) = UnixStream::pair().unwrap();
            let (c, d) = UnixDatagram::pair().unwrap();
            // The backend's own descriptors are open by now.
            a.write("x").await.unwrap();
            b.read(vec![0; 1]).await.unwrap();
            let before = descriptors();
            for round in 0..30 {
                // A receive that does not want them: plain, pooled, of a message.
                a.write_with_descriptors("x", one()).await.unwrap();
                a_while_if(round % 2 == 0).await;
                if round % 3 == 0 {
                    b.read(vec![0; 1]).await.unwrap();
                } else {
                    b.read_lease().await.unwrap();
                }
                c.send_with_descriptors("x", one()).await.unwrap();
                d.recv(vec![0; 1]).await.unwrap();
                assert_eq!(descriptors(), before);
                // One that wants them is dropped with them in it; the next one has them.
                let mut dropped = b.read_with_descriptors(vec![0; 1], 1);
                assert!(poll_once(&mut dropped).is_pending());
                a.write_with_descriptors("yz", one()).await.unwrap();
                a_while_if(round % 2 == 0).await;
                drop(dropped);
                let (message, _) = b.read_with_descriptors(vec![0; 1], 1).await.unwrap();
                let late = message.descriptors;
                assert_eq!(late.len(), 1, "the first byte's");
                drop(late);
                let (message, _) = b.read_with_descriptors(vec![0; 1], 1).await.unwrap();
                assert!(message.descriptors.is_empty(), "they came once");
                // Or the next one does not want them.
                let mut dropped = d.recv_with_descriptors(vec![0; 1], 1);
                assert!(poll_once(&mut dropped).is_pending());
                c.send_with_descriptors("x", one()).await.unwrap();
                a_while_if(round % 2 == 0).await;
                drop(dropped);
                assert!(d.recv(vec![0; 1]).await.unwrap().0.descriptors.is_empty());
                assert_eq!(descriptors(), before);
            }
            // Left behind in the socket and in a result that nobody took.
            let (e, f) = UnixDatagram::pair().unwrap();
            let mut dropped = f.recv_with_descriptors(vec![0; 1], 1);
            assert!(poll_once(&mut dropped).is_pending());
            e.send_with_descriptors("x", one()).await.unwrap();
            e.send_with_descriptors("x", one()).await.unwrap();
            a_while_if(true).await;
            drop(dropped);
            drop((e, f));
            until(|| descriptors() == before).await;
        });
    });
}

async fn a_while_if(condition: bool) {
    if condition {
        a_while().await;
    }
}

#[test]
fn a_full_descriptor_table_is_told() {
    alone("a_full_descriptor_table_is_told", |backend| {
        support::local(backend).block_on(async {
            let dir = Dir::new();
            let (a, b) = UnixStream::pair().unwrap();
            let pass = vec![a_file(&dir, "1"), a_file(&dir, "2")];
            a.write_with_descriptors("x", pass).await.unwrap();
            let mut hoard = Vec::new();
            // SAFETY: plain numbers; only this process is limited.
            unsafe {
                let limit = libc::rlimit { rlim_cur: 100, rlim_max: 100 };
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
            }
            while let Ok(file) = File::open("/dev/null") {
                hoard.push(file);
            }
            assert!(kind(UnixStream::pair()) != ErrorKind::NotFound);
            hoard.pop();
            let (message, buf) = b.read_with_descriptors(vec![0; 1], 2).await.unwrap();
            assert_eq!((message.len, &buf[..]), (1, &b"x"[..]));
            assert!(message.descriptors_lost);
            assert_eq!(message.descriptors.len(), 1, "what fitted");
        });
    });
}

#[test]
fn closing_ends_what_waits() {
    both(async |_| {
        let (a, b) = UnixDatagram::pair().unwrap();
        let mut waiting = a.recv_from(vec![0; 9]);
        assert!(poll_once(&mut waiting).is_pending());
        a.object().cancel_requests();
        assert_eq!(support::status(waiting.await), overlapped::Status::CANCELLED);
        a.close().await.unwrap();
        assert_eq!(kind(b.send("x").await), ErrorKind::ConnectionRefused);
    });
}
