//! Receiving so that nothing is lost or comes out of order, whatever is cancelled: from a stream of
//! bytes, or of messages, which stay whole.
//!
//! Cancel is a message: a receive whose future has been dropped may still take bytes from the
//! kernel, after the next receive has been asked for. Three rules keep the stream whole:
//!
//! 1. At most one receive of a stream is with the hardware; further ones park ([`Receiver::turn`]).
//!    The next one starts only when the one before is settled: delivered or disposed of
//!    ([`Receiver::settled`]).
//! 2. What the hardware brings for a receive that is cancelled stays here, below all filters
//!    ([`Receiver::stash`]), and the next receive gets it as if from the hardware.
//! 3. What had already gone up when its requester left is kept at the top, above all filters
//!    ([`FileObject::keep_late`]). It is older than anything here, so a receive that finds it there
//!    goes up to fetch it ([`Turn::Above`]), and what it has brought itself is stashed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::{
    CancelSafeQueue, Companion, Disposition, FileObject, Irp, Late, Major, Status, minor,
};

/// What a receive may do; see [`Receiver::turn`]. After all but the last two, the stream is the
/// receive's until it is settled: call [`Irp::notify_settled`].
#[derive(Debug)]
pub enum Turn {
    /// Submit it.
    Go,
    /// Complete it with this status: so many stashed bytes are in its memory, from this position on.
    Served(Status, usize, u64),
    /// Complete the pooled receive with this, from this position on.
    Leased(Lease, u64),
    /// Complete it with [`Status::DATA_ABOVE`].
    Above,
    /// Complete it with this status and no bytes: it asks for none, or was cancelled.
    Skip(Status),
    /// Park it: [`Receiver::park`].
    Wait,
}

/// What came for a cancelled receive.
pub struct Stashed {
    /// Of the first byte in the stream, or of the message.
    pub position: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What accompanies the first of them.
    pub companion: Option<Box<dyn Companion>>,
    /// The status that goes with them.
    pub status: Status,
}

/// The receiving side of one stream.
#[derive(Default)]
pub struct Receiver {
    /// The stream is one of messages.
    messages: bool,
    /// A receive is with the hardware or not settled yet.
    busy: AtomicBool,
    /// `stash` holds bytes, or the stream is known to have ended.
    has_stash: AtomicBool,
    /// The hardware has found the end of the stream, which stays.
    ended: AtomicBool,
    /// `parked` may hold requests.
    has_parked: AtomicBool,
    /// Position of the next byte, or message, from the hardware. Only the receive that has it changes this.
    next: AtomicU64,
    /// In order. Touched by the receive that has the stream.
    stash: Mutex<VecDeque<Stashed>>,
    parked: CancelSafeQueue,
}

impl Receiver {
    /// Of a stream of messages. The default is one of bytes.
    pub fn of_messages() -> Receiver {
        Receiver { messages: true, ..Receiver::default() }
    }

    /// Whether the stream is one of messages.
    pub fn has_messages(&self) -> bool {
        self.messages
    }

    /// Asks for the stream: for the hardware, or what is left of cancelled receives.
    #[inline]
    pub fn turn(&self, irp: &mut Irp<'_>) -> Turn {
        if irp.minor() != minor::POOLED && !self.messages && irp.is_empty() {
            return Turn::Skip(Status::SUCCESS);
        }
        if irp.is_cancelled() {
            // Perhaps when its turn had come: it is the next one's.
            if !self.busy.load(Ordering::SeqCst) && self.has_parked.load(Ordering::SeqCst) {
                self.next();
            }
            return Turn::Skip(Status::CANCELLED);
        }
        if irp.notifies_settled() {
            // It has the stream, and comes once more: a driver above has use for more than it brought.
            return self.look(irp);
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            // Not even stashed bytes: the one before may hold older ones that nobody will take.
            return Turn::Wait;
        }
        self.look(irp)
    }

    /// For a receive that has the stream: where its bytes are.
    #[inline]
    pub fn look(&self, irp: &mut Irp<'_>) -> Turn {
        if irp.file().has_late() {
            return Turn::Above;
        }
        if self.has_stash.load(Ordering::Acquire) {
            return self.serve(irp).unwrap_or(Turn::Go);
        }
        Turn::Go
    }

