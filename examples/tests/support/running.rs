//! The server of the example `nbd`, in the process of the test.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use overlapped::task::Graceful;
use overlapped::{Builder, Runtime};

use crate::server::{self, Disk, Listener, Tls};

/// Longer than anything in these tests takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub runtime: Runtime,
    pub graceful: Graceful,
    pub disk: Arc<Disk>,
    pub socket: PathBuf,
}

impl Server {
    pub fn run(socket: PathBuf, stack: &str, read_only: bool, tls: Option<Tls>) -> Server {
        let runtime = Builder::new().workers(2).build().unwrap();
        let graceful = Graceful::new();
        let (stack, address) = (stack.to_owned(), format!("unix:{}", socket.display()));
        let tracker = graceful.clone();
        let disk = runtime.block_on(runtime.spawn(async move {
            let disk = Arc::new(Disk::open(&stack, read_only).await.unwrap());
            let listener = Listener::bind(&address).await.unwrap();
            assert_eq!(listener.to_string(), address);
            let server = server::serve(listener, disk.clone(), tls, tracker.clone());
            overlapped::spawn(tracker.track(server));
            disk
        }));
        Server { runtime, graceful, disk: disk.unwrap(), socket }
    }

    /// A connection of which nothing has been said yet.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn stop(self) {
        let Server { runtime, graceful, disk, socket } = self;
        let left = runtime.block_on(async move {
            let left = graceful.shutdown(PATIENCE).await;
            Disk::close(disk).await.unwrap();
            left
        });
        assert_eq!(left, 0);
        assert!(!socket.exists(), "the socket's path is left behind");
        assert_eq!(runtime.shutdown(PATIENCE).leaked_requests, 0);
    }
}
