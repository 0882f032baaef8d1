//! The mirror filter: members that fail, are put out, repaired, and taken in again.

#[path = "support/probe.rs"]
mod probe;
mod support;

use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::filter::mirror::{Handle, Mirror, Policy, State};
use overlapped::driver::filter::{Later, Side, Xor};
use overlapped::driver::testing::conformance::file_filters;
use overlapped::driver::text::{Bottom, Text};
use overlapped::driver::{Driver, Filter, Major, bottom::Memory};
use overlapped::fs::{File, OpenOptions};
use overlapped::sim::{FaultPlan, Simulation, set_faults};
use probe::Probe;
use support::{Dir, Random, both, pattern, poll_once, status, until};

const LEN: usize = 100_000;

struct Rig {
    file: File,
    memories: Vec<Arc<Memory>>,
    probes: Vec<Probe>,
    handle: Handle,
}

/// So many members, each in memory, the first below.
async fn rig(members: usize, set: impl FnOnce(Mirror) -> Mirror) -> Rig {
    let memories: Vec<_> = (0..members).map(|_| Arc::new(Memory::new())).collect();
    let probes: Vec<_> = (0..members).map(|_| Probe::new()).collect();
    let side = |i: usize| {
        let bottom: Arc<dyn Driver> = memories[i].clone();
        Side::stack([probes[i].driver(), Arc::new(Later)], Bottom::Driver(bottom))
    };
    let mirror = set(Mirror::of((1..members).map(side)));
    let handle = mirror.handle();
    let options = OpenOptions::new().read(true).write(true);
    // Encrypted on top, as it were: what resync asks for goes by.
    let options = options.filter(Arc::new(Xor(3))).filter(mirror.into_driver());
    let options = options.filter(probes[0].driver());
    let file = options.on(memories[0].clone()).open("file").await.unwrap();
    Rig { file, memories, probes, handle }
}

async fn all(file: &File) -> Vec<u8> {
    let (n, mut bytes) = file.read_at(vec![0; 2 * LEN], 0).await.unwrap();
    bytes.truncate(n);
    bytes
}

impl Rig {
    async fn member(&self, i: usize) -> Vec<u8> {
        let options = OpenOptions::new().read(true).write(true).filter(Arc::new(Xor(3)));
        all(&options.on(self.memories[i].clone()).open("raw").await.unwrap()).await
    }

    fn states(&self) -> Vec<State> {
        self.handle.members().iter().map(|member| member.state).collect()
    }

    async fn expect_the_same(&self) {
        let first = self.member(0).await;
        for i in 1..self.memories.len() {
            assert!(self.member(i).await == first, "member {i}");
        }
        assert!(all(&self.file).await == first);
    }
}

use State::{In, Out};

#[test]
fn all_members_get_everything() {
    both(async |_| {
        let rig = rig(3, |mirror| mirror.quorum(3)).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.file.write_vectored_at(vec![vec![1; 10], vec![2; 5000]], 3000).await.unwrap();
        rig.file.set_len(60_000).await.unwrap();
        rig.file.sync_all().await.unwrap();
        rig.expect_the_same().await;
        assert_eq!(rig.member(1).await.len(), 60_000);
        assert!(rig.probes.iter().all(|probe| probe.count(Major::Flush) == 1));
        assert_eq!(rig.states(), [In; 3]);
        let buffers = vec![vec![0; 10], vec![0; 200]];
        let (n, buffers) = rig.file.read_vectored_at(buffers, 59_900).await.unwrap();
        assert_eq!((n, &buffers.concat()[..100]), (100, &pattern(LEN)[59_900..60_000]));
    });
}

#[test]
fn one_is_read_from() {
    both(async |_| {
        for (policy, expected) in [(Policy::First, [9, 0, 0]), (Policy::RoundRobin, [3, 3, 3])] {
            let rig = rig(3, |mirror| mirror.policy(policy)).await;
            rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
            for i in 0..9 {
                let (_, bytes) = rig.file.read_at(vec![0; 10], i * 100).await.unwrap();
                assert_eq!(bytes, pattern(LEN)[i as usize * 100..][..10]);
            }
            let reads: Vec<u64> = rig.handle.members().iter().map(|member| member.reads).collect();
            assert_eq!(reads, expected);
        }
    });
}

