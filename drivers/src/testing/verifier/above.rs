//! The verifier's upper driver: lends guarded memory, and looks at what has become of it.

use std::collections::HashMap;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{FileObject, MajorSet, Status, minor};

use super::guarded::{Returned, guarded};
use super::{Misdeed, Shared};
use crate::testing::Record;

pub(super) struct Above {
    pub(super) shared: Arc<Shared>,
    /// Names.
    pub(super) tested: Arc<str>,
}

/// The bugs of a file's devices that are in the book already, by the devices' addresses.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<usize, u64>>);

impl Above {
    fn found(&self, request: &Record, misdeed: Misdeed) {
        self.shared.found(&self.tested, request.clone(), misdeed);
    }

    /// Looks at the result of a request; the information that may go up.
    fn result(
        &self,
        known: &Known,
        file: &FileObject,
        request: &Record,
        result: Result<usize, Status>,
    ) -> Result<usize, Status> {
        self.blame(known, file, request);
        match result {
            Ok(reported) if request.is_data() && reported > request.len => {
                self.found(request, Misdeed::TooLong { reported });
                Ok(request.len)
            }
            result => result,
        }
    }

    /// Finds the devices that the I/O manager has ended a request for, whatever has become of that higher up.
    fn blame(&self, known: &Known, file: &FileObject, request: &Record) {
        let mut known = known.0.lock().unwrap_or_else(PoisonError::into_inner);
        for device in file.stack().devices() {
            let before = known.entry(ptr::from_ref(device).addr()).or_default();
            if device.bugs() > *before {
                *before = device.bugs();
                let faulted = device.is_faulted();
                let misdeed = if faulted { Misdeed::Panicked } else { Misdeed::Dropped };
                self.shared.found(device.name(), request.clone(), misdeed);
            }
        }
    }

    /// A request that keeps its own memory.
    async fn pass(&self, known: &Known, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let request = Record::of(&io);
        let number = self.shared.begin(&self.tested, request.clone());
        let result = next.forward(&mut io).await;
        self.shared.end(number);
        let request = request.ended(result);
        self.result(known, io.file(), &request, result)
    }

    /// What is checked of memory that has come back.
    fn ended(&self, request: &Record, memory: Returned) {
        if memory.is_overrun() {
            self.found(request, Misdeed::Overrun);
        }
        self.shared.keep(&self.tested, request.clone(), memory.poisoned());
    }
}

impl Filter for Above {
    type Open = Known;

    fn name(&self) -> &str {
        "verifier"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::ALL
    }

    async fn read(&self, known: &Known, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if matches!(io.minor(), minor::VECTORED | minor::POOLED) || io.is_empty() {
            return self.pass(known, next, io).await;
        }
        let request = Record::of(&io);
        let number = self.shared.begin(&self.tested, request.clone());
        let lent = guarded(&vec![0; request.len]);
        let (result, lent) = next.forward(&mut io).into(lent).await;
        self.shared.end(number);
        let request = request.ended(result);
        let result = self.result(known, io.file(), &request, result);
        let memory = Returned::new(lent);
        match result {
            Ok(n) => _ = io.put(0, &memory.data()[..n]),
            // A warning comes with data; how much of it, the I/O manager knows.
            Err(status) if !status.is_error() => _ = io.put(0, memory.data()),
            Err(_) => {}
        }
        self.ended(&request, memory);
        result
    }

    async fn write(&self, known: &Known, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if io.minor() == minor::VECTORED || io.has_companion() || io.is_empty() {
            return self.pass(known, next, io).await;
        }
        let request = Record::of(&io);
        let number = self.shared.begin(&self.tested, request.clone());
        let (result, lent) = next.forward(&mut io).from(guarded(&request.data)).await;
        self.shared.end(number);
        let request = request.ended(result);
        let result = self.result(known, io.file(), &request, result);
        let memory = Returned::new(lent);
        if memory.data() != request.data {
            self.found(&request, Misdeed::ChangedWrite);
        }
        self.ended(&request, memory);
        result
    }

    async fn flush(&self, known: &Known, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(known, next, io).await
    }

    async fn other(&self, known: &Known, next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(known, next, io).await
    }
}
