//! Cancelling: futures dropped in every state and on every thread, deadlines, handles, queues under
//! stress, late results, listings, and shutdown with requests in flight.

#![cfg(not(loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use overlapped_iomgr::{
    CancelSafeQueue, CompletionPort, FileHandle, Held, Major, On, Request, Status, live_requests,
};
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// Where a request is when its future is dropped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Place {
    NotIssued,
    Hardware,
    /// In hardware that does not listen.
    Deaf,
    Held,
    Parked,
    Split,
    Done,
}

const PLACES: [Place; 7] = [
    Place::NotIssued,
    Place::Hardware,
    Place::Deaf,
    Place::Held,
    Place::Parked,
    Place::Split,
    Place::Done,
];

struct Scene {
    h: Harness,
    file: FileHandle,
    counts: Arc<BottomCounts>,
    kept: Arc<Mutex<Vec<Held>>>,
    queue: Arc<CancelSafeQueue>,
}

impl Scene {
    fn new(place: Place) -> Scene {
        let h = Harness::new();
        let kept: Arc<Mutex<Vec<Held>>> = Arc::default();
        let queue = Arc::new(CancelSafeQueue::new());
        let (keep, q) = (kept.clone(), queue.clone());
        let filter = Filter::new("filter", move |irp, lower| match place {
            Place::Held => {
                let (held, disposition) = irp.hold();
                keep.lock().unwrap().push(held);
                disposition
            }
            Place::Parked => irp.park(&q),
            Place::Split => {
                let part = |start| overlapped_iomgr::Part { start, len: 8, offset: 0 };
                irp.split(&[part(0), part(8)])
            }
            _ => lower.forward(irp, On::ALL),
        });
        let counts = Arc::<BottomCounts>::default();
        let bottom = Bottom { counts: counts.clone(), ..Bottom::default() };
        let file = open(&stack(vec![filter], bottom), FD);
        h.sim.default_step(match place {
            Place::Deaf => Step::GATED.deaf(),
            Place::Done => Step::after(1),
            _ => Step::GATED,
        });
        Scene { h, file, counts, kept, queue }
    }

    fn request(&self, alive: &Arc<AtomicUsize>) -> Request<'static, Read<Counted>> {
        Request::owned(self.file.clone(), Read { buf: Counted::new(16, alive), offset: 0 })
    }

    fn finish(self) {
        drop((self.file, self.kept, self.queue));
        self.h.finish();
    }
}

/// X-1, C-41: a dropped future's buffer lives until nobody can write to it any more, and no longer.
fn drop_in(place: Place, foreign: bool) {
    let scene = Scene::new(place);
    let alive = Arc::<AtomicUsize>::default();
    let mut request = scene.request(&alive);
    if place != Place::NotIssued {
        assert!(poll(&mut request).is_pending());
    }
    if place == Place::Done {
        scene.h.turn();
    }
    if foreign {
        thread::spawn(move || drop(request)).join().unwrap();
        // An issued request's memory goes back to its owner first.
        let issued = place != Place::NotIssued;
        assert_eq!(alive.load(SeqCst), usize::from(issued), "{place:?}");
        scene.h.turn();
    } else {
        drop(request);
    }
    match place {
        Place::NotIssued | Place::Done | Place::Parked => {}
        Place::Hardware => assert_eq!(scene.h.sim.cancels(), 1),
        Place::Split => assert_eq!(scene.h.sim.cancels(), 2),
        Place::Deaf => {
            scene.h.turns(3);
            assert_eq!((scene.h.sim.cancels(), alive.load(SeqCst)), (1, 1));
            scene.h.sim.open_gate();
        }
        Place::Held => {
            let held = scene.kept.lock().unwrap().pop().unwrap();
            assert!(held.is_cancelled());
            assert_eq!(alive.load(SeqCst), 1);
            held.complete(Status::CANCELLED, 0);
        }
    }
    scene.h.turns(2);
    assert_eq!(alive.load(SeqCst), 0, "{place:?}, foreign {foreign}");
    assert!(scene.queue.is_empty());
    let late = usize::from(matches!(place, Place::Deaf | Place::Done));
    assert_eq!(scene.counts.abandoned.load(SeqCst), late, "X-35, {place:?}, foreign {foreign}");
    assert_eq!(scene.counts.abandoned_bytes.load(SeqCst), late * 16);
    scene.finish();
}

