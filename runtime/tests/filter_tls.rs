//! The filter `tls`: what goes through it, who is let through, and what becomes of peers that lie,
//! stall or vanish.

mod support;
#[path = "support/tls.rs"]
mod tls;

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener as StdListener, TcpStream as StdStream};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use futures_util::future::{join, join_all, poll_immediate};
use overlapped::driver::filter::tls::rustls::{self, ProtocolVersion};
use overlapped::driver::filter::tls::{Query, Rekey};
use overlapped::driver::text::Text;
use overlapped::driver::{ChangeError, Driver, Place, Stack, StackError, heap_futures};
use overlapped::net::{
    TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream, datagram_stack_of, stack_of,
};
use overlapped::sim::{FaultPlan, Simulation};
use overlapped::time::{Duration, sleep, timeout};
use overlapped::wait::Event;
use overlapped::{Request, Status, live_requests};
use support::{Random, both, pattern, status, workers};
use tls::Certificates;

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Both ends of a connection: client, server.
async fn pair_of(client: Arc<Stack>, server: Arc<Stack>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind_with(HERE, server).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = join(TcpStream::connect_with(address, client), listener.accept()).await;
    let (client, server) = (client.unwrap(), server.unwrap().0);
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

async fn pair(certificates: &Certificates) -> (TcpStream, TcpStream) {
    pair_of(certificates.client(""), certificates.server("")).await
}

/// Reads so many bytes, in reads of all kinds.
async fn read_all_ways(stream: &TcpStream, len: usize) -> Vec<u8> {
    let (mut got, mut kind) = (Vec::new(), 0);
    while got.len() < len {
        let left = len - got.len();
        let n = match kind % 5 {
            0 => {
                let (n, buf) = stream.read(Vec::with_capacity(left.min(1 << 20))).await.unwrap();
                got.extend_from_slice(&buf);
                n
            }
            1 => {
                let lease = stream.read_lease().await.unwrap();
                got.extend_from_slice(&lease);
                lease.len()
            }
            2 => {
                let bufs = vec![Vec::with_capacity(1), Vec::with_capacity(5000.min(left))];
                let (n, bufs) = stream.read_vectored(bufs).await.unwrap();
                assert!(n <= left || left == 0);
                got.extend(bufs.concat());
                n
            }
            3 => {
                let (n, seen) = stream.peek(Vec::with_capacity(100)).await.unwrap();
                let (m, buf) = stream.read(Vec::with_capacity(n)).await.unwrap();
                assert_eq!(seen[..m], buf, "a peek takes nothing");
                got.extend_from_slice(&buf);
                m
            }
            _ => {
                let (n, buf) = stream.read(vec![0; 17]).await.unwrap();
                got.extend_from_slice(&buf[..n]);
                n
            }
        };
        assert!(n > 0, "the stream has ended after {} bytes", got.len());
        kind += 1;
    }
    got
}

/// Writes the bytes, in writes of all kinds.
async fn write_all_ways(stream: &TcpStream, bytes: &[u8]) {
    let (mut done, mut kind) = (0, 0);
    while done < bytes.len() {
        let rest = &bytes[done..];
        done += match kind % 4 {
            0 => stream.write(rest[..rest.len().min(10)].to_vec()).await.unwrap().0,
            1 => {
                let piece = &rest[..rest.len().min(300_000)];
                stream.write_all(piece.to_vec()).await.unwrap();
                piece.len()
            }
            2 => {
                let pieces = rest[..rest.len().min(100_000)].chunks(1000).map(<[u8]>::to_vec);
                stream.write_vectored(pieces.collect()).await.unwrap().0
            }
            _ => stream.write(rest.to_vec()).await.unwrap().0,
        };
        kind += 1;
    }
}

#[test]
fn bytes_go_both_ways_at_once() {
    let certificates = Certificates::new();
    for version in ["1.2", "1.3"] {
        both(async |_| {
            let more = format!(", min={version}, max={version}");
            let stacks = (certificates.client(&more), certificates.server(&more));
            let (client, server) = pair_of(stacks.0, stacks.1).await;
            let bytes = pattern(2_000_003);
            let ((a, b), ()) = join(
                join(read_all_ways(&client, bytes.len()), read_all_ways(&server, bytes.len())),
                async {
                    let writes = (write_all_ways(&client, &bytes), write_all_ways(&server, &bytes));
                    join(writes.0, writes.1).await;
                },
            )
            .await;
            assert!(a == bytes && b == bytes);
            let peer = Request::new(client.object(), Query::new()).await.unwrap();
            let expected = match version {
                "1.2" => ProtocolVersion::TLSv1_2,
                _ => ProtocolVersion::TLSv1_3,
            };
            assert_eq!(peer.version, Some(expected));
            // Half of it ends, and then the other.
            client.shutdown(Shutdown::Write).await.unwrap();
            assert_eq!(server.read(vec![0; 9]).await.unwrap().0, 0);
            assert!(server.read_lease().await.unwrap().is_empty());
            assert_eq!(status(client.write(vec![1]).await), Status::PIPE_BROKEN);
            server.write_all(b"bye".to_vec()).await.unwrap();
            assert_eq!(client.read(Vec::with_capacity(9)).await.unwrap().1, b"bye");
            drop(server);
            assert_eq!(client.read(vec![0; 9]).await.unwrap().0, 0, "told by close_notify");
        });
    }
}

#[test]
fn on_unix_sockets_and_in_each_other() {
    let certificates = Certificates::new();
    both(async |_| {
        let path = certificates.path("socket");
        let _ = std::fs::remove_file(&path);
        // One TLS inside of another.
        let server =
            "tls(cert=$server.pem, key=$server.key) | tls(cert=$server.pem, key=$server.key)";
        let client = "tls(ca=$root.pem, name=localhost) | tls(ca=$root.pem, name=localhost)";
        let listener = UnixListener::bind_with(&path, certificates.stack(server)).unwrap();
        let client = UnixStream::connect_with(&path, certificates.stack(client));
        let (client, server) = join(client, listener.accept()).await;
        let (client, server) = (client.unwrap(), server.unwrap().0);
        let bytes = pattern(500_000);
        let (sent, got) = join(
            client.write_all(bytes.clone()),
            server.read_exact(Vec::with_capacity(bytes.len())),
        )
        .await;
        sent.unwrap();
        assert!(got.unwrap().1 == bytes);
        client.close().await.unwrap();
        assert_eq!(server.read(vec![0; 9]).await.unwrap().0, 0);
    });
}

/// A read that waits keeps nobody from writing, nor from the handshake; on one side alone and on both.
#[test]
fn reads_that_wait_are_in_nobodys_way() {
    let certificates = Certificates::new();
    workers(2, move |_| {
        let stacks = (certificates.client(""), certificates.server(""));
        async move {
            let (client, server) = pair_of(stacks.0, stacks.1).await;
            let (client, server) = (Arc::new(client), Arc::new(server));
            let reads: Vec<_> = [&client, &server]
                .map(|stream| {
                    let stream = stream.clone();
                    overlapped::spawn(
                        async move { stream.read(Vec::with_capacity(5)).await.unwrap().1 },
                    )
                })
                .into();
            let writes: Vec<_> = [&client, &server]
                .map(|stream| {
                    let stream = stream.clone();
                    overlapped::spawn(
                        async move { stream.write(b"hello".to_vec()).await.unwrap().0 },
                    )
                })
                .into();
            for write in join_all(writes).await {
                assert_eq!(write.unwrap(), 5);
            }
            for read in join_all(reads).await {
                assert_eq!(read.unwrap(), b"hello");
            }
        }
    });
}

#[test]
fn many_connections_and_tasks() {
    let certificates = Certificates::new();
    workers(2, move |_| {
        let stacks = (certificates.client(""), certificates.server(""));
        async move {
            let listener = TcpListener::bind_with(HERE, stacks.1).await.unwrap();
            let address = listener.local_addr().unwrap();
            overlapped::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    overlapped::spawn(async move {
                        loop {
                            let lease = stream.read_lease().await.unwrap();
                            if lease.is_empty() {
                                break;
                            }
                            stream.write_all(lease).await.unwrap();
                        }
                    });
                }
            });
            let clients = (0..40).map(|i| {
                let stack = stacks.0.clone();
                overlapped::spawn(async move {
                    let stream = TcpStream::connect_with(address, stack).await.unwrap();
                    let (read, write) = stream.into_split();
                    let bytes = pattern(50_000 + i * 1000);
                    let sent = bytes.clone();
                    let writing = overlapped::spawn(async move {
                        for piece in sent.chunks(7777) {
                            write.write_all(piece.to_vec()).await.unwrap();
                        }
                        write.shutdown(Shutdown::Write).await.unwrap();
                        write
                    });
                    let (_, got) = read.read_exact(Vec::with_capacity(bytes.len())).await.unwrap();
                    assert!(got == bytes);
                    assert_eq!(read.read(vec![0; 5]).await.unwrap().0, 0);
                    drop(writing.await.unwrap());
                })
            });
            for client in join_all(clients).await {
                client.unwrap();
            }
            // Its futures fit into the pool's chunks.
            assert_eq!(heap_futures(), 0);
        }
    });
}

