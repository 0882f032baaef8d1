//! The filters that hold, cut and fail, above each other in any order: what a stream carries stays whole,
//! whatever is dropped, timed out or read into.

mod support;

use std::io::ErrorKind;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use overlapped::driver::filter::{
    Delay, Fault, Idle, Kind, Latency, Later, Rates, Rule, Slice, Throttle, Xor,
};
use overlapped::driver::{Driver, Filter, Major, MajorSet, bottom::Memory};
use overlapped::fs::OpenOptions;
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::sim::{FaultPlan, Simulation};
use overlapped::time::sleep;
use overlapped::{Backend, Request, operation};
use support::{Random, both, poll_once};

const MS: Duration = Duration::from_millis(1);

/// Some of them, in some order.
fn filters(random: &mut Random, seed: u64) -> Vec<Arc<dyn Driver>> {
    let most = |random: &mut Random| NonZeroU32::new(1 + random.below(3000) as u32).unwrap();
    let mut all: Vec<Arc<dyn Driver>> = vec![
        Slice::random(most(random), seed).into_driver(),
        Slice::fixed(most(random)).into_driver(),
        Idle::new().reads(7 * MS).into_driver(),
        Delay::new(Latency::between(Duration::ZERO, 9 * MS).unwrap())
            .only(MajorSet::of(&[Major::Read]))
            .into_driver(),
        Delay::new(Latency::fixed(2 * MS)).only(MajorSet::of(&[Major::Write])).into_driver(),
        Throttle::new(Rates { bytes: Some(3 << 20), ..Rates::ANY }).unwrap().into_driver(),
        Fault::new(seed, [Rule::new(Kind::Short).rate(0.3)]).into_driver(),
        Arc::new(Xor(0x5a)),
        Arc::new(Xor(0x33)),
        Arc::new(Later),
    ];
    let mut some: Vec<Arc<dyn Driver>> = Vec::new();
    for _ in 0..2 + random.below(5) {
        let at = random.below(all.len() as u64) as usize;
        some.push(all.swap_remove(at));
    }
    some
}

/// Reads in every way, and lets some reads go; until everything is there.
async fn read_all(stream: &TcpStream, len: usize, random: &mut Random) -> Vec<u8> {
    let mut received = Vec::new();
    let late = |error: ErrorKind| assert_eq!(error, ErrorKind::TimedOut);
    let mut tries = 0;
    while received.len() < len {
        tries += 1;
        assert!(tries < 100_000, "{} of {len} bytes came", received.len());
        let room = (1 + random.below(4000) as usize).min(len - received.len());
        let parts = || vec![Vec::with_capacity(room / 2), Vec::with_capacity(room - room / 2)];
        match random.below(6) {
            0 => match stream.read(Vec::with_capacity(room)).await {
                Ok((_, bytes)) => received.extend(bytes),
                Err(error) => late(std::io::Error::from(error).kind()),
            },
            1 => match stream.read_vectored(parts()).await {
                Ok((_, bytes)) => received.extend(bytes.concat()),
                Err(error) => late(std::io::Error::from(error).kind()),
            },
            2 => {
                let lease = operation::ReceiveLease { most: room as u32 };
                match Request::new(stream.object(), lease).await {
                    Ok(lease) => received.extend_from_slice(&lease),
                    Err(error) => late(error.kind()),
                }
            }
            3 => {
                let mut read = stream.read(Vec::with_capacity(room));
                if let Poll::Ready(Ok((_, bytes))) = poll_once(&mut read) {
                    received.extend(bytes);
                }
                sleep(random.below(5) as u32 * MS).await;
            }
            4 => {
                let mut read = stream.read_vectored(parts());
                if let Poll::Ready(Ok((_, bytes))) = poll_once(&mut read) {
                    received.extend(bytes.concat());
                }
                sleep(random.below(5) as u32 * MS).await;
            }
            _ => {
                let lease = operation::ReceiveLease { most: room as u32 };
                let lease = Request::new(stream.object(), lease);
                match lease.deadline(random.below(5) as u32 * MS).await {
                    Ok(lease) => received.extend_from_slice(&lease),
                    Err(error) => late(error.kind()),
                }
            }
        }
    }
    received
}

