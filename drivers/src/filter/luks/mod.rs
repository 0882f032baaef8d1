//! LUKS volumes, versions 1 and 2, that `cryptsetup` and QEMU read and write too.
//!
//! ```text
//!   first request ─▶ header, key slots ─▶ thread: passphrase ─▶ key     `unlock.rs`
//!                    `header.rs`, `luks1.rs`, `luks2.rs`                `apart.rs`, `key.rs`
//!   requests ──────▶ shifted behind the header, sectors (de)ciphered    this file, `volume.rs`, `xts.rs`, `small.rs`
//!   Luks::format ──▶ a new volume                                       `format.rs`
//! ```
//!
//! **Invariant.** What goes below this filter as data is enciphered, and nothing of the client's goes to
//! where the header is.

mod apart;
mod error;
mod format;
mod header;
mod key;
mod luks1;
mod luks2;
mod small;
mod unlock;
mod volume;
mod xts;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

pub use error::LuksError;
pub use format::Format;
pub use header::Header;
use overlapped_iomgr::buf::{AlignedBuf, IoBuf, IoBufMut};
use overlapped_iomgr::driver::Limits;
use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Class, Group, Major, MajorSet, Status, minor};
pub use unlock::Open;
use volume::{PIECE, Volume};
use zeroize::{Zeroize, Zeroizing};

use crate::class::{Allocate, Create, Hint, Metadata, Read, SetLength, Write, ops::CURRENT};
use crate::text::{Entry, Made, Secret};

/// Deciphers what is read of a LUKS volume, and enciphers what is written: AES-XTS, keys of 256 and 512
/// bits, sectors of 512 bytes or, in version 2, up to 4096.
///
/// The first request that needs the volume unlocks it: it reads the header and derives the key, which
/// takes a second or so, on a thread of its own. To do that early, ask for the file's metadata.
/// Until the file is closed the key stays in memory, and is wiped then.
///
/// ```
/// # mod overlapped {
/// #     pub use overlapped_iomgr::Driver;
/// #     pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::filter::Filter; }
/// # }
/// use overlapped::driver::{Filter, filter::Luks};
/// let driver = Luks::new("correct horse battery staple").into_driver();
/// # use overlapped::Driver as _;
/// assert_eq!(driver.name(), "luks");
/// ```
pub struct Luks {
    secret: Arc<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Luks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Luks").finish_non_exhaustive()
    }
}

impl Luks {
    /// Its name in stacks' texts.
    pub const ENTRY: Entry = Entry {
        name: "luks",
        about: "an encrypted volume: luks(key=@FILE), or luks(key=PASSPHRASE)",
        make: |p| {
            let Secret(secret) = p.main("key")?;
            Ok(Made::Filter(Luks::new(secret).into_driver()))
        },
    };

    /// Unlocks with this passphrase or key: these bytes and no others, with whatever is at their end.
    pub fn new(secret: impl Into<Vec<u8>>) -> Luks {
        Luks { secret: Arc::new(Zeroizing::new(secret.into())) }
    }

    /// Unlocks with what is in a file, all of it, which is read now.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn key_file(path: impl AsRef<Path>) -> io::Result<Luks> {
        std::fs::read(path).map(Luks::new)
    }

    /// The volume, which is unlocked first if it is not.
    #[inline]
    async fn volume<'a>(&self, open: &'a Open, next: Next<'_>) -> Result<&'a Volume, Status> {
        match open.unlocked() {
            Some(volume) => Ok(volume),
            // In a box: the futures of all the others need no room for it.
            None => Box::pin(open.unlock(&self.secret, next)).await,
        }
    }
}

impl Filter for Luks {
    type Open = Open;

