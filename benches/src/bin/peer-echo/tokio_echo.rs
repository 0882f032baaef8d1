//! Echo on tokio: a task and one reused buffer a connection, read then write all.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use overlapped_benches::server::Totals;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Serves until the signal.
pub fn run(
    mut builder: tokio::runtime::Builder,
    listener: TcpListener,
    stop: OwnedFd,
    totals: &Arc<Totals>,
    size: usize,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    builder.enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let totals = totals.clone();
        // A task, so that the multi-thread flavour accepts on a worker.
        let accept = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        totals.connection();
                        tokio::spawn(echo(stream, totals.clone(), size));
                    }
                    Err(error) => return error,
                }
            }
        });
        // SAFETY: owned by the `AsyncFd`, which neither gives it away nor closes it early.
        let stop = unsafe { AsyncFd::register(stop)? };
        tokio::select! {
            error = accept => Err(error.unwrap_or_else(io::Error::other)),
            signal = stop.readable() => signal.map(drop),
        }
    })
}

async fn echo(mut stream: tokio::net::TcpStream, totals: Arc<Totals>, size: usize) {
    // A connection that is broken already says so at the first read.
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; size];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        totals.count(n, 2);
    }
}
