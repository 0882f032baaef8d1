//! UDP: messages, addresses, options, segments, batches, filters, and receives that are dropped.

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future;
use overlapped::CompletionPort;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::driver::{Disposition, Driver, Envelope, Irp, Lower, Major, MajorSet};
use overlapped::net::{UdpSocket, datagram_stack_of};
use overlapped::operation::Read;
use overlapped::time::{sleep, timeout};
use support::{alone, both, kind, pattern, poll_once, until, workers};

const HERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(HERE).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Two that are connected with each other.
async fn pair() -> (UdpSocket, UdpSocket) {
    let ((a, a_address), (b, b_address)) = (socket().await, socket().await);
    a.connect(b_address).await.unwrap();
    b.connect(a_address).await.unwrap();
    (a, b)
}

/// Long enough for a request to complete that can.
async fn a_while() {
    sleep(Duration::from_millis(10)).await;
}

#[test]
fn sends_and_receives_with_addresses() {
    both(async |_| {
        for host in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let a = UdpSocket::bind((host, 0)).await.unwrap();
            let b = UdpSocket::bind((host, 0)).await.unwrap();
            let (a_address, b_address) = (a.local_addr().unwrap(), b.local_addr().unwrap());
            // A receive that waits, and one that does not.
            for wait in [true, false] {
                let mut receive = b.recv_from(Vec::with_capacity(99));
                if wait {
                    assert!(poll_once(&mut receive).is_pending());
                }
                assert_eq!(a.send_to("hello", b_address).await.unwrap(), (5, "hello"));
                let ((message, from), buf) = receive.await.unwrap();
                assert_eq!((message.len, from, &buf[..]), (5, a_address, &b"hello"[..]));
                assert!(!message.truncated && message.segment_size.is_none());
            }
            // Boundaries, also of nothing.
            for message in ["one", "", "three"] {
                b.send_to(message, a_address).await.unwrap();
            }
            let ((peeked, from), buf) = a.peek_from(Vec::with_capacity(2)).await.unwrap();
            assert_eq!((peeked.truncated, from, &buf[..]), (true, b_address, &b"on"[..]));
            assert_eq!(a.recv(vec![0; 9]).await.unwrap().1, b"one");
            assert_eq!(a.recv_from(vec![0; 9]).await.unwrap().1, b"");
            let (cut, buf) = a.recv(Vec::with_capacity(3)).await.unwrap();
            assert_eq!((cut.len, cut.truncated, &buf[..]), (3, true, &b"thr"[..]));
            b.send_to("no room", a_address).await.unwrap();
            let (cut, _) = a.recv(Vec::new()).await.unwrap();
            assert_eq!((cut.len, cut.truncated), (0, true));
            assert!(format!("{a:?}").contains("datagram"));
            a.close().await.unwrap();
        }
    });
}

#[test]
fn connected_sockets_and_errors() {
    both(async |_| {
        let (a, b) = pair().await;
        assert_eq!(a.peer_addr().unwrap(), b.local_addr().unwrap());
        a.send("to the peer").await.unwrap();
        assert_eq!(b.peek(vec![0; 20]).await.unwrap().1, b"to the peer");
        assert_eq!(b.recv(vec![0; 20]).await.unwrap().1, b"to the peer");
        // Strangers are not heard.
        let (c, _) = socket().await;
        c.send_to("stranger", b.local_addr().unwrap()).await.unwrap();
        a.send("friend").await.unwrap();
        assert_eq!(b.recv(vec![0; 20]).await.unwrap().1, b"friend");
        let error = c.send("x").await.unwrap_err();
        assert_eq!(error.status().errno(), Some(libc::EDESTADDRREQ));
        // A peer that is gone: the error of the first message is told to who comes next.
        b.close().await.unwrap();
        a.send("x").await.unwrap();
        assert_eq!(kind(a.recv(vec![0; 9]).await), ErrorKind::ConnectionRefused);
        a.send("x").await.unwrap();
        a_while().await;
        assert_eq!(kind(a.send("y").await), ErrorKind::ConnectionRefused);
        // Also when who met it had been dropped.
        let mut dropped = a.recv(vec![0; 9]);
        assert!(poll_once(&mut dropped).is_pending());
        a.send("x").await.unwrap();
        a_while().await;
        drop(dropped);
        assert_eq!(kind(a.recv(vec![0; 9]).await), ErrorKind::ConnectionRefused);
        let error = a.send(vec![0; 70_000]).await.unwrap_err();
        assert_eq!(error.status().errno(), Some(libc::EMSGSIZE));
        assert_eq!(error.into_buf().len(), 70_000);
        assert_eq!(kind(UdpSocket::bind(a.local_addr().unwrap()).await), ErrorKind::AddrInUse);
        let nowhere: &[SocketAddr] = &[];
        assert_eq!(kind(UdpSocket::bind(nowhere).await), ErrorKind::InvalidInput);
        assert_eq!(kind(a.connect(nowhere).await), ErrorKind::InvalidInput);
        let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 9));
        assert_eq!(kind(c.send_to("x", broadcast).await), ErrorKind::PermissionDenied);
        c.options().set_broadcast(true).unwrap();
        assert!(c.options().broadcast().unwrap());
    });
}

