//! epoll: readiness turned into completions, one epoll set a processor.
//!
//! ```text
//!   submit ─▶ try the system call ─┬─ done ──────────────▶ result inline, or `queue` beyond a bound
//!                                  ├─ EAGAIN ▶ `table` ──▶ event ▶ retry ▶ `queue` ─▶ turn
//!                                  └─ file that may block ▶ pool ▶ `reply` ▶ `queue` ─▶ turn
//! ```
//!
//! A socket operation is tried at once, because a busy socket usually can. Only if it cannot, the
//! descriptor is put into the epoll set, edge-triggered for everything, and stays there until it is
//! closed: an idle-to-waiting transition costs no `epoll_ctl`.
//!
//! **Invariants.**
//! - An operation for which `submit` returned `None` is in exactly one of: `table`, `queue`, the
//!   pool (up to its `reply`). `in_flight` counts them, and falls when the final completion is
//!   handed over by `turn`.
//! - A list of `table` is non-empty only while the head's last try said "not ready", *after* which
//!   no event of the descriptor has been taken from the kernel. So no edge is ever lost.
//! - A turn that finds `queue` non-empty does not sleep.
//!
//! Reads next: `start.rs` (submit), `retry.rs` (events), `attempt.rs` (one try), `table.rs`.

mod attempt;
mod buffers;
mod retry;
mod start;
mod sys;
mod table;
#[cfg(test)]
mod tests;
mod wake;

use std::collections::VecDeque;
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Poll};
use overlapped_iomgr::hal::{Completion, Hal, Op, Token, Wait, Wake};

use self::buffers::Buffers;
use self::table::Table;
use self::wake::{WAKE_TOKEN, Wakeup};
use crate::hal::generation;
use crate::hal::pool::{Pool, Reply};

/// Completions handed over by one turn.
const BATCH: usize = 256;

/// Events taken from the kernel by one turn.
const EVENTS: usize = 256;

/// Results given inline between two turns; the rest goes through the queue, so that a thread whose
/// sockets are always ready comes back to the turn, where the others are.
const INLINE: u32 = 64;

/// Settings of an [`EpollHal`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EpollConfig {
    /// Buffers for pooled receives; 0 for none. Memory is touched as buffers are used.
    pub buffers: u16,
    /// Bytes in each of them.
    pub buffer_size: u32,
    /// The threads for files and blocking calls; `None` for the process's own pool.
    pub pool: Option<Pool>,
}

impl Default for EpollConfig {
    fn default() -> EpollConfig {
        EpollConfig { buffers: 1024, buffer_size: 64 * 1024, pool: None }
    }
}

/// The hardware of one processor, on epoll. See the module's header.
pub struct EpollHal {
    poll: Poll,
    events: Events,
    wakeup: Arc<Wakeup>,
    pool: Pool,
    reply: Arc<Reply>,
    /// Empty between calls; takes what comes from `reply`.
    replies: Vec<Completion>,
    /// Jobs with the pool.
    pooled: usize,
    table: Table,
    buffers: Buffers,
    /// Finished, and not handed over yet.
    queue: VecDeque<Completion>,
    /// Results given inline since the last turn.
    inline: u32,
    in_flight: usize,
    /// A wake shows in the epoll set's own descriptor; see [`Hal::watch`].
    watched: bool,
}

impl EpollHal {
    /// Makes an epoll set.
    ///
    /// # Errors
    /// Those of `epoll_create1` and `eventfd`: the process or the system has too many descriptors.
    pub fn new(config: &EpollConfig) -> io::Result<EpollHal> {
        let poll = Poll::new()?;
        let wakeup = Arc::new(Wakeup::new(poll.registry())?);
        Ok(EpollHal {
            poll,
            events: Events::with_capacity(EVENTS),
            pool: config.pool.clone().unwrap_or_else(|| Pool::global().clone()),
            reply: Reply::new(wakeup.clone()),
            wakeup,
            replies: Vec::new(),
            pooled: 0,
            table: Table::default(),
            buffers: Buffers::new(config.buffers, config.buffer_size),
            queue: VecDeque::new(),
            inline: 0,
            in_flight: 0,
            watched: false,
        })
    }

    /// Queues a final completion of an operation that has been counted in `in_flight`.
    fn complete(&mut self, token: Token, result: i32) {
        self.queue.push_back(Completion { token, result, lease: None });
    }

    /// Takes what the pool has finished.
    fn collect(&mut self) {
        self.reply.drain(&mut self.replies);
        self.pooled -= self.replies.len();
        self.queue.extend(self.replies.drain(..));
    }

    /// Takes events from the kernel and serves them, and all descriptors due for another look.
    fn serve(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            // A signal. The caller is told "nothing", and may sleep again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        // An empty `Events` has no memory of its own.
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            if event.token() == WAKE_TOKEN {
                continue;
            }
            let read = event.is_readable() || event.is_read_closed() || event.is_priority();
            let write = event.is_writable() || event.is_write_closed();
            // An error, or something of the kernel's invention: everyone has a look.
            let all = event.is_error() || !(read || write);
            let usual = !(all || event.is_read_closed() || event.is_priority());
            let fd = event.token().0 as c_int;
            self.table.heard(fd, usual);
            self.visit(fd, read || all, write || all);
        }
        self.events = events;
        Ok(())
    }
}

// SAFETY: results are those of the system calls made for the operation in the table, once each; jobs of
// the pool report once (`pool`).
unsafe impl Hal for EpollHal {
    fn name(&self) -> &'static str {
        "epoll"
    }

    #[inline]
    unsafe fn submit(&mut self, token: Token, op: Op, alone: bool) -> Option<i32> {
        // SAFETY: the same contract.
        unsafe { self.start(token, op, alone) }
    }

    fn cancel(&mut self, token: Token) {
        if let Some(index) = self.table.find(token) {
            let (fd, entry) = self.table.remove(index);
            self.abort(fd, entry);
        } else if self.pooled > 0 {
            // Its completion comes by `reply`, at the beginning of the next turn.
            self.pool.cancel(&self.reply, token);
        }
    }

    fn turn(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        self.inline = 0;
        self.collect();
        let timeout = match wait {
            Wait::No => Some(Duration::ZERO),
            _ if !self.queue.is_empty() => Some(Duration::ZERO),
            _ if !self.wakeup.prepare_sleep() => Some(Duration::ZERO),
            Wait::Forever => None,
            Wait::For(time) => Some(time),
        };
        let served = self.serve(timeout);
        // A turn that was allowed to sleep and returns is what a wake asks for; so is any when somebody
        // slept elsewhere.
        if std::mem::take(&mut self.watched) || wait != Wait::No {
            self.wakeup.woken();
        }
        self.collect();
        served?;
        let ready = self.queue.len().min(BATCH);
        self.in_flight -= ready;
        done.extend(self.queue.drain(..ready));
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wake_handle(&self) -> Arc<dyn Wake> {
        self.wakeup.clone()
    }

    fn watch(&mut self) -> Option<i32> {
        self.watched = true;
        if !self.wakeup.prepare_sleep() {
            // A wake has come already, and written nothing.
            self.wakeup.prepare_sleep();
            self.wakeup.wake();
        }
        Some(self.poll.as_raw_fd())
    }
}

impl Drop for EpollHal {
    fn drop(&mut self) {
        generation::note_close(self.poll.as_raw_fd());
    }
}

impl fmt::Debug for EpollHal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpollHal").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}
