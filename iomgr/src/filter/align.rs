//! What keeps requests within a driver's limits: put into a stack, right above the driver that sets
//! them, by the I/O manager.
//!
//! Requests that are within the limits are forwarded as they are. Others are split, widened to whole
//! blocks, and copied into one piece. **Invariant:** a write that begins or ends inside a block has
//! its blocks to itself from before it reads them until they are written; whatever else changes bytes
//! shares them with none such. So neighbouring bytes are never put back to what they were. (Requests on a
//! stack that this one has replaced know nothing of it: `settling.rs`.)

use std::ops::Range;
use std::sync::Arc;

use super::own::{ReadPart, WritePart};
use super::selective::{Selective, Selects};
use super::{Filter, Io, Next, RangeLocks};
use crate::buf::AlignedBuf;
use crate::driver::{Class, Driver};
use crate::irp::View;
use crate::limits::{Group, Limits};
use crate::major::{Major, MajorSet, minor};
use crate::serial::CURRENT;
use crate::status::Status;

/// See the module's header.
pub(crate) struct Align {
    limits: Limits,
}

/// A message is longer than may be (`EMSGSIZE`).
const MESSAGE_SIZE: i32 = 90;

/// All bytes of a file, and all of a stream.
const ALL: Range<u64> = 0..u64::MAX;

/// How memory for whole blocks is aligned: as direct I/O wants it.
const MEMORY: usize = 4096;

/// The most that is copied at once.
const BOUNCE: u64 = 1 << 20;

impl Align {
    /// For a driver with these limits.
    pub(crate) fn driver(limits: Limits) -> Arc<dyn Driver> {
        Selective::driver(Align { limits })
    }

    fn block(&self) -> u64 {
        u64::from(self.limits.block)
    }

    /// What has no offsets has no blocks, only a number of bytes and of pieces; and what is appended
    /// where there are no blocks is as the next bytes of a stream.
    fn is_stream(&self, io: &View) -> bool {
        io.offset() == CURRENT && (self.block() == 1 || !io.file().is_seekable())
    }

    fn fits(&self, io: &View) -> bool {
        io.len() as u64 <= u64::from(self.limits.most)
            && !(self.limits.one_piece && io.minor() == minor::VECTORED)
    }

    fn is_within(&self, io: &View) -> bool {
        let whole = |n: u64| n.is_multiple_of(self.block());
        self.fits(io) && (self.is_stream(io) || whole(io.offset()) && whole(io.len() as u64))
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
        let (len, block) = ((range.end - range.start) as usize, self.limits.block as usize);
        let mut done = 0;
        while done < len {
            // From the last whole block on: the driver takes no other offsets.
            let begin = done / block * block;
            let part = ReadPart::new(buffer, begin..len, range.start + begin as u64);
            let (result, back) = next.request(part).await;
            buffer = back;
            let reached = begin + result?;
            if reached <= done {
                break;
            }
            done = reached;
        }
        // A part of a block that does not grow is the file's end, if nothing is behind it.
        if !done.is_multiple_of(block) {
            let behind = range.start + done.next_multiple_of(block) as u64;
            let part = ReadPart::new(AlignedBuf::new(block, MEMORY), 0..block, behind);
            if next.request(part).await.0? > 0 {
                return Err(Status::UNEXPECTED_IO_ERROR);
            }
        }
        Ok((done, buffer))
    }

    /// A receive of a stream or a message that is too long, or in too many pieces.
    async fn receive(&self, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let (at, most) = (io.offset(), self.limits.most);
        if io.minor() != minor::VECTORED {
            return next.forward(&mut io).at(at, most).await;
        }
        let len = io.len().min(most as usize).min(BOUNCE as usize);
        let buffer = AlignedBuf::new(len, MEMORY);
        let (result, buffer) = next.forward(&mut io).into(buffer).await;
        // Of a message that is cut the buffer is full.
        let n = if result == Err(Status::BUFFER_OVERFLOW) { len } else { result? };
        io.put(0, &buffer[..n]);
        result
    }

