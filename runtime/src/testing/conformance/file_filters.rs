//! Filters for files: what is read must be what was written, whatever goes on below.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overlapped_drivers::bottom::Memory;
use overlapped_iomgr::filter::{Filter, Io, Next};
use overlapped_iomgr::{Driver, Major, MajorSet, Status};

use super::{Nonconformity, chance::Chance};
use crate::fs::{File, OpenOptions};

/// Bytes of the file that the suite works on.
const LEN: usize = 64 * 1024;
/// Operations in each of its rounds.
const OPERATIONS: u32 = 200;

/// What the drivers below the filter under test do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    /// Everything at once.
    Answers,
    /// Everything later.
    Pends,
    /// Half of what was asked for, now and then.
    Shortens,
    /// Fails each operation once, in turn.
    Fails,
}

const ROUNDS: [(&str, Below); 4] = [
    ("with a bottom that answers at once", Below::Answers),
    ("with a bottom that answers later", Below::Pends),
    ("with short transfers below", Below::Shortens),
    ("with errors below", Below::Fails),
];

/// What it has done.
#[derive(Default)]
struct Counts {
    all: AtomicU32,
    in_flight: AtomicU32,
    failed: AtomicU32,
}

/// Stands below the filter under test.
struct Under {
    below: Below,
    counts: Arc<Counts>,
}

impl Under {
    async fn counted(&self, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.counts.in_flight.fetch_add(1, Ordering::Relaxed);
        let result = self.go(next, &mut io).await;
        self.counts.in_flight.fetch_sub(1, Ordering::Relaxed);
        result
    }

    async fn go(&self, next: Next<'_>, io: &mut Io<'_>) -> Result<usize, Status> {
        let n = self.counts.all.fetch_add(1, Ordering::Relaxed);
        match self.below {
            Below::Pends => next.sleep(Duration::from_micros(u64::from(n % 3) * 100)).await,
            Below::Fails if n % 7 == 3 => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                return Err(Status::DATA_ERROR);
            }
            Below::Shortens if n % 3 == 1 && io.minor() == 0 && io.len() > 1024 => {
                // A part that is still whole blocks, whatever they are for those above.
                let half = (io.len() / 2).next_multiple_of(512) as u32;
                let offset = io.offset();
                return next.forward(io).at(offset, half).await;
            }
            _ => {}
        }
        next.forward(io).await
    }
}

impl Filter for Under {
    type Open = ();
    fn name(&self) -> &str {
        "under"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::Flush])
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.counted(next, io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.counted(next, io).await
    }
    async fn flush(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.counted(next, io).await
    }
}

/// Puts filters for files through a suite: `make` gives those of a stack, top first (one, or those that
/// belong together), and for each of four rounds they are put between a client that reads and
/// writes by chance (whole and in parts, beside one another, at the end, flushing) and a file in
/// memory that answers at once, answers later, transfers less than asked for, or fails each operation
/// once. What is read must be what was written, errors must be reported as such, and nothing may be left
/// below when the file is closed. `seed`: what chance begins with.
///
/// # Errors
/// The first thing that is not as it should be.
///
/// ```
/// use overlapped::driver::{filter::Xor, testing::conformance};
/// use std::sync::Arc;
///
/// conformance::file_filters(|| Ok(vec![Arc::new(Xor(0x55))]), 1).unwrap();
/// ```
pub fn file_filters(
    make: impl Fn() -> io::Result<Vec<Arc<dyn Driver>>>,
    seed: u64,
) -> Result<(), Nonconformity> {
    for (round, below) in ROUNDS {
        let wrong = |what: String| Nonconformity::new(round, what);
        let runtime = crate::Builder::new().build_local().map_err(|e| wrong(e.to_string()))?;
        let tested = runtime.block_on(one_round(&make, below, seed));
        tested.map_err(wrong)?;
    }
    Ok(())
}

