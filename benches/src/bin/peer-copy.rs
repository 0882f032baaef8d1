//! Copying a file, by others: a bare io_uring loop, plain system calls, and tokio.
//!
//! `peer-copy --runtime raw|raw-inline|plain|tokio-fs --from A --to B`

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use io_uring::{opcode, types};
use overlapped_benches::copying::{self, CHUNK, DEPTH, Options};
use overlapped_benches::memory::Buffer;
use overlapped_benches::ring::Ring;
use overlapped_examples::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let copy: fn(&Options) -> io::Result<()> = match options.runtime.as_str() {
        "raw" => |options| bare(options, false),
        "raw-inline" => |options| bare(options, true),
        "plain" => plain,
        "tokio-fs" => tokio_fs,
        other => {
            eprintln!("--runtime: raw, raw-inline, plain or tokio-fs, not '{other}'");
            std::process::exit(2);
        }
    };
    copying::run(&options, copy)
}

/// A chunk on its way: read into the buffer, then written from it.
struct Lane {
    buffer: Buffer,
    offset: u64,
    len: usize,
    done: usize,
    is_writing: bool,
}

/// Reads and writes on one ring; with `inline`, plain writes as soon as a read is done.
fn bare(options: &Options, inline: bool) -> io::Result<()> {
    let (from, to) = (File::open(&options.from)?, File::create(&options.to)?);
    let size = from.metadata()?.len();
    let mut ring = Ring::new(64)?;
    let lane =
        |_| Lane { buffer: Buffer::new(CHUNK), offset: 0, len: 0, done: 0, is_writing: false };
    // Never freed: after an error, the others may still be written to.
    let lanes = (0..DEPTH).map(lane).collect::<Vec<Lane>>().leak();
    let (mut next, mut live) = (0, 0);
    for (i, lane) in lanes.iter_mut().enumerate() {
        if lane.begin(&mut next, size) {
            lane.push(&mut ring, i, &from, &to)?;
            live += 1;
        }
    }
    let mut batch = Vec::with_capacity(DEPTH);
    while live > 0 {
        ring.turn(true, &mut batch)?;
        for done in &batch {
            if done.result <= 0 {
                let error = io::Error::from_raw_os_error(-done.result);
                return Err(if done.result == 0 { io::ErrorKind::WriteZero.into() } else { error });
            }
            let lane = &mut lanes[done.data as usize];
            lane.done += done.result as usize;
            if lane.done == lane.len && !lane.is_writing {
                (lane.is_writing, lane.done) = (true, 0);
                if inline {
                    to.write_all_at(&lane.buffer[..lane.len], lane.offset)?;
                    lane.done = lane.len;
                }
            }
            if lane.done == lane.len && !lane.begin(&mut next, size) {
                live -= 1;
                continue;
            }
            lane.push(&mut ring, done.data as usize, &from, &to)?;
        }
    }
    Ok(())
}

impl Lane {
    /// Goes on with the next chunk, if there is one.
    fn begin(&mut self, next: &mut u64, size: u64) -> bool {
        (self.offset, self.done, self.is_writing) = (*next, 0, false);
        self.len = (size - *next).min(CHUNK as u64) as usize;
        *next += self.len as u64;
        self.len > 0
    }

    fn push(&mut self, ring: &mut Ring, lane: usize, from: &File, to: &File) -> io::Result<()> {
        let offset = self.offset + self.done as u64;
        let rest = &mut self.buffer[self.done..self.len];
        let (start, len) = (rest.as_mut_ptr(), rest.len() as u32);
        let entry = if self.is_writing {
            opcode::Write::new(types::Fd(to.as_raw_fd()), start, len).offset(offset).build()
        } else {
            opcode::Read::new(types::Fd(from.as_raw_fd()), start, len).offset(offset).build()
        };
        // SAFETY: the buffer stays with the lane, which has this operation alone.
        unsafe { ring.push(&entry.user_data(lane as u64)) }
    }
}

/// One chunk after the other.
fn plain(options: &Options) -> io::Result<()> {
    let (from, to) = (File::open(&options.from)?, File::create(&options.to)?);
    let mut buffer = Buffer::new(CHUNK);
    let mut at = 0;
    loop {
        let n = from.read_at(&mut buffer, at)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..n], at)?;
        at += n as u64;
    }
}

/// `tokio::fs`, chunk by chunk. (`tokio::fs::copy` is one blocking call that copies in the kernel.)
fn tokio_fs(options: &Options) -> io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut from = tokio::fs::File::open(&options.from).await?;
        let mut to = tokio::fs::File::create(&options.to).await?;
        from.set_max_buf_size(CHUNK);
        to.set_max_buf_size(CHUNK);
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = from.read(&mut buffer).await?;
            if n == 0 {
                return to.flush().await;
            }
            to.write_all(&buffer[..n]).await?;
        }
    })
}
