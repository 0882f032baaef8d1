//! Headers of version 1.

use super::error::LuksError;
use super::header::{Fields, Header, MAGIC, check_cipher};
use super::key::{Derivation, Digest, Slot, hash};

/// Bytes of a header.
pub(super) const LEN: usize = 592;

const SLOTS: usize = 8;
const SLOT: usize = 48;
const FIRST_SLOT: usize = 208;

const ACTIVE: u32 = 0x00AC_71F3;
const INACTIVE: u32 = 0x0000_DEAD;

pub(super) const SALT: usize = 32;
pub(super) const DIGEST: usize = 20;

/// Bytes of the unit of offsets.
const SECTOR: u64 = 512;

pub(super) fn parse(bytes: &[u8]) -> Result<Header, LuksError> {
    let fields = Fields(bytes);
    check_cipher(&format!("{}-{}", fields.text(8, 32)?, fields.text(40, 32)?))?;
    let hash = hash(fields.text(72, 32)?)?;
    let payload = u64::from(fields.u32(104)?) * SECTOR;
    let key_len = fields.u32(108)? as usize;
    let digest = Digest {
        hash,
        digest: fields.bytes(112, DIGEST)?.to_vec(),
        salt: fields.bytes(132, SALT)?.to_vec(),
        iterations: fields.u32(164)?,
    };
    let mut slots = Vec::new();
    for i in 0..SLOTS {
        let at = FIRST_SLOT + i * SLOT;
        match fields.u32(at)? {
            ACTIVE => {}
            INACTIVE => continue,
            _ => return Err(LuksError::Damaged("a key slot's state")),
        }
        let iterations = fields.u32(at + 4)?;
        let salt = fields.bytes(at + 8, SALT)?.to_vec();
        let slot = Slot {
            derivation: Derivation::Pbkdf2 { hash, salt, iterations },
            hash,
            key_len,
            area_key_len: key_len,
            area: u64::from(fields.u32(at + 40)?) * SECTOR,
            stripes: fields.u32(at + 44)? as usize,
        };
        slots.push((slot, digest.clone()));
    }
    Ok(Header { version: 1, payload, size: None, sector: SECTOR as usize, tweak: 0, slots })
}

/// Where a key slot's area is, in sectors, for keys of so many bytes.
pub(super) fn area(slot: usize, key_len: usize, stripes: usize) -> u64 {
    let sectors = (key_len * stripes) as u64 / SECTOR;
    8 + slot as u64 * sectors.next_multiple_of(8)
}

/// A header with one key slot.
pub(super) fn write(
    hash: &str,
    payload: u64,
    uuid: &str,
    slot: &Slot,
    digest: &Digest,
) -> Result<Vec<u8>, LuksError> {
    let Derivation::Pbkdf2 { salt, iterations, .. } = &slot.derivation else {
        return Err(LuksError::Unsupported("Argon2 in a volume of version 1".into()));
    };
    let mut header = vec![0; LEN];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    let number = |n: usize| (n as u32).to_be_bytes();
    put(0, MAGIC);
    put(6, &1u16.to_be_bytes());
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, hash.as_bytes());
    put(104, &((payload / SECTOR) as u32).to_be_bytes());
    put(108, &number(slot.key_len));
    put(112, &digest.digest);
    put(132, &digest.salt);
    put(164, &digest.iterations.to_be_bytes());
    put(168, uuid.as_bytes());
    for i in 0..SLOTS {
        let at = FIRST_SLOT + i * SLOT;
        put(at, &INACTIVE.to_be_bytes());
        put(at + 40, &(area(i, slot.key_len, slot.stripes) as u32).to_be_bytes());
        put(at + 44, &number(slot.stripes));
    }
    put(FIRST_SLOT, &ACTIVE.to_be_bytes());
    put(FIRST_SLOT + 4, &iterations.to_be_bytes());
    put(FIRST_SLOT + 8, salt);
    Ok(header)
}
