//! How a request moves from driver to driver (Z-13): in a loop, and in the order in which drivers pass
//! requests on.

#![cfg(not(loom))]

mod support;

use std::hint::black_box;
use std::sync::{Arc, Mutex};

use overlapped_iomgr::{CancelSafeQueue, MAX_LOCATIONS, On};
use support::*;

/// However deep a stack is, its drivers' calls stand side by side on the thread's own.
#[test]
fn z13_calls_do_not_nest() {
    let places: Arc<Mutex<Vec<usize>>> = Arc::default();
    let filters = (0..MAX_LOCATIONS - 1).map(|i| {
        let places = places.clone();
        Filter::new("notes", move |irp, lower| {
            let local = black_box(0u8);
            places.lock().unwrap().push((&raw const local).addr());
            if i % 2 == 0 { lower.skip(irp) } else { lower.forward(irp, On::ALL) }
        })
    });
    let stack = stack(filters.map(|filter| filter as _).collect(), Bottom::default());
    let harness = Harness::new();
    let file = open(&stack, FD);
    now(&mut read(&file, 4, 0)).unwrap();
    let places = places.lock().unwrap();
    assert_eq!(places.len(), MAX_LOCATIONS - 1);
    assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
    drop((places, file));
    harness.finish();
}

/// A driver that passes two requests on in one dispatch says which is the first to meet the next driver.
#[test]
fn what_is_passed_on_first_comes_first() {
    for kept_first in [true, false] {
        let queue = Arc::new(CancelSafeQueue::new());
        let kept = queue.clone();
        let two = Filter::new("two", move |irp, lower| match irp.offset() {
            1 => irp.park(&kept),
            2 => {
                let parked = kept.remove().expect("parked before");
                if kept_first {
                    parked.forward(On::ALL);
                    lower.forward(irp, On::ALL)
                } else {
                    let passed_on = lower.forward(irp, On::ALL);
                    parked.forward(On::ALL);
                    passed_on
                }
            }
            _ => lower.skip(irp),
        });
        let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
        let sees = seen.clone();
        let below = Filter::new("below", move |irp, lower| {
            sees.lock().unwrap().push(irp.offset());
            lower.skip(irp)
        });
        let stack = stack(vec![two, below], Bottom::default());
        let harness = Harness::new();
        let file = open(&stack, FD);
        let mut first = read(&file, 4, 1);
        assert!(poll(&mut first).is_pending());
        now(&mut read(&file, 4, 2)).unwrap();
        harness.block_on(first).unwrap();
        let order = if kept_first { [1, 2] } else { [2, 1] };
        assert_eq!(*seen.lock().unwrap(), order);
        drop(file);
        harness.finish();
    }
}
