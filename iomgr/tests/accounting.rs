//! Accounting: what each driver has seen and done, what an opener may have outstanding, and what a
//! shutdown leaves (S-18, S-19, T-121).

#![cfg(not(loom))]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlapped_iomgr::{
    CompletionPort, Driver, DriverCounts, Held, IssuerScope, Limits, Major, On, Part, Request,
    Stack, Status, driver_counts,
};
use support::*;

/// The counts of a name: what was seen, is in flight, was completed, failed, and the bugs.
fn counts(name: &str) -> [u64; 5] {
    let DriverCounts { seen, in_flight, completed, failed, bugs, .. } =
        driver_counts(Duration::ZERO).of(name);
    [seen, in_flight, completed, failed, bugs]
}

fn on(filters: Vec<Filter>) -> Arc<Stack> {
    let mut drivers: Vec<_> =
        filters.into_iter().map(|filter| Arc::new(filter) as Arc<dyn Driver>).collect();
    let bottom = drivers.pop().unwrap();
    Stack::new(drivers, bottom).unwrap()
}

/// A bottom without hardware: reads of offset 7 fail, others succeed.
fn floor(name: &str) -> Filter {
    Filter::new(name, |irp, _| {
        let status = if irp.offset() == 7 { Status::DATA_ERROR } else { Status::SUCCESS };
        irp.complete(status, 0)
    })
}

/// S-19: each driver's own: who only passes on completes nothing, who answers is not a filter that
/// passes on, and what is answered above has not been seen below.
#[test]
fn s19_each_driver_has_its_counts() {
    let h = Harness::new();
    let kept = Arc::new(Mutex::new(Vec::<Held>::new()));
    let keep = kept.clone();
    let stack = on(vec![
        Filter::new("a-skip", |irp, lower| lower.skip(irp)),
        Filter::new("a-answers", |irp, lower| match irp.offset() {
            1 => irp.complete(Status::SUCCESS, 0),
            2 => irp.complete(Status::ACCESS_DENIED, 0),
            _ => lower.forward(irp, On::ALL),
        }),
        Filter::new("a-unhooked", |_, _| unreachable!()).hooks(&[Major::Flush]),
        Filter::new("a-holds", move |irp, lower| {
            if irp.offset() != 3 {
                return lower.forward(irp, On::ALL);
            }
            let (held, disposition) = irp.hold();
            keep.lock().unwrap().push(held);
            disposition
        }),
        floor("a-floor"),
    ]);
    let file = open(&stack, FD);
    for (offset, fails) in [(1, false), (2, true), (7, true), (8, false), (9, false)] {
        assert_eq!(now(&mut read(&file, 4, offset)).is_err(), fails);
    }
    let mut held = read(&file, 4, 3);
    assert!(poll(&mut held).is_pending());
    assert_eq!(counts("a-skip"), [6, 0, 0, 0, 0]);
    assert_eq!(counts("a-answers"), [6, 0, 1, 1, 0]);
    assert_eq!(counts("a-unhooked"), [0; 5]);
    assert_eq!(counts("a-holds"), [4, 1, 0, 0, 0]);
    assert_eq!(counts("a-floor"), [3, 0, 2, 1, 0]);
    kept.lock().unwrap().pop().unwrap().complete(Status::SUCCESS, 0);
    assert_eq!(counts("a-holds"), [4, 0, 1, 0, 0]);
    assert!(now(&mut held).is_ok());
    drop(held);
    assert_eq!(counts("a-nobody"), [0; 5]);
    // Another stack's driver of the name adds to it, and so does another thread, also when it has gone.
    let elsewhere = std::thread::spawn(|| {
        let h = Harness::new();
        let file = open(&on(vec![floor("a-floor")]), FD);
        now(&mut read(&file, 4, 0)).unwrap();
        now(&mut read(&file, 4, 7)).unwrap_err();
        drop(file);
        h.finish();
    });
    elsewhere.join().unwrap();
    // A close too is a request.
    assert_eq!(counts("a-floor"), [6, 0, 4, 2, 0]);
    drop(file);
    h.finish();
}

