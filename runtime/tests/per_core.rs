//! What filters of both levels keep for each processor.

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use overlapped::Status;
use overlapped::driver::{
    Disposition, Driver, Filter, Io, Irp, Lower, Major, MajorSet, Next, PerCore,
};
use overlapped::fs::OpenOptions;
use overlapped::net::{TcpStream, stack_of};
use support::{Dir, alone, pattern, poll_once, workers};

#[derive(Default)]
struct Counts(PerCore<AtomicU64>);

impl Counts {
    fn add(&self) {
        self.0.with(|n| n.store(n.load(Ordering::Relaxed) + 1, Ordering::Relaxed));
    }
    fn total(&self) -> u64 {
        self.0.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }
}

struct Level1(Arc<Counts>);

impl Driver for Level1 {
    fn name(&self) -> &str {
        "level 1"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.0.add();
        lower.skip(irp)
    }
}

struct Level2(Arc<Counts>);

impl Filter for Level2 {
    type Open = ();
    fn name(&self) -> &str {
        "level 2"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.0.add();
        let result = next.forward(&mut io).await;
        // On the same thread again.
        self.0.add();
        result
    }
}

/// Plain loads and stores, from several workers, and nothing is lost.
#[test]
fn both_levels_count_without_a_lock() {
    workers(3, |_| async {
        let dir = Dir::new();
        let (one, two) = (Arc::new(Counts::default()), Arc::new(Counts::default()));
        let options = OpenOptions::new().read(true).filter(Arc::new(Level1(one.clone())));
        let options = options.filter(Level2(two.clone()).into_driver());
        let file = options.open(dir.file("f", pattern(100_000))).await.unwrap();
        let file = Arc::new(file);
        let readers: Vec<_> = (0..12)
            .map(|i| {
                let file = file.clone();
                overlapped::spawn(async move {
                    let mut buf = vec![0; 512];
                    for n in 0..300 {
                        buf = file.read_at(buf, (n * 37 + i) % 99_000).await.unwrap().1;
                        if n % 10 == 0 {
                            overlapped::yield_now().await;
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!((one.total(), two.total()), (3600, 7200));
    });
}

/// the requests of a thread that ends pass its filters as any others.
#[test]
fn a_thread_that_ends_has_its_own_to_the_last() {
    alone("a_thread_that_ends_has_its_own_to_the_last", |_| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let counts = Arc::new(Counts::default());
        let stack = stack_of([Level2(counts.clone()).into_driver()]).unwrap();
        let of_stream = stack.clone();
        let thread = std::thread::spawn(move || {
            let stream = TcpStream::from_std_with(theirs, of_stream).unwrap();
            assert!(poll_once(&mut stream.read(vec![0; 9])).is_pending());
        });
        thread.join().unwrap();
        assert_eq!(counts.total(), 2);
        assert!(stack.devices().all(|device| device.bugs() == 0));
    });
}