/// reads that are dropped at any time lose nothing, and nothing comes twice or out of order.
#[test]
fn dropped_reads_lose_nothing() {
    let certificates = Certificates::new();
    workers(2, move |_| {
        let stacks = (certificates.client(""), certificates.server(""));
        async move {
            let (client, server) = pair_of(stacks.0, stacks.1).await;
            let bytes = pattern(1_000_000);
            let sent = bytes.clone();
            let writing = overlapped::spawn(async move {
                for (i, piece) in sent.chunks(9000).enumerate() {
                    server.write_all(piece.to_vec()).await.unwrap();
                    if i % 7 == 0 {
                        sleep(Duration::from_micros(200)).await;
                    }
                }
                server
            });
            let (mut got, mut random, mut dropped) = (Vec::new(), Random(1), 0);
            while got.len() < bytes.len() {
                let mut read =
                    pin!(client.read(Vec::with_capacity(1 + random.below(30_000) as usize)));
                let polls = random.below(4);
                let mut done = None;
                for _ in 0..polls {
                    if let Some(result) = poll_immediate(&mut read).await {
                        done = Some(result);
                        break;
                    }
                    overlapped::yield_now().await;
                }
                match done {
                    Some(result) => got.extend_from_slice(&result.unwrap().1),
                    None if random.below(2) == 0 => got.extend_from_slice(&read.await.unwrap().1),
                    None => dropped += 1,
                }
            }
            assert!(got == bytes);
            assert!(dropped > 0);
            drop(writing.await.unwrap());
        }
    });
}

