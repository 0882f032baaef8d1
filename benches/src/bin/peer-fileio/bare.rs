//! A bare loop: as many operations in flight as asked for, each lane with its own buffer.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use io_uring::{opcode, squeue, types};
use overlapped_benches::file::{Blocks, Clock, Options, Tally, fill, is_good};
use overlapped_benches::memory::{ALIGNMENT, Buffer};
use overlapped_benches::ring::Ring;

struct Lane {
    blocks: Blocks,
    number: u64,
    begun: Instant,
    buffer: Buffer,
}

/// Runs for the time asked for; with file and buffers registered if `fixed`.
pub fn run(options: &Options, fixed: bool) -> io::Result<Tally> {
    let (file, mut tally) = (options.open()?, Tally::default());
    let mut ring = Ring::new(256.max(options.depth as u32))?;
    let fd = file.as_raw_fd();
    let size = options.block.next_multiple_of(ALIGNMENT);
    let lane = |i| Lane {
        blocks: Blocks::new(options, i),
        number: 0,
        begun: Instant::now(),
        buffer: Buffer::new(size),
    };
    // Never freed: after an error, the others may still be written to.
    let lanes = (0..options.depth).map(lane).collect::<Vec<Lane>>().leak();
    if fixed {
        let part =
            |l: &mut Lane| libc::iovec { iov_base: l.buffer.as_mut_ptr().cast(), iov_len: size };
        let parts: Vec<libc::iovec> = lanes.iter_mut().map(part).collect();
        ring.submitter().register_files(&[fd])?;
        // SAFETY: the lanes are never freed.
        unsafe { ring.submitter().register_buffers(&parts)? };
    }
    let clock = Clock::new(options.seconds);
    for (i, lane) in lanes.iter_mut().enumerate() {
        lane.begun = Instant::now();
        let entry = lane.next(options, fd, fixed.then_some(i as u16));
        // SAFETY: the lane has this operation alone, and is never freed.
        unsafe { ring.push(&entry.user_data(i as u64))? };
    }
    let mut live = options.depth;
    let mut batch = Vec::with_capacity(options.depth);
    while live > 0 {
        ring.turn(true, &mut batch)?;
        for done in &batch {
            let lane = &mut lanes[done.data as usize];
            let now = Instant::now();
            let result = usize::try_from(done.result).ok();
            let is_good = is_good(options, result, &lane.buffer[..options.block], lane.number);
            tally.count(clock, is_good, lane.begun, now);
            if now >= clock.end {
                live -= 1;
                continue;
            }
            lane.begun = now;
            let entry = lane.next(options, fd, fixed.then_some(done.data as u16));
            // SAFETY: as above.
            unsafe { ring.push(&entry.user_data(done.data))? };
        }
    }
    Ok(tally)
}

impl Lane {
    /// The next operation of this lane.
    fn next(&mut self, options: &Options, fd: i32, fixed: Option<u16>) -> squeue::Entry {
        self.number = self.blocks.step();
        let (offset, len) = (options.offset(self.number), options.block as u32);
        if options.write {
            fill(&mut self.buffer[..options.block], self.number);
        }
        let (start, plain) = (self.buffer.as_mut_ptr(), types::Fd(fd));
        match (options.write, fixed) {
            (false, None) => opcode::Read::new(plain, start, len).offset(offset).build(),
            (true, None) => opcode::Write::new(plain, start, len).offset(offset).build(),
            (false, Some(i)) => {
                opcode::ReadFixed::new(types::Fixed(0), start, len, i).offset(offset).build()
            }
            (true, Some(i)) => {
                opcode::WriteFixed::new(types::Fixed(0), start, len, i).offset(offset).build()
            }
        }
    }
}
