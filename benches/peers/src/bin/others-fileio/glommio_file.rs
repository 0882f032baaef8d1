//! Files on glommio: positional reads and writes of one file, a task a lane. The buffers are the
//! runtime's own: for direct I/O from its registered memory.

use std::cell::RefCell;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::time::Instant;

use glommio::io::{BufferedFile, DmaFile, OpenOptions};
use overlapped_benches::file::{Blocks, Clock, Options, Tally, fill, is_good};

/// Its two kinds of files.
enum File {
    Cached(BufferedFile),
    Direct(DmaFile),
}

/// Runs for the time asked for, with a task for each operation in flight.
pub fn run(options: &Options) -> io::Result<Tally> {
    let options = Rc::new(options.clone());
    let tally = Rc::new(RefCell::new(Tally::default()));
    overlapped_bench_peers::glommio()?.run(async {
        let file = Rc::new(if options.direct {
            let mut how = OpenOptions::new();
            File::Direct(how.read(true).write(options.write).dma_open(&options.path).await?)
        } else {
            // SAFETY: the descriptor is a file's, which gives it away here.
            File::Cached(unsafe { BufferedFile::from_raw_fd(options.open()?.into_raw_fd()) })
        });
        let clock = Clock::new(options.seconds);
        let spawn =
            |i| glommio::spawn_local(lane(options.clone(), i, clock, file.clone(), tally.clone()));
        let lanes: Vec<_> = (0..options.depth).map(spawn).collect();
        for lane in lanes {
            lane.await;
        }
        let file = Rc::into_inner(file).expect("all lanes have ended");
        match file {
            File::Cached(file) => file.close().await?,
            File::Direct(file) => file.close().await?,
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
    let mut now = Instant::now();
    while now < clock.end {
        let number = blocks.step();
        let is_good = match options.write {
            true => write(&options, &file, number).await,
            false => read(&options, &file, number).await,
        };
        let done = Instant::now();
        tally.borrow_mut().count(clock, is_good, now, done);
        now = done;
    }
}

async fn read(options: &Options, file: &File, number: u64) -> bool {
    let (offset, len) = (options.offset(number), options.block);
    let result = match file {
        File::Cached(file) => file.read_at(offset, len).await,
        File::Direct(file) => file.read_at_aligned(offset, len).await,
    };
    result.is_ok_and(|block| is_good(options, Some(block.len()), &block, number))
}

/// A write consumes its buffer.
async fn write(options: &Options, file: &File, number: u64) -> bool {
    let (offset, len) = (options.offset(number), options.block);
    let result = match file {
        File::Cached(file) => {
            let mut buffer = vec![0; len];
            fill(&mut buffer, number);
            file.write_at(buffer, offset).await
        }
        File::Direct(file) => {
            let mut buffer = file.alloc_dma_buffer(len);
            fill(buffer.as_bytes_mut(), number);
            file.write_at(buffer, offset).await
        }
    };
    is_good(options, result.ok(), &[], number)
}
