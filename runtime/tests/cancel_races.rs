//! Cancels that meet completions, closes and ends of threads, on the real kernel: each request ends
//! exactly once, its buffer comes back, and no byte is lost (X-5, X-20 to, and 3.5:
//! the kernel finds the operation, has finished it, or cannot stop it any more).

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use overlapped::apc::IoThread;
use overlapped::buf::{IoBuf, IoBufMut};
use overlapped::fs::OpenOptions;
use overlapped::net::TcpStream;
use overlapped::operation::{Close, Read};
use overlapped::wait::{Alertable, Event, Waited, sleep};
use overlapped::{CompletionPort, Request, Status};
use support::{Dir, alone, pattern, status, until_blocking};

const ZERO: Option<Duration> = Some(Duration::ZERO);

fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    theirs.set_nodelay(true).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

/// A buffer that counts itself off when it is dropped.
struct Counted(Box<[u8]>, Arc<AtomicUsize>);

impl Counted {
    fn new(len: usize, live: &Arc<AtomicUsize>) -> Counted {
        live.fetch_add(1, Ordering::SeqCst);
        Counted(vec![0; len].into(), live.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Nothing that is written later is missed.
        self.0.fill(0xDD);
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

// SAFETY: the boxed bytes do not move with the handle.
unsafe impl IoBuf for Counted {
    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: the boxed bytes are this buffer's own, initialised, and as long as they are.
unsafe impl IoBufMut for Counted {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        self.0.len()
    }
    unsafe fn set_len(&mut self, _: usize) {}
}

/// A thread that does to each thing that it is sent what `act` says, after a short, varying while.
fn actor<T: Send + 'static>(
    mut act: impl FnMut(T) + Send + 'static,
) -> (mpsc::Sender<T>, thread::JoinHandle<()>) {
    let (send, things) = mpsc::channel();
    let thread = thread::spawn(move || {
        for (i, thing) in things.into_iter().enumerate() {
            for _ in 0..i % 7 * 40 {
                std::hint::spin_loop();
            }
            act(thing);
        }
    });
    (send, thread)
}

/// thousands of receives, each met by a cancel and by a byte at about the same time.
#[test]
fn x5_receives_against_cancels() {
    const ROUNDS: u64 = 4_000;
    alone("x5_receives_against_cancels", |_| {
        let (stream, mut theirs) = pair();
        let (port, live) = (CompletionPort::new(), Arc::new(AtomicUsize::new(0)));
        let (send_byte, writer) = actor(move |byte: u8| theirs.write_all(&[byte]).unwrap());
        let (send_cancel, canceller) = actor(|cancel: overlapped::Cancel| cancel.cancel());
        let (mut bytes, mut done, mut cancelled) = (Vec::new(), 0, 0);
        for round in 0..ROUNDS {
            let receive = stream.read(Counted::new(64, &live));
            let cancel = receive.post(&port, round).ok().unwrap();
            match round % 3 {
                0 => send_byte.send(round as u8).unwrap(),
                _ => send_cancel.send(cancel.clone()).unwrap(),
            }
            match round % 3 {
                0 => send_cancel.send(cancel).unwrap(),
                1 => send_byte.send(round as u8).unwrap(),
                // Cancelled twice, and the byte last.
                _ => {
                    send_cancel.send(cancel).unwrap();
                    send_byte.send(round as u8).unwrap();
                }
            }
            let mut packet = port.remove(None).unwrap();
            assert_eq!(packet.key(), round, "each once, and in this order");
            let info = packet.info();
            let buf = packet.take::<Counted>();
            match packet.status() {
                Status::SUCCESS => {
                    done += 1;
                    bytes.extend_from_slice(&buf.unwrap().0[..info]);
                }
                Status::CANCELLED => {
                    assert_eq!(info, 0, "X-23");
                    cancelled += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        drop((send_byte, send_cancel));
        writer.join().unwrap();
        canceller.join().unwrap();
        assert!(port.remove(ZERO).is_err(), "no packet twice");
        // What no receive has got is still there.
        loop {
            let (n, buf) = stream.read(Counted::new(64, &live)).wait().ok().unwrap();
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&buf.0[..n]);
        }
        let sent: Vec<u8> = (0..ROUNDS).map(|round| round as u8).collect();
        assert!(bytes == sent, "{} bytes of {}", bytes.len(), sent.len());
        println!("{done} received, {cancelled} cancelled");
        assert!(done > 0 && cancelled > 0);
        assert_eq!(live.load(Ordering::SeqCst), 0);
    });
}

/// 3.5: reads of a file, which the kernel cannot stop once it has begun: whatever the cancel meets, the
/// buffer is there until the end, and holds what was read.
#[test]
fn x5_reads_of_files_against_cancels() {
    const ROUNDS: u64 = 2_000;
    const BATCH: u64 = 8;
    alone("x5_reads_of_files_against_cancels", |_| {
        let dir = Dir::new();
        let all = pattern(1 << 20);
        let file = OpenOptions::new().read(true).open_wait(dir.file("f", &all)).unwrap();
        let (port, live) = (CompletionPort::new(), Arc::new(AtomicUsize::new(0)));
        let (send_cancel, canceller) = actor(|cancel: overlapped::Cancel| cancel.cancel());
        let mut cancelled = 0;
        for round in 0..ROUNDS / BATCH {
            for i in 0..BATCH {
                let key = round * BATCH + i;
                let read = file.read_at(Counted::new(65_536, &live), key % 240 * 4096);
                send_cancel.send(read.post(&port, key).ok().unwrap()).unwrap();
            }
            let mut keys = Vec::new();
            for _ in 0..BATCH {
                let mut packet = port.remove(None).unwrap();
                keys.push(packet.key());
                let (info, at) = (packet.info(), (packet.key() % 240 * 4096) as usize);
                match packet.status() {
                    Status::SUCCESS => {
                        let buf = packet.take::<Counted>().unwrap();
                        assert!(info > 0 && buf.0[..info] == all[at..at + info]);
                    }
                    other => {
                        assert_eq!((other, info), (Status::CANCELLED, 0));
                        cancelled += 1;
                    }
                }
            }
            keys.sort_unstable();
            assert!(keys.into_iter().eq(round * BATCH..(round + 1) * BATCH), "each once");
        }
        drop(send_cancel);
        canceller.join().unwrap();
        println!("{cancelled} of {ROUNDS} cancelled");
        assert!(port.remove(ZERO).is_err());
        assert_eq!(live.load(Ordering::SeqCst), 0);
    });
}

/// Threads of their own, each with a receive of the stream in flight on its own ring, that stay away
/// until they are told.
fn receivers(
    stream: &Arc<TcpStream>,
    port: &CompletionPort,
) -> (Vec<mpsc::Sender<()>>, Vec<thread::JoinHandle<()>>) {
    (0..3)
        .map(|key| {
            let (stream, port) = (stream.clone(), port.clone());
            let (stay, told) = mpsc::channel::<()>();
            let (done, issued) = mpsc::channel();
            let thread = thread::spawn(move || {
                stream.read_lease().post(&port, key).unwrap();
                drop(stream);
                done.send(()).unwrap();
                _ = told.recv();
            });
            issued.recv().unwrap();
            (stay, thread)
        })
        .unzip()
}

fn three_end(port: &CompletionPort, as_one_of: &[Status]) {
    let mut keys = Vec::new();
    for _ in 0..3 {
        let packet = port.remove(None).unwrap();
        assert!(as_one_of.contains(&packet.status()), "X-23: {:?}", packet.status());
        assert_eq!(packet.info(), 0);
        keys.push(packet.key());
    }
    keys.sort_unstable();
    assert_eq!(keys, [0, 1, 2]);
    assert!(port.remove(Some(Duration::from_millis(5))).is_err(), "one packet each");
}

/// all of the process's requests on the file, on several rings; then there is nothing to cancel,
/// and the file works on.
#[test]
fn x21_requests_on_several_rings() {
    alone("x21_requests_on_several_rings", |_| {
        let (stream, mut theirs) = pair();
        let (stream, port) = (Arc::new(stream), CompletionPort::new());
        assert_eq!(stream.object().cancel_io_ex(), Err(Status::NOT_FOUND));
        let (stay, threads) = receivers(&stream, &port);
        stream.object().cancel_io_ex().unwrap();
        three_end(&port, &[Status::CANCELLED]);
        until_blocking(|| stream.object().cancel_io_ex() == Err(Status::NOT_FOUND));
        theirs.write_all(b"on").unwrap();
        assert_eq!(&stream.read_lease().wait().unwrap()[..], b"on");
        drop(stay);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// the last handle goes while requests are in flight on several rings: they are cancelled, and
/// then, and only then, the descriptor is closed. Cleanup and close wait for nobody.
#[test]
fn x33_requests_on_several_rings() {
    alone("x33_requests_on_several_rings", |_| {
        for asked in [false, true] {
            let (stream, mut theirs) = pair();
            let (stream, port) = (Arc::new(stream), CompletionPort::new());
            let (stay, threads) = receivers(&stream, &port);
            if asked {
                stream.object().cancel_requests();
                // SAFETY: nobody uses the descriptor but through the stream.
                Request::new(stream.object(), unsafe { Close::new() }).wait().unwrap();
                let refused = status(stream.read_lease().wait());
                assert!(refused != Status::SUCCESS && refused != Status::CANCELLED, "{refused:?}");
            }
            drop(stream);
            // one that was parked, and had its turn before the cancel came to its ring, has found
            // no descriptor.
            let ends = [Status::CANCELLED, Status::FILE_CLOSED];
            three_end(&port, &ends[..1 + usize::from(asked)]);
            assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the descriptor is closed");
            drop(stay);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        }
    });
}

/// of a file that is closed nothing can be cancelled; another handle of an open one closes
/// and cancels nothing.
#[test]
fn x20_handles_of_closed_files() {
    alone("x20_handles_of_closed_files", |_| {
        let dir = Dir::new();
        let file = OpenOptions::new().read(true).open_wait(dir.file("f", "x")).unwrap();
        let handle = file.object().handle();
        handle.cancel_io().unwrap();
        file.close_wait().unwrap();
        assert_eq!(handle.cancel_io(), Err(Status::INVALID_HANDLE));
        assert_eq!(handle.cancel_io_ex(), Err(Status::NOT_FOUND));
        let (stream, mut theirs) = pair();
        let port = CompletionPort::new();
        stream.read_lease().post(&port, 1).unwrap();
        drop(stream.object().handle());
        assert!(port.remove(Some(Duration::from_millis(10))).is_err(), "it goes on");
        theirs.write_all(b"x").unwrap();
        assert_eq!(port.remove(None).unwrap().status(), Status::SUCCESS);
    });
}

/// synchronous calls only, of the thread that was meant; what it does next is not met by a cancel
/// that has been answered.
#[test]
fn x22_the_call_and_no_other() {
    alone("x22_the_call_and_no_other", |_| {
        let (stream, mut theirs) = pair();
        let stream = Arc::new(stream);
        let here = IoThread::current().unwrap();
        let block = stream.read_lease().start().unwrap();
        assert_eq!(here.cancel_synchronous_io(), Err(Status::NOT_FOUND), "an asynchronous one");
        block.cancel_io_ex().unwrap();
        until_blocking(|| block.is_done() || sleep(ZERO, Alertable::No).is_err());
        let (send, target) = mpsc::channel();
        let (go_on, told) = mpsc::channel::<()>();
        let thread = thread::spawn({
            let stream = stream.clone();
            move || {
                let live = Arc::new(AtomicUsize::new(0));
                send.send(IoThread::current().unwrap()).unwrap();
                let error = stream.read(Counted::new(9, &live)).wait().err().unwrap();
                assert_eq!(error.status(), Status::CANCELLED);
                assert_eq!(live.load(Ordering::SeqCst), 1, "the buffer is in the error");
                drop(error);
                told.recv().unwrap();
                stream.read(vec![0; 9]).wait().map(|(n, _)| n).unwrap()
            }
        });
        let target = target.recv().unwrap();
        assert_eq!(here.cancel_synchronous_io(), Err(Status::NOT_FOUND), "another thread's");
        until_blocking(|| target.cancel_synchronous_io().is_ok());
        // It is out of the call, or about to be.
        until_blocking(|| target.cancel_synchronous_io() == Err(Status::NOT_FOUND));
        go_on.send(()).unwrap();
        theirs.write_all(b"next").unwrap();
        assert_eq!(thread.join().unwrap(), 4);
    });
}

/// thousands of synchronous calls, cancelled by another thread, or not: each returns once, with
/// its buffer.
#[test]
fn x22_calls_against_cancels() {
    const ROUNDS: usize = 2_000;
    alone("x22_calls_against_cancels", |_| {
        let (stream, mut theirs) = pair();
        let live = Arc::new(AtomicUsize::new(0));
        let target = IoThread::current().unwrap();
        let (ended, end) = mpsc::channel::<()>();
        let canceller = thread::spawn(move || {
            let mut hits = 0;
            while end.try_recv() == Err(mpsc::TryRecvError::Empty) {
                hits += usize::from(target.cancel_synchronous_io().is_ok());
                thread::yield_now();
            }
            hits
        });
        let writer = thread::spawn(move || {
            for i in 0..ROUNDS {
                theirs.write_all(&[i as u8]).unwrap();
                if i % 8 == 0 {
                    thread::yield_now();
                }
            }
        });
        let (mut bytes, mut cancelled) = (Vec::new(), 0);
        while bytes.len() < ROUNDS {
            match stream.read(Counted::new(1, &live)).wait() {
                Ok((n, buf)) => bytes.extend_from_slice(&buf.0[..n]),
                Err(error) => {
                    assert_eq!(error.status(), Status::CANCELLED);
                    cancelled += 1;
                }
            }
            assert_eq!(live.load(Ordering::SeqCst), 0);
        }
        drop(ended);
        let hits = canceller.join().unwrap();
        writer.join().unwrap();
        assert!(cancelled <= hits, "{cancelled} cancelled by {hits} cancels");
        assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == i as u8));
    });
}

/// a cancelled request's APC runs, once, with what is told of it.
#[test]
fn x23_an_apc_of_a_cancelled_request() {
    alone("x23_an_apc_of_a_cancelled_request", |_| {
        let (stream, _theirs) = pair();
        let results = Arc::new(Mutex::new(Vec::new()));
        let note = results.clone();
        let cancel = stream
            .read(vec![7; 9])
            .queue_apc(move |result| note.lock().unwrap().push(result))
            .ok()
            .unwrap();
        cancel.cancel();
        assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
        let Err(error) = results.lock().unwrap().pop().unwrap() else { panic!("cancelled") };
        assert_eq!((error.status(), error.into_buf()), (Status::CANCELLED, vec![7; 9]));
        assert_eq!(sleep(ZERO, Alertable::Yes), Ok(Waited::TimedOut));
    });
}

/// what a thread has in flight when it ends is cancelled, and tells.
#[test]
fn x30_a_thread_ends() {
    alone("x30_a_thread_ends", |_| {
        let (stream, mut theirs) = pair();
        let stream = Arc::new(stream);
        let event = Event::manual(false);
        let (issuers, is_done) = (stream.clone(), event.clone());
        let block = thread::spawn(move || {
            let read: Request<'static, Read<Vec<u8>>> =
                Request::owned(issuers.object().handle(), Read::next(vec![7; 9]));
            read.signal(&is_done).ok().unwrap()
        })
        .join()
        .unwrap();
        event.wait(None).unwrap();
        assert_eq!((block.status(), block.info()), (Status::CANCELLED, 0));
        assert_eq!(block.cancel_io_ex(), Err(Status::NOT_FOUND));
        let Ok(Err(error)) = block.take() else { panic!("it is done, and was cancelled") };
        assert_eq!(error.into_buf(), vec![7; 9]);
        theirs.write_all(b"on").unwrap();
        assert_eq!(&stream.read_lease().wait().unwrap()[..], b"on");
    });
}
