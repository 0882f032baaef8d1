//! From a passphrase to a volume's key: derivation, key slots, and the check of what came out.
//!
//! All of it takes time and memory on purpose, and runs on a thread of its own.

use argon2::{Algorithm, Argon2, Params, Version};
use openssl::hash::{Hasher, MessageDigest};
use openssl::pkcs5::pbkdf2_hmac;
use openssl::{memcmp, rand};
use zeroize::Zeroizing;

use super::error::LuksError;
use super::xts::{TWEAK_UNIT, Xts};

/// How many parts a key is split into: as LUKS does by default.
pub(super) const STRIPES: usize = 4000;

/// The most memory that a header may ask for, in KiB: 4 GiB, as in cryptsetup.
const MOST_MEMORY: u32 = 4 << 20;

/// The most bytes of a key slot's area: four times what any has.
const MOST_AREA: usize = 1 << 20;

/// Bytes of a key.
pub(super) type Key = Zeroizing<Vec<u8>>;

/// A hash function by its name in headers.
pub(super) fn hash(name: &str) -> Result<MessageDigest, LuksError> {
    match name {
        "sha1" => Ok(MessageDigest::sha1()),
        "sha224" => Ok(MessageDigest::sha224()),
        "sha256" => Ok(MessageDigest::sha256()),
        "sha384" => Ok(MessageDigest::sha384()),
        "sha512" => Ok(MessageDigest::sha512()),
        other => Err(LuksError::Unsupported(format!("the hash '{other}'"))),
    }
}

/// How a passphrase becomes a key.
#[derive(Clone)]
pub(super) enum Derivation {
    /// PBKDF2.
    Pbkdf2 { hash: MessageDigest, salt: Vec<u8>, iterations: u32 },
    /// Argon2; memory in KiB.
    Argon2 { algorithm: Algorithm, salt: Vec<u8>, time: u32, memory: u32, lanes: u32 },
}

impl Derivation {
    /// Whether it can be carried out.
    pub(super) fn check(&self) -> Result<(), LuksError> {
        match *self {
            Derivation::Pbkdf2 { iterations, .. } => check_iterations(iterations),
            Derivation::Argon2 { time, memory, lanes, ref salt, .. } => {
                let sane = (1..=64).contains(&lanes)
                    && (8 * lanes..=MOST_MEMORY).contains(&memory)
                    && time > 0
                    && salt.len() >= argon2::MIN_SALT_LEN;
                if sane { Ok(()) } else { Err(LuksError::Damaged("the parameters of Argon2")) }
            }
        }
    }

    /// Derives so many bytes.
    pub(super) fn derive(&self, secret: &[u8], len: usize) -> Result<Key, LuksError> {
        let mut key = Zeroizing::new(vec![0; len]);
        match self {
            Derivation::Pbkdf2 { hash, salt, iterations } => {
                pbkdf2_hmac(secret, salt, *iterations as usize, *hash, &mut key)?;
            }
            Derivation::Argon2 { algorithm, salt, time, memory, lanes } => {
                let params = Params::new(*memory, *time, *lanes, Some(len))
                    .map_err(|_| LuksError::Damaged("the parameters of Argon2"))?;
                Argon2::new(*algorithm, Version::V0x13, params)
                    .hash_password_into(secret, salt, &mut key)
                    .map_err(|error| match error {
                        argon2::Error::OutOfMemory => LuksError::NoResources,
                        other => LuksError::Cryptography(other.to_string()),
                    })?;
            }
        }
        Ok(key)
    }
}

fn check_iterations(iterations: u32) -> Result<(), LuksError> {
    // The library's own limit.
    let sane = iterations > 0 && i32::try_from(iterations).is_ok();
    if sane { Ok(()) } else { Err(LuksError::Damaged("a number of iterations")) }
}

/// What tells the right key of a volume.
#[derive(Clone)]
pub(super) struct Digest {
    pub hash: MessageDigest,
    pub salt: Vec<u8>,
    pub iterations: u32,
    pub digest: Vec<u8>,
}

impl Digest {
    /// Whether it can be checked by.
    pub(super) fn check(&self) -> Result<(), LuksError> {
        check_iterations(self.iterations)?;
        // One that is empty would fit any key.
        let sane = (20..=64).contains(&self.digest.len());
        if sane { Ok(()) } else { Err(LuksError::Damaged("the digest's length")) }
    }

    /// Of a key.
    pub(super) fn of(&self, key: &[u8], len: usize) -> Result<Vec<u8>, LuksError> {
        let mut digest = vec![0; len];
        pbkdf2_hmac(key, &self.salt, self.iterations as usize, self.hash, &mut digest)?;
        Ok(digest)
    }

