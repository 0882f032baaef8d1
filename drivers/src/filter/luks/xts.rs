//! AES-XTS of whole sectors.
//!
//! The library's contexts hold the expanded keys. They are made once, kept while nobody uses them,
//! and only given another tweak for each sector. Small sectors are done many at a time (`small.rs`).

use std::sync::{Mutex, PoisonError};

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroizing;

use super::error::LuksError;
use super::small::{Small, Way};

/// The unit that tweaks count, in bytes, whatever the sector's size.
pub(super) const TWEAK_UNIT: u64 = 512;

/// A key, and contexts for it. Wiped when dropped: the key here, the contexts by the library.
pub(super) struct Xts {
    cipher: &'static CipherRef,
    key: Zeroizing<Vec<u8>>,
    sector: usize,
    idle: Mutex<Vec<Contexts>>,
}

enum Contexts {
    Small(Small),
    Large { encipher: CipherCtx, decipher: CipherCtx },
}

/// From this size on, in bytes, the library is faster with one sector at a time.
const LARGE: usize = 2048;

/// As many sectors as there are: where the first one's tweak stands, and how large they are.
#[derive(Clone, Copy)]
pub(super) struct Sectors {
    /// In units of 512 bytes.
    pub tweak: u64,
    /// Bytes.
    pub size: usize,
}

impl Sectors {
    /// Their tweaks, one after the other.
    pub(super) fn tweaks(self) -> impl Iterator<Item = [u8; 16]> {
        let step = self.size as u64 / TWEAK_UNIT;
        let mut at = self.tweak;
        std::iter::repeat_with(move || {
            let mut tweak = [0; 16];
            tweak[..8].copy_from_slice(&at.to_le_bytes());
            at = at.wrapping_add(step);
            tweak
        })
    }
}

impl Xts {
    /// For a key of 256 or 512 bits, of which half is the cipher's and half the tweaks', and for sectors of so
    /// many bytes.
    pub(super) fn new(key: Zeroizing<Vec<u8>>, sector: usize) -> Result<Xts, LuksError> {
        let cipher = match key.len() {
            32 => Cipher::aes_128_xts(),
            64 => Cipher::aes_256_xts(),
            n => return Err(LuksError::Unsupported(format!("a key of {n} bytes"))),
        };
        let this = Xts { cipher, key, sector, idle: Mutex::new(Vec::new()) };
        // A key that the library does not take is found out now.
        let contexts = this.make()?;
        this.put_back(contexts);
        Ok(this)
    }

    fn make(&self) -> Result<Contexts, LuksError> {
        if self.sector < LARGE {
            return Ok(Contexts::Small(Small::new(&self.key)?));
        }
        let (mut encipher, mut decipher) = (CipherCtx::new()?, CipherCtx::new()?);
        encipher.encrypt_init(Some(self.cipher), Some(&self.key), Some(&[0; 16]))?;
        decipher.decrypt_init(Some(self.cipher), Some(&self.key), Some(&[0; 16]))?;
        Ok(Contexts::Large { encipher, decipher })
    }

    fn take(&self) -> Result<Contexts, LuksError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.make(), Ok)
    }

    fn put_back(&self, contexts: Contexts) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(contexts);
    }

    /// Enciphers whole sectors from one place to another of the same length. `tweak`: the first one's.
    pub(super) fn encipher(
        &self,
        tweak: u64,
        from: &[u8],
        into: &mut [u8],
    ) -> Result<(), LuksError> {
        self.apply(Way::Encipher, tweak, Some(from), into)
    }

    /// As [`Xts::encipher`], where the data is.
    pub(super) fn encipher_in_place(&self, tweak: u64, data: &mut [u8]) -> Result<(), LuksError> {
        self.apply(Way::Encipher, tweak, None, data)
    }

    /// Deciphers whole sectors where they are.
    pub(super) fn decipher(&self, tweak: u64, data: &mut [u8]) -> Result<(), LuksError> {
        self.apply(Way::Decipher, tweak, None, data)
    }

    fn apply(
        &self,
        way: Way,
        tweak: u64,
        from: Option<&[u8]>,
        into: &mut [u8],
    ) -> Result<(), LuksError> {
        let size = self.sector;
        debug_assert!(into.len().is_multiple_of(size));
        let sectors = Sectors { tweak, size };
        let mut contexts = self.take()?;
        match &mut contexts {
            Contexts::Small(small) => small.apply(way, sectors, from, into)?,
            Contexts::Large { encipher, decipher } => {
                let parts = into.chunks_exact_mut(size).enumerate();
                for (tweak, (i, part)) in sectors.tweaks().zip(parts) {
                    let context = match way {
                        Way::Encipher => &mut *encipher,
                        Way::Decipher => &mut *decipher,
                    };
                    match way {
                        Way::Encipher => context.encrypt_init(None, None, Some(&tweak))?,
                        Way::Decipher => context.decrypt_init(None, None, Some(&tweak))?,
                    }
                    match from {
                        Some(from) => {
                            context.cipher_update(&from[i * size..][..size], Some(part))?
                        }
                        None => context.cipher_update_inplace(part, size)?,
                    };
                }
            }
        }
        self.put_back(contexts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the sector's size, it is what the library's XTS makes of one sector.
    #[test]
    fn as_the_library_does() {
        for key_len in [32, 64] {
            let key: Vec<u8> = (0..key_len as u8).map(|i| i.wrapping_mul(37) ^ 5).collect();
            for size in [512, 1024, 2048, 4096] {
                let xts = Xts::new(Zeroizing::new(key.clone()), size).unwrap();
                for many in [1, 3, 8, 9, 40] {
                    let plain: Vec<u8> =
                        (0..many * size).map(|i| (i ^ (i >> 8) ^ (i >> 13)) as u8).collect();
                    // Of the last ones the carry goes through the whole number.
                    for first in [0, 5, u64::from(u32::MAX) - 1] {
                        let mut expected = plain.clone();
                        let mut library = CipherCtx::new().unwrap();
                        for (i, part) in expected.chunks_exact_mut(size).enumerate() {
                            let mut tweak = [0; 16];
                            let number = first + (i * size / 512) as u64;
                            tweak[..8].copy_from_slice(&number.to_le_bytes());
                            library
                                .encrypt_init(Some(xts.cipher), Some(&key), Some(&tweak))
                                .unwrap();
                            library.cipher_update_inplace(part, size).unwrap();
                        }
                        let mut enciphered = vec![0; plain.len()];
                        xts.encipher(first, &plain, &mut enciphered).unwrap();
                        assert!(enciphered == expected, "{key_len}, {size}, {many}, {first}");
                        xts.decipher(first, &mut enciphered).unwrap();
                        assert!(enciphered == plain);
                        xts.encipher_in_place(first, &mut enciphered).unwrap();
                        assert!(enciphered == expected);
                    }
                }
            }
        }
    }
}
