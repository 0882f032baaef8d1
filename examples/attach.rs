//! Filters that come and go under load.
//!
//! `cargo run --release --example attach`
//!
//! Tasks write and check the blocks of a file; others send numbers through connections to a server
//! that sends them back, and check that each comes once and in order. Meanwhile a tracing and a
//! throttling filter are attached to the file and to the server's sockets, and detached again, 10 000
//! times each. Prints a line of JSON last; exit status 0 only if nothing was lost, doubled or out of
//! order.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lexopt::prelude::*;
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, FileObject, Place};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{TcpListener, TcpStream};
use overlapped::task::JoinSet;
use overlapped::{Backend, Builder};
use overlapped_examples::usage;

const USAGE: &str =
    "attach [--rounds N] [--connections N] [--writers N] [--backend io_uring|epoll]";

/// Bytes of a block of the file, and blocks of each task.
const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;

#[derive(Clone)]
struct Options {
    rounds: u64,
    connections: u64,
    writers: u64,
    backend: Option<Backend>,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options { rounds: 10_000, connections: 4, writers: 4, backend: None };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            Long("connections") => options.connections = parser.value()?.parse()?,
            Long("writers") => options.writers = parser.value()?.parse()?,
            Long("backend") => options.backend = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| usage(error, USAGE));
    let mut builder = Builder::new().workers(2);
    if let Some(backend) = options.backend {
        builder = builder.backend(backend);
    }
    builder.build()?.block_on(run(options))
}

/// What the load has done, and whether it is to end.
#[derive(Default)]
struct Load {
    blocks: AtomicU64,
    numbers: AtomicU64,
    stop: AtomicBool,
}

async fn run(options: Options) -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("overlapped-attach-{}", std::process::id()));
    let open = OpenOptions::new().read(true).write(true).create(true);
    let file = Arc::new(open.open(&path).await?);
    let load = Arc::new(Load::default());
    let mut tasks = JoinSet::new();
    for writer in 0..options.writers {
        tasks.spawn(blocks(file.clone(), writer, load.clone()));
    }
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await?;
    let address = listener.local_addr()?;
    let mut served = Vec::new();
    for _ in 0..options.connections {
        let client = Arc::new(TcpStream::connect(address).await?);
        let server = Arc::new(listener.accept().await?.0);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        served.push(server.clone());
        tasks.spawn(echo(server));
        tasks.spawn(send(client.clone(), load.clone()));
        tasks.spawn(receive(client, load.clone()));
    }
    let changed = change(&options, &file, &served).await;
    load.stop.store(true, Ordering::Relaxed);
    drop(served);
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| wrong(error.to_string()))??;
    }
    drop(file);
    std::fs::remove_file(&path)?;
    let attached = changed?;
    let (blocks, numbers) = (&load.blocks, &load.numbers);
    println!(
        "{{\"rounds\": {}, \"attached\": {attached}, \"blocks\": {}, \"numbers\": {}}}",
        options.rounds,
        blocks.load(Ordering::Relaxed),
        numbers.load(Ordering::Relaxed)
    );
    Ok(())
}

/// The changes; how many filters were attached, and detached.
async fn change(options: &Options, file: &File, served: &[Arc<TcpStream>]) -> io::Result<u64> {
    let made = |text: &str| -> io::Result<Arc<dyn Driver>> {
        Ok(text.parse::<Text>()?.build()?.filters.remove(0))
    };
    // One of each for all: a filter may be in many stacks at a time.
    let trace = made("trace(jsonl=/dev/null, sample=64)")?;
    let throttle = made("throttle(iops=1000000, bps=100G)")?;
    let mut attached = 0;
    for round in 0..options.rounds {
        let sockets = served.iter().map(|stream| stream.object());
        let objects: Vec<&FileObject> = [file.object()].into_iter().chain(sockets).collect();
        // The file each time, and one of the sockets.
        let turns = [0, 1 + (round as usize % served.len().max(1))];
        for object in turns.into_iter().filter_map(|at| objects.get(at)) {
            let (top, change) = object.attach(Place::Top, trace.clone())?;
            // The throttle below it or above it, in turn.
            let place = if round % 2 == 0 { Place::Below("trace") } else { Place::Top };
            let (other, _) = object.attach(place, throttle.clone())?;
            if round % 7 == 0 {
                change.await;
            }
            let first = object.detach(&top)?;
            object.detach(&other)?.await;
            first.await;
            attached += 2;
        }
        if (round + 1) % 1000 == 0 {
            eprintln!("{} of {} rounds", round + 1, options.rounds);
        }
    }
    Ok(attached)
}

fn wrong(what: String) -> io::Error {
    io::Error::other(what)
}

/// Writes blocks with numbers in them, and reads them back.
async fn blocks(file: Arc<File>, writer: u64, load: Arc<Load>) -> io::Result<()> {
    let mut written = [0u64; BLOCKS as usize];
    let (mut number, mut buf) = (0u64, Vec::with_capacity(BLOCK));
    while !load.stop.load(Ordering::Relaxed) {
        number += 1;
        let block = number.wrapping_mul(0x9E37_79B9) % BLOCKS;
        let offset = (writer * BLOCKS + block) * BLOCK as u64;
        buf.clear();
        buf.resize(BLOCK, number as u8);
        buf[..8].copy_from_slice(&number.to_le_bytes());
        written[block as usize] = number;
        ((), buf) = file.write_all_at(buf, offset).await?;
        let check = (number / 2).wrapping_mul(0x9E37_79B9) % BLOCKS;
        let expected = written[check as usize];
        if expected > 0 {
            let offset = (writer * BLOCKS + check) * BLOCK as u64;
            let n;
            (n, buf) = file.read_at(buf, offset).await?;
            let found = u64::from_le_bytes(buf[..8].try_into().expect("eight bytes"));
            if n != BLOCK || found != expected || buf[8..].iter().any(|b| *b != expected as u8) {
                return Err(wrong(format!(
                    "writer {writer}, block {check}: {found} for {expected}"
                )));
            }
        }
        load.blocks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Sends everything back.
async fn echo(stream: Arc<TcpStream>) -> io::Result<()> {
    let mut buf = Vec::with_capacity(4096);
    loop {
        let n;
        (n, buf) = stream.read(buf).await?;
        if n == 0 {
            return stream.shutdown(std::net::Shutdown::Write).await;
        }
        ((), buf) = stream.write_all(buf).await?;
    }
}

/// Numbers in order, some at a time.
async fn send(stream: Arc<TcpStream>, load: Arc<Load>) -> io::Result<()> {
    let mut number = 0u64;
    while !load.stop.load(Ordering::Relaxed) {
        let some = 1 + number % 16;
        let bytes = (number..number + some).flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
        number += some;
        stream.write_all(bytes).await?;
    }
    stream.shutdown(std::net::Shutdown::Write).await
}

/// The same numbers, each once.
async fn receive(stream: Arc<TcpStream>, load: Arc<Load>) -> io::Result<()> {
    let (mut expected, mut rest) = (0u64, Vec::new());
    loop {
        let lease = stream.read_lease().await?;
        if lease.is_empty() {
            break;
        }
        rest.extend_from_slice(&lease);
        let whole = rest.len() / 8 * 8;
        for bytes in rest[..whole].chunks_exact(8) {
            let number = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            if number != expected {
                return Err(wrong(format!("the number {number} came, not {expected}")));
            }
            expected += 1;
        }
        rest.drain(..whole);
        load.numbers.fetch_add((whole / 8) as u64, Ordering::Relaxed);
    }
    if rest.is_empty() { Ok(()) } else { Err(wrong("a number was cut".to_owned())) }
}
