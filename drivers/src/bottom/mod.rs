//! Bottom drivers: where requests leave for the hardware.

mod file;
pub(crate) mod memory;
mod names;
mod pipe;
mod receiving;
mod tcp;

pub use file::{FileContext, FileDriver, open};
pub use memory::{Failing, Full, Memory, Null, Opened, Pattern, Zero};
pub use pipe::{PipeContext, PipeDriver, adopt_pipe, pipe_has_unread};
pub use tcp::{
    DatagramDriver, ListenerContext, ListenerDriver, StreamContext, StreamDriver, adopt,
    adopt_datagram, adopt_listener, has_unread, stop_accepting, take_ready,
};

pub(crate) use tcp::carries_messages;

use overlapped_iomgr::hal::Op;
use overlapped_iomgr::{Disposition, FileObject, Irp, Status};
use socket2::SockAddr;

use crate::hal::system::{self, Descriptor};

/// Closes a file object's descriptor with a plain system call.
fn close_now(file: &FileObject) {
    let fd = file.fd();
    if fd >= 0 {
        // SAFETY: closed by the next line, by nobody else: this is the last reference's.
        unsafe { file.set_fd(-1) };
        system::of(fd).close(fd);
    }
}

/// A socket's addresses, for listings: its own, and that of the other side if it is connected.
pub(crate) fn describe_socket(file: &FileObject) -> String {
    let fd = file.fd();
    if fd < 0 {
        return file.name().to_owned();
    }
    let system = system::of(fd);
    let words = |address: SockAddr| match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => path.display().to_string(),
        // Of the abstract name space, or without a name.
        (None, None) => String::from("unnamed"),
    };
    match (system.local_address(fd).map(words), system.peer_address(fd).map(words)) {
        (Ok(own), Ok(peer)) => format!("{own} to {peer}"),
        (Ok(own), Err(_)) => own,
        (Err(_), _) => file.name().to_owned(),
    }
}

/// Gives a new file object its descriptor.
///
/// # Errors
/// [`Status::NOT_SUPPORTED`]: it is from another world than the calling thread's, whose hardware
/// cannot use it. It is closed.
fn own(file: &FileObject, descriptor: Descriptor) -> Result<(), Status> {
    if !descriptor.is_from_here() {
        return Err(Status::NOT_SUPPORTED);
    }
    // SAFETY: ours, and now the file object's.
    unsafe { file.set_fd(descriptor.into_raw()) };
    Ok(())
}

/// A descriptor on its way to being closed: a close request's scratch.
struct Closing(i32);

/// The close of every bottom driver: takes the descriptor away, waits for the other requests, and
/// closes. `now`: closing takes no time worth a trip through the hardware.
fn close(mut irp: Irp<'_>, now: bool) -> Disposition {
    let fd = match irp.scratch::<Closing>() {
        Some(&Closing(fd)) => fd,
        None => {
            let fd = irp.file().fd();
            if fd < 0 {
                return irp.complete(Status::FILE_CLOSED, 0);
            }
            // SAFETY: the descriptor goes to this request.
            unsafe { irp.file().set_fd(-1) };
            irp.set_scratch(Closing(fd));
            fd
        }
    };
    match irp.when_alone() {
        // SAFETY: names no memory; nobody else uses the descriptor.
        Ok(irp) => unsafe { irp.submit(Op::Close { fd, now }) },
        Err(waits) => waits,
    }
}
