//! Echo on compio: a task and one reused buffer a connection, read then write all.

use std::io;
use std::sync::Arc;

use compio::BufResult;
use compio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use compio::net::{TcpListener, UnixListener};
use overlapped_benches::address::Listener;
use overlapped_benches::server::Totals;

/// Serves until the process ends.
pub fn run(listener: Listener, totals: &Arc<Totals>, size: usize) -> io::Result<()> {
    overlapped_bench_peers::compio()?.block_on(async {
        match listener {
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let stream = listener.accept().await?.0;
                    // A connection that is broken already says so at the first read.
                    let _ = stream.set_nodelay(true);
                    compio::runtime::spawn(echo(stream, totals.clone(), size)).detach();
                }
            }
            Listener::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    let stream = listener.accept().await?.0;
                    compio::runtime::spawn(echo(stream, totals.clone(), size)).detach();
                }
            }
            Listener::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    })
}

async fn echo<S: AsyncRead + AsyncWrite>(mut stream: S, totals: Arc<Totals>, size: usize) {
    totals.connection();
    let mut buffer = Vec::with_capacity(size);
    loop {
        let (n, written);
        // What is in it already counts as content.
        buffer.clear();
        BufResult(n, buffer) = stream.read(buffer).await;
        let Ok(n @ 1..) = n else { return };
        BufResult(written, buffer) = stream.write_all(buffer).await;
        if written.is_err() {
            return;
        }
        totals.count(n, 2);
    }
}