/// what a read has got, and nobody looked at, is the next one's, also if that waits already; in
/// order, if several were not looked at.
#[test]
fn finished_reads_that_are_dropped_lose_nothing() {
    let certificates = Certificates::new();
    both(async |_| {
        let (client, server) = pair(&certificates).await;
        // The handshake.
        let (written, read) = join(server.write(vec![0]), client.read(vec![0])).await;
        assert_eq!((written.unwrap().0, read.unwrap().0), (1, 1));
        let mut reads: Vec<_> =
            (0..4).map(|_| Box::pin(client.read(Vec::with_capacity(2)))).collect();
        for read in &mut reads {
            assert!(poll_immediate(read).await.is_none());
        }
        server.write_all(b"abcdef".to_vec()).await.unwrap();
        let waiting = || {
            let all = live_requests(Duration::ZERO).requests;
            let id = client.object().id();
            all.iter().filter(|r| r.file == id && r.driver == "tls" && r.state == "held").count()
        };
        while waiting() > 1 {
            sleep(Duration::from_millis(1)).await;
        }
        // Three have two bytes each; the fourth waits below.
        let last = reads.pop().unwrap();
        assert!(!client.object().has_late());
        drop(reads);
        assert!(client.object().has_late(), "they had got something");
        let mut got = last.await.unwrap().1;
        while got.len() < 6 {
            got.extend(client.read(Vec::with_capacity(2)).await.unwrap().1);
        }
        assert_eq!(got, b"abcdef");
    });
}

/// A close ends what waits for a peer that does not read, and does not wait itself.
#[test]
fn a_close_waits_for_nobody() {
    let certificates = Certificates::new();
    both(async |_| {
        for close in [true, false] {
            let (client, server) = pair(&certificates).await;
            let client = Arc::new(client);
            let writer = client.clone();
            let (written, read) = join(client.write(vec![0]), server.read(vec![0])).await;
            assert_eq!((written.unwrap().0, read.unwrap().0), (1, 1));
            let mut write = Box::pin(async move { writer.write_all(vec![7; 50_000_000]).await });
            assert!(timeout(Duration::from_millis(50), &mut write).await.is_err(), "it waits");
            drop(write);
            let client = Arc::into_inner(client).unwrap();
            if close {
                client.close().await.unwrap();
            } else {
                drop(client);
            }
            // What is there is read, and whole.
            let failure = loop {
                match server.read(Vec::with_capacity(1 << 20)).await {
                    // There was room for the end of what had been encrypted already.
                    Ok((0, _)) => break Status::SUCCESS,
                    Ok((_, bytes)) => assert!(bytes.iter().all(|&byte| byte == 7)),
                    Err(error) => break error.status(),
                }
            };
            let reset = Status::from_errno(104);
            let ends = [Status::SUCCESS, Status::TLS_TRUNCATED, reset];
            assert!(ends.contains(&failure), "{failure:?}");
        }
    });
}

