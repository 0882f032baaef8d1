//! On monoio.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use monoio::fs::File;
use overlapped_benches::copying::{CHUNK, DEPTH, Options};

/// Copies.
pub fn copy(options: &Options) -> io::Result<()> {
    overlapped_bench_peers::monoio()?.block_on(async {
        let from = Rc::new(File::open(&options.from).await?);
        let to = Rc::new(File::create(&options.to).await?);
        let next = Rc::new(Cell::new(0));
        let spawn = |_| monoio::spawn(lane(from.clone(), to.clone(), next.clone()));
        let lanes: Vec<_> = (0..DEPTH).map(spawn).collect();
        for lane in lanes {
            lane.await?;
        }
        Ok(())
    })
}

/// Takes chunk after chunk, until one lies behind the end.
async fn lane(from: Rc<File>, to: Rc<File>, next: Rc<Cell<u64>>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(CHUNK);
    loop {
        let at = next.replace(next.get() + CHUNK as u64);
        let (read, written);
        (read, buffer) = from.read_at(buffer, at).await;
        if read? == 0 {
            return Ok(());
        }
        (written, buffer) = to.write_all_at(buffer, at).await;
        written?;
    }
}
