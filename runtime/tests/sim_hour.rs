//! An hour, virtual, of random operations on files, sockets and pipes, with faults and cancels of all
//! kinds: what is read is what was written, and nothing is left behind.

mod support;

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;

use overlapped::buf::{IoBuf, IoBufMut};
use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::fs::{self, File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream, UdpSocket, stack_of};
use overlapped::sim::{Fault, FaultPlan, Report, Simulation};
use overlapped::task::JoinSet;
use overlapped::time::{Duration, Instant, now, sleep, timeout};

use support::Random;

thread_local! {
    /// Buffers of [`Counted`]'s that exist.
    static BUFFERS: Cell<usize> = const { Cell::new(0) };
}

/// A buffer that is missed if it is lost.
struct Counted(Vec<u8>);

impl Counted {
    fn new(bytes: Vec<u8>) -> Counted {
        BUFFERS.set(BUFFERS.get() + 1);
        Counted(bytes)
    }

    fn room(len: usize) -> Counted {
        Counted::new(Vec::with_capacity(len))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        BUFFERS.set(BUFFERS.get() - 1);
    }
}

// SAFETY: as the vector's, which it passes everything on to.
unsafe impl IoBuf for Counted {
    fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Counted {
    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn capacity(&self) -> usize {
        self.0.capacity()
    }
    unsafe fn set_len(&mut self, len: usize) {
        // SAFETY: the caller's.
        unsafe { self.0.set_len(len) };
    }
}

fn filters(random: &mut Random) -> Vec<Arc<dyn Driver>> {
    let mut filters: Vec<Arc<dyn Driver>> = Vec::new();
    for _ in 0..random.below(4) {
        filters.push(match random.below(5) {
            0 => pass(PassKind::Routine),
            1 => pass(PassKind::Skip),
            2 => pass(PassKind::Future),
            _ => Arc::new(Xor(random.below(256) as u8)),
        });
    }
    filters
}

/// How long a request is given: mostly long enough.
fn patience(random: &mut Random) -> Duration {
    match random.below(3) {
        0 => Duration::from_micros(random.below(500)),
        _ => Duration::from_secs(5),
    }
}

async fn pause(random: &mut Random) {
    sleep(Duration::from_millis(random.below(3000))).await;
}

/// A file and what is known of its bytes: after a write that failed, or was cancelled, nothing is.
async fn on_file(id: u64, end: Instant, mut random: Random) {
    let path = format!("/tmp/{id}");
    let filters = filters(&mut random);
    let open = || async {
        loop {
            let mut options = OpenOptions::new().read(true).write(true).create(true);
            for filter in filters.clone() {
                options = options.filter(filter);
            }
            if let Ok(file) = options.open(&path).await {
                return file;
            }
        }
    };
    let mut file: File = open().await;
    let mut known: Vec<Option<u8>> = Vec::new();
    while now() < end {
        let at = random.below(known.len() as u64 + 1) as usize;
        let len = 1 + random.below(500) as usize;
        let limit = patience(&mut random);
        match random.below(10) {
            0..=3 => {
                let bytes = random.bytes(len);
                known.resize(known.len().max(at + len), None);
                known[at..at + len].fill(None);
                let write = file.write_at(Counted::new(bytes.clone()), at as u64);
                let n = match random.below(3) {
                    0 => match timeout(limit, write).await {
                        Ok(Ok((n, _))) => n,
                        _ => 0,
                    },
                    1 => write.deadline(limit).await.map_or(0, |(n, _)| n),
                    _ => write.await.map_or(0, |(n, _)| n),
                };
                bytes[..n].iter().zip(&mut known[at..]).for_each(|(b, k)| *k = Some(*b));
            }
            4..=7 => {
                let read = file.read_at(Counted::room(len), at as u64);
                let read = if random.below(2) == 0 {
                    timeout(limit, read).await.ok()
                } else {
                    Some(read.await)
                };
                if let Some(Ok((n, buf))) = read {
                    let wrong = buf
                        .0
                        .iter()
                        .zip(&known[at..])
                        .position(|(b, k)| k.is_some_and(|k| k != *b));
                    assert_eq!((buf.0.len(), wrong), (n, None), "file {id} at {at}");
                }
            }
            8 => {
                let _ = file.sync_all().await;
                file.object().cancel_requests();
            }
            _ => {
                // Closed, or dropped with requests on their way.
                if random.below(2) == 0 {
                    let _ = file.close().await;
                } else {
                    let mut read = Box::pin(file.read_at(Counted::room(len), at as u64));
                    let _ = futures_util::poll!(read.as_mut());
                    drop(read);
                    drop(file);
                }
                file = open().await;
            }
        }
        pause(&mut random).await;
    }
}

/// Names come and go.
async fn on_names(id: u64, end: Instant, mut random: Random) {
    let root = format!("/tmp/names-{id}");
    while now() < end {
        let name = |random: &mut Random| format!("{root}/{}", random.below(5));
        let (one, other) = (name(&mut random), name(&mut random));
        let limit = patience(&mut random);
        let done = match random.below(7) {
            0 => timeout(limit, fs::create_dir_all(&one)).await,
            1 => timeout(limit, fs::write(&other, vec![1; 100])).await,
            2 => timeout(limit, fs::rename(&one, &other)).await,
            3 => timeout(limit, fs::hard_link(&one, &other)).await,
            4 => timeout(limit, fs::remove_dir_all(&one)).await,
            5 => timeout(limit, fs::copy(&one, &other)).await.map(|copied| copied.map(drop)),
            _ => {
                let list = async {
                    let mut entries = fs::read_dir(&root).await?;
                    while let Some(entry) = entries.next_entry().await? {
                        entry.metadata().await?;
                    }
                    io::Result::Ok(())
                };
                timeout(limit, list).await
            }
        };
        drop(done);
        pause(&mut random).await;
    }
}

/// The byte of a stream at a position.
fn byte(stream: u64, position: usize) -> u8 {
    (stream as usize).wrapping_mul(31).wrapping_add(position ^ (position >> 7)) as u8
}

/// Sends what comes back, until something goes wrong.
async fn serve(stream: TcpStream, mut random: Random) {
    loop {
        let limit = patience(&mut random);
        let lease = match timeout(limit, stream.read_lease()).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(_)) => return,
            // It has gone quiet, or we are impatient: what comes now is not lost.
            Err(_) if random.below(20) == 0 => return,
            Err(_) => continue,
        };
        if lease.is_empty() || stream.write_all(lease).await.is_err() {
            return;
        }
    }
}

