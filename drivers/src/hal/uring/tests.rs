//! The contract on a real kernel, on every rung of the ladder that it takes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::*;

fn token(n: usize) -> Token {
    Token::new(8 * (n as u64 + 1))
}

/// Runs a test on every rung; where io_uring is forbidden, on none.
fn on_every_rung(config: &UringConfig, test: impl Fn(&mut UringHal)) {
    on_rungs(Rung::ALL, config, test);
}

/// As [`on_every_rung`], on some.
pub(super) fn on_rungs(
    rungs: impl IntoIterator<Item = Rung>,
    config: &UringConfig,
    test: impl Fn(&mut UringHal),
) {
    for rung in rungs {
        match UringHal::with_rungs(config, &[rung]) {
            Ok(mut hal) => {
                test(&mut hal);
                assert_eq!(hal.in_flight(), 0, "{rung:?}");
            }
            Err(error) => eprintln!("{rung:?} is not to be had here: {error}"),
        }
    }
}

fn submit(hal: &mut UringHal, n: usize, op: Op) {
    // SAFETY: the tests keep what they name until they have seen its completion.
    assert_eq!(unsafe { hal.submit(token(n), op, false) }, None);
}

/// Turns until `count` completions are there.
fn collect(hal: &mut UringHal, count: usize) -> Vec<Completion> {
    let mut done = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while done.len() < count {
        assert!(Instant::now() < end, "only {} of {count} completions came", done.len());
        hal.turn(Wait::For(Duration::from_millis(100)), &mut done).unwrap();
    }
    assert_eq!(done.len(), count);
    done
}

fn one(hal: &mut UringHal) -> Completion {
    collect(hal, 1).pop().unwrap()
}

/// An unnamed temporary file.
fn temp_file() -> File {
    let path = std::ffi::CString::new(std::env::temp_dir().into_os_string().into_encoded_bytes());
    // SAFETY: a NUL-terminated path; the descriptor is ours.
    unsafe {
        let fd = libc::open(path.unwrap().as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        File::from(OwnedFd::from_raw_fd(fd))
    }
}

#[test]
fn nops_complete_each_once() {
    on_every_rung(&UringConfig::default(), |hal| {
        for n in 0..100 {
            submit(hal, n, Op::Nop);
        }
        let mut seen: Vec<_> = collect(hal, 100).iter().map(|c| c.token.get()).collect();
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(n, t)| token(n).get() == *t));
    });
}

#[test]
fn a_queue_of_eight_takes_ten_thousand() {
    let config = UringConfig { entries: 8, cq_entries: 16, ..UringConfig::default() };
    on_every_rung(&config, |hal| {
        for n in 0..10_000 {
            submit(hal, n, Op::Nop);
        }
        assert_eq!(hal.in_flight(), 10_000);
        collect(hal, 10_000);
    });
}

#[test]
fn operations_that_wait_do_not_keep_others_out() {
    let config = UringConfig { entries: 8, cq_entries: 16, ..UringConfig::default() };
    on_every_rung(&config, |hal| {
        let (_quiet, socket) = UnixStream::pair().unwrap();
        let fd = socket.as_raw_fd();
        // Far more than the completion queue holds, all waiting.
        for n in 0..200 {
            submit(hal, n, Op::Poll { fd, events: libc::POLLIN as u32 });
        }
        submit(hal, 200, Op::Nop);
        // Even for a caller that never sleeps.
        let mut done = Vec::new();
        for _ in 0..100 {
            hal.turn(Wait::No, &mut done).unwrap();
        }
        assert_eq!(done.len(), 1);
        // All end at once: the queue overflows, and nothing is lost.
        for n in 0..200 {
            hal.cancel(token(n));
        }
        assert!(collect(hal, 200).iter().all(|c| c.result == -libc::ECANCELED));
    });
}

