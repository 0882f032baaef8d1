//! Pipes and FIFOs.

mod support;

use std::ffi::CString;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{AsyncReadExt, AsyncWriteExt, future};
use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::io::{PipeReader, PipeWriter, pipe, pipe_stack_of, pipe_with};
use overlapped::time::{sleep, timeout};
use overlapped::{CompletionPort, operation};
use support::{Dir, alone, both, descriptors, kind, pattern, poll_once, status, until, workers};

/// Long enough for a request to complete that can.
async fn a_while() {
    sleep(Duration::from_millis(10)).await;
}

#[test]
fn carries_bytes_both_while_waiting_and_not() {
    both(async |_| {
        let (reader, writer) = pipe().unwrap();
        assert_eq!(writer.write("hello").await.unwrap(), (5, "hello"));
        assert_eq!(reader.read(Vec::with_capacity(9)).await.unwrap().1, b"hello");
        let mut read = reader.read(vec![0; 3]);
        assert!(poll_once(&mut read).is_pending());
        writer.write("abcdef").await.unwrap();
        assert_eq!(read.await.unwrap().1, b"abc");
        assert_eq!(&reader.read_lease().await.unwrap()[..], b"def");
        let (lease, written) = future::join(reader.read_lease(), writer.write("pooled")).await;
        assert_eq!((&lease.unwrap()[..], written.unwrap().0), (&b"pooled"[..], 6));
        assert_eq!(reader.read(Vec::new()).await.unwrap().0, 0);
        // More than a pipe holds.
        let (sent, got) = future::join(
            writer.write_all(pattern(1 << 20)),
            reader.read_exact(Vec::with_capacity(1 << 20)),
        )
        .await;
        sent.unwrap();
        assert!(got.unwrap().1 == pattern(1 << 20));
        writer.write("last").await.unwrap();
        writer.close().await.unwrap();
        let error = reader.read_exact(vec![0; 5]).await.unwrap_err();
        assert_eq!(error.status(), overlapped::Status::END_OF_FILE);
        assert_eq!(&error.into_buf()[..4], b"last");
        assert_eq!(reader.read(vec![0; 5]).await.unwrap().0, 0);
        assert!(reader.read_lease().await.unwrap().is_empty());
        assert!(format!("{reader:?}").contains("pipe"));
    });
}

#[test]
fn a_reader_that_is_gone() {
    both(async |_| {
        let (reader, writer) = pipe().unwrap();
        // A write that waits for room.
        let mut write = std::pin::pin!(writer.write_all(vec![0; 1 << 20]));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(write.as_mut().poll(&mut cx).is_pending());
        a_while().await;
        reader.close().await.unwrap();
        assert_eq!(kind(write.await), ErrorKind::BrokenPipe);
        let error = writer.write("x").await.unwrap_err();
        assert_eq!((error.status().kind(), *error.buf()), (ErrorKind::BrokenPipe, "x"));
    });
}

use std::future::Future;

#[test]
fn in_tasks_of_workers() {
    workers(2, |_| async {
        let (reader, writer) = pipe().unwrap();
        let copy = overlapped::spawn(async move {
            let mut whole = Vec::new();
            loop {
                let lease = reader.read_lease().await.unwrap();
                if lease.is_empty() {
                    return whole;
                }
                whole.extend_from_slice(&lease);
            }
        });
        for part in pattern(500_000).chunks(7_001) {
            writer.write_all(part.to_vec()).await.unwrap();
        }
        drop(writer);
        assert!(copy.await.unwrap() == pattern(500_000));
    });
}

#[test]
fn no_byte_is_lost_when_reads_time_out() {
    both(async |_| {
        let (reader, writer) = pipe().unwrap();
        let whole = pattern(20_000);
        let send = async {
            for part in whole.chunks(13) {
                writer.write_all(part.to_vec()).await.unwrap();
                overlapped::yield_now().await;
            }
        };
        let receive = async {
            let (mut got, mut tries) = (Vec::new(), 0u32);
            while got.len() < whole.len() {
                tries += 1;
                match tries % 3 {
                    0 => {
                        let mut read = reader.read(Vec::with_capacity(7));
                        if let Poll::Ready(part) = poll_once(&mut read) {
                            got.extend(part.unwrap().1);
                        }
                    }
                    1 => {
                        let mut read = reader.read_lease();
                        if let Poll::Ready(part) = poll_once(&mut read) {
                            got.extend_from_slice(&part.unwrap());
                        }
                    }
                    _ => {
                        let limit = Duration::from_micros(u64::from(tries % 40));
                        if let Ok(part) = timeout(limit, reader.read(Vec::with_capacity(9))).await {
                            got.extend(part.unwrap().1);
                        }
                    }
                }
                overlapped::yield_now().await;
            }
            assert!(got == whole);
        };
        future::join(send, receive).await;
    });
}

