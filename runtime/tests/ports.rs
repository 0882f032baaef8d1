//! Completion ports with files and sockets, from plain threads: one process per backend.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener as StdListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use overlapped::fs::{File, OpenOptions};
use overlapped::net::TcpStream;
use overlapped::operation::{Read, ReceiveLease, Write};
use overlapped::{CompletionPort, Packet, Status};
use support::{Dir, alone, pattern, status, until_blocking};

type ReadFile = Read<Vec<u8>>;

fn open(dir: &Dir) -> File {
    let options = OpenOptions::new().read(true).write(true);
    options.open_wait(dir.file("f", pattern(1 << 20))).unwrap()
}

fn pair() -> (TcpStream, std::net::TcpStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

/// Takes that many packets.
fn take(port: &CompletionPort, mut count: usize) -> Vec<Packet> {
    let mut packets = Vec::new();
    while count > 0 {
        let n = port.remove_many(&mut packets, count, None).unwrap();
        assert!(n > 0 && n <= count);
        count -= n;
    }
    packets
}

#[test]
fn waiting_on_a_plain_thread() {
    alone("waiting_on_a_plain_thread", |_| {
        let dir = Dir::new();
        let file = open(&dir);
        let (n, buf) = file.read_at(Vec::with_capacity(5000), 7).wait().unwrap();
        assert!(n == 5000 && buf == pattern(6000)[7..5007]);
        assert_eq!(file.write_at(b"x".to_vec(), 0).wait().unwrap().0, 1);
        file.sync_all().wait().unwrap();
        let overflow = file.read_at(Vec::with_capacity(1), i64::MAX as u64).wait();
        assert_eq!(status(overflow), Status::OFFSET_OVERFLOW);
        let (ours, mut theirs) = pair();
        let limit = Duration::from_millis(10);
        assert_eq!(status(ours.read(vec![0; 9]).deadline(limit).wait()), Status::IO_TIMEOUT);
        theirs.write_all(b"hello").unwrap();
        assert_eq!(ours.read_lease().wait().unwrap()[..], *b"hello");
        // From several threads at once.
        let whole = &pattern(1 << 20);
        std::thread::scope(|scope| {
            for i in 0..4u64 {
                let file = &file;
                scope.spawn(move || {
                    for round in 1..200 {
                        let offset = (i * 1000 + round * 4096) % 900_000;
                        let (_, buf) = file.read_at(Vec::with_capacity(64), offset).wait().unwrap();
                        assert!(buf == whole[offset as usize..][..64]);
                    }
                });
            }
        });
        file.close_wait().unwrap();
    });
}

#[test]
fn packets_of_files() {
    alone("packets_of_files", |_| {
        let dir = Dir::new();
        let file = open(&dir);
        let port = CompletionPort::new();
        for i in 0..500u64 {
            file.read_at(Vec::with_capacity(64), i * 64).post(&port, i).unwrap();
        }
        let mut keys = Vec::new();
        for packet in take(&port, 500) {
            let key = packet.key();
            assert_eq!((packet.status(), packet.info(), packet.value()), (Status::SUCCESS, 64, 0));
            let (n, buf) = packet.into_output::<ReadFile>().unwrap();
            assert!(n == 64 && buf == pattern(500 * 64)[key as usize * 64..][..64]);
            keys.push(key);
        }
        keys.sort_unstable();
        assert!(keys.into_iter().eq(0..500));
        assert!(port.remove(Some(Duration::ZERO)).is_err());
        // One that fails at once yields no packet.
        let error = file.read_at(vec![7; 3], i64::MAX as u64).post(&port, 1).unwrap_err();
        assert_eq!(error.unwrap_err().into_buf(), [7; 3]);
        assert_eq!(port.depth(), 0);
        // One that fails in the system.
        let reader = OpenOptions::new().read(true).open_wait(dir.path("f")).unwrap();
        match reader.write_at(vec![7; 3], 0).post(&port, 2) {
            Err(output) => assert_eq!(output.unwrap_err().into_buf(), [7; 3]),
            Ok(_) => {
                let packet = port.remove(None).unwrap();
                assert_eq!(packet.status().errno(), Some(libc::EBADF));
                let error = packet.into_output::<Write<Vec<u8>>>().unwrap_err();
                assert_eq!(error.into_buf(), [7; 3]);
            }
        }
    });
}

#[test]
fn posted_packets_are_first_in_first_out() {
    alone("posted_packets_are_first_in_first_out", |_| {
        let port = CompletionPort::new();
        for i in 0..100 {
            port.post(i, i * 2, Status::from_raw(i as u32), i as usize).unwrap();
        }
        assert_eq!(port.depth(), 100);
        let mut packets = Vec::new();
        assert_eq!(port.remove_many(&mut packets, 30, None), Ok(30));
        assert_eq!(port.remove_many(&mut packets, 0, None), Ok(0));
        assert_eq!(port.remove_many(&mut packets, 1000, None), Ok(70));
        for (i, packet) in (0..).zip(packets) {
            let told = (packet.key(), packet.value(), packet.status().raw(), packet.info());
            assert_eq!(told, (i, i * 2, i as u32, i as usize));
        }
        // Timeouts.
        let start = Instant::now();
        assert!(port.remove(Some(Duration::from_millis(30))).is_err());
        assert!(start.elapsed() >= Duration::from_millis(30));
        // A posted packet wakes who waits.
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| port.remove(None).unwrap().key());
            std::thread::sleep(Duration::from_millis(10));
            port.post(5, 0, Status::SUCCESS, 0).unwrap();
            assert_eq!(waiter.join().unwrap(), 5);
        });
        let posted = {
            port.post(1, 2, Status::SUCCESS, 3).unwrap();
            port.remove(None).unwrap()
        };
        assert!(format!("{posted:?}").contains('3'));
    });
}

