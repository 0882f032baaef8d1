//! Live change: a file's stack is replaced while requests are in flight.
//!
//! A stack never changes; the file changes to another one. Requests that are issued from then on
//! travel the new stack, those before finish on the old one, and when the last of them is done
//! (`processor::drain`), the old stack goes. Nothing of this is counted or looked at on a request's
//! way.
//!
//! **Invariant.** `now` is an `Arc`'s pointer, whose reference this owns. A processor that uses the
//! file for the first time says so in `users`, and looks at `now` after that; who changes the stack
//! does these two the other way round, all sequentially consistent. So the stack that a processor has
//! seen stays at least until its thread has read its mail and is not busy: on such a thread it may be
//! used without a reference.

use std::fmt;
use std::future::IntoFuture;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::FileObject;
use crate::driver::Driver;
use crate::panics::{caught, log};
use crate::processor::{Core, Remote, Retired};
use crate::stack::{Device, Stack, StackError};
use crate::status::Status;
use crate::wait::{Event, Signalled};

/// See the module's header.
pub(super) struct Changing {
    now: AtomicPtr<Stack>,
    /// Processors beside the home that have issued requests on the file: bits, by their numbers modulo
    /// 64.
    users: AtomicU64,
    /// Held while it is changed, or a reference is taken: the last change.
    lock: Mutex<Weak<Retired>>,
}

impl Changing {
    pub(super) fn new(stack: Arc<Stack>) -> Changing {
        Changing {
            now: AtomicPtr::new(Arc::into_raw(stack).cast_mut()),
            users: AtomicU64::new(0),
            lock: Mutex::default(),
        }
    }

    /// The stack, for a request of that processor.
    #[inline]
    fn seen_by(&self, user: &Remote) -> &Stack {
        let bit = 1 << (user.id() % 64);
        if self.users.load(Ordering::SeqCst) & bit == 0 {
            self.users.fetch_or(bit, Ordering::SeqCst);
        }
        // SAFETY: the module's header.
        unsafe { &*self.now.load(Ordering::SeqCst) }
    }

    fn is_user(&self, remote: &Remote) -> bool {
        self.users.load(Ordering::SeqCst) & 1 << (remote.id() % 64) != 0
    }

    fn lock(&self) -> MutexGuard<'_, Weak<Retired>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, _: &MutexGuard<'_, Weak<Retired>>) -> Arc<Stack> {
        let now = self.now.load(Ordering::Acquire).cast_const();
        // SAFETY: its reference is this one's as long as nobody changes it: we have the lock.
        unsafe {
            Arc::increment_strong_count(now);
            Arc::from_raw(now)
        }
    }

    /// Returns the old one.
    fn set(&self, stack: Arc<Stack>, _: &MutexGuard<'_, Weak<Retired>>) -> Arc<Stack> {
        let old = self.now.swap(Arc::into_raw(stack).cast_mut(), Ordering::SeqCst);
        // SAFETY: the reference that was this one's.
        unsafe { Arc::from_raw(old) }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        // SAFETY: the reference is this one's.
        drop(unsafe { Arc::from_raw(*self.now.get_mut()) });
    }
}

/// Where in a stack a filter is put. Filters are found by the name they have in listings, from the top.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    /// Above all others.
    Top,
    /// Right above the first driver of this name; the bottom is one.
    Above(&'a str),
    /// Right below the first filter of this name.
    Below(&'a str),
}

/// A filter's place in an open file's stack, to take it off again.
#[derive(Clone)]
pub struct Attachment(Arc<Device>);

impl Attachment {
    pub(crate) fn of(device: Arc<Device>) -> Attachment {
        Attachment(device)
    }

    /// The filter's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attachment").field(&self.name()).finish()
    }
}

/// A stack has been changed: what is issued from now on travels the new one. Await it, or
/// [wait](Change::wait), to know that the last request on the old one, and on any before that, is done.
/// Dropping it changes nothing.
///
/// A request can stay on the old stack for long: a receive on a silent connection does.
#[must_use = "requests may still be on the old stack"]
#[derive(Debug)]
pub struct Change {
    done: Event,
}

