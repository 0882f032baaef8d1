//! Sockets: data, connections, readiness.

use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn data_that_is_there_and_data_that_comes() {
    let mut rig = Rig::new();
    let (a, mut b) = tcp_pair();
    let fd = a.as_raw_fd();
    let mut buf = [0u8; 16];
    assert_eq!(rig.start(1, send(fd, b"ping", 0)), Some(4));
    b.read_exact(&mut buf[..4]).unwrap();
    assert_eq!(rig.start(2, recv(fd, &mut buf)), None);
    assert_eq!(rig.turn(Wait::No), 0);
    b.write_all(b"pong!").unwrap();
    assert_eq!(rig.one(), (2, 5));
    assert_eq!(&buf[..5], b"pong!");
    // Full: there may be more.
    b.write_all(b"pingpong").unwrap();
    assert_eq!(rig.run(recv(fd, &mut buf[..4])), 4);
    assert_eq!(rig.start(3, recv(fd, &mut buf)), Some(4));
    // Again and again, by one registration.
    for n in 10..200 {
        assert_eq!(rig.start(n, recv(fd, &mut buf)), None);
        b.write_all(b"again").unwrap();
        assert_eq!(rig.one(), (n, 5));
    }
    assert_eq!(rig.start(4, recv(fd, &mut buf)), None);
    drop(b);
    assert_eq!(rig.one(), (4, 0), "the end");
    assert_eq!(rig.hal.in_flight(), 0);
}

/// A socket that has been emptied is not asked again before there is news of it.
#[test]
fn a_short_receive_saves_the_call_that_would_find_nothing() {
    let mut rig = Rig::new();
    let (a, mut b) = tcp_pair();
    let fd = a.as_raw_fd();
    let mut buf = [0u8; 16];
    assert_eq!(rig.start(1, recv(fd, &mut buf)), None);
    b.write_all(b"ping").unwrap();
    assert_eq!(rig.one(), (1, 4));
    b.write_all(b"pong").unwrap();
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(rig.start(2, recv(fd, &mut buf)), None, "nobody has asked");
    assert_eq!(rig.one(), (2, 4));
    // A look takes nothing, and so says nothing of what is left.
    b.write_all(b"ping").unwrap();
    let look = Op::Recv { fd, buf: buf.as_mut_ptr(), len: 16, flags: libc::MSG_PEEK };
    assert_eq!(rig.run(look), 4);
    assert_eq!(rig.run(look), 4);
    assert_eq!(rig.run(recv(fd, &mut buf)), 4);
}

/// What ends a stream, in one event with its last bytes, is not missed.
#[test]
fn the_end_beside_the_last_bytes() {
    for reset in [false, true] {
        let mut rig = Rig::new();
        let (a, mut b) = tcp_pair();
        let fd = a.as_raw_fd();
        let mut buf = [0u8; 16];
        assert_eq!(rig.start(1, recv(fd, &mut buf)), None);
        b.write_all(b"last").unwrap();
        if reset {
            socket2::SockRef::from(&b).set_linger(Some(Duration::ZERO)).unwrap();
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(rig.one(), (1, 4));
            drop(b);
            assert_eq!(rig.run(recv(fd, &mut buf)), -libc::ECONNRESET);
        } else {
            drop(b);
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(rig.one(), (1, 4));
        }
        assert_eq!(rig.run(recv(fd, &mut buf)), 0);
    }
}

/// A receive stops at the urgent mark, however much is behind it.
#[test]
fn an_urgent_byte_hides_nothing() {
    let mut rig = Rig::new();
    let (a, mut b) = tcp_pair();
    let fd = a.as_raw_fd();
    let mut buf = [0u8; 16];
    assert_eq!(rig.start(1, recv(fd, &mut buf)), None);
    b.write_all(b"before").unwrap();
    socket2::SockRef::from(&b).send_out_of_band(b"!").unwrap();
    b.write_all(b"behind").unwrap();
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(rig.one(), (1, 6));
    assert_eq!(rig.run(recv(fd, &mut buf)), 6);
    assert_eq!(&buf[..6], b"behind");
}

/// Bytes that came with descriptors end a receive on a Unix socket.
#[test]
fn unix_sockets_are_always_asked() {
    let mut rig = Rig::new();
    let (a, b) = UnixStream::pair().unwrap();
    let fd = a.as_raw_fd();
    let mut buf = [0u8; 16];
    assert_eq!(rig.start(1, recv(fd, &mut buf)), None);
    (&b).write_all(b"one").unwrap();
    assert_eq!(rig.one(), (1, 3));
    (&b).write_all(b"two").unwrap();
    assert_eq!(rig.start(2, recv(fd, &mut buf)), Some(3));
}

