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
        // A key that the library's XTS does not take (both halves the same) is found out now.
        CipherCtx::new()?.encrypt_init(Some(cipher), Some(&this.key), Some(&[0; 16]))?;
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
        // What is left of one would go below as it is.
        assert!(into.len().is_multiple_of(size), "whole sectors");
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

    /// A known answer of IEEE 1619-2007, annex B: a sector of 512 bytes, 0 to 255 twice.
    struct Known {
        key: &'static str,
        tweak: u64,
        secret: &'static str,
    }

    /// Its vector 4.
    const AES_128: Known = Known {
        key: "27182818284590452353602874713526 31415926535897932384626433832795",
        tweak: 0,
        secret: "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c \
         c78cf7f5e543445f8333d8fa7f56000005279fa5d8b5e4ad40e736ddb4d35412 \
         328063fd2aab53e5ea1e0a9f332500a5df9487d07a5c92cc512c8866c7e860ce \
         93fdf166a24912b422976146ae20ce846bb7dc9ba94a767aaef20c0d61ad0265 \
         5ea92dc4c4e41a8952c651d33174be51a10c421110e6d81588ede82103a252d8 \
         a750e8768defffed9122810aaeb99f9172af82b604dc4b8e51bcb08235a6f434 \
         1332e4ca60482a4ba1a03b3e65008fc5da76b70bf1690db4eae29c5f1badd03c \
         5ccf2a55d705ddcd86d449511ceb7ec30bf12b1fa35b913f9f747a8afd1b130e \
         94bff94effd01a91735ca1726acd0b197c4e5b03393697e126826fb6bbde8ecc \
         1e08298516e2c9ed03ff3c1b7860f6de76d4cecd94c8119855ef5297ca67e9f3 \
         e7ff72b1e99785ca0a7e7720c5b36dc6d72cac9574c8cbbc2f801e23e56fd344 \
         b07f22154beba0f08ce8891e643ed995c94d9a69c9f1b5f499027a78572aeebd \
         74d20cc39881c213ee770b1010e4bea718846977ae119f7a023ab58cca0ad752 \
         afe656bb3c17256a9f6e9bf19fdd5a38fc82bbe872c5539edb609ef4f79c203e \
         bb140f2e583cb2ad15b4aa5b655016a8449277dbd477ef2c8d6c017db738b18d \
         eb4a427d1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568",
    };

    /// Its vector 10.
    const AES_256: Known = Known {
        key: "2718281828459045235360287471352662497757247093699959574966967627 \
              3141592653589793238462643383279502884197169399375105820974944592",
        tweak: 0xff,
        secret: "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b \
         5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd \
         5776926c49a3095eb108fd1098baec70aaa66999a72a82f27d848b21d4a741b0 \
         c5cd4d5fff9dac89aeba122961d03a757123e9870f8acf1000020887891429ca \
         2a3e7a7d7df7b10355165c8b9a6d0a7de8b062c4500dc4cd120c0f7418dae3d0 \
         b5781c34803fa75421c790dfe1de1834f280d7667b327f6c8cd7557e12ac3a0f \
         93ec05c52e0493ef31a12d3d9260f79a289d6a379bc70c50841473d1a8cc81ec \
         583e9645e07b8d9670655ba5bbcfecc6dc3966380ad8fecb17b6ba02469a020a \
         84e18e8f84252070c13e9f1f289be54fbc481457778f616015e1327a02b140f1 \
         505eb309326d68378f8374595c849d84f4c333ec4423885143cb47bd71c5edae \
         9be69a2ffeceb1bec9de244fbe15992b11b77c040f12bd8f6a975a44a0f90c29 \
         a9abc3d4d893927284c58754cce294529f8614dcd2aba991925fedc4ae74ffac \
         6e333b93eb4aff0479da9a410e4450e0dd7ae4c6e2910900575da401fc07059f \
         645e8b7e9bfdef33943054ff84011493c27b3429eaedb4ed5376441a77ed4385 \
         1ad77f16f541dfd269d50d6a5f14fb0aab1cbb4c1550be97f7ab4066193c4caa \
         773dad38014bd2092fa755c824bb5e54c4f36ffda9fcea70b9c6e693e148c151",
    };

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> =
            hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
        digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect()
    }

    #[test]
    fn known_answers() {
        for known in [AES_128, AES_256] {
            let plain: Vec<u8> = (0..512).map(|i| i as u8).collect();
            let (key, secret) = (bytes(known.key), bytes(known.secret));
            assert_eq!(secret.len(), 512);
            let xts = Xts::new(Zeroizing::new(key), 512).unwrap();
            let mut got = vec![0; 512];
            xts.encipher(known.tweak, &plain, &mut got).unwrap();
            assert!(got == secret);
            xts.decipher(known.tweak, &mut got).unwrap();
            assert!(got == plain);
            // Not the first of many.
            let mut many = plain.repeat(11);
            xts.encipher_in_place(known.tweak.wrapping_sub(9), &mut many).unwrap();
            assert!(many[9 * 512..][..512] == secret);
        }
    }

    /// Two halves that are the same make a key that is none, whatever the sector's size.
    #[test]
    fn keys_that_are_refused() {
        for size in [512, 4096] {
            for key in [vec![7; 32], vec![7; 64], vec![1; 48], vec![]] {
                assert!(Xts::new(Zeroizing::new(key), size).is_err());
            }
        }
    }
}