impl Change {
    /// Waits on this thread until no request is on the old stack.
    ///
    /// # Errors
    /// [`Status::WOULD_DEADLOCK`] on a runtime's worker: await it there.
    pub fn wait(self) -> Result<(), Status> {
        self.done.wait(None).map(drop)
    }

    /// Whether no request is on the old stack any more.
    pub fn is_done(&self) -> bool {
        self.done.is_set()
    }
}

impl IntoFuture for Change {
    type Output = ();
    type IntoFuture = Signalled;

    /// Cancel-safe.
    fn into_future(self) -> Signalled {
        self.done.signalled()
    }
}

/// A stack cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeError {
    /// The file has been closed.
    Closed,
    /// The filter is not, or not any more, in the file's stack.
    NotAttached {
        /// Its name.
        filter: String,
    },
    /// No driver of that name is in the file's stack.
    NoSuchDriver {
        /// The name.
        name: String,
    },
    /// The filter refuses: it cannot begin, or end, in the middle of what has been read and written.
    Refused {
        /// Its name.
        filter: String,
        /// What it says.
        status: Status,
    },
    /// The stack would not be possible.
    Stack(StackError),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Closed => write!(f, "the file has been closed"),
            ChangeError::NotAttached { filter } => {
                write!(
                    f,
                    "the filter '{filter}' is not in the file's stack (was it detached before?)"
                )
            }
            ChangeError::NoSuchDriver { name } => {
                write!(f, "no driver in the file's stack has the name '{name}'")
            }
            ChangeError::Refused { filter, status } => {
                write!(f, "the filter '{filter}' refuses the change: {status}")
            }
            ChangeError::Stack(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChangeError {}

impl From<StackError> for ChangeError {
    fn from(error: StackError) -> Self {
        ChangeError::Stack(error)
    }
}

impl From<ChangeError> for std::io::Error {
    fn from(error: ChangeError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, error)
    }
}

impl FileObject {
    /// The stack that requests on this file, issued now, travel.
    pub fn stack(&self) -> Arc<Stack> {
        self.stack.get(&self.stack.lock())
    }

    /// The stack for a request that is about to be issued.
    ///
    /// # Safety
    /// On the processor's thread, which is busy for as long as the stack is used (as it is in a turn, in
    /// a call of its own, in a frame).
    #[inline]
    pub(crate) unsafe fn stack_for(&self, core: &Core) -> &Stack {
        if self.home.is(core) {
            // SAFETY: see the module's header: the home is always asked.
            unsafe { &*self.stack.now.load(Ordering::SeqCst) }
        } else {
            self.stack.seen_by(core.remote())
        }
    }

    /// As [`FileObject::stack`], without a reference.
    ///
    /// # Safety
    /// On the thread of the file's home, or of a processor with a request on it, which is busy as for
    /// [`FileObject::stack_for`]; or the caller has the last reference to the file.
    #[inline]
    pub(crate) unsafe fn stack_here(&self) -> &Stack {
        // SAFETY: the caller's; see the module's header.
        unsafe { &*self.stack.now.load(Ordering::SeqCst) }
    }

    /// Puts a filter into the stack, while the file is in use. What is issued from now on meets it;
    /// requests in flight finish without it.
    ///
    /// # Errors
    /// [`ChangeError::Closed`], [`ChangeError::NoSuchDriver`], [`ChangeError::Refused`], and
    /// [`StackError::TooDeep`].
    pub fn attach(
        &self,
        place: Place<'_>,
        filter: Arc<dyn Driver>,
    ) -> Result<(Attachment, Change), ChangeError> {
        self.expect_open()?;
        let device = Arc::new(Device::new(filter));
        let change = self.change(|devices| {
            let find = |name: &str| {
                let is_it = |d: &Arc<Device>| d.name() == name && !d.is_implicit();
                let found = devices.iter().position(is_it);
                found.ok_or_else(|| ChangeError::NoSuchDriver { name: name.to_owned() })
            };
            let at = match place {
                Place::Top => 0,
                Place::Above(name) => find(name)?,
                // Nothing is below the bottom.
                Place::Below(name) => match find(name)? + 1 {
                    at if at == devices.len() => {
                        return Err(ChangeError::NoSuchDriver { name: name.to_owned() });
                    }
                    at => at,
                },
            };
            device.driver().may_attach(self).map_err(|status| ChangeError::Refused {
                filter: device.name().to_owned(),
                status,
            })?;
            devices.insert(at, device.clone());
            Ok(())
        })?;
        Ok((Attachment(device), change))
    }

