//! What bottom drivers of one kind share: the operations, as applications build them, and the
//! treatment of received bytes that came too late.

mod directory;
mod metadata;
mod names;
pub(crate) mod ops;
mod receive;
mod space;

pub use directory::{Entries, Entry, QueryDirectory};
pub use metadata::{FileType, Metadata};
pub use names::{
    Delete, Link, MakeDirectory, Name, NormalizeName, QueryAttributes, ReadLink, Rename,
    SetSecurity, SymbolicLink,
};
pub use ops::{
    Accept, Accepted, Close, Connect, Create, Flush, QueryInformation, Read, ReadVectored,
    ReceiveLease, SetLength, Shutdown, Write, WriteVectored,
};
pub use receive::{Receiver, Turn};
pub use space::{Advice, Allocate, CopyRange, Hint, ZeroData};
