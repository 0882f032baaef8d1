//! TCP and Unix sockets, whichever the program was told.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use overlapped::Request;
use overlapped::buf::{IoBuf, IoBufMut};
use overlapped::driver::FileObject;
use overlapped::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use overlapped::operation::Read;

/// Where clients come.
pub enum Listener {
    /// At an address of the network.
    Tcp(TcpListener, SocketAddr),
    /// At a path.
    Unix(UnixListener, Name),
}

/// The path of a Unix socket, which goes with it.
pub struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        // Somebody may have been faster.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// `unix:PATH` or `HOST:PORT`.
    ///
    /// # Errors
    /// Those of the system; a path that exists is in use.
    pub async fn bind(address: &str) -> io::Result<Listener> {
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        };
        if let Some(path) = address.strip_prefix("unix:") {
            let listener = UnixListener::bind(Path::new(path)).map_err(failed)?;
            return Ok(Listener::Unix(listener, Name(path.into())));
        }
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr()?;
        Ok(Listener::Tcp(listener, address))
    }

    /// The next client, and what it is called.
    pub async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, peer) = listener.accept().await?;
                // Replies are written whole, and wait for nothing.
                let _ = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = match stream.peer_credentials() {
                    Ok(peer) => format!("process {}", peer.pid),
                    Err(_) => "a client".into(),
                };
                Ok((Stream::Unix(stream), peer))
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(_, address) => address.fmt(f),
            Listener::Unix(_, name) => write!(f, "unix:{}", name.0.display()),
        }
    }
}

/// A client's connection.
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// What is below: to change its stack.
    pub fn object(&self) -> &FileObject {
        match self {
            Stream::Tcp(stream) => stream.object(),
            Stream::Unix(stream) => stream.object(),
        }
    }

    /// Receives: see [`TcpStream::read`].
    pub fn read<B: IoBufMut>(&self, buf: B) -> Request<'_, Read<B>> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
        }
    }

    /// Sends all of the buffers, one after the other; at most 1024.
    pub async fn write_all<B: IoBuf>(&self, buffers: Vec<B>) -> io::Result<()> {
        let whole = buffers.into_iter().map(|buffer| buffer.slice(..));
        let mut left: Vec<_> = whole.filter(|buffer| !buffer.is_empty()).collect();
        while !left.is_empty() {
            let sent = match self {
                Stream::Tcp(stream) => stream.write_vectored(left),
                Stream::Unix(stream) => stream.write_vectored(left),
            };
            let (mut n, buffers) = sent.await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            // What has gone whole goes; what is left of the one behind it is sent next.
            left = Vec::with_capacity(buffers.len());
            for buffer in buffers {
                let gone = n.min(buffer.len());
                n -= gone;
                if gone < buffer.len() {
                    let (begin, end) = (buffer.begin() + gone, buffer.end());
                    left.push(buffer.into_inner().slice(begin..end));
                }
            }
        }
        Ok(())
    }
}
