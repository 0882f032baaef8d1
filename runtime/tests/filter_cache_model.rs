//! The cache filter against models: an array of bytes, with whatever goes wrong below; and a disk that
//! forgets what was not flushed when the power is cut.

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlapped::driver::filter::cache::{Cache, Mode, Settings};
use overlapped::driver::{
    Driver, Filter, Io, Major, MajorSet, Next, bottom::Memory, filter::Later, filter::PassKind,
    filter::pass,
};
use overlapped::fs::{File, OpenOptions};
use overlapped::sim::{FaultPlan, Simulation, set_faults};
use overlapped::{Backend, Status};
use proptest::prelude::*;
use support::{Dir, Random, backends, local, multi, watch};

/// Fails some of what comes, or does a part of it, by numbers of its own.
struct Trouble {
    random: Mutex<Random>,
    on: Arc<AtomicBool>,
}

impl Trouble {
    async fn pass<'a>(&self, next: Next<'a>, mut io: Io<'a>) -> Result<usize, Status> {
        let die = self.random.lock().unwrap().below(12);
        if die == 0 && self.on.load(Ordering::SeqCst) {
            return Err(Status::DATA_ERROR);
        }
        if die == 1 && io.len() > 1 && io.minor() == 0 {
            let (at, len) = (io.offset(), io.len() as u32 / 2);
            return next.forward(&mut io).at(at, len).await;
        }
        next.forward(&mut io).await
    }
}

