//! Completion ports: where finished requests queue until a thread takes them (C-10 to C-32).
//!
//! A packet is the IRP itself (I-1, C-15): queueing it allocates nothing and cannot fail. Packets
//! are FIFO (C-14), and waiting threads are released last-in first-out (C-20).
//!
//! A thread that waits drives its own processor meanwhile, so that a port served by the thread
//! that issues is as fast as the bare hardware; a packet for a thread that sleeps wakes that
//! thread's processor.

use std::any::TypeId;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::buf::Payload;
use crate::hal::Wait;
use crate::irp::finish;
use crate::irp::slot::{IoStatus, Phase, Route, SlotPtr, flags};
use crate::processor::{Core, Driven, ProcessorHandle};
use crate::request::{Done, Operation};
use crate::status::Status;

enum Entry {
    /// A finished request.
    Irp(SlotPtr),
    /// A packet made by [`CompletionPort::post`].
    Posted { key: u64, value: u64, status: Status, info: usize },
}

struct Waiter {
    id: u64,
    thread: ProcessorHandle,
}

#[derive(Default)]
struct Inner {
    packets: VecDeque<Entry>,
    /// Threads that sleep in a remove, the last to come at the end.
    waiting: Vec<Waiter>,
    next_waiter: u64,
    /// Threads that sleep at `Shared::arrived`.
    sleeping: usize,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    /// For threads that can have no processor to sleep in.
    arrived: Condvar,
}

/// The port a request reports to.
#[derive(Clone)]
pub(crate) struct PortRef(Arc<Shared>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, entry: Entry) {
        let mut inner = self.lock();
        inner.packets.push_back(entry);
        // C-20: the most recently blocked thread runs, its caches are warm. It takes the packet
        // itself; if another was faster, it sleeps again.
        let waiter = inner.waiting.pop();
        let sleeping = inner.sleeping > 0;
        drop(inner);
        match waiter {
            Some(waiter) => waiter.thread.wake(),
            None if sleeping => self.arrived.notify_one(),
            None => {}
        }
    }
}

impl PortRef {
    /// # Safety
    /// The slot is `DONE`; the requester's reference goes to the port.
    pub(crate) unsafe fn insert_packet(&self, slot: SlotPtr) {
        self.0.insert(Entry::Irp(slot));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // C-30: queued packets die with the port.
        for entry in self.inner.get_mut().unwrap_or_else(PoisonError::into_inner).packets.drain(..)
        {
            if let Entry::Irp(slot) = entry {
                drop(Packet(Content::Irp(slot)));
            }
        }
    }
}

/// A completion port. See the module's header. Clones are the same port.
///
/// ```
/// use overlapped_iomgr::{CompletionPort, Status};
/// use std::time::Duration;
///
/// let port = CompletionPort::new();
/// port.post(7, 42, Status::SUCCESS, 0);
/// let packet = port.remove(Some(Duration::ZERO)).unwrap();
/// assert_eq!((packet.key(), packet.value()), (7, 42));
/// assert!(port.remove(Some(Duration::ZERO)).is_none());
/// ```
#[derive(Clone)]
pub struct CompletionPort(PortRef);

impl CompletionPort {
    /// An empty port.
    pub fn new() -> CompletionPort {
        CompletionPort(PortRef(Arc::default()))
    }

    pub(crate) fn reference(&self) -> PortRef {
        self.0.clone()
    }

    pub(crate) unsafe fn insert_packet(&self, slot: SlotPtr) {
        // SAFETY: the caller's.
        unsafe { self.0.insert_packet(slot) };
    }

    /// Packets that nobody has taken yet (C-14).
    pub fn depth(&self) -> usize {
        self.0.0.lock().packets.len()
    }

    /// Queues a packet of the caller's own: opaque values, passed through unchanged (C-14).
    pub fn post(&self, key: u64, value: u64, status: Status, info: usize) {
        self.0.0.insert(Entry::Posted { key, value, status, info });
    }

