//! AES-XTS of many small sectors at once.
//!
//! The library's XTS takes one sector at a time, and setting its tweak takes longer than 512 bytes of AES do.
//! Here the library enciphers the blocks of many sectors in one call, and the tweaks of all of them in
//! another; what XTS does beside that (IEEE 1619: each block is changed by the sector's tweak, which is
//! doubled from block to block, before and behind AES) is done here.
//!
//! **What can be seen from outside.** No branch, no address and no multiplication here depends on data, tweaks
//! or keys. AES is the library's: on processors with instructions for it, and where the library has vector
//! code, it takes the same time for all; elsewhere it looks tables up, as the library's own XTS does there.
//! Between calls the tweaks of the last sectors, enciphered, stay in memory beside the expanded keys; plain
//! bytes do not. All of it is wiped at the end, by an error too, for contexts that have failed go.
//!
//! Sectors are whole blocks, so there is no stealing of ciphertext (IEEE 1619, 5.3.2).

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use openssl::error::ErrorStack;
use zeroize::Zeroize;

use super::xts::Sectors;

/// Bytes that are done at once: several sectors.
const CHUNK: usize = 4096;

/// Bytes of a block of AES.
const BLOCK: usize = 16;

const LEAST_SECTOR: usize = 512;

/// The contexts, and memory to work in.
pub(super) struct Small {
    encipher: CipherCtx,
    decipher: CipherCtx,
    tweaks: CipherCtx,
    work: Box<Work>,
}

/// Wiped when it is dropped.
struct Work {
    /// Of each block.
    tweaks: [u128; CHUNK / BLOCK],
    /// With room for a block more, as the library demands.
    blocks: [u8; CHUNK + BLOCK],
    sectors: [u8; (CHUNK / LEAST_SECTOR + 1) * BLOCK],
}

impl Drop for Work {
    fn drop(&mut self) {
        self.tweaks.zeroize();
        self.blocks.zeroize();
        self.sectors.zeroize();
    }
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Encipher,
    Decipher,
}

impl Small {
    /// For a key of 32 or 64 bytes.
    pub(super) fn new(key: &[u8]) -> Result<Small, ErrorStack> {
        let cipher = if key.len() == 32 { Cipher::aes_128_ecb() } else { Cipher::aes_256_ecb() };
        let (data, tweak) = key.split_at(key.len() / 2);
        let context = |way, key| -> Result<CipherCtx, ErrorStack> {
            let mut context = CipherCtx::new()?;
            match way {
                Way::Encipher => context.encrypt_init(Some(cipher), Some(key), None)?,
                Way::Decipher => context.decrypt_init(Some(cipher), Some(key), None)?,
            }
            context.set_padding(false);
            Ok(context)
        };
        Ok(Small {
            encipher: context(Way::Encipher, data)?,
            decipher: context(Way::Decipher, data)?,
            tweaks: context(Way::Encipher, tweak)?,
            work: Box::new(Work {
                tweaks: [0; CHUNK / BLOCK],
                blocks: [0; CHUNK + BLOCK],
                sectors: [0; (CHUNK / LEAST_SECTOR + 1) * BLOCK],
            }),
        })
    }

    /// Does whole sectors, of at most [`CHUNK`] bytes each: from elsewhere, or where they are.
    pub(super) fn apply(
        &mut self,
        way: Way,
        sectors: Sectors,
        from: Option<&[u8]>,
        into: &mut [u8],
    ) -> Result<(), ErrorStack> {
        let Work { tweaks, blocks, sectors: seeds } = &mut *self.work;
        let mut plain = sectors.tweaks();
        let mut done = 0;
        for part in into.chunks_mut(CHUNK / sectors.size * sectors.size) {
            let len = part.len();
            for (seed, tweak) in
                seeds.chunks_exact_mut(BLOCK).zip(plain.by_ref().take(len / sectors.size))
            {
                seed.copy_from_slice(&tweak);
            }
            self.tweaks.cipher_update_inplace(seeds, len / sectors.size * BLOCK)?;
            let of_sectors = tweaks[..len / BLOCK].chunks_exact_mut(sectors.size / BLOCK);
            for (seed, its) in seeds.chunks_exact(BLOCK).zip(of_sectors) {
                let mut tweak = number(seed);
                for block in its {
                    *block = tweak;
                    // Modulo x^128 + x^7 + x^2 + x + 1: all ones, if a bit has left at the top.
                    let carry = (tweak >> 127).wrapping_neg();
                    tweak = (tweak << 1) ^ (carry & 0x87);
                }
            }
            let source = from.map_or(&*part, |from| &from[done..done + len]);
            mix(source, &mut blocks[..len], tweaks);
            match way {
                Way::Encipher => self.encipher.cipher_update_inplace(blocks, len)?,
                Way::Decipher => self.decipher.cipher_update_inplace(blocks, len)?,
            };
            mix(&blocks[..len], part, tweaks);
            done += len;
        }
        if way == Way::Decipher {
            // Not by `zeroize`, which is slow, and which memory that lives on does not need.
            blocks.fill(0);
        }
        Ok(())
    }
}

fn number(block: &[u8]) -> u128 {
    u128::from_le_bytes(block.try_into().expect("a block"))
}

/// Changes each block by its tweak.
fn mix(from: &[u8], into: &mut [u8], tweaks: &[u128]) {
    let blocks = from.chunks_exact(BLOCK).zip(into.chunks_exact_mut(BLOCK));
    for ((from, into), tweak) in blocks.zip(tweaks) {
        into.copy_from_slice(&(number(from) ^ tweak).to_le_bytes());
    }
}
