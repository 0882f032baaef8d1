//! Bottom drivers: where requests leave for the hardware.

mod file;
mod memory;
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

use overlapped_iomgr::hal::Op;
use overlapped_iomgr::{Disposition, FileObject, Irp, Status};

/// Closes a file object's descriptor with a plain system call.
fn close_now(file: &FileObject) {
    let fd = file.fd();
    if fd >= 0 {
        // SAFETY: closed by the next line, by nobody else: this is the last reference's.
        unsafe { file.set_fd(-1) };
        crate::hal::close(fd);
    }
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
