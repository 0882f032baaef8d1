//! What does in a driver's place what that cannot: put into a stack, right above it, by the I/O manager.
//!
//! Zeroes are written, so that they go through the driver as any data does. A write that is to be durable
//! is followed by a flush.

use std::sync::Arc;

use super::own::{FlushData, ReadPart, WritePart};
use super::selective::{Selective, Selects};
use super::{Filter, Io, Next};
use crate::buf::AlignedBuf;
use crate::driver::Driver;
use crate::irp::View;
use crate::limits::Capabilities;
use crate::major::{Major, MajorSet, minor};
use crate::status::Status;

/// See the module's header.
pub(crate) struct Emulate {
    lacks: Capabilities,
}

/// Bytes that are zeroed at once, and how their memory is aligned.
const PIECE: u64 = 256 << 10;
const MEMORY: usize = 4096;

impl Emulate {
    /// For a driver that lacks these.
    pub(crate) fn driver(lacks: Capabilities) -> Arc<dyn Driver> {
        Selective::driver(Emulate { lacks })
    }
}

impl Selects for Emulate {
    fn concerns(&self, request: &View) -> bool {
        match request.major() {
            Major::Write => request.is_write_through(),
            _ => request.minor() == minor::ZERO_RANGE,
        }
    }
}

impl Filter for Emulate {
    type Open = ();

    fn name(&self) -> &str {
        "emulate"
    }

    fn hooks(&self) -> MajorSet {
        let (write, zero) = (Major::Write, Major::FileSystemControl);
        match (self.lacks.has(Capabilities::WRITE_THROUGH), self.lacks.has(Capabilities::ZERO)) {
            (true, true) => MajorSet::of(&[write, zero]),
            (true, false) => MajorSet::of(&[write]),
            _ => MajorSet::of(&[zero]),
        }
    }

    async fn write(&self, (): &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let n = next.forward(&mut io).await?;
        next.request(FlushData).await?;
        Ok(n)
    }

    /// Zeroes. What lies behind the file's end stays so, and what is zero already is not written: a hole
    /// stays one.
    async fn other(&self, (): &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        let mut at = io.offset();
        if io.arg() == 0 {
            return Err(Status::INVALID_PARAMETER);
        }
        let end = at.checked_add(io.arg()).ok_or(Status::OFFSET_OVERFLOW)?;
        while at < end {
            // Pieces end where a block may.
            let len = (end - at).min(PIECE - at % PIECE) as usize;
            let (read, mut buffer) =
                next.request(ReadPart::new(AlignedBuf::new(len, MEMORY), 0..len, at)).await;
            let n = read?;
            if n == 0 {
                break;
            }
            if buffer[..n].iter().any(|byte| *byte != 0) {
                buffer[..n].fill(0);
                let mut done = 0;
                while done < n {
                    let part = WritePart::new(buffer, done..n, at + done as u64);
                    let (written, back) = next.request(part).await;
                    buffer = back;
                    match written? {
                        0 => return Err(Status::UNEXPECTED_IO_ERROR),
                        written => done += written,
                    }
                }
            }
            at += n as u64;
        }
        Ok(0)
    }
}
