//! The pool of buffers for receives that bring none.
//!
//! **Invariant.** A buffer is in `home`, in one lease, or on the pool's list of those that have come
//! back. Only one that was in `home` is filled and leased.

use overlapped_iomgr::buf::{BufferPool, Lease};

/// Buffers for pooled receives: few and small, so that they run out.
const BUFFERS: u16 = 64;
pub(super) const BUFFER: u32 = 2048;

/// The processor's receive buffers.
pub(super) struct Buffers {
    pool: BufferPool,
    home: Vec<u16>,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        let pool = BufferPool::new(BUFFERS, BUFFER).expect("as much memory as a few pages");
        Buffers { pool, home: (0..BUFFERS).collect() }
    }

    pub(super) fn take(&mut self) -> Option<u16> {
        while let Some(id) = self.pool.pop_returned() {
            self.home.push(id);
        }
        self.home.pop()
    }

    /// Takes a buffer out that was taken, filled.
    pub(super) fn lease(&mut self, id: u16, bytes: &[u8]) -> Lease {
        assert!(bytes.len() <= BUFFER as usize);
        // SAFETY: the buffer is at home, so nobody else's, and large enough.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pool.address(id), bytes.len());
            self.pool.lease(id, bytes.len() as u32)
        }
    }

    /// One that was taken is not needed.
    pub(super) fn give_back(&mut self, id: u16) {
        self.home.push(id);
    }

    /// How many readers have.
    pub(super) fn lent(&mut self) -> usize {
        let one = self.take();
        self.home.extend(one);
        usize::from(BUFFERS) - self.home.len()
    }
}
