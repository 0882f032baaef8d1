//! The order at final completion (I-28) and the copy of a result (C-6, C-40), by every route, with real
//! I/O: from tasks and from plain threads, on both backends. A pipe is read before anything is in it,
//! so that each request pends.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use overlapped::buf::BufError;
use overlapped::fs::OpenOptions;
use overlapped::io::{PipeReader, PipeWriter, pipe};
use overlapped::operation::Read;
use overlapped::wait::{Alertable, Event, Waited, sleep, wait_any};
use overlapped::{CompletionPort, Issued, NoPacket, PortOptions, Request, Status};
use support::{Dir, alone, both, poll_once, status, until, workers};

const ZERO: Option<Duration> = Some(Duration::ZERO);
const ROUNDS: usize = 50;

type Result = std::result::Result<(usize, Vec<u8>), BufError<Vec<u8>>>;

fn read(reader: &PipeReader) -> Request<'_, Read<Vec<u8>>> {
    reader.read(Vec::with_capacity(4))
}

/// Another thread writes one byte after the other, each when it is told to.
struct Feeder(mpsc::Sender<()>);

impl Feeder {
    fn new(writer: PipeWriter) -> Feeder {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            while receiver.recv().is_ok() {
                assert_eq!(writer.write(b"x".to_vec()).wait().unwrap().0, 1);
            }
        });
        Feeder(sender)
    }

    fn feed(&self) {
        self.0.send(()).unwrap();
    }
}

/// Notes what was so when it was woken.
struct Notes<F>(F, AtomicUsize, AtomicBool);

impl<F: Fn() -> bool + Send + Sync> Wake for Notes<F> {
    fn wake(self: Arc<Self>) {
        self.2.store((self.0)(), SeqCst);
        self.1.fetch_add(1, SeqCst);
    }
}

fn is_signalled(reader: &PipeReader) -> bool {
    wait_any(&[reader.object()], ZERO, Alertable::No) == Ok(Waited::Object(0))
}

/// I-28, I-33: when a task is woken, the event is set, or without one the file object is signalled; and
/// the copy is there.
#[test]
fn i28_a_future() {
    both(async |_| {
        let (reader, writer) = pipe().unwrap();
        let reader = Arc::new(reader);
        let (event, tee) = (Event::manual(false), CompletionPort::new());
        assert!(is_signalled(&reader), "C-7: before the first request");
        for round in 0..ROUNDS {
            let with_event = round % 2 == 0;
            let mut request = read(&reader).tee(&tee, round as u64);
            if with_event {
                request = request.event(&event);
            }
            let look = {
                let (event, tee, reader) = (event.clone(), tee.clone(), reader.clone());
                move || {
                    let told = if with_event { event.is_set() } else { is_signalled(&reader) };
                    told && tee.depth() == 1
                }
            };
            let notes = Arc::new(Notes(look, AtomicUsize::new(0), AtomicBool::new(false)));
            let waker = Waker::from(notes.clone());
            let mut request = std::pin::pin!(request);
            let mut cx = Context::from_waker(&waker);
            assert!(request.as_mut().poll(&mut cx).is_pending());
            let reset = if with_event { !event.is_set() } else { !is_signalled(&reader) };
            assert!(reset && tee.depth() == 0);
            writer.write(b"x".to_vec()).await.unwrap();
            until(|| notes.1.load(SeqCst) > 0).await;
            assert!(notes.2.load(SeqCst), "round {round}");
            assert!(matches!(request.as_mut().poll(&mut cx), Poll::Ready(Ok((1, _)))));
            let copy = tee.next().await.unwrap();
            assert_eq!((copy.key(), copy.info()), (round as u64, 1));
        }
    });
}

/// The same for tasks on workers, which are woken elsewhere; and a task that waits for the event finds
/// result and data final (C-2, D1).
#[test]
fn i28_on_workers() {
    workers(2, async |_| {
        let (reader, writer) = pipe().unwrap();
        let (reader, tee) = (Arc::new(reader), CompletionPort::new());
        for round in 0..ROUNDS {
            let event = Event::manual(false);
            let block = read(&reader).event(&event).tee(&tee, 1).start().unwrap();
            let watcher = {
                let event = event.clone();
                overlapped::spawn(async move {
                    event.signalled().await;
                    assert_eq!((block.status(), block.info()), (Status::SUCCESS, 1), "{round}");
                    assert_eq!(block.take().unwrap().unwrap().1, b"x");
                })
            };
            let copies = {
                let (tee, event) = (tee.clone(), event.clone());
                overlapped::spawn(async move {
                    let copy = tee.next().await.unwrap();
                    assert!(event.is_set(), "the event first");
                    assert_eq!(copy.status(), Status::SUCCESS);
                })
            };
            writer.write(b"x".to_vec()).await.unwrap();
            watcher.await.unwrap();
            copies.await.unwrap();
        }
        assert_eq!((tee.depth(), tee.outstanding()), (0, 0));
    });
}