/// on the owner's thread.
#[test]
fn x1_dropped_here() {
    PLACES.into_iter().for_each(|place| drop_in(place, false));
}

/// The same from another thread.
#[test]
fn x1_dropped_elsewhere() {
    PLACES.into_iter().for_each(|place| drop_in(place, true));
}

/// `abandoned` is never called for a result that is taken, by whatever route.
#[test]
fn x35_taken_results_are_not_abandoned() {
    let scene = Scene::new(Place::Done);
    let alive = Arc::<AtomicUsize>::default();
    scene.h.block_on(scene.request(&alive)).ok().unwrap();
    let port = CompletionPort::new();
    scene.request(&alive).post(&port, 0).unwrap_or_else(|_| unreachable!());
    scene.request(&alive).post(&port, 0).unwrap_or_else(|_| unreachable!());
    scene.h.turns(2);
    let mut packet = port.remove(ZERO).unwrap();
    assert!(packet.take::<Vec<u8>>().is_none() && packet.take::<Counted>().is_some());
    assert!(port.remove(ZERO).unwrap().into_output::<Read<Counted>>().is_ok());
    // And taken on another thread.
    let mut request = scene.request(&alive);
    assert!(poll(&mut request).is_pending());
    scene.h.turn();
    thread::spawn(move || assert!(now(&mut request).is_ok())).join().unwrap();
    drop(packet);
    scene.h.turns(2);
    assert_eq!((alive.load(SeqCst), scene.counts.abandoned.load(SeqCst)), (0, 0));
    scene.finish();
}

/// A forgotten future leaks no more than its slot: the buffer and the file go at the shutdown's
/// latest, and nothing is written through a dangling pointer.
#[test]
fn a_forgotten_future() {
    let scene = Scene::new(Place::Done);
    let alive = Arc::<AtomicUsize>::default();
    let mut request = scene.request(&alive);
    assert!(poll(&mut request).is_pending());
    std::mem::forget(request);
    scene.h.turns(2);
    assert_eq!((scene.h.processor.live(), alive.load(SeqCst)), (1, 1));
    drop(scene.file);
    assert_eq!(scene.h.processor.shutdown(Duration::ZERO).leaked, 0);
}

/// A request whose deadline passes ends as IO_TIMEOUT, unless it ends otherwise first.
#[test]
fn deadlines() {
    for place in [Place::Hardware, Place::Parked, Place::Split, Place::Held] {
        let scene = Scene::new(place);
        let alive = Arc::<AtomicUsize>::default();
        let mut request = scene.request(&alive).deadline(Duration::from_millis(2));
        assert!(poll(&mut request).is_pending());
        if place == Place::Held {
            let held = scene.kept.lock().unwrap().pop().unwrap();
            scene.h.until("the cancel mark", || held.is_cancelled());
            held.complete(Status::CANCELLED, 0);
        }
        scene.h.until("the deadline", || {
            live_requests(Duration::ZERO).requests.iter().all(|r| r.state == "complete")
        });
        let error = now(&mut request).err().unwrap();
        assert_eq!(error.status(), Status::IO_TIMEOUT, "{place:?}");
        drop((request, error));
        assert_eq!(alive.load(SeqCst), 0);
        scene.finish();
    }
    let scene = Scene::new(Place::Deaf);
    let alive = Arc::<AtomicUsize>::default();
    let mut request = scene.request(&alive).deadline(Duration::ZERO);
    assert!(poll(&mut request).is_pending());
    scene.h.until("the cancel", || scene.h.sim.cancels() == 1);
    scene.h.sim.open_gate();
    scene.h.turn();
    assert_eq!(now(&mut request).ok().unwrap().0, 16, "X-5: it finished all the same");
    // Too far away to be expressed; and one that is not reached.
    scene.h.sim.default_step(Step::after(1));
    for far in [Duration::MAX, Duration::from_secs(3600)] {
        scene.h.block_on(scene.request(&alive).deadline(far)).ok().unwrap();
    }
    // A cancel that is no deadline's stays a cancel.
    drop(request);
    scene.finish();
}