#[test]
fn files_are_written_read_and_measured() {
    on_every_rung(&UringConfig::default(), |hal| {
        let file = temp_file();
        let fd = file.as_raw_fd();
        let data = b"overlapped";
        let len = data.len() as u32;
        submit(
            hal,
            0,
            Op::Write { fd, buf: data.as_ptr(), len, offset: 5, inline: true, through: false },
        );
        assert_eq!(one(hal).result, 10);
        let mut back = [0u8; 32];
        let read = Op::Read { fd, buf: back.as_mut_ptr(), len: 32, offset: 5, inline: true };
        submit(hal, 1, read);
        assert_eq!(one(hal).result, 10);
        assert_eq!(&back[..10], data);
        submit(hal, 2, Op::SetLength { fd, len: 7 });
        assert_eq!(one(hal).result, 0);
        submit(hal, 3, Op::Sync { fd, data_only: true });
        assert_eq!(one(hal).result, 0);
        // SAFETY: plain data.
        let mut stat: libc::statx = unsafe { mem::zeroed() };
        submit(hal, 4, Op::Stat { fd, out: (&raw mut stat).cast() });
        assert_eq!(one(hal).result, 0);
        assert_eq!(stat.stx_size, 7);
    });
}

#[test]
fn short_operations_of_a_lone_thread_are_done_on_the_spot() {
    let mut hal = UringHal::new(&UringConfig::default()).unwrap();
    let file = temp_file();
    let fd = file.as_raw_fd();
    let data = [7u8; 5000];
    let mut back = [0u8; 8192];
    let write =
        Op::Write { fd, buf: data.as_ptr(), len: 5000, offset: 0, inline: true, through: false };
    let read = Op::Read { fd, buf: back.as_mut_ptr(), len: 8192, offset: 0, inline: true };
    // SAFETY: all of it outlives the calls.
    unsafe {
        assert_eq!(hal.submit(token(0), write, true), Some(5000));
        // Short because the file ends there.
        assert_eq!(hal.submit(token(1), read, true), Some(5000));
        assert_eq!(hal.submit(token(2), Op::Nop, true), None);
        // No longer alone.
        assert_eq!(hal.submit(token(3), read, true), None);
    }
    assert_eq!(hal.in_flight(), 2);
    collect(&mut hal, 2);
    assert_eq!(&back[..5000], &data);
}

#[test]
fn what_a_lone_thread_sends_goes_on_the_spot() {
    on_every_rung(&UringConfig::default(), |hal| {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (fd, mut back) = (b.as_raw_fd(), [0; 4]);
        let hi = Op::Send { fd, buf: b"hi".as_ptr(), len: 2, flags: 0 };
        // SAFETY: a constant.
        assert_eq!(unsafe { hal.submit(token(0), hi, true) }, Some(2));
        // Something is queued: the kernel gets both at once, in their order.
        submit(hal, 1, Op::Nop);
        let ho = Op::Send { fd, buf: b"ho".as_ptr(), len: 2, flags: 0 };
        // SAFETY: as above.
        assert_eq!(unsafe { hal.submit(token(2), ho, true) }, None);
        assert_eq!(collect(hal, 2).iter().map(|c| c.result).sum::<i32>(), 2);
        a.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hiho");
    });
}

/// Bytes of an urgent send.
const LARGE: u32 = 16 * 1024;

/// It is in the cache now, and not when everything else has been done.
#[test]
fn a_large_send_goes_on_the_spot_and_overtakes_nothing() {
    let data: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    on_every_rung(&UringConfig::default(), |hal| {
        let ((mut a, b), mut byte) = (UnixStream::pair().unwrap(), [0]);
        let (fd, buf, flags) = (b.as_raw_fd(), data.as_ptr(), 0);
        let large = Op::Send { fd, buf, len: LARGE, flags };
        let small = Op::Send { fd, buf, len: 100, flags };
        let receive = Op::Recv { fd, buf: byte.as_mut_ptr(), len: 1, flags };
        submit(hal, 0, receive);
        // SAFETY: the data outlives it all.
        unsafe {
            assert_eq!(hal.submit(token(1), large, true), Some(LARGE as i32), "a receive waits");
            assert_eq!(hal.submit(token(2), small, true), None, "a batch may come of it");
            assert_eq!(hal.submit(token(3), large, true), None, "not before the small one");
        }
        let results = collect(hal, 2).iter().map(|c| c.result).collect::<Vec<_>>();
        assert_eq!(results, [100, LARGE as i32]);
        // SAFETY: as above.
        let sent = unsafe { hal.submit(token(1), large, true) };
        assert_eq!(sent, Some(LARGE as i32), "nothing is queued any more");
        let mut back = vec![0; 3 * LARGE as usize + 100];
        a.read_exact(&mut back).unwrap();
        let order = [&data[..], &data[..100], &data[..], &data[..]].concat();
        assert!(back == order);
        a.write_all(&[1]).unwrap();
        assert_eq!((one(hal).result, byte), (1, [1]));
    });
}

