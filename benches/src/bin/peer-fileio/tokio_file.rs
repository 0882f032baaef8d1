//! Files on tokio: `tokio::fs` with a handle a task, or positional calls on the blocking pool.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use overlapped_benches::file::{Blocks, Clock, Options, Tally, fill, is_good};
use overlapped_benches::memory::Buffer;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

/// Runs for the time asked for, with a task for each operation in flight.
pub fn run(options: &Options, whole_file: bool) -> io::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    runtime.block_on(async {
        let file = Arc::new(options.open()?);
        let clock = Clock::new(options.seconds);
        let mut lanes = Vec::new();
        for i in 0..options.depth {
            let options = Arc::new(options.clone());
            let way = if whole_file {
                let mut own = tokio::fs::File::from_std(options.open()?);
                own.set_max_buf_size(options.block);
                Way::Own(own)
            } else {
                Way::Pool(file.clone())
            };
            lanes.push(tokio::spawn(lane(options, i, clock, way, tally.clone())));
        }
        for lane in lanes {
            lane.await?;
        }
        io::Result::Ok(())
    })?;
    drop(runtime);
    let tally = Arc::into_inner(tally).expect("all lanes have ended");
    Ok(tally.into_inner().expect("no lane has panicked"))
}

/// How a lane gets at the file.
enum Way {
    /// Its own handle of `tokio::fs`.
    Own(tokio::fs::File),
    /// The one descriptor, from the blocking pool.
    Pool(Arc<File>),
}

async fn lane(
    options: Arc<Options>,
    lane: usize,
    clock: Clock,
    mut way: Way,
    tally: Arc<Mutex<Tally>>,
) {
    let mut blocks = Blocks::new(&options, lane);
    let mut buffer = Buffer::new(options.block);
    let mut now = Instant::now();
    while now < clock.end {
        let number = blocks.step();
        let offset = options.offset(number);
        if options.write {
            fill(&mut buffer, number);
        }
        let result = match &mut way {
            Way::Own(file) => own(file, &mut buffer, offset, options.write).await,
            Way::Pool(file) => {
                let result;
                (result, buffer) = pool(file.clone(), buffer, offset, options.write).await;
                result
            }
        };
        let done = Instant::now();
        let is_good = is_good(&options, result.ok(), &buffer, number);
        tally.lock().expect("no lane has panicked").count(clock, is_good, now, done);
        now = done;
    }
}

async fn own(
    file: &mut tokio::fs::File,
    buffer: &mut [u8],
    offset: u64,
    write: bool,
) -> io::Result<usize> {
    file.seek(io::SeekFrom::Start(offset)).await?;
    if write {
        file.write_all(buffer).await?;
        // Waits for the write, which goes on behind.
        file.flush().await?;
        return Ok(buffer.len());
    }
    file.read_exact(buffer).await
}

async fn pool(
    file: Arc<File>,
    mut buffer: Buffer,
    offset: u64,
    write: bool,
) -> (io::Result<usize>, Buffer) {
    let call = move || {
        let result =
            if write { file.write_at(&buffer, offset) } else { file.read_at(&mut buffer, offset) };
        (result, buffer)
    };
    tokio::task::spawn_blocking(call).await.expect("the call does not panic")
}
