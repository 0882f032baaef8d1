//! Tests of the epoll hardware: its contract, cancel, wake and files. Sockets: `sockets.rs`.

mod sockets;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;

fn token(n: u64) -> Token {
    Token::new(n * 8)
}

/// A `Hal` and what it has handed over: (number, result, leased bytes).
struct Rig {
    hal: EpollHal,
    done: Vec<(u64, i32, Option<Vec<u8>>)>,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(&EpollConfig::default())
    }

    fn with(config: &EpollConfig) -> Rig {
        Rig { hal: EpollHal::new(config).unwrap(), done: Vec::new() }
    }

    fn start(&mut self, n: u64, op: Op) -> Option<i32> {
        // SAFETY: each test keeps what its operations name until they have ended; numbers are
        // different.
        unsafe { self.hal.submit(token(n), op, true) }
    }

    /// One turn; the leases go home at once.
    fn turn(&mut self, wait: Wait) -> usize {
        let mut done = Vec::new();
        self.hal.turn(wait, &mut done).unwrap();
        let count = done.len();
        self.done.extend(done.into_iter().map(|c| {
            let bytes = c.lease.map(|lease| lease.to_vec());
            (c.token.get() / 8, c.result, bytes)
        }));
        count
    }

    /// Turns until that many completions have come.
    fn gather(&mut self, count: usize) -> Vec<(u64, i32, Option<Vec<u8>>)> {
        let begun = Instant::now();
        while self.done.len() < count {
            assert!(begun.elapsed() < Duration::from_secs(20), "only {:?}", self.done);
            self.turn(Wait::For(Duration::from_millis(500)));
        }
        std::mem::take(&mut self.done)
    }

    fn one(&mut self) -> (u64, i32) {
        let all = self.gather(1);
        assert_eq!(all.len(), 1);
        (all[0].0, all[0].1)
    }

    /// The operation's result, wherever it comes from.
    fn run(&mut self, op: Op) -> i32 {
        match self.start(999, op) {
            Some(result) => result,
            None => self.one().1,
        }
    }
}

fn recv(fd: c_int, buf: &mut [u8]) -> Op {
    Op::Recv { fd, buf: buf.as_mut_ptr(), len: buf.len() as u32, flags: 0 }
}

fn send(fd: c_int, buf: &[u8], flags: c_int) -> Op {
    Op::Send { fd, buf: buf.as_ptr(), len: buf.len() as u32, flags }
}

fn is_nonblocking(fd: c_int) -> bool {
    // SAFETY: a descriptor.
    unsafe { libc::fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK != 0 }
}

#[test]
fn limits_of_time_are_kept() {
    let mut rig = Rig::new();
    let begun = Instant::now();
    assert_eq!(rig.turn(Wait::No), 0);
    assert!(begun.elapsed() < Duration::from_millis(20));
    assert_eq!(rig.turn(Wait::For(Duration::from_millis(30))), 0);
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_wake_ends_a_sleep_and_is_kept_for_the_next() {
    let mut rig = Rig::new();
    let wake = rig.hal.wake_handle();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        wake.wake();
    });
    rig.turn(Wait::Forever);
    thread.join().unwrap();
    rig.hal.wake_handle().wake();
    rig.turn(Wait::No);
    rig.turn(Wait::Forever);
    let begun = Instant::now();
    rig.turn(Wait::For(Duration::from_millis(30)));
    assert!(begun.elapsed() >= Duration::from_millis(30), "a wake counts once");
}

#[test]
fn wakes_are_never_lost() {
    let mut rig = Rig::new();
    let wake = rig.hal.wake_handle();
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while asked.recv().is_ok() {
            wake.wake();
        }
    });
    for _ in 0..20_000 {
        ask.send(()).unwrap();
        // Hangs if the wake is lost.
        rig.turn(Wait::Forever);
    }
    drop(ask);
    thread.join().unwrap();
}

#[test]
fn cancel_of_each_kind() {
    let mut rig = Rig::new();
    let (a, b) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut buf, big) = ([0u8; 8], vec![1u8; 8 << 20]);
    assert_eq!(rig.start(1, recv(a.as_raw_fd(), &mut buf)), None);
    assert_eq!(rig.start(2, Op::RecvPooled { fd: a.as_raw_fd(), len: 0 }), None);
    assert_eq!(rig.start(3, send(b.as_raw_fd(), &big, libc::MSG_WAITALL)), None);
    let (mut c, d) = UnixStream::pair().unwrap();
    c.set_nonblocking(true).unwrap();
    while c.write(&big).is_ok() {}
    assert_eq!(rig.start(4, send(c.as_raw_fd(), &big, 0)), None);
    assert_eq!(rig.start(5, Op::Accept { fd: listener.as_raw_fd() }), None);
    assert_eq!(rig.start(6, Op::Poll { fd: c.as_raw_fd(), events: libc::POLLIN as u32 }), None);
    // The receives on `a` end by the bytes that `b` sends; so cancel others on `d`.
    let mut more = [0u8; 8];
    assert_eq!(rig.start(7, Op::Poll { fd: a.as_raw_fd(), events: libc::POLLPRI as u32 }), None);
    assert_eq!(rig.hal.in_flight(), 7);
    assert_eq!(rig.gather(2).len(), 2, "the two receives");
    let mut one = [0u8; 1];
    let idle = UnixStream::pair().unwrap();
    assert_eq!(rig.start(8, recv(idle.0.as_raw_fd(), &mut one)), None);
    assert_eq!(rig.start(9, recv(idle.0.as_raw_fd(), &mut more)), None);
    for n in [3, 4, 5, 6, 7, 8, 9, 77] {
        rig.hal.cancel(token(n));
    }
    let mut done = rig.gather(7);
    assert_eq!(rig.hal.in_flight(), 0);
    done.sort_unstable();
    assert_eq!(done[0].0, 3);
    assert!(done[0].1 > 0, "what was sent is reported");
    for (n, result, _) in &done[1..] {
        assert_eq!(*result, -libc::ECANCELED, "operation {n}");
    }
    drop((b, d));
}