    fn fits(&self, key: &[u8]) -> Result<bool, LuksError> {
        let digest = self.of(key, self.digest.len())?;
        Ok(memcmp::eq(&digest, &self.digest))
    }
}

/// The volume's key, enciphered by a key that is derived from a passphrase, and spread so that a part
/// that is wiped takes the key with it.
#[derive(Clone)]
pub(super) struct Slot {
    pub derivation: Derivation,
    /// Of the anti-forensic splitter.
    pub hash: MessageDigest,
    pub stripes: usize,
    /// Bytes of the volume's key.
    pub key_len: usize,
    /// Bytes of the key that enciphers the area.
    pub area_key_len: usize,
    /// Where the area is in the file.
    pub area: u64,
}

impl Slot {
    /// Bytes of the area that are in use: whole sectors. `None`: more than can be.
    pub(super) fn area_len(&self) -> Option<usize> {
        let len = self.key_len.checked_mul(self.stripes)?.checked_next_multiple_of(512)?;
        (len <= MOST_AREA).then_some(len)
    }

    /// The key that comes out with this passphrase: the volume's, if it is the right one.
    fn open(&self, secret: &[u8], mut area: Key) -> Result<Key, LuksError> {
        let derived = self.derivation.derive(secret, self.area_key_len)?;
        Xts::new(derived, TWEAK_UNIT as usize)?.decipher(0, &mut area)?;
        merge(self.hash, &area, self.key_len, self.stripes)
    }

    /// The area's content for a volume's key.
    pub(super) fn close(&self, secret: &[u8], key: &[u8]) -> Result<Vec<u8>, LuksError> {
        let mut area = split(self.hash, key, self.stripes)?;
        area.resize(self.area_len().ok_or(LuksError::NoResources)?, 0);
        let derived = self.derivation.derive(secret, self.area_key_len)?;
        Xts::new(derived, TWEAK_UNIT as usize)?.encipher_in_place(0, &mut area)?;
        Ok(std::mem::take(&mut *area))
    }
}

/// The volume's key, by the first slot that opens. `goes_on` is asked before each.
pub(super) fn find(
    slots: &[(Slot, Digest)],
    areas: Vec<Vec<u8>>,
    secret: &[u8],
    goes_on: impl Fn() -> bool,
) -> Result<Key, LuksError> {
    for ((slot, digest), area) in slots.iter().zip(areas) {
        if !goes_on() {
            break;
        }
        let key = slot.open(secret, Zeroizing::new(area))?;
        if digest.fits(&key)? {
            return Ok(key);
        }
    }
    Err(LuksError::WrongKey)
}

/// Mixes all bytes of a block: a hash of each part of it, with the part's number.
fn diffuse(hash: MessageDigest, block: &mut [u8]) -> Result<(), LuksError> {
    for (i, part) in block.chunks_mut(hash.size()).enumerate() {
        let mut hasher = Hasher::new(hash)?;
        hasher.update(&(i as u32).to_be_bytes())?;
        hasher.update(part)?;
        let digest = Zeroizing::new(hasher.finish()?.to_vec());
        part.copy_from_slice(&digest[..part.len()]);
    }
    Ok(())
}

fn xor(into: &mut [u8], from: &[u8]) {
    into.iter_mut().zip(from).for_each(|(into, from)| *into ^= from);
}

/// All stripes but the last one, folded.
fn fold(hash: MessageDigest, stripes: &[u8], len: usize) -> Result<Key, LuksError> {
    let mut block = Zeroizing::new(vec![0; len]);
    for stripe in stripes.chunks_exact(len) {
        xor(&mut block, stripe);
        diffuse(hash, &mut block)?;
    }
    Ok(block)
}

fn merge(hash: MessageDigest, area: &[u8], len: usize, stripes: usize) -> Result<Key, LuksError> {
    let (first, last) = area[..len * stripes].split_at(len * (stripes - 1));
    let mut key = fold(hash, first, len)?;
    xor(&mut key, last);
    Ok(key)
}

fn split(hash: MessageDigest, key: &[u8], stripes: usize) -> Result<Key, LuksError> {
    let mut area = Zeroizing::new(vec![0; key.len() * stripes]);
    let (first, last) = area.split_at_mut(key.len() * (stripes - 1));
    rand::rand_priv_bytes(first)?;
    last.copy_from_slice(&fold(hash, first, key.len())?);
    xor(last, key);
    Ok(area)
}
