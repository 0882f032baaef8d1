//! TLS on any byte stream, for both sides.
//!
//! Reads: `turns.rs`, who waits for whom; `conn.rs`, receiving and sending; `session.rs`, TLS itself
//! without I/O; `buffers.rs`; `config.rs`, from files and from stacks' texts; `query.rs`, what programs
//! may ask.

mod buffers;
mod config;
mod conn;
mod error;
mod query;
mod session;
mod turns;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Class, FileObject, Group, Major, MajorSet, Status, minor};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

pub(crate) use config::ENTRY;
pub use query::{Peer, Query, Rekey};
/// The library that does the cryptography and the protocol.
pub use rustls;

use conn::{Conn, Pace};
use session::{Got, Role};

/// Bytes that are encrypted and sent at once: four records.
const PIECE: usize = 64 * 1024;

/// Most bytes of a pooled read's answer.
const LEASE: usize = 64 * 1024;

/// How long a handshake may take, unless another limit is set.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// TLS 1.2 and 1.3 on a stream: what is above sees plaintext, what is below records.
///
/// The handshake runs at the first read, write or [`Query`] on a connection. Reading and writing may
/// go on at the same time, in any number of requests. `close_notify` is sent when the writing side is
/// shut down, and, as far as there is room, when the stream is closed; a peer that ends its stream
/// without sending one is an error on read, [`Status::TLS_TRUNCATED`].
///
/// What fails is told apart by its [`Status`]: `CERTIFICATE_…` for what is wrong with the peer's
/// certificate, [`Status::TLS_ALERT`] when it is the peer that refuses, [`Status::TLS_PROTOCOL_ERROR`]
/// for what is not TLS, [`Status::IO_TIMEOUT`] for a handshake that stalls. Every later request on the
/// connection fails alike. The details go to the program's log (`tracing`, level `DEBUG`).
///
/// A write that is cancelled has happened as far as its result says; what has been encrypted of it is
/// sent with the next request. Peeks and plain, vectored and pooled reads are served, and plain and
/// vectored writes; others, and messages with ancillary data, are refused with
/// [`Status::NOT_SUPPORTED`].
///
/// In stacks' texts it is `tls(cert=PATH, key=PATH)` for the accepting side and
/// `tls(ca=PATH, name=HOST)` for the connecting side.
///
/// ```no_run
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::filter::Filter; } }
/// use overlapped::driver::Filter;
/// use overlapped::driver::filter::tls::{Tls, rustls};
/// use std::sync::Arc;
///
/// # fn make(certificates: Vec<rustls::pki_types::CertificateDer<'static>>, key: rustls::pki_types::PrivateKeyDer<'static>) -> Result<(), Box<dyn std::error::Error>> {
/// let provider = Arc::new(rustls::crypto::ring::default_provider());
/// let config = rustls::ServerConfig::builder_with_provider(provider)
///     .with_safe_default_protocol_versions()?
///     .with_no_client_auth()
///     .with_single_cert(certificates, key)?;
/// let filter = Tls::server(Arc::new(config)).into_driver();
/// assert_eq!(filter.name(), "tls");
/// # Ok(()) }
/// ```
pub struct Tls {
    role: Role,
    truncation: bool,
    handshake: Option<Duration>,
    begun: Arc<Begun>,
}

/// The files whose connections have begun.
#[derive(Default)]
struct Begun(Mutex<HashSet<u64>>);

impl Begun {
    fn lock(&self) -> MutexGuard<'_, HashSet<u64>> {
        // A set is whole whatever panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a file's connection has begun, for as long as it is there.
struct Beginning(Arc<Begun>, u64);

impl Drop for Beginning {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// What the filter keeps for a connection.
#[derive(Default)]
pub struct Open {
    conn: Arc<Conn>,
    begun: OnceLock<Beginning>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("begun", &self.begun.get().is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match &self.role {
            Role::Server(_) => "server".to_owned(),
            Role::Client(_, name) => format!("client of {}", name.to_str()),
        };
        f.debug_struct("Tls").field("role", &role).finish_non_exhaustive()
    }
}

impl Tls {
    fn new(role: Role) -> Tls {
        let begun = Arc::default();
        Tls { role, truncation: false, handshake: Some(HANDSHAKE), begun }
    }

    /// For the side that accepts connections.
    pub fn server(config: Arc<ServerConfig>) -> Tls {
        Tls::new(Role::Server(config))
    }

    /// For the side that connects, to a server that must prove to be `name`.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Tls {
        Tls::new(Role::Client(config, name))
    }

    /// Whether a peer may end its stream without `close_notify`. The default, no, makes an error of
    /// that: somebody else may have cut the stream off. It is for protocols whose messages say
    /// themselves where they end.
    pub fn allow_truncation(mut self, allow: bool) -> Tls {
        self.truncation = allow;
        self
    }

