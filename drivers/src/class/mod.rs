//! What bottom drivers of one kind share: the operations, as applications build them, and the
//! treatment of received bytes that came too late.

mod counters;
mod directory;
mod envelope;
mod messages;
mod metadata;
mod names;
pub(crate) mod ops;
mod receive;
mod space;

pub use counters::{AddCount, PollEvents, TakeCount};
pub use directory::{Entries, Entry, QueryDirectory};
pub use envelope::{Envelope, MOST_DESCRIPTORS};
pub use messages::{Message, PassDescriptors, ReceiveMessage, SendMessage};
pub use metadata::{FileType, Metadata};
pub use names::{
    Delete, Link, MakeDirectory, Name, NormalizeName, QueryAttributes, ReadLink, Rename,
    SetSecurity, SymbolicLink,
};
pub use ops::{
    Accept, Accepted, Close, Connect, Create, Flush, QueryInformation, QueryPosition, Read,
    ReadVectored, ReceiveLease, SetLength, SetPosition, Shutdown, Write, WriteVectored,
};
pub use receive::{Receiver, Stashed, Turn};
pub use space::{Advice, Allocate, CopyRange, Hint, ZeroData, ZeroRange};
