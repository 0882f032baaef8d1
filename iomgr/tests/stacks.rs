//! Model test (design, section 10): a random stack of filters above the simulated bottom behaves
//! like an array of bytes, whatever order things happen in.

#![cfg(not(loom))]

mod support;

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use overlapped_iomgr::{
    Completion, Disposition, Driver, FileHandle, Held, Irp, Lower, Major, MajorSet, On, Part,
    Request, Stack, Status, Unwinding,
};
use proptest::prelude::*;
use support::*;

#[derive(Clone, Debug)]
enum Layer {
    /// Encrypts, by offset, so that a byte at a wrong place shows.
    Xor(u8),
    Skip,
    Routine,
    /// The file starts at this offset below.
    Shift(u16),
    /// Splits into parts of this size.
    Split(u16),
    /// Moves at most so many bytes a request: short reads and writes.
    Short(u16),
    /// Parks every request and lets it go on in a later turn.
    Defer,
    /// Sends every request down twice.
    RetryOnce,
    /// Takes the request back on its way up, and lets it go on later.
    Reclaim,
}

/// Requests that the deferring filters keep.
type Shelf = Arc<Mutex<Vec<(Held, bool)>>>;

struct Filtering {
    layer: Layer,
    shelf: Shelf,
}

fn key(seed: u8, offset: u64) -> u8 {
    seed ^ (offset as u8).wrapping_mul(31) ^ (offset >> 8) as u8
}

impl Driver for Filtering {
    fn name(&self) -> &str {
        "layer"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    fn dispatch(&self, mut irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        let (at, len) = (irp.offset(), irp.len() as u32);
        match self.layer {
            Layer::Skip => lower.skip(irp),
            Layer::Routine | Layer::Reclaim => lower.forward(irp, On::ALL),
            Layer::Shift(by) => {
                irp.next().set_offset(at + u64::from(by));
                lower.forward(irp, On::ALL)
            }
            Layer::Split(size) => {
                let size = u32::from(size);
                let parts: Vec<Part> = (0..len.div_ceil(size))
                    .map(|i| Part {
                        start: i * size,
                        len: size.min(len - i * size),
                        offset: at + u64::from(i * size),
                    })
                    .collect();
                if parts.len() < 2 { lower.skip(irp) } else { irp.split(&parts) }
            }
            Layer::Short(most) => {
                irp.next().set_len(u32::from(most));
                lower.skip(irp)
            }
            Layer::Defer => {
                let (held, disposition) = irp.hold();
                self.shelf.lock().unwrap().push((held, false));
                disposition
            }
            Layer::RetryOnce => {
                irp.set_scratch(AtomicBool::new(false));
                lower.forward(irp, On::ALL)
            }
            Layer::Xor(seed) if irp.major() == Major::Write => {
                let plain = irp.segments().flatten().enumerate();
                let bytes: Vec<u8> = plain.map(|(i, b)| b ^ key(seed, at + i as u64)).collect();
                irp.next().lend(bytes);
                lower.forward(irp, On::ALL)
            }
            Layer::Xor(_) => lower.forward(irp, On::SUCCESS),
        }
    }
    fn completed(&self, mut irp: Unwinding<'_>) -> Completion {
        match self.layer {
            Layer::Xor(seed) if irp.major() == Major::Read => {
                let at = irp.offset();
                for (i, b) in irp.received_mut().flatten().enumerate() {
                    *b ^= key(seed, at + i as u64);
                }
                irp.proceed()
            }
            Layer::RetryOnce => {
                let tried = irp.scratch::<AtomicBool>().expect("kept by dispatch");
                if tried.swap(true, Relaxed) { irp.proceed() } else { irp.retry(On::ALL) }
            }
            Layer::Reclaim => {
                let (held, completion) = irp.reclaim();
                self.shelf.lock().unwrap().push((held, true));
                completion
            }
            _ => irp.proceed(),
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Read {
        offset: u16,
        len: u16,
    },
    Write {
        offset: u16,
        len: u16,
        seed: u8,
    },
    /// Reads, and drops the future after so many turns.
    Abandon {
        offset: u16,
        len: u16,
        turns: u8,
    },
}

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let layer = prop_oneof![
        any::<u8>().prop_map(Layer::Xor),
        Just(Layer::Skip),
        Just(Layer::Routine),
        (0..600u16).prop_map(Layer::Shift),
        (40..400u16).prop_map(Layer::Split),
        (1..200u16).prop_map(Layer::Short),
        Just(Layer::Defer),
        Just(Layer::RetryOnce),
    ];
    prop::collection::vec(layer, 0..7)
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0..1200u16, 1..600u16).prop_map(|(offset, len)| Act::Read { offset, len }),
        (0..1200u16, 1..600u16, any::<u8>()).prop_map(|(offset, len, seed)| Act::Write {
            offset,
            len,
            seed
        }),
        (0..1200u16, 1..600u16, 0..4u8).prop_map(|(offset, len, turns)| Act::Abandon {
            offset,
            len,
            turns
        }),
    ];
    prop::collection::vec(act, 1..25)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..4u32, prop_oneof![3 => Just(u32::MAX), 1 => 1..100u32], any::<bool>());
    let step = step.prop_map(|(turns, limit, deaf)| {
        let step = Step::after(turns).limit(limit);
        if deaf { step.deaf() } else { step }
    });
    prop::collection::vec(step, 1..40)
}

