//! Files on monoio: positional reads and writes of one file, a task and an aligned buffer a lane.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use monoio::buf::{IoBuf, IoBufMut};
use monoio::fs::File;
use overlapped_benches::file::{Blocks, Clock, Options, Tally, fill, is_good};
use overlapped_benches::memory::Buffer;

/// A buffer that is all contents, as monoio asks for it.
struct Aligned(Buffer);

// SAFETY: the memory is on the heap, initialised, and stays where it is while the value moves.
unsafe impl IoBuf for Aligned {
    fn read_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }
    fn bytes_init(&self) -> usize {
        self.0.len()
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Aligned {
    fn write_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
    fn bytes_total(&mut self) -> usize {
        self.0.len()
    }
    unsafe fn set_init(&mut self, _: usize) {}
}

/// Runs for the time asked for, with a task for each operation in flight.
pub fn run(options: &Options) -> io::Result<Tally> {
    let options = Rc::new(options.clone());
    let tally = Rc::new(RefCell::new(Tally::default()));
    overlapped_bench_peers::monoio()?.block_on(async {
        let file = Rc::new(File::from_std(options.open()?)?);
        let clock = Clock::new(options.seconds);
        let spawn = |i| monoio::spawn(lane(options.clone(), i, clock, file.clone(), tally.clone()));
        let lanes: Vec<_> = (0..options.depth).map(spawn).collect();
        for lane in lanes {
            lane.await;
        }
        io::Result::Ok(())
    })?;
    Ok(Rc::into_inner(tally).expect("all lanes have ended").into_inner())
}

async fn lane(
    options: Rc<Options>,
    lane: usize,
    clock: Clock,
    file: Rc<File>,
    tally: Rc<RefCell<Tally>>,
) {
    let mut blocks = Blocks::new(&options, lane);
    let mut buffer = Aligned(Buffer::new(options.block));
    let mut now = Instant::now();
    while now < clock.end {
        let number = blocks.step();
        let offset = options.offset(number);
        let result;
        (result, buffer) = if options.write {
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