/// X-5, Z-19: a handle cancels what is in flight, from any thread, any number of times, and is
/// without effect afterwards, also when the slot has a new tenant.
#[test]
fn cancel_handles() {
    for foreign in [false, true] {
        let scene = Scene::new(Place::Hardware);
        let (alive, port) = (Arc::<AtomicUsize>::default(), CompletionPort::new());
        let act = |cancel: &overlapped_iomgr::Cancel| {
            let cancel = cancel.clone();
            if foreign {
                thread::spawn(move || cancel.cancel()).join().unwrap();
            } else {
                cancel.cancel();
            }
            scene.h.turn();
        };
        let cancel = scene.request(&alive).post(&port, 5).ok().unwrap();
        act(&cancel);
        act(&cancel);
        assert_eq!((port.depth(), scene.h.sim.cancels()), (1, 1));
        let packet = port.remove(ZERO).unwrap();
        assert_eq!((packet.key(), packet.status()), (5, Status::CANCELLED));
        assert_eq!(
            packet.into_output::<Read<Counted>>().err().unwrap().status(),
            Status::CANCELLED
        );
        // The next request gets the same slot.
        scene.request(&alive).post(&port, 6).ok().unwrap();
        act(&cancel);
        assert_eq!(scene.h.sim.cancels(), 1);
        scene.h.sim.open_gate();
        scene.h.turn();
        assert_eq!(port.remove(ZERO).unwrap().status(), Status::SUCCESS);
        assert_eq!(alive.load(SeqCst), 0);
        scene.finish();
    }
    // The processor may be gone.
    let scene = Scene::new(Place::Hardware);
    let port = CompletionPort::new();
    let cancel = scene.request(&Arc::default()).post(&port, 0).ok().unwrap();
    drop(scene);
    cancel.cancel();
    assert_eq!(port.remove(ZERO).unwrap().status(), Status::CANCELLED);
}

/// A cancel on the way down is seen by the hardware step, and a cancelled request that a
/// routine retries ends.
#[test]
fn x4_cancel_before_the_hardware() {
    let h = Harness::new();
    let kept: Arc<Mutex<Option<Held>>> = Arc::default();
    let keep = kept.clone();
    let hold = Filter::new("hold", move |irp, _| {
        let (held, disposition) = irp.hold();
        *keep.lock().unwrap() = Some(held);
        disposition
    });
    let file = open(&stack(vec![hold], Bottom::default()), FD);
    let port = CompletionPort::new();
    let cancel = read(&file, 4, 0).post(&port, 0).unwrap();
    cancel.cancel();
    assert_eq!(port.depth(), 0, "its holder decides");
    kept.lock().unwrap().take().unwrap().forward(On::ALL);
    assert_eq!(port.remove(ZERO).unwrap().status(), Status::CANCELLED);
    assert_eq!(h.sim.submits(), 0);
    drop((file, port));
    h.finish();
}

/// parking a request that has been cancelled completes it at once, from any thread.
#[test]
fn x11_insert_after_cancel() {
    for foreign in [false, true] {
        let scene = Scene::new(Place::Held);
        let port = CompletionPort::new();
        let cancel = scene.request(&Arc::default()).post(&port, 0).ok().unwrap();
        cancel.cancel();
        let held = scene.kept.lock().unwrap().pop().unwrap();
        let queue = scene.queue.clone();
        if foreign {
            thread::spawn(move || queue.insert(held)).join().unwrap();
            scene.h.turn();
        } else {
            queue.insert(held);
        }
        assert!(scene.queue.is_empty());
        assert_eq!(port.remove(ZERO).unwrap().status(), Status::CANCELLED);
        scene.finish();
    }
}