#[test]
fn packets_of_sockets() {
    alone("packets_of_sockets", |_| {
        let port = CompletionPort::new();
        let (ours, mut theirs) = pair();
        for round in 0..200u64 {
            ours.read_lease().post(&port, round).unwrap();
            theirs.write_all(&round.to_le_bytes()).unwrap();
            let packet = port.remove(None).unwrap();
            assert_eq!(packet.key(), round);
            let lease = packet.into_output::<ReceiveLease>().unwrap();
            assert_eq!(lease[..], round.to_le_bytes());
            ours.write_all_post(lease.to_vec(), &port);
            let packet = port.remove(None).unwrap();
            assert_eq!(packet.into_output::<Write<Vec<u8>>>().unwrap().0, 8);
            let mut back = [0; 8];
            theirs.read_exact(&mut back).unwrap();
            assert_eq!(back, round.to_le_bytes());
        }
        // Cancelled by handle: exactly one packet, of whichever outcome.
        for _ in 0..100 {
            let cancel = ours.read(Vec::<u8>::with_capacity(9)).post(&port, 7).unwrap();
            cancel.cancel();
            cancel.cancel();
            let packet = port.remove(None).unwrap();
            assert_eq!(packet.status(), Status::CANCELLED);
            let error = packet.into_output::<ReadFile>().unwrap_err();
            assert_eq!(error.into_buf().capacity(), 9);
            cancel.cancel();
        }
        let limit = Duration::from_millis(5);
        ours.read(Vec::<u8>::new()).deadline(limit).post(&port, 8).unwrap();
        assert_eq!(port.remove(None).unwrap().status(), Status::SUCCESS);
        ours.read(vec![0u8; 9]).deadline(limit).post(&port, 8).unwrap();
        assert_eq!(port.remove(None).unwrap().status(), Status::IO_TIMEOUT);
        assert_eq!(port.depth(), 0);
    });
}

/// A write whose packet goes to a port.
trait PostWrite {
    fn write_all_post(&self, bytes: Vec<u8>, port: &CompletionPort);
}

impl PostWrite for TcpStream {
    fn write_all_post(&self, bytes: Vec<u8>, port: &CompletionPort) {
        self.write(bytes).post(port, 0).unwrap();
    }
}

#[test]
fn several_threads_at_one_port() {
    alone("several_threads_at_one_port", |_| {
        const EACH: u64 = 2000;
        let dir = Dir::new();
        let file = open(&dir);
        let port = CompletionPort::new();
        let taken = AtomicUsize::new(0);
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let takers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let packet = port.remove(None).unwrap();
                            if packet.key() == u64::MAX {
                                return;
                            }
                            taken.fetch_add(1, Ordering::Relaxed);
                            sum.fetch_add(packet.key() as usize, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            // Issuers that go on driving their processors until all is done, as their requests
            // end with their threads.
            let issuers: Vec<_> = (0..2u64)
                .map(|_| {
                    let (file, port, taken) = (&file, &port, &taken);
                    scope.spawn(move || {
                        for i in 0..EACH {
                            let read = file.read_at(Vec::with_capacity(64), i * 64);
                            read.post(port, i).unwrap();
                            port.post(i, 0, Status::SUCCESS, 0).unwrap();
                            if i % 64 == 0 {
                                drop(CompletionPort::new().remove(Some(Duration::ZERO)));
                            }
                        }
                        while taken.load(Ordering::Relaxed) < 4 * EACH as usize {
                            drop(CompletionPort::new().remove(Some(Duration::from_millis(1))));
                        }
                    })
                })
                .collect();
            issuers.into_iter().for_each(|issuer| issuer.join().unwrap());
            takers.iter().for_each(|_| port.post(u64::MAX, 0, Status::SUCCESS, 0).unwrap());
        });
        assert_eq!(taken.into_inner() as u64, 4 * EACH);
        assert_eq!(sum.into_inner() as u64, 4 * (EACH * (EACH - 1) / 2));
    });
}

#[test]
fn packets_outlive_their_file_and_their_port() {
    alone("packets_outlive_their_file_and_their_port", |_| {
        let dir = Dir::new();
        let port = CompletionPort::new();
        let file = open(&dir);
        assert_eq!(support::descriptors_in(&dir), 1);
        for i in 0..10u64 {
            file.read_at(Vec::with_capacity(64), i * 64).post(&port, i).unwrap();
        }
        let mut packets = take(&port, 10);
        drop(file);
        until_blocking(|| {
            drop(port.remove(Some(Duration::ZERO)));
            support::descriptors_in(&dir) == 0
        });
        let first = packets.remove(0);
        let key = first.key() as usize;
        assert!(first.into_output::<ReadFile>().unwrap().1 == pattern(640)[key * 64..][..64]);
        let buf = packets.remove(0).take::<Vec<u8>>().unwrap();
        assert!(buf.capacity() >= 64);
        drop(packets);
        // Packets that die with their port, and on another thread.
        let file = open(&dir);
        for i in 0..10u64 {
            file.read_at(Vec::with_capacity(64), i * 64).post(&port, i).unwrap();
        }
        let other = CompletionPort::new();
        for i in 0..10u64 {
            file.read_at(Vec::with_capacity(64), i * 64).post(&other, i).unwrap();
        }
        let packets = take(&other, 10);
        std::thread::spawn(move || drop(packets)).join().unwrap();
        drop(port);
        file.close_wait().unwrap();
    });
}
