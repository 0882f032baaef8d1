//! The end of a file object: handles and requests that go, and what comes of the last of them
//!
//!
//! Who counts is in `count.rs`, whose invariant decides where a reference may be given up: here, or
//! on the home's thread, where it is sent by mail ([`send_home`]). CLEANUP follows the last handle,
//! CLOSE the last reference of all, and then the memory goes.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use super::closing::Asked;
use super::count::Kind;
use super::{CLEANED, Ending, FileObject};
use crate::irp::{Disposition, Irp};
use crate::major::Major;
use crate::processor::Core;
use crate::request;
use crate::status::Status;

impl FileObject {
    /// The close `irp` waits until no other request counts on the file; then it is dispatched again,
    /// or, if that is so already, given back. No further request reaches the hardware: the
    /// descriptor has been taken away before.
    pub(crate) fn wait_until_alone(irp: Irp<'_>) -> Result<Irp<'_>, Disposition> {
        // A request of another processor that is counted later sees by this that the descriptor is
        // gone (`enter_foreign`).
        let foreign = irp.file().count.set_closing();
        let home = irp.file().home.is_current();
        let is_alone = foreign == 0 && home && irp.file().count.local() == 1;
        let file = irp.file().handle();
        let mut disposition = None;
        let asked = file.closer.ask(irp, is_alone, |irp| {
            let (held, pending) = irp.hold();
            disposition = Some(pending);
            held
        });
        let at_home = |file: &FileObject| {
            if file.ending.get() == Ending::Open {
                file.ending.set(Ending::Asked);
            }
            file.let_closer_go(file.count.local());
        };
        match asked {
            Asked::GoesOn(irp) => return Ok(irp),
            // Somebody else closes it already.
            Asked::Refused(held) => held.complete(Status::FILE_CLOSED, 0),
            // What lives here is `file`, so that nothing is freed meanwhile.
            Asked::Waits => {
                if file.run_at_home(at_home).is_err() {
                    file.let_closer_go(0);
                }
            }
        }
        Err(disposition.expect("it was held"))
    }

    /// CLEANUP, to the filters that care, once: when the last handle has gone, or before a close
    /// that somebody asks for.
    pub(crate) fn announce_end(&self) {
        // Not the thread's to look at without a reference: it may never have used the file.
        if self.stack().hooks(Major::Cleanup)
            && self.is_open()
            && self.modes.fetch_or(CLEANED, Ordering::SeqCst) & CLEANED == 0
        {
            request::detached(self.this, Major::Cleanup);
        }
    }

    /// Lets a close go on if it is the only request. On the home's thread; or the home is gone.
    #[cold]
    fn let_closer_go(&self, local: u32) {
        if let Some(held) = self.closer.let_go(self.count.foreign() + u64::from(local)) {
            held.redispatch();
        }
    }
}

/// A handle to a file object; clones share it, the last one to go closes it.
pub struct FileHandle(NonNull<FileObject>);

// SAFETY: `FileObject` is `Send + Sync`, and the count is atomic.
unsafe impl Send for FileHandle {}
// SAFETY: as above.
unsafe impl Sync for FileHandle {}

impl FileHandle {
    /// Of a file object that counts it.
    pub(super) fn counted(file: NonNull<FileObject>) -> FileHandle {
        FileHandle(file)
    }

    /// Of a file object that may be closing; `None`, if nobody has a handle any more.
    ///
    /// # Safety
    /// The memory is there, and stays for this call.
    pub(crate) unsafe fn of_listed(file: NonNull<FileObject>) -> Option<FileHandle> {
        // SAFETY: the caller's.
        let counted = unsafe { file.as_ref() }.count.try_add_handle();
        counted.then(|| FileHandle::counted(file))
    }

