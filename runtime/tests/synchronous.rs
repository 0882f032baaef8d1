//! Synchronous file objects and the rules of offsets on real files (I-35 to I-38), from tasks and from
//! plain threads.

mod support;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use futures_util::future;
use overlapped::apc::IoThread;
use overlapped::driver::filter::{PassKind, pass};
use overlapped::fs::{File, OpenOptions};
use overlapped::io::pipe;
use overlapped::operation::QueryPosition;
use overlapped::wait::{Alertable, Event, Waited, sleep};
use overlapped::{CompletionPort, Request, Status};
use support::{Dir, alone, both, pattern, poll_once, status, until_blocking, workers};

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true).synchronous(Alertable::No)
}

fn fifo(dir: &Dir) -> PathBuf {
    let path = dir.path("fifo");
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a path that ends with a NUL.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    path
}

fn open_fifo(path: &Path, alertable: Option<Alertable>) -> File {
    // Both ends, so that opening it waits for nobody, and reading does.
    let options = OpenOptions::new().read(true).write(true);
    match alertable {
        Some(alertable) => options.synchronous(alertable).open_wait(path).unwrap(),
        None => options.open_wait(path).unwrap(),
    }
}

/// I-35: each request goes on where the one before has ended; errors and drops move nothing.
#[test]
fn i35_the_current_offset() {
    both(async |_| {
        let dir = Dir::new();
        for filters in [0, 2] {
            let options =
                (0..filters).fold(options(), |options, _| options.filter(pass(PassKind::Routine)));
            let file = options.open(dir.file("f", pattern(1000))).await.unwrap();
            let (n, bytes) = file.read(Vec::with_capacity(10)).await.unwrap();
            assert_eq!((n, &bytes[..]), (10, &pattern(1000)[..10]));
            assert_eq!(file.read(Vec::with_capacity(5)).await.unwrap().1, pattern(1000)[10..15]);
            assert_eq!(file.position().await.unwrap(), 15);
            // One that names its offset moves the current one too, as in NT.
            file.read_at(Vec::with_capacity(4), 100).await.unwrap();
            assert_eq!(file.position().await.unwrap(), 104);
            let two = vec![Vec::with_capacity(3), Vec::with_capacity(4)];
            file.read_vectored_at(two, 200).await.unwrap();
            assert_eq!(file.position().await.unwrap(), 207);
            file.set_position(998).await.unwrap();
            assert_eq!(file.read(Vec::with_capacity(9)).await.unwrap().0, 2);
            assert_eq!(file.read(Vec::with_capacity(9)).await.unwrap().0, 0, "the end");
            assert_eq!(file.write(b"more".to_vec()).await.unwrap().0, 4);
            assert_eq!(file.metadata().await.unwrap().len(), 1004);
            assert_eq!(status(file.set_position(1 << 63).await), Status::OFFSET_OVERFLOW);
            assert_eq!(file.position().await.unwrap(), 1004, "an error moves nothing");
            // All at once: each gets its own part.
            file.set_position(0).await.unwrap();
            let reads = (0..50).map(|_| file.read(Vec::with_capacity(20)));
            for (i, result) in future::join_all(reads).await.into_iter().enumerate() {
                assert_eq!(result.unwrap().1, pattern(1000)[i * 20..][..20]);
            }
            file.close().await.unwrap();
        }
    });
}