#[test]
fn a_send_of_everything_outlasts_the_socket_buffer() {
    let mut rig = Rig::new();
    let (a, mut b) = tcp_pair();
    let data: Vec<u8> = (0..16_000_000u32).map(|n| (n / 7) as u8).collect();
    assert_eq!(rig.start(1, send(a.as_raw_fd(), &data, libc::MSG_WAITALL)), None);
    // As a message of many segments, after it.
    let mut segments: Vec<libc::iovec> = data
        .chunks(100_001)
        .map(|c| libc::iovec { iov_base: c.as_ptr().cast_mut().cast(), iov_len: c.len() })
        .collect();
    // SAFETY: plain numbers and pointers.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = segments.as_mut_ptr();
    msg.msg_iovlen = segments.len() as _;
    let op =
        Op::SendMsg { fd: a.as_raw_fd(), msg: (&raw const msg).cast(), flags: libc::MSG_WAITALL };
    assert_eq!(rig.start(2, op), None);
    let reader = std::thread::spawn(move || {
        let mut all = vec![0u8; 32_000_000];
        b.read_exact(&mut all).unwrap();
        all
    });
    let done: Vec<_> = rig.gather(2).iter().map(|done| (done.0, done.1)).collect();
    assert_eq!(done, [(1, 16_000_000), (2, 16_000_000)]);
    let all = reader.join().unwrap();
    assert!(all[..16_000_000] == data[..] && all[16_000_000..] == data[..]);
}

#[test]
fn an_error_after_a_part_was_sent_reports_the_part() {
    let mut rig = Rig::new();
    let (a, b) = UnixStream::pair().unwrap();
    let data = vec![1u8; 8 << 20];
    assert_eq!(rig.start(1, send(a.as_raw_fd(), &data, libc::MSG_WAITALL)), None);
    drop(b);
    let (n, sent) = rig.one();
    assert!(n == 1 && sent > 0 && (sent as usize) < data.len(), "{sent}");
    assert_eq!(rig.run(send(a.as_raw_fd(), &data, 0)), -libc::EPIPE, "and no SIGPIPE");
}

#[test]
fn a_receive_of_everything() {
    let mut rig = Rig::new();
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut buf = [0u8; 10];
    let op = |buf: &mut [u8; 10]| Op::Recv {
        fd: a.as_raw_fd(),
        buf: buf.as_mut_ptr(),
        len: 10,
        flags: libc::MSG_WAITALL,
    };
    assert_eq!(rig.start(1, op(&mut buf)), None);
    b.write_all(b"0123").unwrap();
    assert_eq!(rig.turn(Wait::For(Duration::from_millis(20))), 0);
    b.write_all(b"456789").unwrap();
    assert_eq!(rig.one(), (1, 10));
    assert_eq!(&buf, b"0123456789");
    assert_eq!(rig.start(2, op(&mut buf)), None);
    b.write_all(b"abc").unwrap();
    drop(b);
    assert_eq!(rig.one(), (2, 3), "the end comes first");
}

#[test]
fn datagrams_are_not_joined() {
    let mut rig = Rig::new();
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    b.connect(a.local_addr().unwrap()).unwrap();
    let mut buf = [0u8; 64];
    let len = buf.len();
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: len };
    // SAFETY: plain numbers and pointers.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    (msg.msg_iov, msg.msg_iovlen) = (&raw mut iov, 1);
    let fd = a.as_raw_fd();
    let op = Op::RecvMsg { fd, msg: (&raw mut msg).cast(), flags: 0, messages: true };
    assert_eq!(rig.start(1, op), None);
    assert_eq!(rig.start(3, send(b.as_raw_fd(), b"first", libc::MSG_WAITALL)), Some(5));
    assert_eq!(rig.one(), (1, 5));
    b.send(b"one").unwrap();
    b.send(b"two").unwrap();
    let flags = libc::MSG_WAITALL;
    let op = Op::Recv { fd, buf: buf.as_mut_ptr(), len: 64, flags };
    assert_eq!(rig.run(op), 3);
}