/// A part goes on the spot, the rest when there is room: together they are one result.
#[test]
fn what_is_sent_whole_may_begin_on_the_spot() {
    let data: Vec<u8> = (0..4 << 20).map(|n: u32| (n % 251) as u8).collect();
    let (buf, len, flags) = (data.as_ptr(), data.len() as u32, libc::MSG_WAITALL);
    on_every_rung(&UringConfig::default(), |hal| {
        let (mut a, b) = UnixStream::pair().unwrap();
        let whole = Op::Send { fd: b.as_raw_fd(), buf, len, flags };
        // SAFETY: `data` outlives it all.
        assert_eq!(unsafe { hal.submit(token(0), whole, true) }, None);
        let begun = hal.begun[&token(0)] as usize;
        assert!(0 < begun && begun < data.len());
        let reader = std::thread::spawn(move || {
            let mut back = vec![0; len as usize];
            a.read_exact(&mut back).map(|()| (a, back)).unwrap()
        });
        assert_eq!(one(hal).result, len as i32);
        let (mut a, back) = reader.join().unwrap();
        assert!(back == data && hal.begun.is_empty());
        // Cancelled in the middle: bytes that have left are no error.
        // SAFETY: as above.
        assert_eq!(unsafe { hal.submit(token(1), whole, true) }, None);
        hal.turn(Wait::No, &mut Vec::new()).unwrap();
        hal.cancel(token(1));
        let sent = one(hal).result;
        drop(b);
        let mut back = Vec::new();
        a.read_to_end(&mut back).unwrap();
        assert_eq!((sent, &back[..]), (back.len() as i32, &data[..back.len()]));
    });
}

#[test]
fn sockets_carry_bytes() {
    on_every_rung(&UringConfig::default(), |hal| {
        let (a, b) = UnixStream::pair().unwrap();
        let mut buf = [0u8; 8];
        let (fd, flags) = (a.as_raw_fd(), 0);
        submit(hal, 0, Op::Recv { fd, buf: buf.as_mut_ptr(), len: 8, flags });
        submit(hal, 1, Op::Send { fd: b.as_raw_fd(), buf: b"hi".as_ptr(), len: 2, flags });
        assert!(collect(hal, 2).iter().all(|c| c.result == 2));
        assert_eq!(&buf[..2], b"hi");
        submit(hal, 2, Op::Shutdown { fd, how: libc::SHUT_RDWR });
        assert_eq!(one(hal).result, 0);
        // No SIGPIPE.
        submit(hal, 3, Op::Send { fd, buf: b"hi".as_ptr(), len: 2, flags });
        assert_eq!(one(hal).result, -libc::EPIPE);
    });
}

#[test]
fn non_blocking_sockets_wait_as_others_do() {
    on_every_rung(&UringConfig::default(), |hal| {
        let (a, mut b) = UnixStream::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        a.set_nonblocking(true).unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut buf = [0u8; 8];
        let fd = a.as_raw_fd();
        submit(hal, 0, Op::Recv { fd, buf: buf.as_mut_ptr(), len: 8, flags: 0 });
        submit(hal, 1, Op::RecvPooled { fd, len: 0 });
        submit(hal, 2, Op::Accept { fd: listener.as_raw_fd() });
        let mut done = Vec::new();
        hal.turn(Wait::For(Duration::from_millis(10)), &mut done).unwrap();
        assert!(done.is_empty(), "{done:?}");
        b.write_all(b"x").unwrap();
        assert_eq!(one(hal).result, 1);
        b.write_all(b"y").unwrap();
        assert_eq!(one(hal).result, 1);
        hal.cancel(token(2));
        assert_eq!(one(hal).result, -libc::ECANCELED);
    });
}

