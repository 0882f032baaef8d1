//! Plain system calls, one after another.

use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use overlapped_benches::file::{Blocks, Clock, Options, Tally, fill, is_good};
use overlapped_benches::memory::Buffer;

/// Runs for the time asked for.
pub fn run(options: &Options) -> io::Result<Tally> {
    let (file, mut tally) = (options.open()?, Tally::default());
    let mut buffer = Buffer::new(options.block);
    let mut blocks = Blocks::new(options, 0);
    let clock = Clock::new(options.seconds);
    let mut now = Instant::now();
    while now < clock.end {
        let number = blocks.step();
        let result = if options.write {
            fill(&mut buffer, number);
            file.write_at(&buffer, options.offset(number))
        } else {
            file.read_at(&mut buffer, options.offset(number))
        };
        let done = Instant::now();
        tally.count(clock, is_good(options, result.ok(), &buffer, number), now, done);
        now = done;
    }
    Ok(tally)
}
