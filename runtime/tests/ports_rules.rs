//! The rules of completion (C-1 to C-32, I-28 to I-34) with real files, sockets and pipes, from plain
//! threads: one process per backend.

mod support;

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use overlapped::fs::{File, OpenOptions};
use overlapped::io::{Events, Poll, Readiness};
use overlapped::net::TcpStream;
use overlapped::operation::{Read, Write};
use overlapped::wait::{Alertable, Event, Waited, sleep, wait_any};
use overlapped::{CompletionPort, Issued, NoPacket, PortOptions, Status};
use support::{Dir, alone, pattern, status};

const ZERO: Option<Duration> = Some(Duration::ZERO);
type ReadBytes = Read<Vec<u8>>;

fn open(dir: &Dir) -> File {
    OpenOptions::new().read(true).write(true).open_wait(dir.file("f", pattern(4096))).unwrap()
}

fn pair() -> (TcpStream, std::net::TcpStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

fn bytes() -> Vec<u8> {
    Vec::with_capacity(8)
}

/// C-10 to C-13: association.
#[test]
fn association() {
    alone("association", |_| {
        let (port, other) = (CompletionPort::new(), CompletionPort::new());
        let (ours, mut theirs) = pair();
        // C-12: issued before.
        assert!(matches!(ours.read(bytes()).packet(7), Ok(Issued::Packet(_))));
        port.associate(ours.object(), 3).unwrap();
        assert_eq!(other.associate(ours.object(), 4), Err(Status::INVALID_PARAMETER), "C-10");
        assert_eq!(port.associate(ours.object(), 4), Err(Status::INVALID_PARAMETER), "C-10");
        theirs.write_all(b"first").unwrap();
        let packet = port.remove(None).unwrap();
        assert_eq!((packet.key(), packet.value(), packet.info()), (3, 7, 5), "C-11");
        assert_eq!(packet.into_output::<ReadBytes>().unwrap().1, b"first");
        // C-6: not with an APC.
        let refused = ours.read(bytes()).queue_apc(|_| panic!("refused")).map(drop);
        assert_eq!(
            status(refused.map_err(|output| output.unwrap_err())),
            Status::INVALID_PARAMETER
        );
        // C-16: a request that does not ask for a packet has none.
        theirs.write_all(b"second").unwrap();
        assert_eq!(ours.read(bytes()).wait().unwrap().1, b"second");
        assert_eq!((port.depth(), port.outstanding()), (0, 0));
        // C-31: the last handle goes, and each request yields its packet; C-13: to the port that the
        // file keeps.
        for value in [1, 2] {
            assert!(matches!(ours.read(bytes()).packet(value), Ok(Issued::Packet(_))));
        }
        drop(ours);
        let mut values = [1, 2].map(|_| {
            let packet = port.remove(None).unwrap();
            let value = packet.value();
            assert_eq!(packet.status(), Status::CANCELLED);
            assert_eq!(packet.into_output::<ReadBytes>().unwrap_err().into_buf().capacity(), 8);
            value
        });
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
        assert_eq!(port.outstanding(), 0);
    });
}

/// C-10, C-19: a synchronous file object has no port and no modes.
#[test]
fn synchronous_files_have_no_port() {
    alone("synchronous_files_have_no_port", |_| {
        let dir = Dir::new();
        let file = open(&dir);
        file.object().make_synchronous(Alertable::No).unwrap();
        let port = CompletionPort::new();
        assert_eq!(port.associate(file.object(), 1), Err(Status::INVALID_PARAMETER));
        assert_eq!(file.object().skip_packet_on_success(), Err(Status::INVALID_PARAMETER));
        assert_eq!(file.object().skip_signal(), Err(Status::INVALID_PARAMETER));
        // The other way round.
        let file = open(&dir);
        port.associate(file.object(), 1).unwrap();
        let refused = file.object().make_synchronous(Alertable::No);
        assert_eq!(refused, Err(Status::INVALID_PARAMETER));
    });
}

/// C-8, C-16, C-17: exactly one result each, by the call or by a packet, with the mode and without.
#[test]
fn one_result_each() {
    alone("one_result_each", |_| {
        let dir = Dir::new();
        for skips in [false, true] {
            let file = open(&dir);
            let port = CompletionPort::new();
            port.associate(file.object(), 1).unwrap();
            if skips {
                file.object().skip_packet_on_success().unwrap();
            }
            let (mut at_once, mut packets) = (0, 0);
            for value in 0..100 {
                match file.read_at(bytes(), value).packet(value) {
                    Ok(Issued::Packet(_)) => packets += 1,
                    Ok(Issued::Done(output)) => {
                        assert_eq!(output.unwrap().1, pattern(4096)[value as usize..][..8]);
                        at_once += 1;
                    }
                    Err(output) => panic!("{output:?}"),
                }
            }
            assert!(skips || at_once == 0, "C-8");
            for _ in 0..packets {
                let packet = port.remove(None).unwrap();
                let value = packet.value() as usize;
                let (_, read) = packet.into_output::<ReadBytes>().unwrap();
                assert_eq!(read, pattern(4096)[value..][..8]);
            }
            assert_eq!(at_once + packets, 100);
            // An error at once: the call's alone.
            let refused = file.read_at(bytes(), u64::MAX).packet(0);
            assert!(refused.is_err());
            assert_eq!((port.depth(), port.outstanding()), (0, 0));
        }
    });
}

/// C-2, C-3, C-6, C-7, I-28, I-30, I-33: block, event, file object and packet of one pended request,
/// successful or not.
#[test]
fn events_blocks_and_packets() {
    alone("events_blocks_and_packets", |_| {
        let (ours, mut theirs) = pair();
        let watched = || wait_any(&[ours.object()], ZERO, Alertable::No).unwrap();
        assert_eq!(watched(), Waited::Object(0), "C-7: created signalled");
        let event = Event::manual(true);
        let block = ours.read(bytes()).signal(&event).unwrap();
        assert!(!event.is_set(), "C-3: reset at issue");
        assert_eq!((block.status(), block.info()), (Status::PENDING, 0), "C-2");
        theirs.write_all(b"data").unwrap();
        assert_eq!(event.wait(None), Ok(true));
        assert_eq!((block.status(), block.info()), (Status::SUCCESS, 4), "I-28: before the event");
        assert_eq!(block.take().unwrap().unwrap().1, b"data");
        // Without an event, the file object.
        let block = ours.read(bytes()).start().unwrap();
        assert_eq!(watched(), Waited::TimedOut, "C-7: reset at issue");
        theirs.write_all(b"more").unwrap();
        assert_eq!(wait_any(&[ours.object()], None, Alertable::No), Ok(Waited::Object(0)), "I-33");
        assert!(block.is_done());
        // I-30: an error of a request that pended is delivered to all of them; C-6: the event first.
        let port = CompletionPort::new();
        let cancel = ours.read(bytes()).event(&event).post(&port, 9).unwrap();
        assert!(!event.is_set());
        cancel.cancel();
        let packet = port.remove(None).unwrap();
        assert!(event.is_set(), "I-28: before the packet");
        assert_eq!((packet.key(), packet.status()), (9, Status::CANCELLED));
        // I-31: an error at once sets nothing and posts nothing.
        let dir = Dir::new();
        let file = open(&dir);
        let refused = file.read_at(bytes(), u64::MAX).event(&event).post(&port, 1);
        assert!(refused.is_err());
        assert_eq!((event.is_set(), port.depth(), port.outstanding()), (false, 0, 0));
    });
}

/// C-4, C-27, C-28: APCs of real requests, at alertable waits only.
#[test]
fn apcs() {
    alone("apcs", |_| {
        let (ours, mut theirs) = pair();
        let (send, results) = mpsc::channel();
        let apc = || {
            let send = send.clone();
            ours.read(bytes()).queue_apc(move |output| send.send(output.unwrap().1).unwrap())
        };
        let port = CompletionPort::new();
        assert_eq!(port.remove(ZERO).unwrap_err(), NoPacket::TimedOut);
        apc().unwrap();
        theirs.write_all(b"one").unwrap();
        // C-28: the request ends meanwhile, and its APC stays queued.
        let soon = Some(Duration::from_millis(50));
        assert_eq!(port.remove(soon).unwrap_err().status(), Status::TIMEOUT);
        assert!(results.try_recv().is_err());
        // C-27.
        port.post(5, 0, Status::SUCCESS, 0).unwrap();
        assert_eq!(port.remove_alertable(None).unwrap().key(), 5);
        assert!(results.try_recv().is_err());
        assert_eq!(port.remove_alertable(None).unwrap_err().status(), Status::USER_APC);
        assert_eq!(results.try_recv().unwrap(), b"one");
        // One whose request ends while the thread waits.
        apc().unwrap();
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            theirs.write_all(b"two").unwrap();
            theirs
        });
        assert_eq!(port.remove_alertable(None).unwrap_err(), NoPacket::Apc);
        assert_eq!(results.try_recv().unwrap(), b"two");
        let mut theirs = late.join().unwrap();
        apc().unwrap();
        theirs.write_all(b"three").unwrap();
        assert_eq!(sleep(None, Alertable::Yes), Ok(Waited::Apc));
        assert_eq!(results.try_recv().unwrap(), b"three");
    });
}

