//! Operations on descriptors that count (eventfd, timerfd), and on readiness.

use std::io;

use overlapped_iomgr::{Done, Major, Operation, Setup, Status};

/// Takes a counter's value, when it is not zero.
#[derive(Debug)]
pub struct TakeCount;

impl Operation for TakeCount {
    type Output = io::Result<u64>;

    fn major(&self) -> Major {
        Major::Read
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(u64::MAX).data_in(Box::new([0u8; 8]));
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0)?;
        if done.filled() < 8 {
            // No counter gives less.
            return Err(Status::END_OF_FILE.into());
        }
        Ok(u64::from_ne_bytes(*done.take::<Box<[u8; 8]>>()))
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Adds to a counter.
#[derive(Debug)]
pub struct AddCount(pub u64);

impl Operation for AddCount {
    type Output = io::Result<()>;

    fn major(&self) -> Major {
        Major::Write
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.offset(u64::MAX).data_out(Box::new(self.0.to_ne_bytes()));
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        done.status().result(0).map(drop)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}

/// Waits once until a descriptor is ready for any of the events; yields what it is ready for.
#[derive(Debug)]
pub struct PollEvents(
    /// `POLL*` bits.
    pub u32,
);

impl Operation for PollEvents {
    type Output = io::Result<u32>;

    fn major(&self) -> Major {
        Major::Poll
    }
    fn prepare(self, setup: &mut Setup<'_>) {
        setup.arg(u64::from(self.0));
    }
    fn finish(done: &mut Done<'_>) -> Self::Output {
        Ok(done.status().result(done.info())? as u32)
    }
    fn refuse(self, status: Status) -> Self::Output {
        Err(status.into())
    }
}