async fn server(listener: TcpListener, mut random: Random) {
    let mut connections = JoinSet::new();
    loop {
        let limit = patience(&mut random);
        if let Ok(Ok((stream, _))) = timeout(limit, listener.accept()).await {
            let random = Random(random.below(u64::MAX));
            connections.spawn(serve(stream, random));
        }
        while connections.try_join_next().is_some() {}
        if random.below(200) == 0 {
            connections.abort_all();
        }
    }
}

/// Connects, sends, and checks what comes back.
async fn on_stream(
    address: &str,
    stack: Arc<overlapped::driver::Stack>,
    end: Instant,
    mut random: Random,
) {
    let mut number = random.below(1000);
    while now() < end {
        number += 1;
        let limit = patience(&mut random);
        let connecting = timeout(limit, TcpStream::connect_with(address, stack.clone())).await;
        let Ok(Ok(stream)) = connecting else {
            pause(&mut random).await;
            continue;
        };
        let (mut sent, mut got, mut broken) = (0, 0, false);
        for _ in 0..random.below(30) {
            let len = 1 + random.below(600) as usize;
            if random.below(2) == 0 && !broken {
                let bytes = (sent..sent + len).map(|at| byte(number, at)).collect();
                // How much of one that fails, or is dropped, has gone is not known: it is the last.
                match timeout(patience(&mut random), stream.write_all(Counted::new(bytes))).await {
                    Ok(Ok(_)) => sent += len,
                    _ => broken = true,
                }
            } else {
                let read = stream.read(Counted::room(len));
                let Ok(read) = timeout(patience(&mut random), read).await else { continue };
                let Ok((n, buf)) = read else { break };
                if n == 0 {
                    break;
                }
                for (i, &b) in buf.0.iter().enumerate() {
                    assert_eq!(b, byte(number, got + i), "stream {number} at {}", got + i);
                }
                got += n;
                assert!(got <= sent || broken, "more than was sent");
            }
        }
        match random.below(3) {
            0 => drop(stream.close().await),
            1 => drop(stream.shutdown(Shutdown::Write).await),
            _ => drop(stream),
        }
        pause(&mut random).await;
    }
}

/// Sends messages to itself and to others, and looks whether what comes is whole.
async fn on_messages(id: u64, end: Instant, mut random: Random) {
    let address = |id| format!("10.0.0.2:{}", 100 + id).parse().unwrap();
    while now() < end {
        let socket: std::net::SocketAddr = address(id);
        let Ok(socket) = UdpSocket::bind(socket).await else { continue };
        for _ in 0..10 {
            let len = random.below(200) as usize;
            let message = vec![len as u8; len];
            let limit = patience(&mut random);
            if random.below(2) == 0 {
                let send = socket.send_to(Counted::new(message), address(random.below(3)));
                let _ = timeout(limit, send).await;
            } else if let Ok(Ok((_, buf))) =
                timeout(limit, socket.recv_from(Counted::room(1500))).await
            {
                assert!(buf.0.iter().all(|&b| b == buf.0.len() as u8), "a message came apart");
            }
        }
        pause(&mut random).await;
        if random.below(2) == 0 {
            drop(socket);
            // Its address is free when it has gone.
            sleep(Duration::from_millis(100)).await;
        } else {
            let _ = socket.close().await;
        }
    }
}

