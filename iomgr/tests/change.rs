//! Live change: filters come and go on open files, while requests are in flight.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Weak};
use std::thread;

use overlapped_iomgr::filter::{Filter as Level2, Io, Next};
use overlapped_iomgr::hal::Wait;
use overlapped_iomgr::{
    ChangeError, Driver, FileObject, Major, MajorSet, On, Place, Stack, StackError, Status,
};
use support::*;

/// Logs what it sees, and its own end.
struct Spy {
    name: &'static str,
    log: Log,
    refuses: bool,
}

impl Spy {
    fn new(name: &'static str, log: &Log) -> Arc<Spy> {
        Arc::new(Spy { name, log: log.clone(), refuses: false })
    }
}

impl Driver for Spy {
    fn name(&self) -> &str {
        self.name
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn may_attach(&self, _: &FileObject) -> Result<(), Status> {
        if self.refuses { Err(Status::NOT_SUPPORTED) } else { Ok(()) }
    }
    fn may_detach(&self, _: &FileObject) -> Result<(), Status> {
        if self.name == "stays" { Err(Status::DEVICE_BUSY) } else { Ok(()) }
    }
    fn dispatch(
        &self,
        irp: overlapped_iomgr::Irp<'_>,
        lower: overlapped_iomgr::Lower<'_>,
    ) -> overlapped_iomgr::Disposition {
        self.log.add(format!("{} {}", self.name, irp.offset()));
        lower.forward(irp, On::ALL)
    }
    fn completed(&self, irp: overlapped_iomgr::Unwinding<'_>) -> overlapped_iomgr::Completion {
        self.log.add(format!("{} back", self.name));
        irp.proceed()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        self.log.add(format!("{} gone", self.name));
    }
}

fn bare() -> Arc<Stack> {
    stack(vec![], Bottom::default())
}

/// O-8: what is in flight finishes where it began; what comes later takes the new way.
#[test]
fn o8_new_requests_meet_it_and_old_ones_do_not() {
    let harness = Harness::new();
    let log = Log::default();
    let file = open(&bare(), FD);
    harness.sim.default_step(Step::after(4));
    let mut before = read(&file, 4, 1);
    assert!(poll(&mut before).is_pending());
    let (spy, attached) = file.attach(Place::Top, Spy::new("spy", &log)).unwrap();
    harness.turn();
    assert!(!attached.is_done(), "the first is still on the old stack");
    let mut meanwhile = read(&file, 4, 2);
    assert!(poll(&mut meanwhile).is_pending());
    let detached = file.detach(&spy).unwrap();
    let mut after = read(&file, 4, 3);
    assert!(poll(&mut after).is_pending());
    assert_eq!(log.take(), ["spy 2"]);
    assert!(!detached.is_done());
    harness.block_on(before).unwrap();
    harness.block_on(async { attached.await });
    harness.block_on(meanwhile).unwrap();
    harness.block_on(async { detached.await });
    assert_eq!(log.take(), ["spy back"], "and it is kept by its attachment");
    drop(spy);
    assert_eq!(log.take(), ["spy gone"]);
    harness.block_on(after).unwrap();
    assert!(log.take().is_empty());
    drop(file);
    harness.finish();
}

/// With nothing in flight, nothing else would wake the processor that learns of a change.
#[test]
fn o8_a_change_is_reported_before_the_processor_sleeps() {
    let harness = Harness::new();
    let log = Log::default();
    let file = open(&bare(), FD);
    // Asked when it is about to sleep.
    let turn = |change: &overlapped_iomgr::Change| {
        let ready = || {
            assert!(change.is_done(), "nobody would wake it");
            true
        };
        harness.processor.turn(Wait::Forever, ready).unwrap();
    };
    let (spy, attached) = file.attach(Place::Top, Spy::new("spy", &log)).unwrap();
    turn(&attached);
    let detached = file.detach(&spy).unwrap();
    turn(&detached);
    drop((spy, file));
    harness.finish();
}

/// A driver is dropped when the last request has left it, and none of its frames is on the stack.
#[test]
fn o8_a_filter_that_detaches_itself_outlives_its_frames() {
    struct Leaves {
        alive: Arc<AtomicBool>,
        file: std::sync::Mutex<Option<overlapped_iomgr::FileHandle>>,
    }
    impl Driver for Leaves {
        fn name(&self) -> &str {
            "leaves"
        }
        fn hooks(&self) -> MajorSet {
            MajorSet::of(&[Major::Read])
        }
        fn dispatch(
            &self,
            irp: overlapped_iomgr::Irp<'_>,
            lower: overlapped_iomgr::Lower<'_>,
        ) -> overlapped_iomgr::Disposition {
            let file = self.file.lock().unwrap().take();
            if let Some(file) = file {
                let own = file.attachment("leaves").unwrap();
                drop(file.detach(&own).unwrap());
            }
            let disposition = lower.skip(irp);
            assert!(self.alive.load(SeqCst), "still there");
            disposition
        }
    }
    impl Drop for Leaves {
        fn drop(&mut self) {
            self.alive.store(false, SeqCst);
        }
    }
    for step in [Step::INLINE, Step::after(1)] {
        let harness = Harness::new();
        harness.sim.default_step(step);
        let alive = Arc::new(AtomicBool::new(true));
        let file = open(&bare(), FD);
        let leaves = Arc::new(Leaves { alive: alive.clone(), file: Default::default() });
        *leaves.file.lock().unwrap() = Some(file.handle());
        let weak: Weak<Leaves> = Arc::downgrade(&leaves);
        drop(file.attach(Place::Top, leaves).unwrap());
        harness.block_on(read(&file, 4, 0)).unwrap();
        harness.turns(3);
        assert!(weak.upgrade().is_none() && !alive.load(SeqCst), "it has gone");
        drop(file);
        harness.finish();
    }
}

/// Files may share a stack; a change of one does not wait for the others' requests.
#[test]
fn a_stack_of_several_files() {
    let harness = Harness::new();
    harness.sim.set_file(FD + 1, vec![0; 100]);
    harness.sim.default_step(Step::GATED);
    let shared = bare();
    let (one, other) = (open(&shared, FD), open(&shared, FD + 1));
    let (mut of_one, mut of_other) = (read(&one, 4, 0), read(&other, 4, 0));
    assert!(poll(&mut of_one).is_pending() && poll(&mut of_other).is_pending());
    let log = Log::default();
    // Both change from the same stack, while each has a request on it.
    let (at, first) = one.attach(Place::Top, Spy::new("spy", &log)).unwrap();
    let (_, second) = other.attach(Place::Top, Spy::new("spy", &log)).unwrap();
    harness.turns(3);
    assert!(!first.is_done() && !second.is_done());
    one.cancel_requests();
    harness.turns(3);
    assert!(now(&mut of_one).is_err());
    assert!(first.is_done() && !second.is_done());
    other.cancel_requests();
    harness.turns(3);
    assert!(now(&mut of_other).is_err());
    assert!(second.is_done());
    drop((of_one, of_other, at));
    drop((one, other));
    harness.finish();
}

#[test]
fn places_and_what_is_refused() {
    let harness = Harness::new();
    let log = Log::default();
    let file = open(&bare(), FD);
    let names =
        |file: &FileObject| file.stack().devices().map(|d| d.name().to_owned()).collect::<Vec<_>>();
    let attach = |place, name| file.attach(place, Spy::new(name, &log)).map(|(at, _)| at);
    let b = attach(Place::Top, "b").unwrap();
    attach(Place::Above("b"), "a").unwrap();
    attach(Place::Below("b"), "c").unwrap();
    attach(Place::Above("bottom"), "d").unwrap();
    assert_eq!(names(&file), ["a", "b", "c", "d", "bottom"]);
    let missing = |name: &str| Err(ChangeError::NoSuchDriver { name: name.into() });
    assert_eq!(attach(Place::Above("x"), "e").map(drop), missing("x"));
    assert_eq!(attach(Place::Below("bottom"), "e").map(drop), missing("bottom"));
    file.detach(&b).map(drop).unwrap();
    assert_eq!(names(&file), ["a", "c", "d", "bottom"]);
    let twice = file.detach(&b).map(drop).unwrap_err();
    assert_eq!(twice, ChangeError::NotAttached { filter: "b".into() });
    assert!(std::io::Error::from(twice).to_string().contains("detached before"));
    assert!(file.attachment("bottom").is_none(), "the bottom is nobody's to detach");

    let refuses = Arc::new(Spy { name: "no", log: log.clone(), refuses: true });
    let refused = file.attach(Place::Top, refuses).map(drop).unwrap_err();
    let why = ChangeError::Refused { filter: "no".into(), status: Status::NOT_SUPPORTED };
    assert_eq!(refused, why);
    let stays = attach(Place::Top, "stays").unwrap();
    let refused = file.detach(&stays).map(drop).unwrap_err();
    let why = ChangeError::Refused { filter: "stays".into(), status: Status::DEVICE_BUSY };
    assert_eq!(refused, why);
    assert_eq!(names(&file), ["stays", "a", "c", "d", "bottom"], "nothing has changed");

    let mut too_deep = Ok(stays.clone());
    for _ in 0..64 {
        too_deep = attach(Place::Top, "more");
    }
    assert!(matches!(too_deep, Err(ChangeError::Stack(StackError::TooDeep { .. }))));

    harness.block_on(plain(&file, Major::Close));
    assert_eq!(attach(Place::Top, "late").map(drop), Err(ChangeError::Closed));
    assert_eq!(file.detach(&stays).map(drop), Err(ChangeError::Closed));
    harness.turns(2);
    drop(file);
    harness.finish();
}

static ENDED: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
struct Note(AtomicUsize);

impl Drop for Note {
    fn drop(&mut self) {
        ENDED.fetch_add(*self.0.get_mut(), SeqCst);
    }
}

/// Keeps a note for each file, and reads in two halves, of which the second starts late.
struct Notes;

impl Level2 for Notes {
    type Open = Note;
    fn name(&self) -> &str {
        "notes"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, note: &Note, next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        note.0.fetch_add(1, SeqCst);
        let n = next.forward(&mut io).await?;
        // On the old stack, which is being replaced.
        let more = next.request(Read { buf: vec![0u8; 4], offset: 100 }).await;
        assert_eq!(more.map_err(|e| e.status())?.1, [100, 101, 102, 103]);
        Ok(n)
    }
}

/// What a filter keeps for a file goes when it is detached; its own requests are waited for too.
#[test]
fn what_a_filter_keeps_for_the_file_goes_with_it() {
    let harness = Harness::new();
    harness.sim.default_step(Step::after(3));
    let file = open(&bare(), FD);
    let (notes, _) = file.attach(Place::Top, Notes.into_driver()).unwrap();
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    let change = file.detach(&notes).unwrap();
    drop(notes);
    harness.turns(5);
    assert!(!change.is_done(), "its second request is below");
    assert_eq!(ENDED.load(SeqCst), 0);
    harness.block_on(request).unwrap();
    harness.block_on(async { change.await });
    assert_eq!(ENDED.load(SeqCst), 1);
    // Its place is used again.
    for _ in 0..3 {
        let (notes, _) = file.attach(Place::Top, Notes.into_driver()).unwrap();
        harness.block_on(read(&file, 4, 0)).unwrap();
        harness.block_on(async { file.detach(&notes).unwrap().await });
    }
    assert_eq!(ENDED.load(SeqCst), 4);
    drop(file);
    harness.finish();
}

/// Requests of other processors are found there.
#[test]
fn requests_of_other_threads_are_waited_for() {
    let sim = Sim::new();
    sim.set_file(FD, vec![7; 4096]);
    sim.default_step(Step::GATED);
    let harness = Harness::with(&sim);
    let log = Log::default();
    let file = open(&bare(), FD);
    let (spy, _) = file.attach(Place::Top, Spy::new("spy", &log)).unwrap();
    let (issued, finish) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = Harness::with(&sim);
            let mut request = read(&file, 4, 9);
            assert!(poll(&mut request).is_pending());
            issued.wait();
            other.turns(3);
            finish.wait();
            sim.open_gate();
            other.until("it is done", || log.take().contains(&"spy back".to_owned()));
            assert_eq!(now(&mut request).unwrap().0, 4);
            drop(request);
            other.turns(2);
            drop(other);
        });
        issued.wait();
        let change = file.detach(&spy).unwrap();
        harness.turns(3);
        assert!(!change.is_done());
        finish.wait();
        harness.until("the other's request is done", || change.is_done());
    });
    drop((spy, file));
    harness.finish();
}

/// Many times, with requests all the while: each sees the filter on its way down and up, or not at all.
#[test]
fn many_changes_under_load() {
    let harness = Harness::new();
    let file = open(&bare(), FD);
    let log = Log::default();
    let mut requests = Vec::new();
    let mut issue = |i| {
        let mut request = read(&file, 8, u64::from(i));
        match poll(&mut request) {
            std::task::Poll::Pending => requests.push(request),
            std::task::Poll::Ready(result) => drop(result.unwrap()),
        }
    };
    for i in 0..1000 {
        harness.sim.default_step(Step::after(i % 4));
        let (spy, _) = file.attach(Place::Top, Spy::new("spy", &log)).unwrap();
        issue(i);
        harness.turn();
        let change = file.detach(&spy).unwrap();
        issue(i);
        if i % 3 == 0 {
            harness.block_on(async { change.await });
        }
    }
    for request in requests {
        harness.block_on(request).unwrap();
    }
    harness.turns(5);
    let lines = log.take();
    let count = |end: &str| lines.iter().filter(|line| line.ends_with(end)).count();
    assert_eq!((count("back"), count("gone"), lines.len()), (1000, 1000, 3000));
    assert_eq!(file.stack().devices().count(), 1);
    drop(file);
    harness.finish();
}
