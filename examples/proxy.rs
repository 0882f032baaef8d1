//! A TCP proxy whose TLS, tracing, throttling and faults are filters, named in its command line.
//!
//! `cargo run --release --example proxy -- --listen 127.0.0.1:7443 --connect 127.0.0.1:6379
//!  --listen-stack 'tls(cert=cert.pem, key=key.pem)'`
//!
//! Prints `listening HOST:PORT` first. Each connection that is accepted gets one to `--connect`, and
//! bytes go both ways until both sides have ended; that one side has ended is passed on. A failure on
//! one side resets the other. Ends on SIGINT or SIGTERM, and prints a line of JSON last.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future;
use lexopt::prelude::*;
use overlapped::driver::Stack;
use overlapped::driver::text::Text;
use overlapped::net::{TcpListener, TcpStream, stack_of};
use overlapped::{Backend, Builder};
use overlapped_examples::{Stop, text, usage};

const USAGE: &str =
    "proxy --listen ADDR --connect ADDR [--listen-stack TEXT] [--connect-stack TEXT]
      [--workers N] [--backend io_uring|epoll]";

/// Bytes that are passed on at once, at most.
const BUFFER: usize = 64 * 1024;

struct Options {
    listen: SocketAddr,
    connect: SocketAddr,
    listen_stack: Arc<Stack>,
    connect_stack: Arc<Stack>,
    workers: usize,
    backend: Option<Backend>,
}

/// The stack of sockets with the filters that a text names, one for all connections.
fn stack(text: &str) -> Result<Arc<Stack>, lexopt::Error> {
    if text.trim().is_empty() {
        return stack_of([]).map_err(|error| error.to_string().into());
    }
    // The errors point at their place in the text, over several lines.
    let built = text.parse::<Text>().and_then(|text| text.build());
    let built = built.map_err(|error| error.to_string())?;
    if built.bottom.is_some() {
        return Err(format!(
            "'{text}': a socket is the bottom here, so the text has filters alone"
        )
        .into());
    }
    stack_of(built.filters).map_err(|error| error.to_string().into())
}

fn address(value: std::ffi::OsString) -> Result<SocketAddr, lexopt::Error> {
    let name = text(value)?;
    let mut addresses = name.to_socket_addrs().map_err(|e| format!("'{name}': {e}"))?;
    addresses.next().ok_or_else(|| format!("'{name}' has no address").into())
}

fn options() -> Result<Options, lexopt::Error> {
    let (mut listen, mut connect) = (None, None);
    let (mut listen_stack, mut connect_stack) = (String::new(), String::new());
    let (mut workers, mut backend) = (1, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => listen = Some(address(parser.value()?)?),
            Long("connect") => connect = Some(address(parser.value()?)?),
            Long("listen-stack") => listen_stack = text(parser.value()?)?,
            Long("connect-stack") => connect_stack = text(parser.value()?)?,
            Long("workers") => workers = parser.value()?.parse()?,
            Long("backend") => backend = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Options {
        listen: listen.ok_or("--listen is missing")?,
        connect: connect.ok_or("--connect is missing")?,
        listen_stack: stack(&listen_stack)?,
        connect_stack: stack(&connect_stack)?,
        workers,
        backend,
    })
}

#[derive(Default)]
struct Totals {
    connections: AtomicU64,
    failed: AtomicU64,
    /// Bytes from clients, and to them.
    up: AtomicU64,
    down: AtomicU64,
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| usage(error, USAGE));
    let listener = StdListener::bind(options.listen)?;
    // `std` has the kernel hold 128 connections; many clients may come at once.
    socket2::SockRef::from(&listener).listen(4096)?;
    let totals = Arc::new(Totals::default());
    let mut builder = Builder::new().workers(options.workers);
    if let Some(backend) = options.backend {
        builder = builder.backend(backend);
    }
    let until_stopped = async {
        let stop = Stop::announce(listener.local_addr()?)?;
        let listener = TcpListener::from_std_with(listener, options.listen_stack)?;
        overlapped::spawn(serve(listener, options.connect, options.connect_stack, totals.clone()));
        stop.wait().await
    };
    let limit = Duration::from_secs(5);
    if options.workers <= 1 {
        let runtime = builder.build_local()?;
        runtime.block_on(until_stopped)?;
        runtime.shutdown(limit);
    } else {
        let runtime = builder.build()?;
        runtime.block_on(until_stopped)?;
        runtime.shutdown(limit);
    }
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    println!(
        "{{\"connections\": {}, \"failed\": {}, \"bytes_up\": {}, \"bytes_down\": {}}}",
        count(&totals.connections),
        count(&totals.failed),
        count(&totals.up),
        count(&totals.down)
    );
    Ok(())
}

/// Accepts connections for ever.
async fn serve(listener: TcpListener, connect: SocketAddr, stack: Arc<Stack>, totals: Arc<Totals>) {
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Descriptors may be exhausted: the connection waits, and so do we.
                eprintln!("accept: {error}");
                overlapped::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        totals.connections.fetch_add(1, Ordering::Relaxed);
        let (stack, totals) = (stack.clone(), totals.clone());
        overlapped::spawn(async move {
            if let Err(error) = pass_on(client, connect, stack, &totals).await {
                totals.failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("{peer}: {error}");
            }
        });
    }
}

/// Connects to the server, and passes everything on until both sides have ended.
async fn pass_on(
    client: TcpStream,
    connect: SocketAddr,
    stack: Arc<Stack>,
    totals: &Totals,
) -> Result<(), String> {
    let server = TcpStream::connect_with(connect, stack).await;
    let server = server.map_err(|error| format!("connecting to {connect}: {error}"))?;
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from, to) = (("client", &client), ("server", &server));
    let both = future::try_join(copy(from, to, &totals.up), copy(to, from, &totals.down));
    match both.await {
        Ok(_) => {
            // What the system says of the ends is no news to anybody.
            let _ = future::join(client.close(), server.close()).await;
            Ok(())
        }
        Err(error) => {
            // Not to be taken for an end in order: the connections are reset.
            for stream in [&client, &server] {
                let _ = stream.options().set_linger(Some(Duration::ZERO));
            }
            Err(error)
        }
    }
}

/// Passes on what one side sends, and that it has ended.
async fn copy(
    (from, source): (&str, &TcpStream),
    (to, target): (&str, &TcpStream),
    bytes: &AtomicU64,
) -> Result<(), String> {
    let reads = |error: io::Error| format!("reading from the {from}: {error}");
    let writes = |error: io::Error| format!("writing to the {to}: {error}");
    let mut buf = Vec::with_capacity(BUFFER);
    loop {
        let n;
        (n, buf) = source.read(buf).await.map_err(|e| reads(e.into()))?;
        if n == 0 {
            // A side that is gone altogether hears nothing any more.
            let _ = target.shutdown(Shutdown::Write).await;
            return Ok(());
        }
        bytes.fetch_add(n as u64, Ordering::Relaxed);
        ((), buf) = target.write_all(buf).await.map_err(|e| writes(e.into()))?;
    }
}
