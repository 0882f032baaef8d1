//! Completion ports: where finished requests queue until a thread takes them (C-10 to C-32).
//!
//! A packet is the IRP itself (I-1, C-15): queueing it allocates nothing and cannot fail. Packets
//! are first-in first-out (C-14), and waiting threads are released last-in first-out (C-20), no more
//! of them than the port's concurrency value says.
//!
//! A thread that waits drives its own processor meanwhile, so that a port served by the thread
//! that issues is as fast as the bare hardware. A packet that comes for a thread that sleeps is handed
//! to it, and its sleep is ended.
//!
//! Reads next: `queue.rs` and `inner.rs`, where packets and waiters meet; `chain.rs`, how they do without a lock;
//! `arrival.rs`, how packets come; `association.rs`, who is counted.

mod arrival;
mod association;
mod chain;
mod inner;
mod names;
mod next;
mod no_packet;
mod packet;
mod queue;
mod tee;
mod wait_packet;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use association::blocked;
pub use next::Next;
pub use no_packet::NoPacket;
pub use packet::Packet;
pub(crate) use queue::Shared;
pub(crate) use tee::Tee;
pub use wait_packet::WaitPacket;

use crate::apc;
use crate::file::FileObject;
use crate::processor::{Core, Driven};
use crate::status::Status;
use crate::sync;
use crate::wait::sleeper::{self, Limit};
use crate::wait::{Alertable, Object, Signal};
use inner::{Waiter, Who};
use packet::{Parts, Posted, UNTAGGED};

/// Packets that nobody has taken, and requests that will be packets, of one port, unless
/// [`PortOptions::limit`] says otherwise.
const LIMIT: usize = 1 << 20;

/// How a port is made.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::PortOptions;
///
/// let port = PortOptions::new().concurrency(2).limit(10_000).create();
/// assert_eq!(port.depth(), 0);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct PortOptions {
    concurrency: usize,
    limit: usize,
}

impl PortOptions {
    /// Any number of running threads; about a million packets.
    pub fn new() -> PortOptions {
        PortOptions { concurrency: usize::MAX, limit: LIMIT }
    }

    /// Most threads that run at a time with packets of this port (C-20 to C-25); 0 is the number of
    /// processors.
    ///
    /// A thread runs from the return of its remove to the next one. While it blocks in a wait of this
    /// crate, or in [`CompletionPort::blocking`], it does not count; that it blocks in anything else is
    /// not seen (C-23), so that a port whose threads all do stands still. Tasks are not counted.
    pub fn concurrency(mut self, threads: usize) -> PortOptions {
        self.concurrency = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        self
    }

    /// Most packets that wait to be taken, those of outstanding requests included: beyond it, requests
    /// and posts are refused. A port keeps the memory of the most that have waited at a time, some forty bytes
    /// each, until it goes.
    pub fn limit(mut self, packets: usize) -> PortOptions {
        self.limit = packets;
        self
    }

    /// Makes the port.
    pub fn create(self) -> CompletionPort {
        let port = Arc::new(Shared::new(self.concurrency, self.limit));
        CompletionPort { handle: Arc::new(Handle { port }), rights: Rights::ALL }
    }

