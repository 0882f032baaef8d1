//! What goes with a message's data: an address, descriptors passed along, a segment size.
//!
//! An [`Envelope`] accompanies a request ([`Companion`]) and is also the memory in which the kernel
//! finds the message's header: `msghdr`, segment, address, control messages. It is boxed, so that
//! all of it stays where it is.
//!
//! **Invariants.**
//! - The pointers in `header` are made anew before each submission, and mean nothing afterwards.
//! - Control messages are read once, and only those that the kernel has just delivered: a request
//!   whose operation is to deliver some has [`Opening`] in its scratch, which nobody else can put
//!   there and which goes when the request unwinds.
//! - The descriptors in them are in `descriptors` before anybody else sees the envelope
//!   ([`Envelope::open`]), so whoever drops it closes them.

use std::cell::RefCell;
use std::ffi::c_void;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use overlapped_iomgr::{Companion, Irp, Status, downcast_companion, minor};
use socket2::{SockAddr, SockAddrStorage};

/// Most descriptors in one message, by the kernel's own rule.
pub const MOST_DESCRIPTORS: usize = 253;

/// What goes with a message's data: an address, descriptors passed along, a segment size. It is the
/// companion of such requests, which filters see by [`View::companion`](overlapped_iomgr::View::companion).
pub struct Envelope {
    header: libc::msghdr,
    segment: libc::iovec,
    name: SockAddrStorage,
    control: Vec<u64>,
    /// Where a message goes, or came from; `None` also for a sender without an address.
    pub address: Option<SockAddr>,
    /// Descriptors that go along, or came.
    pub descriptors: Vec<OwnedFd>,
    /// Most descriptors that a receive takes; the kernel closes what is beyond.
    pub most_descriptors: usize,
    /// Bytes in each datagram that the data is cut into on its way out (`UDP_SEGMENT`), or was put
    /// together from on its way in (`UDP_GRO`); 0 for one datagram.
    pub segment_size: u16,
    /// Whether a receive wants to know the segment size.
    pub wants_segment_size: bool,
    /// There were more descriptors than `most_descriptors`, or than this process may open.
    pub descriptors_lost: bool,
}

// SAFETY: what keeps it on its thread is pointers that nobody follows but the kernel, while the
// request owns what they name (first invariant).
unsafe impl Send for Envelope {}

impl Default for Envelope {
    fn default() -> Envelope {
        Envelope {
            // SAFETY: `msghdr` is plain numbers and pointers, for which zero is a value.
            header: unsafe { mem::zeroed() },
            segment: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            name: SockAddrStorage::zeroed(),
            control: Vec::new(),
            address: None,
            descriptors: Vec::new(),
            most_descriptors: 0,
            segment_size: 0,
            wants_segment_size: false,
            descriptors_lost: false,
        }
    }
}

impl Companion for Envelope {
    fn copy(&self) -> Box<dyn Companion> {
        let (address, segment_size) = (self.address.clone(), self.segment_size);
        Box::new(Envelope { address, segment_size, ..Envelope::default() })
    }

    fn take_over(&mut self, late: Box<dyn Companion>) {
        let Some(mut late) = downcast_companion::<Envelope>(late) else { return };
        self.address = late.address.take();
        self.segment_size = late.segment_size;
        self.descriptors = mem::take(&mut late.descriptors);
        let wanted = self.most_descriptors;
        self.descriptors_lost =
            wanted > 0 && (self.descriptors.len() > wanted || late.descriptors_lost);
        // The rest is closed, as the kernel does it.
        self.descriptors.truncate(wanted);
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envelope")
            .field("address", &self.address)
            .field("descriptors", &self.descriptors)
            .field("segment_size", &self.segment_size)
            .finish_non_exhaustive()
    }
}

/// In the scratch of a request that receives with its envelope (second invariant).
struct Opening;

/// Envelopes that a thread keeps for its next requests.
const SPARE: usize = 64;

