//! A log that is being written.
//!
//! An entry has its place from the moment at which what it records is over (of a flush: has begun), and
//! is written there then. **Invariant.** The super block never counts an entry of which not all, and of all
//! before it, has been written.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::future::poll_fn;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use overlapped_iomgr::buf::IoBuf;
use overlapped_iomgr::filter::{Next, RangeLock, RangeLocks};
use overlapped_iomgr::{FileHandle, FileObject, Request, Stack, Status};

use super::layout::{Flags, LogEntry, MOST_NAME, SECTOR, super_block};
use crate::bottom::{self, FileContext, FileDriver};
use crate::class::{Create, Write};

/// See the module's header.
pub(super) struct Log {
    path: PathBuf,
    file: OnceLock<FileHandle>,
    /// Of opening it, and of writing the super block: one at a time.
    turns: RangeLocks,
    state: Mutex<State>,
}

struct State {
    /// Entries that have a place.
    entries: u64,
    /// Bytes that have been given away.
    end: u64,
    /// Those that are not written yet.
    pending: BTreeSet<u64>,
    /// Of those, the ones that nobody is going to write any more, and where they are.
    orphans: Vec<(u64, u64)>,
    waiting: Vec<Waker>,
    /// An entry could not be written: what comes behind it is worth nothing.
    failed: Option<Status>,
}

/// An entry's place. Dropped before its entry is written ([`Record::mark`](super::Record::mark) may be), it
/// is left to others.
pub(super) struct Place<'a> {
    log: &'a Log,
    pub number: u64,
    at: u64,
    data: u64,
    written: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.written {
            return;
        }
        {
            let mut state = self.log.state();
            if self.data == 0 {
                state.orphans.push((self.number, self.at));
            } else {
                // Never: a filter's function runs to its end.
                _ = state.failed.get_or_insert(Status::DRIVER_INTERNAL_ERROR);
            }
        }
        self.log.wake();
    }
}

impl Log {
    pub(super) fn new(path: PathBuf) -> Log {
        let state = State {
            entries: 0,
            end: SECTOR as u64,
            pending: BTreeSet::new(),
            orphans: Vec::new(),
            waiting: Vec::new(),
            failed: None,
        };
        let (file, turns) = (OnceLock::new(), RangeLocks::default());
        Log { path, file, turns, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut self.state().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether it can be gone on with.
    pub(super) fn check(&self) -> Result<(), Status> {
        self.state().failed.map_or(Ok(()), Err)
    }

    /// Waits for its turn with the log's first sector; a request, no longer when it is cancelled. `None`:
    /// somebody who must not be stopped.
    async fn turn(&self, request: Option<Next<'_>>) -> Result<RangeLock<'_>, Status> {
        match request {
            Some(next) => self.turns.lock_for(next, 0..1, true).await,
            None => Ok(self.turns.lock(0..1, true).await),
        }
    }

    /// The log's file, which is made and emptied when it is first asked for.
    pub(super) async fn file(&self, request: Option<Next<'_>>) -> Result<&FileObject, Status> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let _turn = self.turn(request).await?;
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let path =
            CString::new(self.path.as_os_str().as_bytes()).map_err(|_| Status::NUL_IN_NAME)?;
        let stack = Stack::new([], FileDriver::shared()).map_err(|_| Status::INTERNAL_ERROR)?;
        let name = self.path.to_string_lossy();
        let file = bottom::open(stack, &name, FileContext::new(false))?;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        let create = Request::new(&file, Create { path, flags, mode: 0o666 }).await;
        create.map_err(|error| Status::from(&error))?;
        write_all(&file, super_block(0), 0).await?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Gives the next entry its place, with so many bytes of data.
    pub(super) fn reserve(&self, data: u64) -> Place<'_> {
        let mut state = self.state();
        let (number, at) = (state.entries, state.end);
        state.pending.insert(number);
        state.entries += 1;
        state.end += SECTOR as u64 + data;
        Place { log: self, number, at, data, written: false }
    }

    /// Writes an entry with its data, which are in one piece.
    pub(super) async fn put(&self, mut place: Place<'_>, bytes: Vec<u8>) -> Result<(), Status> {
        // Its place is taken: to give up now would be the end of the log.
        let written = match self.file(None).await {
            Ok(file) => write_all(file, bytes, place.at).await,
            Err(status) => Err(status),
        };
        place.written = true;
        {
            let mut state = self.state();
            match written {
                Ok(()) => _ = state.pending.remove(&place.number),
                Err(status) => _ = state.failed.get_or_insert(status),
            }
        }
        self.wake();
        written
    }

    /// Writes what others have left, as entries that say nothing.
    async fn fill(&self) -> Result<(), Status> {
        loop {
            let orphan = self.state().orphans.pop();
            let Some((number, at)) = orphan else { return Ok(()) };
            let entry = LogEntry { number, offset: 0, len: 0, flags: Flags::NONE, name: None };
            let place = Place { log: self, number, at, data: 0, written: false };
            self.put(place, entry.sector()).await?;
        }
    }

    /// How many entries are written, without a gap.
    fn written(state: &State) -> u64 {
        state.pending.first().copied().unwrap_or(state.entries)
    }

    /// Waits until so many entries are written, and has the super block say so.
    pub(super) async fn settle(
        &self,
        request: Option<Next<'_>>,
        entries: u64,
    ) -> Result<(), Status> {
        while !self.has_written(request, entries).await? {
            self.fill().await?;
        }
        let file = self.file(request).await?;
        let _turn = self.turn(request).await?;
        let entries = Self::written(&self.state());
        write_all(file, super_block(entries), 0).await
    }

    /// Waits until so many entries are written; `false`: some are left to be.
    async fn has_written(&self, request: Option<Next<'_>>, entries: u64) -> Result<bool, Status> {
        poll_fn(|cx| {
            let mut state = self.state();
            if let Some(status) = state.failed {
                return Poll::Ready(Err(status));
            }
            if Self::written(&state) >= entries {
                return Poll::Ready(Ok(true));
            }
            if !state.orphans.is_empty() {
                return Poll::Ready(Ok(false));
            }
            if request.is_some_and(|next| next.is_cancelled()) {
                return Poll::Ready(Err(Status::CANCELLED));
            }
            state.waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Has the super block say all that is written.
    pub(super) async fn finish(&self) -> Result<(), Status> {
        self.settle(None, 0).await
    }

    /// Puts a name at this point of the log.
    pub(super) async fn mark(&self, name: &str) -> Result<(), Status> {
        if name.len() > MOST_NAME {
            return Err(Status::INVALID_PARAMETER);
        }
        self.check()?;
        let place = self.reserve(0);
        let (flags, name) = (Flags::MARK, Some(name.to_owned()));
        let entry = LogEntry { number: place.number, offset: 0, len: 0, flags, name };
        let number = place.number;
        self.put(place, entry.sector()).await?;
        self.settle(None, number + 1).await
    }
}

/// Writes all of a buffer.
pub(super) async fn write_all(file: &FileObject, bytes: Vec<u8>, at: u64) -> Result<(), Status> {
    let (mut bytes, mut done) = (bytes, 0);
    while done < bytes.len() {
        match Request::new(file, Write::at(bytes.slice(done..), at + done as u64)).await {
            Ok((0, _)) => return Err(Status::UNEXPECTED_IO_ERROR),
            Ok((n, part)) => {
                done += n;
                bytes = part.into_inner();
            }
            Err(error) => return Err(error.status()),
        }
    }
    Ok(())
}
