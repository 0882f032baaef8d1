//! The server: takes connections, each of which is a task.

mod budget;
mod connection;
mod disk;
mod incoming;
mod outgoing;
mod socket;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use overlapped::task::Graceful;

pub use disk::Disk;
pub use socket::Listener;
use socket::Stream;
pub use tls::Tls;

/// Most clients at once, more or less; further ones wait to be taken.
const MAX_CLIENTS: usize = 256;

/// How long to wait when no client can be taken.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves all who come, over TLS only if there is one, until the end begins. The listener goes then, with
/// the path of a Unix socket.
pub async fn serve(listener: Listener, disk: Arc<Disk>, tls: Option<Tls>, graceful: Graceful) {
    let ending = graceful.token().clone();
    while let Some(accepted) = ending.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let client = client(stream, peer, disk.clone(), tls.clone(), graceful.clone());
                overlapped::spawn(graceful.track(client));
            }
            Err(error) => {
                // Descriptors may be exhausted: the connection waits, and so do we.
                eprintln!("nbd: accept: {error}");
                ending.run_until_cancelled(overlapped::time::sleep(PAUSE)).await;
            }
        }
        while graceful.tasks() > MAX_CLIENTS && !ending.is_cancelled() {
            ending.run_until_cancelled(overlapped::time::sleep(PAUSE)).await;
        }
    }
}

/// Serves one. What is wrong with it ends its own task only.
async fn client(
    stream: Stream,
    peer: String,
    disk: Arc<Disk>,
    tls: Option<Tls>,
    graceful: Graceful,
) {
    let done: io::Result<()> = connection::run(stream, disk, tls, graceful.token()).await;
    if let Err(error) = done {
        eprintln!("nbd: {peer}: {error}");
    }
}
