//! AES-XTS of whole sectors.
//!
//! The library's contexts hold the expanded keys. They are made once, kept while nobody uses them,
//! and only given another tweak for each sector.

use std::sync::{Mutex, PoisonError};

use openssl::cipher::{Cipher, CipherRef};
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroizing;

use super::error::LuksError;

/// The unit that tweaks count, in bytes, whatever the sector's size.
pub(super) const TWEAK_UNIT: u64 = 512;

/// A key, and contexts for it. Wiped when dropped: the key here, the contexts by the library.
pub(super) struct Xts {
    cipher: &'static CipherRef,
    key: Zeroizing<Vec<u8>>,
    idle: Mutex<Vec<Contexts>>,
}

struct Contexts {
    encipher: CipherCtx,
    decipher: CipherCtx,
}

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
    fn tweaks(self) -> impl Iterator<Item = [u8; 16]> {
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
    /// For a key of 256 or 512 bits: half of it is the cipher's, half the tweaks'.
    pub(super) fn new(key: Zeroizing<Vec<u8>>) -> Result<Xts, LuksError> {
        let cipher = match key.len() {
            32 => Cipher::aes_128_xts(),
            64 => Cipher::aes_256_xts(),
            n => return Err(LuksError::Unsupported(format!("a key of {n} bytes"))),
        };
        let this = Xts { cipher, key, idle: Mutex::new(Vec::new()) };
        // A key that the library does not take is found out now.
        let contexts = this.make()?;
        this.put_back(contexts);
        Ok(this)
    }

    fn make(&self) -> Result<Contexts, LuksError> {
        let (mut encipher, mut decipher) = (CipherCtx::new()?, CipherCtx::new()?);
        encipher.encrypt_init(Some(self.cipher), Some(&self.key), Some(&[0; 16]))?;
        decipher.decrypt_init(Some(self.cipher), Some(&self.key), Some(&[0; 16]))?;
        Ok(Contexts { encipher, decipher })
    }

    fn take(&self) -> Result<Contexts, LuksError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.make(), Ok)
    }

    fn put_back(&self, contexts: Contexts) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(contexts);
    }

    /// Enciphers whole sectors from one place to another of the same length.
    pub(super) fn encipher(
        &self,
        sectors: Sectors,
        from: &[u8],
        into: &mut [u8],
    ) -> Result<(), LuksError> {
        debug_assert!(from.len() == into.len() && from.len().is_multiple_of(sectors.size));
        let mut contexts = self.take()?;
        let parts = from.chunks_exact(sectors.size).zip(into.chunks_exact_mut(sectors.size));
        for (tweak, (from, into)) in sectors.tweaks().zip(parts) {
            contexts.encipher.encrypt_init(None, None, Some(&tweak))?;
            contexts.encipher.cipher_update(from, Some(into))?;
        }
        self.put_back(contexts);
        Ok(())
    }

    /// As [`Xts::encipher`], where the data is.
    pub(super) fn encipher_in_place(
        &self,
        sectors: Sectors,
        data: &mut [u8],
    ) -> Result<(), LuksError> {
        debug_assert!(data.len().is_multiple_of(sectors.size));
        let mut contexts = self.take()?;
        for (tweak, part) in sectors.tweaks().zip(data.chunks_exact_mut(sectors.size)) {
            contexts.encipher.encrypt_init(None, None, Some(&tweak))?;
            contexts.encipher.cipher_update_inplace(part, sectors.size)?;
        }
        self.put_back(contexts);
        Ok(())
    }

    /// Deciphers whole sectors where they are.
    pub(super) fn decipher(&self, sectors: Sectors, data: &mut [u8]) -> Result<(), LuksError> {
        debug_assert!(data.len().is_multiple_of(sectors.size));
        let mut contexts = self.take()?;
        for (tweak, part) in sectors.tweaks().zip(data.chunks_exact_mut(sectors.size)) {
            contexts.decipher.decrypt_init(None, None, Some(&tweak))?;
            contexts.decipher.cipher_update_inplace(part, sectors.size)?;
        }
        self.put_back(contexts);
        Ok(())
    }
}