    fn name(&self) -> &str {
        "luks"
    }

    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Create,
            Major::Read,
            Major::Write,
            Major::QueryInformation,
            Major::SetInformation,
        ])
    }

    fn class(&self) -> Class {
        Class::Transform
    }

    fn group(&self) -> Option<Group> {
        Some(Group::Encrypt)
    }

    /// Which size a volume's sectors have is known only when its header has been read: larger ones are
    /// made whole here.
    fn limits(&self, below: Limits) -> Limits {
        let block = below.block.max(512);
        Limits { block, one_piece: true, preferred: below.preferred.max(4096), ..below }
    }

    async fn read(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let at = io.offset();
        if at == CURRENT || io.minor() != minor::NONE {
            return Err(Status::NOT_SUPPORTED);
        }
        let volume = self.volume(open, next).await?;
        let (sector, len) = (volume.sector(), volume.within(at, io.len()));
        if !at.is_multiple_of(sector as u64) || !len.is_multiple_of(sector) {
            return Box::pin(read_parts(volume, next, io, len)).await;
        }
        if len == 0 {
            return Ok(0);
        }
        let n = next.forward(&mut io).at(volume.place(at)?, len as u32).await?;
        if n > 0 && n < sector {
            // Less than is of use, and perhaps not the file's end.
            return Box::pin(read_parts(volume, next, io, sector)).await;
        }
        // What there is of a sector that the file's end cuts is nothing.
        let n = n.min(len) / sector * sector;
        let mut done = 0;
        while done < n {
            let part = done..n.min(done + PIECE);
            let data = io.received_mut(n).next().ok_or(Status::DRIVER_INTERNAL_ERROR)?;
            volume.xts.decipher(volume.tweak(at + done as u64), &mut data[part.clone()])?;
            done = part.end;
            if done < n {
                let_others_go_on().await;
            }
        }
        Ok(n)
    }

    async fn write(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let at = io.offset();
        // At the end of the file, wherever that is, nothing can be enciphered.
        if at == CURRENT || !matches!(io.minor(), minor::NONE | minor::ALL) || io.file().appends() {
            return Err(Status::NOT_SUPPORTED);
        }
        let volume = self.volume(open, next).await?;
        let (sector, len) = (volume.sector(), volume.within(at, io.len()));
        if len == 0 {
            return if io.is_empty() { Ok(0) } else { Err(Status::DISK_FULL) };
        }
        let whole = whole_sectors(volume, at, len)?;
        let is_whole = whole == (at, len);
        let _lock = if sector > 512 {
            let range = whole.0..whole.0 + whole.1 as u64;
            Some(volume.locks.lock_for(next, range, !is_whole).await?)
        } else {
            None
        };
        if !is_whole {
            return Box::pin(write_parts(volume, next, io, len, whole)).await;
        }
        volume.place(at + len as u64)?;
        let mut done = 0;
        while done < len {
            let part = done..len.min(done + PIECE);
            let mut buffer = volume.buffer(part.len())?;
            let data = io.segments().next().and_then(|data| data.get(part.clone()));
            let data = data.ok_or(Status::DRIVER_INTERNAL_ERROR)?;
            let tweak = volume.tweak(at + done as u64);
            volume.xts.encipher(tweak, data, &mut buffer[..part.len()])?;
            let (result, buffer) =
                send(next, &mut io, buffer, part.len(), volume.place(at + done as u64)?).await;
            volume.give_back(buffer);
            match result {
                Ok(n) => done += n / sector * sector,
                Err(status) if done == 0 => return Err(status),
                Err(_) => break,
            }
            if done < part.end {
                break;
            }
        }
        Ok(done)
    }

    async fn other(&self, open: &Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match (io.major(), io.minor()) {
            (Major::Create, _) => {
                // It would take the header away.
                let flags = io.payload::<Create>().map_or(0, |create| create.flags);
                if flags & libc::O_TRUNC != 0 && flags & libc::O_EXCL == 0 {
                    return Err(Status::NOT_SUPPORTED);
                }
                next.forward(&mut io).await
            }
            (Major::QueryInformation, minor::NONE) => {
                let n = next.forward(&mut io).await?;
                let kind = io.payload::<Metadata>().map(Metadata::file_type);
                if kind.is_some_and(|kind| kind.is_file() || kind.is_block_device()) {
                    let volume = self.volume(open, next).await?;
                    if let Some(metadata) = io.payload_mut::<Metadata>() {
                        let (len, allocated) = (metadata.len(), metadata.allocated());
                        *metadata = metadata.clone().sized(volume.len(len), allocated);
                    }
                }
                Ok(n)
            }
            (Major::QueryInformation, _) => next.forward(&mut io).await,
            (Major::SetInformation, minor::NONE) => {
                let (volume, len) = (self.volume(open, next).await?, io.arg());
                if volume.is_fixed() {
                    return Err(Status::NOT_SUPPORTED);
                }
                if !len.is_multiple_of(volume.sector() as u64) {
                    return Err(Status::UNALIGNED);
                }
                let set = next.request(SetLength { len: volume.place(len)? }).await;
                set.map(|()| 0).map_err(|error| Status::from(&error))
            }
            (Major::SetInformation, minor::ALLOCATION) => {
                let volume = self.volume(open, next).await?;
                let its = *io.payload::<Allocate>().ok_or(Status::INVALID_PARAMETER)?;
                let its = Allocate { offset: volume.place(its.offset)?, ..its };
                next.request(its).await.map(|()| 0).map_err(|error| Status::from(&error))
            }
            (Major::SetInformation, minor::HINT) => {
                let volume = self.volume(open, next).await?;
                let its = *io.payload::<Hint>().ok_or(Status::INVALID_PARAMETER)?;
                let its = Hint { offset: volume.place(its.offset)?, ..its };
                next.request(its).await.map(|()| 0).map_err(|error| Status::from(&error))
            }
            // Of names, not of data.
            (
                Major::SetInformation,
                minor::RENAME
                | minor::LINK
                | minor::DISPOSITION
                | minor::REPARSE_POINT
                | minor::POSITION,
            ) => next.forward(&mut io).await,
            _ => Err(Status::NOT_SUPPORTED),
        }
    }
}

