//! One try of one operation: in the world, with its faults, into its memory.

use std::ffi::{c_int, c_void};

use overlapped_iomgr::buf::Lease;
use overlapped_iomgr::hal::Op;

use super::buffers::{BUFFER, Buffers};
use super::faults::{Fate, Fault};
use super::memory::{self, Memory};
use super::numbers::Numbers;
use super::trace::digest;
use super::world::{Address, Attributes, BLOCK, Delivery, Index, OpenHow, Outcome, World};

/// What a try has come to.
pub(super) struct Did {
    pub(super) result: i32,
    pub(super) lease: Option<Lease>,
    /// Stands for the data moved.
    pub(super) digest: u64,
}

impl Did {
    pub(super) fn plain(result: i32) -> Did {
        Did { result, lease: None, digest: 0 }
    }
}

/// What operations are tried on.
pub(super) struct Machine {
    pub(super) world: World,
    pub(super) fate: Fate,
    pub(super) numbers: Numbers,
    pub(super) buffers: Buffers,
}

/// The offset that means the file's own position.
fn offset(offset: u64) -> Option<u64> {
    (offset != u64::MAX).then_some(offset)
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

impl Machine {
    /// Tries the operation. `EAGAIN`: it would have to wait. `sent`: how much of a send that wants
    /// all to be sent has been.
    ///
    /// # Safety
    /// It is in flight (`memory`'s invariant), and none for the thread pool.
    pub(super) unsafe fn attempt(&mut self, op: &Op, sent: &mut usize) -> Outcome<Did> {
        let done = |()| Did::plain(0);
        match *op {
            Op::Nop => Ok(Did::plain(0)),
            Op::Read { fd, offset: at, .. } | Op::ReadV { fd, offset: at, .. } => {
                // SAFETY: the caller's.
                unsafe { self.read_file(fd, offset(at), op) }
            }
            Op::Write { fd, offset: at, .. } | Op::WriteV { fd, offset: at, .. } => {
                // SAFETY: the caller's.
                unsafe { self.write_file(fd, offset(at), op) }
            }
            Op::ReadStream { fd, .. } | Op::Recv { fd, .. } | Op::RecvMsg { fd, .. } => {
                // SAFETY: the caller's.
                unsafe { self.receive(fd, op) }
            }
            Op::WriteStream { fd, .. } | Op::Send { fd, .. } | Op::SendMsg { fd, .. } => {
                // SAFETY: the caller's.
                unsafe { self.send(fd, op, sent) }
            }
            Op::RecvPooled { fd, len } => self.receive_pooled(fd, len),
            Op::Accept { fd } => self.accept(fd),
            Op::Connect { fd, addr, len } => {
                let index = self.numbers.index(fd)?;
                // SAFETY: the caller's.
                let to = Address::of(&unsafe { memory::address(addr, len) }?)?;
                if !self.world.has_messages(index) {
                    self.fate.check(Fault::Refused, libc::ECONNREFUSED)?;
                }
                self.world.connect(index, to).map(done)
            }
            Op::Shutdown { fd, how } => self.world.shutdown(self.numbers.index(fd)?, how).map(done),
            Op::Poll { fd, events } => {
                let ready = self.world.readiness(self.numbers.index(fd)?)?;
                let always = libc::POLLERR | libc::POLLHUP;
                match i32::from(ready & (events as i16 | always)) {
                    0 => Err(libc::EAGAIN),
                    mask => Ok(Did::plain(mask)),
                }
            }
            Op::Close { fd, .. } => {
                let index = self.numbers.index(fd)?;
                let is_file = self.world.file(index).is_ok();
                self.world.close(index)?;
                if is_file {
                    self.fate.check(Fault::IoError, libc::EIO)?;
                }
                Ok(Did::plain(0))
            }
            // SAFETY: the caller's.
            _ => unsafe { self.file_operation(op) },
        }
    }

    /// # Safety
    /// As [`Machine::attempt`].
    unsafe fn read_file(&mut self, fd: c_int, at: Option<u64>, op: &Op) -> Outcome<Did> {
        let index = self.numbers.index(fd)?;
        let direct = self.world.file(index)?.direct;
        self.fate.check(Fault::IoError, libc::EIO)?;
        // SAFETY: the caller's.
        unsafe {
            let memory = memory::of(op).expect("it reads");
            let len = memory.len();
            self.check_aligned(direct, at, memory)?;
            let most = if direct { len } else { self.fate.cut(Fault::ShortRead, len) };
            let bytes = self.world.read(index, at, most)?;
            memory.fill(&bytes);
            Ok(Did { digest: digest(&bytes), ..Did::plain(number(bytes.len())) })
        }
    }

    /// # Safety
    /// As [`Machine::attempt`].
    unsafe fn write_file(&mut self, fd: c_int, at: Option<u64>, op: &Op) -> Outcome<Did> {
        let index = self.numbers.index(fd)?;
        let direct = self.world.file(index)?.direct;
        self.fate.check(Fault::IoError, libc::EIO)?;
        self.fate.check(Fault::NoSpace, libc::ENOSPC)?;
        // SAFETY: the caller's.
        let bytes = unsafe {
            let memory = memory::of(op).expect("it writes");
            self.check_aligned(direct, at, memory)?;
            memory.bytes()
        };
        let n = if direct { bytes.len() } else { self.fate.cut(Fault::ShortWrite, bytes.len()) };
        let n = self.world.write(index, at, &bytes[..n])?;
        Ok(Did { digest: digest(&bytes[..n]), ..Did::plain(number(n)) })
    }

    /// # Safety
    /// The memory is that of an operation in flight.
    unsafe fn check_aligned(&self, direct: bool, at: Option<u64>, memory: Memory) -> Outcome<()> {
        // SAFETY: the caller's.
        let aligned = at.is_none_or(|at| at.is_multiple_of(BLOCK))
            && unsafe { memory.is_aligned(BLOCK as usize) };
        if direct && !aligned { Err(libc::EINVAL) } else { Ok(()) }
    }

    /// So many bytes can be received from a stream, or sent to it: how many are; or it breaks.
    fn meddle(&mut self, index: Index, short: Fault, n: usize) -> usize {
        if n > 0 && self.world.is_connection(index) && self.fate.strikes(Fault::Reset) {
            // It is a connection, so it can be.
            let _ = self.world.reset(index);
        }
        self.fate.cut(short, n)
    }

    /// # Safety
    /// As [`Machine::attempt`].
    unsafe fn receive(&mut self, fd: c_int, op: &Op) -> Outcome<Did> {
        let index = self.numbers.index(fd)?;
        let flags = match *op {
            Op::Recv { flags, .. } | Op::RecvMsg { flags, .. } => flags,
            _ => 0,
        };
        let peek = flags & libc::MSG_PEEK != 0;
        // SAFETY: the caller's.
        unsafe {
            let memory = memory::of(op).expect("it receives");
            let len = memory.len();
            if self.world.has_messages(index) {
                let message = self.world.receive_message(index, peek)?;
                let n = len.min(message.bytes.len());
                memory.fill(&message.bytes);
                if let Op::RecvMsg { msg, .. } = *op {
                    let from = message.from.to_system()?;
                    let from = (message.from != Address::None).then_some(&from);
                    memory::received(msg, from, n < message.bytes.len());
                }
                return Ok(Did { digest: digest(&message.bytes), ..Did::plain(number(n)) });
            }
            let bytes = match self.world.file(index) {
                // A file that stands in for a stream.
                Ok(_) => self.world.read(index, None, len)?,
                Err(_) => {
                    let n = len.min(self.world.available(index)?);
                    let n = if n == 0 { len } else { self.meddle(index, Fault::ShortRead, n) };
                    self.world.receive(index, n, peek)?
                }
            };
            memory.fill(&bytes);
            if let Op::RecvMsg { msg, .. } = *op {
                memory::received(msg, None, false);
            }
            Ok(Did { digest: digest(&bytes), ..Did::plain(number(bytes.len())) })
        }
    }

    fn receive_pooled(&mut self, fd: c_int, most: u32) -> Outcome<Did> {
        let index = self.numbers.index(fd)?;
        let n = self.world.available(index)?.min(BUFFER as usize);
        if n == 0 {
            // The end, an error, or nothing yet.
            let nothing = self.world.receive(index, 1, false)?;
            return Ok(Did::plain(number(nothing.len())));
        }
        self.fate.check(Fault::NoBuffers, libc::ENOBUFS)?;
        let id = self.buffers.take().ok_or(libc::ENOBUFS)?;
        let n = if most == 0 { n } else { n.min(most as usize) };
        let n = self.meddle(index, Fault::ShortRead, n);
        match self.world.receive(index, n, false) {
            Ok(bytes) => {
                let lease = Some(self.buffers.lease(id, &bytes));
                Ok(Did { result: number(bytes.len()), lease, digest: digest(&bytes) })
            }
            Err(errno) => {
                self.buffers.give_back(id);
                Err(errno)
            }
        }
    }

    /// # Safety
    /// As [`Machine::attempt`].
    unsafe fn send(&mut self, fd: c_int, op: &Op, sent: &mut usize) -> Outcome<Did> {
        let index = self.numbers.index(fd)?;
        // SAFETY: the caller's.
        let (bytes, sending) = unsafe {
            let bytes = memory::of(op).expect("it sends").bytes();
            let sending = match *op {
                Op::SendMsg { msg, .. } => memory::sending(msg)?,
                _ => Default::default(),
            };
            (bytes, sending)
        };
        let did = |n: usize| Did { digest: digest(&bytes[..n]), ..Did::plain(number(n)) };
        if self.world.has_messages(index) {
            let to = sending.to.as_ref().map(Address::of).transpose()?;
            self.fate.check(Fault::NoBuffers, libc::ENOBUFS)?;
            let size = sending.segment.map_or(bytes.len(), usize::from).max(1);
            let pieces: Vec<&[u8]> =
                if bytes.is_empty() { vec![&bytes] } else { bytes.chunks(size).collect() };
            for (i, piece) in pieces.into_iter().enumerate() {
                let fate = &mut self.fate;
                let delivery = |waiting: usize| deliver(fate, waiting);
                match self.world.send_message(index, to.as_ref(), piece, delivery) {
                    // Those before have gone.
                    Err(_) if i > 0 => break,
                    sent => sent?,
                };
            }
            return Ok(did(bytes.len()));
        }
        if self.world.file(index).is_ok() {
            return Ok(did(self.world.write(index, None, &bytes)?));
        }
        let all = matches!(*op, Op::Send { flags, .. } if flags & libc::MSG_WAITALL != 0);
        let before = *sent;
        let tried = self.world.room(index, bytes.len() - before).and_then(|room| {
            let n = self.meddle(index, Fault::ShortWrite, room);
            let n = self.world.send(index, &bytes[before..before + n])?;
            Ok((n, n < room))
        });
        match tried {
            Ok((n, short)) => {
                *sent += n;
                // The rest waits for room.
                if all && !short && *sent < bytes.len() {
                    Err(libc::EAGAIN)
                } else {
                    Ok(did(*sent))
                }
            }
            Err(libc::EAGAIN) => Err(libc::EAGAIN),
            // What has gone has gone.
            Err(_) if before > 0 => Ok(did(before)),
            Err(errno) => Err(errno),
        }
    }

    fn accept(&mut self, fd: c_int) -> Outcome<Did> {
        let index = self.numbers.index(fd)?;
        if self.world.readiness(index)? & libc::POLLIN != 0 {
            self.fate.check(Fault::NoDescriptors, libc::EMFILE)?;
        }
        Ok(Did::plain(self.numbers.fd(self.world.accept(index)?)))
    }

    /// # Safety
    /// As [`Machine::attempt`].
    unsafe fn file_operation(&mut self, op: &Op) -> Outcome<Did> {
        let done = |()| Did::plain(0);
        let (numbers, world) = (self.numbers, &mut self.world);
        if !matches!(op, Op::Advise { .. }) {
            self.fate.check(Fault::IoError, libc::EIO)?;
        }
        // SAFETY, of the paths and structures: the caller's.
        match *op {
            Op::Open { at, path, flags, mode } => {
                self.fate.check(Fault::NoDescriptors, libc::EMFILE)?;
                // SAFETY: as above.
                let path = unsafe { memory::path(path) };
                let index = world.open(numbers.at(at)?, path, OpenHow { flags, mode })?;
                Ok(Did::plain(numbers.fd(index)))
            }
            Op::Sync { fd, .. } => world.file(numbers.index(fd)?).map(|_| Did::plain(0)),
            Op::Stat { fd, out } => {
                let found = world.stat(numbers.index(fd)?)?;
                // SAFETY: as above.
                Ok(unsafe { tell(out, &found) })
            }
            Op::StatPath { at, path, flags, out } => {
                let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
                // SAFETY: as above.
                let path = unsafe { memory::path(path) };
                let found = world.stat_path(numbers.at(at)?, path, follow)?;
                // SAFETY: as above.
                Ok(unsafe { tell(out, &found) })
            }
            Op::Rename { at, from, to } => {
                // SAFETY: as above.
                let (from, to) = unsafe { (memory::path(from), memory::path(to)) };
                world.rename(numbers.at(at)?, from, to).map(done)
            }
            Op::Unlink { at, path, flags } => {
                // SAFETY: as above.
                let path = unsafe { memory::path(path) };
                world.unlink(numbers.at(at)?, path, flags & libc::AT_REMOVEDIR != 0).map(done)
            }
            Op::MakeDirectory { at, path, mode } => {
                // SAFETY: as above.
                let path = unsafe { memory::path(path) };
                world.make_directory(numbers.at(at)?, path, mode).map(done)
            }
            Op::Link { at, from, to, flags } => {
                // SAFETY: as above.
                let (from, to) = unsafe { (memory::path(from), memory::path(to)) };
                let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
                let index = |fd| numbers.index(fd);
                world.link(numbers.at(at)?, from, to, follow, index).map(done)
            }
            Op::SymbolicLink { at, target, path } => {
                // SAFETY: as above.
                let (target, path) = unsafe { (memory::path(target), memory::path(path)) };
                world.symbolic_link(numbers.at(at)?, target, path).map(done)
            }
            Op::Allocate { fd, mode, offset, len } => {
                self.fate.check(Fault::NoSpace, libc::ENOSPC)?;
                world.allocate(numbers.index(fd)?, mode, offset, len).map(done)
            }
            Op::Advise { fd, .. } => world.file(numbers.index(fd)?).map(|_| Did::plain(0)),
            Op::SetLength { fd, len } => world.set_len(numbers.index(fd)?, len).map(done),
            _ => Err(libc::EOPNOTSUPP),
        }
    }
}

/// What becomes of a datagram that finds so many others waiting.
fn deliver(fate: &mut Fate, waiting: usize) -> Delivery {
    if fate.strikes(Fault::Lost) {
        Delivery::Lost
    } else if fate.strikes(Fault::Duplicated) {
        Delivery::Twice
    } else if waiting > 0 && fate.strikes(Fault::Reordered) {
        Delivery::Overtaking(1 + fate.random.below(waiting as u64) as usize)
    } else {
        Delivery::Plain
    }
}

/// # Safety
/// `out` is a `struct statx` of an operation in flight.
unsafe fn tell(out: *mut c_void, found: &Attributes) -> Did {
    // SAFETY: the caller's.
    unsafe { memory::attributes(out, found) };
    Did::plain(0)
}
