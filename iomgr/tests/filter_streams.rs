//! What filters of streams need that answer reads by themselves: reads of their own below, which are
//! not the application's; positions; and word of when an answer is settled.

#![cfg(not(loom))]

mod support;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use overlapped_iomgr::filter::{Filter as Level2, Io, Next, Settle};
use overlapped_iomgr::{FileHandle, Major, MajorSet, Stack, Status};
use support::*;

type Outcome = Result<usize, Status>;

/// What a filter of these tests does with a read.
type Work = for<'a> fn(&'a Filtering, Next<'a>, Io<'a>) -> Boxed<'a>;
type Boxed<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

struct Filtering {
    work: Work,
    log: Log,
    told: Arc<Told>,
}

impl Level2 for Filtering {
    type Open = ();
    fn name(&self) -> &str {
        "filtering"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Outcome {
        (self.work)(self, next, io).await
    }
}

#[derive(Default)]
struct Told {
    times: AtomicUsize,
    /// How many results had been abandoned by then.
    after: AtomicUsize,
    counts: Mutex<Option<Arc<BottomCounts>>>,
}

impl Settle for Told {
    fn settled(&self) {
        self.times.fetch_add(1, SeqCst);
        let counts = self.counts.lock().unwrap();
        let abandoned = counts.as_ref().map_or(0, |counts| counts.abandoned.load(SeqCst));
        self.after.store(abandoned, SeqCst);
    }
}

struct Scene {
    harness: Harness,
    file: FileHandle,
    counts: Arc<BottomCounts>,
    log: Log,
    told: Arc<Told>,
}

impl Scene {
    fn new(work: Work, below: Option<Filter>) -> Scene {
        let (log, told, bottom) = (Log::default(), Arc::<Told>::default(), Bottom::default());
        let counts = bottom.counts.clone();
        *told.counts.lock().unwrap() = Some(counts.clone());
        let filtering = Filtering { work, log: log.clone(), told: told.clone() };
        let mut filters = vec![filtering.into_driver()];
        if let Some(below) = below {
            filters.push(Arc::new(below));
        }
        let harness = Harness::new();
        let file = open(&Stack::new(filters, Arc::new(bottom)).unwrap(), FD);
        Scene { harness, file, counts, log, told }
    }

    /// Reads, however long the filter sleeps.
    fn read(&self, offset: u64) -> (usize, Vec<u8>) {
        let mut request = read(&self.file, 4, offset);
        let wakes = Arc::new(Wakes::default());
        if let Poll::Ready(done) = poll_counting(&mut request, &wakes) {
            return done.unwrap();
        }
        self.harness.until("the read is done", || wakes.count() > 0);
        now(&mut request).unwrap()
    }

    fn finish(self) {
        drop(self.file);
        self.harness.finish();
    }
}

/// that bytes are kept above is news for the filter; its own read is not at the top, and does not
/// get them.
#[test]
fn own_reads_end_with_data_above() {
    let above = Filter::new("below", |irp, _| irp.complete(Status::DATA_ABOVE, 0));
    let scene = Scene::new(
        |this, next, mut io| {
            Box::pin(async move {
                let own = next.request(Read { buf: vec![0; 4], offset: 0 }).await;
                this.log.add(format!("{}", own.unwrap_err().status() == Status::DATA_ABOVE));
                Ok(io.put(0, b"mine"))
            })
        },
        Some(above),
    );
    let (n, bytes) = scene.read(0);
    assert_eq!((n, &bytes[..]), (4, &b"mine"[..]));
    assert_eq!(scene.log.take(), ["true"]);
    scene.finish();
}

/// What a filter's own read has brought, and the filter did not take, is not kept for the application:
/// it has not been through the filter.
#[test]
fn own_reads_that_are_dropped_are_not_kept_above() {
    let scene = Scene::new(
        |_, next, mut io| {
            Box::pin(async move {
                {
                    let mut own = pin!(next.request(Read { buf: vec![0; 4], offset: 0 }));
                    let first =
                        std::future::poll_fn(|cx| Poll::Ready(own.as_mut().poll(cx).is_pending()));
                    assert!(first.await, "it pends");
                    // Long enough for it to end.
                    next.sleep(Duration::from_millis(20)).await;
                }
                Ok(io.put(0, b"mine"))
            })
        },
        None,
    );
    scene.harness.sim.default_step(Step::after(1));
    let (_, bytes) = scene.read(0);
    assert_eq!(&bytes[..], b"mine");
    assert_eq!(scene.counts.abandoned.load(SeqCst), 0);
    scene.finish();
}

fn answers<'a>(this: &'a Filtering, next: Next<'a>, mut io: Io<'a>) -> Boxed<'a> {
    Box::pin(async move {
        assert!(!io.is_awaited());
        if io.offset() > 0 {
            next.sleep(Duration::from_millis(20)).await;
        }
        let n = io.put(0, b"mine");
        io.set_position(77);
        io.until_settled(this.told.clone());
        assert!(io.is_awaited());
        this.log.add(format!("told {}", this.told.times.load(SeqCst)));
        Ok(n)
    })
}

/// Told once, after the filter's function has ended; inside the issuing call, and later.
#[test]
fn a_filter_hears_that_its_answer_is_settled() {
    for offset in [0, 1] {
        let scene = Scene::new(answers, None);
        let (n, _) = scene.read(offset);
        assert_eq!((n, scene.log.take()), (4, vec!["told 0".to_owned()]));
        assert_eq!(scene.told.times.load(SeqCst), 1);
        // One that does not ask is not told of.
        scene.harness.block_on(write(&scene.file, b"x", 0)).unwrap();
        assert_eq!(scene.told.times.load(SeqCst), 1);
        scene.finish();
    }
}

/// if the requester has left, what it did not take has been kept before.
#[test]
fn x35_an_answer_for_nobody_is_kept_before_it_is_settled() {
    let scene = Scene::new(
        |this, next, mut io| {
            Box::pin(async move {
                next.sleep(Duration::from_secs(1000)).await;
                let n = io.put(0, b"mine");
                io.set_position(77);
                io.until_settled(this.told.clone());
                Ok(n)
            })
        },
        None,
    );
    let mut request = read(&scene.file, 4, 0);
    assert!(poll(&mut request).is_pending());
    // The cancel ends the sleep, and the filter answers all the same.
    drop(request);
    scene.harness.until("it is settled", || scene.told.times.load(SeqCst) == 1);
    assert_eq!(scene.told.after.load(SeqCst), 1);
    assert_eq!(scene.counts.abandoned_bytes.load(SeqCst), 4);
    scene.finish();
}