/// The file as the requester sees it. Bytes at or after the end that holes left are unknown: below
/// an encrypting filter they are the encryption of zero.
#[derive(Default)]
struct Model(Vec<Option<u8>>);

impl Model {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.0.len() < at + bytes.len() {
            self.0.resize(at + bytes.len(), None);
        }
        for (i, b) in bytes.iter().enumerate() {
            self.0[at + i] = Some(*b);
        }
    }
}

struct World {
    h: Harness,
    file: FileHandle,
    shelf: Shelf,
    model: Model,
}

impl World {
    fn new(layers: &[Layer], steps: &[Step]) -> World {
        let h = Harness::new();
        h.sim.set_file(FD, Vec::new());
        h.sim.script(steps.iter().copied().cycle().take(2000));
        let shelf = Shelf::default();
        let filters = layers.iter().map(|layer| {
            let driver = Filtering { layer: layer.clone(), shelf: shelf.clone() };
            Arc::new(driver) as Arc<dyn Driver>
        });
        let stack = Stack::new(filters, Arc::new(Bottom::default())).unwrap();
        let file = open(&stack, FD);
        World { h, file, shelf, model: Model::default() }
    }

    /// One turn, in which the oldest request on the shelf goes on.
    fn turn(&self) {
        let next = {
            let mut shelf = self.shelf.lock().unwrap();
            (!shelf.is_empty()).then(|| shelf.remove(0))
        };
        if let Some((held, _)) = next {
            held.forward(On::ALL);
        }
        self.h.turn();
    }

    fn block_on<F: Future + Unpin>(&self, mut request: F) -> F::Output {
        for _ in 0..20_000 {
            if let std::task::Poll::Ready(output) = poll(&mut request) {
                return output;
            }
            self.turn();
        }
        panic!("hangs");
    }

    fn read(&mut self, at: usize, len: usize) {
        let (n, buf) = self.block_on(read(&self.file.clone(), len, at as u64)).unwrap();
        assert_eq!(n, buf.len());
        assert!(n <= len);
        for (i, b) in buf.iter().enumerate() {
            let known = self.model.0.get(at + i).copied().flatten();
            assert!(known.is_none_or(|k| k == *b), "byte {} is {b}, not {known:?}", at + i);
        }
        if at < self.model.0.len() && self.model.0[at].is_some() {
            assert!(n > 0, "bytes that were written can be read");
        }
    }