#[test]
fn pooled_receives_lease_their_buffers_and_get_them_back() {
    let config = UringConfig { pool_buffers: 3, pool_buffer_size: 64, ..UringConfig::default() };
    on_every_rung(&config, |hal| {
        let (a, mut b) = UnixStream::pair().unwrap();
        let fd = a.as_raw_fd();
        for round in 0..50 {
            let mut leases = Vec::new();
            for n in 0..3 {
                submit(hal, n, Op::RecvPooled { fd, len: if n == 0 { 2 } else { 0 } });
                b.write_all(&[round; 5][..if n == 0 { 2 } else { 5 }]).unwrap();
                let done = one(hal);
                let lease = done.lease.expect("there was a buffer");
                assert_eq!(lease.len(), done.result as usize);
                assert!(lease.iter().all(|&byte| byte == round));
                leases.push(lease);
            }
            // All are leased: the answer comes at once, and nothing is in flight.
            // SAFETY: names no memory.
            let answer = unsafe { hal.submit(token(3), Op::RecvPooled { fd, len: 0 }, false) };
            assert_eq!(answer, Some(-libc::ENOBUFS));
            std::thread::spawn(move || drop(leases)).join().unwrap();
        }
        // Two want the last buffer; the kernel tells the loser.
        let mut leases = Vec::new();
        for n in 0..2 {
            submit(hal, n, Op::RecvPooled { fd, len: 0 });
            b.write_all(b"x").unwrap();
            leases.push(one(hal).lease);
        }
        let (c, mut d) = UnixStream::pair().unwrap();
        submit(hal, 2, Op::RecvPooled { fd, len: 0 });
        submit(hal, 3, Op::RecvPooled { fd: c.as_raw_fd(), len: 0 });
        b.write_all(b"x").unwrap();
        d.write_all(b"x").unwrap();
        let mut results: Vec<_> = collect(hal, 2).iter().map(|c| c.result).collect();
        results.sort_unstable();
        assert_eq!(results, [-libc::ENOBUFS, 1]);
        // End of stream and cancel lease nothing and lose nothing.
        drop(leases);
        hal.turn(Wait::No, &mut Vec::new()).unwrap();
        drop(b);
        for _ in 0..10 {
            submit(hal, 0, Op::RecvPooled { fd, len: 0 });
            let done = one(hal);
            assert_eq!((done.result, done.lease.is_none()), (0, true));
        }
    });
}

#[test]
fn accepts() {
    on_every_rung(&UringConfig::default(), |hal| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = listener.as_raw_fd();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        // One that finds a connection, and one that waits for it.
        for waits in [false, true] {
            if waits {
                submit(hal, 0, Op::Accept { fd });
            }
            clients.push(TcpStream::connect(address).unwrap());
            if !waits {
                submit(hal, 0, Op::Accept { fd });
            }
            let done = one(hal);
            assert!(done.result >= 0);
            // SAFETY: the accepted socket is ours.
            drop(unsafe { OwnedFd::from_raw_fd(done.result) });
        }
        submit(hal, 0, Op::Accept { fd });
        hal.cancel(token(0));
        assert_eq!(one(hal).result, -libc::ECANCELED);
    });
}

#[test]
fn cancels_reach_operations_wherever_they_are() {
    let config = UringConfig { entries: 8, cq_entries: 16, ..UringConfig::default() };
    on_every_rung(&config, |hal| {
        let (a, _b) = UnixStream::pair().unwrap();
        let (fd, mut buf) = (a.as_raw_fd(), [0u8; 8]);
        let recv = Op::Recv { fd, buf: buf.as_mut_ptr(), len: 8, flags: 0 };
        for submitted in [true, false] {
            // Some in the queue or the kernel, some in the backlog.
            for n in 0..40 {
                submit(hal, n, recv);
            }
            if submitted {
                hal.turn(Wait::No, &mut Vec::new()).unwrap();
            }
            for n in (0..40).rev() {
                hal.cancel(token(n));
                hal.cancel(token(n));
            }
            hal.cancel(token(1000));
            assert!(collect(hal, 40).iter().all(|c| c.result == -libc::ECANCELED));
        }
        // A late cancel does not meet the token's next owner.
        submit(hal, 0, Op::Nop);
        one(hal);
        hal.cancel(token(0));
        submit(hal, 0, Op::Nop);
        assert_eq!(one(hal).result, 0);
    });
}

