//! Why a remove gave no packet.

use std::fmt;

use crate::status::Status;

/// Why a remove gave no packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoPacket {
    /// The time is over ([`Status::TIMEOUT`], C-25).
    TimedOut,
    /// APCs of the thread have run instead ([`Status::USER_APC`], C-27).
    Apc,
    /// The port has been closed ([`Status::ABANDONED_WAIT_0`], C-30).
    Closed,
    /// Waiting here would stop what is waited for ([`Status::WOULD_DEADLOCK`]): on a runtime's worker,
    /// or inside a completion routine. There, await [`CompletionPort::next`](crate::CompletionPort::next).
    WouldDeadlock,
    /// The handle does not allow it ([`Status::ACCESS_DENIED`]).
    AccessDenied,
}

impl NoPacket {
    /// NT's status for it.
    pub fn status(self) -> Status {
        match self {
            NoPacket::TimedOut => Status::TIMEOUT,
            NoPacket::Apc => Status::USER_APC,
            NoPacket::Closed => Status::ABANDONED_WAIT_0,
            NoPacket::WouldDeadlock => Status::WOULD_DEADLOCK,
            NoPacket::AccessDenied => Status::ACCESS_DENIED,
        }
    }
}

impl fmt::Display for NoPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoPacket::TimedOut => "no packet came in time",
            NoPacket::Apc => "APCs have run instead",
            NoPacket::Closed => "the port has been closed",
            NoPacket::WouldDeadlock => "waiting here would stop what is waited for",
            NoPacket::AccessDenied => "this handle of the port may not remove packets",
        })
    }
}

impl std::error::Error for NoPacket {}

impl From<NoPacket> for std::io::Error {
    fn from(none: NoPacket) -> std::io::Error {
        none.status().into()
    }
}