/// Bytes that the system has received for a stream.
fn unread(stream: &TcpStream) -> i32 {
    let mut n = 0;
    // SAFETY: the descriptor is the stream's, and the call fills the number.
    assert_eq!(unsafe { libc::ioctl(stream.as_raw_fd(), libc::FIONREAD, &raw mut n) }, 0);
    n
}

/// The tickets that a server sends, and a client never reads, are no reason to reset the connection.
#[test]
fn what_was_written_before_a_close_is_read() {
    let certificates = Certificates::new();
    both(async |_| {
        for close in [true, false] {
            let (client, server) = pair(&certificates).await;
            let (bytes, closed) = (pattern(1_000_000), Event::manual(false));
            let writing = async {
                client.write_all(bytes.clone()).await.unwrap();
                while unread(&client) == 0 {
                    sleep(Duration::from_millis(1)).await;
                }
                if close {
                    client.close().await.unwrap();
                } else {
                    drop(client);
                }
                closed.set();
            };
            let reading = async {
                let first = server.read(Vec::with_capacity(1000)).await.unwrap().1;
                closed.signalled().await;
                let rest = vec![0; bytes.len() - first.len()];
                [first, server.read_exact(rest).await.unwrap().1].concat()
            };
            let ((), got) = join(writing, reading).await;
            assert!(got == bytes);
            assert_eq!(server.read(vec![0]).await.unwrap().0, 0);
        }
    });
}

/// Writes that are dropped have happened or not, in whole pieces; what comes after them is read all the
/// same.
#[test]
fn dropped_writes_break_no_record() {
    let certificates = Certificates::new();
    both(async |_| {
        let (client, server) = pair(&certificates).await;
        // Numbers, each 8 bytes, which the peer does not read at first: so that writes wait.
        let message = |i: u64| i.to_be_bytes().repeat(30_000);
        let mut dropped = 0;
        for i in 0..200 {
            let mut write = Box::pin(client.write_all(message(i)));
            if timeout(Duration::from_millis(if i < 5 { 100 } else { 1 }), &mut write)
                .await
                .is_err()
            {
                dropped += 1;
                if dropped > 5 {
                    break;
                }
            }
        }
        assert!(dropped > 0, "no write waited");
        let last = async {
            client.write_all(vec![0xff; 8]).await.unwrap();
            client.shutdown(Shutdown::Write).await.unwrap();
        };
        let reading = async {
            let mut all = Vec::new();
            loop {
                let lease = server.read_lease().await.unwrap();
                if lease.is_empty() {
                    return all;
                }
                all.extend_from_slice(&lease);
            }
        };
        let ((), all) = join(last, reading).await;
        assert_eq!(all.len() % 8, 0);
        let numbers: Vec<u64> =
            all.chunks(8).map(|chunk| u64::from_be_bytes(chunk.try_into().unwrap())).collect();
        assert!(numbers.is_sorted());
        assert_eq!(numbers.last(), Some(&u64::MAX));
    });
}