#[test]
fn as_a_task_of_a_worker() {
    workers(2, |_| async {
        let ((server, address), (client, _)) = (socket().await, socket().await);
        let echo = overlapped::spawn(async move {
            let mut buf = Vec::with_capacity(2000);
            loop {
                let from;
                ((_, from), buf) = server.recv_from(buf).await.unwrap();
                if buf.is_empty() {
                    return;
                }
                (_, buf) = server.send_to(buf, from).await.unwrap();
            }
        });
        client.connect(address).await.unwrap();
        for size in [1, 100, 1400] {
            client.send(pattern(size)).await.unwrap();
            assert_eq!(client.recv(vec![0; 2000]).await.unwrap().1, pattern(size));
        }
        client.send("").await.unwrap();
        echo.await.unwrap();
    });
}

#[test]
fn multicast() {
    both(async |_| {
        let group = Ipv4Addr::new(239, 255, 71, 13);
        let listener = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        listener.options().join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
        let (sender, _) = socket().await;
        sender.options().set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        sender.options().set_multicast_ttl_v4(0).unwrap();
        let to = SocketAddr::from((group, listener.local_addr().unwrap().port()));
        sender.send_to("to all", to).await.unwrap();
        assert_eq!(listener.recv(vec![0; 9]).await.unwrap().1, b"to all");
        listener.options().leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
        sender.send_to("to nobody", to).await.unwrap();
        let direct = SocketAddr::from((Ipv4Addr::LOCALHOST, to.port()));
        sender.send_to("to you", direct).await.unwrap();
        assert_eq!(listener.recv(vec![0; 9]).await.unwrap().1, b"to you");
        sender.options().set_ttl_v4(7).unwrap();
        assert_eq!(sender.options().ttl_v4().unwrap(), 7);
    });
}

#[test]
fn from_std_and_back() {
    both(async |_| {
        let std = StdSocket::bind(HERE).unwrap();
        std.set_nonblocking(true).unwrap();
        let address = std.local_addr().unwrap();
        let a = UdpSocket::from_std(std).unwrap();
        let (b, _) = socket().await;
        let mut receive = a.recv(vec![0; 9]);
        assert!(poll_once(&mut receive).is_pending(), "waits, where `std`'s would not");
        b.send_to("one", address).await.unwrap();
        assert_eq!(receive.await.unwrap().1, b"one");
        let mut dropped = a.recv(vec![0; 9]);
        assert!(poll_once(&mut dropped).is_pending());
        b.send_to("two", address).await.unwrap();
        a_while().await;
        drop(dropped);
        assert_eq!(kind(a.into_std()), ErrorKind::ResourceBusy);
        let std = b.into_std().unwrap();
        let (a, address) = socket().await;
        std.send_to(b"three", address).unwrap();
        assert_eq!(a.recv(vec![0; 9]).await.unwrap().1, b"three");
    });
}