    /// Takes the oldest packet, waiting for one: at most `timeout`, or for ever. Meanwhile the
    /// thread's requests go on. `None`: the time is over (C-25).
    ///
    /// A timeout of zero polls, and is allowed everywhere. On a runtime's worker, or inside a
    /// completion routine, waiting would stop what it waits for: there a remove never waits.
    pub fn remove(&self, timeout: Option<Duration>) -> Option<Packet> {
        let mut packet = None;
        self.remove_with(timeout, |p| packet = Some(p), 1);
        packet
    }

    /// Takes up to `most` packets, oldest first, appending them to `into`; waits only for the
    /// first, like [`CompletionPort::remove`] (C-26). Returns how many it took.
    pub fn remove_many(
        &self,
        into: &mut Vec<Packet>,
        most: usize,
        timeout: Option<Duration>,
    ) -> usize {
        self.remove_with(timeout, |p| into.push(p), most)
    }

    fn take(&self, give: &mut impl FnMut(Packet), most: usize) -> usize {
        let mut inner = self.0.0.lock();
        let n = most.min(inner.packets.len());
        for entry in inner.packets.drain(..n) {
            give(Packet(match entry {
                Entry::Irp(slot) => Content::Irp(slot),
                Entry::Posted { key, value, status, info } => {
                    Content::Posted { key, value, result: IoStatus { status, info } }
                }
            }));
        }
        n
    }

    fn remove_with(
        &self,
        timeout: Option<Duration>,
        mut give: impl FnMut(Packet),
        most: usize,
    ) -> usize {
        let n = self.take(&mut give, most);
        if n > 0 || most == 0 {
            return n;
        }
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        let waited = Core::with_or_create(|core| {
            if core.driven() == Driven::Loop || core.is_inside_turn() {
                return 0;
            }
            loop {
                // One turn that does not sleep: what has completed is queued now.
                let wait = match (timeout, end) {
                    (Some(Duration::ZERO), _) => Wait::No,
                    (_, None) => Wait::Forever,
                    (_, Some(end)) => match end.checked_duration_since(Instant::now()) {
                        None | Some(Duration::ZERO) => Wait::No,
                        Some(left) => Wait::For(left),
                    },
                };
                let id = (wait != Wait::No).then(|| self.register(core));
                // A packet that released this thread may have been taken by another since: then this
                // one is not in the list any more, and must not sleep where nobody would wake it.
                let turned = core.turn(wait, || id.is_some_and(|id| self.must_not_sleep(id)));
                if let Some(id) = id {
                    self.0.0.lock().waiting.retain(|w| w.id != id);
                }
                if let Err(error) = turned {
                    tracing::error!(%error, "the backend failed under a thread at a port");
                    std::thread::sleep(Duration::from_millis(10));
                }
                let n = self.take(&mut give, most);
                if n > 0 || wait == Wait::No {
                    return n;
                }
            }
        });
        match waited {
            Ok(n) => n,
            Err(_) if timeout == Some(Duration::ZERO) => 0,
            Err(_) => self.remove_without_processor(give, most, end),
        }
    }

