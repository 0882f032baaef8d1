//! The bare ring of the contestants and of the load generator.

use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, squeue};

/// A completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// The user data of the entry.
    pub data: u64,
    /// What the operation returned.
    pub result: i32,
    /// The flags of `io_uring::cqueue`.
    pub flags: u32,
}

/// A ring with the flags that a loop of one thread wants, entered by its registered descriptor.
///
/// It lives as long as the process: what the kernel may still write to is never freed under it.
pub struct Ring {
    submitter: Submitter<'static>,
    entries: SubmissionQueue<'static>,
    completions: CompletionQueue<'static>,
}

impl Ring {
    /// A ring with that many entries, and eight times as many completions.
    ///
    /// # Errors
    /// Those of `io_uring_setup` and of the registration.
    pub fn new(entries: u32) -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_no_sqarray();
        builder.setup_clamp().setup_cqsize(entries.saturating_mul(8));
        let ring: &'static mut IoUring = Box::leak(Box::new(builder.build(entries)?));
        let (mut submitter, entries, completions) = ring.split();
        submitter.register_ring_fd()?;
        Ok(Ring { submitter, entries, completions })
    }

    /// For registrations.
    pub fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// Queues an entry, submitting when the queue is full.
    ///
    /// # Safety
    /// The memory that the entry names stays valid until its completion.
    ///
    /// # Errors
    /// Those of `io_uring_enter`.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        while unsafe { self.entries.push(entry) }.is_err() {
            self.entries.sync();
            self.submitter.submit()?;
            self.entries.sync();
        }
        Ok(())
    }

    /// Submits, waits for one completion if `wait`, and replaces `batch` by all there are.
    ///
    /// # Errors
    /// Those of `io_uring_enter`.
    pub fn turn(&mut self, wait: bool, batch: &mut Vec<Done>) -> io::Result<()> {
        self.entries.sync();
        let result = if wait {
            self.submitter.submit_and_wait(1)
        } else {
            // Asking for completions runs the deferred work; a wait of no time does not sleep.
            let now = Timespec::new();
            self.submitter.submit_with_args(1, &SubmitArgs::new().timespec(&now))
        };
        match result {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        self.entries.sync();
        self.completions.sync();
        batch.clear();
        batch.extend(self.completions.by_ref().map(|c| Done {
            data: c.user_data(),
            result: c.result(),
            flags: c.flags(),
        }));
        self.completions.sync();
        Ok(())
    }
}

/// Interrupted, out of time, or completions first: the next turn goes on.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN))
}