/// C-20, C-30: threads that wait take the packets of another's requests, each once; closing has them
/// come back, and the file goes on.
#[test]
fn waiters_and_closing() {
    alone("waiters_and_closing", |_| {
        let port = PortOptions::new().concurrency(2).create();
        let dir = Dir::new();
        let file = open(&dir);
        port.associate(file.object(), 1).unwrap();
        let (send, values) = mpsc::channel();
        let takers = [0, 1, 2].map(|_| {
            let (port, send) = (port.clone(), send.clone());
            thread::spawn(move || {
                loop {
                    match port.remove(None) {
                        Ok(packet) => send.send(packet.value()).unwrap(),
                        Err(none) => return none,
                    }
                }
            })
        });
        for value in 0..50 {
            assert!(file.write_at(b"x".to_vec(), value).packet(value).is_ok());
        }
        let mut taken: Vec<u64> = (0..50).map(|_| values.recv().unwrap()).collect();
        taken.sort_unstable();
        assert!(taken.into_iter().eq(0..50));
        port.close();
        for taker in takers {
            let none = taker.join().unwrap();
            assert_eq!((none, none.status()), (NoPacket::Closed, Status::ABANDONED_WAIT_0));
        }
        assert_eq!(port.remove(None).unwrap_err(), NoPacket::Closed);
        assert_eq!(port.post(0, 0, Status::SUCCESS, 0), Err(Status::INVALID_HANDLE));
        // The file works, and its packets go nowhere.
        assert!(file.read_at(bytes(), 0).packet(1).is_ok());
        assert_eq!(file.read_at(bytes(), 0).wait().unwrap().0, 8);
        file.close_wait().unwrap();
        assert_eq!((port.depth(), port.outstanding()), (0, 0));
    });
}

