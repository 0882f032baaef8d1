//! The verifier: a filter for each thing that it finds, and those in which it finds nothing.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join;
use overlapped::Status;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::driver::testing::{Finding, Misdeed, Verifier};
use overlapped::driver::text::Text;
use overlapped::driver::{
    Completion, Disposition, Driver, Filter, Held, Io, Irp, Lower, Major, MajorSet, Next, On,
    Unwinding,
};
use overlapped::fs::{File, OpenOptions};
use support::{both, pattern, poll_once};

async fn open(verifier: &Verifier, tested: Vec<Arc<dyn Driver>>) -> File {
    let mut options = OpenOptions::new().read(true).write(true).on(Arc::new(Memory::new()));
    for driver in verifier.around(tested) {
        options = options.filter(driver);
    }
    options.open("tested").await.unwrap()
}

/// Reads and writes through the filter; what is found.
async fn use_it(filter: Arc<dyn Driver>) -> Vec<Finding> {
    let verifier = Verifier::new();
    let file = open(&verifier, vec![filter]).await;
    for at in [0, 5] {
        // The write pends while the read comes.
        _ = join(file.write_at("hello", at), file.read_at(Vec::with_capacity(5), at)).await;
        _ = file.read_vectored_at(vec![vec![0; 2], vec![0; 2]], at).await;
    }
    _ = file.sync_all().await;
    _ = file.close().await;
    verifier.findings()
}

#[test]
fn nothing_is_found_in_filters_that_are_right() {
    let directory = support::Dir::new();
    both(async |_| {
        for kind in [PassKind::Unhooked, PassKind::Skip, PassKind::Routine, PassKind::Future] {
            assert_eq!(use_it(pass(kind)).await, []);
        }
        let out = directory.path("out");
        for text in ["xor(key=7)", "trace(jsonl=%)", "throttle(iops=100000)", "cache(size=1M)"] {
            let text = text.replace('%', out.to_str().unwrap());
            for filter in text.parse::<Text>().unwrap().build().unwrap().filters {
                assert_eq!(use_it(filter).await, [], "{text}");
            }
        }
    });
}

#[test]
fn the_data_is_right_under_a_verifier_and_everything_pends() {
    both(async |_| {
        let verifier = Verifier::new();
        let file = open(&verifier, vec![Arc::new(Xor(3))]).await;
        file.write_all_at(pattern(5000), 10).await.unwrap();
        let mut read = file.read_at(Vec::with_capacity(5000), 10);
        assert!(poll_once(&mut read).is_pending(), "a bottom that is memory would be done");
        assert!(read.await.unwrap().1 == pattern(5000));
        // At the end: shorter than its memory.
        assert_eq!(file.read_at(vec![0; 100], 5005).await.unwrap().0, 5);
        file.close().await.unwrap();
        assert_eq!(verifier.findings(), []);
    });
}

/// What a filter may do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Drops,
    Panics,
    /// Keeps a value where it has just put the buffer that it lends.
    MixesScratch,
    ReportsMore,
    AsksTooFar,
    WritesBefore,
    WritesAfter,
    ChangesWrites,
    ChangesWritesBelow,
    UsesAfterCompletion,
}

struct Bad {
    wrong: Wrong,
    /// The address of a request's memory, for later.
    last: AtomicUsize,
}

impl Bad {
    /// Writes to the memory whose address it has kept, and keeps this one.
    fn write_to_last(&self, memory: *mut u8) {
        let last = self.last.swap(memory.expose_provenance(), Ordering::Relaxed);
        if last != 0 {
            // SAFETY: none; the verifier has it still.
            unsafe { *std::ptr::with_exposed_provenance_mut::<u8>(last) = 1 };
        }
    }
}

impl Driver for Bad {
    fn name(&self) -> &str {
        "bad"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let (memory, len) = irp.raw_data();
        let (reads, plain) = (irp.major() == Major::Read, irp.minor() == 0);
        match self.wrong {
            Wrong::Drops if reads => {
                let (held, disposition) = irp.hold();
                drop(held);
                return disposition;
            }
            Wrong::Panics if reads => panic!("on purpose"),
            Wrong::MixesScratch if !reads => {
                irp.next().lend("other");
                irp.set_scratch(7u8);
            }
            Wrong::AsksTooFar => _ = irp.next().set_offset(u64::MAX - 7),
            Wrong::ChangesWrites if !reads => {
                // SAFETY: none; it is the verifier's memory.
                unsafe { *memory ^= 1 };
            }
            Wrong::UsesAfterCompletion if plain && reads => self.write_to_last(memory),
            Wrong::ChangesWritesBelow if plain && reads => self.write_to_last(memory),
            Wrong::ChangesWritesBelow if plain => {
                self.last.store(memory.expose_provenance(), Ordering::Relaxed);
            }
            Wrong::WritesAfter if plain => {
                // SAFETY: none; there is the verifier's guard.
                unsafe { *memory.add(len as usize) = 1 };
            }
            _ => {}
        }
        lower.forward(irp, On::ALL)
    }
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        let (memory, _) = irp.raw_data();
        let (reads, plain) = (irp.major() == Major::Read, irp.minor() == 0);
        match self.wrong {
            Wrong::ReportsMore => irp.set_result(Status::SUCCESS, irp.len() + 1),
            // SAFETY: none; there is the verifier's guard.
            Wrong::WritesBefore if plain && reads => unsafe { *memory.sub(1) = 1 },
            _ => {}
        }
        irp.proceed()
    }
}