    /// Makes a port with a name by which others of this process [open](CompletionPort::open) it, as
    /// long as it has handles.
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_COLLISION`]: a port has that name; [`Status::OBJECT_NAME_INVALID`]: it is
    /// empty.
    pub fn create_named(self, name: &str) -> Result<CompletionPort, Status> {
        let port = self.create();
        names::insert(name, &port.handle)?;
        Ok(port)
    }
}

impl Default for PortOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What a handle of a port allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights(u8);

impl Rights {
    /// Looking: the depth, and waiting for the port as an object (NT's `QUERY_STATE`).
    pub const QUERY: Rights = Rights(1);
    /// Removing, posting, associating (NT's `MODIFY_STATE`).
    pub const MODIFY: Rights = Rights(2);
    /// Both.
    pub const ALL: Rights = Rights(3);
}

/// The last handle closes the port.
struct Handle {
    port: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.port.close();
    }
}

/// A handle of a completion port: where finished requests queue until a thread, or a task, takes them.
/// Clones are handles of the same port.
///
/// Packets are first-in first-out (C-14), and waiting threads are released last-in first-out (C-20), no
/// more of them than [`PortOptions::concurrency`] says. Queueing a packet allocates nothing and cannot
/// fail (C-15). A thread that waits drives its own requests meanwhile.
///
/// ```
/// # use overlapped_iomgr as overlapped;
/// use overlapped::{CompletionPort, NoPacket, Status};
/// use std::time::Duration;
///
/// let port = CompletionPort::new();
/// port.post(7, 42, Status::SUCCESS, 0)?;
/// let packet = port.remove(Some(Duration::ZERO)).unwrap();
/// assert_eq!((packet.key(), packet.value()), (7, 42));
/// assert_eq!(port.remove(Some(Duration::ZERO)).unwrap_err(), NoPacket::TimedOut);
/// # Ok::<(), Status>(())
/// ```
#[derive(Clone)]
pub struct CompletionPort {
    handle: Arc<Handle>,
    rights: Rights,
}

impl CompletionPort {
    /// An empty port, with the options of [`PortOptions::new`].
    pub fn new() -> CompletionPort {
        PortOptions::new().create()
    }

    /// Another handle of a port that [`PortOptions::create_named`] has made, with the rights asked
    /// for.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::{CompletionPort, PortOptions, Rights, Status};
    ///
    /// let port = PortOptions::new().create_named("documents")?;
    /// let reader = CompletionPort::open("documents", Rights::QUERY)?;
    /// assert_eq!(reader.depth(), 0);
    /// assert_eq!(reader.post(1, 1, Status::SUCCESS, 0), Err(Status::ACCESS_DENIED));
    /// # Ok::<(), Status>(())
    /// ```
    ///
    /// # Errors
    /// [`Status::OBJECT_NAME_NOT_FOUND`].
    pub fn open(name: &str, rights: Rights) -> Result<CompletionPort, Status> {
        Ok(CompletionPort { handle: names::find(name)?, rights })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.port
    }

    pub(crate) fn check(&self, right: Rights) -> Result<(), Status> {
        if self.rights.0 & right.0 == right.0 { Ok(()) } else { Err(Status::ACCESS_DENIED) }
    }

    /// Packets that nobody has taken yet (C-14).
    pub fn depth(&self) -> usize {
        self.shared().depth()
    }

    /// Requests that will be packets of this port or are, and have not been taken; copies of results
    /// ([`crate::Request::tee`]) too.
    pub fn outstanding(&self) -> usize {
        self.shared().outstanding()
    }

    /// Queues a packet of the caller's own: opaque values, passed through unchanged (C-14).
    ///
    /// # Errors
    /// [`Status::INSUFFICIENT_RESOURCES`] when [`PortOptions::limit`] packets are queued,
    /// [`Status::INVALID_HANDLE`] when the port is closed, [`Status::ACCESS_DENIED`].
    pub fn post(&self, key: u64, value: u64, status: Status, info: usize) -> Result<(), Status> {
        self.check(Rights::MODIFY)?;
        self.shared().post(Posted { key, value, info, status, tag: UNTAGGED })
    }

    /// Associates a file object with this port, for the file's life (C-10): every request on it that
    /// is issued by [`crate::Request::packet`] reports here, with `key` (C-11), also those already
    /// issued that have not completed (C-12).
    ///
    /// # Errors
    /// [`Status::INVALID_PARAMETER`] when the file has a port already, or is synchronous (C-10);
    /// [`Status::ACCESS_DENIED`].
    pub fn associate(&self, file: &FileObject, key: u64) -> Result<(), Status> {
        self.check(Rights::MODIFY)?;
        file.associate(self.shared().clone(), key)
    }

    /// Takes the oldest packet, waiting for one: at most `timeout`, or for ever. Meanwhile the
    /// thread's requests go on.
    ///
    /// A timeout of zero polls, and is allowed everywhere.
    ///
    /// # Errors
    /// See [`NoPacket`].
    #[inline]
    pub fn remove(&self, timeout: Option<Duration>) -> Result<Packet, NoPacket> {
        match self.remove_at_once() {
            Some(parts) => Ok(Packet::of(parts)),
            None => self.remove_one(timeout, Alertable::No).map(Packet::of),
        }
    }

