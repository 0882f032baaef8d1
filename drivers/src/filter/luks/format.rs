//! Making volumes.

use argon2::Algorithm;
use openssl::rand;
use overlapped_iomgr::buf::{AlignedBuf, IoBuf};
use overlapped_iomgr::{FileObject, Request, Status};
use zeroize::Zeroizing;

use super::apart::apart;
use super::error::LuksError;
use super::key::{Derivation, Digest, Key, STRIPES, Slot, hash};
use super::unlock::BLOCK;
use super::{Luks, luks1, luks2};
use crate::class::{Flush, QueryInformation, SetLength, Write};

/// How a volume is to be made; see [`Luks::format`].
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::luks::Format;
/// let format = Format::luks2().sector(4096).argon2id(4, 1 << 20, 4);
/// assert_eq!(format, Format::luks2().argon2id(4, 1 << 20, 4).sector(4096));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    version: u8,
    key_bits: usize,
    sector: usize,
    hash: &'static str,
    derivation: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Pbkdf2 { iterations: u32 },
    Argon2id { time: u32, memory: u32, lanes: u32 },
}

impl Format {
    /// Version 1: keys of 512 bits (AES-256), sectors of 512 bytes, PBKDF2 with SHA-256 and a million
    /// iterations. For QEMU and old systems.
    pub fn luks1() -> Format {
        let derivation = Kind::Pbkdf2 { iterations: 1_000_000 };
        Format { version: 1, key_bits: 512, sector: 512, hash: "sha256", derivation }
    }

    /// Version 2: keys of 512 bits (AES-256), sectors of 512 bytes, Argon2id with 256 MiB, four passes
    /// and four lanes.
    pub fn luks2() -> Format {
        Format { version: 2, ..Format::luks1() }.argon2id(4, 256 << 10, 4)
    }

    /// Bits of the key: 512, or 256 (AES-128).
    pub fn key_bits(mut self, bits: usize) -> Format {
        self.key_bits = bits;
        self
    }

    /// Bytes of a sector: 512; in version 2 also 1024, 2048 or 4096.
    pub fn sector(mut self, bytes: usize) -> Format {
        self.sector = bytes;
        self
    }

    /// The hash for all that needs one: `sha1`, `sha256` or `sha512`.
    pub fn hash(mut self, hash: &'static str) -> Format {
        self.hash = hash;
        self
    }

    /// Derives the key by PBKDF2.
    pub fn pbkdf2(mut self, iterations: u32) -> Format {
        self.derivation = Kind::Pbkdf2 { iterations };
        self
    }

    /// Derives the key by Argon2id: passes, KiB of memory, and lanes. Version 2 only.
    pub fn argon2id(mut self, time: u32, memory: u32, lanes: u32) -> Format {
        self.derivation = Kind::Argon2id { time, memory, lanes };
        self
    }

    fn check(&self) -> Result<(), LuksError> {
        let wrong = |what: String| Err(LuksError::Unsupported(what));
        match (self.version, self.sector) {
            (_, 512) | (2, 1024 | 2048 | 4096) => {}
            (version, n) => return wrong(format!("sectors of {n} bytes in version {version}")),
        }
        if !matches!(self.key_bits, 256 | 512) {
            return wrong(format!("keys of {} bits", self.key_bits));
        }
        if self.version == 1 && !matches!(self.derivation, Kind::Pbkdf2 { .. }) {
            return wrong("Argon2 in version 1".into());
        }
        Ok(())
    }

    /// The parts of the file: what is at its start, and what is in the key slot's area. Takes time.
    fn make(&self, secret: &[u8]) -> Result<Parts, LuksError> {
        let hash = hash(self.hash)?;
        let key_len = self.key_bits / 8;
        let mut key = Zeroizing::new(vec![0; key_len]);
        rand::rand_priv_bytes(&mut key)?;
        let derivation = match self.derivation {
            Kind::Pbkdf2 { iterations } => {
                Derivation::Pbkdf2 { hash, salt: random(luks1::SALT)?, iterations }
            }
            Kind::Argon2id { time, memory, lanes } => Derivation::Argon2 {
                algorithm: Algorithm::Argon2id,
                salt: random(luks1::SALT)?,
                time,
                memory,
                lanes,
            },
        };
        derivation.check()?;
        let area = match self.version {
            1 => luks1::area(0, key_len, STRIPES) * 512,
            _ => luks2::AREA,
        };
        let area_key_len = key_len;
        let slot = Slot { derivation, hash, stripes: STRIPES, key_len, area_key_len, area };
        // The key is random: this is no passphrase to be searched for.
        let mut digest =
            Digest { hash, salt: random(luks1::SALT)?, iterations: 10_000, digest: Vec::new() };
        let len = if self.version == 1 { luks1::DIGEST } else { hash.size() };
        digest.digest = digest.of(&key, len)?;
        let uuid = uuid()?;
        let (header, payload) = if self.version == 1 {
            let payload = (luks1::area(8, key_len, STRIPES) * 512).next_multiple_of(1 << 20);
            (luks1::write(self.hash, payload, &uuid, &slot, &digest)?, payload)
        } else {
            let mut salts = [[0; 64]; 2];
            for salt in &mut salts {
                rand::rand_bytes(salt)?;
            }
            let (slot, digest, uuid) = (&slot, &digest, &*uuid);
            let (hash, sector) = (self.hash, self.sector);
            let new = luks2::New { hash, uuid, sector, slot, digest, salts };
            (luks2::write(&new)?, luks2::PAYLOAD)
        };
        let keys = slot.close(secret, &key)?;
        Ok(Parts { header, keys, area, payload })
    }
}