    /// Writes until all is written, as programs do.
    fn write(&mut self, mut at: usize, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let (n, back) = self.block_on(write(&self.file.clone(), left, at as u64)).unwrap();
            assert_eq!(back, left, "the caller's buffer comes back as it was");
            assert!(n > 0 && n <= left.len());
            self.model.write(at, &left[..n]);
            (at, left) = (at + n, &left[n..]);
        }
    }

    fn abandon(&mut self, at: usize, len: usize, turns: u8) {
        let read = Read { buf: Vec::with_capacity(len), offset: at as u64 };
        let mut request = Request::owned(self.file.clone(), read);
        let mut ready = poll(&mut request).is_ready();
        for _ in 0..turns {
            if ready {
                break;
            }
            self.turn();
            ready = poll(&mut request).is_ready();
        }
        drop(request);
        for _ in 0..20_000 {
            if self.h.processor.live() == 0 {
                return;
            }
            self.turn();
        }
        panic!("an abandoned request never ends");
    }

    fn finish(self) {
        drop(self.file);
        for _ in 0..4 {
            self.h.turn();
        }
        self.h.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn stacks_are_byte_arrays(layers in layers(), acts in acts(), steps in steps()) {
        let mut world = World::new(&layers, &steps);
        for act in acts {
            match act {
                Act::Read { offset, len } => world.read(offset.into(), len.into()),
                Act::Write { offset, len, seed } => {
                    let bytes: Vec<u8> = (0..len).map(|i| seed.wrapping_add(i as u8)).collect();
                    world.write(offset.into(), &bytes);
                }
                Act::Abandon { offset, len, turns } => {
                    world.abandon(offset.into(), len.into(), turns);
                }
            }
        }
        world.finish();
    }
}

/// Many requests at once: what each reads is what its place holds, whatever the order.
fn concurrent(layers: &[Layer], steps: &[Step], reads: &[(u16, u16)]) {
    let mut world = World::new(layers, steps);
    let bytes: Vec<u8> = (0..2000u32).map(|i| (i * 7 % 251) as u8).collect();
    world.write(0, &bytes);
    let mut requests: Vec<_> = reads
        .iter()
        .map(|&(at, len)| {
            let read = Read { buf: Vec::with_capacity(len.into()), offset: at.into() };
            (usize::from(at), Some(Request::owned(world.file.clone(), read)))
        })
        .collect();
    for round in 0.. {
        assert!(round < 20_000, "hangs");
        let mut pending = 0;
        for (i, (at, slot)) in requests.iter_mut().enumerate() {
            let Some(request) = slot else { continue };
            // Every third is dropped in its third round.
            if i % 3 == 0 && round == 2 {
                *slot = None;
                continue;
            }
            match poll(request) {
                std::task::Poll::Pending => pending += 1,
                std::task::Poll::Ready(result) => {
                    let (n, buf) = result.unwrap();
                    assert_eq!(buf, &bytes[*at..*at + n]);
                    *slot = None;
                }
            }
        }
        if pending == 0 && world.h.processor.live() == 0 {
            break;
        }
        world.turn();
    }
    drop(requests);
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn many_at_once(
        layers in layers(),
        steps in steps(),
        reads in prop::collection::vec((0..1000u16, 1..900u16), 1..20),
    ) {
        concurrent(&layers, &steps, &reads);
    }
}

/// A reclaimed request goes on above its driver with the bytes that were read.
#[test]
fn reclaim_in_a_deep_stack() {
    let h = Harness::new();
    let shelf = Shelf::default();
    let layers = [Layer::Xor(1), Layer::Reclaim, Layer::Split(100), Layer::Xor(2)];
    let filters = layers
        .into_iter()
        .map(|layer| Arc::new(Filtering { layer, shelf: shelf.clone() }) as Arc<dyn Driver>);
    let stack = Stack::new(filters, Arc::new(Bottom::default())).unwrap();
    let file = open(&stack, FD);
    h.sim.default_step(Step::after(2));
    let mut request = read(&file, 250, 10);
    assert!(poll(&mut request).is_pending());
    h.turns(3);
    assert!(poll(&mut request).is_pending());
    let (held, reclaimed) = shelf.lock().unwrap().pop().unwrap();
    assert!(reclaimed);
    held.complete(Status::SUCCESS, 250);
    let (n, buf) = now(&mut request).unwrap();
    let expect = |i: usize| {
        let at = i as u64 + 10;
        at as u8 ^ key(1, at) ^ key(2, at)
    };
    assert_eq!((n, buf), (250, (0..250).map(expect).collect::<Vec<u8>>()));
    drop(request);
    drop(file);
    h.finish();
}
