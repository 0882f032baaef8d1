//! Files on compio: positional reads and writes of one file, a task and an aligned buffer a lane.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::time::Instant;

use compio::BufResult;
use compio::buf::{IoBuf, IoBufMut, SetLen};
use compio::fs::{File, OpenOptions};
use compio::io::{AsyncReadAt, AsyncWriteAt};
use overlapped_benches::file::{Blocks, Clock, Options, Tally, fill, is_good};
use overlapped_benches::memory::Buffer;

/// A buffer that is all contents, as compio asks for it.
struct Aligned(Buffer);

impl IoBuf for Aligned {
    fn as_init(&self) -> &[u8] {
        &self.0
    }
}

impl SetLen for Aligned {
    unsafe fn set_len(&mut self, _: usize) {}
}

impl IoBufMut for Aligned {
    fn as_uninit(&mut self) -> &mut [MaybeUninit<u8>] {
        let memory: &mut [u8] = &mut self.0;
        // SAFETY: the same memory; compio puts nothing uninitialised into it.
        unsafe { &mut *(std::ptr::from_mut(memory) as *mut [MaybeUninit<u8>]) }
    }
}

/// Runs for the time asked for, with a task for each operation in flight.
pub fn run(options: &Options) -> io::Result<Tally> {
    let options = Rc::new(options.clone());
    let tally = Rc::new(RefCell::new(Tally::default()));
    overlapped_bench_peers::compio()?.block_on(async {
        let mut how = OpenOptions::new();
        how.read(true).write(options.write).custom_flags(options.flags());
        let file = how.open(&options.path).await?;
        let clock = Clock::new(options.seconds);
        let spawn = |i| {
            let lane = lane(options.clone(), i, clock, file.clone(), tally.clone());
            compio::runtime::spawn(lane)
        };
        let lanes: Vec<_> = (0..options.depth).map(spawn).collect();
        for lane in lanes {
            lane.await.map_err(|_| io::Error::other("a lane has panicked"))?;
        }
        io::Result::Ok(())
    })?;
    Ok(Rc::into_inner(tally).expect("all lanes have ended").into_inner())
}

async fn lane(
    options: Rc<Options>,
    lane: usize,
    clock: Clock,
    mut file: File,
    tally: Rc<RefCell<Tally>>,
) {
    let mut blocks = Blocks::new(&options, lane);
    let mut buffer = Aligned(Buffer::new(options.block));
    let mut now = Instant::now();
    while now < clock.end {
        let number = blocks.step();
        let offset = options.offset(number);
        let result;
        BufResult(result, buffer) = if options.write {
            fill(&mut buffer.0, number);
            file.write_at(buffer, offset).await
        } else {
            file.read_at(buffer, offset).await
        };
        let done = Instant::now();
        let is_good = is_good(&options, result.ok(), &buffer.0, number);
        tally.borrow_mut().count(clock, is_good, now, done);
        now = done;
    }
}
