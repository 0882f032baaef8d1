//! Echo on monoio: a task and one reused buffer a connection, read then write all.

use std::io;
use std::sync::Arc;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, UnixListener};
use overlapped_benches::address::Listener;
use overlapped_benches::server::Totals;

/// Serves until the process ends.
pub fn run(listener: Listener, totals: &Arc<Totals>, size: usize) -> io::Result<()> {
    overlapped_bench_peers::monoio()?.block_on(async {
        match listener {
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let stream = listener.accept().await?.0;
                    // A connection that is broken already says so at the first read.
                    let _ = stream.set_nodelay(true);
                    monoio::spawn(echo(stream, totals.clone(), size));
                }
            }
            Listener::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    let stream = listener.accept().await?.0;
                    monoio::spawn(echo(stream, totals.clone(), size));
                }
            }
            Listener::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    })
}

async fn echo<S: AsyncReadRent + AsyncWriteRent>(mut stream: S, totals: Arc<Totals>, size: usize) {
    totals.connection();
    let mut buffer = Vec::with_capacity(size);
    loop {
        let mut result;
        (result, buffer) = stream.read(buffer).await;
        let Ok(n @ 1..) = result else { return };
        (result, buffer) = stream.write_all(buffer).await;
        if result.is_err() {
            return;
        }
        totals.count(n, 2);
    }
}