#[test]
fn what_is_wrong_is_found_and_named() {
    both(async |_| {
        for (wrong, misdeed) in [
            (Wrong::Drops, Misdeed::Dropped),
            (Wrong::Panics, Misdeed::Panicked),
            (Wrong::MixesScratch, Misdeed::Panicked),
            (Wrong::ReportsMore, Misdeed::TooLong { reported: 6 }),
            (Wrong::AsksTooFar, Misdeed::OutOfRange),
            (Wrong::WritesBefore, Misdeed::Overrun),
            (Wrong::WritesAfter, Misdeed::Overrun),
            (Wrong::ChangesWrites, Misdeed::ChangedWrite),
            (Wrong::ChangesWritesBelow, Misdeed::ChangedWrite),
            (Wrong::UsesAfterCompletion, Misdeed::UsedAfterCompletion),
        ] {
            let found = use_it(Arc::new(Bad { wrong, last: AtomicUsize::new(0) })).await;
            let first = found.first().unwrap_or_else(|| panic!("{wrong:?} is not found"));
            assert_eq!(first.misdeed, misdeed, "{wrong:?}: {found:?}");
            assert_eq!(first.driver, "bad");
            assert!(matches!(first.request.major, Major::Read | Major::Write), "{first}");
            let others = found.iter().filter(|finding| {
                let same =
                    std::mem::discriminant(&finding.misdeed) == std::mem::discriminant(&misdeed);
                !same
            });
            assert_eq!(others.count(), 0, "{wrong:?}: {found:?}");
        }
    });
}

/// Says that whatever failed was the end.
struct Hides;

impl Filter for Hides {
    type Open = ();
    fn name(&self) -> &str {
        "hides"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        Ok(next.forward(&mut io).await.unwrap_or(0))
    }
}

#[test]
fn a_drop_that_is_hidden_is_found() {
    both(async |_| {
        let verifier = Verifier::new();
        let drops = Bad { wrong: Wrong::Drops, last: AtomicUsize::new(0) };
        let file = open(&verifier, vec![Hides.into_driver(), Arc::new(drops)]).await;
        file.read_at(vec![0; 5], 0).await.unwrap();
        let found = verifier.findings();
        assert_eq!((found.len(), found[0].misdeed), (1, Misdeed::Dropped));
        assert_eq!(found[0].driver, "bad");
    });
}

/// Keeps reads, and forgets them.
#[derive(Default)]
struct Keeps(Mutex<Vec<Held>>);

impl Driver for Keeps {
    fn name(&self) -> &str {
        "keeps"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        let (held, disposition) = irp.hold();
        self.0.lock().unwrap().push(held);
        disposition
    }
}

#[test]
fn a_request_that_does_not_end_is_found() {
    both(async |_| {
        let (verifier, keeps) = (Verifier::new(), Arc::new(Keeps::default()));
        let file = open(&verifier, vec![keeps.clone()]).await;
        let mut read = file.read_at(vec![0; 5], 3);
        assert!(poll_once(&mut read).is_pending());
        let found = verifier.findings();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].misdeed, found[0].request.offset), (Misdeed::Unfinished, Some(3)));
        assert_eq!(
            found[0].to_string(),
            "keeps has not ended a request (Read of 5 at 3: in flight)"
        );
        let held = keeps.0.lock().unwrap().pop().unwrap();
        held.complete(Status::SUCCESS, 0);
        read.await.unwrap();
        assert_eq!(verifier.findings(), []);
    });
}

/// A bottom that writes one byte more than it was asked for.
struct Overruns;

impl Driver for Overruns {
    fn name(&self) -> &str {
        "overruns"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Create, Major::Read, Major::Close])
    }
    fn dispatch(&self, irp: Irp<'_>, _: Lower<'_>) -> Disposition {
        match irp.major() {
            Major::Read => {
                let (memory, len) = irp.raw_data();
                // SAFETY: none; the last byte is in the verifier's guard.
                unsafe { memory.write_bytes(0, len as usize + 1) };
            }
            major => _ = irp.file().set_open(major == Major::Create),
        }
        irp.complete(Status::SUCCESS, 0)
    }
}

#[test]
fn a_bottom_is_verified_too() {
    both(async |_| {
        let verifier = Verifier::new();
        let mut options = OpenOptions::new().read(true).on(Arc::new(Overruns));
        for driver in verifier.around([]) {
            options = options.filter(driver);
        }
        let file = options.open("tested").await.unwrap();
        file.read_at(vec![0; 5], 0).await.unwrap();
        let found = verifier.findings();
        assert_eq!((found.len(), found[0].misdeed), (1, Misdeed::Overrun));
        assert_eq!(found[0].driver, "the bottom");
    });
}