/// C-32: the readiness of a descriptor is a packet, once; waiting for it again is another request. It
/// can be taken back.
#[test]
fn readiness_as_packets() {
    alone("readiness_as_packets", |_| {
        let (mut a, b) = StdUnixStream::pair().unwrap();
        let b = Readiness::new(b).unwrap();
        let port = CompletionPort::new();
        b.readable().post(&port, 1).unwrap();
        assert_eq!(port.remove(Some(Duration::from_millis(20))).unwrap_err(), NoPacket::TimedOut);
        a.write_all(b"x").unwrap();
        let packet = port.remove(None).unwrap();
        assert_eq!((packet.key(), packet.status()), (1, Status::SUCCESS));
        assert!(packet.into_output::<Poll>().unwrap().contains(Events::READABLE));
        // Once, although it is ready still.
        assert_eq!(port.remove(Some(Duration::from_millis(20))).unwrap_err(), NoPacket::TimedOut);
        // Bound again, to a port that the descriptor is associated with: it is ready at once.
        port.associate(b.object(), 2).unwrap();
        assert!(matches!(b.readable().packet(3), Ok(Issued::Packet(_))));
        let packet = port.remove(None).unwrap();
        assert_eq!((packet.key(), packet.value()), (2, 3));
        // Another descriptor, taken back.
        let (_c, d) = StdUnixStream::pair().unwrap();
        let d = Readiness::new(d).unwrap();
        let cancel = d.readable().post(&port, 4).unwrap();
        cancel.cancel();
        let packet = port.remove(None).unwrap();
        assert_eq!((packet.key(), packet.status()), (4, Status::CANCELLED));
        assert_eq!((port.depth(), port.outstanding()), (0, 0));
        // From another thread's wait.
        let theirs = port.clone();
        let taker = thread::spawn(move || theirs.remove(None).unwrap().key());
        d.writable().post(&port, 6).unwrap();
        assert_eq!(taker.join().unwrap(), 6);
    });
}

/// A future, a wait and a packet of the same file at the same time keep apart.
#[test]
fn routes_side_by_side() {
    alone("routes_side_by_side", |_| {
        let dir = Dir::new();
        let file = open(&dir);
        let port = CompletionPort::new();
        file.write_at(b"packet".to_vec(), 100).post(&port, 1).unwrap();
        let block = file.read_at(bytes(), 8).start().unwrap();
        assert_eq!(file.read_at(bytes(), 16).wait().unwrap().1, pattern(4096)[16..24]);
        let read = overlapped::block_on(file.read_at(bytes(), 24)).unwrap().1;
        assert_eq!(read, pattern(4096)[24..32]);
        let packet = port.remove(None).unwrap();
        assert_eq!(packet.into_output::<Write<Vec<u8>>>().unwrap().0, 6);
        support::until_blocking(|| block.is_done());
        assert_eq!(block.take().unwrap().unwrap().1, pattern(4096)[8..16]);
    });
}
