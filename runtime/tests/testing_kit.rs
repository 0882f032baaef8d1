//! The drivers of the test kit: scripts, logs, and failures one by one.

mod support;

use std::sync::Arc;
use std::time::Duration;

use overlapped::Status;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::Xor;
use overlapped::driver::testing::{
    Answer, Gate, Log, Record, Script, Stream, Verifier, each_failure,
};
use overlapped::driver::{Driver, Filter, Io, Major, MajorSet, Next};
use overlapped::fs::{File, OpenOptions};
use overlapped::net::{UnixStream, stack_of};
use overlapped::sim::Simulation;
use support::{both, poll_once, status, until};

async fn open(bottom: Arc<dyn Driver>, filters: Vec<Arc<dyn Driver>>) -> std::io::Result<File> {
    let mut options = OpenOptions::new().read(true).write(true).on(bottom);
    for filter in filters {
        options = options.filter(filter);
    }
    options.open("a name").await
}

#[test]
fn a_script_says_what_was_written_down() {
    both(async |_| {
        let script = Script::file();
        script
            .answer(Major::Read, Answer::bytes("hello"))
            .answer(Major::Read, Answer::bytes("later").pending(3))
            .answer(Major::Read, Answer::status(Status::DATA_ERROR))
            .answer(Major::Write, Answer::count(2))
            .answer(Major::Flush, Answer::status(Status::IO_TIMEOUT));
        let file = open(script.driver(), Vec::new()).await.unwrap();
        let at_once = poll_once(&mut file.read_at(Vec::with_capacity(9), 7));
        assert!(at_once.is_ready(), "it is there at once (I-27)");
        let mut second = file.read_at(Vec::with_capacity(3), 8);
        assert!(poll_once(&mut second).is_pending(), "it pends (I-14)");
        assert_eq!(second.await.unwrap().1, b"lat");
        assert_eq!(status(file.read_at(vec![0; 5], 0).await), Status::DATA_ERROR);
        assert_eq!(file.write_at("abc", 1).await.unwrap().0, 2);
        assert_eq!(status(file.sync_all().await), Status::IO_TIMEOUT);
        // There are no answers left.
        assert_eq!(script.left(), 0);
        assert_eq!(file.read_at(vec![0; 5], 0).await.unwrap().0, 0);
        assert_eq!(file.write_at("abc", 1).await.unwrap().0, 3);
        file.sync_all().await.unwrap();

        let asked = script.log().take();
        let of = |record: &Record| (record.major, record.offset, record.len, record.result);
        assert_eq!(of(&asked[0]), (Major::Read, Some(7), 9, Some((Status::SUCCESS, 5))));
        assert_eq!(asked[0].data, b"hello");
        assert_eq!(of(&asked[1]), (Major::Read, Some(8), 3, Some((Status::SUCCESS, 3))));
        assert_eq!(of(&asked[3]), (Major::Write, Some(1), 3, Some((Status::SUCCESS, 2))));
        assert_eq!(asked[3].data, b"abc");
        assert_eq!(asked.len(), 8);
        file.close().await.unwrap();
    });
}

#[test]
fn a_script_answers_when_it_is_told_or_never() {
    both(async |_| {
        let (script, gate) = (Script::file(), Gate::new());
        script
            .answer(Major::Read, Answer::bytes("told").when(&gate))
            .answer(Major::Read, Answer::never())
            .answer(Major::Read, Answer::bytes("next"));
        let file = open(script.driver(), Vec::new()).await.unwrap();
        let mut told = file.read_at(Vec::with_capacity(9), 0);
        assert!(poll_once(&mut told).is_pending());
        assert_eq!(gate.waiting(), 1);
        let mut never = file.read_at(Vec::with_capacity(9), 1);
        assert!(poll_once(&mut never).is_pending());
        // From another thread.
        std::thread::spawn(move || gate.open());
        assert_eq!(told.await.unwrap().1, b"told");
        drop(never);
        until(|| script.left() == 2).await;
        assert_eq!(script.log().records()[1].result, Some((Status::CANCELLED, 0)));
        // The answer of what was cancelled is the next one's.
        let mut never = file.read_at(Vec::with_capacity(9), 1);
        assert!(poll_once(&mut never).is_pending());
        assert_eq!(file.read_at(Vec::with_capacity(9), 1).await.unwrap().1, b"next");
        drop(never);
        file.close().await.unwrap();
    });
}

#[test]
fn a_scripted_stream_loses_nothing() {
    both(async |_| {
        let (script, gate) = (Script::stream(), Gate::new());
        let stream = Stream::on(script.driver(), [Arc::new(Xor(1)) as _]).unwrap();
        let plain = |text: &str| text.bytes().map(|byte| byte ^ 1).collect::<Vec<u8>>();
        script
            .answer(Major::Read, Answer::bytes(plain("first")).when(&gate))
            .answer(Major::Read, Answer::bytes(plain("second")))
            .answer(Major::Read, Answer::bytes(plain("third")));
        let mut dropped = stream.read(Vec::with_capacity(9));
        assert!(poll_once(&mut dropped).is_pending());
        let mut waits = stream.read(Vec::with_capacity(3));
        assert!(poll_once(&mut waits).is_pending(), "one read at a time has the stream");
        drop(dropped);
        gate.open();
        assert_eq!(waits.await.unwrap().1, b"fir");
        assert_eq!(stream.peek(Vec::with_capacity(9)).await.unwrap().1, b"st");
        assert_eq!(&stream.read_lease().await.unwrap()[..], b"st");
        let parts = vec![Vec::with_capacity(2), Vec::with_capacity(9)];
        let parts = stream.read_vectored(parts).await.unwrap().1;
        assert_eq!(parts, [b"se".to_vec(), b"cond".to_vec()]);
        // It is there, and nobody takes it: it is kept above, and not transformed once more.
        let late = stream.read(Vec::with_capacity(9)).start().map_err(drop).unwrap();
        until(|| late.is_done()).await;
        drop(late);
        assert_eq!(stream.read(Vec::with_capacity(9)).await.unwrap().1, b"third");
        assert_eq!(stream.read(Vec::with_capacity(9)).await.unwrap().0, 0);
        stream.close().await.unwrap();
    });
}