#[test]
fn pooled_receives_and_an_empty_pool() {
    let config = EpollConfig { buffers: 2, buffer_size: 8, ..EpollConfig::default() };
    let mut rig = Rig::with(&config);
    let (a, mut b) = UnixStream::pair().unwrap();
    let pooled = |len| Op::RecvPooled { fd: a.as_raw_fd(), len };
    assert_eq!(rig.start(1, pooled(0)), None);
    assert_eq!(rig.start(2, pooled(3)), None);
    assert_eq!(rig.start(3, pooled(100)), None);
    b.write_all(b"0123456789abcdefghij").unwrap();
    // Three are served by one event, from two buffers.
    let mut held = Vec::new();
    rig.hal.turn(Wait::Forever, &mut held).unwrap();
    let results: Vec<_> = held.iter().map(|c| (c.token.get() / 8, c.result)).collect();
    assert_eq!(results, [(1, 8), (2, 3), (3, -libc::ENOBUFS)]);
    assert_eq!(&held[0].lease.as_ref().unwrap()[..], b"01234567");
    assert_eq!(&held[1].lease.as_ref().unwrap()[..], b"89a");
    assert_eq!(rig.start(4, pooled(0)), Some(-libc::ENOBUFS), "inline");
    held.remove(1);
    // Data is there: delivered by the next turn, which does not sleep.
    assert_eq!(rig.start(5, pooled(0)), None);
    assert_eq!(rig.gather(1), [(5, 8, Some(b"bcdefghi".to_vec()))]);
    assert_eq!(rig.gather_start(6, pooled(0)), Some(b"j".to_vec()));
    drop(b);
    assert_eq!(rig.start(7, pooled(0)), Some(0), "the end carries no lease");
    assert_eq!(rig.hal.in_flight(), 0);
    let mut none = Rig::with(&EpollConfig { buffers: 0, ..EpollConfig::default() });
    assert_eq!(none.start(1, pooled(0)), Some(-libc::ENOBUFS));
}

impl Rig {
    fn gather_start(&mut self, n: u64, op: Op) -> Option<Vec<u8>> {
        assert_eq!(self.start(n, op), None);
        self.gather(1).remove(0).2
    }
}

#[test]
fn accepts_of_many() {
    let mut rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (fd, address) = (listener.as_raw_fd(), listener.local_addr().unwrap());
    let mut clients: Vec<_> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut sockets = Vec::new();
    let mut take = |socket| {
        assert!(socket >= 0 && !is_nonblocking(socket));
        // SAFETY: just accepted, and nobody else's.
        sockets.push(unsafe { OwnedFd::from_raw_fd(socket) });
    };
    for _ in 0..50 {
        take(rig.run(Op::Accept { fd }));
    }
    // Many wait, while the processor sleeps.
    for n in 0..100 {
        assert_eq!(rig.start(n, Op::Accept { fd }), None);
    }
    let late = std::thread::spawn(move || {
        (0..100).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>()
    });
    for (n, socket) in rig.gather(100).into_iter().enumerate() {
        assert_eq!(socket.0, n as u64, "in order");
        take(socket.1);
    }
    clients.extend(late.join().unwrap());
    // Once more on the same registration, with a connection whose edge has been used up.
    assert_eq!(rig.start(1, Op::Accept { fd }), None);
    rig.hal.cancel(token(1));
    assert_eq!(rig.one(), (1, -libc::ECANCELED));
    clients.push(TcpStream::connect(address).unwrap());
    rig.turn(Wait::For(Duration::from_millis(20)));
    take(rig.run(Op::Accept { fd }));
    assert_eq!(sockets.len(), 151);
    // Shut down: the listener does not listen any more.
    assert_eq!(rig.start(1, Op::Accept { fd }), None);
    assert_eq!(rig.start(2, Op::Shutdown { fd, how: libc::SHUT_RD }), Some(0));
    assert_eq!(rig.gather(1), [(1, -libc::EINVAL, None)]);
    assert_eq!(rig.hal.in_flight(), 0);
}

/// A TCP socket, and the operation that connects it.
fn connecting(address: &libc::sockaddr_in) -> (OwnedFd, Op) {
    // SAFETY: numbers; then a descriptor that is nobody else's.
    let socket = unsafe {
        OwnedFd::from_raw_fd(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))
    };
    let len = size_of::<libc::sockaddr_in>() as u32;
    let op = Op::Connect { fd: socket.as_raw_fd(), addr: std::ptr::from_ref(address).cast(), len };
    (socket, op)
}

fn raw(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(v4) = address else { unreachable!("tests use IPv4") };
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
        sin_zero: [0; 8],
    }
}

#[test]
fn connects() {
    let mut rig = Rig::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = raw(listener.local_addr().unwrap());
    let (socket, op) = connecting(&address);
    assert_eq!(rig.run(op), 0);
    assert!(!is_nonblocking(socket.as_raw_fd()));
    let (mut peer, _) = listener.accept().unwrap();
    let mut buf = [0u8; 2];
    assert_eq!(rig.run(send(socket.as_raw_fd(), b"hi", 0)), 2);
    peer.read_exact(&mut buf).unwrap();
    drop((listener, peer));

    let (socket, op) = connecting(&address);
    assert_eq!(rig.run(op), -libc::ECONNREFUSED);
    assert!(!is_nonblocking(socket.as_raw_fd()));
    assert_eq!(rig.hal.in_flight(), 0);
}