    /// Takes a filter out of the stack, while the file is in use. What is issued from now on does not
    /// meet it; await the [`Change`] to know that it has seen its last request.
    ///
    /// # Errors
    /// [`ChangeError::Closed`], [`ChangeError::NotAttached`], [`ChangeError::Refused`].
    pub fn detach(&self, attachment: &Attachment) -> Result<Change, ChangeError> {
        self.expect_open()?;
        self.take_off(attachment)
    }

    /// As [`FileObject::detach`], also of a file that is not open yet.
    pub(crate) fn take_off(&self, attachment: &Attachment) -> Result<Change, ChangeError> {
        let device = &attachment.0;
        self.change(|devices| {
            // The bottom is nobody's attachment.
            let at = devices.iter().position(|d| Arc::ptr_eq(d, device));
            let filter = device.name().to_owned();
            let Some(at) = at else { return Err(ChangeError::NotAttached { filter }) };
            if let Err(status) = device.driver().may_detach(self) {
                return Err(ChangeError::Refused { filter, status });
            }
            devices.remove(at);
            Ok(())
        })
    }

    /// The first filter of that name in the stack, from the top; to be detached.
    pub fn attachment(&self, name: &str) -> Option<Attachment> {
        let stack = self.stack();
        let (_, filters) = stack.shared().split_last()?;
        filters.iter().find(|d| d.name() == name && !d.is_implicit()).cloned().map(Attachment)
    }

    fn expect_open(&self) -> Result<(), ChangeError> {
        if self.is_closing() || !self.is_open() { Err(ChangeError::Closed) } else { Ok(()) }
    }

    /// `change` is called again if the stack has been changed meanwhile: what it was told may not be so any
    /// more.
    fn change(
        &self,
        mut change: impl FnMut(&mut Vec<Arc<Device>>) -> Result<(), ChangeError>,
    ) -> Result<Change, ChangeError> {
        loop {
            let old = self.stack();
            let mut devices = old.shared().to_vec();
            // Drivers' code, which may want the stack: without the lock.
            change(&mut devices)?;
            let done = Event::manual(false);
            let new = Stack::of(devices, Some(&done))?;
            let stays = |d: &Arc<Device>| new.shared().iter().any(|other| Arc::ptr_eq(d, other));
            let gone: Vec<usize> =
                old.shared().iter().filter(|d| !stays(d)).map(|d| d.key()).collect();
            // It may be made by a request that is on its way.
            let opens = (!gone.is_empty()).then(|| self.opens().clone());
            let end = move || {
                for key in gone {
                    // SAFETY: the driver's last request on this file is done.
                    let removed = || unsafe { opens.iter().for_each(|opens| opens.remove(key)) };
                    if caught(removed).is_none() {
                        log(|| {
                            tracing::error!(
                                "what a driver kept for a file panicked while it was dropped"
                            )
                        });
                    }
                }
            };
            let mut last = self.stack.lock();
            if !ptr::eq(self.stack.now.load(Ordering::Relaxed), Arc::as_ptr(&old)) {
                continue;
            }
            // Ours and the file's.
            drop(self.stack.set(new, &last));
            let retired = Retired::new(self.id, old, last.upgrade(), done, end);
            *last = Arc::downgrade(&retired);
            drop(last);
            let asked =
                |remote: &Remote| remote.id() == self.home.id() || self.stack.is_user(remote);
            return Ok(Change { done: retired.announce(asked) });
        }
    }
}