#[test]
fn cancel_of_a_job_in_the_pool() {
    unsafe fn nap(_: *mut std::ffi::c_void) -> i32 {
        std::thread::sleep(Duration::from_millis(100));
        5
    }
    let config = EpollConfig { pool: Some(Pool::new(1)), ..EpollConfig::default() };
    let mut rig = Rig::with(&config);
    for n in 1..=3 {
        let op = Op::Call { run: nap, arg: std::ptr::null_mut() };
        assert_eq!(rig.start(n, op), None);
    }
    std::thread::sleep(Duration::from_millis(20));
    rig.hal.cancel(token(1));
    rig.hal.cancel(token(3));
    assert_eq!(rig.turn(Wait::Forever), 1, "by the next turn");
    assert_eq!(rig.one(), (3, -libc::ECANCELED));
    assert_eq!(rig.gather(2), [(1, 5, None), (2, 5, None)]);
    assert_eq!(rig.hal.in_flight(), 0);
}

#[test]
fn files() {
    let mut rig = Rig::new();
    let path = std::env::temp_dir().join(format!("overlapped-epoll-{}", std::process::id()));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;
    let fd = rig.run(Op::Open { at: libc::AT_FDCWD, path: name.as_ptr(), flags, mode: 0o600 });
    assert!(fd >= 0);
    std::fs::remove_file(&path).unwrap();
    let data: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let (buf, len) = (data.as_ptr(), 10_000);
    let inline = Op::Write { fd, buf, len, offset: 0, inline: true, through: false };
    assert_eq!(rig.start(1, inline), Some(10_000));
    // SAFETY: as in `Rig::start`.
    assert_eq!(unsafe { rig.hal.submit(token(1), inline, false) }, None, "not alone");
    assert_eq!(rig.one(), (1, 10_000));
    let len = 100_000;
    assert_eq!(
        rig.start(2, Op::Write { fd, buf, len, offset: 0, inline: true, through: false }),
        None
    );
    assert_eq!(rig.one(), (2, 100_000));
    let mut back = vec![0u8; 100_000];
    let buf = back.as_mut_ptr();
    let read = |offset, len| Op::Read { fd, buf, len, offset, inline: true };
    assert_eq!(rig.run(read(1000, 4096)), 4096);
    assert_eq!(rig.run(read(99_000, 4096)), 1000, "the end of the file");
    assert_eq!(rig.run(read(100_000, 4096)), 0);
    assert_eq!(rig.run(read(0, 0)), 0);
    assert_eq!(rig.run(read(u64::MAX, 10)), 10);
    assert_eq!(rig.run(read(u64::MAX, 10)), 10);
    assert_eq!(rig.run(read(0, 100_000)), 100_000);
    assert_eq!(back, data);
    // SAFETY: plain numbers.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    assert_eq!(rig.run(Op::Stat { fd, out: (&raw mut stat).cast() }), 0);
    assert_eq!(stat.stx_size, 100_000);
    assert_eq!(rig.run(Op::SetLength { fd, len: 3 }), 0);
    assert_eq!(rig.run(Op::Sync { fd, data_only: false }), 0);
    // A regular file is always ready, and cannot be accepted on.
    assert_eq!(rig.run(Op::Poll { fd, events: libc::POLLIN as u32 }), i32::from(libc::POLLIN));
    assert_eq!(rig.run(Op::Accept { fd }), -libc::ENOTSOCK);
    assert_eq!(rig.start(3, Op::Close { fd, now: false }), Some(0));
    assert_eq!(rig.run(read(0, 1)), -libc::EBADF);
    assert_eq!(rig.hal.in_flight(), 0);
}