/// I-28 on plain threads: a packet, the packet of an associated file, an APC, a wait, a block. Whoever
/// learns of the result finds the event set, and the copy queued.
#[test]
fn i28_on_plain_threads() {
    alone("i28_on_plain_threads", |_| {
        let (reader, writer) = pipe().unwrap();
        let feeder = Feeder::new(writer);
        let (event, tee) = (Event::manual(false), CompletionPort::new());
        let port = CompletionPort::new();
        let request = || read(&reader).event(&event).tee(&tee, 9);
        let copied = |what: &str| {
            assert!(event.is_set(), "{what}: the event");
            let copy = tee.remove(ZERO).unwrap_or_else(|_| panic!("{what}: the copy"));
            assert_eq!((copy.key(), copy.status(), copy.info()), (9, Status::SUCCESS, 1));
            assert_eq!(tee.remove(ZERO).unwrap_err(), NoPacket::TimedOut);
        };
        for _ in 0..ROUNDS {
            request().post(&port, 1).unwrap();
            assert!(!event.is_set());
            feeder.feed();
            let packet = port.remove(None).unwrap();
            copied("a packet");
            assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().1, b"x");

            feeder.feed();
            assert_eq!(request().wait().unwrap().1, b"x");
            copied("a wait");

            // No APC with a port (C-6); so with the event alone.
            let (ran, results) = mpsc::channel();
            let theirs = event.clone();
            let run = move |result: Result| ran.send((theirs.is_set(), result)).unwrap();
            read(&reader).event(&event).queue_apc(run).unwrap();
            assert!(!event.is_set());
            feeder.feed();
            assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
            let (was_set, result) = results.try_recv().unwrap();
            assert!(was_set, "an APC: the event");
            assert_eq!(result.unwrap().1, b"x");

            let block = request().start().unwrap();
            feeder.feed();
            // The copy is behind the event, and the event behind the status.
            let copy = tee.remove(None).unwrap();
            assert!(event.is_set() && copy.key() == 9);
            assert_eq!((block.status(), block.info()), (Status::SUCCESS, 1));
            // Left, its bytes would be the next read's.
            assert_eq!(block.take().unwrap().unwrap().1, b"x");
        }
        port.associate(reader.object(), 5).unwrap();
        for _ in 0..ROUNDS {
            assert!(matches!(request().packet(6).unwrap(), Issued::Packet(_)));
            feeder.feed();
            let packet = port.remove(None).unwrap();
            copied("an associated packet");
            assert_eq!((packet.key(), packet.value()), (5, 6));
        }
        assert_eq!((port.outstanding(), tee.outstanding()), (0, 0));
    });
}

/// A port's threads on one side, issuers on the other: whoever takes the packet finds the event set,
/// though another thread has completed the request.
#[test]
fn i28_across_threads() {
    alone("i28_across_threads", |_| {
        let port = CompletionPort::new();
        let (send, events) = mpsc::channel::<Event>();
        let takers = {
            let port = port.clone();
            thread::spawn(move || {
                for event in events {
                    let packet = port.remove(None).unwrap();
                    assert!(event.is_set());
                    assert_eq!(packet.into_output::<Read<Vec<u8>>>().unwrap().1, b"x");
                }
            })
        };
        let (reader, writer) = pipe().unwrap();
        for _ in 0..4 * ROUNDS {
            let event = Event::manual(false);
            send.send(event.clone()).unwrap();
            read(&reader).event(&event).post(&port, 1).unwrap();
            writer.write(b"x".to_vec()).wait().unwrap();
            assert_eq!(event.wait(None), Ok(true));
        }
        drop(send);
        takers.join().unwrap();
    });
}

/// C-40 on files, whose requests may be complete at once: one result and one copy, whichever way; I-31:
/// none of an error at once, one of an error later; X-5: one of a request that is cancelled.
#[test]
fn c40_copies() {
    both(async |_| {
        let dir = Dir::new();
        let options = OpenOptions::new().read(true).write(true).create(true);
        let file = options.open(dir.path("f")).await.unwrap();
        let tee = CompletionPort::new();
        for i in 0..ROUNDS as u64 {
            file.write_at(vec![7; 100], i * 100).tee(&tee, i).await.unwrap();
            let copy = tee.remove(ZERO).unwrap();
            assert_eq!((copy.key(), copy.status(), copy.info()), (i, Status::SUCCESS, 100));
            let sync = file.sync_data().tee(&tee, i);
            sync.await.unwrap();
            assert_eq!(tee.remove(ZERO).unwrap().key(), i);
        }
        // Refused before there is a request, and by the device.
        let refused = file.read_at(vec![0; 4], 1 << 63).tee(&tee, 1).await;
        assert_eq!(status(refused), Status::OFFSET_OVERFLOW);
        assert_eq!((tee.depth(), tee.outstanding()), (0, 0));
        let read_only = OpenOptions::new().read(true).open(dir.path("f")).await.unwrap();
        let bad = Status::from_errno(libc::EBADF);
        assert_eq!(status(read_only.write_at(vec![0; 4], 0).tee(&tee, 1).await), bad);
        if let Ok(copy) = tee.remove(ZERO) {
            assert_eq!(copy.status(), bad, "it had pended");
        }
        let (reader, _writer) = pipe().unwrap();
        let mut request = read(&reader).tee(&tee, 2);
        assert!(poll_once(&mut request).is_pending());
        assert_eq!(tee.outstanding(), 1);
        drop(request);
        let copy = tee.next().await.unwrap();
        assert_eq!((copy.key(), copy.status()), (2, Status::CANCELLED));
        // No room: refused, with the buffer.
        let full = PortOptions::new().limit(0).create();
        let error = file.read_at(vec![9; 4], 0).tee(&full, 1).await.unwrap_err();
        assert_eq!((error.status(), error.into_buf()), (Status::QUOTA_EXCEEDED, vec![9; 4]));
    });
}
