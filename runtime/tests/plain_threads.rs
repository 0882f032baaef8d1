//! Requests of plain threads go on while their thread does something else: no completion is
//! stranded behind a busy or blocked one. One process per backend.

mod support;

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::operation::{Read, ReceiveLease};
use overlapped::{CompletionPort, IssuerScope, Limits, Status};
use support::{Dir, alone, descriptors_in, pattern, until_blocking};

fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

fn open(dir: &Dir) -> File {
    let options = OpenOptions::new().read(true).write(true);
    options.open_wait(dir.file("f", pattern(1 << 20))).unwrap()
}

/// How a thread stays away.
#[derive(Clone, Copy)]
enum Away {
    /// In a system call.
    Blocked,
    /// In a loop that makes none.
    Busy,
}

/// A thread that runs `first`, and is away until this is dropped.
struct Absent {
    thread: Option<thread::JoinHandle<()>>,
    back: Arc<AtomicBool>,
    unblock: Option<mpsc::Sender<()>>,
}

impl Absent {
    fn after(away: Away, first: impl FnOnce() + Send + 'static) -> Absent {
        let back = Arc::new(AtomicBool::new(false));
        let (unblock, blocked) = mpsc::channel::<()>();
        let (left, has_left) = mpsc::channel::<()>();
        let stop = back.clone();
        let thread = thread::spawn(move || {
            first();
            left.send(()).unwrap();
            match away {
                Away::Blocked => _ = blocked.recv(),
                Away::Busy => {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            }
        });
        has_left.recv().unwrap();
        Absent { thread: Some(thread), back, unblock: Some(unblock) }
    }
}

impl Drop for Absent {
    fn drop(&mut self) {
        self.back.store(true, Ordering::Relaxed);
        self.unblock.take();
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok());
    }
}

/// C-20, C-22: what a thread has issued, another takes from their port.
#[test]
fn a_port_strands_no_completion_behind_an_absent_thread() {
    alone("a_port_strands_no_completion_behind_an_absent_thread", |_| {
        for away in [Away::Blocked, Away::Busy] {
            let port = CompletionPort::new();
            let mut streams = Vec::new();
            let mut absent = Vec::new();
            for key in 0..3 {
                let (ours, theirs) = pair();
                let ours = Arc::new(ours);
                let (stream, issues) = (ours.clone(), port.clone());
                absent.push(Absent::after(away, move || {
                    stream.read_lease().post(&issues, key).unwrap();
                }));
                streams.push((ours, theirs));
            }
            for round in 0..20u8 {
                for (key, (ours, theirs)) in streams.iter_mut().enumerate() {
                    theirs.write_all(&[round, key as u8]).unwrap();
                    let packet = port.remove(None).unwrap();
                    assert_eq!(packet.key(), key as u64);
                    let lease = packet.into_output::<ReceiveLease>().unwrap();
                    assert_eq!(&lease[..], [round, key as u8]);
                    ours.read_lease().post(&port, key as u64).unwrap();
                }
            }
            drop(absent);
        }
    });
}

/// More than fit into the queues, of files, from a thread that leaves at once.
#[test]
fn everything_that_was_queued_is_submitted() {
    alone("everything_that_was_queued_is_submitted", |_| {
        const READS: u64 = 3000;
        let dir = Dir::new();
        let file = Arc::new(open(&dir));
        let port = CompletionPort::new();
        let (theirs, issues) = (file.clone(), port.clone());
        let absent = Absent::after(Away::Blocked, move || {
            for i in 0..READS {
                theirs.read_at(Vec::with_capacity(8), i * 8).post(&issues, i).unwrap();
            }
        });
        let expected = pattern(1 << 20);
        let mut seen = vec![false; READS as usize];
        for _ in 0..READS {
            let packet = port.remove(None).unwrap();
            let i = packet.key() as usize;
            assert!(!std::mem::replace(&mut seen[i], true));
            let (n, bytes) = packet.into_output::<Read<Vec<u8>>>().unwrap();
            assert_eq!((n, &bytes[..]), (8, &expected[i * 8..i * 8 + 8]));
        }
        drop(absent);
    });
}

#[test]
fn deadlines_and_cancels_reach_an_absent_threads_requests() {
    alone("deadlines_and_cancels_reach_an_absent_threads_requests", |_| {
        let (ours, _theirs) = pair();
        let ours = Arc::new(ours);
        let port = CompletionPort::new();
        let (stream, issues) = (ours.clone(), port.clone());
        let (send, cancel) = mpsc::channel();
        let absent = Absent::after(Away::Blocked, move || {
            let soon = Duration::from_millis(20);
            stream.read_lease().deadline(soon).post(&issues, 1).unwrap();
            send.send(stream.read_lease().post(&issues, 2).unwrap()).unwrap();
        });
        let late = port.remove(None).unwrap();
        assert_eq!((late.key(), late.status()), (1, Status::IO_TIMEOUT));
        let requests = overlapped::live_requests(Duration::from_secs(60));
        assert!(requests.silent.is_empty(), "the keeper answers for it: {requests:?}");
        assert_eq!(requests.requests.iter().filter(|r| r.route == "port").count(), 1);
        cancel.recv().unwrap().cancel();
        let cancelled = port.remove(None).unwrap();
        assert_eq!((cancelled.key(), cancelled.status()), (2, Status::CANCELLED));
        drop(absent);
    });
}

