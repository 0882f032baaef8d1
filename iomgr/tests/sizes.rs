//! The size classes of IRPs and what is counted of them (I-5). One test: the counts are the process's.

#![cfg(not(loom))]

mod support;

use std::time::Duration;

use overlapped_iomgr::{FileHandle, IrpCounts, live_requests};
use support::*;

fn of_depth(depth: usize) -> FileHandle {
    let skip = |i: usize| Filter::new(format!("f{i}"), |irp, lower| lower.skip(irp));
    open(&stack((1..depth).map(skip).collect(), Bottom::default()), FD)
}

fn counts() -> [(u64, u64, u64); 3] {
    let irps: IrpCounts = live_requests(Duration::from_secs(10)).irps;
    let classes: Vec<_> =
        irps.classes().iter().map(|c| (c.allocations, c.misses, c.frees)).collect();
    assert_eq!(irps.in_use(), classes.iter().map(|c| c.0 - c.2).sum::<u64>());
    classes.try_into().unwrap()
}

#[test]
fn i5_size_classes() {
    let h = Harness::new();
    let locations: Vec<_> = IrpCounts::default().classes().iter().map(|c| c.locations).collect();
    assert_eq!(locations, [3, 8, 64]);
    assert_eq!(counts(), [(0, 0, 0); 3]);
    // The smallest that is deep enough; the list is empty once.
    let mut expected = [(0, 0, 0); 3];
    for (class, depths) in [(0, [1, 3]), (1, [4, 8]), (2, [9, 64])] {
        for depth in depths {
            let file = of_depth(depth);
            for _ in 0..10 {
                now(&mut read(&file, 4, 0)).unwrap();
            }
            expected[class] = (expected[class].0 + 10, 1, expected[class].2 + 10);
            assert_eq!(counts(), expected, "depth {depth}");
            drop(file);
            h.turn();
            // Its close, which no filter hooks.
            expected[0] = (expected[0].0 + 1, 1, expected[0].2 + 1);
            assert_eq!(counts(), expected, "depth {depth}, closed");
        }
    }
    // More at a time than the first page of the class has: one more page, and then no more.
    let file = of_depth(1);
    h.sim.default_step(Step::GATED);
    for round in 0..2 {
        let blocks: Vec<_> = (0..40).map(|_| read(&file, 1, 0).start().unwrap()).collect();
        expected[0] = (expected[0].0 + 40, 2, expected[0].2);
        assert_eq!(counts(), expected, "round {round}");
        assert_eq!(live_requests(Duration::from_secs(10)).irps.classes()[0].in_use(), 40);
        drop(blocks);
        h.turns(2);
        expected[0].2 += 40;
        assert_eq!(counts(), expected, "round {round}, cancelled");
    }
    drop(file);
    h.finish();
}