async fn on_pipes(end: Instant, mut random: Random) {
    while now() < end {
        let Ok((reader, writer)) = overlapped::io::pipe() else { continue };
        let writing = overlapped::spawn(async move {
            let mut random = Random(random.below(u64::MAX));
            let mut sent = 0;
            while random.below(20) != 0 {
                let len = 1 + random.below(400) as usize;
                let bytes = (sent..sent + len).map(|at| byte(0, at)).collect();
                if writer.write_all(Counted::new(bytes)).await.is_err() {
                    break;
                }
                sent += len;
            }
            random
        });
        let mut dice = Random(7);
        let mut got = 0;
        loop {
            let read = reader.read(Counted::room(1 + dice.below(400) as usize));
            let Ok(read) = timeout(patience(&mut dice), read).await else { continue };
            let Ok((n, buf)) = read else { break };
            assert!(buf.0.iter().enumerate().all(|(i, &b)| b == byte(0, got + i)));
            got += n;
            if n == 0 || dice.below(100) == 0 {
                break;
            }
        }
        drop(reader);
        random = writing.await.expect("writers do not panic");
        pause(&mut random).await;
    }
}

async fn hour(seed: u64, length: Duration) {
    let end = now() + length;
    let random = |n: u64| Random(seed.wrapping_mul(1000) + n);
    let mut tasks = JoinSet::new();
    for id in 0..4 {
        tasks.spawn(on_file(id, end, random(id)));
        tasks.spawn(on_names(id % 2, end, random(10 + id)));
    }
    for id in 0..3 {
        tasks.spawn(on_messages(id, end, random(20 + id)));
    }
    tasks.spawn(on_pipes(end, random(30)));
    for id in 0..2 {
        let stack = stack_of(filters(&mut random(40 + id))).unwrap();
        let address = format!("10.0.0.1:{}", 80 + id);
        let listener = loop {
            if let Ok(listener) = TcpListener::bind_with(&*address, stack.clone()).await {
                break listener;
            }
        };
        overlapped::spawn(server(listener, random(50 + id)));
        for client in 0..3 {
            let (address, stack) = (address.clone(), stack.clone());
            let random = random(60 + 10 * id + client);
            tasks.spawn(async move { on_stream(&address, stack, end, random).await });
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no task panics");
    }
}

fn run(seed: u64, length: Duration) -> Report {
    let before = BUFFERS.get();
    let ((), report) = Simulation::new(seed).faults(FaultPlan::hostile()).run(hour(seed, length));
    assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
    assert_eq!(BUFFERS.get(), before, "seed {seed}: buffers are lost");
    report
}

#[test]
fn an_hour_of_everything_leaves_nothing_behind() {
    let hour = Duration::from_secs(3600);
    let watch = std::time::Instant::now();
    let report = run(1, hour);
    println!(
        "{} operations, {:?} for {:?}",
        report.operations,
        watch.elapsed(),
        report.virtual_time
    );
    for &fault in Fault::ALL {
        println!("  {fault:?}: {}", report.faults.of(fault));
        assert!(report.faults.of(fault) > 0, "{fault:?} has not happened");
    }
    assert!(report.virtual_time >= hour && report.operations > 100_000);
}

#[test]
fn half_a_minute_of_everything_goes_the_same_way_again() {
    let mut hashes = Vec::new();
    for seed in 100..110 {
        let report = run(seed, Duration::from_secs(30));
        assert_eq!(run(seed, Duration::from_secs(30)), report, "seed {seed} goes two ways");
        hashes.push(report.trace_hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
}

#[test]
fn ending_in_the_middle_of_everything_leaves_nothing_behind() {
    for seed in 200..240 {
        let before = BUFFERS.get();
        let alive = Rc::new(());
        let witness = alive.clone();
        let plan = FaultPlan::hostile();
        let ((), report) = Simulation::new(seed).faults(plan).run(async move {
            overlapped::spawn_local(async move {
                hour(seed, Duration::from_secs(3600)).await;
                drop(witness);
            });
            sleep(Duration::from_micros(seed * seed * 10)).await;
        });
        assert!(report.tasks > 0);
        assert!(report.left.is_nothing(), "seed {seed}: {}", report.left);
        assert_eq!((BUFFERS.get(), Rc::strong_count(&alive)), (before, 1), "seed {seed}");
    }
}