/// I-35: what several tasks write comes out whole, one behind the other, whoever was first.
#[test]
fn i35_shared_by_tasks() {
    workers(2, async |_| {
        let dir = Dir::new();
        let file = Arc::new(options().open(dir.path("log")).await.unwrap());
        let tasks: Vec<_> = (0..8u8)
            .map(|task| {
                let file = file.clone();
                overlapped::spawn(async move {
                    for _ in 0..50 {
                        assert_eq!(file.write(vec![task; 100]).await.unwrap().0, 100);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(file.position().await.unwrap(), 8 * 50 * 100);
        let written = overlapped::fs::read(dir.path("log")).await.unwrap();
        let mut counts = [0; 8];
        for part in written.chunks(100) {
            assert!(part.iter().all(|byte| *byte == part[0]), "whole");
            counts[usize::from(part[0])] += 1;
        }
        assert_eq!(counts, [50; 8]);
    });
}

/// C-1, I-35: the same from plain threads, which wait.
#[test]
fn i35_shared_by_threads() {
    alone("i35_shared_by_threads", |_| {
        let dir = Dir::new();
        let file = Arc::new(options().open_wait(dir.file("f", pattern(6000))).unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (file, taken) = (file.clone(), taken.clone());
                thread::spawn(move || {
                    loop {
                        let (n, bytes) = file.read(Vec::with_capacity(10)).wait().unwrap();
                        if n == 0 {
                            return;
                        }
                        taken.fetch_add(n, SeqCst);
                        let all = pattern(6000);
                        assert!(all.chunks(10).any(|part| part == bytes), "on a boundary");
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(taken.load(SeqCst), 6000, "every byte once");
        assert_eq!(file.position().wait().unwrap(), 6000);
        Arc::into_inner(file).unwrap().close_wait().unwrap();
    });
}

/// An appending synchronous file writes at the end, wherever it read last, and is behind its own bytes
/// then.
#[test]
fn i35_appending() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.file("f", "12345");
        let options = OpenOptions::new().read(true).append(true);
        let file = options.clone().synchronous(Alertable::No).open(&path).await.unwrap();
        assert_eq!(file.read(Vec::with_capacity(2)).await.unwrap().1, b"12");
        file.write(b"67".to_vec()).await.unwrap();
        assert_eq!(file.position().await.unwrap(), 7);
        options.open(&path).await.unwrap().write_at(b"89".to_vec(), 0).await.unwrap();
        assert_eq!(file.position().await.unwrap(), 7, "of this file object alone");
        file.write_vectored_at(vec![b"a".to_vec(), b"b".to_vec()], 3).await.unwrap();
        assert_eq!(file.position().await.unwrap(), 11);
        file.set_position(1).await.unwrap();
        assert_eq!(file.read(Vec::with_capacity(20)).await.unwrap().1, b"23456789ab");
    });
}

/// I-36: a file with offsets is told one. Appending writes, and what has no offsets, need none.
#[test]
fn i36_offsets() {
    both(async |_| {
        let dir = Dir::new();
        let file = options_async().open(dir.file("f", "12345")).await.unwrap();
        let error = file.read(vec![7; 3].into_boxed_slice()).await.unwrap_err();
        assert_eq!(
            (error.status(), &error.into_buf()[..]),
            (Status::INVALID_PARAMETER, &[7; 3][..])
        );
        let error = file.write(vec![7; 3]).await.unwrap_err();
        assert_eq!((error.status(), error.into_buf()), (Status::INVALID_PARAMETER, vec![7; 3]));
        assert_eq!(status(file.position().await), Status::INVALID_PARAMETER);
        assert_eq!(status(file.set_position(0).await), Status::INVALID_PARAMETER);
        assert_eq!(file.read_at(Vec::with_capacity(9), 0).await.unwrap().1, b"12345");
        let append = OpenOptions::new().read(true).append(true);
        let append = append.open(dir.path("f")).await.unwrap();
        append.write(b"6".to_vec()).await.unwrap();
        assert_eq!(status(append.read(vec![0; 1]).await), Status::INVALID_PARAMETER);
        assert_eq!(append.read_at(Vec::with_capacity(9), 0).await.unwrap().1, b"123456");
    });
}

fn options_async() -> OpenOptions {
    OpenOptions::new().read(true).write(true).create(true)
}

/// I-36: pipes and terminals are exempt, opened by name too, synchronous or not.
#[test]
fn i36_what_has_no_offsets() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true);
        let fifo = fifo(&dir);
        let append = OpenOptions::new().read(true).append(true).open(&fifo).await.unwrap();
        assert_eq!(append.write_at(b"123".to_vec(), 7).await.unwrap().0, 3, "whatever the offset");
        assert_eq!(append.read(Vec::with_capacity(9)).await.unwrap().1, b"123");
        let master = Path::new("/dev/ptmx");
        for (path, answer) in [(&*fifo, true), (master, false)] {
            if !path.exists() {
                continue;
            }
            for synchronous in [false, true] {
                let options = options.clone();
                let options =
                    if synchronous { options.synchronous(Alertable::No) } else { options };
                let file = options.open(path).await.unwrap();
                assert_eq!(file.write(b"12345".to_vec()).await.unwrap().0, 5);
                if answer {
                    assert_eq!(file.read(Vec::with_capacity(3)).await.unwrap().1, b"123");
                    assert_eq!(file.read(Vec::with_capacity(3)).await.unwrap().1, b"45");
                }
                if synchronous {
                    assert_eq!(file.position().await.unwrap(), 0, "it has none, and keeps none");
                }
            }
        }
    });
}

/// C-10, C-19: no port for a synchronous file.
#[test]
fn c10_no_port() {
    both(async |_| {
        let dir = Dir::new();
        let file = options().open(dir.path("f")).await.unwrap();
        let refused = CompletionPort::new().associate(file.object(), 1);
        assert_eq!(refused, Err(Status::INVALID_PARAMETER));
        assert_eq!(file.object().skip_packet_on_success(), Err(Status::INVALID_PARAMETER));
    });
}

/// I-35: a read that waits keeps the others waiting, in their order, and one that is dropped lets them
/// go on.
#[test]
fn i35_behind_a_read_that_waits() {
    both(async |_| {
        let (reader, writer) = pipe().unwrap();
        reader.object().make_synchronous(Alertable::No).unwrap();
        let mut waits = reader.read(Vec::with_capacity(1));
        assert!(poll_once(&mut waits).is_pending());
        let mut next = reader.read(Vec::with_capacity(2));
        let mut asks = Request::new(reader.object(), QueryPosition);
        let mut last = reader.read(Vec::with_capacity(9));
        for _ in 0..3 {
            overlapped::yield_now().await;
            assert!(poll_once(&mut next).is_pending());
            assert!(poll_once(&mut asks).is_pending());
            assert!(poll_once(&mut last).is_pending());
        }
        drop(waits);
        writer.write(b"12345".to_vec()).await.unwrap();
        assert_eq!(last.await.unwrap().1, b"345", "behind the others, whoever is awaited first");
        assert_eq!(next.await.unwrap().1, b"12");
        assert_eq!(asks.await.unwrap(), 0);
    });
}

/// I-38: an APC ends an alertable wait, by cancelling the request: the call returns CANCELLED when it
/// is done, and the APC has run. It does so for a request that waits for its turn, too. On a file that
/// is not alertable the APC stays queued.
#[test]
fn i38_alertable_waits() {
    alone("i38_alertable_waits", |_| {
        for (alertable, behind) in
            [(Alertable::Yes, false), (Alertable::Yes, true), (Alertable::No, false)]
        {
            let (reader, _writer) = pipe().unwrap();
            reader.object().make_synchronous(alertable).unwrap();
            let reader = Arc::new(reader);
            let held = behind.then(|| reader.read(Vec::with_capacity(1)).start().unwrap());
            let (send, target) = mpsc::channel();
            let theirs = reader.clone();
            let thread = thread::spawn(move || {
                send.send(IoThread::current().unwrap()).unwrap();
                status(theirs.read(Vec::with_capacity(1)).wait())
            });
            let target = target.recv().unwrap();
            let ran = Event::manual(false);
            let runs = ran.clone();
            target.queue(move || _ = runs.set()).unwrap();
            if alertable == Alertable::No {
                until_blocking(|| target.cancel_synchronous_io().is_ok());
            }
            // Otherwise the APC alone ends it.
            assert_eq!(thread.join().unwrap(), Status::CANCELLED);
            assert_eq!(ran.is_set(), alertable == Alertable::Yes);
            drop(held);
        }
    });
}

/// I-38: an APC that is queued before the call ends it too, but not one that is complete at once.
#[test]
fn i38_apcs_that_are_there_already() {
    alone("i38_apcs_that_are_there_already", |_| {
        let (reader, _writer) = pipe().unwrap();
        reader.object().make_synchronous(Alertable::Yes).unwrap();
        let here = IoThread::current().unwrap();
        let (send, ran) = mpsc::channel();
        here.queue(move || send.send(1).unwrap()).unwrap();
        assert_eq!(Request::new(reader.object(), QueryPosition).wait().unwrap(), 0);
        assert!(ran.try_recv().is_err(), "it did not wait");
        assert_eq!(status(reader.read(Vec::with_capacity(1)).wait()), Status::CANCELLED);
        assert_eq!(ran.try_recv(), Ok(1));
        let none = sleep(Some(Duration::ZERO), Alertable::Yes);
        assert_eq!(none, Ok(Waited::TimedOut));
    });
}

/// I-37, D2: whatever the operation and the file object, a request that pended and failed leaves its
/// status in its block, and sets its event.
#[test]
fn i37_pended_errors_are_in_the_block() {
    alone("i37_pended_errors_are_in_the_block", |_| {
        let dir = Dir::new();
        let path = fifo(&dir);
        for alertable in [None, Some(Alertable::No)] {
            let file = open_fifo(&path, alertable);
            let event = Event::manual(false);
            // A named pipe cannot be flushed.
            match file.sync_all().signal(&event) {
                Ok(block) => {
                    event.wait(None).unwrap();
                    assert_eq!(block.status(), Status::from_errno(libc::EINVAL));
                }
                // I-31: at once.
                Err(result) => {
                    assert_eq!(status(result), Status::from_errno(libc::EINVAL));
                    assert!(!event.is_set());
                }
            }
            // By the call itself, whether it pended or not.
            assert_eq!(status(file.sync_all().wait()), Status::from_errno(libc::EINVAL));
            // One that certainly pends.
            let (reader, _writer) = pipe().unwrap();
            if let Some(alertable) = alertable {
                reader.object().make_synchronous(alertable).unwrap();
            }
            let block = reader.read(Vec::with_capacity(1)).signal(&event).unwrap();
            assert_eq!((block.status(), event.is_set()), (Status::PENDING, false));
            block.cancel();
            event.wait(None).unwrap();
            assert_eq!((block.status(), block.info()), (Status::CANCELLED, 0));
        }
    });
}
