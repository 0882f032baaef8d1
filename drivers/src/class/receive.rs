//! Receiving from a stream so that no byte is lost or comes out of order, whatever is cancelled.
//!
//! Cancel is a message: a receive whose future has been dropped may still take bytes from the
//! kernel, after the next receive has been asked for. Two rules keep the stream whole:
//!
//! 1. At most one receive of a stream is with the hardware; further ones park ([`Receiver::turn`]).
//! 2. Bytes that came for nobody stay with the stream ([`Receiver::abandoned`]), in the order of
//!    their positions in it, and are served before anything newer. The next receive starts only when the one before is settled: delivered
//!    or disposed of ([`Receiver::settled`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::{CancelSafeQueue, Disposition, FileObject, Irp, Major, Status, minor};

/// What a receive may do; see [`Receiver::turn`]. After all but the last two, the stream is the
/// receive's until it is settled: call [`Irp::notify_settled`].
#[derive(Debug)]
pub enum Turn {
    /// Submit it.
    Go,
    /// Complete it: so many late bytes are in its memory, from this position on.
    Served(usize, u64),
    /// Complete the pooled receive with this, from this position on.
    Leased(Lease, u64),
    /// Complete it with an error that a receive met for which nobody waited.
    Failed(Status),
    /// Complete it with this status and no bytes: it asks for none, or was cancelled.
    Skip(Status),
    /// Park it: [`Receiver::park`].
    Wait,
}

/// Bytes that came for nobody, and the position of the first of them in the stream.
#[derive(Debug)]
struct Late {
    position: u64,
    bytes: Vec<u8>,
}

/// The receiving side of one stream.
#[derive(Debug, Default)]
pub struct Receiver {
    /// A receive is with the hardware or not settled yet.
    busy: AtomicBool,
    /// `late` may hold bytes, or the stream is known to have ended.
    has_late: AtomicBool,
    /// A receive that nobody waited for found the end of the stream.
    ended: AtomicBool,
    /// A receive that nobody waited for met this error; told once.
    failed: Mutex<Option<Status>>,
    /// By position.
    late: Mutex<VecDeque<Late>>,
    /// Position of the next byte from the hardware. Only the receive that has it changes this.
    next: AtomicU64,
    /// `parked` may hold requests.
    has_parked: AtomicBool,
    parked: CancelSafeQueue,
}

impl Receiver {
    /// Asks for the stream: for the hardware, or what came late.
    #[inline]
    pub fn turn(&self, irp: &Irp<'_>) -> Turn {
        if irp.minor() != minor::POOLED && irp.is_empty() {
            return Turn::Skip(Status::SUCCESS);
        }
        if irp.is_cancelled() {
            return Turn::Skip(Status::CANCELLED);
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            // Not even late bytes: the one before may hold older ones that nobody will take.
            return Turn::Wait;
        }
        if self.has_late.load(Ordering::Acquire) {
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

    fn lock(&self) -> MutexGuard<'_, VecDeque<Late>> {
        // Nothing in here panics while it holds the lock.
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Status>> {
        // As above.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_late(&self, late: &VecDeque<Late>) {
        let ended = self.ended.load(Ordering::Relaxed);
        let more = !late.is_empty() || ended || self.failure().is_some();
        self.has_late.store(more, Ordering::Release);
    }

    /// Takes late bytes for a receive, if there are any.
    #[cold]
    fn serve(&self, irp: &Irp<'_>) -> Option<Turn> {
        let mut late = self.lock();
        // Not within the condition: the guard would live as long as the block.
        let failed = if late.is_empty() { self.failure().take() } else { None };
        if let Some(status) = failed {
            self.note_late(&late);
            return Some(Turn::Failed(status));
        }
        if late.is_empty() && self.ended.load(Ordering::Relaxed) {
            return Some(Turn::Served(0, self.next.load(Ordering::Relaxed)));
        }
        if irp.minor() == minor::POOLED {
            let Late { position, mut bytes } = late.pop_front()?;
            let most = irp.arg() as usize;
            if most != 0 && bytes.len() > most {
                let rest = bytes.split_off(most);
                late.push_front(Late { position: position + most as u64, bytes: rest });
            }
            self.note_late(&late);
            return Some(Turn::Leased(Lease::from(bytes), position));
        }
        let peek = irp.minor() == minor::PEEK;
        let position = late.front()?.position;
        let mut copied = 0;
        let mut whole = 0;
        for chunk in late.iter_mut() {
            if chunk.position != position + copied as u64 {
                // What lies between is with a receive that somebody has yet to look at.
                break;
            }
            let n = irp.copy_in(copied, &chunk.bytes);
            copied += n;
            if n < chunk.bytes.len() {
                if !peek {
                    chunk.bytes.drain(..n);
                    chunk.position += n as u64;
                }
                break;
            }
            whole += 1;
        }
        if !peek {
            late.drain(..whole);
        }
        self.note_late(&late);
        (copied > 0).then_some(Turn::Served(copied, position))
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
        let Some(held) = self.parked.remove() else { return };
        self.has_parked.store(!self.parked.is_empty(), Ordering::SeqCst);
        held.redispatch();
    }

    /// The receive that has the hardware took so many bytes off the stream; the position of the
    /// first.
    #[inline]
    pub fn received(&self, bytes: usize) -> u64 {
        let position = self.next.load(Ordering::Relaxed);
        self.next.store(position + bytes as u64, Ordering::Relaxed);
        position
    }

    /// For a receive that came back from the hardware with nothing because [`Receiver::abandoned`]
    /// interrupted it: what came late, if anything did.
    #[cold]
    pub fn interrupted(&self, irp: &Irp<'_>) -> Turn {
        self.serve(irp).unwrap_or(Turn::Go)
    }

    /// Keeps what a receive found that nobody waits for any more.
    pub fn abandoned(&self, file: &FileObject, late: &overlapped_iomgr::Late<'_>) {
        if late.minor() == minor::PEEK {
            return;
        }
        if late.status().is_error() {
            *self.failure() = Some(late.status());
        } else if late.info() == 0 {
            // Receives of no bytes never get here: this is the end, and it stays.
            self.ended.store(true, Ordering::Relaxed);
        } else {
            let (position, bytes) = (late.offset(), late.received().flatten().copied().collect());
            let mut list = self.lock();
            let at = list.partition_point(|chunk| chunk.position < position);
            list.insert(at, Late { position, bytes });
        }
        self.has_late.store(true, Ordering::SeqCst);
        if self.has_parked.load(Ordering::SeqCst) {
            self.next();
        } else if late.is_unread() && self.busy.load(Ordering::SeqCst) {
            // Another receive waits in the hardware for what is here already.
            file.interrupt(Major::Read);
        }
    }
}
