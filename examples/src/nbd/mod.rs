//! The server's side of NBD, the Network Block Device protocol, without I/O: bytes in, bytes out.
//!
//! - [`Handshake`]: fixed newstyle negotiation, until it yields a [`Session`] or ends. TLS, which it may
//!   ask for, is begun by whoever has the connection.
//! - [`Header`]: a request's, and [`Session::command`]: what it asks for, or why it is refused.
//! - Replies: [`Session::done`], [`Session::failed`], [`Session::data`], [`Session::extents`].
//! - [`fuzz_handshake`], [`fuzz_requests`]: a whole run over any bytes.
//!
//! The program that puts a stack of drivers behind it is `examples/nbd/`. The protocol is described in
//! `doc/proto.md` of the NBD project. Of it these are left out: extended headers, oldstyle.

mod errno;
mod export;
mod handshake;
mod option;
mod reply;
mod request;
mod starttls;
mod wire;

pub use errno::Errno;
pub use export::{Export, MAX_PAYLOAD};
pub use handshake::{GREETING_LEN, Handshake, Turn, Violation};
pub use reply::Extent;
pub use request::{Command, HEADER_LEN, Header, Refusal};

use std::sync::Arc;

/// What a client and the server have agreed on: how requests are read and answered.
#[derive(Clone, Debug)]
pub struct Session {
    export: Arc<Export>,
    structured: bool,
    allocation: bool,
}

impl Session {
    /// What is exported.
    pub fn export(&self) -> &Export {
        &self.export
    }

    /// Whether the client takes structured replies.
    pub fn is_structured(&self) -> bool {
        self.structured
    }

    /// Whether the client may ask for block status, in the context `base:allocation`.
    pub fn has_block_status(&self) -> bool {
        self.allocation
    }
}

/// Negotiates with whatever the bytes are, given in pieces as a network would, and returns the session
/// that came of it, with how many bytes it took. For fuzzing: it may not panic, loop or consume what is
/// not there, and what it says must not grow faster than what it was told.
pub fn fuzz_handshake(data: &[u8]) -> Option<(Session, usize)> {
    // The first byte says how large the pieces are, and whether TLS is asked for.
    let (piece, data) = data.split_first()?;
    let export = Arc::new(Export::example());
    let mut handshake =
        if piece % 2 == 1 { Handshake::over_tls(export) } else { Handshake::new(export) };
    let (mut taken, mut said) = (0, Vec::new());
    handshake.greet(&mut said);
    let mut given = 0;
    while given < data.len() {
        given = data.len().min(given + usize::from(*piece) + 1);
        loop {
            let (n, turn) = handshake.advance(&data[taken..given], &mut said).ok()?;
            assert!(n <= given - taken, "took what was not given");
            taken += n;
            // At most an export's description and its limits, for a header.
            assert!(said.len() <= 256 + 64 * (taken + 1), "says more and more");
            match turn {
                Turn::More => break,
                // As if it had begun.
                Turn::Next | Turn::StartTls => {}
                Turn::Ready(session) => return Some((session, taken)),
                Turn::Aborted => return None,
            }
        }
    }
    None
}

/// Reads the bytes as requests, one after the other, in a session of each kind, and answers each as if it
/// had been done. For fuzzing: it may not panic, and a command that is let through lies in the export.
pub fn fuzz_requests(data: &[u8]) {
    for (structured, allocation, read_only) in
        [(false, false, false), (true, false, true), (true, true, false)]
    {
        let export = Arc::new(Export { read_only, ..Export::example() });
        let session = Session { export, structured, allocation };
        let mut rest = data;
        while let Some((header, behind)) = rest.split_first_chunk() {
            let Ok(header) = Header::parse(header) else { break };
            let reply = match session.command(&header) {
                Ok(command) => {
                    if let Some((offset, len)) = command.range() {
                        assert!(offset + u64::from(len) <= session.export.size);
                    }
                    match command {
                        Command::Read { offset, len } => session.data(header.cookie, offset, len),
                        Command::BlockStatus { len, .. } => {
                            session.extents(header.cookie, &[Extent::data(len)])
                        }
                        _ => session.done(header.cookie),
                    }
                }
                Err(refusal) => session.failed(header.cookie, refusal.errno, refusal.why),
            };
            assert!(reply.len() >= 16);
            rest = behind.get(header.payload() as usize..).unwrap_or_default();
        }
    }
}
