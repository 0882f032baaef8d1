//! Receiving from a stream so that no byte is lost or comes out of order, whatever is cancelled.
//!
//! Cancel is a message: a receive whose future has been dropped may still take bytes from the
//! kernel, after the next receive has been asked for. Two rules keep the stream whole:
//!
//! 1. At most one receive of a stream is with the hardware; further ones park ([`Receiver::turn`]).
//! 2. Bytes that came for nobody stay with the stream ([`Receiver::abandoned`]) and are served
//!    before anything newer. The next receive starts only when the one before is settled: delivered
//!    or disposed of ([`Receiver::settled`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::{CancelSafeQueue, Disposition, Irp, Late, minor};

/// What a receive may do; see [`Receiver::turn`].
#[derive(Debug)]
pub enum Turn {
    /// Submit it, after [`Irp::notify_settled`].
    Go,
    /// Complete it: so many late bytes are in its memory.
    Served(usize),
    /// Complete the pooled receive with this.
    Leased(Lease),
    /// Park it: [`Receiver::park`].
    Wait,
}

/// The receiving side of one stream.
#[derive(Debug, Default)]
pub struct Receiver {
    /// A receive is with the hardware or not settled yet.
    busy: AtomicBool,
    /// `late` may hold bytes.
    has_late: AtomicBool,
    late: Mutex<VecDeque<Vec<u8>>>,
    /// `parked` may hold requests.
    has_parked: AtomicBool,
    parked: CancelSafeQueue,
}

impl Receiver {
    /// Asks for the hardware.
    #[inline]
    pub fn turn(&self, irp: &Irp<'_>) -> Turn {
        if irp.minor() != minor::POOLED && irp.is_empty() {
            return Turn::Served(0);
        }
        let busy = self.busy.swap(true, Ordering::SeqCst);
        if self.has_late.load(Ordering::Acquire)
            && let Some(served) = self.serve(irp)
        {
            if !busy {
                self.settled();
            }
            return served;
        }
        if busy { Turn::Wait } else { Turn::Go }
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

    fn lock(&self) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
        // Nothing in here panics while it holds the lock.
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes late bytes for a receive, if there are any.
    #[cold]
    fn serve(&self, irp: &Irp<'_>) -> Option<Turn> {
        let mut late = self.lock();
        if irp.minor() == minor::POOLED {
            let mut first = late.pop_front()?;
            let most = irp.arg() as usize;
            if most != 0 && first.len() > most {
                late.push_front(first.split_off(most));
            }
            self.has_late.store(!late.is_empty(), Ordering::Release);
            return Some(Turn::Leased(Lease::from(first)));
        }
        let peek = irp.minor() == minor::PEEK;
        let mut copied = 0;
        let mut whole = 0;
        for bytes in late.iter_mut() {
            let n = irp.copy_in(copied, bytes);
            copied += n;
            if n < bytes.len() {
                if !peek {
                    bytes.drain(..n);
                }
                break;
            }
            whole += 1;
        }
        if !peek {
            late.drain(..whole);
        }
        self.has_late.store(!late.is_empty(), Ordering::Release);
        (copied > 0).then_some(Turn::Served(copied))
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

    /// Keeps the bytes of a receive that nobody waits for any more.
    pub fn abandoned(&self, late: &Late<'_>) {
        if late.minor() == minor::PEEK || late.info() == 0 {
            return;
        }
        let bytes = late.received().flatten().copied().collect();
        self.lock().push_back(bytes);
        self.has_late.store(true, Ordering::Release);
        if self.has_parked.load(Ordering::SeqCst) {
            self.next();
        }
    }
}
