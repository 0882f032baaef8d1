//! Requests: what they ask for, and whether they may.

use super::export::MAX_PAYLOAD;
use super::wire::{self, Fields, command, command_flag as flag};
use super::{Errno, Session, Violation};

/// Bytes of a request's header.
pub const HEADER_LEN: usize = 28;

/// A request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// `NBD_CMD_FLAG_*`.
    pub flags: u16,
    /// `NBD_CMD_*`.
    pub command: u16,
    /// The client's own; comes back with the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// What a request asks for, all of it within the export. `fua`: it is to be on the medium when it is
/// answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "first byte and bytes, everywhere")]
pub enum Command {
    /// Bytes.
    Read { offset: u64, len: u32 },
    /// As many bytes follow the header.
    Write { offset: u64, len: u32, fua: bool },
    /// No more requests come.
    Disconnect,
    /// All that was answered before is to be on the medium.
    Flush,
    /// The bytes are of no use any more.
    Trim { offset: u64, len: u32, fua: bool },
    /// The bytes will be read soon.
    Cache { offset: u64, len: u32 },
    /// The bytes are to be zeroes. `no_hole`: with space for them; `fast`: or not at all, if that is no
    /// faster than writing them.
    WriteZeroes { offset: u64, len: u32, fua: bool, no_hole: bool, fast: bool },
    /// Where data is and where holes are. `one`: only the first extent is wanted.
    BlockStatus { offset: u64, len: u32, one: bool },
}

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// For the client's program.
    pub errno: Errno,
    /// For its user.
    pub why: &'static str,
}

fn refuse<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

impl Header {
    /// Reads a header.
    ///
    /// # Errors
    /// The magic is not there, so nobody knows where the next request begins.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Header, Violation> {
        let mut fields = Fields(bytes);
        let mut read = || {
            let magic = fields.u32()?;
            let (flags, command) = (fields.u16()?, fields.u16()?);
            let (cookie, offset, len) = (fields.u64()?, fields.u64()?, fields.u32()?);
            Some((magic, Header { flags, command, cookie, offset, len }))
        };
        match read() {
            Some((wire::REQUEST, header)) => Ok(header),
            other => Err(Violation::Magic(other.map_or(0, |(magic, _)| magic.into()))),
        }
    }

    /// Bytes that follow the header, whatever becomes of the request.
    pub fn payload(&self) -> u32 {
        if self.command == command::WRITE { self.len } else { 0 }
    }
}

impl Command {
    /// First byte and bytes, of what is about some.
    pub fn range(&self) -> Option<(u64, u32)> {
        match *self {
            Command::Read { offset, len }
            | Command::Write { offset, len, .. }
            | Command::Trim { offset, len, .. }
            | Command::Cache { offset, len }
            | Command::WriteZeroes { offset, len, .. }
            | Command::BlockStatus { offset, len, .. } => Some((offset, len)),
            Command::Disconnect | Command::Flush => None,
        }
    }
}

impl Session {
    /// What a request asks for.
    ///
    /// # Errors
    /// It is answered by a failure, and its payload skipped.
    pub fn command(&self, header: &Header) -> Result<Command, Refusal> {
        let &Header { flags, offset, len, .. } = header;
        let has = |flag| flags & flag != 0;
        let fua = has(flag::FUA);
        let (command, allowed) = match header.command {
            command::READ => {
                (Command::Read { offset, len }, if self.structured { flag::DF } else { 0 })
            }
            command::WRITE => (Command::Write { offset, len, fua }, 0),
            // There is nobody left to be told that something is wrong with it.
            command::DISCONNECT => return Ok(Command::Disconnect),
            command::FLUSH => (Command::Flush, 0),
            command::TRIM => (Command::Trim { offset, len, fua }, 0),
            command::CACHE => (Command::Cache { offset, len }, 0),
            command::WRITE_ZEROES => {
                let (no_hole, fast) = (has(flag::NO_HOLE), has(flag::FAST_ZERO));
                let command = Command::WriteZeroes { offset, len, fua, no_hole, fast };
                (command, flag::NO_HOLE | flag::FAST_ZERO)
            }
            command::BLOCK_STATUS => (
                Command::BlockStatus { offset, len, one: has(flag::REQUEST_ONE) },
                flag::REQUEST_ONE,
            ),
            _ => return refuse(Errno::INVAL, "the server does not know the command"),
        };
        // FUA may come with every command, and means nothing where nothing is written.
        if flags & !(allowed | flag::FUA) != 0 {
            return refuse(Errno::INVAL, "the command does not have these flags");
        }
        self.permits(&command)?;
        if matches!(command, Command::Flush) && (offset, len) != (0, 0) {
            return refuse(Errno::INVAL, "a flush is of everything: its offset and length are 0");
        }
        Ok(command)
    }

    fn permits(&self, command: &Command) -> Result<(), Refusal> {
        let is_write = matches!(
            command,
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
        );
        if is_write && self.export.read_only {
            return refuse(Errno::PERM, "the export is read-only");
        }
        let Some((offset, len)) = command.range() else { return Ok(()) };
        let carries = matches!(command, Command::Read { .. } | Command::Write { .. });
        if carries && len > MAX_PAYLOAD {
            return refuse(Errno::INVAL, "more bytes than the maximum block size");
        }
        if offset.checked_add(len.into()).is_none_or(|end| end > self.export.size) {
            let grows = matches!(command, Command::Write { .. } | Command::WriteZeroes { .. });
            let errno = if grows { Errno::NOSPC } else { Errno::INVAL };
            return refuse(errno, "past the end of the export");
        }
        if let Command::BlockStatus { len, .. } = *command {
            if !self.allocation {
                return refuse(Errno::INVAL, "no metadata context was negotiated");
            }
            if len == 0 {
                return refuse(Errno::INVAL, "the status of no bytes");
            }
        }
        Ok(())
    }
}
