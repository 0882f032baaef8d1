//! Tests of the pool of threads.

use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn call(token: u64, reply: &Arc<Reply>, run: unsafe fn(*mut c_void) -> i32, arg: usize) -> Job {
    let op = Op::Call { run, arg: arg as *mut c_void };
    Job { token: Token::new(token * 8), op, reply: reply.clone() }
}

fn gather(reply: &Reply, count: usize) -> Vec<(u64, i32)> {
    let (mut out, begun) = (Vec::new(), Instant::now());
    while out.len() < count {
        assert!(begun.elapsed() < Duration::from_secs(20), "jobs are lost");
        reply.drain(&mut out);
        thread::sleep(Duration::from_micros(200));
    }
    out.iter().map(|c: &Completion| (c.token.get() / 8, c.result)).collect()
}

unsafe fn double(arg: *mut c_void) -> i32 {
    thread::sleep(Duration::from_micros(300));
    arg as i32 * 2
}

#[test]
fn more_jobs_than_threads() {
    let pool = Pool::new(3);
    let reply = Reply::new(Arc::new(Counter::default()));
    for n in 0..200 {
        // SAFETY: the argument is a number.
        unsafe { pool.submit(call(n, &reply, double, n as usize)) };
        assert!(pool.threads() <= 3);
    }
    let mut done = gather(&reply, 200);
    done.sort_unstable();
    assert!(done.iter().copied().eq((0..200).map(|n| (n, n as i32 * 2))));
}

#[test]
fn a_panic_is_an_error_and_the_thread_goes_on() {
    unsafe fn panics(_: *mut c_void) -> i32 {
        panic!("on purpose")
    }
    let pool = Pool::new(1);
    let reply = Reply::new(Arc::new(Counter::default()));
    // SAFETY: the arguments are numbers.
    unsafe {
        pool.submit(call(1, &reply, panics, 0));
        pool.submit(call(2, &reply, double, 21));
    }
    assert_eq!(gather(&reply, 2), [(1, -libc::EIO), (2, 42)]);
}

#[test]
fn a_queued_job_can_be_cancelled_and_a_running_one_cannot() {
    static GATE: AtomicU32 = AtomicU32::new(0);
    unsafe fn gated(_: *mut c_void) -> i32 {
        GATE.store(1, Ordering::SeqCst);
        while GATE.load(Ordering::SeqCst) != 2 {
            thread::yield_now();
        }
        7
    }
    let pool = Pool::new(1);
    let reply = Reply::new(Arc::new(Counter::default()));
    let other = Reply::new(Arc::new(Counter::default()));
    // SAFETY: the arguments are numbers.
    unsafe {
        pool.submit(call(1, &reply, gated, 0));
        pool.submit(call(2, &reply, double, 0));
    }
    while GATE.load(Ordering::SeqCst) == 0 {
        thread::yield_now();
    }
    assert!(!pool.cancel(&reply, Token::new(8)));
    assert!(!pool.cancel(&other, Token::new(16)), "somebody else's token");
    assert!(pool.cancel(&reply, Token::new(16)));
    assert!(!pool.cancel(&reply, Token::new(16)));
    assert_eq!(gather(&reply, 1), [(2, -libc::ECANCELED)]);
    GATE.store(2, Ordering::SeqCst);
    assert_eq!(gather(&reply, 1), [(1, 7)]);
}

#[test]
fn only_the_first_completion_wakes() {
    let counter = Arc::new(Counter::default());
    let reply = Reply::new(counter.clone());
    for n in 0..5 {
        call(n, &reply, double, 0).finish(0);
    }
    assert_eq!(counter.0.load(Ordering::SeqCst), 1);
    gather(&reply, 5);
    call(9, &reply, double, 0).finish(0);
    assert_eq!(counter.0.load(Ordering::SeqCst), 2);
}

