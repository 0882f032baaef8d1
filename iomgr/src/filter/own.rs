//! Requests that the I/O manager makes below itself: parts of buffers read and written, and flushes.

use std::ops::Range;

use crate::buf::{AlignedBuf, IoBuf, IoBufMut, Slice};
use crate::major::{Major, minor};
use crate::request::{Done, Operation, Setup};
use crate::status::Status;

/// A part of a buffer, and where it is in the file.
struct Part {
    buffer: AlignedBuf,
    range: Range<usize>,
    offset: u64,
}

/// Reads into a part of a buffer.
pub(super) struct ReadPart(Part);

/// Writes a part of a buffer.
pub(super) struct WritePart(Part);

/// Brings what has been written to the medium: the data, and what is needed to read it back.
pub(super) struct FlushData;

impl ReadPart {
    /// From the byte `offset` of the file on.
    pub(super) fn new(buffer: AlignedBuf, range: Range<usize>, offset: u64) -> ReadPart {
        ReadPart(Part { buffer, range, offset })
    }
}

impl WritePart {
    /// From the byte `offset` of the file on.
    pub(super) fn new(buffer: AlignedBuf, range: Range<usize>, offset: u64) -> WritePart {
        WritePart(Part { buffer, range, offset })
    }
}

type Back = (Result<usize, Status>, AlignedBuf);

/// What became of a request, of which so many bytes have come: its failure, if it is one.
pub(super) fn result(done: &Done<'_>, n: usize) -> Result<usize, Status> {
    let status = done.status();
    if status.is_error() { Err(status) } else { Ok(n) }
}

fn back(done: &mut Done<'_>, n: usize) -> Back {
    let buffer = done.take::<Slice<AlignedBuf>>().into_inner();
    (result(done, n), buffer)
}

impl Operation for ReadPart {
    type Output = Back;
    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.0.offset).data_in(self.0.buffer.slice_mut(self.0.range));
    }
    fn finish(done: &mut Done<'_>) -> Back {
        let n = done.filled();
        back(done, n)
    }
    fn refuse(self, status: Status) -> Back {
        (Err(status), self.0.buffer)
    }
}

impl Operation for WritePart {
    type Output = Back;
    fn major(&self) -> Major {
        Major::Write
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(self.0.offset).data_out(self.0.buffer.slice(self.0.range));
    }
    fn finish(done: &mut Done<'_>) -> Back {
        let n = done.info();
        back(done, n)
    }
    fn refuse(self, status: Status) -> Back {
        (Err(status), self.0.buffer)
    }
}

impl Operation for FlushData {
    type Output = Result<usize, Status>;
    fn major(&self) -> Major {
        Major::Flush
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.minor(minor::DATA_ONLY);
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        result(done, done.info())
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status)
    }
}