#[test]
fn filters() {
    both(async |_| {
        let filters = || {
            let pass = pass(PassKind::Future);
            pipe_stack_of([Arc::new(Xor(0x77)) as Arc<dyn Driver>, pass]).unwrap()
        };
        let (reader, writer) = pipe_with(filters(), pipe_stack_of([]).unwrap()).unwrap();
        let changed: Vec<u8> = b"plain".iter().map(|b| b ^ 0x77).collect();
        writer.write(changed.clone()).await.unwrap();
        assert_eq!(reader.read(vec![0; 9]).await.unwrap().1, b"plain");
        // What was dropped has been through the filters once.
        let mut read = reader.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        writer.write(changed.clone()).await.unwrap();
        a_while().await;
        drop(read);
        assert_eq!(reader.read(vec![0; 2]).await.unwrap().1, b"pl");
        assert_eq!(&reader.read_lease().await.unwrap()[..], b"ain");
        let (reader, writer) = pipe_with(pipe_stack_of([]).unwrap(), filters()).unwrap();
        let (_, given) = writer.write("plain").await.unwrap();
        assert_eq!(given, "plain");
        assert_eq!(reader.read(vec![0; 9]).await.unwrap().1, changed);
    });
}

#[test]
fn children_std_and_futures_traits() {
    both(async |_| {
        let mut child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let to = PipeWriter::from_std(OwnedFd::from(to).into()).unwrap();
        let from = PipeReader::from_std(OwnedFd::from(from).into()).unwrap();
        let mut to = to.compat();
        to.write_all(b"through a child").await.unwrap();
        to.close().await.unwrap();
        drop(to);
        let mut text = String::new();
        from.compat().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "through a child");
        assert!(child.wait().unwrap().success());

        let (reader, writer) = pipe().unwrap();
        let mut read = reader.read(vec![0; 9]);
        assert!(poll_once(&mut read).is_pending());
        writer.write("late").await.unwrap();
        a_while().await;
        drop(read);
        assert_eq!(kind(reader.into_std()), ErrorKind::ResourceBusy);
        let (reader, writer) = pipe().unwrap();
        writer.write("x").await.unwrap();
        reader.read(vec![0; 1]).await.unwrap();
        let (mut reader, mut writer) = (reader.into_std().unwrap(), writer.into_std().unwrap());
        for end in [reader.as_raw_fd(), writer.as_raw_fd()] {
            // SAFETY: the call only looks.
            let flags = unsafe { libc::fcntl(end, libc::F_GETFL) };
            assert_eq!(flags & libc::O_NONBLOCK, 0, "as `std` expects it");
        }
        writer.write_all(b"plain").unwrap();
        let mut buf = [0; 9];
        assert_eq!(reader.read(&mut buf).unwrap(), 5);
    });
}

#[test]
fn fifos() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("fifo");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a path that lives through the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let error = PipeWriter::open(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
        let reader = PipeReader::open(&path).unwrap();
        for round in 0..3 {
            let reader = if round == 0 { &reader } else { &PipeReader::open(&path).unwrap() };
            let mut read = reader.read(vec![0; 9]);
            assert!(poll_once(&mut read).is_pending(), "it waits for a writer");
            let writer = PipeWriter::open(&path).unwrap();
            a_while().await;
            assert!(poll_once(&mut read).is_pending(), "and for what that writes");
            writer.write("hello").await.unwrap();
            assert_eq!(read.await.unwrap().1, b"hello");
            drop(writer);
            assert_eq!(reader.read(vec![0; 9]).await.unwrap().0, 0);
        }
        assert_eq!(kind(PipeReader::open(dir.path("none"))), ErrorKind::NotFound);
        assert_eq!(kind(PipeReader::open(dir.file("file", ""))), ErrorKind::InvalidInput);
    });
}

#[test]
fn ports_and_plain_threads() {
    alone("ports_and_plain_threads", |_| {
        let (reader, writer) = pipe().unwrap();
        let port = CompletionPort::new();
        assert!(reader.read(Vec::<u8>::with_capacity(9)).post(&port, 3).is_ok());
        writer.write("posted").wait().unwrap();
        let packet = port.remove(None).unwrap();
        let (n, buf) = packet.into_output::<operation::Read<Vec<u8>>>().unwrap();
        assert_eq!((n, &buf[..]), (6, &b"posted"[..]));
        let read = reader.read(vec![0; 9]).deadline(Duration::from_millis(20));
        assert_eq!(kind(read.wait()), ErrorKind::TimedOut);
    });
}

#[test]
fn what_waits_ends_and_nothing_leaks() {
    alone("what_waits_ends_and_nothing_leaks", |backend| {
        support::local(backend).block_on(async {
            let (warm, up) = pipe().unwrap();
            up.write("x").await.unwrap();
            warm.read(vec![0; 1]).await.unwrap();
            let before = descriptors();
            for _ in 0..20 {
                let (reader, writer) = pipe().unwrap();
                let mut read = reader.read(vec![0; 9]);
                assert!(poll_once(&mut read).is_pending());
                reader.object().cancel_requests();
                assert_eq!(status(read.await), overlapped::Status::CANCELLED);
                let mut read = reader.read_lease();
                assert!(poll_once(&mut read).is_pending());
                drop(read);
                writer.close().await.unwrap();
                reader.close().await.unwrap();
            }
            until(|| descriptors() == before).await;
            // SAFETY: plain numbers; only this process is limited.
            unsafe {
                let limit = libc::rlimit { rlim_cur: 60, rlim_max: 60 };
                assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
            }
            let mut pipes = Vec::new();
            let error = loop {
                match pipe() {
                    Ok(pipe) => pipes.push(pipe),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
            let (reader, writer) = pipes.pop().unwrap();
            writer.write("still here").await.unwrap();
            assert_eq!(reader.read(vec![0; 20]).await.unwrap().1, b"still here");
        });
    });
}