    /// Parks a receive whose turn it is not; it comes back to `dispatch`. The caller keeps the file
    /// object alive meanwhile.
    #[cold]
    pub fn park(&self, irp: Irp<'_>) -> Disposition {
        let disposition = irp.park(&self.parked);
        self.has_parked.store(true, Ordering::SeqCst);
        // The one before may have settled meanwhile, without seeing this one.
        if !self.busy.load(Ordering::SeqCst) {
            self.next();
        }
        disposition
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Stashed>> {
        // Nothing in here panics while it holds the lock.
        self.stash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes stashed bytes for a receive, if there are any.
    #[cold]
    fn serve(&self, irp: &mut Irp<'_>) -> Option<Turn> {
        let mut stash = self.lock();
        let Some(Stashed { position, mut bytes, mut companion, mut status }) = stash.pop_front()
        else {
            let end = Turn::Served(Status::SUCCESS, 0, self.next.load(Ordering::Relaxed));
            return self.ended.load(Ordering::Relaxed).then_some(end);
        };
        let pooled = irp.minor() == minor::POOLED;
        let n = match irp.arg() as usize {
            most if pooled && most != 0 => most.min(bytes.len()),
            _ if pooled => bytes.len(),
            _ => irp.copy_in(0, &bytes),
        };
        let left = bytes.len() - n;
        if irp.minor() == minor::PEEK {
            let copy = companion.as_ref().map(|companion| companion.copy());
            let companion = std::mem::replace(&mut companion, copy);
            stash.push_front(Stashed { position, bytes, companion, status });
            bytes = Vec::new();
        } else if left > 0 && !self.messages {
            let (position, bytes) = (position + n as u64, bytes.split_off(n));
            stash.push_front(Stashed { position, bytes, companion: None, status });
        }
        if left > 0 && self.messages {
            // The rest of a message goes with it, as in the kernel.
            status = Status::BUFFER_OVERFLOW;
        }
        let turn = if pooled {
            bytes.truncate(n);
            Turn::Leased(Lease::from(bytes), position)
        } else {
            Turn::Served(status, n, position)
        };
        let ended = self.ended.load(Ordering::Relaxed);
        self.has_stash.store(ended || !stash.is_empty(), Ordering::Release);
        drop(stash);
        if let Some(companion) = companion {
            irp.give_companion(companion);
        }
        Some(turn)
    }

    /// Keeps what the hardware brought for a receive that is cancelled, or that has found older
    /// bytes above.
    #[cold]
    pub fn stash(&self, stashed: Stashed) {
        self.lock().push_back(stashed);
        self.has_stash.store(true, Ordering::Release);
    }

    /// The receive that had the hardware is delivered or disposed of.
    #[inline]
    pub fn settled(&self) {
        self.busy.swap(false, Ordering::SeqCst);
        if self.has_parked.load(Ordering::SeqCst) {
            self.next();
        }
    }

    /// Gives the oldest parked receive another try.
    #[cold]
    fn next(&self) {
        // First of all: one that parks from here on says so again.
        self.has_parked.store(false, Ordering::SeqCst);
        let Some(held) = self.parked.remove() else { return };
        if !self.parked.is_empty() {
            self.has_parked.store(true, Ordering::SeqCst);
        }
        held.redispatch();
    }

    /// Whether bytes are stashed.
    pub fn has_unread(&self) -> bool {
        !self.lock().is_empty()
    }

    /// The receive that has the hardware found the end of the stream. It may be cancelled, and the
    /// next one should not have to find it again.
    #[cold]
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.has_stash.store(true, Ordering::Release);
    }

    /// The receive that has the hardware took so many bytes, or a message, off the stream; the
    /// position of the first.
    #[inline]
    pub fn received(&self, bytes: usize) -> u64 {
        let position = self.next.load(Ordering::Relaxed);
        let step = if self.messages { 1 } else { bytes as u64 };
        self.next.store(position + step, Ordering::Relaxed);
        position
    }

    /// Keeps what a receive found that nobody waits for any more.
    pub fn abandoned(&self, file: &FileObject, mut late: Late<'_>) {
        if late.minor() == minor::PEEK {
            return;
        }
        file.keep_late(&mut late, self.messages);
        if self.busy.load(Ordering::SeqCst) {
            // Another receive may wait in the hardware for what is here already.
            file.interrupt(Major::Read);
            if self.messages {
                file.interrupt(Major::ReceiveFrom);
            }
        } else if self.has_parked.load(Ordering::SeqCst) {
            self.next();
        }
    }
}
