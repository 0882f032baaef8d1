//! What bottom drivers of one kind share: the operations, as applications build them, and the
//! treatment of received bytes that came too late.

mod counters;
mod envelope;
mod messages;
pub(crate) mod ops;
mod receive;

pub use counters::{AddCount, PollEvents, TakeCount};
pub use envelope::{Envelope, MOST_DESCRIPTORS};
pub use messages::{Message, PassDescriptors, ReceiveMessage, SendMessage};
pub use ops::{
    Accept, Accepted, Close, Connect, Create, Flush, QueryInformation, Read, ReadVectored,
    ReceiveLease, SetLength, Shutdown, Write, WriteVectored,
};
pub use receive::{Receiver, Stashed, Turn};
