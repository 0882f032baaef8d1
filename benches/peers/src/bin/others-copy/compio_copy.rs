//! On compio.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use compio::BufResult;
use compio::fs::File;
use compio::io::{AsyncReadAt, AsyncWriteAtExt};
use overlapped_benches::copying::{CHUNK, DEPTH, Options};

/// Copies.
pub fn copy(options: &Options) -> io::Result<()> {
    overlapped_bench_peers::compio()?.block_on(async {
        let from = File::open(&options.from).await?;
        let to = File::create(&options.to).await?;
        let next = Rc::new(Cell::new(0));
        let spawn = |_| compio::runtime::spawn(lane(from.clone(), to.clone(), next.clone()));
        let lanes: Vec<_> = (0..DEPTH).map(spawn).collect();
        for lane in lanes {
            lane.await.map_err(|_| io::Error::other("a lane has panicked"))??;
        }
        Ok(())
    })
}

/// Takes chunk after chunk, until one lies behind the end.
async fn lane(from: File, mut to: File, next: Rc<Cell<u64>>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        let at = next.replace(next.get() + CHUNK as u64);
        let (read, written);
        // What is in it already counts as content.
        buffer.clear();
        BufResult(read, buffer) = from.read_at(buffer, at).await;
        if read? == 0 {
            return Ok(());
        }
        BufResult(written, buffer) = to.write_all_at(buffer, at).await;
        written?;
    }
}
