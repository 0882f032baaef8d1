//! A TCP echo server.
//!
//! `cargo run --release --example echo -- --listen 127.0.0.1:7777`
//!
//! Prints `listening HOST:PORT` first, echoes every connection, ends on SIGINT or SIGTERM after
//! closing in order, and prints a line of JSON last.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use lexopt::prelude::*;
use overlapped::buf::{IoBuf, Lease, Slice};
use overlapped::driver::Stack;
use overlapped::driver::filter::PassKind;
use overlapped::net::{AcceptStream, TcpListener, TcpStream, stack_of};
use overlapped::operation::{Read, ReceiveLease, Write as WriteOp};
use overlapped::{Backend, Builder, CompletionPort, Packet};
use overlapped_examples::{Api, Counting, Stop, Totals, filters, parse_kind, text, usage};

#[global_allocator]
static COUNTING: Counting = Counting;

const USAGE: &str = "echo --listen ADDR [--workers N] [--api future|port] [--filters N]
     [--filter-kind unhooked|skip|routine|future] [--backend io_uring|epoll] [--buffers owned|leased]";

/// Bytes of an owned buffer. A message of the kind that servers get fits into one; what it never
/// fills is never touched, and costs no memory.
const BUFFER: usize = 64 * 1024;

#[derive(Clone)]
struct Options {
    listen: SocketAddr,
    workers: usize,
    api: Api,
    filters: usize,
    kind: PassKind,
    backend: Option<Backend>,
    leased: bool,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        listen: "127.0.0.1:0".parse().expect("an address"),
        workers: 1,
        api: Api::Future,
        filters: 0,
        kind: PassKind::Routine,
        backend: None,
        leased: false,
    };
    let mut parser = lexopt::Parser::from_env();
    let mut listen = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => {
                options.listen = parser.value()?.parse()?;
                listen = true;
            }
            Long("workers") => options.workers = parser.value()?.parse()?,
            Long("api") => options.api = parser.value()?.parse()?,
            Long("filters") => options.filters = parser.value()?.parse()?,
            Long("filter-kind") => options.kind = parser.value()?.parse_with(parse_kind)?,
            Long("backend") => options.backend = Some(parser.value()?.parse()?),
            Long("buffers") => {
                options.leased = match text(parser.value()?)?.as_str() {
                    "owned" => false,
                    "leased" => true,
                    _ => return Err("--buffers: expected owned or leased".into()),
                }
            }
            other => return Err(other.unexpected()),
        }
    }
    if !listen {
        return Err("--listen is missing".into());
    }
    Ok(options)
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| usage(error, USAGE));
    let stack = stack_of(filters(options.filters, options.kind))?;
    let totals = Arc::new(Totals::default());
    let listener = StdListener::bind(options.listen)?;
    // `std` has the kernel hold 128 connections; many clients may come at once.
    socket2::SockRef::from(&listener).listen(4096)?;
    match options.api {
        Api::Future => futures(&options, listener, stack, &totals)?,
        Api::Port => ports(&options, listener, stack, &totals)?,
    }
    totals.print();
    Ok(())
}

// The future route: a task for each connection.

fn futures(
    options: &Options,
    listener: StdListener,
    stack: Arc<Stack>,
    totals: &Arc<Totals>,
) -> io::Result<()> {
    let mut builder = Builder::new().workers(options.workers);
    if let Some(backend) = options.backend {
        builder = builder.backend(backend);
    }
    let (leased, address) = (options.leased, listener.local_addr()?);
    let serve = {
        let totals = totals.clone();
        async move || -> io::Result<()> {
            let listener = TcpListener::from_std_with(listener, stack)?;
            loop {
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Descriptors may be exhausted: the connection waits, and so do we.
                        eprintln!("accept: {error}");
                        overlapped::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                totals.connection();
                let totals = totals.clone();
                overlapped::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    // A peer that resets its connection ends its own task only.
                    let _ = if leased {
                        echo_leased(stream, &totals).await
                    } else {
                        echo_owned(stream, &totals).await
                    };
                });
            }
        }
    };
    let until_stopped = async {
        let stop = Stop::announce(address)?;
        overlapped::spawn(serve());
        stop.wait().await
    };
    if options.workers <= 1 {
        let runtime = builder.build_local()?;
        runtime.block_on(until_stopped)?;
        runtime.shutdown(Duration::from_secs(5));
    } else {
        let runtime = builder.build()?;
        runtime.block_on(until_stopped)?;
        runtime.shutdown(Duration::from_secs(5));
    }
    Ok(())
}

async fn echo_owned(stream: TcpStream, totals: &Totals) -> io::Result<()> {
    let mut buf = Vec::with_capacity(BUFFER);
    loop {
        let n;
        (n, buf) = stream.read(buf).await?;
        if n == 0 {
            return Ok(());
        }
        ((), buf) = stream.write_all(buf).await?;
        totals.count(n, 2);
    }
}

