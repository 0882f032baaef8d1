//! How negotiation comes to TLS, where a server insists on it (`FORCEDTLS` in the protocol's words): until
//! the client has begun TLS, it may do that, or give up. Nothing that was said in the clear counts later.

use std::sync::Arc;

use super::handshake::say;
use super::wire::{answer, option};
use super::{Export, Handshake, Turn, Violation};

/// Whether negotiation is over TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Security {
    /// There is no TLS here.
    None,
    /// It has to be, and is not yet.
    Wanted,
    /// It is.
    Begun,
}

impl Handshake {
    /// Negotiation that has not begun, and that yields an export over TLS only.
    ///
    /// It begins in the clear. When [`Turn::StartTls`] comes, what has been appended is sent, TLS begins,
    /// as the side that accepts, and negotiation goes on over that.
    pub fn over_tls(export: Arc<Export>) -> Handshake {
        let mut this = Handshake::new(export);
        this.security = Security::Wanted;
        this
    }

    /// The option that begins TLS; `behind` it has come what should not have.
    pub(super) fn start_tls(
        &mut self,
        data: &[u8],
        behind: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Turn, Violation> {
        let (answer, why) = match self.security {
            Security::None => (answer::UNSUPPORTED, "the server has no TLS"),
            Security::Begun => (answer::INVALID, "TLS has begun before"),
            Security::Wanted if !data.is_empty() => (answer::INVALID, "the option has no data"),
            Security::Wanted if !behind.is_empty() => return Err(Violation::InTheClear),
            Security::Wanted => {
                self.security = Security::Begun;
                say(out, option::STARTTLS, answer::ACK, b"");
                return Ok(Turn::StartTls);
            }
        };
        say(out, option::STARTTLS, answer, why.as_bytes());
        Ok(Turn::Next)
    }

    /// Whether another option is refused because TLS has not begun; it has been answered then.
    pub(super) fn is_insecure(&self, option: u32, out: &mut Vec<u8>) -> Result<bool, Violation> {
        match option {
            _ if self.security != Security::Wanted => Ok(false),
            option::ABORT => Ok(false),
            option::EXPORT_NAME => Err(Violation::NoTls),
            _ => {
                say(out, option, answer::TLS_REQUIRED, b"the export is to be had over TLS only");
                Ok(true)
            }
        }
    }
}
