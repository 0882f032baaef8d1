//! The end of a server, when somebody asks for it.

use std::fmt::Display;
use std::io::{self, Write};

use futures_util::future::select;
use overlapped::signal::unix::{Signal, SignalKind, signal};

/// Listeners for the signals that ask a process to end: `SIGINT` and `SIGTERM`.
#[derive(Debug)]
pub struct Stop {
    /// The listeners, for those who wait for them by other routes than [`Stop::wait`].
    pub signals: [Signal; 2],
}

impl Stop {
    /// Listens from now on: best before anybody can know that there is something to end.
    ///
    /// # Errors
    /// When descriptors are exhausted, or the thread can have no processor.
    pub fn listen() -> io::Result<Stop> {
        Ok(Stop { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    /// As [`Stop::listen`], and then prints the line by which a server says that it listens.
    ///
    /// # Errors
    /// As [`Stop::listen`], and those of the standard output.
    pub fn announce(address: impl Display) -> io::Result<Stop> {
        let stop = Stop::listen()?;
        println!("listening {address}");
        io::stdout().flush()?;
        Ok(stop)
    }

    /// Waits for one of them.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn wait(self) -> io::Result<()> {
        let [interrupt, terminate] = self.signals;
        select(interrupt.recv(), terminate.recv()).await.factor_first().0
    }
}