#[test]
fn who_is_let_through() {
    let certificates = Certificates::new();
    certificates.issue("expired", "localhost", Some(2001));
    certificates.issue("client", "somebody", None);
    let server = "tls(cert=$server.pem, key=$server.key)";
    let asking = "tls(cert=$server.pem, key=$server.key, client_ca=$root.pem, max=1.2)";
    let client = "tls(ca=$root.pem, name=localhost)";
    let cases = [
        (client, server, Status::SUCCESS, Status::SUCCESS),
        (
            "tls(ca=$root.pem, name=example.org)",
            server,
            Status::CERTIFICATE_WRONG_NAME,
            Status::TLS_ALERT,
        ),
        (
            "tls(ca=$other.pem, name=localhost)",
            server,
            Status::CERTIFICATE_UNTRUSTED,
            Status::TLS_ALERT,
        ),
        (
            client,
            "tls(cert=$expired.pem, key=$expired.key)",
            Status::CERTIFICATE_EXPIRED,
            Status::TLS_ALERT,
        ),
        (client, asking, Status::TLS_ALERT, Status::CERTIFICATE_MISSING),
        (
            "tls(ca=$root.pem, name=localhost, client_cert=$client.pem, client_key=$client.key)",
            asking,
            Status::SUCCESS,
            Status::SUCCESS,
        ),
        (
            "tls(ca=$root.pem, name=localhost, max=1.2)",
            "tls(cert=$server.pem, key=$server.key, min=1.3)",
            Status::TLS_ALERT,
            Status::TLS_INCOMPATIBLE,
        ),
        (
            "tls(ca=$root.pem, name=localhost, alpn=one)",
            "tls(cert=$server.pem, key=$server.key, alpn=two)",
            Status::TLS_ALERT,
            Status::TLS_INCOMPATIBLE,
        ),
    ];
    both(async |_| {
        for (client, server, expected_of_client, expected_of_server) in cases {
            let stacks = (certificates.stack(client), certificates.stack(server));
            let (a, b) = pair_of(stacks.0, stacks.1).await;
            // Both by what they ask, and then by what they read and write.
            let ask = |stream: &TcpStream| {
                let object = stream.object().handle();
                async move { status(Request::new(&object, Query::new()).await) }
            };
            let (of_client, of_server) = join(ask(&a), ask(&b)).await;
            assert_eq!(
                (of_client, of_server),
                (expected_of_client, expected_of_server),
                "{client}"
            );
            let (read, written) = join(b.read(vec![0; 5]), a.write(b"hello".to_vec())).await;
            assert_eq!(status(read), expected_of_server, "{client}");
            assert_eq!(status(written), expected_of_client, "{client}");
        }
    });
}

#[test]
fn what_was_negotiated() {
    let certificates = Certificates::new();
    let log = certificates.path("keys.log");
    let client = certificates.client(&format!(", alpn=h2+http/1.1, keylog={}", log.display()));
    let server = certificates.server(", alpn=http/1.1");
    both(async |_| {
        let _ = std::fs::write(&log, "");
        for resumed in [false, true] {
            let (a, b) = pair_of(client.clone(), server.clone()).await;
            let query = |stream: &TcpStream| {
                let object = stream.object().handle();
                async move { Request::new(&object, Query::new()).await.unwrap() }
            };
            let (of_a, of_b) = join(query(&a), query(&b)).await;
            assert_eq!(of_a.alpn.as_deref(), Some(&b"http/1.1"[..]));
            assert_eq!(of_a.version, Some(ProtocolVersion::TLSv1_3));
            assert_eq!((of_a.version, of_a.cipher_suite), (of_b.version, of_b.cipher_suite));
            // Another run of this test has left a session too.
            assert!(of_a.resumed || !resumed);
            assert_eq!(of_a.resumed, of_b.resumed);
            assert!(!of_a.certificates.is_empty() && of_b.certificates.is_empty());
            // Tickets come with what is read.
            b.write_all(b"x".to_vec()).await.unwrap();
            assert_eq!(a.read(vec![0; 1]).await.unwrap().0, 1);
            let secrets = std::fs::read_to_string(&log).unwrap();
            assert!(secrets.contains("CLIENT_TRAFFIC_SECRET_0 "), "{secrets}");
        }
        // A stream without TLS has no answer.
        let plain = pair_of(certificates.stack("xor"), certificates.stack("xor")).await.0;
        let asked = Request::new(plain.object(), Query::new()).await;
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    });
}

#[test]
fn keys_are_replaced_on_the_way() {
    let certificates = Certificates::new();
    both(async |_| {
        let (client, server) = pair(&certificates).await;
        let bytes = pattern(300_000);
        let writing = async {
            for piece in bytes.chunks(20_000) {
                client.write_all(piece.to_vec()).await.unwrap();
                Request::new(client.object(), Rekey).await.unwrap();
                server.write_all(piece.to_vec()).await.unwrap();
            }
        };
        let reading =
            join(read_all_ways(&client, bytes.len()), read_all_ways(&server, bytes.len()));
        let ((a, b), ()) = join(reading, writing).await;
        assert!(a == bytes && b == bytes);
        let old = pair_of(certificates.client(", max=1.2"), certificates.server("")).await;
        let asked = Request::new(old.0.object(), Rekey);
        let (asked, _) = join(asked, Request::new(old.1.object(), Query::new())).await;
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    });
}