#[test]
fn wakes_end_the_sleep_and_none_is_lost() {
    on_every_rung(&UringConfig::default(), |hal| {
        let wake = hal.wake_handle();
        let mut done = Vec::new();
        // Before the first turn.
        wake.wake();
        hal.turn(Wait::Forever, &mut done).unwrap();
        for _ in 0..200 {
            let other = wake.clone();
            let thread = std::thread::spawn(move || other.wake());
            hal.turn(Wait::Forever, &mut done).unwrap();
            thread.join().unwrap();
        }
        wake.wake();
        wake.wake();
        hal.turn(Wait::Forever, &mut done).unwrap();
        // Many count as one.
        let start = Instant::now();
        hal.turn(Wait::For(Duration::from_millis(20)), &mut done).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(19));
        assert!(done.is_empty());
    });
}

#[test]
fn a_turn_sleeps_as_long_as_it_is_told() {
    on_every_rung(&UringConfig::default(), |hal| {
        let mut done = Vec::new();
        hal.turn(Wait::No, &mut done).unwrap();
        let start = Instant::now();
        hal.turn(Wait::For(Duration::ZERO), &mut done).unwrap();
        assert!(start.elapsed() < Duration::from_millis(10));
        hal.turn(Wait::For(Duration::from_millis(30)), &mut done).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(30));
        // Longer than the kernel can count: ends with what completes.
        submit(hal, 0, Op::Nop);
        hal.turn(Wait::For(Duration::MAX), &mut done).unwrap();
        assert_eq!(done.len(), 1);
    });
}

#[test]
fn turns_that_never_sleep_see_every_completion() {
    on_every_rung(&UringConfig::default(), |hal| {
        let pairs: Vec<_> = (0..400).map(|_| UnixStream::pair().unwrap()).collect();
        for (n, (a, _)) in pairs.iter().enumerate() {
            submit(hal, n, Op::Poll { fd: a.as_raw_fd(), events: libc::POLLIN as u32 });
        }
        let mut done = Vec::new();
        for _ in 0..10 {
            hal.turn(Wait::No, &mut done).unwrap();
        }
        assert!(done.is_empty());
        for (_, b) in &pairs {
            (&*b).write_all(b"x").unwrap();
        }
        for _ in 0..400 {
            let before = done.len();
            hal.turn(Wait::No, &mut done).unwrap();
            assert!(done.len() - before <= BATCH);
        }
        assert_eq!(done.len(), 400);
    });
}

#[test]
fn what_the_kernel_lacks_is_done_by_threads() {
    // SAFETY: it is given the address of a `u32`.
    unsafe fn run(arg: *mut c_void) -> i32 {
        // SAFETY: see above.
        unsafe { *arg.cast::<u32>() as i32 }
    }
    use std::ffi::c_void;
    on_every_rung(&UringConfig::default(), |hal| {
        let mut number = 42u32;
        submit(hal, 0, Op::Call { run, arg: (&raw mut number).cast() });
        assert_eq!(one(hal).result, 42);
        hal.kernel = hal.kernel.without(io_uring::opcode::Ftruncate::CODE);
        let mut file = temp_file();
        submit(hal, 1, Op::SetLength { fd: file.as_raw_fd(), len: 9 });
        assert_eq!(one(hal).result, 0);
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content, [0; 9]);
    });
}