    /// How long a handshake may take, from the first read or write on; `None`: any time. The default is
    /// 30 seconds.
    pub fn handshake_limit(mut self, limit: Option<Duration>) -> Tls {
        self.handshake = limit;
        self
    }

    /// The connection, begun.
    fn begin<'o>(&self, open: &'o Open, next: Next<'_>, io: &Io<'_>) -> &'o Arc<Conn> {
        let mut first = false;
        open.begun.get_or_init(|| {
            first = true;
            let id = io.file().id();
            self.begun.lock().insert(id);
            Beginning(self.begun.clone(), id)
        });
        let mut session = open.conn.lock();
        if first {
            session.truncation = self.truncation;
            session.deadline = self.handshake.and_then(|limit| next.now().checked_add(limit));
        }
        session.start(&self.role);
        drop(session);
        &open.conn
    }
}

/// What [`serve`] has found.
struct Served {
    got: Got,
    fed: u64,
    /// Something is to be sent, and nobody sends.
    has_output: bool,
}

/// What a read is to have; a pooled one's bytes are gathered beside it.
fn serve(conn: &Conn, io: &mut Io<'_>) -> Served {
    let (peek, pooled) = (io.minor() == minor::PEEK, io.minor() == minor::POOLED);
    let want = match io.arg() as usize {
        most if pooled && most != 0 => most.min(LEASE),
        _ if pooled => LEASE,
        _ => io.len(),
    };
    let (mut at, mut lease) = (0, Vec::new());
    let mut sink = |bytes: &[u8]| match pooled {
        true => lease.extend_from_slice(bytes),
        false => at += io.put(at, bytes),
    };
    let mut session = conn.lock();
    let position = session.position;
    let got = if peek { session.peek(want, &mut sink) } else { session.read(want, &mut sink) };
    let (fed, has_output) = (session.fed, session.has_output());
    drop(session);
    if let Got::Data(_) = got {
        if pooled {
            io.give(Lease::from(lease));
        }
        io.set_position(position);
    }
    Served { got, fed, has_output }
}

impl Filter for Tls {
    type Open = Open;

    fn name(&self) -> &str {
        "tls"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::Shutdown,
            Major::Poll,
            Major::Cleanup,
            Major::QueryInformation,
            Major::SetInformation,
        ])
    }

    fn class(&self) -> Class {
        Class::Transform
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Encrypt)
    }

    /// Its records are a stream's.
    fn may_stand_on(&self, below: Limits) -> Result<(), Status> {
        if below.messages { Err(Status::NOT_SUPPORTED) } else { Ok(()) }
    }

    /// Not while requests are in flight, which would get records for data; between two messages of the
    /// protocol above it may begin (STARTTLS).
    fn may_attach(&self, file: &FileObject) -> Result<(), Status> {
        if file.requests() > 0 || file.has_late() { Err(Status::DEVICE_BUSY) } else { Ok(()) }
    }

    /// Not once it has begun.
    fn may_detach(&self, file: &FileObject) -> Result<(), Status> {
        let begun = self.begun.lock().contains(&file.id());
        if begun { Err(Status::INVALID_DEVICE_STATE) } else { Ok(()) }
    }

    async fn read(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let pooled = io.minor() == minor::POOLED;
        if io.has_companion()
            || io.file().has_messages()
            || !matches!(io.minor(), minor::NONE | minor::VECTORED | minor::POOLED | minor::PEEK)
        {
            return Err(Status::NOT_SUPPORTED);
        }
        if !pooled && io.is_empty() {
            return Ok(0);
        }
        let conn = &open.conn;
        // A read that has come down again has the turn until it is settled.
        let awaited = io.is_awaited();
        let turn = match awaited {
            true => conn.reads.kept(),
            false => conn.reads.take(next).await.ok_or(Status::CANCELLED)?,
        };
        self.begin(open, next, &io);
        let result = self.read_in_turn(conn, next, &mut io).await;
        let holds = matches!(result, Ok(1..) | Err(Status::DATA_ABOVE));
        if holds && !awaited {
            io.until_settled(conn.clone());
        }
        if holds || awaited {
            turn.keep();
        }
        result
    }

    async fn write(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let kinds = [minor::NONE, minor::VECTORED, minor::ALL, minor::NOW];
        let stream = !io.file().has_messages();
        if io.has_companion() || !stream || !kinds.contains(&io.minor()) {
            return Err(Status::NOT_SUPPORTED);
        }
        if io.is_empty() {
            return Ok(0);
        }
        let conn = &open.conn;
        if io.minor() == minor::NOW {
            return write_now(conn, next, &mut io).await;
        }
        let _turn = conn.writes.take(next).await.ok_or(Status::CANCELLED)?;
        self.begin(open, next, &io).establish(next, false).await?;
        let (total, mut done) = (io.len(), 0);
        while done < total {
            done += encrypt(conn, &io, done)?;
            match conn.send(next, Pace::All).await {
                Ok(()) => {}
                // It is on its way, if not by this request.
                Err(Status::CANCELLED) => break,
                Err(status) => return Err(conn.lock().failed.unwrap_or(status)),
            }
            if io.minor() != minor::ALL {
                break;
            }
        }
        Ok(done)
    }

    async fn flush(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        open.conn.send(next, Pace::All).await?;
        next.forward(&mut io).await
    }

    async fn other(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let conn = &open.conn;
        match io.major() {
            Major::Shutdown => {
                let how = io.arg() as i32;
                if how != libc::SHUT_RD {
                    // After the writes that were asked for before.
                    let _turn = conn.writes.take(next).await.ok_or(Status::CANCELLED)?;
                    conn.lock().close();
                    // If that fails, so does what is done below.
                    if conn.send(next, Pace::All).await == Err(Status::CANCELLED) {
                        return Err(Status::CANCELLED);
                    }
                }
                if how != libc::SHUT_WR {
                    conn.change(|session| session.read_shut = true);
                }
            }
            Major::Cleanup => conn.send_last(next).await,
            Major::Poll => {
                let wanted = io.arg() as usize & libc::POLLIN as usize;
                if wanted != 0 && conn.lock().is_readable() {
                    return Ok(wanted);
                }
            }
            _ if io.payload::<Query>().is_some() => {
                self.begin(open, next, &io).establish(next, true).await?;
                let answer = conn.lock().common().map(Peer::new);
                io.payload::<Query>().expect("as before").answer(answer);
                return Ok(0);
            }
            _ if io.payload::<Rekey>().is_some() => {
                self.begin(open, next, &io).establish(next, true).await?;
                conn.lock().rekey()?;
                conn.send(next, Pace::All).await?;
                return Ok(0);
            }
            _ => {}
        }
        next.forward(&mut io).await
    }
}