#[test]
fn what_one_cannot_read_is_read_from_another_and_repaired() {
    both(async |_| {
        let rig = rig(2, |mirror| mirror).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.probes.iter().for_each(|probe| drop(probe.take()));
        rig.probes[0].fail(Major::Read, 1, Status::DATA_ERROR);
        let ((), bytes) = rig.file.read_exact_at(vec![0; 500], 1000).await.unwrap();
        assert_eq!(bytes, pattern(LEN)[1000..1500]);
        assert_eq!(rig.probes[0].take(), [(Major::Read, 1000, 500), (Major::Write, 1000, 500)]);
        let member = rig.handle.members()[0];
        assert_eq!((member.state, member.masked, member.repaired), (In, 1, 1));
        rig.expect_the_same().await;
        // One that cannot be repaired either is out, and not asked any more.
        rig.probes[0].fail(Major::Read, 1, Status::DATA_ERROR);
        rig.probes[0].fail(Major::Write, 1, Status::DISK_FULL);
        rig.file.read_at(vec![0; 500], 1000).await.unwrap();
        assert_eq!(rig.states(), [Out, In]);
        assert_eq!(rig.handle.members()[0].status, Some(Status::DISK_FULL));
        rig.probes[0].take();
        rig.file.read_at(vec![0; 500], 1000).await.unwrap();
        assert_eq!(rig.probes[0].take(), []);
        // All fail: so does the read, and nobody is out for that.
        let rig = self::rig(2, |mirror| mirror).await;
        rig.probes.iter().for_each(|probe| probe.fail(Major::Read, 1, Status::DATA_ERROR));
        assert_eq!(status(rig.file.read_at(vec![0; 10], 0).await), Status::DATA_ERROR);
        assert_eq!(rig.states(), [In; 2]);
    });
}

#[test]
fn one_that_fails_writes_is_out_until_it_is_the_same_again() {
    both(async |_| {
        for bad in [0, 1] {
            let rig = rig(2, |mirror| mirror.policy(Policy::RoundRobin)).await;
            rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
            rig.probes[bad].fail(Major::Write, 1, Status::DISK_FULL);
            rig.file.write_all_at(vec![7; 1000], 500).await.unwrap();
            rig.file.write_all_at(vec![8; 1000], LEN as u64).await.unwrap();
            let members = rig.handle.members();
            assert_eq!((members[bad].state, members[1 - bad].state), (Out, In));
            assert_eq!(members[bad].status, Some(Status::DISK_FULL));
            for _ in 0..4 {
                let ((), bytes) = rig.file.read_exact_at(vec![0; 1000], 500).await.unwrap();
                assert_eq!(bytes, [7; 1000], "never from the stale one");
            }
            assert_eq!(rig.member(bad).await, pattern(LEN), "it is left alone");
            // The last one's failures are failures.
            rig.probes[1 - bad].fail(Major::Write, 1, Status::DATA_ERROR);
            assert_eq!(status(rig.file.write_at(vec![1], 0).await), Status::DATA_ERROR);

            // With writes going on meanwhile.
            let object = rig.file.object();
            assert_eq!(rig.handle.resync(object, 1 - bad).await, Err(Status::INVALID_PARAMETER));
            assert_eq!(rig.handle.resync(object, 7).await, Err(Status::INVALID_PARAMETER));
            let (copied, ()) = futures_util::join!(rig.handle.resync(object, bad), async {
                for i in 0..20 {
                    rig.file.write_all_at(vec![i as u8; 3000], i * 5000).await.unwrap();
                }
            });
            assert_eq!(copied, Ok(LEN as u64 + 1000));
            assert_eq!(rig.states(), [In; 2]);
            rig.expect_the_same().await;
            // A resync that fails changes nothing for the better.
            rig.probes[bad].fail(Major::Write, 1, Status::DISK_FULL);
            rig.file.write_all_at(vec![9; 1000], 500).await.unwrap();
            rig.probes[bad].fail(Major::Write, 1, Status::DATA_ERROR);
            assert_eq!(rig.handle.resync(object, bad).await, Err(Status::DATA_ERROR));
            assert_eq!(rig.handle.members()[bad].state, Out);
        }
    });
}