    /// As [`CompletionPort::remove`]; APCs of this thread run while it waits, and end the wait (C-27).
    ///
    /// A packet that is there goes first, and the APCs stay queued, if the thread belongs to this
    /// port already.
    ///
    /// # Errors
    /// See [`NoPacket`].
    pub fn remove_alertable(&self, timeout: Option<Duration>) -> Result<Packet, NoPacket> {
        match self.remove_at_once() {
            Some(parts) => Ok(Packet::of(parts)),
            None => self.remove_one(timeout, Alertable::Yes).map(Packet::of),
        }
    }

    /// Takes up to `most` packets, oldest first, appending them to `into`; waits only for the
    /// first, like [`CompletionPort::remove`] (C-26). Returns how many it took.
    ///
    /// # Errors
    /// See [`NoPacket`].
    pub fn remove_many(
        &self,
        into: &mut Vec<Packet>,
        most: usize,
        timeout: Option<Duration>,
    ) -> Result<usize, NoPacket> {
        let port = self.shared();
        if self.is_at_home() {
            let taken = port.pop_many(&mut port.lock(), &mut |p| into.push(p), most);
            if taken > 0 {
                return Ok(taken);
            }
        }
        self.remove_with(timeout, Alertable::No, false, |p| into.push(p), most)
    }

    /// Takes the oldest packet, in a task.
    ///
    /// Cancel-safe: a future that is dropped has taken no packet.
    pub fn next(&self) -> Next<'_> {
        Next::new(self)
    }

    /// Closes the port for all who have handles of it (C-30): those who wait in a remove come back
    /// with [`NoPacket::Closed`], and queued packets die, as do those that come later. Dropping the
    /// last handle does the same.
    pub fn close(&self) {
        self.shared().close();
    }

    /// Runs what blocks this thread by means that the runtime does not see (a lock, a system call), as
    /// C-23 has it: meanwhile the thread does not count as running at its port, and another may be
    /// released in its place.
    ///
    /// ```
    /// # use overlapped_iomgr as overlapped;
    /// use overlapped::CompletionPort;
    ///
    /// let answer = CompletionPort::blocking(|| std::thread::spawn(|| 42).join().unwrap());
    /// assert_eq!(answer, 42);
    /// ```
    pub fn blocking<R>(run: impl FnOnce() -> R) -> R {
        let _blocked = blocked();
        run()
    }

    /// Whether the thread belongs to the port already, is not counted, and may remove: if it takes what
    /// is there, nobody hears of it, and whether it is a task's makes no difference.
    #[inline]
    fn is_at_home(&self) -> bool {
        let may = self.rights.0 & Rights::MODIFY.0 != 0;
        may && !self.shared().counts && association::belongs(self.shared())
    }

    /// The oldest packet, if there is one that can be had without further ado.
    #[inline]
    fn remove_at_once(&self) -> Option<Parts> {
        if self.is_at_home() { self.shared().take_one() } else { None }
    }

    fn remove_one(
        &self,
        timeout: Option<Duration>,
        alertable: Alertable,
    ) -> Result<Parts, NoPacket> {
        // Threads that answer each other need not touch anything of their processors.
        let looks_out = alertable == Alertable::No
            && timeout != Some(Duration::ZERO)
            && self.is_at_home()
            && Core::is_idle_here();
        if looks_out {
            let port = self.shared();
            sync::look_out(|| port.seems_filled());
            if let Some(parts) = port.take_one() {
                return Ok(parts);
            }
        }
        let mut packet = None;
        self.remove_with(timeout, alertable, looks_out, |p| packet = Some(p), 1)?;
        Ok(packet.expect("one was taken").into_parts())
    }