#[test]
fn segments() {
    both(async |_| {
        let (a, b) = pair().await;
        // 10 datagrams, the last one short, from one buffer.
        let data = pattern(9 * 1000 + 7);
        assert_eq!(a.send_segments(data.clone(), 1000).await.unwrap().0, data.len());
        for part in data.chunks(1000) {
            let (message, buf) = b.recv(Vec::with_capacity(2000)).await.unwrap();
            assert!(buf == part && message.segment_size.is_none());
        }
        // Put together on the way in: one receive, or few, and each says where to cut.
        b.set_gro(true).unwrap();
        let to = b.local_addr().unwrap();
        a.send_segments_to(data.clone(), 1000, to).await.unwrap();
        let (mut together, mut whole) = (false, Vec::new());
        while whole.len() < data.len() {
            let ((message, _), buf) = b.recv_from(Vec::with_capacity(65_536)).await.unwrap();
            match message.segment_size {
                Some(size) => {
                    assert_eq!(size, 1000);
                    together = true;
                }
                None => assert!(message.len <= 1000),
            }
            whole.extend(buf);
        }
        assert!(whole == data && together, "loopback keeps them together");
        // Late ones keep their segment size.
        let mut dropped = b.recv(vec![0; 65_536]);
        assert!(poll_once(&mut dropped).is_pending());
        a.send_segments(data.clone(), 1000).await.unwrap();
        a_while().await;
        drop(dropped);
        let (message, buf) = b.recv(vec![0; 65_536]).await.unwrap();
        assert!(message.segment_size == Some(1000) && buf == data);
        // A socket that comes from elsewhere may have the option already.
        let b = UdpSocket::from_std(b.into_std().unwrap()).unwrap();
        a.send_segments(data.clone(), 1000).await.unwrap();
        let (message, buf) = b.recv(vec![0; 65_536]).await.unwrap();
        assert!(message.segment_size == Some(1000) && buf == data);
        b.set_gro(false).unwrap();
        assert_eq!(kind(a.send_segments(vec![0; 60_000], 100).await), ErrorKind::InvalidInput);
    });
}

#[test]
fn batches() {
    both(async |_| {
        let ((a, _), (b, b_address)) = (socket().await, socket().await);
        let (c, c_address) = socket().await;
        let messages = (0..40u8).map(|i| (vec![i], if i % 2 == 0 { b_address } else { c_address }));
        let sent = a.send_many_to(messages.collect()).await;
        assert!(sent.into_iter().enumerate().all(|(i, one)| one.unwrap() == (1, vec![i as u8])));
        let buffers = || (0..30).map(|_| Vec::with_capacity(9)).collect::<Vec<Vec<u8>>>();
        for (socket, first) in [(&b, 0), (&c, 1)] {
            let mut got = Vec::new();
            while got.len() < 20 {
                let (messages, buffers) = socket.recv_many_from(buffers()).await.unwrap();
                assert!(!messages.is_empty() && buffers.len() == 30);
                for (i, buffer) in buffers.into_iter().enumerate() {
                    assert_eq!(buffer.len(), usize::from(i < messages.len()));
                    got.extend(buffer);
                }
            }
            assert!(got.into_iter().eq((0..20).map(|i| 2 * i + first)));
        }
        // What is refused is told one by one.
        let sent = a.send_many_to(vec![(vec![0; 70_000], b_address), (vec![7], b_address)]).await;
        assert_eq!(sent[0].as_ref().unwrap_err().status().errno(), Some(libc::EMSGSIZE));
        assert_eq!(b.recv(vec![0; 9]).await.unwrap().1, [7]);
        let (none, nothing) = b.recv_many_from(Vec::<Vec<u8>>::new()).await.unwrap();
        assert!(none.is_empty() && nothing.is_empty());
        // A batch while another receive waits; and one that is dropped.
        let mut other = b.recv(vec![0; 9]);
        assert!(poll_once(&mut other).is_pending());
        let mut batch = Box::pin(b.recv_many_from(buffers()));
        assert!(poll_once(&mut batch).is_pending());
        for i in 0..3 {
            a.send_to(vec![i], b_address).await.unwrap();
        }
        a_while().await;
        drop(batch);
        assert_eq!(other.await.unwrap().1, [0]);
        for i in 1..3 {
            assert_eq!(b.recv(vec![0; 9]).await.unwrap().1, [i]);
        }
    });
}

