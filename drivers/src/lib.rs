//! Hardware, bottom drivers and filters for `overlapped`.
//!
//! - [`hal`]: io_uring and epoll behind the I/O manager's one hardware contract, and the choice
//!   between them.
//! - [`bottom`]: the drivers at the bottom of stacks: files, streams, listeners.
//! - [`class`]: what bottoms of one kind share: their operations, and how received bytes are kept
//!   whole when a receive is cancelled.
//! - [`filter`]: filters to stack above them.
//! - [`text`]: stacks as text.
//! - [`testing`]: drivers for tests of others.
//!
//! This crate knows nothing of tasks; the I/O manager below it knows nothing of file descriptors.

pub mod bottom;
pub mod class;
pub mod filter;
pub mod hal;
pub mod testing;
pub mod text;
