//! What the filter `luks` costs a byte, beside the bare cryptography in the same run: OpenSSL's AES-256-XTS, one
//! sector a call, with one context. The file is memory; what it costs without the filter is taken off.
//!
//! `cargo bench -p overlapped-benches --bench luks`

use std::time::Instant;

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use overlapped::Builder;
use overlapped::driver::filter::luks::{Format, Luks};
use overlapped::driver::{Filter, bottom::Memory};
use overlapped::fs::{File, OpenOptions};
use std::sync::Arc;

/// Bytes of the file that are used, again and again.
const SPAN: usize = 4 << 20;
/// Samples, of which the best counts: the machine has others to serve.
const SAMPLES: usize = 60;

/// Nanoseconds a byte, of the best sample.
#[derive(Clone, Copy)]
struct Best(f64);

impl Best {
    fn note(&mut self, begin: Instant) {
        self.0 = self.0.min(begin.elapsed().as_secs_f64() * 1e9 / SPAN as f64);
    }
}

/// The bare cryptography, where the data is.
fn bare(context: &mut CipherCtx, enciphers: bool, sector: usize, data: &mut [u8], at: usize) {
    for (i, part) in data.chunks_exact_mut(sector).enumerate() {
        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&(((at + i * sector) / 512) as u64).to_le_bytes());
        if enciphers {
            context.encrypt_init(None, None, Some(&tweak)).expect("a tweak");
        } else {
            context.decrypt_init(None, None, Some(&tweak)).expect("a tweak");
        }
        context.cipher_update_inplace(part, sector).expect("whole blocks");
    }
}

async fn pass(
    file: &File,
    writes: bool,
    block: usize,
    mut buffer: Vec<u8>,
    best: &mut Best,
) -> Vec<u8> {
    let begin = Instant::now();
    for at in (0..SPAN).step_by(block) {
        let result = if writes {
            file.write_at(buffer, at as u64).await
        } else {
            file.read_at(buffer, at as u64).await
        };
        let (n, back) = result.expect("memory");
        assert_eq!(n, block);
        buffer = back;
    }
    best.note(begin);
    buffer
}

async fn compare(sector: usize, block: usize, writes: bool) {
    let options = || OpenOptions::new().read(true).write(true);
    let memory = Arc::new(Memory::new());
    let raw = options().on(memory.clone()).open("raw").await.expect("memory");
    let format = Format::luks2().sector(sector).pbkdf2(1000);
    Luks::format(raw.object(), "key", &format).await.expect("a volume");
    let luks = options().filter(Luks::new("key").into_driver()).on(memory);
    let luks = luks.open("luks").await.expect("memory");
    let plain = options().on(Arc::new(Memory::new())).open("plain").await.expect("memory");
    for file in [&luks, &plain] {
        file.write_all_at(vec![1; SPAN], 0).await.expect("memory");
    }

    let key: Vec<u8> = (0..64).collect();
    let mut context = CipherCtx::new().expect("a context");
    if writes {
        context
            .encrypt_init(Some(Cipher::aes_256_xts()), Some(&key), Some(&[0; 16]))
            .expect("a key");
    } else {
        context
            .decrypt_init(Some(Cipher::aes_256_xts()), Some(&key), Some(&[0; 16]))
            .expect("a key");
    }
    let mut buffer = vec![7; block];
    let (mut crypto, mut with, mut without) = (Best(f64::MAX), Best(f64::MAX), Best(f64::MAX));
    for _ in 0..SAMPLES {
        let begin = Instant::now();
        for at in (0..SPAN).step_by(block) {
            bare(&mut context, writes, sector, &mut buffer, at);
        }
        crypto.note(begin);
        buffer = pass(&luks, writes, block, buffer, &mut with).await;
        buffer = pass(&plain, writes, block, buffer, &mut without).await;
    }
    let filter = with.0 - without.0;
    println!(
        "{:5} sectors of {sector:4}, blocks of {:4} KiB: bare {:.3} ns/B ({:.2} GB/s), filter {filter:.3} ns/B, ratio {:.2}; \
         file {:.3}, with luks {:.3}",
        if writes { "write" } else { "read" },
        block >> 10,
        crypto.0,
        1.0 / crypto.0,
        filter / crypto.0,
        without.0,
        with.0,
    );
}

fn main() {
    // Also asked for by `cargo test --benches`, which runs nothing here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = Builder::new().build_local().expect("a runtime");
    runtime.block_on(async {
        for sector in [512, 4096] {
            for block in [4 << 10, 64 << 10, 1 << 20] {
                for writes in [false, true] {
                    compare(sector, block, writes).await;
                }
            }
        }
    });
}