/// a request taken out of its queue is its holder's; a cancel only marks it.
#[test]
fn x13_remove_wins() {
    let scene = Scene::new(Place::Parked);
    let port = CompletionPort::new();
    let cancel = scene.request(&Arc::default()).post(&port, 0).ok().unwrap();
    let held = scene.queue.remove().unwrap();
    cancel.cancel();
    assert_eq!(port.depth(), 0);
    assert!(held.is_cancelled());
    held.complete(Status::SUCCESS, 0);
    assert_eq!(port.remove(ZERO).unwrap().status(), Status::SUCCESS);
    assert!(scene.queue.remove().is_none());
    scene.finish();
}

/// the queue is FIFO, and a cancel takes its request out of the middle.
#[test]
fn x14_fifo_with_holes() {
    let scene = Scene::new(Place::Parked);
    let port = CompletionPort::new();
    let handles: Vec<_> = (0..6)
        .map(|key| {
            let read = Read { buf: Vec::with_capacity(1), offset: key };
            Request::new(&scene.file, read).post(&port, key).unwrap()
        })
        .collect();
    handles[0].cancel();
    handles[3].cancel();
    assert_eq!((scene.queue.len(), port.depth()), (4, 2));
    let mut order = Vec::new();
    while let Some(held) = scene.queue.remove() {
        order.push(held.offset());
        held.complete(Status::END_OF_FILE, 0);
    }
    assert_eq!(order, [1, 2, 4, 5]);
    drop(port);
    scene.finish();
}

/// closing a file cancels what is parked and in flight.
#[test]
fn x33_close_cancels() {
    for place in [Place::Hardware, Place::Parked, Place::Split] {
        let scene = Scene::new(place);
        let (alive, port) = (Arc::<AtomicUsize>::default(), CompletionPort::new());
        for key in 0..3 {
            scene.request(&alive).post(&port, key).ok().unwrap();
        }
        let Scene { h, file, counts, .. } = scene;
        thread::spawn(move || drop(file)).join().unwrap();
        h.turns(3);
        let mut packets = Vec::new();
        assert_eq!(port.remove_many(&mut packets, 10, ZERO), Ok(3));
        assert!(packets.iter().all(|p| p.status() == Status::CANCELLED));
        assert_eq!(counts.closed.load(SeqCst), 1, "{place:?}");
        drop(packets);
        assert_eq!(alive.load(SeqCst), 0);
        h.finish();
    }
}

