//! What is behind a port's handles: packets, waiters, and the count of running threads.
//!
//! **Invariant.** All of it changes under one lock. `current` is the number of associated threads
//! that run (C-20 to C-25): whoever is handed a packet is counted from then on, and not any more when
//! it asks for the next, blocks, goes to another port or ends. A packet that was handed to a waiter
//! is in `handed` until the waiter fetches it; one that leaves without fetching gives it back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;

use parking_lot::{Mutex, MutexGuard};

use super::packet::{Packet, Posted};
use crate::irp::slot::SlotPtr;
use crate::node::{Entry, Fifo, Own};
use crate::status::Status;
use crate::wait::Signal;
use crate::wait::sleeper::Sleeper;

/// Boxes of posted packets kept for the next ones.
const SPARE: usize = 256;

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

pub(super) struct Inner {
    packets: Fifo<Posted>,
    /// The last to come at the end.
    pub(super) waiting: Vec<Waiter>,
    handed: Vec<(u64, Packet)>,
    next_id: u64,
    /// `usize::MAX`: threads are not counted.
    maximum: usize,
    current: usize,
    pub(super) closed: bool,
    #[expect(clippy::vec_box, reason = "they go into the list as they are")]
    spare: Vec<Box<Own<Posted>>>,
    /// Somebody has waited for the port as an object (C-29): `Shared::signal` is kept up to date.
    watched: bool,
}

/// A port, behind its handles and the files and requests that report to it (C-13).
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// Requests that report here and whose packets have not been taken.
    outstanding: AtomicUsize,
    limit: usize,
    /// Threads are counted (C-20).
    pub(super) counts: bool,
    /// The number of packets, for those who spin: a hint.
    depth: AtomicUsize,
    /// On while there are packets (C-29).
    signal: Signal,
}

/// The waiter that got a packet, to be told once the lock has been let go.
#[must_use]
pub(super) struct Released(Option<Who>);

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
    pub(super) fn depth(&self) -> usize {
        self.packets.len()
    }

    pub(super) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
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
    fn next_waiter(&self) -> Option<usize> {
        if self.waiting.is_empty() {
            return None;
        }
        let has_room = self.has_room();
        let mine = |w: &Waiter| matches!(&w.who, Who::Thread(sleeper) if sleeper.is_mine());
        let may_run = |w: &Waiter| has_room || matches!(w.who, Who::Task(_));
        let mine = if has_room { self.waiting.iter().rposition(mine) } else { None };
        mine.or_else(|| self.waiting.iter().rposition(may_run))
    }

    /// Hands the oldest packet to a waiter, if there are both and one may run.
    pub(super) fn release(&mut self) -> Released {
        if self.packets.is_empty() {
            return Released(None);
        }
        let Some(at) = self.next_waiter() else { return Released(None) };
        let packet = self.pop().expect("not empty");
        self.hand(at, packet)
    }

    fn hand(&mut self, at: usize, packet: Packet) -> Released {
        let waiter = self.waiting.remove(at);
        if let Who::Thread(_) = waiter.who {
            self.runs();
        }
        self.handed.push((waiter.id, packet));
        Released(Some(waiter.who))
    }

    /// The oldest packet.
    #[inline]
    fn pop(&mut self) -> Option<Packet> {
        Some(match self.packets.pop()? {
            Entry::Irp(slot) => Packet::of_irp(slot),
            Entry::Own(own) => {
                let packet = Packet::of_post(own.content);
                if self.spare.len() < SPARE {
                    self.spare.push(own);
                }
                packet
            }
        })
    }

    /// Somebody waits. Handing them a packet will need no memory (I-1).
    pub(super) fn wait(&mut self, waiter: Waiter) {
        self.waiting.push(waiter);
        self.handed.reserve(self.waiting.len());
    }

    pub(super) fn is_waiting(&self, id: u64) -> bool {
        self.waiting.iter().any(|waiter| waiter.id == id)
    }

    pub(super) fn forget(&mut self, id: u64) -> Option<Waiter> {
        let at = self.waiting.iter().position(|waiter| waiter.id == id)?;
        Some(self.waiting.remove(at))
    }
}

