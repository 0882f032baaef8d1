//! TLS for clients: the filter `tls`, put into the stack of a connection when its client asks for it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use overlapped::driver::filter::tls::Query;
use overlapped::driver::text::Text;
use overlapped::driver::{ChangeError, Driver, Place};
use overlapped::time::sleep;
use overlapped::{Request, Status};

use super::socket::Stream;

/// One filter for all connections, so that clients can resume their sessions.
#[derive(Clone)]
pub struct Tls(Arc<dyn Driver>);

impl Tls {
    /// From a directory as QEMU, libnbd and nbdkit have it: `server-cert.pem`, `server-key.pem`, and, if
    /// clients are to show certificates, `ca-cert.pem`, of who has issued them.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn open(directory: &str) -> io::Result<Tls> {
        // Where a stream ends needs no telling: a client says so before, or is gone.
        let mut text = String::from("tls(truncation=yes");
        let quotable = directory.replace('\\', "\\\\").replace('"', "\\\"");
        let mut name = |key, file| text.push_str(&format!(", {key}=\"{quotable}/{file}\""));
        name("cert", "server-cert.pem");
        name("key", "server-key.pem");
        let asks = Path::new(directory).join("ca-cert.pem").try_exists()?;
        if asks {
            name("client_ca", "ca-cert.pem");
        }
        text.push(')');
        let built = text.parse::<Text>().and_then(|text| text.build());
        let mut built = built.map_err(|error| io::Error::other(error.to_string()))?;
        if !asks {
            eprintln!("nbd: no ca-cert.pem in {directory}: clients need no certificates");
        }
        Ok(Tls(built.filters.remove(0)))
    }

    /// Begins it on a connection, whose client begins it too; done when both know each other.
    ///
    /// # Errors
    /// Those of the connection; who the client is not.
    pub async fn begin(&self, stream: &Stream) -> io::Result<()> {
        let change = loop {
            match stream.object().attach(Place::Top, self.0.clone()) {
                Ok((_, change)) => break change,
                // The last read or write: it counts until the thread that it was issued on has heard
                // that its result was taken, on the one that this task has moved to.
                Err(ChangeError::Refused { status: Status::DEVICE_BUSY, .. }) => {
                    sleep(Duration::from_millis(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        change.await;
        let handshake = Request::new(stream.object(), Query::new()).await;
        handshake.map(drop).map_err(|error| {
            let what = format!("TLS cannot begin: {error}");
            io::Error::new(error.kind(), what)
        })
    }
}