/// xorshift: what the stress below needs of randomness.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// insert × cancel × remove, from several threads: every request completes exactly once.
#[test]
fn x2_queue_stress() {
    const REQUESTS: u64 = if cfg!(miri) { 150 } else { 10_000 };
    let h = Harness::new();
    h.sim.default_step(Step::after(1));
    let queue = Arc::new(CancelSafeQueue::new());
    let (to_insert, inbox) = mpsc::channel::<Held>();
    let (q, send) = (queue.clone(), Mutex::new(to_insert));
    let hold = Filter::new("hold", move |irp, lower| match irp.offset() % 4 {
        // Parked here, parked from another thread, or past the queue.
        0 | 1 => irp.park(&q),
        2 => {
            let (held, disposition) = irp.hold();
            send.lock().unwrap().send(held).unwrap();
            disposition
        }
        _ => lower.forward(irp, On::ALL),
    });
    let counts = Arc::<BottomCounts>::default();
    let bottom = Bottom { counts: counts.clone(), ..Bottom::default() };
    let file = open(&stack(vec![hold], bottom), FD);
    let port = CompletionPort::new();
    let alive = Arc::<AtomicUsize>::default();
    let stop = Arc::new(AtomicBool::new(false));

    let inserter = {
        let queue = queue.clone();
        thread::spawn(move || inbox.into_iter().for_each(|held| queue.insert(held)))
    };
    let removers: Vec<_> = (0..2u64)
        .map(|n| {
            let (queue, stop) = (queue.clone(), stop.clone());
            thread::spawn(move || {
                let mut seed = 0x9E37_79B9_97F4_A7C5 ^ n;
                while !stop.load(SeqCst) {
                    let Some(held) = queue.remove() else {
                        thread::yield_now();
                        continue;
                    };
                    match random(&mut seed) % 4 {
                        0 => held.complete(Status::END_OF_FILE, 0),
                        1 => held.skip(),
                        2 => held.forward(On::ALL),
                        _ => queue.insert(held),
                    }
                }
            })
        })
        .collect();
    let (to_cancel, cancels) = mpsc::channel::<overlapped_iomgr::Cancel>();
    let canceller = thread::spawn(move || {
        for cancel in cancels {
            cancel.cancel();
        }
    });
    let (to_drop, futures) = mpsc::channel::<Request<'static, Read<Counted>>>();
    let dropper = thread::spawn(move || futures.into_iter().for_each(drop));

    let mut seed = 42;
    let (mut posted, mut dropped) = (0, 0);
    let mut packets = Vec::new();
    for i in 0..REQUESTS {
        let buf = Counted::new(8, &alive);
        let offset = random(&mut seed) >> 1;
        let mut request = Request::owned(file.clone(), Read { buf, offset });
        match random(&mut seed) % 4 {
            0 => {
                let _ = request.post(&port, i).ok().unwrap();
                posted += 1;
            }
            1 => {
                to_cancel.send(request.post(&port, i).ok().unwrap()).unwrap();
                posted += 1;
            }
            2 => {
                if poll(&mut request).is_pending() {
                    to_drop.send(request).unwrap();
                }
                dropped += 1;
            }
            _ => {
                let _ = poll(&mut request);
                drop(request);
                dropped += 1;
            }
        }
        if random(&mut seed).is_multiple_of(4) {
            h.turn();
            let _ = port.remove_many(&mut packets, 64, ZERO);
        }
    }
    drop((to_cancel, to_drop));
    canceller.join().unwrap();
    dropper.join().unwrap();
    h.until("all complete", || {
        // Packets count as live until they are dropped.
        h.processor.live() == packets.len() + port.depth()
    });
    stop.store(true, SeqCst);
    removers.into_iter().for_each(|r| r.join().unwrap());
    let _ = port.remove_many(&mut packets, usize::MAX, ZERO);
    assert_eq!((packets.len(), posted + dropped), (posted, REQUESTS as usize));
    let mut keys: Vec<u64> = packets.iter().map(|p| p.key()).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), posted, "each key once");
    assert!(queue.is_empty());
    packets.clear();
    assert_eq!(alive.load(SeqCst), 0, "every buffer is back");
    drop(file);
    h.turns(2);
    inserter.join().unwrap();
    assert_eq!(counts.closed.load(SeqCst), 1);
    drop(port);
    h.finish();
}

