//! Several buffers as the data of one request.

use crate::irp::RawSegment;

/// Buffers whose bytes go out, or come in, one after the other: what a vectored request carries.
///
/// **Invariant.** `array` describes the memory of `buffers`, taken after they reached the heap
/// block in which they stay; neither changes until [`Vectored::into_inner`].
pub struct Vectored<B> {
    buffers: Vec<B>,
    array: Box<[RawSegment]>,
}

// SAFETY: the pointers in `array` name memory that `buffers` owns.
unsafe impl<B: Send> Send for Vectored<B> {}

impl<B> Vectored<B> {
    pub(crate) fn new(
        mut buffers: Vec<B>,
        segment: impl FnMut(&mut B) -> RawSegment,
    ) -> Vectored<B> {
        let array = buffers.iter_mut().map(segment).collect();
        Vectored { buffers, array }
    }

    pub(crate) fn array(&mut self) -> (*mut u8, u32) {
        (self.array.as_mut_ptr().cast(), self.array.len() as u32)
    }

    /// The buffers again.
    pub fn into_inner(self) -> Vec<B> {
        self.buffers
    }
}