#[test]
fn idle_threads_end_and_new_ones_start() {
    let pool = Pool::with_idle_time(4, Duration::from_millis(20));
    let reply = Reply::new(Arc::new(Counter::default()));
    for round in 0..2 {
        for n in 0..8 {
            // SAFETY: the argument is a number.
            unsafe { pool.submit(call(n, &reply, double, round)) };
        }
        gather(&reply, 8);
        let begun = Instant::now();
        while pool.threads() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "threads stay");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn files_by_blocking_calls() {
    let path = std::env::temp_dir().join(format!("overlapped-pool-{}", std::process::id()));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: everything the operations name lives to the end of the function.
    let run = |op: Op| unsafe { perform(&op) };
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    let fd = run(Op::Open { at: libc::AT_FDCWD, path: name.as_ptr(), flags, mode: 0o600 });
    assert!(fd >= 0, "{}", io_error(fd));
    std::fs::remove_file(&path).unwrap();
    let data = *b"hello world";
    let write = |offset| Op::Write {
        fd,
        buf: data.as_ptr(),
        len: 11,
        offset,
        inline: false,
        through: false,
    };
    assert_eq!(run(write(u64::MAX)), 11);
    assert_eq!(run(write(11)), 11);
    let mut back = [0u8; 32];
    let mut read =
        |offset| run(Op::Read { fd, buf: back.as_mut_ptr(), len: 32, offset, inline: false });
    assert_eq!((read(0), read(6), read(22)), (22, 16, 0));
    assert_eq!(read(u64::MAX), 11, "the position is after the first write");
    let iov = [
        libc::iovec { iov_base: back.as_mut_ptr().cast(), iov_len: 3 },
        // SAFETY: within the array.
        libc::iovec { iov_base: unsafe { back.as_mut_ptr().add(3) }.cast(), iov_len: 8 },
    ];
    let vector = Op::ReadV { fd, iov: iov.as_ptr().cast(), count: 2, offset: 0 };
    assert_eq!(run(vector), 11);
    assert_eq!(&back[..11], b"hello world");
    let vector = Op::WriteV { fd, iov: iov.as_ptr().cast(), count: 2, offset: 100, through: false };
    assert_eq!(run(vector), 11);
    assert_eq!(run(Op::SetLength { fd, len: 50 }), 0);
    assert_eq!(run(Op::SetLength { fd, len: u64::MAX }), -libc::EFBIG);
    assert_eq!(run(Op::Sync { fd, data_only: false }), 0);
    assert_eq!(run(Op::Sync { fd, data_only: true }), 0);
    // SAFETY: plain numbers.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    assert_eq!(run(Op::Stat { fd, out: (&raw mut stat).cast() }), 0);
    assert_eq!(stat.stx_size, 50);
    assert_eq!(run(Op::Close { fd, now: false }), 0);
}

fn io_error(result: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(-result)
}

#[test]
fn bad_descriptors_are_errors() {
    let mut byte = 0u8;
    let buf = &raw mut byte;
    for fd in [-1, 1 << 29] {
        let ops = [
            Op::Read { fd, buf, len: 1, offset: 0, inline: true },
            Op::Write { fd, buf, len: 1, offset: u64::MAX, inline: true, through: false },
            Op::Recv { fd, buf, len: 1, flags: 0 },
            Op::Send { fd, buf, len: 1, flags: libc::MSG_WAITALL },
            Op::Accept { fd },
            Op::Poll { fd, events: libc::POLLIN as u32 },
            Op::Shutdown { fd, how: libc::SHUT_RD },
            Op::Close { fd, now: false },
        ];
        for op in ops {
            // SAFETY: `byte` lives on.
            assert_eq!(unsafe { perform(&op) }, -libc::EBADF, "{op:?}");
        }
    }
}

#[test]
fn a_non_blocking_socket_is_waited_for() {
    let (mut a, b) = UnixStream::pair().unwrap();
    b.set_nonblocking(true).unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        std::io::Write::write_all(&mut a, b"late").unwrap();
    });
    let mut buf = [0u8; 8];
    let op = Op::Recv { fd: b.as_raw_fd(), buf: buf.as_mut_ptr(), len: 8, flags: 0 };
    // SAFETY: `buf` lives on.
    assert_eq!(unsafe { perform(&op) }, 4);
    writer.join().unwrap();
}