#[test]
fn a_quorum() {
    both(async |_| {
        let rig = rig(3, |mirror| mirror.quorum(2)).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.probes[2].fail(Major::Write, 1, Status::DATA_ERROR);
        rig.file.write_all_at(vec![1; 10], 0).await.unwrap();
        assert_eq!(rig.states(), [In, In, Out]);
        rig.probes[0].fail(Major::Write, 1, Status::DISK_FULL);
        assert_eq!(status(rig.file.write_at(vec![2; 10], 0).await), Status::DISK_FULL);
        assert_eq!(rig.states(), [Out, In, Out]);
        rig.probes[1].take();
        assert_eq!(status(rig.file.write_at(vec![3; 10], 0).await), Status::IO_DEVICE_ERROR);
        assert_eq!(rig.probes[1].take(), [], "nobody has it");
        // It is read from still.
        assert_eq!(rig.file.read_at(vec![0; 10], 20).await.unwrap().1, pattern(30)[20..]);
        // What all refuse puts nobody out.
        let rig = self::rig(2, |mirror| mirror).await;
        rig.probes.iter().for_each(|probe| probe.fail(Major::Write, 1, Status::DISK_FULL));
        assert_eq!(status(rig.file.write_at(vec![3; 10], 0).await), Status::DISK_FULL);
        assert_eq!(rig.states(), [In; 2]);
        rig.probes[1].fail(Major::Flush, 1, Status::DATA_ERROR);
        rig.file.sync_all().await.unwrap();
        assert_eq!(rig.states(), [In, Out]);
    });
}

#[test]
fn a_cancelled_write_leaves_no_difference() {
    both(async |_| {
        let rig = rig(2, |mirror| mirror).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.probes[0].close_gate();
        let mut write = rig.file.write_at(vec![9; 5000], LEN as u64 - 100);
        assert!(poll_once(&mut write).is_pending());
        drop(write);
        rig.probes[0].open_gate();
        until(|| rig.file.object().requests() == 0).await;
        rig.file.sync_all().await.unwrap();
        assert_eq!(rig.states(), [In; 2]);
        rig.expect_the_same().await;
    });
}

/// The slow member gets two writes of the same bytes in the order in which the fast one does.
#[test]
fn writes_of_the_same_bytes_go_one_after_the_other() {
    both(async |_| {
        let rig = rig(2, |mirror| mirror).await;
        rig.file.write_all_at(pattern(LEN), 0).await.unwrap();
        rig.probes.iter().for_each(|probe| drop(probe.take()));
        rig.probes[0].close_gate();
        let mut one = rig.file.write_at(vec![1; 1000], 100);
        let mut other = rig.file.write_at(vec![2; 1000], 600);
        let mut third = rig.file.write_at(vec![3; 1000], 5000);
        assert!(poll_once(&mut one).is_pending());
        assert!(poll_once(&mut other).is_pending());
        assert!(poll_once(&mut third).is_pending());
        let mut read = rig.file.read_at(vec![0; 10], 100);
        assert!(poll_once(&mut read).is_pending());
        until(|| rig.probes[1].count(Major::Write) == 2).await;
        for _ in 0..20 {
            overlapped::yield_now().await;
        }
        assert_eq!(rig.probes[1].take(), [(Major::Write, 100, 1000), (Major::Write, 5000, 1000)]);
        assert_eq!(rig.probes[0].count(Major::Read), 0, "nor is one read in the middle");
        rig.probes[0].open_gate();
        one.await.unwrap();
        other.await.unwrap();
        third.await.unwrap();
        assert_eq!(read.await.unwrap().1, [1; 10]);
        rig.expect_the_same().await;
    });
}

