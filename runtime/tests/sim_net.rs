//! Simulated sockets and pipes: they answer as the kernel's do, and carry what is sent, through
//! filters and whatever goes wrong.

mod support;

use std::fmt::Debug;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::join;
use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::net::{
    TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener, UnixStream, datagram_stack_of,
    stack_of,
};
use overlapped::sim::{FaultPlan, Simulation};
use overlapped::time::{Duration, sleep, timeout};

use support::{Dir, Random, backends, local};

/// What operations came to.
struct Log(Vec<String>);

impl Log {
    fn say<T: Debug>(&mut self, what: &str, result: Result<T, impl Into<io::Error>>) {
        let result = match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => {
                let error = error.into();
                format!("{:?} {:?}", error.raw_os_error(), error.kind())
            }
        };
        self.0.push(format!("{what}: {result}"));
    }
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

fn room() -> Vec<u8> {
    Vec::with_capacity(16)
}

/// Lets what is on its way arrive.
async fn settle() {
    sleep(Duration::from_millis(5)).await;
}

async fn tcp(log: &mut Log) {
    let (a, b) = pair().await;
    log.say("own address", Ok::<_, io::Error>(a.local_addr().unwrap() == b.peer_addr().unwrap()));
    log.say("write", a.write("hello").await);
    log.say("peek", b.peek(room()).await);
    log.say("read", b.read(room()).await);
    log.say("empty write", a.write("").await);
    log.say("empty read", b.read(Vec::new()).await);
    log.say("vectored write", a.write_vectored(vec!["ab", "cd", "e"]).await);
    let rooms = vec![Vec::with_capacity(2), Vec::with_capacity(9)];
    log.say("vectored read", b.read_vectored(rooms).await);

    a.write("last").await.unwrap();
    log.say("half close", a.shutdown(Shutdown::Write).await);
    log.say("write after it", a.write("x").await);
    log.say("read what was sent", b.read(room()).await);
    log.say("read the end", b.read(room()).await);
    log.say("read the end again", b.read(room()).await);
    log.say("the other way", b.write("back").await);
    log.say("arrives", a.read(room()).await);
    log.say("half close again", a.shutdown(Shutdown::Write).await);
    drop(b);
    settle().await;
    log.say("the end of all", a.read(room()).await);
    log.say("shut down what is closed", a.shutdown(Shutdown::Both).await);

    let (a, b) = pair().await;
    drop(b);
    settle().await;
    log.say("first write to what is closed", a.write("x").await);
    settle().await;
    log.say("second write", a.write("x").await.map(|(n, _)| n).map_err(io::Error::from));
    log.say("third write", a.write("x").await);

    let (a, b) = pair().await;
    a.write("unread").await.unwrap();
    settle().await;
    drop(b);
    settle().await;
    log.say("read after a reset", a.read(room()).await);
    log.say("read again", a.read(room()).await);
    log.say("write after a reset", a.write("x").await);
    log.say("peer after a reset", a.peer_addr().map(drop));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    log.say("bound twice", TcpListener::bind(address).await.map(drop));
    let waiting = TcpStream::connect(address).await.unwrap();
    waiting.write("early").await.unwrap();
    let (served, peer) = listener.accept().await.unwrap();
    log.say("peer", Ok::<_, io::Error>(peer == waiting.local_addr().unwrap()));
    log.say("sent before accept", served.read(room()).await);
    log.say("close", listener.close().await);
    log.say("refused", TcpStream::connect(address).await.map(drop));
    log.say("bound again", TcpListener::bind(address).await.map(drop));
}

