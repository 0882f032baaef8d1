//! Streams in pieces: every read and write comes to less than was asked for.

use std::num::NonZeroU32;

use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Major, MajorSet, Status, minor};

use super::chance::Chance;
use super::parts::{common, is_stream, read_most, write_part};
use crate::text::{Entry, Made};

/// Cuts a stream's reads and writes to sizes: a fixed one, or random ones from a seed. It finds programs
/// that take a short read for a whole message.
///
/// A write that is cut short says so, as on a socket whose buffer is full. One that asks for all of its
/// bytes to be sent ([`minor::ALL`], `write_all`) goes on in pieces until they are. Files with offsets,
/// datagrams and counters pass: theirs is not a stream.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; pub use overlapped_iomgr::Filter; } }
/// use overlapped::driver::{Filter, filter::Slice};
/// use std::num::NonZeroU32;
///
/// let sevens = Slice::fixed(NonZeroU32::new(7).unwrap()).into_driver();
/// let random = Slice::random(NonZeroU32::new(100).unwrap(), 42).into_driver();
/// assert_eq!((sevens.name(), random.name()), ("slice", "slice"));
/// ```
#[derive(Debug)]
pub struct Slice {
    most: NonZeroU32,
    chance: Option<Chance>,
    hooks: MajorSet,
}

impl Slice {
    const HOOKS: MajorSet = MajorSet::of(&[Major::Read, Major::Write]);

    /// Pieces of so many bytes at most.
    pub fn fixed(bytes: NonZeroU32) -> Slice {
        Slice { most: bytes, chance: None, hooks: Self::HOOKS }
    }

    /// Pieces of 1 to `most` bytes at most, each as likely. The same seed and the same order of requests
    /// give the same sizes.
    pub fn random(most: NonZeroU32, seed: u64) -> Slice {
        Slice { most, chance: Some(Chance::new(seed)), hooks: Self::HOOKS }
    }

    /// Only reads, or only writes.
    pub fn only(mut self, majors: MajorSet) -> Slice {
        self.hooks = common(Self::HOOKS, majors);
        self
    }

    /// The next piece's bytes at most.
    fn size(&self) -> usize {
        let most = self.most.get();
        match &self.chance {
            None => most as usize,
            Some(chance) => 1 + chance.below(u64::from(most)) as usize,
        }
    }

    /// `slice(max=N)`, `slice(max=N, seed=N)`, and `op=read` or `op=write`.
    pub const ENTRY: Entry = Entry {
        name: "slice",
        about: "cuts reads and writes of streams: slice(max=N, seed=N, op=read)",
        make: |p| {
            let most = p.or::<u32>("max", 1)?;
            let most = NonZeroU32::new(most).ok_or_else(|| p.error("max", "at least 1"))?;
            let slice = match p.optional("seed")? {
                Some(seed) => Slice::random(most, seed),
                None => Slice::fixed(most),
            };
            let only = p.optional::<MajorSet>("op")?;
            let slice = only.into_iter().fold(slice, Slice::only);
            if slice.hooks == MajorSet::NONE {
                return Err(p.error("op", "read, write or both"));
            }
            Ok(Made::Filter(slice.into_driver()))
        },
    };
}

impl Filter for Slice {
    type Open = ();

    fn name(&self) -> &str {
        "slice"
    }

    fn hooks(&self) -> MajorSet {
        self.hooks
    }

    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        if !is_stream(&io) {
            return next.forward(&mut io).await;
        }
        read_most(next, &mut io, self.size()).await
    }

    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let len = io.len();
        if !is_stream(&io) || len == 0 {
            return next.forward(&mut io).await;
        }
        let mut size = self.size();
        if size >= len {
            return next.forward(&mut io).await;
        }
        // What goes with the data (descriptors) goes once.
        let whole = io.minor() == minor::ALL && !io.has_companion();
        if !whole && io.minor() != minor::VECTORED {
            let offset = io.offset();
            return next.forward(&mut io).at(offset, size as u32).await;
        }
        let mut done = 0;
        while done < len {
            let range = done..len.min(done + size);
            size = self.size();
            let Some((wanted, below)) = write_part(next, &mut io, range) else { break };
            match below.await.0 {
                Ok(n) => {
                    done += n;
                    if n < wanted || !whole {
                        break;
                    }
                }
                Err(status) if done == 0 => return Err(status),
                // It is the next write's.
                Err(_) => break,
            }
        }
        Ok(done)
    }
}
