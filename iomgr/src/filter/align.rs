//! What keeps requests within a driver's limits: put into a stack, right above the driver that sets
//! them, by the I/O manager.
//!
//! Requests that are within the limits are forwarded as they are. Others are split, widened to whole
//! blocks, and copied into one piece. **Invariant:** a write that begins or ends inside a block has
//! its blocks to itself from before it reads them until they are written; every other write shares its
//! blocks with none such. So neighbouring bytes are never put back to what they were.

use std::ops::Range;

use super::{Filter, Io, Next, RangeLocks};
use crate::buf::AlignedBuf;
use crate::driver::Class;
use crate::limits::{Group, Limits};
use crate::major::{Major, MajorSet, minor};
use crate::request::{Done, Operation, Setup};
use crate::serial::CURRENT;
use crate::status::Status;

/// See the module's header.
pub(crate) struct Align {
    limits: Limits,
}

/// How memory for whole blocks is aligned: as direct I/O wants it.
const MEMORY: usize = 4096;

/// The most that is copied at once.
const BOUNCE: u64 = 1 << 20;

impl Align {
    /// For a driver with these limits.
    pub(crate) fn new(limits: Limits) -> Align {
        Align { limits }
    }

    fn block(&self) -> u64 {
        u64::from(self.limits.block)
    }

    fn is_within(&self, io: &Io<'_>) -> bool {
        let (at, len) = (io.offset(), io.len() as u64);
        // What has no offsets has no blocks.
        if at == CURRENT && !io.file().is_seekable() {
            return true;
        }
        at.is_multiple_of(self.block())
            && len.is_multiple_of(self.block())
            && len <= u64::from(self.limits.most)
            && !(self.limits.one_piece && io.minor() == minor::VECTORED)
    }

    /// The whole blocks around a range; `None`: beyond what can be.
    fn widened(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let end = range.end.checked_next_multiple_of(self.block())?;
        Some(range.start / self.block() * self.block()..end)
    }

    /// The most bytes of one request below.
    fn piece(&self) -> u64 {
        let most = u64::from(self.limits.most) / self.block() * self.block();
        (BOUNCE / self.block() * self.block()).min(most).max(self.block())
    }

    /// Reads `range`, of whole blocks, into the buffer's start. Fewer bytes: the file ends there.
    async fn fill(
        &self,
        next: Next<'_>,
        mut buffer: AlignedBuf,
        range: Range<u64>,
    ) -> Result<(usize, AlignedBuf), Status> {
        let len = (range.end - range.start) as usize;
        let mut done = 0;
        while done < len {
            let part = Part { buffer, range: done..len, offset: range.start + done as u64 };
            let (result, back) = next.request(ReadPart(part)).await;
            buffer = back;
            match result? {
                0 => break,
                n => done += n,
            }
            if !(done as u64).is_multiple_of(self.block()) {
                break;
            }
        }
        Ok((done, buffer))
    }
}

impl Filter for Align {
    type Open = RangeLocks;

    fn name(&self) -> &str {
        "align"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }

    fn class(&self) -> Class {
        Class::Observe
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Align)
    }

    async fn read(&self, _: &RangeLocks, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if self.is_within(&io) {
            return next.forward(&mut io).await;
        }
        let (at, len) = (io.offset(), io.len() as u64);
        let end = at.checked_add(len).ok_or(Status::OFFSET_OVERFLOW)?;
        let mut done = 0;
        while at + done < end {
            let begin = at + done;
            let aligned = begin / self.block() * self.block();
            let wanted = self.widened(&(begin..end.min(aligned.saturating_add(self.piece()))));
            let wanted = wanted.ok_or(Status::OFFSET_OVERFLOW)?;
            let buffer = AlignedBuf::new((wanted.end - wanted.start) as usize, MEMORY);
            let (n, buffer) = match self.fill(next, buffer, wanted.clone()).await {
                Ok(filled) => filled,
                Err(status) if done == 0 => return Err(status),
                Err(_) => break,
            };
            let skip = (begin - wanted.start) as usize;
            let until = n.min((end - wanted.start) as usize);
            let got = buffer.get(skip..until).unwrap_or(&[]);
            io.put(done as usize, got);
            done += got.len() as u64;
            if n < (wanted.end - wanted.start) as usize {
                break;
            }
        }
        Ok(done as usize)
    }

    async fn write(
        &self,
        locks: &RangeLocks,
        next: Next<'_>,
        mut io: Io<'_>,
    ) -> Result<usize, Status> {
        let (at, len) = (io.offset(), io.len() as u64);
        if at == CURRENT {
            // Where a file's end is, and whether a block begins there, is not known before it is written.
            let may = self.is_within(&io);
            return if may { next.forward(&mut io).await } else { Err(Status::NOT_SUPPORTED) };
        }
        if len == 0 {
            return Ok(0);
        }
        let end = at.checked_add(len).ok_or(Status::OFFSET_OVERFLOW)?;
        let whole = self.widened(&(at..end)).ok_or(Status::OFFSET_OVERFLOW)?;
        let alone = whole != (at..end);
        let _lock = locks.lock_for(next, whole.clone(), alone).await?;
        if self.is_within(&io) {
            return next.forward(&mut io).await;
        }
        let mut done = 0;
        while at + done < end {
            let begin = (at + done) / self.block() * self.block();
            let part = begin..whole.end.min(begin.saturating_add(self.piece()));
            match self.write_part(next, &mut io, at, part.clone()).await {
                // What the part had beside the client's bytes is no news to the client.
                Ok(n) => {
                    let reached = (part.start + n as u64).min(end);
                    if reached <= at + done {
                        break;
                    }
                    done = reached - at;
                    if n < (part.end - part.start) as usize {
                        break;
                    }
                }
                Err(status) if done == 0 => return Err(status),
                Err(_) => break,
            }
        }
        Ok(done as usize)
    }
}

impl Align {
    /// Writes whole blocks: the client's bytes where it has any, else what is there. `at`: where the
    /// client's begin.
    async fn write_part(
        &self,
        next: Next<'_>,
        io: &mut Io<'_>,
        at: u64,
        part: Range<u64>,
    ) -> Result<usize, Status> {
        let len = (part.end - part.start) as usize;
        let mut buffer = AlignedBuf::new(len, MEMORY);
        let client = at..at + io.len() as u64;
        let (head, tail) =
            (part.start..part.start + self.block(), part.end - self.block()..part.end);
        for block in [head, tail] {
            if block.start < client.start || block.end > client.end {
                let whole = AlignedBuf::new(self.block() as usize, MEMORY);
                let (n, old) = self.fill(next, whole, block.clone()).await?;
                let start = (block.start - part.start) as usize;
                buffer[start..start + n].copy_from_slice(&old[..n]);
            }
        }
        let begin = client.start.max(part.start);
        let into = (begin - part.start) as usize;
        let upto = (client.end.min(part.end) - part.start) as usize;
        io.copy_out((begin - client.start) as usize, &mut buffer[into..upto]);
        let (result, _) =
            next.request(WritePart(Part { buffer, range: 0..len, offset: part.start })).await;
        result
    }
}

/// A part of a buffer, and where it is in the file.
struct Part {
    buffer: AlignedBuf,
    range: Range<usize>,
    offset: u64,
}

struct ReadPart(Part);
struct WritePart(Part);

type Back = (Result<usize, Status>, AlignedBuf);

fn back(done: &mut Done<'_>, n: usize) -> Back {
    let buffer = done.take::<crate::buf::Slice<AlignedBuf>>().into_inner();
    let status = done.status();
    (if status.is_error() { Err(status) } else { Ok(n) }, buffer)
}

impl Operation for ReadPart {
    type Output = Back;
    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        use crate::buf::IoBufMut;
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
        use crate::buf::IoBuf;
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