/// A connect that stays in progress, because the listener's backlog is full: cancelled.
#[test]
fn a_connect_is_cancelled() {
    let mut rig = Rig::new();
    // SAFETY: numbers; an address that lives through the calls.
    let listener = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let any = raw("127.0.0.1:0".parse().unwrap());
        let len = size_of::<libc::sockaddr_in>() as u32;
        assert_eq!(libc::bind(fd, (&raw const any).cast(), len), 0);
        assert_eq!(libc::listen(fd, 0), 0);
        TcpListener::from_raw_fd(fd)
    };
    let address = raw(listener.local_addr().unwrap());
    let mut sockets = Vec::new();
    for n in 1..=8 {
        let (socket, op) = connecting(&address);
        assert_eq!(rig.start(n, op), None);
        sockets.push(socket);
    }
    rig.turn(Wait::For(Duration::from_millis(50)));
    let connected = rig.done.len();
    assert!(rig.done.iter().all(|done| done.1 == 0) && connected < 8);
    for n in 1..=8 {
        rig.hal.cancel(token(n));
    }
    for (_, result, ..) in &rig.gather(8)[connected..] {
        assert_eq!(*result, -libc::ECANCELED);
    }
    assert!(sockets.iter().all(|socket| !is_nonblocking(socket.as_raw_fd())));
}

/// A Unix listener with a full backlog gives no event; the pool waits for it.
#[test]
fn a_unix_connect_waits_for_the_backlog() {
    let mut rig = Rig::new();
    let path = std::env::temp_dir().join(format!("overlapped-unix-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: a descriptor and a number.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    // SAFETY: plain numbers.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(path.to_str().unwrap().bytes()) {
        *to = from as _;
    }
    let mut sockets = Vec::new();
    let mut inline = 0;
    for n in 1..=4 {
        // SAFETY: numbers; then a descriptor that is nobody else's.
        let socket =
            unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)) };
        let len = size_of::<libc::sockaddr_un>() as u32;
        let addr = (&raw const address).cast();
        match rig.start(n, Op::Connect { fd: socket.as_raw_fd(), addr, len }) {
            Some(result) => {
                assert_eq!(result, 0);
                inline += 1;
            }
            None => assert!(inline > 0),
        }
        sockets.push(socket);
    }
    assert!(inline < 4);
    for _ in 0..4 {
        listener.accept().unwrap();
    }
    assert!(rig.gather(4 - inline).iter().all(|done| done.1 == 0));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn polls() {
    let mut rig = Rig::new();
    let (a, mut b) = tcp_pair();
    let fd = a.as_raw_fd();
    let poll = |events: i16| Op::Poll { fd, events: events as u32 };
    let (readable, writable) = (i32::from(libc::POLLIN), i32::from(libc::POLLOUT));
    assert_eq!(rig.start(1, poll(libc::POLLOUT)), Some(writable));
    assert_eq!(rig.start(2, poll(libc::POLLIN)), None);
    assert_eq!(rig.start(3, poll(libc::POLLIN | libc::POLLRDHUP)), None);
    assert_eq!(rig.start(4, poll(libc::POLLPRI)), None);
    b.write_all(b"x").unwrap();
    let mut done = rig.gather(2);
    done.sort_unstable();
    assert_eq!(done, [(2, readable, None), (3, readable, None)]);
    // SAFETY: a descriptor and one byte.
    assert_eq!(unsafe { libc::send(b.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) }, 1);
    assert_eq!(rig.one(), (4, i32::from(libc::POLLPRI)));
    // A poll and a receive are both told of the end.
    let mut buf = [0u8; 8];
    while rig.hal.in_flight() == 0 {
        assert_ne!(rig.start(5, recv(fd, &mut buf)), Some(0));
    }
    assert_eq!(rig.start(6, poll(libc::POLLRDHUP)), None);
    drop(b);
    let mut done: Vec<_> = rig.gather(2).iter().map(|done| (done.0, done.1)).collect();
    done.sort_unstable();
    assert_eq!(done, [(5, 0), (6, i32::from(libc::POLLRDHUP))]);
}

/// Both directions at once, both ends on one processor, in pieces that fit no buffer.
#[test]
fn a_long_conversation() {
    let mut rig = Rig::new();
    let (a, b) = tcp_pair();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut back = vec![0u8; data.len()];
    for (from, to) in [(&a, &b), (&b, &a)] {
        let flags = libc::MSG_WAITALL;
        let op =
            Op::Recv { fd: to.as_raw_fd(), buf: back.as_mut_ptr(), len: back.len() as u32, flags };
        assert_eq!(rig.start(2, op), None);
        let sent = rig.start(1, send(from.as_raw_fd(), &data, flags));
        let done = rig.gather(if sent.is_some() { 1 } else { 2 });
        assert!(done.iter().all(|done| done.1 == 3_000_000));
        assert!(back == data);
        back.fill(0);
    }
}
