//! What a port's lock guards: the queue, who waits, and the count of running threads. See `queue.rs`
//! for the invariants.

use std::sync::Arc;
use std::task::Waker;

use super::chain::Stock;
use super::packet::{COPY, Packet, Posted, Tag};
use crate::node::{Fifo, Spare};
use crate::wait::sleeper::Sleeper;

/// Who waits for a packet.
pub(super) enum Who {
    Thread(Arc<Sleeper>),
    /// Tasks are not counted: the concurrency value is about threads.
    Task(Waker),
}

pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) who: Who,
}

/// What taking a packet touches comes first, on the lock's own cache line.
#[repr(C)]
pub(super) struct Inner {
    pub(super) packets: Fifo<Posted>,
    pub(super) spare: Spare<Posted>,
    /// Somebody has waited for the port as an object (C-29): `Shared::signal` is kept up to date.
    pub(super) watched: bool,
    pub(super) closed: bool,
    pub(super) stock: Stock,
    /// The last to come at the end.
    pub(super) waiting: Vec<Waiter>,
    pub(super) handed: Vec<(u64, Packet)>,
    next_id: u64,
    last_tag: Tag,
    /// `usize::MAX`: threads are not counted.
    maximum: usize,
    current: usize,
}

/// The waiter that got a packet, to be told once the lock has been let go.
#[must_use]
pub(super) struct Released(pub(super) Option<Who>);

impl Released {
    pub(super) fn tell(self) {
        match self.0 {
            Some(Who::Thread(sleeper)) => sleeper.tell(),
            Some(Who::Task(waker)) => crate::wake::wake(waker),
            None => {}
        }
    }
}

impl Inner {
    pub(super) fn new(maximum: usize, stock: Stock) -> Inner {
        Inner {
            packets: Fifo::default(),
            spare: Spare::default(),
            watched: false,
            closed: false,
            stock,
            waiting: Vec::new(),
            handed: Vec::new(),
            next_id: 0,
            last_tag: COPY,
            maximum,
            current: 0,
        }
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn new_tag(&mut self) -> Tag {
        self.last_tag = self.last_tag.checked_add(1).unwrap_or(COPY.saturating_add(1));
        self.last_tag
    }

    /// Whether another thread may run (C-21).
    pub(super) fn has_room(&self) -> bool {
        self.current < self.maximum
    }

    pub(super) fn runs(&mut self) {
        if self.maximum != usize::MAX {
            self.current += 1;
        }
    }

    pub(super) fn stops(&mut self) {
        if self.maximum != usize::MAX {
            self.current -= 1;
        }
    }

    /// C-20: the most recently blocked thread runs, its caches are warm; but if the calling thread
    /// waits here itself, it is the one, and nobody has to be woken.
    #[inline]
    pub(super) fn next_waiter(&self) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let has_room = self.has_room();
        let mine = |w: &Waiter| matches!(&w.who, Who::Thread(sleeper) if sleeper.is_mine());
        let may_run = |w: &Waiter| has_room || matches!(w.who, Who::Task(_));
        let mine = if has_room { self.waiting.iter().rposition(mine) } else { None };
        mine.or_else(|| self.waiting.iter().rposition(may_run))
    }

    /// Whether nobody has to hear of what comes.
    #[inline]
    pub(super) fn may_open(&self) -> bool {
        let none = self.packets.is_empty() && self.waiting.is_empty();
        none && !self.watched && !self.closed
    }

    pub(super) fn hand(&mut self, at: usize, packet: Packet) -> Released {
        let waiter = self.waiting.remove(at);
        if let Who::Thread(_) = waiter.who {
            self.runs();
        }
        self.handed.push((waiter.id, packet));
        Released(Some(waiter.who))
    }

    /// Somebody waits. Handing them a packet will need no memory (I-1).
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
        self.handed.reserve(self.waiting.len());
    }

    pub(super) fn forget(&mut self, id: u64) -> Option<Waiter> {
        let at = self.waiting.iter().position(|waiter| waiter.id == id)?;
        Some(self.waiting.remove(at))
    }
}