impl Filter for Trouble {
    type Open = ();
    fn name(&self) -> &str {
        "trouble"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write, Major::Flush])
    }
    async fn read(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn write(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
    async fn flush(&self, _: &(), next: Next<'_>, io: Io<'_>) -> Result<usize, Status> {
        self.pass(next, io).await
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    ReadParts(usize, usize),
    Write(usize, usize, u8),
    WriteParts(usize, usize, u8),
    Flush,
    SetLen(usize),
    Zero(usize, usize),
    /// A read and a write that are given up at once.
    GiveUp(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || (0..40_000usize, prop_oneof![1..200usize, 1..9000usize]);
    let step = prop_oneof![
        4 => range().prop_map(|(at, len)| Step::Read(at, len)),
        1 => range().prop_map(|(at, len)| Step::ReadParts(at, len)),
        6 => (range(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, len, byte)),
        1 => (range(), any::<u8>()).prop_map(|((at, len), byte)| Step::WriteParts(at, len, byte)),
        1 => Just(Step::Flush),
        1 => (0..50_000usize).prop_map(Step::SetLen),
        1 => range().prop_map(|(at, len)| Step::Zero(at, len)),
        1 => range().prop_map(|(at, len)| Step::GiveUp(at, len)),
    ];
    proptest::collection::vec(step, 1..120)
}

fn settings() -> impl Strategy<Value = Settings> {
    let mode = prop_oneof![2 => Just(Mode::WriteBack), 1 => Just(Mode::WriteThrough)];
    let block = prop_oneof![Just(512u32), Just(1024), Just(4096)];
    let marks = (8..40u64, 1..7u64, 0..=100u64, prop_oneof![Just(0u64), Just(65_536)]);
    (mode, block, marks, prop_oneof![Just(3000u64), Just(1 << 20)]).prop_map(
        |(mode, block, (blocks, high, low, readahead), around)| {
            let size = blocks * u64::from(block);
            let high = (blocks / 8 * high) * u64::from(block);
            let low = Some(high * low / 100);
            Settings { size, mode, block, high: Some(high), low, readahead, around }
        },
    )
}

/// What a byte may be: one value, or any after something failed in the middle.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Byte {
    Is(u8),
    Either,
}

struct Model {
    bytes: Vec<Byte>,
    /// How long the file is; `None`: something failed that changes it.
    len: Option<usize>,
}

impl Model {
    fn fill(&mut self, at: usize, len: usize, byte: Byte) {
        self.bytes.resize(self.bytes.len().max(at + len), Byte::Is(0));
        self.bytes[at..at + len].fill(byte);
    }

    fn check(&self, at: usize, found: &[u8]) {
        for (i, &byte) in found.iter().enumerate() {
            let expected = self.bytes.get(at + i).copied().unwrap_or(Byte::Is(0));
            assert!(
                expected == Byte::Either || expected == Byte::Is(byte),
                "{}: {byte}, {expected:?}",
                at + i
            );
        }
    }
}

async fn run(file: &File, steps: &[Step], troubled: bool) -> Model {
    let mut model = Model { bytes: Vec::new(), len: Some(0) };
    for step in steps {
        match *step {
            Step::Read(at, len) => match file.read_at(vec![0; len], at as u64).await {
                Ok((n, found)) => {
                    model.check(at, &found[..n]);
                    if let Some(end) = model.len {
                        assert!(n > 0 || at >= end, "no bytes at {at} of {end}");
                        assert!(at + n <= end.max(at), "{n} bytes at {at} of {end}");
                    }
                }
                Err(error) => assert!(troubled, "{error}"),
            },
            Step::ReadParts(at, len) => {
                let parts = vec![vec![0; len / 3 + 1], vec![0; 1], vec![0; len]];
                match file.read_vectored_at(parts, at as u64).await {
                    Ok((n, found)) => model.check(at, &found.concat()[..n]),
                    Err(error) => assert!(troubled, "{error}"),
                }
            }
            Step::Write(at, len, byte) => match file.write_at(vec![byte; len], at as u64).await {
                Ok((n, _)) => {
                    model.fill(at, n, Byte::Is(byte));
                    model.len = model.len.map(|end| end.max(at + n));
                }
                Err(error) => {
                    assert!(troubled, "{error}");
                    model.fill(at, len, Byte::Either);
                    model.len = model.len.filter(|end| *end >= at + len);
                }
            },
            Step::WriteParts(at, len, byte) => {
                let parts = vec![vec![byte; len / 2], vec![byte; 3], vec![byte; 500]];
                let all = len / 2 + 503;
                match file.write_vectored_at(parts, at as u64).await {
                    Ok((n, _)) => {
                        model.fill(at, n, Byte::Is(byte));
                        model.len = model.len.map(|end| end.max(at + n));
                    }
                    Err(error) => {
                        assert!(troubled, "{error}");
                        model.fill(at, all, Byte::Either);
                        model.len = model.len.filter(|end| *end >= at + all);
                    }
                }
            }
            Step::Flush => assert!(file.sync_data().await.is_ok() || troubled),
            Step::SetLen(len) => {
                file.set_len(len as u64).await.unwrap();
                model.bytes.resize(len, Byte::Is(0));
                model.len = Some(len);
            }
            Step::Zero(at, len) => {
                file.punch_hole(at as u64, len as u64).await.unwrap();
                let end = model.bytes.len().min(at + len);
                if at < end {
                    model.fill(at, end - at, Byte::Is(0));
                }
            }
            Step::GiveUp(at, len) => {
                let mut read = Box::pin(file.read_at(vec![0; len], at as u64));
                _ = support::poll_once(&mut read);
                drop(read);
                let mut write = Box::pin(file.write_at(vec![77; len], at as u64));
                let done = support::poll_once(&mut write).is_ready();
                drop(write);
                _ = done;
                model.fill(at, len, Byte::Either);
                model.len = model.len.filter(|end| *end >= at + len);
                // It may be on its way: what it does is done before what comes next begins.
                while file.object().requests() > 0 {
                    overlapped::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
    model
}

async fn in_memory(settings: Settings, steps: Vec<Step>, seed: u64, pends: bool) {
    let (memory, on) = (Arc::new(Memory::new()), Arc::new(AtomicBool::new(true)));
    let trouble = Trouble { random: Mutex::new(Random(seed)), on: on.clone() };
    let cache = Cache::new(settings).unwrap();
    let options = OpenOptions::new().read(true).write(true);
    let mut through = options.clone().filter(cache.into_driver()).filter(trouble.into_driver());
    if pends {
        through = through.filter(Arc::new(Later));
    }
    let file = through.on(memory.clone()).open("file").await.unwrap();
    let model = run(&file, &steps, true).await;
    on.store(false, Ordering::SeqCst);
    let mut all = vec![0; 200_000];
    let mut done = 0;
    loop {
        let (n, part) = file.read_at(vec![0; 100_000], done as u64).await.unwrap();
        all[done..done + n].copy_from_slice(&part[..n]);
        done += n;
        if n == 0 {
            break;
        }
    }
    model.check(0, &all[..done]);
    if let Some(len) = model.len {
        assert_eq!(done, len);
    }
    // And so it is below, once it is closed.
    file.close().await.unwrap();
    let raw = options.on(memory).open("raw").await.unwrap();
    let (n, found) = raw.read_at(vec![0; 200_000], 0).await.unwrap();
    assert!(found[..n] == all[..done], "what is below is what was seen");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_memory_with_trouble(settings in settings(), steps in steps(), seed: u64, pends: bool) {
        let _watch = watch("a case");
        local(Backend::Epoll).block_on(in_memory(settings, steps, seed, pends));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_real_files(settings in settings(), steps in steps()) {
        for backend in backends() {
            let _watch = watch("a case");
            let dir = Dir::new();
            local(backend).block_on(async {
                let cache = Cache::new(settings.clone()).unwrap();
                let options = OpenOptions::new().read(true).write(true).create(true);
                let path = dir.path("file");
                let file = options.filter(cache.into_driver()).open(&path).await.unwrap();
                let model = run(&file, &steps, false).await;
                assert!(model.len.is_none_or(|len| len == model.bytes.len()));
                file.close().await.unwrap();
                model.check(0, &std::fs::read(&path).unwrap());
            });
        }
    }
}

/// Tasks on several threads, each with every third run of 1000 bytes: they share blocks, not bytes.
#[test]
fn neighbours_keep_their_bytes() {
    for (backend, mode) in [
        (Backend::IoUring, Mode::WriteBack),
        (Backend::Epoll, Mode::WriteBack),
        (Backend::Epoll, Mode::WriteThrough),
    ] {
        let _watch = watch(format!("{backend}, {mode:?}"));
        let (dir, runtime) = (Dir::new(), multi(backend, 3));
        let path = dir.file("file", vec![0; 120_000]);
        let settings = Settings { size: 16 << 12, mode, ..Settings::default() };
        let cache = Cache::new(settings).unwrap();
        let options = OpenOptions::new().read(true).write(true).filter(cache.into_driver());
        let file = Arc::new(runtime.block_on(options.open(&path)).unwrap());
        let tasks: Vec<_> = (0..3u64)
            .map(|task| {
                let file = file.clone();
                runtime.spawn(async move {
                    let mut random = Random(task);
                    let mut last = [0u8; 40];
                    for step in 0..400u64 {
                        let run = random.below(40);
                        let at = (run * 3 + task) * 1000;
                        if random.below(3) > 0 {
                            let byte = random.below(256) as u8;
                            last[run as usize] = byte;
                            file.write_all_at(vec![byte; 1000], at).await.unwrap();
                        } else {
                            let ((), found) = file.read_exact_at(vec![0; 1000], at).await.unwrap();
                            assert_eq!(found, [last[run as usize]; 1000], "{task} at {at}");
                        }
                        if step % 50 == 49 {
                            file.sync_data().await.unwrap();
                        }
                    }
                    last
                })
            })
            .collect();
        let mut expected = vec![0; 120_000];
        for (task, handle) in tasks.into_iter().enumerate() {
            for (run, byte) in runtime.block_on(handle).unwrap().into_iter().enumerate() {
                expected[(run * 3 + task) * 1000..][..1000].fill(byte);
            }
        }
        runtime.block_on(Arc::into_inner(file).unwrap().close()).unwrap();
        assert!(std::fs::read(&path).unwrap() == expected);
    }
}

/// A disk's own cache: what was written is on the medium once it was flushed, and may be before.
#[derive(Clone, Default)]
struct Volatile(Arc<Mutex<Medium>>);

#[derive(Default)]
struct Medium {
    durable: Vec<u8>,
    pending: VecDeque<(usize, Vec<u8>)>,
}

impl Medium {
    fn apply(durable: &mut Vec<u8>, (at, bytes): &(usize, Vec<u8>)) {
        durable.resize(durable.len().max(at + bytes.len()), 0);
        durable[*at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Volatile {
    /// What is left after a power cut now: of what was not flushed, any part, in any order.
    fn cut(&self, random: &mut Random) -> Vec<u8> {
        let medium = self.0.lock().unwrap();
        let mut left = medium.durable.clone();
        let mut pending: Vec<_> = medium.pending.iter().collect();
        while !pending.is_empty() {
            let write = pending.swap_remove(random.below(pending.len() as u64) as usize);
            if random.below(2) == 0 {
                Medium::apply(&mut left, write);
            }
        }
        left
    }
}

impl Filter for Volatile {
    type Open = ();
    fn name(&self) -> &str {
        "volatile"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write, Major::Flush])
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let bytes = io.segments().collect::<Vec<_>>().concat();
        next.sleep(Duration::from_micros(next.random() % 500)).await;
        let n = next.forward(&mut io).await?;
        let write = (io.offset() as usize, bytes[..n].to_vec());
        self.0.lock().unwrap().pending.push_back(write);
        Ok(n)
    }
    async fn flush(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let before = self.0.lock().unwrap().pending.len();
        next.sleep(Duration::from_micros(next.random() % 2000)).await;
        let n = next.forward(&mut io).await?;
        let mut medium = self.0.lock().unwrap();
        for _ in 0..before.min(medium.pending.len()) {
            let write = medium.pending.pop_front().unwrap();
            Medium::apply(&mut medium.durable, &write);
        }
        Ok(n)
    }
}

const FILE: usize = 60_000;

/// The values that each byte has had, the last one that was flushed first.
type History = Vec<Vec<u8>>;

#[test]
fn after_a_power_cut_everything_flushed_is_there() {
    let cuts = AtomicU64::new(0);
    for seed in 0..25 {
        let cuts = &cuts;
        let ((), report) = Simulation::new(seed).faults(FaultPlan::rough()).run(async move {
            let settings =
                Settings { size: 12 << 12, mode: Mode::WriteBack, ..Settings::default() };
            let cache = Cache::new(settings).unwrap();
            let volatile = Volatile::default();
            let options = OpenOptions::new().read(true).write(true).create(true);
            let file = options
                .filter(pass(PassKind::Future))
                .filter(cache.into_driver())
                .filter(volatile.clone().into_driver());
            let file = Arc::new(file.open("/tmp/disk").await.unwrap());
            file.write_all_at(vec![0; FILE], 0).await.unwrap();
            while file.sync_all().await.is_err() {}
            let history: Arc<Mutex<History>> = Arc::new(Mutex::new(vec![vec![0]; FILE]));
            // Three tasks, each with runs of its own, and one that cuts the power now and then.
            let tasks: Vec<_> = (0..3)
                .map(|task: usize| {
                    let (file, history) = (file.clone(), history.clone());
                    overlapped::spawn_local(async move {
                        let mut random = Random(seed * 10 + task as u64);
                        for _ in 0..60 {
                            let at = (random.below(20) as usize * 3 + task) * 1000;
                            if random.below(5) == 0 {
                                // What is in the history now is flushed when this is done.
                                let mine = |i: &usize| i / 1000 % 3 == task;
                                let before: Vec<(usize, usize)> = {
                                    let history = history.lock().unwrap();
                                    (0..FILE).filter(mine).map(|i| (i, history[i].len())).collect()
                                };
                                if file.sync_data().await.is_ok() {
                                    let mut history = history.lock().unwrap();
                                    for (i, len) in before {
                                        history[i].drain(..len - 1);
                                    }
                                }
                                continue;
                            }
                            let byte = random.below(256) as u8;
                            // From here on it may be there.
                            for values in &mut history.lock().unwrap()[at..at + 1000] {
                                values.push(byte);
                            }
                            file.write_all_at(vec![byte; 1000], at as u64).await.unwrap();
                        }
                    })
                })
                .collect();
            let mut random = Random(seed);
            for _ in 0..20 {
                overlapped::time::sleep(Duration::from_micros(random.below(3000))).await;
                let left = volatile.cut(&mut random);
                cuts.fetch_add(1, Ordering::Relaxed);
                assert_eq!(left.len(), FILE);
                for (i, (byte, values)) in left.iter().zip(&*history.lock().unwrap()).enumerate() {
                    assert!(values.contains(byte), "seed {seed}: {byte} at {i}, of {values:?}");
                }
            }
            for task in tasks {
                task.await.unwrap();
            }
            set_faults(FaultPlan::none());
            Arc::into_inner(file).unwrap().close().await.unwrap();
            let bytes = overlapped::fs::read("/tmp/disk").await.unwrap();
            for (byte, values) in bytes.iter().zip(&*history.lock().unwrap()) {
                assert_eq!(Some(byte), values.last());
            }
        });
        assert!(report.left.is_nothing(), "{}", report.left);
    }
    assert_eq!(cuts.into_inner(), 500);
}

/// The same seed goes the same way, through the cache too.
#[test]
fn it_repeats_itself() {
    let run = || {
        Simulation::new(3)
            .faults(FaultPlan::hostile())
            .run(async {
                let settings =
                    Settings { size: 12 << 12, mode: Mode::WriteBack, ..Settings::default() };
                let cache: Arc<dyn Driver> = Cache::new(settings).unwrap().into_driver();
                let options = OpenOptions::new().read(true).write(true).create(true);
                let file = loop {
                    if let Ok(file) = options.clone().filter(cache.clone()).open("/tmp/a").await {
                        break file;
                    }
                };
                let mut random = Random(9);
                for _ in 0..300 {
                    let at = random.below(100_000);
                    _ = file.write_at(vec![1; 3000], at).await;
                    _ = file.read_at(vec![0; 5000], random.below(100_000)).await;
                }
                _ = file.sync_all().await;
            })
            .1
            .trace_hash
    };
    assert_eq!(run(), run());
}