async fn one_round(
    make: &impl Fn() -> io::Result<Vec<Arc<dyn Driver>>>,
    below: Below,
    seed: u64,
) -> Result<(), String> {
    let counts = Arc::new(Counts::default());
    let filters = make().map_err(|error| format!("it cannot be made: {error}"))?;
    let mut options = OpenOptions::new().read(true).write(true).on(Arc::new(Memory::new()));
    for filter in filters {
        options = options.filter(filter);
    }
    options = options.filter(Under { below, counts: counts.clone() }.into_driver());
    let file = options.open("conformance").await.map_err(|e| format!("open failed: {e}"))?;
    let mut model = vec![0u8; LEN];
    // A first writing, which also makes the file's length.
    write(&file, &mut model, 0, vec![0; LEN], below).await?;
    let mut chance = Chance(seed);
    for i in 0..OPERATIONS {
        let at = chance.below(LEN);
        let len = chance.below((LEN - at).min([16, 600, 5000][i as usize % 3])) + 1;
        let len = len.min(LEN - at);
        match chance.below(8) {
            0..=2 => {
                let bytes: Vec<u8> = (0..len).map(|n| (n as u8).wrapping_add(i as u8)).collect();
                write(&file, &mut model, at, bytes, below).await?;
            }
            3 | 4 => read(&file, &model, at, len, below).await?,
            5 => vectored(&file, &model, at, len, below).await?,
            6 => {
                if let Err(error) = file.sync_all().await
                    && below != Below::Fails
                {
                    return Err(format!("a flush failed: {error}"));
                }
            }
            _ => together(&file, &mut model, &mut chance, below).await?,
        }
    }
    read(&file, &model, 0, LEN, below).await?;
    file.close()
        .await
        .map_err(|e| format!("close failed: {e}"))
        .or_else(|error| if below == Below::Fails { Ok(()) } else { Err(error) })?;
    if counts.in_flight.load(Ordering::Relaxed) > 0 {
        return Err("requests are left below when the file is closed".to_owned());
    }
    if below == Below::Fails && counts.failed.load(Ordering::Relaxed) == 0 {
        return Err("nothing has reached the drivers below".to_owned());
    }
    Ok(())
}

/// Tries again where the round has operations fail: an error must be one, and nothing else.
const TRIES: usize = 20;

async fn write(
    file: &File,
    model: &mut [u8],
    at: usize,
    bytes: Vec<u8>,
    below: Below,
) -> Result<(), String> {
    for _ in 0..TRIES {
        match file.write_all_at(bytes.clone(), at as u64).await {
            Ok(_) => {
                model[at..at + bytes.len()].copy_from_slice(&bytes);
                return Ok(());
            }
            Err(_) if below == Below::Fails => {}
            Err(error) => return Err(format!("{} bytes written at {at}: {error:?}", bytes.len())),
        }
    }
    Err(format!("a write at {at} failed {TRIES} times, where each error comes once"))
}

async fn read(
    file: &File,
    model: &[u8],
    at: usize,
    len: usize,
    below: Below,
) -> Result<(), String> {
    let mut failures = 0;
    let mut done = 0;
    while done < len {
        let room = Vec::with_capacity(len - done);
        match file.read_at(room, (at + done) as u64).await {
            Ok((0, _)) => return Err(format!("the end at {}, of {}", at + done, model.len())),
            Ok((n, bytes)) => {
                if n > len - done || bytes.len() != n || bytes != model[at + done..at + done + n] {
                    return Err(format!("other bytes than were written, read at {}", at + done));
                }
                done += n;
            }
            Err(_) if below == Below::Fails && failures < TRIES => failures += 1,
            Err(error) => return Err(format!("a read at {}: {error:?}", at + done)),
        }
    }
    Ok(())
}

async fn vectored(
    file: &File,
    model: &[u8],
    at: usize,
    len: usize,
    below: Below,
) -> Result<(), String> {
    let room = vec![Vec::with_capacity(len / 3), Vec::with_capacity(len - len / 3)];
    match file.read_vectored_at(room, at as u64).await {
        Ok((n, parts)) => {
            let bytes = parts.concat();
            // Capacities may be larger than asked for.
            let n = n.min(bytes.len()).min(model.len() - at);
            if bytes[..n] != model[at..at + n] {
                return Err(format!("other bytes than were written, read in parts at {at}"));
            }
            Ok(())
        }
        Err(_) if below == Below::Fails => Ok(()),
        Err(error) => Err(format!("a vectored read at {at}: {error:?}")),
    }
}

/// Several writes beside one another, that share blocks; some reads are dropped.
async fn together(
    file: &File,
    model: &mut [u8],
    chance: &mut Chance,
    below: Below,
) -> Result<(), String> {
    if below == Below::Fails {
        return Ok(());
    }
    let at = chance.below(LEN - 2000);
    let mut writes = Vec::new();
    for i in 0..8usize {
        let bytes = vec![chance.below(256) as u8; 200];
        model[at + i * 200..at + (i + 1) * 200].copy_from_slice(&bytes);
        writes.push(Box::pin(file.write_all_at(bytes, (at + i * 200) as u64)));
    }
    drop(file.read_at(Vec::with_capacity(100), at as u64));
    let mut results = Vec::new();
    std::future::poll_fn(|cx| {
        use std::future::Future;
        writes.retain_mut(|write| match write.as_mut().poll(cx) {
            std::task::Poll::Ready(result) => {
                results.push(result.map(drop));
                false
            }
            std::task::Poll::Pending => true,
        });
        if writes.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    if let Some(error) = results.into_iter().find_map(Result::err) {
        return Err(format!("writes beside one another at {at}: {error:?}"));
    }
    read(file, model, at, 1600, below).await
}