/// Retries are seen again, one that is dispatched again to the same driver is not; parts of a split
/// request are requests.
#[test]
fn s19_retries_and_parts() {
    let h = Harness::new();
    let stack = on(vec![
        Filter::new("b-splits", |irp, _| {
            let part = |i: u32| Part { start: i * 2, len: 2, offset: u64::from(i) };
            irp.split(&[part(0), part(1)])
        })
        .hooks(&[Major::Write]),
        Filter::new("b-retries", |irp, lower| lower.forward(irp, On::ERROR))
            .completed(|mut irp| {
                irp.next().set_offset(0);
                irp.retry(On::ERROR)
            })
            .hooks(&[Major::Read]),
        Filter::new("b-waits", |mut irp, lower| {
            if irp.scratch::<()>().is_some() {
                return lower.skip(irp);
            }
            irp.set_scratch(());
            let (held, disposition) = irp.hold();
            held.redispatch();
            disposition
        })
        .hooks(&[Major::Flush]),
        floor("b-floor"),
    ]);
    let file = open(&stack, FD);
    now(&mut read(&file, 4, 7)).unwrap();
    assert_eq!(counts("b-retries"), [1, 0, 0, 0, 0]);
    assert_eq!(counts("b-floor"), [2, 0, 1, 1, 0]);
    now(&mut write(&file, b"1234", 0)).unwrap();
    assert_eq!(counts("b-splits"), [1, 0, 1, 0, 0]);
    assert_eq!(counts("b-floor"), [4, 0, 3, 1, 0]);
    assert_eq!(now(&mut plain(&file, Major::Flush)).0, Status::SUCCESS);
    assert_eq!(counts("b-waits"), [1, 0, 0, 0, 0]);
    assert_eq!(counts("b-floor"), [5, 0, 4, 1, 0]);
    drop(file);
    h.finish();
}

/// V-43: bugs are counted by the name too, and are failures of that driver.
#[test]
fn s19_bugs_of_a_driver() {
    let h = Harness::new();
    let drops = Filter::new("c-drops", |irp, lower| {
        drop(irp);
        lower.skip(unsafe_never())
    });
    let file = open(&on(vec![drops, floor("c-floor")]), FD);
    let failed = now(&mut read(&file, 4, 0)).unwrap_err();
    assert_eq!(failed.status(), Status::DRIVER_INTERNAL_ERROR);
    assert_eq!(counts("c-drops"), [1, 0, 0, 1, 2], "dropped, and then panicked");
    assert_eq!(counts("c-floor"), [0; 5]);
    std::mem::forget(file);
    drop(h);
}

fn unsafe_never() -> overlapped_iomgr::Irp<'static> {
    panic!("there is none")
}

/// S-18, S-19: a scope's limit counts what nobody has reaped, by each route; reaping makes room.
#[test]
fn s18_what_is_not_reaped_counts() {
    let h = Harness::new();
    let file = open(&stack(vec![], Bottom::default()), FD);
    let port = CompletionPort::new();
    let scope = IssuerScope::with_limits(Limits { requests: 4, bytes: 100 });
    h.sim.script([Step::INLINE, Step::INLINE, Step::after(1), Step::after(1)]);
    let block = scope.run(|| read(&file, 10, 0).start()).map_err(drop).unwrap();
    scope.run(|| read(&file, 10, 0).post(&port, 1)).map_err(drop).unwrap();
    let mut future = read(&file, 10, 0);
    scope.run(|| {
        assert!(poll(&mut future).is_pending());
        read(&file, 10, 0).post(&port, 2).map_err(drop).unwrap();
    });
    h.turns(2);
    // All are done, and none is taken.
    assert_eq!((scope.live(), scope.outstanding(), scope.bytes()), (0, 4, 40));
    let refused = || {
        let request = read(&file, 10, 0);
        scope.run(|| request.post(&port, 9)).unwrap_err().unwrap_err().status()
    };
    assert_eq!(refused(), Status::QUOTA_EXCEEDED);
    // Another opener of the same file and port is not affected.
    h.sim.script([Step::INLINE]);
    read(&file, 10, 0).post(&port, 3).map_err(drop).unwrap();
    // Each way of taking makes room.
    let mut left = 4;
    let mut taken = |what: &str| {
        left -= 1;
        assert_eq!((scope.outstanding(), scope.bytes()), (left, 10 * left), "{what}");
    };
    assert!(block.take().is_ok());
    taken("block");
    assert!(now(&mut future).is_ok());
    drop(future);
    taken("future");
    // First in, first out: the scope's first, then the other opener's.
    for _ in 0..3 {
        let packet = port.remove(Some(Duration::ZERO)).unwrap();
        let key = packet.key();
        drop(packet);
        if key != 3 {
            taken("packet");
        }
    }
    assert_eq!(scope.outstanding(), 0);
    // One that is refused at once leaves nothing behind.
    h.sim.script([Step::INLINE.result(-5)]);
    scope.run(|| read(&file, 10, 0).start()).map(drop).unwrap_err().unwrap_err();
    let too_large = scope.run(|| read(&file, 101, 0).start()).map(drop).unwrap_err();
    assert_eq!(too_large.unwrap_err().status(), Status::QUOTA_EXCEEDED);
    assert_eq!((scope.outstanding(), scope.bytes()), (0, 0));
    drop(file);
    h.finish();
}

