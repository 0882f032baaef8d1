//! Echo on tokio: a task and one reused buffer a connection, read then write all. Datagrams: one
//! task, which sends each back before it receives the next.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use overlapped_benches::address::Listener;
use overlapped_benches::server::Totals;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixListener};

/// Serves until the signal.
pub fn run(
    mut builder: tokio::runtime::Builder,
    listener: Listener,
    stop: OwnedFd,
    totals: &Arc<Totals>,
    size: usize,
) -> io::Result<()> {
    builder.enable_all().build()?.block_on(async {
        // A task, so that the multi-thread flavour accepts on a worker.
        let serve = tokio::spawn(serve(listener, totals.clone(), size));
        // SAFETY: owned by the `AsyncFd`, which neither gives it away nor closes it early.
        let stop = unsafe { AsyncFd::register(stop)? };
        tokio::select! {
            result = serve => result.unwrap_or_else(|error| Err(io::Error::other(error))),
            signal = stop.readable() => signal.map(drop),
        }
    })
}

async fn serve(listener: Listener, totals: Arc<Totals>, size: usize) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            loop {
                let stream = listener.accept().await?.0;
                totals.connection();
                // A connection that is broken already says so at the first read.
                let _ = stream.set_nodelay(true);
                tokio::spawn(echo(stream, totals.clone(), size));
            }
        }
        Listener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            loop {
                let stream = listener.accept().await?.0;
                totals.connection();
                tokio::spawn(echo(stream, totals.clone(), size));
            }
        }
        Listener::Udp(socket) => {
            socket.set_nonblocking(true)?;
            datagrams(UdpSocket::from_std(socket)?, &totals, size).await
        }
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, totals: Arc<Totals>, size: usize) {
    let mut buffer = vec![0; size];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        totals.count(n, 2);
    }
}

async fn datagrams(socket: UdpSocket, totals: &Totals, size: usize) -> io::Result<()> {
    let mut buffer = vec![0; size];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((n, from)) => {
                socket.send_to(&buffer[..n], from).await?;
                totals.count(n, 2);
            }
            // A client that is gone: its port answered an earlier datagram.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
}
