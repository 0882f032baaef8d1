//! Our own echo server for datagrams and for Unix sockets.
//!
//! `echo-sockets --runtime io_uring|epoll --listen udp:HOST:PORT|unix:PATH [--buf BYTES]
//! [--workers N]`
//!
//! There is one thread; at a UDP socket, that many tasks receive at a time.
//! First and last line are those of the example `echo`, which serves TCP.

use std::io;
use std::sync::Arc;

use overlapped::Backend;
use overlapped::net::{UdpSocket, UnixListener, UnixStream};
use overlapped_benches::address::Listener;
use overlapped_benches::cpu::raise_descriptor_limit;
use overlapped_benches::server::{Options, Totals, end_at, stop_signal};
use overlapped_examples::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of a buffer, as those of the other contestants.
const OWNED: usize = 64 << 10;

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| usage(&error));
    let backend: Backend = options.runtime.parse().unwrap_or_else(|error| usage(&error));
    raise_descriptor_limit();
    let stop = stop_signal()?;
    let listener = options.bind()?;
    let totals = Arc::new(Totals::default());
    end_at(stop, totals.clone())?;
    let size = options.buffer.unwrap_or(OWNED);
    overlapped::Builder::new().backend(backend).build_local()?.block_on(async move {
        match listener {
            Listener::Udp(socket) => {
                let socket = Arc::new(UdpSocket::from_std(socket)?);
                let serve = |_| overlapped::spawn(datagrams(socket.clone(), totals.clone(), size));
                let tasks: Vec<_> = (0..options.workers).map(serve).collect();
                for task in tasks {
                    task.await.map_err(|error| io::Error::other(error.to_string()))??;
                }
                Ok(())
            }
            Listener::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    let stream = listener.accept().await?.0;
                    totals.connection();
                    overlapped::spawn(echo(stream, totals.clone(), size));
                }
            }
            Listener::Tcp(_) => Err(io::Error::other("the example `echo` serves TCP")),
        }
    })
}

fn usage(error: &dyn std::fmt::Display) -> ! {
    eprintln!("{error}");
    std::process::exit(2);
}

async fn echo(stream: UnixStream, totals: Arc<Totals>, size: usize) {
    let mut buf = Vec::with_capacity(size);
    loop {
        let n;
        (n, buf) = match stream.read(buf).await {
            Ok((n @ 1.., buf)) => (n, buf),
            _ => return,
        };
        buf = match stream.write_all(buf).await {
            Ok(((), buf)) => buf,
            Err(_) => return,
        };
        totals.count(n, 2);
    }
}

/// Sends each back before it receives the next.
async fn datagrams(socket: Arc<UdpSocket>, totals: Arc<Totals>, size: usize) -> io::Result<()> {
    let mut buf = Vec::with_capacity(size);
    loop {
        let (message, from);
        ((message, from), buf) = socket.recv_from(buf).await?;
        (_, buf) = socket.send_to(buf, from).await?;
        totals.count(message.len, 2);
    }
}