/// Sends bytes to a peer that sends them back.
async fn round(seed: u64, bytes: usize) {
    let mut random = Random(seed);
    let filters = filters(&mut random, seed);
    let names: Vec<String> = filters.iter().map(|f| f.name().to_owned()).collect();
    // What is transformed on its way out is so again on its way back.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stack = stack_of(filters).unwrap();
    let (stream, peer) =
        futures_util::join!(TcpStream::connect_with(address, stack), listener.accept());
    let (stream, peer) = (stream.unwrap(), peer.unwrap().0);
    let echo = overlapped::spawn(async move {
        loop {
            let lease = peer.read_lease().await.unwrap();
            if lease.is_empty() {
                break;
            }
            peer.write_all(lease).await.unwrap();
        }
    });
    let sent = random.bytes(bytes);
    let writer = async {
        let mut at = 0;
        let mut random = Random(seed + 1);
        while at < sent.len() {
            let upto = (at + 1 + random.below(6000) as usize).min(sent.len());
            if random.below(2) == 0 {
                stream.write_all(sent[at..upto].to_vec()).await.unwrap();
                at = upto;
            } else {
                let half = (at + upto) / 2;
                let parts = vec![sent[at..half].to_vec(), sent[half..upto].to_vec()];
                at += stream.write_vectored(parts).await.unwrap().0;
            }
        }
    };
    let ((), received) = futures_util::join!(writer, read_all(&stream, sent.len(), &mut random));
    assert!(received == sent, "seed {seed}: {names:?}");
    drop(stream);
    echo.await.unwrap();
}

#[test]
fn nothing_is_lost_in_simulations() {
    for seed in 0..150 {
        let plan = if seed % 3 == 0 { FaultPlan::none() } else { FaultPlan::rough() };
        let ((), report) = Simulation::new(seed).faults(plan).run(round(seed, 30_000));
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    }
    assert_eq!(overlapped::driver::heap_futures(), 0, "all fit into pooled chunks");
}

#[test]
fn nothing_is_lost_on_real_sockets() {
    both(async |backend| {
        let from = if backend == Backend::Epoll { 1000 } else { 2000 };
        for seed in from..from + 8 {
            round(seed, 20_000).await;
        }
    });
}

/// The same for files: a file is an array of bytes, whatever is put above it.
async fn file_round(seed: u64) {
    let mut random = Random(seed);
    // One that splits nearly everything.
    let rates = Rates { bytes: Some(30 << 20), burst: Some(5000), ..Rates::ANY };
    let throttle = Throttle::new(rates).unwrap().into_driver();
    let mut all = filters(&mut random, seed);
    all.insert(random.below(all.len() as u64 + 1) as usize, throttle);
    let names: Vec<String> = all.iter().map(|f| f.name().to_owned()).collect();
    let mut options = OpenOptions::new().read(true).write(true).on(Arc::new(Memory::new()));
    for filter in all {
        options = options.filter(filter);
    }
    let file = options.open("a name").await.unwrap();
    let mut model: Vec<u8> = Vec::new();
    for _ in 0..60 {
        let (at, len) = (random.below(40_000) as usize, random.below(20_000) as usize);
        if random.below(2) == 0 {
            let bytes = random.bytes(len);
            // No holes: what was never written is not transformed.
            let at = at.min(model.len());
            if random.below(2) == 0 {
                file.write_all_at(bytes.clone(), at as u64).await.unwrap();
            } else {
                let mut done = 0;
                while done < len {
                    let half = (done + len) / 2;
                    let parts = vec![bytes[done..half].to_vec(), bytes[half..].to_vec()];
                    done += file.write_vectored_at(parts, (at + done) as u64).await.unwrap().0;
                }
            }
            model.resize(model.len().max(at + len), 0);
            model[at..at + len].copy_from_slice(&bytes);
        } else {
            let at = at.min(model.len());
            let expected = &model[at..model.len().min(at + len)];
            let mut read = Vec::new();
            while read.len() < expected.len() {
                let (from, left) = ((at + read.len()) as u64, expected.len() - read.len());
                let part = if random.below(2) == 0 {
                    file.read_at(Vec::with_capacity(left), from).await.unwrap().1
                } else {
                    let room = [left / 3, left - left / 3].map(Vec::with_capacity);
                    file.read_vectored_at(room.into(), from).await.unwrap().1.concat()
                };
                assert!(!part.is_empty(), "seed {seed}: {names:?}");
                read.extend(part);
            }
            assert!(read == expected, "seed {seed}: {names:?}");
        }
    }
    assert_eq!(file.metadata().await.unwrap().len(), model.len() as u64);
}

#[test]
fn files_stay_whole() {
    for seed in 0..150 {
        let ((), report) = Simulation::new(seed).run(file_round(seed));
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    }
    both(async |_| {
        for seed in 3000..3002 {
            file_round(seed).await;
        }
    });
}
