//! The suites for filters and bottoms of files: what they let pass, and what they find. Those for streams
//! are in `conformance_streams.rs`.

mod support;

use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::bottom::{Full, Memory, Null, Zero};
use overlapped::driver::filter::{PassKind, pass};
use overlapped::driver::testing::conformance::{file_bottom, file_filters};
use overlapped::driver::testing::{Verifier, each_failure};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};
use overlapped::fs::OpenOptions;
use support::{Dir, alone, pattern};

/// Puts a stack's text through the suite, as it is and with a verifier around it.
fn conforms(text: &str) {
    let made = || Ok(text.parse::<Text>()?.build()?.filters);
    file_filters(made, 11).unwrap_or_else(|error| panic!("{text}: {error}"));
    let verifier = Verifier::new();
    let verified = || Ok(verifier.around(made()?));
    file_filters(verified, 12).unwrap_or_else(|error| panic!("{text}, verified: {error}"));
    assert_eq!(verifier.findings(), [], "{text}");
}

#[test]
fn the_filters_that_there_are_conform() {
    alone("the_filters_that_there_are_conform", |_| {
        let directory = Dir::new();
        let out = directory.path("out");
        for text in [
            "xor(key=7)",
            "trace(jsonl=%)",
            "stats(path=%)",
            "slice(max=700, seed=1)",
            "delay(us=10)",
            "throttle(iops=100000, bps=1G)",
            "fault(seed=1, rate=0.05, kind=short)",
            "idle(ms=60000)",
            "cache(size=1M)",
        ] {
            conforms(&text.replace('%', out.to_str().unwrap()));
        }
        for kind in [PassKind::Unhooked, PassKind::Skip, PassKind::Routine, PassKind::Future] {
            file_filters(|| Ok(vec![pass(kind), pass(kind)]), 5).unwrap();
        }
    });
}

/// Writes, flushes, reads back, closes.
async fn writes(options: OpenOptions) -> std::io::Result<()> {
    let data = pattern(3000);
    let file = options.open("a name").await?;
    file.write_all_at(data[..1000].to_vec(), 0).await?;
    file.write_all_at(data[1000..].to_vec(), 1000).await?;
    file.sync_all().await?;
    let ((), read) = file.read_exact_at(Vec::with_capacity(2000), 500).await?;
    assert!(read == data[500..2500], "other bytes than were written");
    file.close().await
}

#[test]
fn whatever_fails_below_is_an_error_and_harms_nobody() {
    alone("whatever_fails_below_is_an_error_and_harms_nobody", |backend| {
        for text in [
            "xor(key=7)",
            "slice(max=700)",
            "throttle(iops=1000000)",
            "cache(size=1M)",
            "cache(size=1M, block=512, mode=writeback)",
            "trace(jsonl=/dev/null) | delay(us=1)",
        ] {
            let filters = text.parse::<Text>().unwrap().build().unwrap().filters;
            let failed = each_failure(Status::DATA_ERROR, |failing| {
                let memory = Arc::new(Memory::new());
                let through = |filters: &[Arc<dyn Driver>]| {
                    let options = OpenOptions::new().read(true).write(true).on(memory.clone());
                    filters.iter().cloned().fold(options, OpenOptions::filter)
                };
                let below = [&filters[..], &[failing]].concat();
                support::local(backend).block_on(async {
                    if let Err(error) = writes(through(&below)).await {
                        assert_eq!(Status::from(&error), Status::DATA_ERROR, "{text}");
                        // What failed works when it is tried again: each error comes once.
                        writes(through(&below)).await.unwrap();
                    }
                    // What has succeeded is there for those who come later.
                    let file = through(&filters).open("a name").await.unwrap();
                    let ((), read) = file.read_exact_at(vec![0; 3000], 0).await.unwrap();
                    assert!(read == pattern(3000), "{text}");
                });
            });
            let of = |major| failed.iter().filter(|record| record.major == major).count();
            let counts = [Major::Create, Major::Write, Major::Flush, Major::Close].map(of);
            assert!(counts.iter().all(|&n| n > 0), "{text}: {failed:?}");
        }
    });
}

/// What is wrong with a filter.
#[derive(Clone, Copy)]
enum Wrong {
    /// Forgets every ninth write.
    Forgets,
    /// Says that an error was none.
    Hides,
    /// Reads the byte before the one that was asked for.
    Shifts,
    /// Changes what is written and not what is read.
    Changes,
}

struct Bad(Wrong);

impl Filter for Bad {
    type Open = std::sync::atomic::AtomicUsize;
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &Self::Open, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match self.0 {
            Wrong::Shifts if io.offset() > 0 => {
                let (at, len) = (io.offset() - 1, io.len() as u32);
                next.forward(&mut io).at(at, len).await
            }
            _ => next.forward(&mut io).await,
        }
    }
    async fn write(
        &self,
        count: &Self::Open,
        next: Next<'_>,
        mut io: Io<'_>,
    ) -> Result<usize, Status> {
        let (n, len) = (count.fetch_add(1, std::sync::atomic::Ordering::Relaxed), io.len());
        match self.0 {
            Wrong::Forgets if n % 9 == 8 => Ok(len),
            Wrong::Hides => Ok(next.forward(&mut io).await.unwrap_or(len)),
            Wrong::Changes => {
                let changed: Vec<u8> = io.segments().flatten().map(|byte| byte ^ 1).collect();
                next.forward(&mut io).from(changed).await.0
            }
            _ => next.forward(&mut io).await,
        }
    }
}