/// Gives the other requests of the thread a turn, in the middle of many bytes.
async fn let_others_go_on() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Where the whole sectors around some bytes begin, and how many bytes they have.
fn whole_sectors(volume: &Volume, at: u64, len: usize) -> Result<(u64, usize), Status> {
    let sector = volume.sector() as u64;
    let (begin, end) = (at / sector * sector, at.checked_add(len as u64));
    let end = end.and_then(|end| end.checked_next_multiple_of(sector));
    let end = end.ok_or(Status::OFFSET_OVERFLOW)?;
    Ok((begin, usize::try_from(end - begin).map_err(|_| Status::OFFSET_OVERFLOW)?))
}

/// Sends a buffer's first bytes below in a write's place, all of them if that can be.
async fn send<'a>(
    next: Next<'a>,
    io: &mut Io<'a>,
    buffer: AlignedBuf,
    len: usize,
    at: u64,
) -> (Result<usize, Status>, AlignedBuf) {
    // The whole buffer, as it needs no memory to be lent; a part of it is rare.
    let (mut result, mut buffer) = next.forward(io).at(at, len as u32).from(buffer).await;
    let mut done = 0;
    loop {
        match result {
            Ok(n) => done += n,
            Err(status) if done == 0 => return (Err(status), buffer),
            Err(_) => break,
        }
        if done >= len || result == Ok(0) {
            break;
        }
        let forward = next.forward(io).at(at + done as u64, (len - done) as u32);
        let part;
        (result, part) = forward.from(buffer.slice(done..len)).await;
        buffer = part.into_inner();
    }
    (Ok(done), buffer)
}

/// Plain bytes of whole sectors, wiped when they go. Fewer where the file ends.
struct Plain(AlignedBuf);

