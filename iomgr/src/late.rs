//! Results of reads that nobody waited for, kept for the next read of the same file object.
//!
//! Cancel is a message: a read whose requester has left may bring bytes off a stream all the
//! same. What such a read delivers has been through the drivers of the stack already, so it must not
//! go through them again. The bottom driver, which knows the order of its reads, sends a later one
//! up with [`Status::DATA_ABOVE`]; when that has unwound to the top, the kept bytes become its
//! result. A message is kept whole: what a later read has no room for is cut off, and it is told
//! ([`Status::BUFFER_OVERFLOW`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::buf::{Lease, Payload};
use crate::companion::Companion;
use crate::irp::slot::{IoStatus, SlotPtr};
use crate::irp::{Late, View};
use crate::major::minor;
use crate::panics::{caught, log};
use crate::status::Status;

enum What {
    Data(Data),
    Error(Status),
}

struct Data {
    bytes: Vec<u8>,
    /// Goes to whoever gets the first byte.
    companion: Option<Box<dyn Companion>>,
    /// The status it came with, of a message; `None` for a part of a stream.
    message: Option<Status>,
}

impl Data {
    /// For a peek.
    fn copy(&self) -> Data {
        let companion = self.companion.as_ref().and_then(|companion| guarded(|| companion.copy()));
        Data { bytes: self.bytes.clone(), companion, message: self.message }
    }

    /// Takes the bytes from `n` on away: the rest of a stream, or nothing.
    fn split(&mut self, n: usize) -> Option<Data> {
        let bytes = self.bytes.split_off(n);
        if bytes.is_empty() {
            return None;
        }
        match &mut self.message {
            Some(status) => *status = Status::BUFFER_OVERFLOW,
            None => return Some(Data { bytes, companion: None, message: None }),
        }
        None
    }
}

/// Runs a companion's code, which may panic.
fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    let result = caught(run);
    if result.is_none() {
        log(|| tracing::error!("a request's companion panicked"));
    }
    result
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

    pub(crate) fn keep(&self, late: &mut Late<'_>, whole: bool) {
        let what = if late.status().is_error() {
            What::Error(late.status())
        } else if late.info() == 0 && !whole {
            // The end of a stream is found again.
            return;
        } else {
            let bytes = late.received().flatten().copied().collect();
            let message = whole.then(|| late.status());
            What::Data(Data { bytes, companion: late.take_companion(), message })
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
            let top = slot.location(0);
            (*top).offset = position;
            let mut data = match what {
                What::Error(status) => {
                    (*header).result = IoStatus { status, info: 0 };
                    self.any.store(!chunks.is_empty(), Ordering::SeqCst);
                    return true;
                }
                What::Data(data) => data,
            };
            let pooled = (*top).minor == minor::POOLED;
            let n = match (*top).arg as usize {
                most if pooled && most != 0 => most.min(data.bytes.len()),
                _ if pooled => data.bytes.len(),
                _ => View::of(&slot).copy_in(0, &data.bytes),
            };
            if (*top).minor == minor::PEEK {
                let copy = data.copy();
                let original = What::Data(std::mem::replace(&mut data, copy));
                chunks.push_front(Chunk { position, what: original });
                data.split(n);
            } else if let Some(rest) = data.split(n) {
                chunks.push_front(Chunk { position: position + n as u64, what: What::Data(rest) });
            }
            (*header).result =
                IoStatus { status: data.message.unwrap_or(Status::SUCCESS), info: n };
            if pooled {
                let lease = Lease::from(data.bytes);
                ((*top).data, (*top).len) = (lease.as_ptr().cast_mut(), lease.len() as u32);
                (*header).payload = Payload::new(lease);
            }
            self.any.store(!chunks.is_empty(), Ordering::SeqCst);
            drop(chunks);
            if let Some(companion) = data.companion {
                guarded(|| slot.give_companion(companion));
            }
        }
        true
    }
}