#[test]
fn a_log_has_what_passes_with_its_results() {
    both(async |_| {
        let (above, below) = (Log::new(), Log::new());
        let filters = [above.driver(), Arc::new(Xor(1)), below.driver()];
        let file = open(Arc::new(Memory::new()), filters.into()).await.unwrap();
        file.write_vectored_at(vec!["ab", "c"], 5).await.unwrap();
        file.read_at(Vec::with_capacity(9), 4).await.unwrap();
        file.sync_data().await.unwrap();
        let data = |log: &Log, major| log.of(major)[0].data.clone();
        assert_eq!(data(&above, Major::Write), b"abc");
        assert_eq!(data(&below, Major::Write), b"`cb");
        assert_eq!(data(&below, Major::Read), b"\0`cb");
        assert_eq!(data(&above, Major::Read), b"\x01abc");
        let majors: Vec<_> = below.take().iter().map(|record| record.major).collect();
        assert_eq!(majors, [Major::Create, Major::Write, Major::Read, Major::Flush]);
        let read = &above.of(Major::Read)[0];
        assert_eq!(read.to_string(), "Read of 9 at 4: SUCCESS (success 0x00000000), 4");
        assert_eq!((read.offset, read.len, read.result), (Some(4), 9, Some((Status::SUCCESS, 4))));
        file.close().await.unwrap();
        let last = below.records();
        assert_eq!(last.last().map(|record| record.major), Some(Major::Close));
    });
}

#[test]
fn a_log_sees_what_a_socket_brings() {
    both(async |_| {
        let log = Log::new();
        let (plain, here) = std::os::unix::net::UnixStream::pair().unwrap();
        let stack = stack_of([log.driver()]).unwrap();
        let here = UnixStream::from_std_with(here, stack).unwrap();
        let mut dropped = here.read(Vec::with_capacity(9));
        assert!(poll_once(&mut dropped).is_pending());
        assert_eq!(log.records()[0].to_string(), "Read of 9: in flight");
        drop(dropped);
        std::io::Write::write_all(&mut &plain, b"hello").unwrap();
        assert_eq!(&here.read_lease().await.unwrap()[..], b"hello");
        let records = log.of(Major::Read);
        assert_eq!(records[0].result, Some((Status::CANCELLED, 0)));
        assert_eq!((&records[1].data[..], records[1].offset), (&b"hello"[..], None));
    });
}

#[test]
fn the_drivers_run_in_simulations() {
    let ((), report) = Simulation::new(7).run(async {
        let (script, gate, verifier) = (Script::stream(), Gate::new(), Verifier::new());
        script.answer(Major::Read, Answer::bytes("hello").pending(3).when(&gate));
        let stream = Stream::on(script.driver(), verifier.around([Log::new().driver()])).unwrap();
        let limit = Duration::from_secs(3600);
        let late = stream.read(vec![0; 9]).deadline(limit).await;
        assert_eq!(status(late), Status::IO_TIMEOUT);
        gate.open();
        assert_eq!(stream.read(Vec::with_capacity(9)).await.unwrap().1, b"hello");
        stream.close().await.unwrap();
        assert_eq!(verifier.findings(), []);
    });
    assert!(report.virtual_time >= Duration::from_secs(3600));
    assert!(report.left.is_nothing(), "{}", report.left);
}

/// Copies every write to a second place, `careless` of whether that worked.
struct Twice {
    careless: bool,
}

impl Filter for Twice {
    type Open = ();
    fn name(&self) -> &str {
        "twice"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write])
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let (at, len) = (io.offset(), io.len());
        let second = next.forward(&mut io).at(at + 1000, len as u32).await;
        if !self.careless {
            second?;
        }
        next.forward(&mut io).await
    }
}

/// Opens, writes, closes; whether that worked, and whether both places have the bytes then.
async fn run(failing: Arc<dyn Driver>, careless: bool) -> (bool, bool) {
    let memory = Arc::new(Memory::new());
    let worked = async {
        let filters = vec![Twice { careless }.into_driver(), failing];
        let file = open(memory.clone(), filters).await?;
        file.write_all_at("abc", 0).await?;
        file.close().await
    };
    let worked = worked.await.is_ok();
    let plain = open(memory, Vec::new()).await.expect("it does not fail");
    let mut there = true;
    for at in [0, 1000] {
        let read = plain.read_at(Vec::with_capacity(3), at).await.expect("it does not fail");
        there &= read.1 == b"abc";
    }
    (worked, there)
}

#[test]
fn each_request_fails_once() {
    for backend in support::backends() {
        for careless in [false, true] {
            let mut ran = Vec::new();
            let failed = each_failure(Status::DATA_ERROR, |failing| {
                ran.push(support::local(backend).block_on(run(failing, careless)));
            });
            let majors: Vec<_> = failed.iter().map(|record| record.major).collect();
            assert_eq!(majors, [Major::Create, Major::Write, Major::Write, Major::Close]);
            let (no, yes) = ((false, false), (true, true));
            // The second write of a write that has failed is not made; a close that fails has closed.
            let second = if careless { (true, false) } else { no };
            assert_eq!(ran, [no, second, no, (false, true), yes]);
        }
    }
}
