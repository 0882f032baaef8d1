//! A network block device: any stack of drivers, exported over NBD.
//!
//! `cargo run --release --example nbd -- --listen unix:/tmp/nbd --stack 'xor(key=7) | file(disk.img)'`
//!
//! With `--tls DIR`, only over TLS. Then, for instance, `nbdinfo nbd+unix:///?socket=/tmp/nbd`, or QEMU's tools. Prints `listening …`
//! first, and ends on SIGINT or SIGTERM: it answers what it has been asked, flushes, and closes the stack.
//!
//! The protocol is in `examples/src/nbd/`, without any I/O; this folder has the I/O.

mod server;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use lexopt::prelude::*;
use overlapped::Builder;
use overlapped::task::Graceful;
use overlapped::time::timeout;
use overlapped_examples::{Stop, text, usage};
use server::{Disk, Listener, Tls};

const USAGE: &str = "nbd --listen unix:PATH|HOST:PORT --stack TEXT [--readonly] [--tls DIR]

TEXT is a stack of drivers, top first: 'xor(key=7) | file(disk.img)', 'memory(size=64M)', ….
DIR has server-cert.pem and server-key.pem, and ca-cert.pem if clients must show certificates.";

/// How long clients' requests may take once the server has been told to end, and then the stack's end.
const LIMIT: Duration = Duration::from_secs(10);

struct Options {
    listen: String,
    stack: String,
    read_only: bool,
    tls: Option<String>,
}

fn options() -> Result<Options, lexopt::Error> {
    let (mut listen, mut stack, mut read_only, mut tls) = (None, None, false, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => listen = Some(text(parser.value()?)?),
            Long("stack") => stack = Some(text(parser.value()?)?),
            Long("readonly") => read_only = true,
            Long("tls") => tls = Some(text(parser.value()?)?),
            other => return Err(other.unexpected()),
        }
    }
    let listen = listen.ok_or("--listen is missing")?;
    let stack = stack.ok_or("--stack is missing")?;
    Ok(Options { listen, stack, read_only, tls })
}

fn main() {
    let options = options().unwrap_or_else(|error| usage(error, USAGE));
    let done = Builder::new().build().and_then(|runtime| {
        // On a worker, where the clients' tasks are too: each serves its own requests.
        let task = runtime.spawn(run(options));
        let done =
            runtime.block_on(task).unwrap_or_else(|error| Err(io::Error::other(error.to_string())));
        runtime.shutdown(Duration::from_secs(5));
        done
    });
    if let Err(error) = done {
        eprintln!("nbd: {error}");
        std::process::exit(1);
    }
}

async fn run(options: Options) -> io::Result<()> {
    // Before anybody can know that there is something to end.
    let stop = Stop::listen()?;
    let tls = options.tls.as_deref().map(Tls::open).transpose()?;
    let disk = Arc::new(Disk::open(&options.stack, options.read_only).await?);
    let listener = Listener::bind(&options.listen).await?;
    println!("listening {listener}");
    io::stdout().flush()?;

    let graceful = Graceful::new();
    let server = server::serve(listener, disk.clone(), tls, graceful.clone());
    let server = overlapped::spawn(graceful.track(server));
    stop.wait().await?;
    let left = graceful.shutdown(LIMIT).await;
    if left > 0 {
        eprintln!("nbd: {left} tasks have not ended in {LIMIT:?}");
        server.abort();
    }
    timeout(LIMIT, Disk::close(disk)).await?
}