#[test]
fn more_than_one_turn_in_a_batch() {
    both(async |_| {
        let ((a, _), (b, b_address)) = (socket().await, socket().await);
        for i in 0..150u8 {
            a.send_to(vec![i], b_address).await.unwrap();
        }
        let (messages, buffers) = b.recv_many_from(vec![vec![0; 2]; 200]).await.unwrap();
        assert_eq!((messages.len(), buffers.len()), (150, 200));
        assert!(buffers[..150].iter().flatten().copied().eq(0..150));
    });
}

/// Counts, and looks at addresses.
struct Ports(std::sync::Mutex<Vec<u16>>);

impl Driver for Ports {
    fn name(&self) -> &str {
        "ports"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::SendTo])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let envelope = irp.companion::<Envelope>().expect("there is an address");
        let to = envelope.address.as_ref().and_then(|a| a.as_socket()).expect("of a socket");
        self.0.lock().unwrap().push(to.port());
        lower.skip(irp)
    }
}

#[test]
fn filters() {
    both(async |_| {
        let ports = Arc::new(Ports(std::sync::Mutex::default()));
        let stack = datagram_stack_of([
            ports.clone() as Arc<dyn Driver>,
            Arc::new(Xor(0x33)),
            pass(PassKind::Future),
        ])
        .unwrap();
        let filtered = UdpSocket::bind_with(HERE, stack).await.unwrap();
        let address = filtered.local_addr().unwrap();
        let (plain, to) = socket().await;
        let changed = |text: &str| text.bytes().map(|b| b ^ 0x33).collect::<Vec<u8>>();
        filtered.send_to("abc", to).await.unwrap();
        assert_eq!(plain.recv(vec![0; 9]).await.unwrap().1, changed("abc"));
        assert_eq!(*ports.0.lock().unwrap(), [to.port()]);
        plain.send_to(changed("abcdef"), address).await.unwrap();
        let ((message, from), buf) = filtered.recv_from(Vec::with_capacity(3)).await.unwrap();
        assert_eq!((message.truncated, from, &buf[..]), (true, to, &b"abc"[..]));
        filtered.connect(to).await.unwrap();
        filtered.send("x").await.unwrap();
        assert_eq!(plain.recv(vec![0; 9]).await.unwrap().1, changed("x"));
        let batch = vec![("1", to), ("2", to)];
        assert!(filtered.send_many_to(batch).await.iter().all(Result::is_ok));
        for i in ["1", "2"] {
            assert_eq!(plain.recv(vec![0; 9]).await.unwrap().1, changed(i));
            plain.send_to(changed(i), address).await.unwrap();
        }
        let (messages, buffers) = filtered.recv_many_from(vec![vec![0; 9]; 3]).await.unwrap();
        assert_eq!((messages.len(), &buffers[..2]), (2, &[b"1".to_vec(), b"2".to_vec()][..]));
        // What was dropped has been through the filters once.
        let mut dropped = filtered.recv(vec![0; 9]);
        assert!(poll_once(&mut dropped).is_pending());
        plain.send_to(changed("late"), address).await.unwrap();
        a_while().await;
        drop(dropped);
        let ((_, from), buf) = filtered.recv_from(vec![0; 9]).await.unwrap();
        assert_eq!((from, &buf[..]), (to, &b"late"[..]));
    });
}

