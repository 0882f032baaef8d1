//! Echo on glommio: a task and one reused buffer a connection, read then write all.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::Arc;

use futures_util::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use glommio::net::TcpListener;
use overlapped_benches::address::Listener;
use overlapped_benches::server::Totals;

/// Serves until the process ends.
pub fn run(listener: Listener, totals: &Arc<Totals>, size: usize) -> io::Result<()> {
    // Its listener for Unix sockets binds by itself only.
    let listener = listener.tcp()?;
    overlapped_bench_peers::glommio()?.run(async {
        // SAFETY: the descriptor is a listening socket's, which gives it away here.
        let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
        loop {
            let stream = listener.accept().await?;
            // A connection that is broken already says so at the first read.
            let _ = stream.set_nodelay(true);
            glommio::spawn_local(echo(stream, totals.clone(), size)).detach();
        }
    })
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, totals: Arc<Totals>, size: usize) {
    totals.connection();
    let mut buffer = vec![0; size];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        totals.count(n, 2);
    }
}