/// a file is closed although its home is away.
#[test]
fn a_file_of_an_absent_thread_is_closed() {
    alone("a_file_of_an_absent_thread_is_closed", |_| {
        let dir = Dir::new();
        let path = dir.file("f", "x");
        let (send, files) = mpsc::channel();
        let absent = Absent::after(Away::Blocked, move || {
            for _ in 0..10 {
                send.send(OpenOptions::new().read(true).open_wait(&path).unwrap()).unwrap();
            }
        });
        let files: Vec<_> = files.iter().collect();
        assert_eq!(descriptors_in(&dir), 10);
        drop(files);
        until_blocking(|| descriptors_in(&dir) == 0);
        drop(absent);
    });
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// An executor that knows nothing of processors.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// C-42: futures are awaited on an executor of somebody else's.
#[test]
fn awaiting_on_a_foreign_executor() {
    alone("awaiting_on_a_foreign_executor", |_| {
        block_on(async {
            let dir = Dir::new();
            let file = File::create(dir.path("f")).await.unwrap();
            let (n, _) = file.write_at(b"hello".to_vec(), 0).await.unwrap();
            assert_eq!(n, 5);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let client = thread::spawn(move || {
                block_on(async {
                    let client = TcpStream::connect(address).await.unwrap();
                    let ((), answer) = client.read_exact(Vec::with_capacity(5)).await.unwrap();
                    answer
                })
            });
            let (server, _) = listener.accept().await.unwrap();
            server.write_all(b"hello".to_vec()).await.unwrap();
            assert_eq!(client.join().unwrap(), b"hello");
            file.close().await.unwrap();
        });
    });
}

/// Threads come and go at any moment, each with requests on the others' files.
#[test]
fn threads_and_keeper_take_turns() {
    alone("threads_and_keeper_take_turns", |_| {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 400;
        let dir = Dir::new();
        let file = Arc::new(open(&dir));
        let expected = Arc::new(pattern(1 << 20));
        let port = CompletionPort::new();
        let threads: Vec<_> = (0..THREADS)
            .map(|me| {
                let (file, expected, port) = (file.clone(), expected.clone(), port.clone());
                thread::spawn(move || {
                    let mut taken = 0;
                    let mut random = me + 1;
                    for round in 0..ROUNDS {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        let offset = random % (1 << 20) - random % 8;
                        file.read_at(Vec::with_capacity(8), offset).post(&port, offset).unwrap();
                        match random % 16 {
                            0 => thread::sleep(Duration::from_micros(random % 4000)),
                            1 => drop(file.read_at(Vec::with_capacity(8), 0).wait().unwrap()),
                            _ => {}
                        }
                        if round % 3 == 0 {
                            continue;
                        }
                        if let Ok(packet) = port.remove(Some(Duration::from_micros(random % 999))) {
                            let at = packet.key() as usize;
                            let (n, bytes) = packet.into_output::<Read<Vec<u8>>>().unwrap();
                            assert_eq!(bytes[..n], expected[at..][..n]);
                            taken += 1;
                        }
                    }
                    taken
                })
            })
            .collect();
        let mut taken: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        while taken < THREADS * ROUNDS {
            port.remove(None).unwrap();
            taken += 1;
        }
        assert!(port.remove(Some(Duration::ZERO)).is_err());
    });
}

/// S-19: what another thread has taken is no charge any more, at the next request already.
#[test]
fn a_limit_is_free_again_when_others_have_taken_the_results() {
    alone("a_limit_is_free_again_when_others_have_taken_the_results", |_| {
        const LIMIT: usize = 16;
        let dir = Dir::new();
        let file = open(&dir);
        let port = CompletionPort::new();
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answered) = mpsc::channel();
        let taker = thread::spawn({
            let port = port.clone();
            move || {
                while asked.recv().is_ok() {
                    for _ in 0..LIMIT {
                        port.remove(None).unwrap().into_output::<Read<Vec<u8>>>().unwrap();
                    }
                    answer.send(()).unwrap();
                }
            }
        });
        let bytes = Limits { requests: usize::MAX, bytes: LIMIT * 64 };
        for limits in [Limits { requests: LIMIT, bytes: usize::MAX }, bytes] {
            IssuerScope::with_limits(limits).run(|| {
                let post = || file.read_at(Vec::<u8>::with_capacity(64), 0).post(&port, 0);
                for _ in 0..100 {
                    for _ in 0..LIMIT {
                        post().unwrap();
                    }
                    assert!(post().is_err(), "more than the limit");
                    ask.send(()).unwrap();
                    answered.recv().unwrap();
                }
            });
        }
        drop(ask);
        taker.join().unwrap();
    });
}