#[test]
fn a_plain_read_takes_a_message_too() {
    both(async |_| {
        // The operation of streams, built by hand: the same way through the stack.
        let ((a, from), (b, address)) = (socket().await, socket().await);
        a.send_to("abcdef", address).await.unwrap();
        let read = overlapped::Request::new(b.object(), Read::next(Vec::with_capacity(3)));
        assert_eq!(read.await.unwrap(), (3, b"abc".to_vec()));
        // Dropped, its message still has an address for who comes next.
        let mut read = overlapped::Request::new(b.object(), Read::next(Vec::with_capacity(9)));
        assert!(poll_once(&mut read).is_pending());
        a.send_to("next", address).await.unwrap();
        a_while().await;
        drop(read);
        let ((_, found), buf) = b.recv_from(vec![0; 9]).await.unwrap();
        assert_eq!((found, &buf[..]), (from, &b"next"[..]));
    });
}

#[test]
fn no_message_is_lost_doubled_or_out_of_order_when_receives_time_out() {
    both(async |_| {
        let ((a, _), (b, b_address)) = (socket().await, socket().await);
        const COUNT: u32 = 3000;
        let received = std::cell::Cell::new(0);
        let send = async {
            for i in 0..COUNT {
                // UDP drops what finds no room.
                until_yielding(|| i - received.get() < 50).await;
                a.send_to(i.to_ne_bytes().to_vec(), b_address).await.unwrap();
            }
        };
        let receive = async {
            let mut tries = 0u32;
            while received.get() < COUNT {
                tries += 1;
                let got = match tries % 4 {
                    0 => {
                        let mut receive = b.recv_from(Vec::with_capacity(8));
                        match poll_once(&mut receive) {
                            Poll::Ready(got) => Some(vec![got.unwrap().1]),
                            Poll::Pending => None,
                        }
                    }
                    1 => {
                        let buffers = vec![vec![0; 8]; 5];
                        let limit = Duration::from_micros(u64::from(tries % 50));
                        match timeout(limit, b.recv_many_from(buffers)).await {
                            Ok(got) => {
                                let (messages, mut buffers) = got.unwrap();
                                buffers.truncate(messages.len());
                                Some(buffers)
                            }
                            Err(_) => None,
                        }
                    }
                    _ => {
                        let limit = Duration::from_micros(u64::from(tries % 50));
                        let got = timeout(limit, b.recv(Vec::with_capacity(8))).await;
                        got.ok().map(|got| vec![got.unwrap().1])
                    }
                };
                for message in got.into_iter().flatten() {
                    assert_eq!(message, received.get().to_ne_bytes());
                    received.set(received.get() + 1);
                }
                overlapped::yield_now().await;
            }
        };
        future::join(send, receive).await;
    });
}

async fn until_yielding(mut done: impl FnMut() -> bool) {
    while !done() {
        overlapped::yield_now().await;
    }
}

#[test]
fn on_plain_threads_and_ports() {
    alone("on_plain_threads_and_ports", |_| {
        let std = StdSocket::bind(HERE).unwrap();
        let address = std.local_addr().unwrap();
        let socket = UdpSocket::from_std(StdSocket::bind(HERE).unwrap()).unwrap();
        socket.send_to("waited for", address).wait().unwrap();
        let mut buf = [0; 20];
        let (n, from) = std.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..n], from), (&b"waited for"[..], socket.local_addr().unwrap()));
        let port = CompletionPort::new();
        assert!(socket.recv_from(Vec::<u8>::with_capacity(20)).post(&port, 7).is_ok());
        std.send_to(b"posted", from).unwrap();
        let packet = port.remove(None).unwrap();
        assert_eq!(packet.key(), 7);
        type Received = overlapped::net::RecvFrom<SocketAddr, Vec<u8>>;
        let ((_, from), buf) = packet.into_output::<Received>().unwrap();
        assert_eq!((from, &buf[..]), (address, &b"posted"[..]));
    });
}

#[test]
fn closing_ends_what_waits() {
    both(async |_| {
        let (a, _) = socket().await;
        let mut waiting = a.recv_from(vec![0; 9]);
        assert!(poll_once(&mut waiting).is_pending());
        a.object().cancel_requests();
        assert_eq!(support::status(waiting.await), overlapped::Status::CANCELLED);
        let address = a.local_addr().unwrap();
        a.close().await.unwrap();
        let again = UdpSocket::bind(address).await.unwrap();
        until(|| again.local_addr().is_ok()).await;
    });
}
