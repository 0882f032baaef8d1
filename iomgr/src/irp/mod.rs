//! The I/O request packet: its memory, its state word, its tokens and its way.
//!
//! - `state`: the atomic word and the protocol between owner and requester.
//! - `slot`, `slab`: layout and memory.
//! - `token`: what drivers hold ([`Irp`], [`Held`], [`Unwinding`], [`Late`]) and what they must
//!   give back ([`Disposition`], [`Completion`]).
//! - `dispatch`: what a driver does with a request: passes it on, hands it to the hardware.
//! - `travel`: the loop that moves it, down the stack and up again.
//! - `finish`: the final completion, cancels, and the requester's departure.
//! - `child`: requests that a driver makes out of one it was given.
//!
//! Read `token` first to write a driver, `travel` first to follow a request.

pub(crate) mod child;
pub(crate) mod dispatch;
pub(crate) mod finish;
pub(crate) mod held;
pub(crate) mod slab;
pub(crate) mod slot;
#[doc(hidden)]
pub mod state;
mod token;
pub(crate) mod travel;
mod view;

pub use child::Part;
pub use held::Held;
pub use slot::MAX_LOCATIONS;
pub use token::{Completion, Disposition, Irp, Late, Lower, NextLocation, On, Unwinding};
pub(crate) use view::RawSegment;
pub use view::{Segments, View};
