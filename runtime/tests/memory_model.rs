//! Stacks of filters on a file in memory are a byte array, whatever is written, cut, and delayed.

mod support;

use std::sync::Arc;

use futures_util::future;
use overlapped::driver::Driver;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::{Later, Xor};
use overlapped::fs::OpenOptions;
use proptest::prelude::*;
use support::{backends, local, watch};

/// For reading and writing.
fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

#[derive(Clone, Debug)]
enum Act {
    Read {
        at: u64,
        lens: Vec<usize>,
    },
    Write {
        at: u64,
        lens: Vec<usize>,
        seed: u8,
    },
    Append {
        len: usize,
        seed: u8,
    },
    SetLen(u64),
    /// Several writes that do not meet, in flight at once.
    Together {
        at: u64,
        count: u64,
        seed: u8,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let at = || 0..20_000u64;
    let lens = || prop::collection::vec(0..6000usize, 1..4);
    prop::collection::vec(
        prop_oneof![
            (at(), lens()).prop_map(|(at, lens)| Act::Read { at, lens }),
            (at(), lens(), any::<u8>()).prop_map(|(at, lens, seed)| Act::Write { at, lens, seed }),
            (0..5000usize, any::<u8>()).prop_map(|(len, seed)| Act::Append { len, seed }),
            at().prop_map(Act::SetLen),
            (at(), 1..8u64, any::<u8>()).prop_map(|(at, count, seed)| Act::Together {
                at,
                count,
                seed
            }),
        ],
        1..25,
    )
}

fn bytes_of(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| seed.wrapping_add((i * 7) as u8)).collect()
}

/// Writes to a byte array, where a file has zeroes that were never written: as the medium has, below
/// all keys.
struct Model {
    raw: Vec<u8>,
    key: u8,
}

impl Model {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = self.raw.len().max(at + bytes.len());
        self.raw.resize(end, 0);
        for (raw, byte) in self.raw[at..].iter_mut().zip(bytes) {
            *raw = byte ^ self.key;
        }
    }
    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let end = self.raw.len().min(at + len);
        self.raw.get(at..end).unwrap_or_default().iter().map(|byte| byte ^ self.key).collect()
    }
}

/// One filter of a random stack: a key, or a delay.
fn filters(keys: &[Option<u8>]) -> impl Iterator<Item = Arc<dyn Driver>> + '_ {
    keys.iter().map(|key| match key {
        Some(key) => Arc::new(Xor(*key)) as Arc<dyn Driver>,
        None => Arc::new(Later),
    })
}

async fn is_a_byte_array(keys: &[Option<u8>], acts: &[Act]) {
    let memory = Arc::new(Memory::new());
    let stacked = |options: OpenOptions| filters(keys).fold(options, OpenOptions::filter);
    let file = stacked(options().on(memory.clone())).open("f").await.unwrap();
    let appends = stacked(options().append(true).on(memory.clone())).open("f").await.unwrap();
    let raw = options().on(memory).open("raw").await.unwrap();
    let key = keys.iter().flatten().fold(0, |all, key| all ^ key);
    let mut model = Model { raw: Vec::new(), key };
    for act in acts {
        match *act {
            Act::Read { at, ref lens } => {
                let all: usize = lens.iter().sum();
                let buffers = lens.iter().map(|&len| Vec::<u8>::with_capacity(len)).collect();
                let (n, parts) = file.read_vectored_at(buffers, at).await.unwrap();
                assert_eq!(parts.concat(), model.read(at as usize, all));
                assert_eq!(n, parts.concat().len());
                let (_, whole) = file.read_at(vec![0; lens[0]], at).await.unwrap();
                assert_eq!(whole, model.read(at as usize, lens[0]));
            }
            Act::Write { at, ref lens, seed } => {
                let parts: Vec<_> = lens.iter().map(|&len| bytes_of(seed, len)).collect();
                let all = parts.concat();
                assert_eq!(file.write_vectored_at(parts, at).await.unwrap().0, all.len());
                model.write(at as usize, &all);
            }
            Act::Append { len, seed } => {
                appends.write_all_at(bytes_of(seed, len), 3).await.unwrap();
                model.write(model.raw.len(), &bytes_of(seed, len));
            }
            Act::SetLen(len) => {
                file.set_len(len).await.unwrap();
                model.raw.resize(len as usize, 0);
            }
            Act::Together { at, count, seed } => {
                let writes = (0..count).map(|i| file.write_at(bytes_of(seed, 700), at + i * 700));
                for write in future::join_all(writes).await {
                    assert_eq!(write.unwrap().0, 700);
                }
                for i in 0..count as usize {
                    model.write(at as usize + i * 700, &bytes_of(seed, 700));
                }
            }
        }
        assert_eq!(file.metadata().await.unwrap().len(), model.raw.len() as u64);
    }
    let (_, bytes) = raw.read_at(Vec::with_capacity(model.raw.len() + 1), 0).await.unwrap();
    assert!(bytes == model.raw, "what lies below the filters");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stacks_on_memory_are_byte_arrays(
        keys in prop::collection::vec(prop::option::of(any::<u8>()), 0..7),
        acts in acts(),
    ) {
        for backend in backends() {
            let _watch = watch("a stack on memory");
            local(backend).block_on(is_a_byte_array(&keys, &acts));
        }
    }
}