    /// `looked_out`: and nothing has come.
    fn remove_with(
        &self,
        timeout: Option<Duration>,
        alertable: Alertable,
        looked_out: bool,
        mut give: impl FnMut(Packet),
        most: usize,
    ) -> Result<usize, NoPacket> {
        self.check(Rights::MODIFY).map_err(|_| NoPacket::AccessDenied)?;
        if most == 0 {
            return Ok(0);
        }
        let port = self.shared();
        let is_task = |core: &Core| core.driven() == Driven::Loop || core.is_inside_turn();
        if Core::with_current(is_task) == Some(true) {
            // A task, or a driver's or a waker's code: not counted.
            let taken = port.pop_many(&mut port.lock(), &mut give, most);
            return match taken {
                0 if port.lock().closed => Err(NoPacket::Closed),
                0 if timeout == Some(Duration::ZERO) => Err(NoPacket::TimedOut),
                0 => Err(NoPacket::WouldDeadlock),
                taken => Ok(taken),
            };
        }
        let belonged = alertable == Alertable::No || association::belongs(port);
        // C-21: it does not run any more.
        let counted = association::ask(port);
        let mut inner = port.lock();
        if counted {
            inner.stops();
        }
        if belonged || !apc::is_queued() {
            let taken = port.take(&mut inner, &mut give, most);
            drop(inner);
            let result = match taken {
                0 => self.wait(timeout, alertable, looked_out, give, most),
                taken => Ok(taken),
            };
            return self.back(result);
        }
        drop(inner);
        self.back(Err(NoPacket::Apc))
    }

    /// The thread runs again.
    fn back(&self, result: Result<usize, NoPacket>) -> Result<usize, NoPacket> {
        let port = self.shared();
        // C-25: whatever came of it. A thread that has a packet has been counted already.
        if result.is_err() && port.counts {
            port.lock().runs();
        }
        association::answer(port);
        if matches!(result, Err(NoPacket::Apc)) {
            apc::run();
        }
        result
    }

    #[cold]
    fn wait(
        &self,
        timeout: Option<Duration>,
        alertable: Alertable,
        looked_out: bool,
        mut give: impl FnMut(Packet),
        most: usize,
    ) -> Result<usize, NoPacket> {
        let port = self.shared();
        let limit = Limit::new(timeout);
        // Under this number it waits in the port, or has been handed a packet.
        let mut left = None;
        let apcs = (alertable == Alertable::Yes).then(apc::listen);
        let waited =
            sleeper::wait(limit, (!looked_out).then_some(|| port.seems_filled()), |sleeper| {
                let mut inner = port.lock();
                if let Some(packet) = left.and_then(|id| port.fetch(&mut inner, id)) {
                    // Counted by whoever handed it over.
                    left = None;
                    give(packet);
                    return Some(Ok(1 + port.pop_many(&mut inner, &mut give, most - 1)));
                }
                match port.take(&mut inner, &mut give, most) {
                    0 => {}
                    taken => {
                        left.take().and_then(|id| inner.forget(id));
                        return Some(Ok(taken));
                    }
                }
                if inner.closed {
                    return Some(Err(NoPacket::Closed));
                }
                // A poll does not wait, though a turn of its own may bring it a packet.
                if left.is_none() && !limit.is_poll() {
                    // One may have come in since.
                    port.chain.shut();
                    match port.take(&mut inner, &mut give, most) {
                        0 => {}
                        taken => return Some(Ok(taken)),
                    }
                    let id = inner.new_id();
                    inner.wait(Waiter { id, who: Who::Thread(sleeper.clone()) });
                    left = Some(id);
                }
                drop(inner);
                apcs.as_ref()?.at(sleeper);
                apc::is_queued().then_some(Err(NoPacket::Apc))
            });
        // It may have been handed one after its last look.
        let late = left.and_then(|id| {
            let mut inner = port.lock();
            inner.forget(id);
            port.fetch(&mut inner, id)
        });
        let result = match waited {
            Ok(Some(result)) => result,
            Ok(None) => Err(NoPacket::TimedOut),
            Err(_) => Err(NoPacket::WouldDeadlock),
        };
        match late {
            Some(packet) => {
                give(packet);
                Ok(1)
            }
            None => result,
        }
    }
}

impl Default for CompletionPort {
    fn default() -> Self {
        Self::new()
    }
}

/// C-29: signalled while there are packets; waiting for it takes none.
impl Object for CompletionPort {
    fn signal(&self) -> &Signal {
        self.shared().signal()
    }
}

impl fmt::Debug for CompletionPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionPort").field("depth", &self.depth()).finish()
    }
}
