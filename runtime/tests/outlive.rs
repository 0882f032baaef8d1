//! What outlives the plain thread that has issued it, and what does not. One process per
//! backend.

mod support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream, UdpSocket as StdUdp};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use overlapped::buf::AlignedBuf;
use overlapped::fs::OpenOptions;
use overlapped::io::{self, Events, PipeReader, Readiness};
use overlapped::net::{AcceptStream, TcpListener, TcpStream, UdpSocket};
use overlapped::operation::{Read, ReceiveLease, ReceiveMessage, Write};
use overlapped::wait::{self, Alertable, Event};
use overlapped::{CompletionPort, Issued, Packet, Status};
use support::{Dir, alone, descriptors_in, pattern, until_blocking};

fn pair() -> (TcpStream, StdStream) {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    (TcpStream::from_std(listener.accept().unwrap().0).unwrap(), theirs)
}

/// Runs on a thread that has ended when this returns.
fn on_a_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

fn take(port: &CompletionPort, key: u64) -> Packet {
    let packet = port.remove(None).unwrap();
    assert_eq!(packet.key(), key, "{packet:?}");
    packet
}

/// Requests that have not ended, but for the keeper's own.
fn live() -> usize {
    let all = overlapped::live_requests(Duration::from_secs(60)).requests;
    all.iter().filter(|request| request.driver != "watch").count()
}

/// X-31, one kind of request after the other; each waits when its thread ends.
#[test]
fn requests_that_report_to_a_port_outlive_their_thread() {
    alone("requests_that_report_to_a_port_outlive_their_thread", |_| {
        let port = CompletionPort::new();

        let (ours, mut theirs) = pair();
        on_a_thread(|| drop(ours.read(Vec::<u8>::with_capacity(16)).post(&port, 1).unwrap()));
        on_a_thread(|| drop(ours.read_lease().post(&port, 2).unwrap()));
        theirs.write_all(b"plain").unwrap();
        let (n, bytes) = take(&port, 1).into_output::<Read<Vec<u8>>>().unwrap();
        assert_eq!(&bytes[..n], b"plain");
        theirs.write_all(b"leased").unwrap();
        assert_eq!(&take(&port, 2).into_output::<ReceiveLease>().unwrap()[..], b"leased");

        // More than the socket takes: the rest is sent when somebody reads.
        let data = pattern(16 << 20);
        let len = data.len();
        on_a_thread(|| {
            let mut sent = 0;
            loop {
                ours.write(data[sent..].to_vec()).post(&port, 3).unwrap();
                match port.remove(Some(Duration::from_millis(200))) {
                    Ok(packet) => sent += packet.into_output::<Write<Vec<u8>>>().unwrap().0,
                    Err(_) => return,
                }
                assert!(sent < len, "the socket has taken all");
            }
        });
        let mut got = vec![0; len];
        theirs.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut filled = 0;
        while let Ok(n @ 1..) = theirs.read(&mut got[filled..]) {
            filled += n;
        }
        let (n, _) = take(&port, 3).into_output::<Write<Vec<u8>>>().unwrap();
        assert!(n > 0 && n <= filled);
        assert_eq!(got[..filled], pattern(len)[..filled]);

        let udp = UdpSocket::from_std(StdUdp::bind("127.0.0.1:0").unwrap()).unwrap();
        on_a_thread(|| drop(udp.recv(Vec::<u8>::with_capacity(16)).post(&port, 4).unwrap()));
        let from = StdUdp::bind("127.0.0.1:0").unwrap();
        from.send_to(b"datagram", udp.local_addr().unwrap()).unwrap();
        let (_, bytes) = take(&port, 4).into_output::<ReceiveMessage<Vec<u8>>>().unwrap();
        assert_eq!(bytes, b"datagram");

        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        on_a_thread(|| drop(listener.accept().post(&port, 5).unwrap()));
        let client = StdStream::connect(address).unwrap();
        let (_, peer) = take(&port, 5).into_output::<AcceptStream>().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());

        let (reader, mut writer) = std::io::pipe().unwrap();
        let ready = Readiness::new(reader.try_clone().unwrap()).unwrap();
        let reader = PipeReader::from_std(reader).unwrap();
        on_a_thread(|| drop(ready.poll(Events::READABLE).post(&port, 6).unwrap()));
        writer.write_all(b"pi").unwrap();
        let events = take(&port, 6).into_output::<io::Poll>().unwrap();
        assert!(events.contains(Events::READABLE));
        let (n, _) = reader.read(Vec::with_capacity(16)).wait().unwrap();
        assert_eq!(n, 2);
        on_a_thread(|| drop(reader.read(Vec::<u8>::with_capacity(16)).post(&port, 7).unwrap()));
        writer.write_all(b"pe").unwrap();
        let (n, bytes) = take(&port, 7).into_output::<Read<Vec<u8>>>().unwrap();
        assert_eq!(&bytes[..n], b"pe");

        assert!(port.remove(Some(Duration::ZERO)).is_err());
        until_blocking(|| live() == 0);
    });
}

