//! The memory that operations name: where bytes come from and go to.
//!
//! **Invariant.** An operation's memory is valid, and nobody else's, from `Hal::submit` to its
//! completion; the engine touches it only in between. So every function here is called with the
//! pointers of an operation in flight.

use std::ffi::{CStr, c_char, c_void};

use overlapped_iomgr::hal::Op;
use socket2::{SockAddr, SockAddrStorage};

use super::world::{Attributes, Kind, Outcome};

/// Where an operation's data is.
#[derive(Clone, Copy)]
pub(super) enum Memory {
    One(*mut u8, usize),
    Many(*const libc::iovec, usize),
}

/// The memory of an operation that moves data, but for pooled receives.
///
/// # Safety
/// The operation is in flight.
pub(super) unsafe fn of(op: &Op) -> Option<Memory> {
    Some(match *op {
        Op::Read { buf, len, .. } | Op::Recv { buf, len, .. } | Op::ReadStream { buf, len, .. } => {
            Memory::One(buf, len as usize)
        }
        Op::Write { buf, len, .. }
        | Op::Send { buf, len, .. }
        | Op::WriteStream { buf, len, .. } => Memory::One(buf.cast_mut(), len as usize),
        Op::ReadV { iov, count, .. } | Op::WriteV { iov, count, .. } => {
            Memory::Many(iov.cast(), count as usize)
        }
        // SAFETY: the header is the operation's (module invariant).
        Op::RecvMsg { msg, .. } => unsafe { header(msg) },
        // SAFETY: as above.
        Op::SendMsg { msg, .. } => unsafe { header(msg.cast_mut()) },
        _ => return None,
    })
}

unsafe fn header(msg: *mut c_void) -> Memory {
    // SAFETY: the caller's.
    let header = unsafe { &*msg.cast::<libc::msghdr>() };
    #[allow(clippy::unnecessary_cast)] // Its type is the C library's choice.
    Memory::Many(header.msg_iov, header.msg_iovlen as usize)
}

impl Memory {
    /// # Safety
    /// Of an operation in flight.
    unsafe fn each(self, mut f: impl FnMut(*mut u8, usize)) {
        match self {
            Memory::One(start, len) => f(start, len),
            Memory::Many(segments, count) => {
                for i in 0..count {
                    // SAFETY: the caller's; there are so many.
                    let segment = unsafe { &*segments.add(i) };
                    f(segment.iov_base.cast(), segment.iov_len);
                }
            }
        }
    }

    /// Bytes of it.
    ///
    /// # Safety
    /// Of an operation in flight.
    pub(super) unsafe fn len(self) -> usize {
        let mut sum = 0;
        // SAFETY: the caller's.
        unsafe { self.each(|_, len| sum += len) };
        sum
    }

    /// A copy of its bytes.
    ///
    /// # Safety
    /// Of an operation in flight that sends them.
    pub(super) unsafe fn bytes(self) -> Vec<u8> {
        let mut all = Vec::new();
        // SAFETY: the caller's; what is sent is initialised. An empty segment may be anywhere.
        unsafe {
            self.each(|start, len| {
                if len > 0 {
                    all.extend_from_slice(std::slice::from_raw_parts(start, len));
                }
            });
        }
        all
    }

    /// Fills it from the start, as far as the bytes or it go.
    ///
    /// # Safety
    /// Of an operation in flight that receives.
    pub(super) unsafe fn fill(self, bytes: &[u8]) {
        let mut left = bytes;
        // SAFETY: the caller's; at most `len` bytes go to each segment, which nobody else uses.
        unsafe {
            self.each(|start, len| {
                let (now, later) = left.split_at(len.min(left.len()));
                if !now.is_empty() {
                    std::ptr::copy_nonoverlapping(now.as_ptr(), start, now.len());
                }
                left = later;
            });
        }
    }

    /// Whether its start and every length are multiples of the block.
    ///
    /// # Safety
    /// Of an operation in flight.
    pub(super) unsafe fn is_aligned(self, block: usize) -> bool {
        let mut aligned = true;
        // SAFETY: the caller's.
        unsafe {
            self.each(|start, len| {
                aligned &= start.addr().is_multiple_of(block) && len.is_multiple_of(block);
            });
        }
        aligned
    }
}

