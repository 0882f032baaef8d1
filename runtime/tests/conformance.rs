//! The suite for filters: what it lets pass, and what it finds.

use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::conformance::check;
use overlapped::driver::filter::{PassKind, pass};
use overlapped::driver::text::Text;
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};

#[test]
fn the_filters_that_there_are_conform() {
    let directory = std::env::temp_dir().join(format!("overlapped-conform-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for text in [
        "xor(key=7)",
        "trace(jsonl=%)",
        "stats(path=%)",
        "slice(max=700, seed=1)",
        "delay(us=10)",
        "throttle(iops=100000, bps=1G)",
        "fault(seed=1, rate=0.05, kind=short)",
        "idle(ms=60000)",
    ] {
        let path = directory.join("out");
        let text = text.replace('%', path.to_str().unwrap());
        let make = || Ok(text.parse::<Text>()?.build()?.filters);
        check(make, 11).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    for kind in [PassKind::Unhooked, PassKind::Skip, PassKind::Routine, PassKind::Future] {
        check(|| Ok(vec![pass(kind), pass(kind)]), 5).unwrap();
    }
    std::fs::remove_dir_all(&directory).unwrap();
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
        let error = check(made, 3).unwrap_err().to_string();
        assert!(error.contains("bytes than were written"), "{error}");
    }
}