    /// When the last handle goes, requests in flight will go on, and the last of them closes the
    /// file. On the home's thread, when nobody else knows the file yet.
    pub(crate) fn leave_out_cleanup(&self) {
        assert!(self.home.is_current(), "a request's own file object belongs to its issuer");
        self.ending.set(Ending::Cleaned);
    }
}

impl Deref for FileHandle {
    type Target = FileObject;
    #[inline]
    fn deref(&self) -> &FileObject {
        // SAFETY: this handle is counted.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for FileHandle {
    fn clone(&self) -> FileHandle {
        self.handle()
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Drop for FileHandle {
    fn drop(&mut self) {
        if !self.count.drop_handle() {
            // SAFETY: the reference goes along.
            unsafe { send_home(self.0, Kind::Handle) };
        }
    }
}

struct Parcel(NonNull<FileObject>);
// SAFETY: `FileObject` is `Send + Sync`; the parcel carries one counted reference.
unsafe impl Send for Parcel {}

/// Gives one reference of the given kind up, on the home's thread.
///
/// # Safety
/// The caller owns it.
unsafe fn send_home(file: NonNull<FileObject>, kind: Kind) {
    // SAFETY: the reference keeps it.
    let home = unsafe { file.as_ref() }.home.clone();
    if home.is_current() {
        // SAFETY: on the home's thread, with the reference.
        Core::with_current(|core| unsafe { arrive(core, file, kind) });
        return;
    }
    let parcel = Parcel(file);
    let work = move |core: &Core| {
        let parcel = parcel;
        // SAFETY: `run` calls this on the home's thread.
        unsafe { arrive(core, parcel.0, kind) };
    };
    if home.run(Box::new(work)).is_err() {
        // SAFETY: the home is gone, and the reference is ours.
        unsafe { leave_without_home(file, kind) };
    }
}

/// Gives one reference up when the home is gone, or going: all are in `uses`, and whoever takes the
/// last one closes.
///
/// # Safety
/// The caller owns the reference.
unsafe fn leave_without_home(file: NonNull<FileObject>, kind: Kind) {
    // SAFETY: the reference keeps the file until it is given up, `closing` included; the last one's
    // file is ours.
    unsafe {
        let object = file.as_ref();
        if object.count.give_up_alone(kind, || object.let_closer_go(0)) {
            close_without_home(file);
        }
    }
}

/// A reference has come home to die.
unsafe fn arrive(core: &Core, file: NonNull<FileObject>, kind: Kind) {
    if !core.counts_locally.get() {
        // The home is going: others may be closing the file at this moment.
        // SAFETY: the caller's.
        return unsafe { leave_without_home(file, kind) };
    }
    // SAFETY: on the home's thread; the reference keeps the file until it is given up, and after
    // that, as only this thread can see zero, until `maybe_close`.
    unsafe {
        let object = file.as_ref();
        if kind == Kind::Handle
            && object.count.is_last_handle()
            && matches!(object.ending.get(), Ending::Open | Ending::Asked)
        {
            object.ending.set(Ending::Cleaned);
            cleanup(object);
        }
        object.count.give_up(kind);
        maybe_close(file);
    }
}

/// the last handle has gone; what is in flight ends early, filters that care are told.
fn cleanup(file: &FileObject) {
    file.cancel_requests();
    file.announce_end();
}

unsafe fn maybe_close(file: NonNull<FileObject>) {
    // SAFETY: on the home's thread, which alone sees both numbers (`count.rs`).
    unsafe {
        let object = file.as_ref();
        let left = object.count.left();
        if left.closing {
            object.let_closer_go(object.count.local());
        }
        if !left.unused {
            return;
        }
        if object.ending.get() == Ending::Closing || !object.is_open() {
            free(file);
            return;
        }
        object.ending.set(Ending::Closing);
        // `file` may be gone when this returns: the request was the last to leave.
        if !request::detached(file, Major::Close) {
            close_without_home(file);
        }
    }
}

unsafe fn close_without_home(file: NonNull<FileObject>) {
    // SAFETY: the last reference is ours, and there is no request: one was refused or none can be
    // made.
    unsafe {
        let object = file.as_ref();
        if object.is_open() {
            // The driver may make handles of its own; and who finds the file in a list of filters
            // (`instances`) has one as long as this is there, and may change the stack.
            object.count.add_handle();
            object.stack().bottom().driver().close_now(object);
            if !object.count.give_up_alone(Kind::Handle, || ()) {
                return;
            }
        }
        free(file);
    }
}

/// Frees a file object. Those that know it from a list have forgotten it before.
///
/// # Safety
/// Nobody counts on it, and the caller is the one to know.
unsafe fn free(file: NonNull<FileObject>) {
    // SAFETY: the caller's; it was allocated as a box.
    unsafe {
        let object = file.as_ref();
        object.lists.iter().for_each(|list| list.forget(object));
        Core::free_file(Box::from_raw(file.as_ptr()));
    }
}

/// Counts a new request on the file. The result goes to [`leave_local`] or [`leave_foreign`].
#[inline]
pub(crate) fn enter(file: &FileObject, core: &Core) -> bool {
    let local = file.home.is(core);
    if local {
        file.count.add_local();
    } else {
        enter_foreign(file);
    }
    local
}

/// Counts a request of another processor on the file.
#[inline]
pub(crate) fn enter_foreign(file: &FileObject) {
    file.count.add_foreign();
}

/// A local request has been asked to end.
///
/// # Safety
/// On the home's thread; the request is counted by [`enter`] as local.
pub(crate) unsafe fn note_asked(file: NonNull<FileObject>) {
    // SAFETY: the count keeps the file.
    let asked = unsafe { &file.as_ref().asked };
    asked.set(asked.get() + 1);
}

/// Counts a request of the home off. `asked`: [`note_asked`] was called for it.
///
/// # Safety
/// [`enter`] has counted it as local, on this thread.
#[inline]
pub(crate) unsafe fn leave_local(file: NonNull<FileObject>, asked: bool) {
    // SAFETY: the count keeps the file until it is taken off; see `arrive`.
    unsafe {
        let object = file.as_ref();
        object.count.drop_local();
        if asked {
            object.asked.set(object.asked.get() - 1);
        }
        if object.ending.get() != Ending::Open {
            maybe_close(file);
        }
    }
}

/// Counts a request off that is not local.
///
/// # Safety
/// [`enter`] has counted it, and not as local, or [`enter_foreign`] has; or the home has gone meanwhile
/// ([`adopt_out`]).
#[inline]
pub(crate) unsafe fn leave_foreign(file: NonNull<FileObject>) {
    // SAFETY: as in `leave_local`.
    unsafe {
        if !file.as_ref().count.drop_foreign() {
            send_home(file, Kind::Foreign);
        }
    }
}

/// The home goes: a request that counts as local counts as foreign from now on.
///
/// # Safety
/// On the home's thread; the request was counted as local, and is not any more.
pub(crate) unsafe fn adopt_out(file: NonNull<FileObject>) {
    // SAFETY: the count keeps the file.
    unsafe { file.as_ref() }.count.adopt_out();
}
