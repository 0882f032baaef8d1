//! Signals of the operating system, as requests.
//!
//! [`unix::signal`] makes a listener; [`ctrl_c`] waits for one interrupt. Each listener sees each
//! signal, on whatever runtime or thread it waits; and what comes while it does not wait is kept.
//!
//! **Coalescing.** As the kernel does with signals that are pending, a listener takes all that have
//! come since it looked last as one. So a signal says that something has happened at least once, not
//! how often: look at everything that it may be about (all children after `SIGCHLD`).
//!
//! A listener is a counter ([`EventFd`](crate::io::EventFd)) that the signal handler adds to. The
//! handler is that of the crate `signal-hook-registry`, which other libraries of a program share. (A
//! `signalfd` would need the signal blocked in every thread, those of other libraries included, and
//! children would inherit that.) Once somebody has listened to a signal, its default action does not
//! come back.

pub mod unix;

use std::io;

/// Waits for an interrupt (`SIGINT`): Control-C at the terminal. From the first poll on, the interrupt
/// does not end the process any more.
///
/// Waits for the next one only; a program that waits again and again keeps a listener
/// ([`unix::signal`]) to miss none. Dropping this loses nothing of other listeners.
///
/// # Errors
/// As [`unix::signal`].
///
/// ```no_run
/// overlapped::block_on(async {
///     println!("Control-C ends this program");
///     overlapped::signal::ctrl_c().await
/// })?;
/// # Ok::<_, std::io::Error>(())
/// ```
pub async fn ctrl_c() -> io::Result<()> {
    unix::signal(unix::SignalKind::interrupt())?.recv().await
}