/// A client by other means: `rustls` on a socket of `std`.
fn other_client(
    certificates: &Certificates,
    address: std::net::SocketAddr,
) -> rustls::StreamOwned<rustls::ClientConnection, StdStream> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let root = rustls::pki_types::CertificateDer::from_pem_file(certificates.path("root.pem"));
    roots.add(root.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    rustls::StreamOwned::new(connection, StdStream::connect(address).unwrap())
}

/// Runs `peer` against a stream that is accepted, which `then` gets.
async fn against<F: Future>(
    server: Arc<Stack>,
    peer: impl FnOnce(std::net::SocketAddr) + Send + 'static,
    then: impl FnOnce(TcpStream) -> F,
) -> F::Output {
    let listener = TcpListener::bind_with(HERE, server).await.unwrap();
    let address = listener.local_addr().unwrap();
    let peer = thread::spawn(move || peer(address));
    let result = then(listener.accept().await.unwrap().0).await;
    peer.join().unwrap();
    result
}

#[test]
fn a_stream_that_is_cut_off_has_not_ended() {
    let certificates = Arc::new(Certificates::new());
    both(async |_| {
        for (allow, expected) in
            [("", Status::TLS_TRUNCATED), (", truncation=yes", Status::SUCCESS)]
        {
            let certificates = certificates.clone();
            let server = certificates.server(allow);
            let peer = move |address| {
                let mut stream = other_client(&certificates, address);
                stream.write_all(b"data").unwrap();
                stream.flush().unwrap();
                // No close_notify.
                stream.sock.shutdown(Shutdown::Write).unwrap();
                let mut rest = Vec::new();
                let _ = stream.sock.read_to_end(&mut rest);
            };
            against(server, peer, |stream| async move {
                assert_eq!(stream.read(Vec::with_capacity(9)).await.unwrap().1, b"data");
                for _ in 0..2 {
                    let read = stream.read(Vec::with_capacity(9)).await;
                    assert_eq!(status(read), expected);
                }
                // The other direction is not cut.
                stream.write_all(b"answer".to_vec()).await.unwrap();
            })
            .await;
        }
    });
}

#[test]
fn peers_that_do_not_speak_tls() {
    let certificates = Arc::new(Certificates::new());
    let hello = [0x16, 3, 1, 2, 0, 1];
    let cases: [(&[u8], Status); 5] = [
        (b"GET / HTTP/1.0\r\n\r\n", Status::TLS_PROTOCOL_ERROR),
        (&[0; 100_000], Status::TLS_PROTOCOL_ERROR),
        (&[0x16, 3, 1, 0xff, 0xff, 1], Status::TLS_PROTOCOL_ERROR),
        (&hello, Status::TLS_TRUNCATED),
        (&[], Status::TLS_TRUNCATED),
    ];
    both(async |_| {
        for (bytes, expected) in cases {
            let bytes = bytes.to_vec();
            let peer = move |address| {
                let mut stream = StdStream::connect(address).unwrap();
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            };
            against(certificates.server(""), peer, |stream| async move {
                // Both who read and who write hear of it, again and again.
                let (read, written) = join(stream.read(vec![0; 9]), stream.write(vec![1])).await;
                assert_eq!((status(read), status(written)), (expected, expected));
                assert_eq!(status(stream.read_lease().await), expected);
                assert_eq!(status(stream.write_all(vec![1]).await), expected);
                let _ = stream.shutdown(Shutdown::Write).await;
                stream.close().await.unwrap();
            })
            .await;
        }
    });
}