/// C-12, X-31: the port of an associated file too; a deadline and a cancel still reach it.
#[test]
fn an_associated_files_requests_outlive_their_thread() {
    alone("an_associated_files_requests_outlive_their_thread", |_| {
        let port = CompletionPort::new();
        let (ours, mut theirs) = pair();
        port.associate(ours.object(), 9).unwrap();
        let cancel = on_a_thread(|| {
            let soon = Duration::from_millis(30);
            ours.read_lease().deadline(soon).packet(1).unwrap();
            ours.read_lease().packet(2).unwrap()
        });
        let late = take(&port, 9);
        assert_eq!((late.value(), late.status()), (1, Status::IO_TIMEOUT));
        drop(late);
        let Issued::Packet(cancel) = cancel else { panic!("nothing is there to read") };
        cancel.cancel();
        let cancelled = take(&port, 9);
        assert_eq!((cancelled.value(), cancelled.status()), (2, Status::CANCELLED));
        drop(cancelled);
        on_a_thread(|| drop(ours.read_lease().packet(3).unwrap()));
        theirs.write_all(b"still there").unwrap();
        let lease = take(&port, 9).into_output::<ReceiveLease>().unwrap();
        assert_eq!(&lease[..], b"still there");
    });
}

/// what does not report to a port, or has an event, ends with its thread.
#[test]
fn other_requests_end_with_their_thread() {
    alone("other_requests_end_with_their_thread", |_| {
        let port = CompletionPort::new();
        let event = Event::manual(false);
        let (with_event, _a) = pair();
        let (by_apc, _b) = pair();
        let (survivor, mut theirs) = pair();
        on_a_thread(|| {
            with_event.read_lease().event(&event).post(&port, 1).unwrap();
            by_apc.read_lease().queue_apc(|_| panic!("its thread is gone")).unwrap();
            survivor.read_lease().post(&port, 2).unwrap();
        });
        // The thread has waited for it.
        let cancelled = port.remove(Some(Duration::ZERO)).unwrap();
        assert_eq!((cancelled.key(), cancelled.status()), (1, Status::CANCELLED));
        assert_eq!(event.wait(Some(Duration::ZERO)), Ok(true));
        until_blocking(|| live() == 1);
        theirs.write_all(b"x").unwrap();
        assert_eq!(&take(&port, 2).into_output::<ReceiveLease>().unwrap()[..], b"x");
        wait::sleep(Some(Duration::ZERO), Alertable::Yes).unwrap();
    });
}

/// Files, more than fit into the queues, by threads that end at once; and everything is given back.
#[test]
fn nothing_is_lost_or_left_behind() {
    alone("nothing_is_lost_or_left_behind", |_| {
        const THREADS: u64 = 30;
        const EACH: u64 = 300;
        let dir = Dir::new();
        let path = dir.file("f", pattern(1 << 20));
        let expected = pattern(1 << 20);
        let port = CompletionPort::new();
        for direct in [false, true] {
            let options = OpenOptions::new().read(true).direct(direct);
            let file = Arc::new(options.open_wait(&path).unwrap());
            for _ in 0..THREADS {
                on_a_thread(|| {
                    for i in 0..EACH {
                        let at = i * 4096 % (1 << 20);
                        let buf = AlignedBuf::new(4096, 4096);
                        file.read_at(buf, at).post(&port, at).unwrap();
                    }
                });
            }
            for _ in 0..THREADS * EACH {
                let packet = port.remove(None).unwrap();
                let at = packet.key() as usize;
                let (n, bytes) = packet.into_output::<Read<AlignedBuf>>().unwrap();
                assert_eq!((n, &bytes[..n]), (4096, &expected[at..at + 4096]));
            }
        }
        until_blocking(|| live() == 0 && descriptors_in(&dir) == 0);
        // Each ring and epoll set too.
        until_blocking(|| support::descriptors() < 40);
    });
}

/// The thread's end and the data race.
#[test]
fn an_end_and_data_at_once() {
    alone("an_end_and_data_at_once", |_| {
        let port = CompletionPort::new();
        let (ours, mut theirs) = pair();
        for round in 0..500u64 {
            thread::scope(|scope| {
                scope.spawn(|| drop(ours.read_lease().post(&port, round).unwrap()));
                scope.spawn(|| theirs.write_all(&round.to_ne_bytes()).unwrap());
            });
            let lease = take(&port, round).into_output::<ReceiveLease>().unwrap();
            assert_eq!(lease[..], round.to_ne_bytes());
        }
    });
}
