//! Results of reads that nobody waited for, kept for the next read of the same file object.
//!
//! Cancel is a message: a read whose requester has left may bring bytes off a stream all the
//! same. What such a read delivers has been through the drivers of the stack already, so it must not
//! go through them again. The bottom driver, which knows the order of its reads, sends a later one
//! up with [`Status::DATA_ABOVE`]; when that has unwound to the top, the kept bytes become its
//! result.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::buf::{Lease, Payload};
use crate::irp::slot::{IoStatus, SlotPtr};
use crate::irp::{Late, View};
use crate::major::minor;
use crate::status::Status;

enum What {
    Bytes(Vec<u8>),
    Error(Status),
}

struct Chunk {
    /// In the stream, of the first byte.
    position: u64,
    what: What,
}

/// What a file object keeps.
#[derive(Default)]
pub(crate) struct Kept {
    any: AtomicBool,
    /// By position.
    chunks: Mutex<VecDeque<Chunk>>,
}

impl Kept {
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Chunk>> {
        // Nothing in here panics while it holds the lock.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, late: &Late<'_>) {
        let what = if late.status().is_error() {
            What::Error(late.status())
        } else if late.info() == 0 {
            // The end of a stream is found again.
            return;
        } else {
            What::Bytes(late.received().flatten().copied().collect())
        };
        let position = late.offset();
        let mut chunks = self.lock();
        let at = chunks.partition_point(|chunk| chunk.position < position);
        chunks.insert(at, Chunk { position, what });
        self.any.store(true, Ordering::SeqCst);
    }

    /// Gives a read that has unwound to its top what is kept. `false`: nothing is, any more.
    ///
    /// # Safety
    /// The driver side of the slot is the caller's, at the top location.
    #[cold]
    pub(crate) unsafe fn serve(&self, slot: SlotPtr) -> bool {
        let mut chunks = self.lock();
        let Some(Chunk { position, what }) = chunks.pop_front() else { return false };
        // SAFETY: the caller's; the request is a read, whose memory or payload is its own.
        unsafe {
            let header = slot.0.as_ptr();
            (*slot.location(0)).offset = position;
            let mut result = IoStatus { status: Status::SUCCESS, info: 0 };
            match what {
                What::Error(status) => result.status = status,
                What::Bytes(mut bytes) if (*slot.location(0)).minor == minor::POOLED => {
                    let most = (*slot.location(0)).arg as usize;
                    if most != 0 && bytes.len() > most {
                        let what = What::Bytes(bytes.split_off(most));
                        chunks.push_front(Chunk { position: position + most as u64, what });
                    }
                    result.info = bytes.len();
                    let lease = Lease::from(bytes);
                    let top = slot.location(0);
                    ((*top).data, (*top).len) = (lease.as_ptr().cast_mut(), lease.len() as u32);
                    (*header).payload = Payload::new(lease);
                }
                What::Bytes(mut bytes) => {
                    result.info = View::of(&slot).copy_in(0, &bytes);
                    if (*slot.location(0)).minor == minor::PEEK {
                        chunks.push_front(Chunk { position, what: What::Bytes(bytes) });
                    } else if result.info < bytes.len() {
                        bytes.drain(..result.info);
                        let position = position + result.info as u64;
                        chunks.push_front(Chunk { position, what: What::Bytes(bytes) });
                    }
                }
            }
            (*header).result = result;
        }
        self.any.store(!chunks.is_empty(), Ordering::SeqCst);
        true
    }
}