/// A path.
///
/// # Safety
/// It ends with a NUL and belongs to an operation in flight.
pub(super) unsafe fn path<'a>(path: *const c_char) -> &'a [u8] {
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(path) }.to_bytes()
}

/// A socket's address.
///
/// # Safety
/// `len` bytes at `address` are those of an operation in flight.
pub(super) unsafe fn address(address: *const c_void, len: u32) -> Outcome<SockAddr> {
    if len as usize > size_of::<SockAddrStorage>() {
        return Err(libc::EINVAL);
    }
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the caller's; the storage is as large as that, and is what these bytes are part of.
    Ok(unsafe {
        let to = (&raw mut storage).cast::<u8>();
        std::ptr::copy_nonoverlapping(address.cast::<u8>(), to, len as usize);
        SockAddr::new(storage, len as _)
    })
}

/// What a message is to be sent with.
#[derive(Default)]
pub(super) struct Sending {
    pub(super) to: Option<SockAddr>,
    /// Bytes in each datagram, if it is to be cut.
    pub(super) segment: Option<u16>,
}

const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

/// Reads a message's header.
///
/// # Safety
/// It belongs to an operation in flight.
pub(super) unsafe fn sending(msg: *const c_void) -> Outcome<Sending> {
    let mut sending = Sending::default();
    // SAFETY: the caller's; the header says where its control messages are.
    unsafe {
        let header = &*msg.cast::<libc::msghdr>();
        if !header.msg_name.is_null() && header.msg_namelen > 0 {
            sending.to = Some(address(header.msg_name, header.msg_namelen)?);
        }
        let mut at = libc::CMSG_FIRSTHDR(header);
        while !at.is_null() {
            if ((*at).cmsg_level, (*at).cmsg_type) != (SOL_UDP, UDP_SEGMENT) {
                // Descriptors of the kernel have no business here.
                return Err(libc::EOPNOTSUPP);
            }
            sending.segment = Some(libc::CMSG_DATA(at).cast::<u16>().read_unaligned());
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    Ok(sending)
}

/// Fills in what a message was received with.
///
/// # Safety
/// The header belongs to an operation in flight.
pub(super) unsafe fn received(msg: *mut c_void, from: Option<&SockAddr>, cut: bool) {
    // SAFETY: the caller's; at most so many bytes are written to the name as it has.
    unsafe {
        let header = &mut *msg.cast::<libc::msghdr>();
        let len = from.map_or(0, SockAddr::len).min(header.msg_namelen);
        if let Some(from) = from.filter(|_| !header.msg_name.is_null()) {
            let to = header.msg_name.cast::<u8>();
            std::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), to, len as usize);
        }
        header.msg_namelen = len;
        header.msg_controllen = 0;
        header.msg_flags = if cut { libc::MSG_TRUNC } else { 0 };
    }
}

/// Virtual time began then: the first day of the year 2000.
const BEGINNING: i64 = 946_684_800;

/// Fills a `struct statx`.
///
/// # Safety
/// It belongs to an operation in flight.
pub(super) unsafe fn attributes(out: *mut c_void, from: &Attributes) {
    let time = |nanoseconds: u64| {
        // SAFETY: plain numbers, for which zero is a value.
        let mut time: libc::statx_timestamp = unsafe { std::mem::zeroed() };
        time.tv_sec = BEGINNING + (nanoseconds / 1_000_000_000).cast_signed();
        time.tv_nsec = (nanoseconds % 1_000_000_000) as u32;
        time
    };
    let kind = match from.kind {
        Kind::File => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Link => libc::S_IFLNK,
        Kind::Socket => libc::S_IFSOCK,
    };
    // SAFETY: the caller's; a `statx` is plain numbers.
    let out = unsafe {
        let out = out.cast::<libc::statx>();
        out.write(std::mem::zeroed());
        &mut *out
    };
    out.stx_mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    (out.stx_blksize, out.stx_nlink, out.stx_ino) = (4096, from.links, from.inode);
    out.stx_mode = (kind | from.mode) as u16;
    (out.stx_size, out.stx_blocks) = (from.len, from.allocated / 512);
    (out.stx_btime, out.stx_mtime) = (time(from.made), time(from.changed));
    (out.stx_ctime, out.stx_atime) = (time(from.changed), time(from.read));
    out.stx_dev_minor = 1;
}
