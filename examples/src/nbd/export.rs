//! What is exported, as clients are told.

use super::wire::export_flag as flag;

/// Most bytes of one read or write, and the maximum block size that clients are told.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// What is exported, as clients are told. Its name is the empty one.
#[derive(Clone, Debug)]
pub struct Export {
    /// Bytes; fixed.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The size that requests had best be multiples of, in bytes: a power of two from 512 to
    /// [`MAX_PAYLOAD`]. Smaller ones are served too, down to a byte.
    pub preferred: u32,
    /// Writes may be asked to be on the medium when they complete.
    pub fua: bool,
    /// Ranges may be given back.
    pub trim: bool,
    /// What it is, for people.
    pub description: String,
}

impl Export {
    /// Some export, for fuzzing and for tests.
    pub fn example() -> Export {
        Export {
            size: 1 << 30,
            read_only: false,
            preferred: 4096,
            fua: true,
            trim: true,
            description: "example".into(),
        }
    }

    /// The transmission flags.
    ///
    /// All connections share one open file, so a flush on one covers what was written on another:
    /// several may be used (`MULTI_CONN`).
    pub(super) fn flags(&self, structured: bool) -> u16 {
        let set = |flag, is_set| if is_set { flag } else { 0 };
        let common = flag::HAS_FLAGS | flag::FLUSH | flag::MULTI_CONN | flag::CACHE;
        let own = match self.read_only {
            true => flag::READ_ONLY,
            false => flag::WRITE_ZEROES | flag::FAST_ZERO | set(flag::TRIM, self.trim),
        };
        common | own | set(flag::FUA, self.fua) | set(flag::DF, structured)
    }
}