#[test]
fn what_is_wrong_is_found() {
    for wrong in [Wrong::Forgets, Wrong::Hides, Wrong::Shifts, Wrong::Changes] {
        let made = || Ok(vec![Bad(wrong).into_driver() as Arc<dyn Driver>]);
        let error = file_filters(made, 3).unwrap_err().to_string();
        assert!(error.contains("bytes than were written"), "{error}");
    }
}

/// A file on the bottom, with filters.
fn opens(
    bottom: impl Fn() -> Arc<dyn Driver>,
    filters: impl Fn() -> Vec<Arc<dyn Driver>>,
) -> impl AsyncFn() -> std::io::Result<overlapped::fs::File> {
    async move || {
        let mut options = OpenOptions::new().read(true).write(true).on(bottom());
        for filter in filters() {
            options = options.filter(filter);
        }
        options.open("new").await
    }
}

#[test]
fn the_bottoms_of_files_conform() {
    alone("the_bottoms_of_files_conform", |_| {
        let dir = Dir::new();
        let name = std::cell::Cell::new(0);
        let on_disk = async || {
            name.set(name.get() + 1);
            let options = OpenOptions::new().read(true).write(true).create_new(true);
            options.open(dir.path(&name.get().to_string())).await
        };
        file_bottom(on_disk, 1).unwrap();
        file_bottom(opens(|| Arc::new(Memory::new()), Vec::new), 2).unwrap();
        file_bottom(opens(|| Arc::new(Memory::of_size(100_000)), Vec::new), 3).unwrap();
        // A filter and what is below it are a bottom too; some are for disks.
        let log = dir.path("log");
        let record = format!("record(log={})", log.to_str().unwrap());
        for (text, disk) in [
            ("cache(size=1M)", None),
            ("cache(size=16K, block=512, mode=writeback)", None),
            ("compare(other=\"memory()\")", None),
            ("mirror(other=\"memory()\")", None),
            ("throttle(iops=1000000, bps=30M)", None),
            ("cache(size=16K, block=512, mode=writeback)", Some(100_000)),
            (&record, Some(128 << 10)),
        ] {
            let bottom = || Arc::new(disk.map_or_else(Memory::new, Memory::of_size)) as _;
            let filters = || text.parse::<Text>().unwrap().build().unwrap().filters;
            file_bottom(opens(bottom, filters), 4)
                .unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    });
}

#[test]
fn a_bottom_that_keeps_nothing_does_not_conform() {
    for bottom in [Arc::new(Null) as Arc<dyn Driver>, Arc::new(Zero), Arc::new(Full)] {
        file_bottom(opens(|| bottom.clone(), Vec::new), 1).unwrap_err();
    }
}

/// What a bottom may do wrong: a filter on one that is right.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Reads past the end bring what is not there.
    ReadsPastTheEnd,
    /// Writes one byte less than it says.
    WritesShort,
    /// Of several parts it reads the first alone, and says that it has read all.
    ForgetsParts,
    /// An empty write makes a byte.
    WritesNothing,
    /// Flushing fails.
    CannotFlush,
}

struct Faulty(Fault);

impl Filter for Faulty {
    type Open = ();
    fn name(&self) -> &str {
        "faulty"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::Flush])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let n = next.forward(&mut io).await?;
        match self.0 {
            Fault::ReadsPastTheEnd if n < io.len() => Ok(n + io.put(n, b"?")),
            Fault::ForgetsParts => {
                let second: usize = io.received_mut(n).skip(1).map(|part| part.len()).sum();
                io.put(n - second, &vec![0; second]);
                Ok(n)
            }
            _ => Ok(n),
        }
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let (at, len) = (io.offset(), io.len());
        match self.0 {
            Fault::WritesShort if io.minor() == 0 && len > 0 => {
                next.forward(&mut io).at(at, len as u32 - 1).await.map(|_| len)
            }
            Fault::WritesNothing if len == 0 => next.forward(&mut io).from("x").await.0.map(|_| 0),
            _ => next.forward(&mut io).await,
        }
    }
    async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match self.0 {
            Fault::CannotFlush => Err(Status::INVALID_DEVICE_REQUEST),
            _ => next.forward(&mut io).await,
        }
    }
}

#[test]
fn what_is_wrong_with_a_bottom_is_found() {
    for (fault, found) in [
        (Fault::ReadsPastTheEnd, "an empty file has bytes (at the end)"),
        (Fault::WritesShort, "other bytes than were written"),
        (Fault::ForgetsParts, "a vectored read at"),
        (Fault::WritesNothing, "an empty write changes the length"),
        (Fault::CannotFlush, "a flush failed"),
    ] {
        let made = opens(|| Arc::new(Memory::new()), move || vec![Faulty(fault).into_driver()]);
        let error = file_bottom(made, 1).unwrap_err().to_string();
        assert!(error.contains(found), "{fault:?}: {error}");
    }
}
