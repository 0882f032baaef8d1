//! A filter for tests, to be put below the one under test: it notes what comes down, and fails or
//! holds it as told.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::sync::{Arc, Mutex};

use overlapped::Status;
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};
use overlapped::wait::Event;

/// A request that came down: what, where, and how many bytes.
pub type Seen = (Major, u64, usize);

#[derive(Default)]
struct Told {
    seen: Vec<Seen>,
    failing: Vec<(Major, usize, Status)>,
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Probe {
    told: Arc<Mutex<Told>>,
    gate: Event,
}

impl Probe {
    pub fn new() -> Probe {
        Probe { told: Arc::default(), gate: Event::manual(true) }
    }

    pub fn driver(&self) -> Arc<dyn Driver> {
        self.clone().into_driver()
    }

    /// What has come since the last call.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.told.lock().unwrap().seen)
    }

    /// Of that major, without emptying the list.
    pub fn count(&self, major: Major) -> usize {
        self.told.lock().unwrap().seen.iter().filter(|seen| seen.0 == major).count()
    }

    /// Fails the next so many of that major.
    pub fn fail(&self, major: Major, times: usize, status: Status) {
        let failing = &mut self.told.lock().unwrap().failing;
        failing.retain(|rule| rule.0 != major);
        failing.push((major, times, status));
    }

    /// From now on everything waits here.
    pub fn close_gate(&self) {
        self.gate.reset();
    }

    pub fn open_gate(&self) {
        self.gate.set();
    }

    async fn pass<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let failed = {
            let mut told = self.told.lock().unwrap();
            told.seen.push((io.major(), io.offset(), io.len()));
            let rule = told.failing.iter_mut().find(|rule| rule.0 == io.major() && rule.1 > 0);
            rule.map(|(_, times, status)| {
                *times -= 1;
                *status
            })
        };
        // A cancel ends the wait.
        while !self.gate.is_set() && !next.is_cancelled() {
            next.sleep(std::time::Duration::from_millis(1)).await;
        }
        match failed {
            Some(status) => Err(status),
            None => next.forward(&mut io).await,
        }
    }
}

impl Filter for Probe {
    type Open = ();
    fn name(&self) -> &str {
        "probe"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[
            Major::Read,
            Major::Write,
            Major::Flush,
            Major::SetInformation,
            Major::FileSystemControl,
        ])
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn flush(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn other(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
}