/// Each operation on names and ranges: by the ring where the kernel has an opcode for it, by a thread
/// where not, with the same results.
#[test]
fn names_and_ranges_by_the_ring_and_by_threads() {
    use io_uring::opcode as code;
    let name = |path: &std::path::Path| {
        std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
    };
    let dir = std::env::temp_dir().join(format!("overlapped-names-{}", std::process::id()));
    on_every_rung(&UringConfig::default(), |hal| {
        let whole = hal.kernel;
        for (round, by_threads) in [false, true].into_iter().enumerate() {
            std::fs::create_dir(&dir).unwrap();
            let directory = File::open(&dir).unwrap();
            let at = directory.as_raw_fd();
            let file = temp_file();
            let fd = file.as_raw_fd();
            // SAFETY: plain data.
            let mut stat: libc::statx = unsafe { mem::zeroed() };
            let (nofollow, out) = (libc::AT_SYMLINK_NOFOLLOW, (&raw mut stat).cast());
            let long = name(&dir.join("b"));
            let p = |path: &'static std::ffi::CStr| path.as_ptr();
            let make = Op::MakeDirectory { at, path: p(c"d"), mode: 0o700 };
            let gone = Op::Unlink { at, path: p(c"b"), flags: 0 };
            let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let none = -libc::ENOENT;
            let steps = [
                (code::MkDirAt::CODE, make, 0),
                (code::MkDirAt::CODE, make, -libc::EEXIST),
                (code::SymlinkAt::CODE, Op::SymbolicLink { at, target: p(c"d"), path: p(c"a") }, 0),
                (code::LinkAt::CODE, Op::Link { at, from: p(c"a"), to: p(c"b"), flags: 0 }, 0),
                (code::Statx::CODE, Op::StatPath { at, path: p(c"b"), flags: nofollow, out }, 0),
                (code::Statx::CODE, Op::StatPath { at, path: long.as_ptr(), flags: 0, out }, 0),
                (code::Statx::CODE, Op::StatPath { at, path: p(c"c"), flags: 0, out }, none),
                (code::RenameAt::CODE, Op::Rename { at, from: p(c"c"), to: p(c"b") }, none),
                // Both are names of one file: nothing happens.
                (code::RenameAt::CODE, Op::Rename { at, from: p(c"a"), to: p(c"b") }, 0),
                (code::RenameAt::CODE, Op::Rename { at, from: p(c"a"), to: p(c"c") }, 0),
                (code::UnlinkAt::CODE, gone, 0),
                (code::UnlinkAt::CODE, gone, none),
                (code::UnlinkAt::CODE, Op::Unlink { at, path: p(c"d"), flags: 0 }, -libc::EISDIR),
                (
                    code::UnlinkAt::CODE,
                    Op::Unlink { at, path: p(c"d"), flags: libc::AT_REMOVEDIR },
                    0,
                ),
                (code::UnlinkAt::CODE, Op::Unlink { at, path: p(c"c"), flags: 0 }, 0),
                (code::Fallocate::CODE, Op::Allocate { fd, mode: 0, offset: 4096, len: 4096 }, 0),
                (code::Fallocate::CODE, Op::Allocate { fd, mode: punch, offset: 0, len: 9 }, 0),
                (
                    code::Fallocate::CODE,
                    Op::Allocate { fd, mode: punch, offset: 0, len: 0 },
                    -libc::EINVAL,
                ),
                (
                    code::Fadvise::CODE,
                    Op::Advise { fd, offset: 0, len: 0, advice: libc::POSIX_FADV_RANDOM },
                    0,
                ),
                (
                    code::Fadvise::CODE,
                    Op::Advise { fd, offset: 0, len: 9, advice: 99 },
                    -libc::EINVAL,
                ),
            ];
            for (n, (opcode, op, result)) in steps.into_iter().enumerate() {
                hal.kernel = if by_threads { whole.without(opcode) } else { whole };
                let pooled = !hal.kernel.has(opcode.into());
                submit(hal, 100 * round + n, op);
                assert_eq!(hal.pooled, usize::from(pooled), "{op:?}");
                assert_eq!(one(hal).result, result, "{op:?}");
            }
            // More than an entry has room for.
            let len = u64::from(u32::MAX) + 1;
            let advice = libc::POSIX_FADV_NORMAL;
            submit(hal, 99, Op::Advise { fd, offset: 0, len, advice });
            assert_eq!((hal.pooled, one(hal).result), (1, 0));
            hal.kernel = whole;
            assert_eq!(file.metadata().unwrap().len(), 8192);
            assert_eq!(u32::from(stat.stx_mode) & libc::S_IFMT, libc::S_IFDIR);
            // Nothing is left in it.
            std::fs::remove_dir(&dir).unwrap();
        }
    });
}

#[test]
fn rings_come_and_go_on_one_thread() {
    // More than a thread's slots for registered descriptors, in a row and at once.
    let mut alive = Vec::new();
    for n in 0..40 {
        let mut hal = UringHal::new(&UringConfig::default()).unwrap();
        submit(&mut hal, 0, Op::Nop);
        one(&mut hal);
        if n % 2 == 0 {
            alive.push(hal);
        }
    }
}