async fn echo_leased(stream: TcpStream, totals: &Totals) -> io::Result<()> {
    loop {
        let lease = stream.read_lease().await?;
        let n = lease.len();
        if n == 0 {
            return Ok(());
        }
        stream.write_all(lease).await?;
        totals.count(n, 2);
    }
}

// The port route: one thread, one loop, as a program for Windows would.

const ACCEPT: u64 = 0;
const STOP: u64 = 2;
/// The lowest bit of a key says which request of the connection it is.
const WRITE: u64 = 1;

struct Connection {
    stream: TcpStream,
    key: u64,
}

fn ports(
    options: &Options,
    listener: StdListener,
    stack: Arc<Stack>,
    totals: &Arc<Totals>,
) -> io::Result<()> {
    if let Some(backend) = options.backend {
        // A plain thread's processor asks the environment.
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("OVERLAPPED_BACKEND", backend.to_string()) };
    }
    let stop = Stop::announce(listener.local_addr()?)?;
    let listener = TcpListener::from_std_with(listener, stack)?;
    let port = CompletionPort::new();
    let mut connections: HashMap<u64, Connection> = HashMap::new();
    let mut next_key = STOP + 2;
    let mut packets = Vec::with_capacity(256);
    let accept = |port: &CompletionPort| listener.accept().post(port, ACCEPT).map(drop);
    let _ = accept(&port);
    for signal in &stop.signals {
        signal.recv().post(&port, STOP).map_err(|refused| refused.expect_err("refused"))?;
    }
    loop {
        packets.clear();
        port.remove_many(&mut packets, 256, None)?;
        for packet in packets.drain(..) {
            let key = packet.key();
            if key == STOP {
                return Ok(());
            }
            if key == ACCEPT {
                if let Ok((stream, _)) = packet.into_output::<AcceptStream>() {
                    let _ = stream.set_nodelay(true);
                    totals.connection();
                    let connection = Connection { stream, key: next_key };
                    next_key += 2;
                    if receive(&connection, &port, options.leased, Vec::with_capacity(BUFFER)) {
                        connections.insert(connection.key, connection);
                    }
                }
                let _ = accept(&port);
                continue;
            }
            let Some(connection) = connections.get(&(key & !WRITE)) else { continue };
            if !step(connection, &port, packet, options.leased, totals) {
                connections.remove(&(key & !WRITE));
            }
        }
    }
}

/// Goes on with a connection after one of its requests; `false`: it has ended.
fn step(
    connection: &Connection,
    port: &CompletionPort,
    packet: Packet,
    leased: bool,
    totals: &Totals,
) -> bool {
    let wrote = packet.key() & WRITE != 0;
    match (wrote, leased) {
        (false, false) => match packet.into_output::<Read<Vec<u8>>>() {
            Ok((n, buf)) if n > 0 => {
                totals.count(n, 1);
                send(connection, port, buf.slice(..))
            }
            _ => false,
        },
        (false, true) => match packet.into_output::<ReceiveLease>() {
            Ok(lease) if !lease.is_empty() => {
                totals.count(lease.len(), 1);
                send(connection, port, IoBuf::slice(lease, ..))
            }
            _ => false,
        },
        (true, false) => match sent::<Vec<u8>>(packet, totals) {
            Some((slice, true)) => send(connection, port, slice),
            Some((slice, false)) => receive(connection, port, false, slice.into_inner()),
            None => false,
        },
        (true, true) => match sent::<Lease>(packet, totals) {
            Some((slice, true)) => send(connection, port, slice),
            Some((_, false)) => receive(connection, port, true, Vec::new()),
            None => false,
        },
    }
}

/// What is left of a buffer after a write, and whether anything is.
fn sent<B: IoBuf>(packet: Packet, totals: &Totals) -> Option<(Slice<B>, bool)> {
    let (n, slice) = packet.into_output::<WriteOp<Slice<B>>>().ok()?;
    totals.count(0, 1);
    let (begin, end) = (slice.begin() + n, slice.end());
    Some(if begin < end { (slice.into_inner().slice(begin..end), true) } else { (slice, false) })
}

fn send<B: IoBuf>(connection: &Connection, port: &CompletionPort, slice: Slice<B>) -> bool {
    connection.stream.write(slice).post(port, connection.key | WRITE).is_ok()
}

fn receive(connection: &Connection, port: &CompletionPort, leased: bool, buf: Vec<u8>) -> bool {
    if leased {
        connection.stream.read_lease().post(port, connection.key).is_ok()
    } else {
        connection.stream.read(buf).post(port, connection.key).is_ok()
    }
}