    /// Sends the next bytes of a stream, or a message.
    async fn send(
        &self,
        locks: &RangeLocks,
        next: Next<'_>,
        mut io: Io<'_>,
    ) -> Result<usize, Status> {
        let (len, most) = (io.len(), (self.limits.most as usize).min(BOUNCE as usize));
        let is_message = io.file().has_messages();
        if is_message && len > self.limits.most as usize {
            return Err(Status::from_errno(MESSAGE_SIZE));
        }
        // What is not to wait is not to wait for its turn either, and may come short.
        let now = io.minor() == minor::NOW;
        let _turn = match now || is_message {
            true => None,
            false => Some(locks.lock_for(next, ALL, !self.is_within(&io)).await?),
        };
        if self.is_within(&io) {
            return next.forward(&mut io).await;
        }
        // What goes with the data goes with its first bytes, once.
        let once = now || io.has_companion();
        let mut done = 0;
        while done < len {
            let n = if is_message { len } else { most.min(len - done) };
            let mut part = AlignedBuf::new(n, MEMORY);
            io.copy_out(done, &mut part);
            match next.forward(&mut io).from(part).await.0 {
                Ok(sent) if sent == n && !once => done += sent,
                Ok(sent) => return Ok(done + sent),
                Err(status) if done == 0 => return Err(status),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

impl Selects for Align {
    fn concerns(&self, request: &View) -> bool {
        match request.major() {
            Major::Read | Major::ReceiveFrom => !self.is_within(request),
            Major::SetInformation => request.minor() == minor::NONE,
            // What changes bytes has its turn among others, whether it fits or not.
            _ => true,
        }
    }
}

impl Filter for Align {
    type Open = RangeLocks;

    fn name(&self) -> &str {
        "align"
    }

    fn hooks(&self) -> MajorSet {
        use Major::{FileSystemControl, Read, ReceiveFrom, SendTo, SetInformation, Write};
        if self.block() == 1 {
            MajorSet::of(&[Read, Write, SendTo, ReceiveFrom])
        } else {
            MajorSet::of(&[Read, Write, SendTo, ReceiveFrom, SetInformation, FileSystemControl])
        }
    }

    fn class(&self) -> Class {
        Class::Observe
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Align)
    }

    async fn read(&self, _: &RangeLocks, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if self.is_stream(&io) {
            return self.receive(next, io).await;
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
        if self.is_stream(&io) {
            return self.send(locks, next, io).await;
        }
        // Where a file's end is, and whether a block begins there, is not known before it is written.
        if self.block() > 1 && (io.offset() == CURRENT || io.file().appends()) {
            return Err(Status::NOT_SUPPORTED);
        }
        let (at, len) = (io.offset(), io.len() as u64);
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

    /// Messages with addresses, and what else changes bytes of a file.
    async fn other(
        &self,
        locks: &RangeLocks,
        next: Next<'_>,
        mut io: Io<'_>,
    ) -> Result<usize, Status> {
        let range = match (io.major(), io.minor()) {
            (Major::ReceiveFrom, _) => return self.receive(next, io).await,
            (Major::SendTo, _) => return self.send(locks, next, io).await,
            (Major::SetInformation, _) => io.arg()..u64::MAX,
            (_, minor::ZERO_DATA | minor::ZERO_RANGE) => {
                io.offset()..io.offset().saturating_add(io.arg())
            }
            _ => ALL,
        };
        let _lock = locks.lock_for(next, range, false).await?;
        next.forward(&mut io).await
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
        let head = part.start..part.start + self.block();
        let tail = part.end - self.block()..part.end;
        // They may be the same.
        for block in [Some(head.clone()), (head != tail).then_some(tail)].into_iter().flatten() {
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
        next.request(WritePart::new(buffer, 0..len, part.start)).await.0
    }
}
