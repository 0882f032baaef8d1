//! Serving a descriptor: those who wait for it try again, in order, until one finds it not ready.

use std::ffi::c_int;

use overlapped_iomgr::hal::Completion;

use super::EpollHal;
use super::attempt::{Tried, attempt};
use super::table::Side;
use crate::hal::pool::Job;

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
            let op = self.table.entry(index).op;
            if self.finds_nothing(fd, &op) || !self.retry_one(index) {
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
            Tried::Block => {
                self.table.remove(index);
                self.pooled += 1;
                // SAFETY: as above; its completion is handed over once it has been drained.
                unsafe { self.pool.submit(Job { token, op, reply: self.reply.clone() }) };
                return true;
            }
            Tried::Done(result) => (result, None),
            Tried::Received(lease) => (lease.len() as i32, Some(lease)),
        };
        let (fd, entry) = self.table.remove(index);
        self.note_received(fd, &op, result);
        self.restore(fd, &entry);
        self.queue.push_back(Completion { token, result, lease });
        true
    }
}