/// S-19: a file object has a limit too, which is far away unless it is set.
#[test]
fn s19_requests_of_a_file_object() {
    let h = Harness::new();
    let stack = stack(vec![], Bottom::default());
    let (file, other) = (open(&stack, FD), open(&stack, FD));
    file.limit_requests(3);
    h.sim.default_step(Step::GATED);
    let mut requests: Vec<_> = (0..3).map(|_| read(&file, 4, 0)).collect();
    assert!(requests.iter_mut().all(|request| poll(request).is_pending()));
    assert_eq!(file.requests(), 3);
    let refused = |request: &mut Request<'_, Read<Vec<u8>>>| {
        let error = now(request).unwrap_err();
        (error.status(), error.into_buf().capacity())
    };
    assert_eq!(refused(&mut read(&file, 4, 0)), (Status::QUOTA_EXCEEDED, 4));
    // From another thread too: the home's requests count there.
    std::thread::scope(|threads| {
        let there = threads.spawn(|| {
            let h = Harness::new();
            let error = now(&mut read(&file, 4, 0)).unwrap_err();
            assert_eq!(error.status(), Status::QUOTA_EXCEEDED);
            h.finish();
        });
        there.join().unwrap();
    });
    // The other file of the stack is not affected.
    let mut fine = read(&other, 4, 0);
    assert!(poll(&mut fine).is_pending());
    // Done and not taken is not gone.
    h.sim.open_gate();
    h.until("done", || h.sim.in_flight() == 0);
    assert_eq!(refused(&mut read(&file, 4, 0)), (Status::QUOTA_EXCEEDED, 4));
    assert!(now(&mut requests.pop().unwrap()).is_ok());
    assert_eq!(file.requests(), 2);
    let mut again = read(&file, 4, 0);
    assert!(poll(&mut again).is_pending());
    assert!(now(&mut fine).is_ok());
    // Closing is never refused.
    file.limit_requests(0);
    let mut close = plain(&file, Major::Close);
    h.sim.open_gate();
    drop((requests, again));
    assert_eq!(h.block_on(&mut close).0, Status::SUCCESS);
    drop((close, fine));
    drop((file, other));
    h.turns(2);
    h.finish();
}

/// S-19: the report of a shutdown names operation, file and driver of each request that is left.
#[test]
fn s19_what_a_shutdown_leaves() {
    let h = Harness::new();
    let kept = Arc::new(Mutex::new(Vec::<Held>::new()));
    let keep = kept.clone();
    let holds = Filter::new("holds-on", move |irp, lower| {
        if irp.major() != Major::Write {
            return lower.skip(irp);
        }
        let (held, disposition) = irp.hold();
        keep.lock().unwrap().push(held);
        disposition
    });
    let file = open(&stack(vec![holds], Bottom::default()), FD);
    let mut stuck = write(&file, b"lost", 0);
    assert!(poll(&mut stuck).is_pending());
    // One that is done and not taken is not left behind by a driver.
    h.sim.script([Step::after(1)]);
    let mut done = read(&file, 4, 0);
    assert!(poll(&mut done).is_pending());
    h.turn();
    let report = h.processor.shutdown(Duration::ZERO);
    assert_eq!(report.leaked, 1);
    let [request] = &report.requests[..] else { panic!("{report:?}") };
    assert_eq!(
        (request.major, &*request.driver, request.state),
        (Major::Write, "holds-on", "held")
    );
    assert_eq!((request.file, request.route), (file.id(), "future"));
    std::mem::forget((stuck, done, kept));
    std::mem::forget(file);
}