thread_local! {
    #[allow(clippy::vec_box, reason = "the boxes are what is kept")]
    static SPARES: RefCell<Vec<Box<Envelope>>> = const { RefCell::new(Vec::new()) };
}

/// The level and type of control messages that carry a segment size. `libc` has the constants for
/// some targets only.
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

/// Bytes that a control message with so many bytes of data takes.
fn space(data: usize) -> usize {
    // SAFETY: arithmetic only.
    unsafe { libc::CMSG_SPACE(data as u32) as usize }
}

impl Envelope {
    /// An empty one; one of the thread's own, if it has kept any.
    pub(crate) fn empty() -> Box<Envelope> {
        SPARES.try_with(|spares| spares.borrow_mut().pop()).ok().flatten().unwrap_or_default()
    }

    /// Keeps an envelope for the thread's next request.
    pub(crate) fn recycle(mut self: Box<Envelope>) {
        self.descriptors.clear();
        (self.address, self.segment_size, self.most_descriptors) = (None, 0, 0);
        (self.wants_segment_size, self.descriptors_lost) = (false, false);
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(self);
            }
        });
    }

    /// The envelope that a request carries; it gets one if it has none.
    fn of<'a>(irp: &'a mut Irp<'_>) -> &'a mut Envelope {
        if irp.companion::<Envelope>().is_none() {
            irp.set_companion(Some(Envelope::empty()));
        }
        irp.companion_mut().expect("just seen to")
    }

    /// The `msghdr` with which a request receives into its data.
    pub(crate) fn receive(irp: &mut Irp<'_>) -> *mut c_void {
        let ((data, len), minor) = (irp.raw_data(), irp.minor());
        let header = Envelope::of(irp).for_receive(data, len, minor);
        irp.set_scratch(Opening);
        header
    }

    /// Takes over what the kernel has delivered into the request's envelope; the status of it. `None`:
    /// its operation was none with an envelope.
    #[inline]
    pub(crate) fn open(irp: &mut Irp<'_>) -> Option<Status> {
        irp.scratch::<Opening>()?;
        irp.companion_mut::<Envelope>().map(Envelope::opened)
    }

    /// The `msghdr` with which a request sends its data.
    pub(crate) fn send(irp: &mut Irp<'_>) -> *mut c_void {
        let ((data, len), minor) = (irp.raw_data(), irp.minor());
        Envelope::of(irp).for_send(data, len, minor)
    }

    /// Points the header at the request's data: one segment, or an array of them.
    fn address_data(&mut self, data: *mut u8, len: u32, minor: u8) {
        // SAFETY: as in `default`.
        self.header = unsafe { mem::zeroed() };
        if minor == minor::VECTORED {
            self.header.msg_iov = data.cast();
            self.header.msg_iovlen = len as _;
        } else {
            self.segment = libc::iovec { iov_base: data.cast(), iov_len: len as usize };
            self.header.msg_iov = &raw mut self.segment;
            self.header.msg_iovlen = 1;
        }
    }

    /// Makes room for so many bytes of control messages.
    fn make_room(&mut self, bytes: usize) {
        self.control.clear();
        self.control.resize(bytes.div_ceil(8), 0);
        if bytes > 0 {
            self.header.msg_control = self.control.as_mut_ptr().cast();
            self.header.msg_controllen = bytes as _;
        }
    }

    /// The `msghdr` of a message to be received into the data given.
    fn for_receive(&mut self, data: *mut u8, len: u32, minor: u8) -> *mut c_void {
        self.address_data(data, len, minor);
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = size_of::<SockAddrStorage>() as _;
        let mut room = 0;
        if self.most_descriptors > 0 {
            let most = self.most_descriptors.min(MOST_DESCRIPTORS);
            // Not `CMSG_SPACE`, whose padding has room for one more.
            // SAFETY: arithmetic only.
            room = unsafe { libc::CMSG_LEN((most * size_of::<i32>()) as u32) as usize };
        } else if self.wants_segment_size {
            room = space(size_of::<i32>());
        }
        self.make_room(room);
        (&raw mut self.header).cast()
    }

    /// The `msghdr` of a message to be sent from the data given.
    fn for_send(&mut self, data: *mut u8, len: u32, minor: u8) -> *mut c_void {
        self.address_data(data, len, minor);
        if let Some(address) = &self.address {
            self.header.msg_name = address.as_ptr().cast_mut().cast();
            self.header.msg_namelen = address.len();
        }
        let descriptors: Vec<i32> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut room = 0;
        if !descriptors.is_empty() {
            room += space(size_of_val(&descriptors[..]));
        }
        if self.segment_size > 0 {
            room += space(size_of::<u16>());
        }
        self.make_room(room);
        // SAFETY: the header describes `control`, which is as long as the messages put into it, and
        // aligned for them.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(&self.header);
            if !descriptors.is_empty() {
                put(at, libc::SOL_SOCKET, libc::SCM_RIGHTS, &descriptors);
                at = libc::CMSG_NXTHDR(&self.header, at);
            }
            if self.segment_size > 0 {
                put(at, SOL_UDP, UDP_SEGMENT, &[self.segment_size]);
            }
        }
        (&raw mut self.header).cast()
    }

    /// Takes over what came with a message that the kernel has just delivered; its status: a warning
    /// if it was longer than the data's room.
    fn opened(&mut self) -> Status {
        // SAFETY: the kernel has filled `name` up to the length it gave.
        self.address = (self.header.msg_namelen > 0).then(|| unsafe {
            let len = self.header.msg_namelen.min(size_of::<SockAddrStorage>() as _);
            SockAddr::new(ptr::read(&self.name), len)
        });
        (self.segment_size, self.descriptors) = (0, Vec::new());
        // SAFETY: the kernel has set `msg_controllen` to what it has written into `control`.
        unsafe {
            let mut at = libc::CMSG_FIRSTHDR(&self.header);
            while !at.is_null() {
                let (level, kind) = ((*at).cmsg_level, (*at).cmsg_type);
                let data = libc::CMSG_DATA(at);
                #[allow(clippy::unnecessary_cast)] // Its type is the C library's choice.
                let len = (*at).cmsg_len as usize - (data.addr() - at.addr());
                if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                    for i in 0..len / size_of::<i32>() {
                        let fd = data.cast::<i32>().add(i).read_unaligned();
                        self.descriptors.push(OwnedFd::from_raw_fd(fd));
                    }
                } else if (level, kind) == (SOL_UDP, UDP_GRO) && len >= size_of::<i32>() {
                    let size = data.cast::<i32>().read_unaligned();
                    self.segment_size = u16::try_from(size).unwrap_or(0);
                }
                at = libc::CMSG_NXTHDR(&self.header, at);
            }
        }
        let (flags, wanted) = (self.header.msg_flags, self.most_descriptors);
        // Room for something else may have been room for descriptors.
        self.descriptors.truncate(wanted);
        self.descriptors_lost = wanted > 0 && flags & libc::MSG_CTRUNC != 0;
        if flags & libc::MSG_TRUNC != 0 { Status::BUFFER_OVERFLOW } else { Status::SUCCESS }
    }
}

/// Writes one control message.
///
/// # Safety
/// `at` begins as many bytes as [`space`] says for the data.
unsafe fn put<T: Copy>(at: *mut libc::cmsghdr, level: i32, kind: i32, data: &[T]) {
    // SAFETY: the caller's.
    unsafe {
        (*at).cmsg_level = level;
        (*at).cmsg_type = kind;
        (*at).cmsg_len = libc::CMSG_LEN(size_of_val(data) as u32) as _;
        let to = libc::CMSG_DATA(at).cast::<u8>();
        ptr::copy_nonoverlapping(data.as_ptr().cast::<u8>(), to, size_of_val(data));
    }
}