struct Parts {
    header: Vec<u8>,
    keys: Vec<u8>,
    area: u64,
    payload: u64,
}

fn random(len: usize) -> Result<Vec<u8>, LuksError> {
    let mut bytes = vec![0; len];
    rand::rand_bytes(&mut bytes)?;
    Ok(bytes)
}

/// One of version 4, in its usual form.
fn uuid() -> Result<String, LuksError> {
    let mut bytes = [0; 16];
    rand::rand_bytes(&mut bytes)?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

impl Luks {
    /// Makes an empty volume of a file, whatever is in it: a header, with a new key behind this passphrase
    /// or key. The file is opened without this filter. What lies where the data will be stays, and is
    /// noise when it is read through the filter.
    ///
    /// The file is at least as long as the header and the key slots afterwards: 2 MiB in version 1, 16 MiB
    /// in version 2.
    ///
    /// # Cancel safety
    /// Dropped before it is done, it leaves no header, or the whole.
    ///
    /// # Errors
    /// [`LuksError::Unsupported`] for a format that there is not, and those of the file.
    pub async fn format(
        file: &FileObject,
        secret: impl Into<Vec<u8>>,
        format: &Format,
    ) -> Result<(), LuksError> {
        let secret: Key = Zeroizing::new(secret.into());
        format.check()?;
        let its = format.clone();
        let parts = apart(move || its.make(&secret)).await??;
        let metadata = Request::new(file, QueryInformation).await;
        let len = metadata.map_err(|error| LuksError::Io((&error).into()))?.len();
        // Old keys go first, and the new header comes last.
        let mut zeroes = aligned(&[0; 1 << 20])?;
        for at in (0..parts.payload).step_by(zeroes.len()) {
            zeroes = write(file, zeroes, at).await?;
        }
        flush(file).await?;
        write(file, aligned(&parts.keys)?, parts.area).await?;
        flush(file).await?;
        write(file, aligned(&parts.header)?, 0).await?;
        if len < parts.payload {
            let set = Request::new(file, SetLength { len: parts.payload }).await;
            set.map_err(|error| LuksError::Io((&error).into()))?;
        }
        flush(file).await
    }
}

async fn flush(file: &FileObject) -> Result<(), LuksError> {
    let flushed = Request::new(file, Flush { data_only: false }).await;
    flushed.map_err(|error| LuksError::Io((&error).into()))
}

/// In whole blocks, as direct I/O wants it; the rest is zeroes.
fn aligned(bytes: &[u8]) -> Result<AlignedBuf, LuksError> {
    let len = bytes.len().next_multiple_of(BLOCK);
    let mut buffer = AlignedBuf::try_new(len, BLOCK).map_err(|_| LuksError::NoResources)?;
    buffer[..bytes.len()].copy_from_slice(bytes);
    Ok(buffer)
}

/// All of it.
async fn write(file: &FileObject, bytes: AlignedBuf, at: u64) -> Result<AlignedBuf, LuksError> {
    let (mut bytes, mut done) = (bytes, 0);
    while done < bytes.len() {
        let part = bytes.slice(done..);
        let (n, part) = match Request::new(file, Write::at(part, at + done as u64)).await {
            Ok((n, part)) => (n, part),
            Err(error) => return Err(LuksError::Io(error.status())),
        };
        if n == 0 {
            return Err(LuksError::Io(Status::UNEXPECTED_IO_ERROR));
        }
        done += n;
        bytes = part.into_inner();
    }
    Ok(bytes)
}