/// A relay that changes a byte of what the client sends, far behind the handshake.
#[test]
fn a_changed_byte_is_noticed() {
    let certificates = Arc::new(Certificates::new());
    both(async |_| {
        let certificates = certificates.clone();
        let server = certificates.server("");
        let peer = move |address| {
            let relay = StdListener::bind("127.0.0.1:0").unwrap();
            let between = relay.local_addr().unwrap();
            let client = thread::spawn(move || {
                let mut stream = other_client(&certificates, between);
                for _ in 0..20 {
                    if stream.write_all(&[7; 10_000]).and_then(|()| stream.flush()).is_err() {
                        break;
                    }
                }
                let _ = stream.read(&mut [0; 9]);
            });
            let (mut from, mut to) =
                (relay.accept().unwrap().0, StdStream::connect(address).unwrap());
            let (mut back_from, mut back_to) = (to.try_clone().unwrap(), from.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let (mut passed, mut buf) = (0, [0; 4096]);
            while let Ok(n @ 1..) = from.read(&mut buf) {
                if (passed..passed + n).contains(&100_000) {
                    buf[100_000 - passed] ^= 1;
                }
                passed += n;
                if to.write_all(&buf[..n]).is_err() {
                    break;
                }
            }
            drop((from, to));
            client.join().unwrap();
        };
        against(server, peer, |stream| async move {
            let mut got = 0;
            let failure = loop {
                match stream.read(Vec::with_capacity(70_000)).await {
                    Ok((0, _)) => panic!("taken for an end"),
                    Ok((n, buf)) => {
                        assert!(buf.iter().all(|&b| b == 7));
                        got += n;
                    }
                    Err(error) => break error.status(),
                }
            };
            assert_eq!(failure, Status::TLS_PROTOCOL_ERROR);
            assert!((80_000..100_000).contains(&got), "{got}");
        })
        .await;
    });
}

/// In virtual time: a peer that says nothing, or half of something, for longer than the limit.
#[test]
fn a_handshake_that_stalls_ends() {
    let certificates = Certificates::new();
    for (limit, bytes) in [("", 0), (", handshake_ms=5000", 6), (", handshake_ms=5000", 0)] {
        let server = certificates.server(limit);
        let limit = Duration::from_secs(if limit.is_empty() { 30 } else { 5 });
        let (waited, report) = Simulation::new(7).run(async move {
            let listener = TcpListener::bind_with("10.0.0.1:443", server).await.unwrap();
            let client = TcpStream::connect("10.0.0.1:443").await.unwrap();
            client.write_all([0x16, 3, 1, 2, 0, 1][..bytes].to_vec()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let start = overlapped::time::now();
            let (read, written) = join(stream.read(vec![0; 9]), stream.write(vec![1])).await;
            assert_eq!((status(read), status(written)), (Status::IO_TIMEOUT, Status::IO_TIMEOUT));
            let waited = overlapped::time::now() - start;
            stream.close().await.unwrap();
            waited
        });
        assert!(waited >= limit && waited < limit + Duration::from_secs(1), "{waited:?}");
        assert!(report.left.is_nothing(), "{report:?}");
    }
}

/// Whatever comes short, late or in pieces, and whenever requests are cancelled.
#[test]
fn on_a_rough_machine() {
    let certificates = Certificates::new();
    for seed in 0..20 {
        let stacks = (certificates.client(""), certificates.server(""));
        let (_, report) = Simulation::new(seed).faults(FaultPlan::rough()).run(async move {
            let listener = TcpListener::bind_with("10.0.0.1:443", stacks.1).await.unwrap();
            let echo = overlapped::spawn(async move {
                let (stream, _) = listener.accept().await.unwrap();
                loop {
                    let lease = stream.read_lease().await.unwrap();
                    if lease.is_empty() {
                        // A close alone would not wait for room.
                        stream.shutdown(Shutdown::Write).await.unwrap();
                        return stream.close().await.unwrap();
                    }
                    stream.write_all(lease).await.unwrap();
                }
            });
            let stream = TcpStream::connect_with("10.0.0.1:443", stacks.0).await.unwrap();
            let bytes = pattern(200_000);
            let writing = async {
                for piece in bytes.chunks(30_000) {
                    stream.write_all(piece.to_vec()).await.unwrap();
                }
                stream.shutdown(Shutdown::Write).await.unwrap();
            };
            let reading = async {
                let (mut got, mut random) = (Vec::new(), Random(seed + 1));
                while got.len() < bytes.len() {
                    let limit = Duration::from_micros(random.below(3000));
                    let read = stream.read(Vec::with_capacity(1 + random.below(50_000) as usize));
                    if let Ok(read) = timeout(limit, read).await {
                        got.extend_from_slice(&read.unwrap().1);
                    }
                }
                assert!(got == bytes);
                assert_eq!(stream.read(vec![0; 1]).await.unwrap().0, 0);
            };
            join(writing, reading).await;
            echo.await.unwrap();
        });
        assert!(report.left.is_nothing(), "{report:?}");
    }
}

/// It may be put in between two messages, and not taken out again.
#[test]
fn attached_to_an_open_stream() {
    let certificates = Certificates::new();
    let filters = |text: &str| {
        let text = certificates.text(text);
        text.parse::<Text>().unwrap().build().unwrap().filters.remove(0)
    };
    both(async |_| {
        let plain = overlapped::net::stack_of([]).unwrap();
        let (client, server) = pair_of(plain.clone(), plain).await;
        client.write_all(b"STARTTLS".to_vec()).await.unwrap();
        server.read_exact(Vec::with_capacity(8)).await.unwrap();
        let tls = || filters("tls(cert=$server.pem, key=$server.key)");
        {
            let mut read = pin!(server.read(vec![0; 1]));
            assert!(poll_immediate(&mut read).await.is_none());
            let refused = server.object().attach(Place::Top, tls()).map(drop);
            let busy = Status::DEVICE_BUSY;
            assert_eq!(refused, Err(ChangeError::Refused { filter: "tls".into(), status: busy }));
        }
        // The read that was dropped is gone a little later.
        let (attached, change) = loop {
            match server.object().attach(Place::Top, tls()) {
                Ok(done) => break done,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        change.await;
        // Nothing has begun: it may go, and come back.
        server.object().detach(&attached).unwrap().await;
        let (attached, _) = server.object().attach(Place::Top, tls()).unwrap();
        let other = filters("tls(ca=$root.pem, name=localhost)");
        client.object().attach(Place::Top, other).unwrap().1.await;
        let (sent, got) =
            join(client.write_all(b"secret".to_vec()), server.read(Vec::with_capacity(9))).await;
        sent.unwrap();
        assert_eq!(got.unwrap().1, b"secret");
        let refused = server.object().detach(&attached).map(drop);
        let status = Status::INVALID_DEVICE_STATE;
        assert_eq!(refused, Err(ChangeError::Refused { filter: "tls".into(), status }));
    });
}

#[test]
fn texts_that_say_too_little_or_too_much() {
    let certificates = Certificates::new();
    let cases = [
        ("tls", "either cert and key, or ca and name"),
        ("tls(cert=$server.pem, ca=$root.pem)", "either cert and key, or ca and name"),
        ("tls(cert=$server.pem)", "key"),
        ("tls(cert=$nothing.pem, key=$server.key)", "nothing.pem"),
        ("tls(cert=$server.key, key=$server.key)", "no certificate in it"),
        ("tls(cert=$server.pem, key=$server.pem)", "a file that can be used"),
        ("tls(cert=$root.pem, key=$server.key)", "key"),
        ("tls(ca=$root.pem)", "name"),
        ("tls(ca=$root.pem, name=not a name)", "a host's name or IP address"),
        ("tls(ca=$root.pem, name=localhost, min=1.1)", "1.2 or 1.3"),
        ("tls(ca=$root.pem, name=localhost, min=1.3, max=1.2)", "not above max"),
        ("tls(ca=$root.pem, name=localhost, key=$server.key)", "no parameter 'key'"),
        ("tls(ca=$root.pem, name=localhost, keylog=/nowhere/at/all)", "/nowhere/at/all"),
    ];
    for (text, expected) in cases {
        let text = certificates.text(text);
        let error = text.parse::<Text>().unwrap().build().map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// TLS is of streams: it says so when the socket is made, or when it is put on an open one.
#[test]
fn a_filter_of_streams_is_not_put_on_messages() {
    both(async |_| {
        let certificates = Certificates::new();
        let tls = || -> Arc<dyn Driver> {
            let text = certificates.text("tls(ca=$root.pem, name=localhost)");
            text.parse::<Text>().unwrap().build().unwrap().filters.remove(0)
        };
        let refused = datagram_stack_of([tls()]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
        let said = refused.to_string();
        assert!(said.starts_with("the driver 'tls' cannot work on 'datagram'"), "{said}");
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let refused = socket.object().attach(Place::Top, tls()).map(drop).unwrap_err();
        assert!(matches!(refused, ChangeError::Stack(StackError::Refused { .. })), "{refused}");
        assert!(stack_of([tls()]).is_ok());
    });
}
