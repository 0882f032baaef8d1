//! Every live request can be listed, at any time, from any thread (T-122a).
//!
//! Each processor lists its own, on its own thread, in its next turn; one that does not answer in
//! time is itself the finding: its thread is busy with something else.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::counters::{IrpCounts, MajorCounts};
use crate::file::FileObject;
use crate::irp::slot::{Phase, Route, SlotPtr, flags};
use crate::major::Major;
use crate::panics::caught;
use crate::processor::{Core, Remote};

/// One request in flight, or finished and not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveRequest {
    /// The processor that owns it.
    pub processor: u32,
    /// The operation.
    pub major: Major,
    /// The file object's id.
    pub file: u64,
    /// What the file object is ([`Driver::describe`](crate::Driver::describe)): a path, the addresses of
    /// a socket.
    pub file_name: String,
    /// The driver that has it now, and its place in the stack (0 is the top of the route).
    pub driver: String,
    /// Where it is: `"dispatching"`, `"hardware"`, `"held"`, `"unwinding"`, `"complete"`.
    pub state: &'static str,
    /// How it will report: `"future"`, `"port"`, `"apc"`, `"block"`, `"wait"`, `"parent"`, `"none"`.
    pub route: &'static str,
    /// Cancel has been requested.
    pub cancelled: bool,
    /// Time since it was issued, to the length of a turn.
    pub age: Duration,
}

/// What the processors answered.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Census {
    /// The live requests of the processors that answered.
    pub requests: Vec<LiveRequest>,
    /// Names of the threads whose processors did not answer in time: they are busy in a task, a
    /// driver or a blocking call.
    pub silent: Vec<String>,
    /// Finished requests, by major.
    pub counts: MajorCounts,
    /// IRPs, by size class (I-5).
    pub irps: IrpCounts,
}

/// # Safety
/// Owner's thread; the slot is live.
unsafe fn route_name(slot: SlotPtr) -> &'static str {
    // SAFETY: the caller's; what a future's requester may be writing is not looked at.
    unsafe {
        if (*slot.0.as_ptr()).flags.has(flags::FUTURE) {
            return "future";
        }
        match (*slot.0.as_ptr()).route {
            Route::None | Route::Future(_) => "none",
            Route::Port(..) | Route::Associated { .. } | Route::Packet(..) => "port",
            Route::Apc(_) => "apc",
            Route::Block => "block",
            Route::Wait => "wait",
            Route::Parent(_) => "parent",
        }
    }
}

/// What a file object is, in its bottom driver's words.
fn describe(file: &FileObject) -> String {
    // SAFETY: on the thread of a processor that is busy.
    let bottom = unsafe { file.stack_here() }.bottom();
    caught(|| bottom.driver().describe(file)).unwrap_or_else(|| {
        bottom.report_bug("a driver panicked", true);
        file.name().to_owned()
    })
}

pub(crate) fn list(core: &Core) -> Vec<LiveRequest> {
    core.live_slots()
        .into_iter()
        .filter_map(|slot| {
            // SAFETY: owner's thread; live slots with a file are in flight or unread, and either
            // way count on their file, which keeps stack and devices.
            unsafe {
                let header = slot.0.as_ptr();
                let file = (*header).file?.as_ref();
                Some(LiveRequest {
                    processor: core.remote().id(),
                    major: (*header).major,
                    file: file.id(),
                    file_name: describe(file),
                    driver: slot.device().name().to_owned(),
                    state: (*header).phase.name(),
                    route: route_name(slot),
                    cancelled: (*header).flags.has(flags::CANCEL),
                    age: Duration::from_millis(core.now().saturating_sub((*header).issued)),
                })
            }
        })
        .collect()
}

/// Those that the hardware or a driver has.
pub(crate) fn list_unfinished(core: &Core) -> Vec<LiveRequest> {
    let mut requests = list(core);
    requests.retain(|request| request.state != Phase::Final.name());
    requests
}

/// Lists the live requests of every processor of the process, waiting at most `patience` for those
/// of other threads. Where plain threads do I/O there may be requests of the runtime's own among them,
/// with the driver `watch`: the keeper's, which looks after those threads' processors.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// let census = overlapped::live_requests(std::time::Duration::from_millis(100));
/// assert!(census.requests.is_empty());
/// ```
pub fn live_requests(patience: Duration) -> Census {
    let (answers, silent) =
        ask(patience, |core| (list(core), core.counters().snapshot(), core.irp_counts()));
    let mut census = Census { silent, ..Census::default() };
    for (requests, counts, irps) in answers {
        census.requests.extend(requests);
        census.counts.add(&counts);
        census.irps.add(&irps);
    }
    census
}

/// When somebody's patience ends, if it does in this century.
pub(crate) fn end_of(patience: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    Instant::now() + patience.min(CENTURY)
}

/// Asks every processor, each on its own thread, and waits at most `patience` for those of other
/// threads. The answers, and the threads that gave none.
pub(crate) fn ask<T: Send + 'static>(
    patience: Duration,
    look: fn(&Core) -> T,
) -> (Vec<T>, Vec<String>) {
    let end = end_of(patience);
    let (mut answers, mut silent, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    for remote in Remote::all() {
        if remote.is_current() {
            answers.extend(Core::with_current(look));
            continue;
        }
        let (send, receive) = mpsc::sync_channel(1);
        let answer = move |core: &Core| {
            // The asker may have lost its patience.
            let _ = send.try_send(look(core));
        };
        if remote.run(Box::new(answer)).is_ok() {
            waiting.push((remote, receive));
        }
    }
    for (remote, receive) in waiting {
        let left = end.saturating_duration_since(Instant::now());
        match receive.recv_timeout(left) {
            Ok(answer) => answers.push(answer),
            Err(_) => silent.push(remote.thread().to_owned()),
        }
    }
    (answers, silent)
}