#[test]
fn real_files_as_text() {
    both(async |_| {
        let dir = Dir::new();
        let (one, other) = (dir.path("one"), dir.path("other"));
        let text = format!(
            "mirror(other={}, quorum=2, read=roundrobin) | file({})",
            other.display(),
            one.display()
        );
        let options = OpenOptions::new().read(true).write(true).create(true);
        let file = options.clone().open_stack(&text).await.unwrap();
        file.write_all_at(pattern(LEN), 0).await.unwrap();
        assert_eq!(all(&file).await, pattern(LEN));
        file.punch_hole(10_000, 5000).await.unwrap();
        file.close().await.unwrap();
        let mut expected = pattern(LEN);
        expected[10_000..15_000].fill(0);
        assert_eq!(std::fs::read(&one).unwrap(), expected);
        assert_eq!(std::fs::read(&other).unwrap(), expected);
        for (parameters, words) in [
            ("quorum=3, other=x", "takes 1 or 2"),
            ("read=last, other=x", "first or roundrobin"),
            ("quorum=1", "needs the parameter 'other'"),
        ] {
            let text = format!("mirror({parameters}) | memory");
            let error = options.clone().open_stack(&text).await.unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    });
}

/// Both members' disks fail now and then, and several tasks write: what is read is what was written, and
/// those that are in are the same in the end.
#[test]
fn in_a_simulation_with_faults() {
    for seed in 0..20 {
        let plan = FaultPlan { io_errors: 0.02, ..FaultPlan::rough() };
        let ((), report) = Simulation::new(seed).run(async move {
            let mirror = Mirror::of([Side::path("/tmp/b"), Side::path("/tmp/c")]);
            let mirror = mirror.policy(Policy::RoundRobin);
            let handle = mirror.handle();
            let options = OpenOptions::new().read(true).write(true).create(true);
            let options = options.filter(mirror.into_driver());
            let file = Arc::new(options.open("/tmp/a").await.unwrap());
            file.write_all_at(vec![0; 60_000], 0).await.unwrap();
            set_faults(plan);
            let tasks: Vec<_> = (0..3u64)
                .map(|task| {
                    let (file, handle) = (file.clone(), handle.clone());
                    overlapped::spawn_local(async move {
                        let mut random = Random(seed * 3 + task);
                        let mut last = [Some(0u8); 20];
                        for _ in 0..60 {
                            let run = random.below(20) as usize;
                            let at = (run as u64 * 3 + task) * 1000;
                            let byte = random.below(256) as u8;
                            match random.below(3) {
                                0 => {
                                    let done = file.write_all_at(vec![byte; 1000], at).await;
                                    last[run] = done.is_ok().then_some(byte);
                                }
                                1 => {
                                    let read = file.read_exact_at(vec![0; 1000], at).await;
                                    if let (Ok(((), bytes)), Some(byte)) = (read, last[run]) {
                                        assert_eq!(bytes, [byte; 1000], "seed {seed}");
                                    }
                                }
                                _ => {
                                    for member in 0..3 {
                                        _ = handle.resync(file.object(), member).await;
                                    }
                                }
                            }
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            set_faults(FaultPlan::none());
            for member in 0..3 {
                _ = handle.resync(file.object(), member).await;
            }
            assert!(handle.members().iter().all(|member| member.state == In));
            Arc::into_inner(file).unwrap().close().await.unwrap();
            let a = overlapped::fs::read("/tmp/a").await.unwrap();
            for other in ["/tmp/b", "/tmp/c"] {
                assert!(overlapped::fs::read(other).await.unwrap() == a, "seed {seed}, {other}");
            }
        });
        assert_eq!(report.left.requests, 0, "{}", report.left);
    }
}

#[test]
fn it_conforms() {
    for text in ["mirror(other=\"memory()\")", "mirror(other=\"memory()\", read=roundrobin)"] {
        // Each time another one beside it.
        let make = || Ok(text.parse::<Text>()?.build()?.filters);
        file_filters(make, 11).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}