impl Drop for Plain {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Reads whole sectors. What lies behind the file's end is zero.
async fn fetch(
    volume: &Volume,
    next: Next<'_>,
    at: u64,
    len: usize,
) -> Result<(usize, Plain), Status> {
    let mut buffer = AlignedBuf::try_new(len, 4096).map_err(|error| Status::from(&error))?;
    let (place, mut n) = (volume.place(at)?, 0);
    while n < len {
        let part = buffer.slice_mut(n..len);
        let (got, part) = match next.request(Read::at(part, place + n as u64)).await {
            Ok((got, part)) => (got, part),
            Err(error) => return Err(error.status()),
        };
        buffer = part.into_inner();
        if got == 0 {
            break;
        }
        n += got;
    }
    let n = n / volume.sector() * volume.sector();
    let mut plain = Plain(buffer);
    volume.xts.decipher(volume.tweak(at), &mut plain.0[..n])?;
    plain.0[n..].fill(0);
    Ok((n, plain))
}

/// Reads what is not whole sectors.
async fn read_parts(
    volume: &Volume,
    next: Next<'_>,
    mut io: Io<'_>,
    len: usize,
) -> Result<usize, Status> {
    let at = io.offset();
    let mut done = 0;
    while done < len {
        let from = at + done as u64;
        let (begin, many) = whole_sectors(volume, from, (len - done).min(PIECE))?;
        let (n, plain) = match fetch(volume, next, begin, many).await {
            Ok(fetched) => fetched,
            Err(status) if done == 0 => return Err(status),
            Err(_) => break,
        };
        let skip = (from - begin) as usize;
        let upto = n.min(skip + (len - done).min(PIECE));
        let got = plain.0.get(skip..upto).unwrap_or(&[]);
        io.put(done, got);
        done += got.len();
        if n < many || got.is_empty() {
            break;
        }
    }
    Ok(done)
}

/// Writes what is not whole sectors, which are locked.
async fn write_parts(
    volume: &Volume,
    next: Next<'_>,
    io: Io<'_>,
    len: usize,
    (begin, many): (u64, usize),
) -> Result<usize, Status> {
    let (at, sector) = (io.offset(), volume.sector());
    let mut done = 0;
    let end = begin + many as u64;
    while done < len {
        let from = (at + done as u64) / sector as u64 * sector as u64;
        let many = ((end - from) as usize).min(PIECE);
        let mut plain = Plain(AlignedBuf::new(many, 4096));
        let upto = (at + len as u64).min(from + many as u64);
        let (head, tail) = (from, from + (many - sector) as u64);
        // They may be the same.
        for edge in [Some(head), (head != tail).then_some(tail)].into_iter().flatten() {
            if edge < at || edge + sector as u64 > upto {
                let (_, old) = fetch(volume, next, edge, sector).await?;
                let place = (edge - from) as usize;
                plain.0[place..place + sector].copy_from_slice(&old.0);
            }
        }
        let skip = at.saturating_sub(from) as usize;
        io.copy_out(done, &mut plain.0[skip..(upto - from) as usize]);
        // Enciphered in its place: no plain bytes are left in it.
        volume.xts.encipher_in_place(volume.tweak(from), &mut plain.0)?;
        let mut sent = 0;
        while sent < many {
            let part = std::mem::replace(&mut plain.0, AlignedBuf::new(0, 4096)).slice(sent..);
            let place = volume.place(from + sent as u64)?;
            match next.request(Write::at(part, place)).await {
                Ok((0, _)) => break,
                Ok((n, part)) => {
                    sent += n;
                    plain.0 = part.into_inner();
                }
                Err(error) if done == 0 => return Err(error.status()),
                Err(_) => return Ok(done),
            }
        }
        let reached = (from + (sent / sector * sector) as u64).min(upto);
        done = reached.saturating_sub(at).max(done as u64) as usize;
        if sent < many {
            break;
        }
    }
    Ok(done)
}