async fn udp(log: &mut Log) {
    let a = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let b = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (to_a, to_b) = (a.local_addr().unwrap(), b.local_addr().unwrap());
    log.say("send to", a.send_to("hello, you", to_b).await);
    let ((message, from), buf) = b.recv_from(Vec::with_capacity(5)).await.unwrap();
    log.say("cut", Ok::<_, io::Error>((message.len, message.truncated, from == to_a, buf)));
    log.say("empty", a.send_to("", to_b).await);
    let received = b.recv_from(room()).await.map(|((m, _), buf)| (m.len, m.truncated, buf));
    log.say("empty one", received);
    log.say("no peer", a.send("x").await);
    log.say(
        "too long",
        a.send_to(vec![0; 65_508], to_b).await.map(|(n, _)| n).map_err(io::Error::from),
    );
    log.say(
        "largest",
        a.send_to(vec![1; 65_507], to_b).await.map(|(n, _)| n).map_err(io::Error::from),
    );
    let peeked = b.peek_from(room()).await.map(|((m, _), buf)| (m.len, m.truncated, buf));
    log.say("peek", peeked);
    let received = b.recv(Vec::with_capacity(70_000)).await.map(|(m, buf)| (m.len, buf.len()));
    log.say("whole", received);
    log.say("connect", b.connect(to_a).await);
    log.say("peer", b.peer_addr().map(|peer| peer == to_a));
    log.say("send", b.send("to my peer").await);
    log.say("received", a.recv(room()).await.map(|(m, buf)| (m.len, buf)));
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to("not for you", to_b).await.unwrap();
    a.send_to("for you", to_b).await.unwrap();
    log.say("only the peer's", b.recv(room()).await.map(|(m, buf)| (m.len, buf)));
    let segments = a.send_segments_to(vec![7; 25], 10, to_b).await.map(|(n, _)| n);
    log.say("segments", segments.map_err(io::Error::from));
    for _ in 0..3 {
        log.say("segment", b.recv(room()).await.map(|(m, buf)| (m.len, buf)));
    }
    drop(a);
    settle().await;
    log.say("nobody there", b.send("hello?").await);
    settle().await;
    log.say("that was refused", b.send("hello?").await);
    log.say("bound twice", UdpSocket::bind(to_b).await.map(drop));
}

async fn unix(log: &mut Log, root: &Path) {
    let path = root.join("socket");
    log.say("nobody", UnixStream::connect(&path).await.map(drop));
    let listener = UnixListener::bind(&path).unwrap();
    log.say("bound twice", UnixListener::bind(&path).map(drop));
    let (client, server) = join!(UnixStream::connect(&path), listener.accept());
    let (client, (server, peer)) = (client.unwrap(), server.unwrap());
    log.say("unnamed", Ok::<_, io::Error>(peer.is_unnamed()));
    let named = client.peer_addr().unwrap().as_pathname().map(|named| named == path);
    log.say("named", Ok::<_, io::Error>(named));
    log.say("write", client.write("hello").await);
    log.say("read", server.read(room()).await);
    drop(server);
    settle().await;
    log.say("the end", client.read(room()).await);
    log.say("write to nobody", client.write("x").await);
    listener.close().await.unwrap();
    log.say("nobody listens", UnixStream::connect(&path).await.map(drop));
    log.say("its file stays", overlapped::fs::metadata(&path).await.map(|f| f.file_type()));
    log.say("still bound", UnixListener::bind(&path).map(drop));
    overlapped::fs::remove_file(&path).await.unwrap();

    let (a, b) = UnixStream::pair().unwrap();
    a.write("unread").await.unwrap();
    drop(b);
    settle().await;
    log.say("unread at the other end", a.read(room()).await);
    log.say("then the end", a.read(room()).await);

    let (a, b) = UnixDatagram::pair().unwrap();
    log.say("message", a.send("one message").await);
    a.send("and another").await.unwrap();
    let short = b.recv(Vec::with_capacity(3)).await.map(|(m, buf)| (m.truncated, buf));
    log.say("cut", short);
    log.say("next", b.recv(room()).await.map(|(m, buf)| (m.truncated, buf)));
    drop(b);
    settle().await;
    log.say("gone", a.send("x").await);
    log.say("still gone", a.send("x").await);

    let bound = UnixDatagram::bind(&path).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    log.say("send to", other.send_to("hello", &path).await);
    let received = bound.recv_from(room()).await;
    let received = received.map(|((m, from), buf)| (m.len, from.is_unnamed(), buf));
    log.say("from nobody", received);
    log.say("nowhere", other.send_to("x", root.join("none")).await);
    log.say("no peer", other.send("x").await);
    log.say("connect", other.connect(&path).await);
    log.say("send", other.send("peer").await);
    log.say("stream to messages", UnixStream::connect(&path).await.map(drop));
}

async fn pipes(log: &mut Log) {
    let (reader, writer) = overlapped::io::pipe().unwrap();
    log.say("write", writer.write("hello").await);
    log.say("read", reader.read(room()).await);
    drop(writer);
    settle().await;
    log.say("the end", reader.read(room()).await);
    let (reader, writer) = overlapped::io::pipe().unwrap();
    drop(reader);
    settle().await;
    log.say("nobody reads", writer.write("x").await);
}

