//! A completion port against a model of it: whatever is queued, taken, handed to who waits, given back or taken
//! off, in whatever order, packets come in the order in which they were queued (C-14), and limits are exact.

#![cfg(not(loom))]

mod support;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use overlapped_iomgr::wait::{Alertable, Event, Waited, wait_any};
use overlapped_iomgr::{
    CompletionPort, FileHandle, NoPacket, Packet, PortOptions, Status, WaitPacket,
};
use proptest::prelude::*;
use support::*;

const ZERO: Option<Duration> = Some(Duration::ZERO);

/// Numbers are times.
#[derive(Clone, Debug)]
enum Step {
    Post(usize),
    Request(usize),
    Remove(usize),
    RemoveMany(usize),
    /// In a task, which goes away if there is nothing.
    Next,
    /// To who waits in a task, and so many posts behind it; the task takes it, or goes away, so that it is given
    /// back.
    Handed {
        behind: usize,
        takes: bool,
    },
    /// A wait-completion packet, and so many posts behind it; then it is taken off again.
    TakenOff(usize),
    /// The port as an object (C-29).
    Watch,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..90_usize).prop_map(Step::Post),
        3 => (1..90_usize).prop_map(Step::Request),
        6 => (1..150_usize).prop_map(Step::Remove),
        2 => (1..150_usize).prop_map(Step::RemoveMany),
        2 => Just(Step::Next),
        2 => (0..70_usize, any::<bool>())
            .prop_map(|(behind, takes)| Step::Handed { behind, takes }),
        1 => (0..70_usize).prop_map(Step::TakenOff),
        1 => Just(Step::Watch),
    ];
    proptest::collection::vec(step, 1..40)
}

/// What is queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Queued {
    Post(u64),
    Request(u64),
}

struct Model {
    port: CompletionPort,
    file: FileHandle,
    limit: usize,
    queued: VecDeque<Queued>,
    /// Packets that are queued and will not be taken.
    beside: usize,
    last: u64,
}

impl Model {
    fn key(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn outstanding(&self) -> usize {
        self.queued.iter().filter(|queued| matches!(queued, Queued::Request(_))).count()
    }

    fn post(&mut self) {
        let key = self.key();
        let posted = self.port.post(key, 1, Status::SUCCESS, 2);
        if self.queued.len() + self.beside < self.limit {
            assert_eq!(posted, Ok(()));
            self.queued.push_back(Queued::Post(key));
        } else {
            assert_eq!(posted, Err(Status::INSUFFICIENT_RESOURCES));
        }
    }

    fn request(&mut self) {
        let key = self.key();
        let posted = read(&self.file, 4, 0).post(&self.port, key);
        if self.outstanding() < self.limit {
            posted.expect("below the limit");
            self.queued.push_back(Queued::Request(key));
        } else {
            let Err(refused) = posted else { panic!("beyond the limit") };
            let refused = refused.unwrap_err();
            assert_eq!(refused.status(), Status::QUOTA_EXCEEDED);
        }
    }

    /// Of a packet, or that there is none.
    fn came(&mut self, packet: Result<Packet, NoPacket>) {
        match (self.queued.pop_front(), packet) {
            (None, Err(NoPacket::TimedOut)) => {}
            (Some(Queued::Post(key)), Ok(packet)) => {
                assert_eq!((packet.key(), packet.value(), packet.info()), (key, 1, 2), "C-14");
            }
            (Some(Queued::Request(key)), Ok(mut packet)) => {
                assert_eq!((packet.key(), packet.info()), (key, 4), "C-14");
                assert_eq!(packet.take::<Vec<u8>>().expect("its buffer").len(), 0);
            }
            (expected, got) => panic!("{expected:?}, not {got:?}"),
        }
    }

    fn step(&mut self, step: Step) {
        let port = self.port.clone();
        let mut cx = Context::from_waker(Waker::noop());
        match step {
            Step::Post(times) => (0..times).for_each(|_| self.post()),
            Step::Request(times) => (0..times).for_each(|_| self.request()),
            Step::Remove(times) => (0..times).for_each(|_| self.came(port.remove(ZERO))),
            Step::RemoveMany(most) => {
                let mut packets = Vec::new();
                match port.remove_many(&mut packets, most, ZERO) {
                    Ok(taken) => assert_eq!(taken, most.min(self.queued.len()), "C-26"),
                    Err(none) => assert_eq!((none, self.queued.len()), (NoPacket::TimedOut, 0)),
                }
                packets.into_iter().for_each(|packet| self.came(Ok(packet)));
            }
            Step::Next => match pin!(port.next()).poll(&mut cx) {
                Poll::Ready(packet) => self.came(packet),
                Poll::Pending => assert!(self.queued.is_empty()),
            },
            Step::Handed { behind, takes } if self.queued.is_empty() && self.limit > 0 => {
                let mut next = Box::pin(port.next());
                assert!(next.as_mut().poll(&mut cx).is_pending());
                self.post();
                // It is not in the queue any more, and so not counted.
                self.limit += 1;
                (0..behind).for_each(|_| self.post());
                self.limit -= 1;
                if takes {
                    let Poll::Ready(packet) = next.as_mut().poll(&mut cx) else {
                        panic!("it was handed over")
                    };
                    self.came(packet);
                }
            }
            Step::Handed { .. } => {}
            Step::TakenOff(behind) => {
                let (event, packet) = (Event::auto(true), WaitPacket::new());
                packet.associate(&event, &port, 0, 0).unwrap();
                assert_eq!(port.depth(), self.queued.len() + 1, "whatever the limit");
                self.beside = 1;
                (0..behind).for_each(|_| self.post());
                self.beside = 0;
                assert!(packet.cancel(true));
            }
            Step::Watch => {
                let waited = wait_any(&[&port], ZERO, Alertable::No).unwrap();
                let expected =
                    if self.queued.is_empty() { Waited::TimedOut } else { Waited::Object(0) };
                assert_eq!(waited, expected, "C-29");
            }
        }
        assert_eq!(port.depth(), self.queued.len());
        assert_eq!(port.outstanding(), self.outstanding());
    }
}

/// About those of a segment of the chain.
const LIMITS: [usize; 8] = [0, 1, 63, 64, 65, 100, 128, 10_000];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_the_model(
        steps in steps(),
        limit in proptest::sample::select(&LIMITS[..]),
        counts in any::<bool>(),
    ) {
        let harness = Harness::new();
        harness.sim.default_step(support::Step::INLINE);
        let mut options = PortOptions::new().limit(limit);
        if counts {
            options = options.concurrency(1);
        }
        let file = open(&stack(vec![], Bottom::default()), FD);
        let mut model =
            Model { port: options.create(), file, limit, queued: VecDeque::new(), beside: 0, last: 0 };
        steps.into_iter().for_each(|step| model.step(step));
        while !model.queued.is_empty() {
            model.step(Step::Remove(1));
        }
        model.step(Step::Remove(1));
        drop(model);
        harness.finish();
    }
}
