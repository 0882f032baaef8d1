//! What is kept for each open file: the volume, once it is unlocked, which the first request does that
//! needs it, while the others wait.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};

use overlapped_iomgr::Status;
use overlapped_iomgr::buf::{AlignedBuf, IoBufMut};
use overlapped_iomgr::filter::Next;
use zeroize::Zeroizing;

use super::apart::spawn;
use super::error::LuksError;
use super::header::{Header, check_place};
use super::volume::Volume;
use super::{key, luks2};
use crate::class::Read;

/// What direct I/O wants offsets, lengths and memory to be multiples of, in bytes.
pub(super) const BLOCK: usize = 4096;

/// What [`Luks`](super::Luks) keeps for each open file: the volume, once it is unlocked.
#[derive(Default)]
pub struct Open(Arc<Shared>);

#[derive(Default)]
struct Shared {
    volume: OnceLock<Volume>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Somebody is at it: a request that reads the header, or the thread.
    busy: bool,
    /// It came to nothing, and would again.
    refused: Option<Status>,
    waiting: Vec<Waker>,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Being at it. Dropped, somebody else may be.
struct Busy(Arc<Shared>);

impl Drop for Busy {
    fn drop(&mut self) {
        let waiting = {
            let mut progress = self.0.progress();
            progress.busy = false;
            std::mem::take(&mut progress.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Open {
    /// The volume, if it is unlocked.
    #[inline]
    pub(super) fn unlocked(&self) -> Option<&Volume> {
        self.0.volume.get()
    }

    /// The volume. Cancelled with its request; the thread then goes on for the others.
    pub(super) async fn unlock(
        &self,
        secret: &Arc<Zeroizing<Vec<u8>>>,
        next: Next<'_>,
    ) -> Result<&Volume, Status> {
        loop {
            if let Some(volume) = self.unlocked() {
                return Ok(volume);
            }
            if next.is_cancelled() {
                return Err(Status::CANCELLED);
            }
            let busy = {
                let mut progress = self.0.progress();
                if let Some(refused) = progress.refused {
                    return Err(refused);
                }
                (!std::mem::replace(&mut progress.busy, true)).then(|| Busy(self.0.clone()))
            };
            if let Some(busy) = busy {
                self.begin(busy, secret, next).await.inspect_err(|error| {
                    tracing::warn!("luks: {error}");
                })?;
            }
            self.change(next).await;
        }
    }

    /// Waits until nobody is at it any more, or the request is cancelled.
    async fn change(&self, next: Next<'_>) {
        poll_fn(|cx| {
            let mut progress = self.0.progress();
            if !progress.busy || next.is_cancelled() {
                return Poll::Ready(());
            }
            if !progress.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                progress.waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Reads what is needed, and has the key derived.
    async fn begin(
        &self,
        busy: Busy,
        secret: &Arc<Zeroizing<Vec<u8>>>,
        next: Next<'_>,
    ) -> Result<(), LuksError> {
        let header = header(next).await?;
        let mut areas = Vec::new();
        for (slot, _) in &header.slots {
            let len = slot.area_len().expect("checked");
            let area = read(next, slot.area, len).await?;
            if area.len() < len {
                return Err(LuksError::Damaged("a key slot's area, which the file's end cuts"));
            }
            areas.push(area);
        }
        let secret = secret.clone();
        spawn(move || {
            let shared = &busy.0;
            // The file may be closed meanwhile.
            let wanted = || Arc::strong_count(shared) > 1;
            let found = key::find(&header.slots, areas, &secret, wanted);
            match found.and_then(|key| Volume::new(&header, key)) {
                Ok(volume) => _ = shared.volume.set(volume),
                Err(error) => {
                    tracing::warn!("luks: {error}");
                    shared.progress().refused = Some(error.into());
                }
            }
        })
    }
}

/// So many bytes, or fewer where the file ends. Whole blocks are read, as direct I/O wants it.
async fn read(next: Next<'_>, at: u64, len: usize) -> Result<Vec<u8>, LuksError> {
    let all = len.next_multiple_of(BLOCK);
    let mut buffer = AlignedBuf::try_new(all, BLOCK).map_err(|_| LuksError::NoResources)?;
    let mut done = 0;
    while done < len {
        let part = buffer.slice_mut(done..);
        let (n, part) = match next.request(Read::at(part, at + done as u64)).await {
            Ok((n, part)) => (n, part),
            Err(error) => return Err(LuksError::Io(error.status())),
        };
        buffer = part.into_inner();
        if n == 0 {
            break;
        }
        done += n;
    }
    Ok(buffer[..done.min(len)].to_vec())
}

/// The header, or its second copy if the first one is damaged.
async fn header(next: Next<'_>) -> Result<Header, LuksError> {
    let first = header_at(next, 0).await;
    if !matches!(first, Err(LuksError::Damaged(_) | LuksError::NotLuks)) {
        return first;
    }
    for at in luks2::COPIES {
        if let Ok(header) = header_at(next, at).await {
            tracing::warn!("luks: the first header is damaged, and the second one good");
            return Ok(header);
        }
    }
    first
}

async fn header_at(next: Next<'_>, at: u64) -> Result<Header, LuksError> {
    let start = read(next, at, Header::START).await?;
    check_place(&start, at)?;
    let len = Header::len_of(&start)?;
    if len <= start.len() {
        return Header::parse(&start);
    }
    Header::parse(&read(next, at, len).await?)
}