async fn script(root: &Path) -> Vec<String> {
    let mut log = Log(Vec::new());
    tcp(&mut log).await;
    udp(&mut log).await;
    unix(&mut log, root).await;
    pipes(&mut log).await;
    log.0
}

#[test]
fn they_answer_as_the_kernels_do() {
    let mut real = Vec::new();
    for backend in backends() {
        let dir = Dir::new();
        real.push(local(backend).block_on(script(&dir.path(""))));
    }
    for backends in real.windows(2) {
        assert_eq!(backends[0], backends[1], "io_uring and epoll");
    }
    for seed in 0..20 {
        let (simulated, report) = Simulation::new(seed).run(script(Path::new("/tmp")));
        for (ours, theirs) in simulated.iter().zip(&real[0]) {
            assert_eq!(ours, theirs, "seed {seed}");
        }
        assert_eq!(simulated.len(), real[0].len());
        assert!(report.left.is_nothing(), "{}", report.left);
    }
}

fn filters(which: u64) -> Vec<Arc<dyn Driver>> {
    let pass = |kind| pass(kind);
    let xor = |key| Arc::new(Xor(key)) as Arc<dyn Driver>;
    match which {
        0 => vec![],
        1 => vec![xor(0x55)],
        2 => vec![pass(PassKind::Routine), xor(3), pass(PassKind::Skip), xor(9)],
        _ => vec![pass(PassKind::Unhooked), xor(1), xor(2), xor(4), pass(PassKind::Routine)],
    }
}

/// Sends bytes in pieces of all sizes.
async fn send(stream: &TcpStream, bytes: &[u8], mut random: Random) {
    let mut sent = 0;
    while sent < bytes.len() {
        let piece = bytes[sent..bytes.len().min(sent + 1 + random.below(9000) as usize)].to_vec();
        sent += match random.below(3) {
            0 => stream.write(piece).await.unwrap().0,
            1 => {
                let halves =
                    vec![piece[..piece.len() / 2].to_vec(), piece[piece.len() / 2..].to_vec()];
                stream.write_vectored(halves).await.unwrap().0
            }
            _ => {
                let len = piece.len();
                stream.write_all(piece).await.unwrap();
                len
            }
        };
    }
    stream.shutdown(Shutdown::Write).await.unwrap();
}

/// Receives all of it, by receives of all kinds, many of which are dropped half way.
async fn receive(stream: &TcpStream, mut random: Random) -> Vec<u8> {
    let mut got = Vec::new();
    loop {
        let room = Vec::with_capacity(1 + random.below(9000) as usize);
        let patience = Duration::from_micros(random.below(300));
        let bytes = match random.below(4) {
            0 => stream.read_lease().await.unwrap().to_vec(),
            1 => match timeout(patience, stream.read_lease()).await {
                Ok(lease) => lease.unwrap().to_vec(),
                Err(_) => continue,
            },
            2 => match timeout(patience, stream.read(room)).await {
                Ok(read) => read.unwrap().1,
                Err(_) => continue,
            },
            _ => {
                // Polled once or twice, and dropped.
                let mut read = pin!(stream.read(room));
                let once = poll_fn(|cx| std::task::Poll::Ready(read.as_mut().poll(cx))).await;
                match once {
                    std::task::Poll::Ready(done) => done.unwrap().1,
                    std::task::Poll::Pending => {
                        sleep(patience).await;
                        continue;
                    }
                }
            }
        };
        if bytes.is_empty() {
            return got;
        }
        got.extend(bytes);
    }
}

#[test]
fn what_is_sent_arrives_whole_and_in_order() {
    for seed in 0..40 {
        let ((), report) = Simulation::new(seed).faults(FaultPlan::rough()).run(async move {
            let stack = stack_of(filters(seed % 4)).unwrap();
            let listener = TcpListener::bind_with("10.1.1.1:9", stack.clone()).await.unwrap();
            let (client, server) =
                join!(TcpStream::connect_with("10.1.1.1:9", stack), listener.accept());
            let (client, server) = (client.unwrap(), server.unwrap().0);
            let bytes = Random(seed).bytes(150_000);
            let random = |n: u64| Random(seed * 10 + n);
            let ((), there, (), back) = join!(
                send(&client, &bytes, random(1)),
                receive(&server, random(2)),
                send(&server, &bytes, random(3)),
                receive(&client, random(4))
            );
            assert!(there == bytes && back == bytes, "seed {seed}");
        });
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    }
}

