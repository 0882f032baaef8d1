//! Fixed newstyle negotiation, as a machine that is fed bytes.

use std::fmt;
use std::sync::Arc;

use super::starttls::Security;
use super::wire::{self, Fields, Put, answer, handshake_flag as flag, option};
use super::{Export, Session};

/// Bytes of the server's greeting.
pub const GREETING_LEN: usize = 18;

/// Bytes before an option's own: magic, option, length.
const OPTION_HEADER: usize = 16;

/// Most bytes of an option: some names of the 4096 bytes that the protocol allows. A longer one is
/// skipped, and refused.
const MAX_OPTION: usize = 32 << 10;

/// Negotiation with one client.
///
/// ```
/// use overlapped_examples::nbd::{Export, Handshake, Turn};
/// use std::sync::Arc;
///
/// let mut handshake = Handshake::new(Arc::new(Export::example()));
/// let mut said = Vec::new();
/// handshake.greet(&mut said);
/// assert!(said.starts_with(b"NBDMAGICIHAVEOPT"));
/// // The client's flags, and the option "export name", of no bytes.
/// let told = [&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 1], &[0, 0, 0, 0]].concat();
/// let (n, turn) = handshake.advance(&told, &mut said)?;
/// assert!(n == 4 && matches!(turn, Turn::Next));
/// let (n, turn) = handshake.advance(&told[n..], &mut said)?;
/// assert!(n == 16 && matches!(turn, Turn::Ready(_)));
/// # Ok::<(), overlapped_examples::nbd::Violation>(())
/// ```
#[derive(Debug)]
pub struct Handshake {
    pub(super) export: Arc<Export>,
    stage: Stage,
    pub(super) security: Security,
    fixed: bool,
    no_zeroes: bool,
    pub(super) structured: bool,
    pub(super) allocation: bool,
}

#[derive(Debug)]
enum Stage {
    /// The client's flags come next.
    Flags,
    /// An option comes next.
    Option,
    /// Bytes of an option that was refused, still to come.
    Skip(u32),
}

/// How negotiation goes on.
#[derive(Debug)]
pub enum Turn {
    /// When more bytes have come.
    More,
    /// At once, with the bytes that were not taken.
    Next,
    /// Over TLS, which begins now.
    StartTls,
    /// It is over, and requests come next.
    Ready(Session),
    /// It is over: the client wants no more.
    Aborted,
}

/// What a client must not do: the connection cannot go on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Violation {
    /// It has flags that the server has not offered.
    Flags(u32),
    /// An option or a request does not begin as one.
    Magic(u64),
    /// An option other than "export name", from a client that does not know the fixed newstyle.
    NotFixed(u32),
    /// An export that there is not, asked for in a way that has no answer.
    NoExport,
    /// The export, asked for without TLS in a way that has no answer.
    NoTls,
    /// It goes on behind STARTTLS before it may: whoever is between may have put that there.
    InTheClear,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Flags(flags) => write!(f, "the client has unknown flags: {flags:#x}"),
            Violation::Magic(magic) => write!(f, "this is not NBD: {magic:#x} in place of a magic"),
            Violation::NotFixed(option) => {
                write!(f, "option {option} of a client that does not know the fixed newstyle")
            }
            Violation::NoExport => {
                f.write_str("there is no such export: the only one's name is empty")
            }
            Violation::NoTls => f.write_str("the client wants the export without TLS"),
            Violation::InTheClear => f.write_str("the client did not wait for TLS to begin"),
        }
    }
}

impl std::error::Error for Violation {}

impl Handshake {
    /// Negotiation that has not begun.
    pub fn new(export: Arc<Export>) -> Handshake {
        Handshake {
            export,
            stage: Stage::Flags,
            security: Security::None,
            fixed: false,
            no_zeroes: false,
            structured: false,
            allocation: false,
        }
    }

    /// Appends what a server says first: [`GREETING_LEN`] bytes.
    pub fn greet(&self, out: &mut Vec<u8>) {
        out.put_u64(wire::GREETING);
        out.put_u64(wire::OPTION);
        out.put_u16(flag::FIXED_NEWSTYLE | flag::NO_ZEROES);
    }

    /// Goes on by at most one option. `input` is all that has come and was not taken; never more than
    /// 33 KiB are needed. Returns how many bytes were taken, and appends what is to be said.
    ///
    /// # Errors
    /// What the client must not do; what has been appended may still be said.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Turn), Violation> {
        match self.stage {
            Stage::Flags => self.flags(input),
            Stage::Skip(left) => {
                let n = input.len().min(left as usize);
                let left = left - n as u32;
                self.stage = if left == 0 { Stage::Option } else { Stage::Skip(left) };
                Ok((n, if left == 0 { Turn::Next } else { Turn::More }))
            }
            Stage::Option => self.option(input, out),
        }
    }

    fn flags(&mut self, input: &[u8]) -> Result<(usize, Turn), Violation> {
        let Some(flags) = Fields(input).u32() else { return Ok((0, Turn::More)) };
        let known = u32::from(flag::FIXED_NEWSTYLE | flag::NO_ZEROES);
        if flags & !known != 0 {
            return Err(Violation::Flags(flags));
        }
        self.fixed = flags & u32::from(flag::FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(flag::NO_ZEROES) != 0;
        self.stage = Stage::Option;
        Ok((4, Turn::Next))
    }

    fn option(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(usize, Turn), Violation> {
        let mut fields = Fields(input);
        let Some(magic) = fields.u64() else { return Ok((0, Turn::More)) };
        if magic != wire::OPTION {
            return Err(Violation::Magic(magic));
        }
        let (Some(option), Some(len)) = (fields.u32(), fields.u32()) else {
            return Ok((0, Turn::More));
        };
        if !self.fixed && option != option::EXPORT_NAME {
            return Err(Violation::NotFixed(option));
        }
        if len as usize > MAX_OPTION {
            if option == option::EXPORT_NAME {
                return Err(Violation::NoExport);
            }
            self.stage = Stage::Skip(len);
            say(out, option, answer::TOO_BIG, b"the option is too long");
            return Ok((OPTION_HEADER, Turn::Next));
        }
        let Some(data) = fields.bytes(len as usize) else { return Ok((0, Turn::More)) };
        let turn = match option {
            option::STARTTLS => self.start_tls(data, fields.0, out)?,
            _ if self.is_insecure(option, out)? => Turn::Next,
            option::EXPORT_NAME => self.export_name(data, out)?,
            option::ABORT => {
                say(out, option, answer::ACK, b"");
                Turn::Aborted
            }
            _ if self.answer(option, data, out) => Turn::Ready(self.session()),
            _ => Turn::Next,
        };
        Ok((OPTION_HEADER + data.len(), turn))
    }

    fn export_name(&mut self, name: &[u8], out: &mut Vec<u8>) -> Result<Turn, Violation> {
        if !name.is_empty() {
            return Err(Violation::NoExport);
        }
        out.put_u64(self.export.size);
        out.put_u16(self.export.flags(self.structured));
        if !self.no_zeroes {
            out.put(&[0; 124]);
        }
        Ok(Turn::Ready(self.session()))
    }

    fn session(&self) -> Session {
        let (structured, allocation) = (self.structured, self.allocation);
        Session { export: self.export.clone(), structured, allocation }
    }
}

/// Appends a reply to an option.
pub(super) fn say(out: &mut Vec<u8>, option: u32, answer: u32, data: &[u8]) {
    out.put_u64(wire::OPTION_REPLY);
    out.put_u32(option);
    out.put_u32(answer);
    out.put_u32(data.len() as u32);
    out.put(data);
}