/// Futures polled here and there while the owner completes them: no wake is lost.
#[test]
fn futures_on_foreign_threads() {
    struct Park(thread::Thread);
    impl std::task::Wake for Park {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    const REQUESTS: usize = if cfg!(miri) { 50 } else { 5_000 };
    let h = Harness::new();
    h.sim.default_step(Step::after(1));
    let file = open(&stack(vec![], Bottom::default()), FD);
    let (send, receive) = mpsc::channel::<Request<'static, Read<Vec<u8>>>>();
    let left = Arc::new(AtomicUsize::new(REQUESTS));
    let waiting = left.clone();
    let awaiter = thread::spawn(move || {
        let waker = std::task::Waker::from(Arc::new(Park(thread::current())));
        let mut context = std::task::Context::from_waker(&waker);
        for mut request in receive {
            loop {
                match std::future::Future::poll(std::pin::Pin::new(&mut request), &mut context) {
                    std::task::Poll::Ready(result) => break assert_eq!(result.unwrap().0, 4),
                    std::task::Poll::Pending => thread::park(),
                }
            }
            waiting.fetch_sub(1, SeqCst);
        }
    });
    for _ in 0..REQUESTS {
        let read = Read { buf: Vec::with_capacity(4), offset: 0 };
        let mut request = Request::owned(file.clone(), read);
        assert!(poll(&mut request).is_pending());
        send.send(request).unwrap();
        h.turn();
    }
    drop(send);
    h.until("all awaited", || left.load(SeqCst) == 0);
    awaiter.join().unwrap();
    drop(file);
    h.finish();
}

/// T-122a: every live request can be listed, with its state, its driver and its route.
#[test]
fn t122a_live_requests() {
    // The listing is the whole process's: look for our own file.
    let list = |file: u64| {
        let mut mine: Vec<_> = live_requests(Duration::from_millis(1))
            .requests
            .into_iter()
            .filter(|r| r.file == file)
            .map(|r| (r.driver, r.state, r.route, r.cancelled))
            .collect();
        mine.sort();
        mine
    };
    let row = |driver: &str, state, route, cancelled| (driver.to_owned(), state, route, cancelled);
    for (place, driver, state) in [
        (Place::Deaf, "bottom", "hardware"),
        (Place::Held, "filter", "held"),
        (Place::Parked, "filter", "held"),
    ] {
        let scene = Scene::new(place);
        let (alive, port) = (Arc::default(), CompletionPort::new());
        let id = scene.file.id();
        let mut request = scene.request(&alive);
        assert!(list(id).is_empty());
        assert!(poll(&mut request).is_pending());
        assert_eq!(list(id), [row(driver, state, "future", false)]);
        let cancel = scene.request(&alive).post(&port, 0).ok().unwrap();
        assert_eq!(
            list(id),
            [row(driver, state, "future", false), row(driver, state, "port", false)]
        );
        if place == Place::Deaf {
            cancel.cancel();
            assert_eq!(list(id)[1], row(driver, state, "port", true));
        }
        scene.h.sim.open_gate();
        drop(request);
        scene.kept.lock().unwrap().clear();
        scene.queue.close();
        scene.h.turns(2);
        assert!(list(id).is_empty());
        drop(port);
        scene.finish();
    }
    let scene = Scene::new(Place::Split);
    let alive = Arc::default();
    let mut request = scene.request(&alive);
    assert!(poll(&mut request).is_pending());
    let parts = || row("bottom", "hardware", "parent", false);
    assert_eq!(list(scene.file.id()), [parts(), parts(), row("filter", "held", "future", false)]);
    drop(request);
    // A finished one that nobody has looked at.
    scene.h.turns(2);
    scene.finish();
    let scene = Scene::new(Place::Done);
    let mut request = scene.request(&alive);
    assert!(poll(&mut request).is_pending());
    scene.h.turn();
    let listed = list(scene.file.id());
    assert_eq!((listed.len(), listed[0].1, listed[0].2), (1, "complete", "future"));
    drop(request);
    scene.finish();
}

/// Requests of other threads' processors are listed too; a busy thread is named.
#[test]
fn t122a_across_threads() {
    let (ready, is_ready) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let owner = thread::Builder::new().name("busy owner".into());
    let owner = owner.spawn(move || {
        let scene = Scene::new(Place::Hardware);
        let alive = Arc::default();
        let mut request = scene.request(&alive);
        assert!(poll(&mut request).is_pending());
        ready.send(scene.file.id()).unwrap();
        // Busy until told.
        may_go_on.recv().unwrap();
        let done = || may_go_on.try_recv().is_ok();
        scene.h.until("the listing", done);
        drop(request);
        scene.finish();
    });
    let owner = owner.unwrap();
    let id = is_ready.recv().unwrap();
    let census = live_requests(Duration::from_millis(1));
    assert!(census.silent.iter().any(|name| name == "busy owner"));
    go_on.send(()).unwrap();
    let listed = loop {
        let census = live_requests(Duration::from_secs(5));
        if let Some(found) = census.requests.into_iter().find(|r| r.file == id) {
            break found;
        }
    };
    assert_eq!((listed.major, listed.state), (Major::Read, "hardware"));
    go_on.send(()).unwrap();
    owner.join().unwrap();
}

/// Shutdown cancels, reaps to zero, and only then lets go of the hardware.
#[test]
fn shutdown_reaps() {
    for place in [Place::Hardware, Place::Parked, Place::Split, Place::Done] {
        let scene = Scene::new(place);
        let (alive, port) = (Arc::<AtomicUsize>::default(), CompletionPort::new());
        let mut future = scene.request(&alive);
        assert!(poll(&mut future).is_pending());
        for key in 0..3 {
            scene.request(&alive).post(&port, key).ok().unwrap();
        }
        let Scene { h, file, counts, .. } = scene;
        if place == Place::Done {
            h.turn();
        }
        assert_eq!(h.processor.shutdown(Duration::from_secs(60)).leaked, 0);
        assert_eq!(h.sim.in_flight(), 0);
        // Results outlive the processor; so does the file.
        let expect = if place == Place::Done { Status::SUCCESS } else { Status::CANCELLED };
        let future_status = now(&mut future).err().map_or(Status::SUCCESS, |e| e.status());
        assert_eq!((port.depth(), future_status), (3, expect));
        let packet = port.remove(ZERO).unwrap();
        assert_eq!(packet.status(), expect);
        // Taken, dropped, and dropped with the port; here and elsewhere.
        thread::spawn(move || drop(packet)).join().unwrap();
        drop(future);
        drop(port);
        assert_eq!(alive.load(SeqCst), 0, "{place:?}");
        assert_eq!((counts.closed.load(SeqCst), counts.closed_now.load(SeqCst)), (0, 0));
        drop(file);
        assert_eq!((counts.closed.load(SeqCst), counts.closed_now.load(SeqCst)), (0, 1));
    }
}

/// Past the deadline, memory that the hardware could still write to is leaked, not freed.
#[test]
fn shutdown_leaks_what_it_must() {
    let scene = Scene::new(Place::Deaf);
    let alive = Arc::<AtomicUsize>::default();
    let mut future = scene.request(&alive);
    assert!(poll(&mut future).is_pending());
    let Scene { h, file, counts, .. } = scene;
    assert_eq!(h.processor.shutdown(Duration::ZERO).leaked, 1);
    assert_eq!((alive.load(SeqCst), h.sim.in_flight()), (1, 1));
    assert!(poll(&mut future).is_pending());
    drop((future, file));
    assert_eq!(alive.load(SeqCst), 1, "leaked");
    assert_eq!(counts.closed_now.load(SeqCst), 0, "its descriptor is still in use");
}

/// Requests are refused while a shutdown runs: their operation comes back.
#[test]
fn requests_during_a_shutdown() {
    let h = Harness::new();
    let seen = Arc::new(Mutex::new(None));
    let other: Arc<Mutex<Option<FileHandle>>> = Arc::default();
    let (see, file) = (seen.clone(), other.clone());
    let again =
        Filter::new("again", |irp, lower| lower.forward(irp, On::CANCEL)).completed(move |irp| {
            let file = file.lock().unwrap().take().unwrap();
            let port = CompletionPort::new();
            *see.lock().unwrap() = Some(read(&file, 4, 0).post(&port, 0).unwrap_err());
            irp.proceed()
        });
    let file = open(&stack(vec![again], Bottom::default()), FD);
    *other.lock().unwrap() = Some(file.clone());
    h.sim.default_step(Step::GATED);
    let mut request = read(&file, 4, 0);
    assert!(poll(&mut request).is_pending());
    let Harness { processor, .. } = h;
    assert_eq!(processor.shutdown(Duration::from_secs(60)).leaked, 0);
    assert_eq!(now(&mut request).unwrap_err().status(), Status::CANCELLED);
    let refused = seen.lock().unwrap().take().unwrap().unwrap_err();
    assert_eq!((refused.status(), refused.buf().capacity()), (Status::SHUTDOWN_IN_PROGRESS, 4));
}

/// A `Held` that outlives the processor's patience, and futures that outlive the processor: no
/// use after free, whoever comes last.
#[test]
fn held_beyond_the_shutdown() {
    let scene = Scene::new(Place::Held);
    let alive = Arc::<AtomicUsize>::default();
    let mut future = scene.request(&alive);
    assert!(poll(&mut future).is_pending());
    let Scene { h, file, kept, .. } = scene;
    assert_eq!(h.processor.shutdown(Duration::ZERO).leaked, 1);
    let held = kept.lock().unwrap().pop().unwrap();
    thread::spawn(move || held.complete(Status::SUCCESS, 0)).join().unwrap();
    assert!(poll(&mut future).is_pending(), "its owner is gone");
    drop((future, file));
}