#[test]
fn messages_arrive_whole() {
    for seed in 0..40 {
        let ((), report) = Simulation::new(seed).faults(FaultPlan::rough()).run(async move {
            let stack = datagram_stack_of(filters(seed % 4)).unwrap();
            let a = UdpSocket::bind_with("10.1.1.1:9", stack.clone()).await.unwrap();
            let b = UdpSocket::bind_with("10.1.1.2:9", stack).await.unwrap();
            let mut random = Random(seed);
            let messages: Vec<_> = (0..100)
                .map(|_| {
                    let len = random.below(1200) as usize;
                    random.bytes(len)
                })
                .collect();
            let sending = async {
                for message in &messages {
                    // No room is no loss: it says so.
                    while a.send_to(message.clone(), "10.1.1.2:9".parse().unwrap()).await.is_err() {
                    }
                }
            };
            let receiving = async {
                let mut random = Random(seed + 1);
                let mut got = Vec::new();
                while got.len() < messages.len() {
                    let limit = Duration::from_micros(random.below(400));
                    let receive = b.recv_from(Vec::with_capacity(1500));
                    if let Ok(received) = timeout(limit, receive).await {
                        let ((message, from), buf) = received.unwrap();
                        assert_eq!(from, "10.1.1.1:9".parse().unwrap());
                        assert!(!message.truncated);
                        got.push(buf);
                    }
                }
                got
            };
            let ((), got) = join!(sending, receiving);
            assert!(got == messages, "seed {seed}");
        });
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    }
}

#[test]
fn a_full_backlog_keeps_callers_waiting() {
    let ((), report) = Simulation::new(1).run(async {
        let (reader, writer) = overlapped::io::pipe().unwrap();
        // Whoever sends waits for room.
        let mut big = pin!(writer.write_all(vec![1; 200_000]));
        let first = timeout(Duration::from_secs(60), big.as_mut()).await;
        assert!(first.is_err());
        let (sent, read) = join!(big, reader.read_exact(Vec::with_capacity(200_000)));
        sent.unwrap();
        assert_eq!(read.unwrap().1.len(), 200_000);

        let (a, b) = UnixDatagram::pair().unwrap();
        let mut sent = 0;
        while timeout(Duration::from_secs(1), a.send("x")).await.is_ok() {
            sent += 1;
        }
        assert!(sent > 4);
        let (next, got) = join!(a.send("y"), b.recv(room()));
        next.unwrap();
        got.unwrap();
    });
    assert!(report.left.is_nothing(), "{}", report.left);
}

#[test]
fn connections_that_nobody_takes_are_reset() {
    let ((), report) = Simulation::new(2).faults(FaultPlan::rough()).run(async {
        let listener = TcpListener::bind("[::1]:80").await.unwrap();
        let waiting = TcpStream::connect("[::1]:80").await.unwrap();
        let dropped = listener.accept();
        drop(dropped);
        drop(listener);
        sleep(Duration::from_secs(1)).await;
        let reset = io::Error::from(waiting.read(room()).await.unwrap_err());
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    });
    assert!(report.left.is_nothing(), "{}", report.left);
}

#[test]
fn accepts_that_are_dropped_lose_no_connection() {
    for seed in 0..40 {
        let plan = FaultPlan { pending: 0.7, ..FaultPlan::rough() };
        let ((), report) = Simulation::new(seed).faults(plan).run(async move {
            let listener = TcpListener::bind("10.0.0.1:80").await.unwrap();
            let mut random = Random(seed);
            let clients = overlapped::spawn(async {
                let mut clients = Vec::new();
                for i in 0..50u8 {
                    let client = TcpStream::connect("10.0.0.1:80").await.unwrap();
                    client.write_all(vec![i]).await.unwrap();
                    clients.push(client);
                }
                clients
            });
            let mut seen = [false; 50];
            let mut served = Vec::new();
            while served.len() < 50 {
                let limit = Duration::from_micros(random.below(300));
                if let Ok(accepted) = timeout(limit, listener.accept()).await {
                    let (stream, _) = accepted.unwrap();
                    let (_, buf) = stream.read(vec![0; 1]).await.unwrap();
                    assert!(!std::mem::replace(&mut seen[usize::from(buf[0])], true));
                    served.push(stream);
                }
            }
            drop(clients.await.unwrap());
        });
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    }
}