#[test]
fn bad_descriptors_are_errors() {
    let mut rig = Rig::new();
    let mut byte = [0u8; 1];
    // SAFETY: plain numbers and null pointers.
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    let msg = (&raw mut msg).cast::<std::ffi::c_void>();
    for fd in [-1, c_int::MIN, 1 << 29] {
        let (buf, len) = (byte.as_mut_ptr(), 1);
        let ops = [
            recv(fd, &mut byte),
            Op::RecvPooled { fd, len: 0 },
            Op::RecvMsg { fd, msg, flags: 0, messages: true },
            send(fd, &[1], libc::MSG_WAITALL),
            Op::SendMsg { fd, msg, flags: 0 },
            Op::Accept { fd },
            Op::Connect { fd, addr: msg, len: 16 },
            Op::Poll { fd, events: libc::POLLIN as u32 },
            Op::Shutdown { fd, how: 0 },
            Op::Close { fd, now: false },
            Op::Read { fd, buf, len, offset: 0, inline: true },
            Op::Write { fd, buf, len, offset: 0, inline: true, through: false },
            Op::Sync { fd, data_only: true },
        ];
        for op in ops {
            assert_eq!(rig.run(op), -libc::EBADF, "{op:?}");
        }
    }
    assert_eq!(rig.hal.in_flight(), 0);
}

/// The number of a closed socket is given to a new one; its registration must not be taken for it.
#[test]
fn a_number_that_is_used_again() {
    let mut rig = Rig::new();
    let mut buf = [0u8; 8];
    for (round, by_hal) in [(0, true), (1, false), (2, true), (3, false)] {
        let (mut a, b) = UnixStream::pair().unwrap();
        let fd = b.into_raw_fd();
        assert_eq!(rig.start(1, recv(fd, &mut buf)), None, "round {round}");
        a.write_all(b"x").unwrap();
        assert_eq!(rig.one(), (1, 1));
        if by_hal {
            assert_eq!(rig.start(2, Op::Close { fd, now: false }), Some(0));
        } else {
            crate::hal::generation::note_close(fd);
            // SAFETY: the test's own descriptor.
            unsafe { libc::close(fd) };
        }
        drop(a);
    }
}

#[test]
fn those_who_wait_for_a_closed_number_end() {
    let mut rig = Rig::new();
    let (mut buf, mut other) = ([0u8; 8], [0u8; 8]);
    let (a, b) = UnixStream::pair().unwrap();
    let fd = b.into_raw_fd();
    assert_eq!(rig.start(1, recv(fd, &mut buf)), None);
    assert_eq!(rig.start(2, recv(fd, &mut other)), None);
    assert_eq!(rig.start(3, Op::Close { fd, now: false }), Some(0));
    assert_eq!(rig.gather(2), [(1, -libc::ECANCELED, None), (2, -libc::ECANCELED, None)]);
    // Closed by somebody else, and found out by the next who waits for the number.
    let (mut c, d) = UnixStream::pair().unwrap();
    let fd = d.as_raw_fd();
    assert_eq!(rig.start(4, recv(fd, &mut buf)), None);
    crate::hal::generation::note_close(fd);
    assert_eq!(rig.start(5, recv(fd, &mut other)), None);
    assert_eq!(rig.one(), (4, -libc::ECANCELED));
    c.write_all(b"to the new one").unwrap();
    assert_eq!(rig.one(), (5, 8));
    assert_eq!(rig.hal.in_flight(), 0);
    drop(a);
}

#[test]
fn inline_results_are_bounded() {
    let mut rig = Rig::new();
    let (a, mut b) = UnixStream::pair().unwrap();
    b.write_all(&[7; 300]).unwrap();
    let mut bytes = [0u8; 300];
    let mut inline = 0;
    for (n, byte) in bytes.iter_mut().enumerate() {
        let op = recv(a.as_raw_fd(), std::slice::from_mut(byte));
        match rig.start(n as u64 + 1, op) {
            Some(result) => {
                assert_eq!(result, 1);
                inline += 1;
            }
            None => assert!(inline == INLINE, "not before the bound"),
        }
    }
    assert_eq!(inline, INLINE);
    assert_eq!(rig.hal.in_flight(), 300 - INLINE as usize);
    assert_eq!(rig.turn(Wait::Forever), 300 - INLINE as usize);
    assert_eq!(rig.hal.in_flight(), 0);
    assert_eq!(bytes, [7; 300]);
}

#[test]
fn a_turn_hands_over_a_bounded_number_and_loses_none() {
    let mut rig = Rig::new();
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut bytes = vec![0u8; 1000];
    for (n, byte) in bytes.iter_mut().enumerate() {
        let op = recv(a.as_raw_fd(), std::slice::from_mut(byte));
        assert_eq!(rig.start(n as u64 + 1, op), None);
    }
    let data: Vec<u8> = (0..1000).map(|n| n as u8).collect();
    b.write_all(&data).unwrap();
    assert_eq!(rig.turn(Wait::Forever), BATCH);
    let order: Vec<u64> = rig.gather(1000).iter().map(|done| done.0).collect();
    assert!(order.into_iter().eq(1..=1000), "in the order of the queue");
    assert_eq!(bytes, data);
}

/// Connected TCP sockets.
fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}