    /// For a thread that has no processor and can have none: it has no requests either, and waits
    /// for those of others and for posted packets.
    #[cold]
    fn remove_without_processor(
        &self,
        mut give: impl FnMut(Packet),
        most: usize,
        end: Option<Instant>,
    ) -> usize {
        let shared = &self.0.0;
        loop {
            let n = self.take(&mut give, most);
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if n > 0 || left == Some(Duration::ZERO) {
                return n;
            }
            let mut inner = shared.lock();
            inner.sleeping += 1;
            let empty = |inner: &mut Inner| inner.packets.is_empty();
            let mut inner = match left {
                Some(left) => {
                    let waited = shared.arrived.wait_timeout_while(inner, left, empty);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = shared.arrived.wait_while(inner, empty);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
            inner.sleeping -= 1;
        }
    }

    fn must_not_sleep(&self, id: u64) -> bool {
        let inner = self.0.0.lock();
        !inner.packets.is_empty() || inner.waiting.iter().all(|waiter| waiter.id != id)
    }

    fn register(&self, core: &Core) -> u64 {
        let thread = ProcessorHandle::new(core.remote().clone());
        let mut inner = self.0.0.lock();
        inner.next_waiter += 1;
        let id = inner.next_waiter;
        inner.waiting.push(Waiter { id, thread });
        id
    }
}

impl Default for CompletionPort {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CompletionPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionPort").field("depth", &self.depth()).finish()
    }
}

enum Content {
    Irp(SlotPtr),
    Posted { key: u64, value: u64, result: IoStatus },
}

/// A finished request, or a posted packet, taken from a port.
pub struct Packet(Content);

// SAFETY: a packet is the requester of a `DONE` slot, which may sit on any thread.
unsafe impl Send for Packet {}

impl Packet {
    fn result(&self) -> IoStatus {
        match &self.0 {
            // SAFETY: `DONE`, and we are the requester.
            Content::Irp(slot) => unsafe { (*slot.0.as_ptr()).result },
            Content::Posted { result, .. } => *result,
        }
    }

    /// The key given when the request was posted.
    pub fn key(&self) -> u64 {
        match &self.0 {
            // SAFETY: as above.
            Content::Irp(slot) => match unsafe { &(*slot.0.as_ptr()).route } {
                Route::Packet(key) => *key,
                _ => unreachable!("set when the packet was queued"),
            },
            Content::Posted { key, .. } => *key,
        }
    }

    /// The value given to [`CompletionPort::post`]; 0 for requests.
    pub fn value(&self) -> u64 {
        match &self.0 {
            Content::Irp(_) => 0,
            Content::Posted { value, .. } => *value,
        }
    }

    /// The request's status.
    pub fn status(&self) -> Status {
        self.result().status
    }

    /// Bytes transferred, or what the operation defines.
    pub fn info(&self) -> usize {
        self.result().info
    }

    /// The request's result, as awaiting it would have given it: `K` is the operation that was
    /// posted.
    ///
    /// # Panics
    /// When the packet is of another operation, or was made by [`CompletionPort::post`].
    #[track_caller]
    pub fn into_output<K: Operation + 'static>(self) -> K::Output {
        let Content::Irp(slot) = self.0 else { panic!("a posted packet has no request") };
        // SAFETY: `DONE`, and we are the requester: result and payload are ours until `self` goes.
        unsafe {
            let header = slot.0.as_ptr();
            debug_assert_eq!((*header).phase, Phase::Final);
            assert!(
                (*header).operation == Some(TypeId::of::<K>()),
                "the packet is not of the operation {}",
                std::any::type_name::<K>()
            );
            (*header).flags.set(flags::TAKEN);
            let mut payload = std::mem::take(&mut (*header).payload);
            let mut done = Done::new(slot, &mut payload);
            drop(self);
            K::finish(&mut done)
        }
    }

    /// The request's buffer or other payload, if it is of this type.
    pub fn take<T: 'static>(&mut self) -> Option<T> {
        match &self.0 {
            // SAFETY: as above.
            Content::Irp(slot) => unsafe { (*slot.0.as_ptr()).payload.take() },
            Content::Posted { .. } => None,
        }
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        if let Content::Irp(slot) = &self.0 {
            // SAFETY: the requester's reference ends here; what was not taken is dropped first, on
            // this thread, because its owner cannot put it back any more.
            unsafe {
                let payload: Payload = std::mem::take(&mut (*slot.0.as_ptr()).payload);
                (*slot.0.as_ptr()).flags.set(flags::TAKEN);
                finish::release(*slot);
                drop(payload);
            }
        }
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("key", &self.key())
            .field("status", &self.status())
            .field("info", &self.info())
            .finish()
    }
}
