//! What a volume's header says, of both versions.

use super::error::LuksError;
use super::key::{Digest, Slot};
use super::{luks1, luks2};

/// The first bytes of a header, and of the second copy that version 2 has.
pub(super) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
pub(super) const MAGIC_2: &[u8; 6] = b"SKUL\xba\xbe";

/// As many key slots as version 2 may have.
const MOST_SLOTS: usize = 32;

/// A volume's header, read and found sound.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::luks::{Header, LuksError};
/// assert_eq!(Header::parse(b"nothing of the kind").unwrap_err(), LuksError::NotLuks);
/// ```
pub struct Header {
    pub(super) version: u8,
    /// First byte of the data, and bytes, if that does not depend on the file's length.
    pub(super) payload: u64,
    pub(super) size: Option<u64>,
    pub(super) sector: usize,
    /// The first sector's tweak.
    pub(super) tweak: u64,
    /// Those in use, and what tells the right key.
    pub(super) slots: Vec<(Slot, Digest)>,
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header")
            .field("version", &self.version)
            .field("payload_offset", &self.payload)
            .field("sector_size", &self.sector)
            .field("key_slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl Header {
    /// Bytes that tell how long a header is.
    pub const START: usize = 4096;

    /// Bytes of the whole header, from its [`Header::START`]; key slots are not part of it.
    ///
    /// # Errors
    /// [`LuksError::NotLuks`] and [`LuksError::Damaged`].
    pub fn len_of(start: &[u8]) -> Result<usize, LuksError> {
        match version(start)? {
            1 => Ok(luks1::LEN),
            _ => luks2::len_of(start),
        }
    }

    /// Reads a header: [`Header::len_of`] bytes, or more.
    ///
    /// # Errors
    /// All but [`LuksError::WrongKey`]. Never a panic, whatever the bytes.
    pub fn parse(bytes: &[u8]) -> Result<Header, LuksError> {
        let (header, own) = match version(bytes)? {
            1 => (luks1::parse(bytes)?, luks1::LEN),
            _ => (luks2::parse(bytes)?, 2 * luks2::len_of(bytes)?),
        };
        let (sector, own) = (header.sector as u64, own as u64);
        if header.payload == 0 {
            return Err(LuksError::Unsupported("a header that is not in the data's file".into()));
        }
        if !(own..=i64::MAX as u64).contains(&header.payload) || !header.payload.is_multiple_of(512)
        {
            return Err(LuksError::Damaged("the offset of the data"));
        }
        if header.size.is_some_and(|size| size == 0 || !size.is_multiple_of(sector)) {
            return Err(LuksError::Damaged("the length of the data"));
        }
        if header.slots.len() > MOST_SLOTS {
            return Err(LuksError::Damaged("the number of key slots"));
        }
        for (slot, digest) in &header.slots {
            slot.derivation.check()?;
            digest.check()?;
            if !matches!(slot.key_len, 32 | 64) || !matches!(slot.area_key_len, 32 | 64) {
                let what = format!("keys of {} and {} bytes", slot.key_len, slot.area_key_len);
                return Err(LuksError::Unsupported(what));
            }
            // Between the header and the data, which would be written over it.
            let room = header.payload.checked_sub(slot.area).filter(|_| slot.area >= own);
            let len = slot.area_len().filter(|_| slot.stripes > 0);
            if len.zip(room).is_none_or(|(len, room)| len as u64 > room) {
                return Err(LuksError::Damaged("a key slot's area"));
            }
        }
        Ok(header)
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// The first byte of the data in the file.
    pub fn payload_offset(&self) -> u64 {
        self.payload
    }

    /// Bytes of a sector.
    pub fn sector_size(&self) -> usize {
        self.sector
    }

    /// Key slots in use.
    pub fn key_slots(&self) -> usize {
        self.slots.len()
    }
}

/// Checks that the header that begins with these bytes is the one of the volume, or its second copy, if it
/// was found at that offset: a disk may have volumes on it, with headers of their own.
pub(super) fn check_place(start: &[u8], at: u64) -> Result<(), LuksError> {
    if !start.starts_with(if at == 0 { MAGIC } else { MAGIC_2 }) {
        return Err(LuksError::NotLuks);
    }
    match version(start)? {
        2 if Fields(start).u64(256)? != at => Err(LuksError::Damaged("its place")),
        _ => Ok(()),
    }
}

fn version(bytes: &[u8]) -> Result<u16, LuksError> {
    let magic = bytes.get(..6).ok_or(LuksError::NotLuks)?;
    if magic != MAGIC && magic != MAGIC_2 {
        return Err(LuksError::NotLuks);
    }
    match Fields(bytes).u16(6)? {
        1 if magic == MAGIC => Ok(1),
        2 => Ok(2),
        other => Err(LuksError::Unsupported(format!("version {other}"))),
    }
}

/// The only cipher: any other is not supported.
pub(super) fn check_cipher(name: &str) -> Result<(), LuksError> {
    if name == "aes-xts-plain64" {
        return Ok(());
    }
    // It may be anything.
    let name: String = name.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    Err(LuksError::Unsupported(format!("the cipher '{name}'")))
}

/// The fields of a header: numbers have their highest byte first.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&self, at: usize, len: usize) -> Result<&'a [u8], LuksError> {
        self.0.get(at..at + len).ok_or(LuksError::Damaged("it ends in the middle"))
    }

    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], LuksError> {
        Ok(self.bytes(at, N)?.try_into().expect("so many bytes"))
    }

    pub(super) fn u16(&self, at: usize) -> Result<u16, LuksError> {
        self.array(at).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&self, at: usize) -> Result<u32, LuksError> {
        self.array(at).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> Result<u64, LuksError> {
        self.array(at).map(u64::from_be_bytes)
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&self, at: usize, len: usize) -> Result<&'a str, LuksError> {
        let bytes = self.bytes(at, len)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(len);
        std::str::from_utf8(&bytes[..end]).map_err(|_| LuksError::Damaged("a name in it"))
    }
}