impl Shared {
    pub(super) fn new(maximum: usize, limit: usize) -> Shared {
        Shared {
            inner: Mutex::new(Inner {
                packets: Fifo::new(),
                waiting: Vec::new(),
                handed: Vec::new(),
                next_id: 0,
                maximum,
                current: 0,
                closed: false,
                spare: Vec::new(),
                watched: false,
            }),
            outstanding: AtomicUsize::new(0),
            limit,
            counts: maximum != usize::MAX,
            depth: AtomicUsize::new(0),
            signal: Signal::new(false, false),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// Whether there are packets, or were a moment ago.
    pub(super) fn seems_filled(&self) -> bool {
        self.depth.load(Ordering::Relaxed) > 0
    }

    /// Takes up to `most` packets, if a thread may run that has them; counts it then. How many it
    /// took.
    #[inline]
    pub(super) fn take(
        &self,
        inner: &mut Inner,
        give: &mut impl FnMut(Packet),
        most: usize,
    ) -> usize {
        if !inner.has_room() || inner.packets.is_empty() {
            return 0;
        }
        inner.runs();
        self.pop_many(inner, give, most)
    }

    /// Takes up to `most` packets.
    #[inline]
    pub(super) fn pop_many(
        &self,
        inner: &mut Inner,
        give: &mut impl FnMut(Packet),
        most: usize,
    ) -> usize {
        let mut taken = 0;
        while taken < most
            && let Some(packet) = inner.pop()
        {
            self.note_taken(&packet);
            give(packet);
            taken += 1;
        }
        self.show(inner);
        taken
    }

    /// Takes the packet that was handed to a waiter.
    pub(super) fn fetch(&self, inner: &mut Inner, id: u64) -> Option<Packet> {
        let at = inner.handed.iter().position(|(to, _)| *to == id)?;
        let packet = inner.handed.swap_remove(at).1;
        self.note_taken(&packet);
        Some(packet)
    }

    #[inline]
    fn note_taken(&self, packet: &Packet) {
        if packet.is_admitted() {
            self.reaped();
        }
    }

    /// Queues a finished request. Allocates nothing, and cannot fail (C-15).
    ///
    /// # Safety
    /// The slot is `DONE`, its route says what its packet carries; the requester's reference goes to
    /// the port.
    pub(crate) unsafe fn insert(&self, slot: SlotPtr) {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            self.reaped();
            // C-30: nobody can reach it. Its buffer is foreign code to drop.
            let gone = AssertUnwindSafe(|| drop(Packet::of_irp(slot)));
            if catch_unwind(gone).is_err() {
                tracing::error!("a buffer or result panicked while it was dropped");
            }
            return;
        }
        let released = match inner.next_waiter().filter(|_| inner.packets.is_empty()) {
            Some(at) => inner.hand(at, Packet::of_irp(slot)),
            None => {
                inner.packets.push(Entry::Irp(slot));
                self.show(&inner);
                Released(None)
            }
        };
        drop(inner);
        released.tell();
    }

    pub(super) fn post(&self, posted: Posted) -> Result<(), Status> {
        let inner = self.lock();
        if inner.closed {
            return Err(Status::INVALID_HANDLE);
        }
        if inner.packets.len() >= self.limit {
            return Err(Status::INSUFFICIENT_RESOURCES);
        }
        self.queue(inner, posted);
        Ok(())
    }

    /// A packet to be queued later, for which neither room nor memory will be wanting then (I-1).
    ///
    /// # Errors
    /// As [`Shared::admit`].
    pub(super) fn reserve(&self, posted: Posted) -> Result<Box<Own<Posted>>, Status> {
        self.admit()?;
        let spare = self.lock().spare.pop();
        Ok(match spare {
            Some(mut own) => {
                own.content = posted;
                own
            }
            None => Own::new(posted),
        })
    }

    /// Queues a reserved packet.
    pub(super) fn insert_reserved(&self, own: Box<Own<Posted>>) {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            // C-30.
            return self.reaped();
        }
        let released = match inner.next_waiter().filter(|_| inner.packets.is_empty()) {
            Some(at) => {
                let released = inner.hand(at, Packet::of_post(own.content));
                if inner.spare.len() < inner.spare.capacity() {
                    inner.spare.push(own);
                }
                released
            }
            None => {
                inner.packets.push(Entry::Own(own));
                self.show(&inner);
                Released(None)
            }
        };
        drop(inner);
        released.tell();
    }

