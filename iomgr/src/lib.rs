//! The I/O manager of `overlapped`: Windows NT's, as plain Rust over memory.
//!
//! ```text
//!   request ──▶ irp ──▶ stack of drivers ──▶ hal            processor: slab, wheel, mailbox, hal
//!                ▲            │                │
//!                └── unwind ◀─┴── completion ◀─┘            ──▶ future | port | waiting thread
//! ```
//!
//! Every operation is a packet, an **IRP**. It is made on the calling thread's [`processor`],
//! travels down the [`stack`] of its [file object](FileObject) from one [`Driver`] to the next, does its
//! work at the bottom through the hardware contract ([`hal`]), travels back up through completion
//! routines, and reports by the route its caller chose.
//!
//! This crate makes no system call for I/O and knows neither io_uring nor tasks. Rule IDs in
//! comments (I-23, X-4, …) are those of the project's catalogue of NT's I/O semantics.
//!
//! Programs depend on `overlapped`, and the examples name things as it does.
//!
//! To follow one request, read [`request`] → `irp::travel` → [`processor`]. To write a driver,
//! read [`driver`] and [`irp`].

mod altitude;
pub mod apc;
pub mod buf;
pub mod cache;
mod census;
pub mod clock;
mod companion;
mod counters;
mod csq;
pub mod driver;
mod driver_counts;
pub mod file;
pub mod filter;
pub mod hal;
mod instances;
pub mod irp;
mod late;
mod limits;
#[cfg(loom)]
mod loomed;
mod major;
mod node;
pub mod panics;
mod per_core;
mod port;
pub mod processor;
mod related;
pub mod request;
mod scope;
mod serial;
pub mod stack;
mod status;
mod sync;
pub mod wait;
mod wake;
mod wheel;

pub use altitude::{Altitude, BadAltitude};
pub use census::{Census, LiveRequest, live_requests};
pub use companion::{Companion, downcast as downcast_companion};
pub use counters::{IrpCounts, MajorCounts, SizeClass};
pub use csq::CancelSafeQueue;
pub use driver::{Class, Driver};
pub use driver_counts::{DriverCensus, DriverCounts, driver_counts};
pub use file::{Attachment, Change, ChangeError, FileHandle, FileObject, Place};
pub use filter::Filter;
pub use instances::{AltitudeTaken, Opening, Registration, register_filter};
pub use irp::{
    Completion, Disposition, Held, Irp, Late, Lower, MAX_LOCATIONS, NextLocation, On, Part,
    Unwinding, View,
};
pub use limits::{Group, OutOfOrder};
pub use major::{Major, MajorSet, minor};
pub use per_core::PerCore;
pub use port::{CompletionPort, Next, NoPacket, Packet, PortOptions, Rights, WaitPacket};
pub use processor::{Processor, ProcessorHandle, ShutdownReport, TimerId, was_ready_at_once};
pub use related::RelatedFile;
pub use request::{Block, Cancel, Done, Issued, Operation, Request, Setup};
pub use scope::{IssuerScope, Limits};
pub use stack::{Device, Stack, StackError, Visit, Why};
pub use status::{Class as StatusClass, Status};
