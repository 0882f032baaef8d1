//! What a verifier has found.

use std::fmt;

use crate::testing::Record;

/// Something that a driver may not do, and has done.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The driver, or, where that cannot be told, all between the verifier's two.
    pub driver: String,
    /// The request, as the verifier has seen it.
    pub request: Record,
    /// What it has done with it.
    pub misdeed: Misdeed,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.driver, self.misdeed, self.request)
    }
}

/// What a [`Finding`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Misdeed {
    /// It let go of the request without ending it (V-43), or said that it is pending in place of a result.
    Dropped,
    /// It panicked; so does, for instance, one that puts a value into its scratch where it has just lent a
    /// buffer to those below. From then on, what it drops counts as this too.
    Panicked,
    /// It had not ended the request when the [findings](super::Verifier::findings) were asked for.
    Unfinished,
    /// It reported more bytes than there are (I-29, V-19).
    TooLong {
        /// Bytes that it reported.
        reported: usize,
    },
    /// It asked those below for bytes past the last that a file can have.
    OutOfRange,
    /// It wrote outside the memory that it was asked to fill, or to read from.
    Overrun,
    /// It changed the bytes of a write, which are not its own: it should lend a copy.
    ChangedWrite,
    /// It wrote to the request's memory when the request had ended (I-12).
    UsedAfterCompletion,
}

impl fmt::Display for Misdeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Misdeed::Dropped => "dropped a request",
            Misdeed::Panicked => "panicked",
            Misdeed::Unfinished => "has not ended a request",
            Misdeed::TooLong { reported } => return write!(f, "reported {reported} bytes"),
            Misdeed::OutOfRange => "sent a request below that ends where no file does",
            Misdeed::Overrun => "wrote outside a request's memory",
            Misdeed::ChangedWrite => "changed the bytes of a write",
            Misdeed::UsedAfterCompletion => "wrote to a request's memory when it had ended",
        })
    }
}