impl Tls {
    async fn read_in_turn(
        &self,
        conn: &Conn,
        next: Next<'_>,
        io: &mut Io<'_>,
    ) -> Result<usize, Status> {
        loop {
            if io.file().has_late() {
                return Err(Status::DATA_ABOVE);
            }
            let Served { got, fed, has_output } = serve(conn, io);
            match got {
                Got::Data(n) => {
                    // Tickets, or an answer to a change of keys: not to be kept for the next request.
                    if has_output {
                        let _ = conn.send(next, Pace::Now).await;
                    }
                    return Ok(n);
                }
                Got::End => return Ok(0),
                Got::Failed(status) => {
                    conn.failed(next).await;
                    return Err(status);
                }
                Got::Nothing => {}
            }
            // In the handshake the peer waits for it; later, who writes may wait for the peer to read,
            // and must not keep this from reading.
            let how = if conn.lock().is_handshaking() { Pace::All } else { Pace::Now };
            if conn.send(next, how).await == Err(Status::CANCELLED) {
                return Err(Status::CANCELLED);
            }
            conn.receive_in_turn(next, fed).await?;
        }
    }
}

/// A write that is not to wait: at most one piece, of which what there is no room for is sent later.
async fn write_now(conn: &Conn, next: Next<'_>, io: &mut Io<'_>) -> Result<usize, Status> {
    let Some(_turn) = conn.writes.take_now() else { return Err(Status::DEVICE_NOT_READY) };
    {
        let mut session = conn.lock();
        session.advance();
        if session.failed.is_none() && (!session.established || session.is_sending()) {
            return Err(Status::DEVICE_NOT_READY);
        }
    }
    let n = encrypt(conn, io, 0)?;
    conn.send(next, Pace::Now).await?;
    Ok(n)
}

/// Encrypts the next piece of a write, from `done` on; says how much that was.
fn encrypt(conn: &Conn, io: &Io<'_>, done: usize) -> Result<usize, Status> {
    let mut segments = io.segments();
    let first = segments.next().unwrap_or_default();
    let several = segments.next().is_some();
    let mut session = conn.lock();
    if let Some(status) = session.failed.or(session.broken) {
        return Err(status);
    }
    if session.closing {
        return Err(Status::PIPE_BROKEN);
    }
    let (ok, n) = if several {
        // Small pieces would make small records.
        let mut gathered = std::mem::take(&mut session.gathered);
        gathered.resize(PIECE, 0);
        let n = io.copy_out(done, &mut gathered);
        let ok = session.encrypt(&gathered[..n]);
        session.gathered = gathered;
        (ok, n)
    } else {
        let piece = &first[done..first.len().min(done + PIECE)];
        (session.encrypt(piece), piece.len())
    };
    if ok { Ok(n) } else { Err(session.failed.unwrap_or(Status::PIPE_BROKEN)) }
}