    /// Queues a packet whatever the limit says: there are not more of these than their makers.
    pub(super) fn post_always(&self, posted: Posted) {
        let inner = self.lock();
        if !inner.closed {
            self.queue(inner, posted);
        }
    }

    /// Takes a packet off the queue; `false`: it is not there any more.
    pub(super) fn remove_tagged(&self, tag: u64) -> bool {
        let mut inner = self.lock();
        let mut found = false;
        for _ in 0..inner.packets.len() {
            let entry = inner.packets.pop().expect("counted");
            match entry {
                Entry::Own(own) if own.content.tag == tag => found = true,
                entry => inner.packets.push(entry),
            }
        }
        self.show(&inner);
        found
    }

    #[inline]
    fn queue(&self, mut inner: MutexGuard<'_, Inner>, posted: Posted) {
        let released = match inner.next_waiter().filter(|_| inner.packets.is_empty()) {
            Some(at) => inner.hand(at, Packet::of_post(posted)),
            None => {
                let own = match inner.spare.pop() {
                    Some(mut own) => {
                        own.content = posted;
                        own
                    }
                    None => Own::new(posted),
                };
                inner.packets.push(Entry::Own(own));
                self.show(&inner);
                Released(None)
            }
        };
        drop(inner);
        released.tell();
    }

    /// A packet that a waiter fetched, and then did not want: it is the oldest again.
    pub(super) fn give_back(&self, packet: Packet) {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            return drop(packet);
        }
        if packet.is_admitted() {
            self.admit_late();
        }
        let released = match inner.next_waiter() {
            Some(at) => inner.hand(at, packet),
            None => {
                let entry = match packet.into_entry() {
                    Ok(slot) => Entry::Irp(slot),
                    Err(posted) => Entry::Own(Own::new(posted)),
                };
                inner.packets.push_front(entry);
                self.show(&inner);
                Released(None)
            }
        };
        drop(inner);
        released.tell();
    }

    /// Keeps hint and signal in step with the queue. With the lock held.
    #[inline]
    pub(super) fn show(&self, inner: &Inner) {
        self.depth.store(inner.packets.len(), Ordering::Relaxed);
        if inner.watched {
            let on = inner.closed || !inner.packets.is_empty();
            if on {
                self.signal.set()
            } else {
                self.signal.reset()
            };
        }
    }

    /// C-29.
    pub(super) fn signal(&self) -> &Signal {
        let mut inner = self.lock();
        inner.watched = true;
        self.show(&inner);
        &self.signal
    }

    /// A request is to report here; refused when too many do already.
    pub(crate) fn admit(&self) -> Result<(), Status> {
        if self.outstanding.fetch_add(1, Ordering::Relaxed) < self.limit {
            return Ok(());
        }
        self.reaped();
        Err(Status::QUOTA_EXCEEDED)
    }

    /// A request that was not asked about reports here all the same (C-12).
    pub(crate) fn admit_late(&self) {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that was admitted does not report here, or its packet has been taken.
    pub(crate) fn reaped(&self) {
        self.outstanding.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// C-30: everybody who waits is told; queued packets die.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let mut packets = Vec::new();
        self.pop_many(&mut inner, &mut |packet| packets.push(packet), usize::MAX);
        let waiting = std::mem::take(&mut inner.waiting);
        if inner.watched {
            // Whoever waits for the object learns it by asking.
            self.signal.set();
        }
        drop(inner);
        for waiter in waiting {
            Released(Some(waiter.who)).tell();
        }
        // Foreign code, perhaps.
        drop(packets);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // C-30: queued packets die with the port.
        let inner = self.inner.get_mut();
        while let Some(packet) = inner.pop() {
            drop(packet);
        }
    }
}
