//! Cancel-safe queues with many requests in them.

#![cfg(not(loom))]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::{
    Cancel, CancelSafeQueue, CompletionPort, FileHandle, Held, On, Request, Status,
};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);
const MANY: u64 = 10_000;

/// xorshift.
struct Random(u64);

impl Random {
    /// Prints the seed: a failure can be run again with it.
    fn new() -> Random {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let seed = seed.unwrap_or_else(|| u64::from(now()) | 1);
        println!("SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A file whose reads are parked.
fn parked(queue: &Arc<CancelSafeQueue>) -> FileHandle {
    let queue = queue.clone();
    let park = Filter::new("park", move |irp, _| irp.park(&queue));
    open(&stack(vec![park], Bottom::default()), FD)
}

fn post(file: &FileHandle, port: &CompletionPort, key: u64, alive: &Arc<AtomicUsize>) -> Cancel {
    let read = Read { buf: Counted::new(1, alive), offset: key };
    Request::new(file, read).post(port, key).ok().unwrap()
}

/// ten thousand are parked; some are cancelled, in random order, while others are
/// taken out, from the front. Each ends once, as what was done with it; the order stays that of
/// arrival; every buffer comes back.
#[test]
fn x14_ten_thousand_in_random_order() {
    let mut random = Random::new();
    let h = Harness::new();
    let queue = Arc::new(CancelSafeQueue::new());
    let file = parked(&queue);
    let (port, alive) = (CompletionPort::new(), Arc::<AtomicUsize>::default());
    let mut handles: Vec<_> = (0..MANY).map(|key| (key, post(&file, &port, key, &alive))).collect();
    assert_eq!(queue.len(), MANY as usize);
    random.shuffle(&mut handles);
    let (mut cancelled, mut taken) = (HashSet::new(), Vec::new());
    for (key, cancel) in handles {
        // Also of what has been taken out already: that changes nothing.
        cancel.cancel();
        if !taken.contains(&key) {
            cancelled.insert(key);
        }
        if random.below(20) == 0
            && let Some(held) = queue.remove()
        {
            assert!(!held.is_cancelled(), "X-13");
            taken.push(held.offset());
            held.complete(Status::END_OF_FILE, 0);
        }
        assert_eq!(queue.len() + cancelled.len() + taken.len(), MANY as usize);
    }
    assert!(queue.is_empty() && queue.remove().is_none());
    assert!(taken.is_sorted(), "X-14: in the order of arrival");
    assert!(taken.len() > 100, "{}", taken.len());
    let mut packets = Vec::new();
    assert_eq!(port.remove_many(&mut packets, usize::MAX, ZERO), Ok(MANY as usize));
    let mut ended = HashSet::new();
    for packet in packets {
        assert!(ended.insert(packet.key()), "each ends once");
        let expect = match cancelled.contains(&packet.key()) {
            true => Status::CANCELLED,
            false => Status::END_OF_FILE,
        };
        assert_eq!((packet.status(), packet.info()), (expect, 0));
    }
    assert_eq!(alive.load(SeqCst), 0);
    drop((file, port, queue));
    h.finish();
}

/// The same of several threads: each has a processor's worth of requests in one queue, cancels its
/// own in random order, and takes out whoever is first.
#[test]
fn x2_one_queue_of_several_processors() {
    const EACH: u64 = if cfg!(miri) { 50 } else { 3_000 };
    let queue = Arc::new(CancelSafeQueue::new());
    let (give, taken) = mpsc::channel::<Held>();
    let finisher = thread::spawn(move || {
        let mut count = 0;
        for held in taken {
            held.complete(Status::END_OF_FILE, 0);
            count += 1;
        }
        count
    });
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (queue, give) = (queue.clone(), give.clone());
            thread::spawn(move || {
                let mut random = Random::new();
                let h = Harness::new();
                let file = parked(&queue);
                let (port, alive) = (CompletionPort::new(), Arc::<AtomicUsize>::default());
                let mut handles: Vec<_> =
                    (0..EACH).map(|key| post(&file, &port, key, &alive)).collect();
                random.shuffle(&mut handles);
                for cancel in handles {
                    if random.below(2) == 0 {
                        cancel.cancel();
                    } else if let Some(held) = queue.remove() {
                        give.send(held).unwrap();
                    }
                }
                // What is left is somebody's: whoever looks for it finds it.
                h.until("all have ended", || {
                    if let Some(held) = queue.remove() {
                        give.send(held).unwrap();
                    }
                    port.depth() == EACH as usize
                });
                let mut packets = Vec::new();
                port.remove_many(&mut packets, usize::MAX, ZERO).unwrap();
                let keys: HashSet<u64> = packets.iter().map(|packet| packet.key()).collect();
                assert_eq!(keys.len(), EACH as usize, "each once");
                let taken = packets.iter().filter(|p| p.status() == Status::END_OF_FILE).count();
                drop(packets);
                assert_eq!(alive.load(SeqCst), 0);
                drop(file);
                h.finish();
                taken
            })
        })
        .collect();
    drop(give);
    let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(finisher.join().unwrap(), taken);
    assert!(queue.is_empty());
}

/// what comes to a queue that is closed is cancelled, from here and from elsewhere; what was in
/// it too.
#[test]
fn x12_a_closed_queue() {
    let h = Harness::new();
    let (queue, kept) = (Arc::new(CancelSafeQueue::new()), mpsc::channel::<Held>());
    let (q, (keep, held)) = (queue.clone(), kept);
    let keep = std::sync::Mutex::new(keep);
    let park = Filter::new("park", move |irp, lower| match irp.offset() {
        0 => irp.park(&q),
        1 => {
            let (held, disposition) = irp.hold();
            keep.lock().unwrap().send(held).unwrap();
            disposition
        }
        _ => lower.forward(irp, On::ALL),
    });
    let file = open(&stack(vec![park], Bottom::default()), FD);
    let (port, alive) = (CompletionPort::new(), Arc::<AtomicUsize>::default());
    let end = |n: usize| {
        h.turns(2);
        let mut packets = Vec::new();
        assert_eq!(port.remove_many(&mut packets, 9, ZERO), Ok(n));
        assert!(packets.iter().all(|p| (p.status(), p.info()) == (Status::CANCELLED, 0)));
    };
    (0..3).for_each(|_| drop(post(&file, &port, 0, &alive)));
    let q = queue.clone();
    thread::spawn(move || q.close()).join().unwrap();
    end(3);
    post(&file, &port, 0, &alive);
    end(1);
    post(&file, &port, 1, &alive);
    let (q, held) = (queue.clone(), held.recv().unwrap());
    thread::spawn(move || q.insert(held)).join().unwrap();
    end(1);
    assert_eq!((queue.len(), alive.load(SeqCst)), (0, 0));
    drop(file);
    h.finish();
}
