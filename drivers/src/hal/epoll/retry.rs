//! Serving a descriptor: those who wait for it try again, in order, until one finds it not ready.

use std::ffi::c_int;

use overlapped_iomgr::hal::{Completion, Op, Token};

use super::attempt::{Tried, attempt};
use super::table::Side;
use super::{BATCH, EpollHal, sys};

/// Connections accepted in one visit; a listener that has more is visited again, after others.
const ACCEPTS: usize = 64;

impl EpollHal {
    /// Serves a descriptor that is, or may be, ready. An event may be late: the number may have
    /// been closed, and be another file's.
    pub(super) fn visit(&mut self, fd: c_int, read: bool, write: bool) {
        self.abort_stale(fd);
        if read {
            self.retry(fd, Side::Read);
        }
        if write {
            self.retry(fd, Side::Write);
        }
        let mut next = self.table.first(fd, Side::Poll);
        while let Some(index) = next {
            next = self.table.next(index);
            self.retry_one(index);
        }
    }

    fn retry(&mut self, fd: c_int, side: Side) {
        while let Some(index) = self.table.first(fd, side) {
            let entry = self.table.entry(index);
            let (token, accepts) = (entry.token, matches!(entry.op, Op::AcceptMulti { .. }));
            if accepts {
                let Some(error) = self.accept(fd, token) else { return };
                self.table.remove(index);
                self.complete(token, error);
            } else if !self.retry_one(index) {
                return;
            }
        }
    }

    /// Tries a waiting operation again. Returns whether it has ended.
    fn retry_one(&mut self, index: u32) -> bool {
        let entry = self.table.entry(index);
        let (op, token) = (entry.op, entry.token);
        // SAFETY: the operation is in flight, so its submitter keeps its memory valid; the progress
        // is its own.
        let (result, lease) = match unsafe { attempt(&op, &mut entry.progress, &mut self.buffers) }
        {
            Tried::Wait => return false,
            Tried::Done(result) => (result, None),
            Tried::Received(lease) => (lease.len() as i32, Some(lease)),
        };
        let (fd, entry) = self.table.remove(index);
        self.restore(fd, &entry);
        self.queue.push_back(Completion { token, result, more: false, lease });
        true
    }

    /// Accepts what is there. `None`: more may come later; otherwise the error that ends it.
    fn accept(&mut self, fd: c_int, token: Token) -> Option<i32> {
        for _ in 0..ACCEPTS {
            // Connections that nobody can be told of yet had better wait in the kernel.
            if self.queue.len() >= BATCH {
                break;
            }
            match sys::accept(fd) {
                result @ 0.. => {
                    self.queue.push_back(Completion { token, result, more: true, lease: None });
                }
                none if none == -libc::EAGAIN => return None,
                // It was closed before it could be accepted, which is its own affair.
                gone if gone == -libc::ECONNABORTED => {}
                error => return Some(error),
            }
        }
        self.revisit(fd);
        None
    }
}
