//! `cache`: a thousand small writes become a few large ones, and reads do not reach the disk at all.
//!
//! `cargo run --example filter-cache`

use std::io;
use std::sync::Arc;

use overlapped::driver::filter::Stats;
use overlapped::driver::filter::cache::{Cache, Mode, Settings};
use overlapped::driver::{Filter, Major};
use overlapped::fs::OpenOptions;

#[overlapped::main]
async fn main() -> io::Result<()> {
    let settings = Settings { mode: Mode::WriteBack, ..Settings::default() };
    let cache = Cache::new(settings).expect("they go together").into_driver();
    // What reaches the disk.
    let stats = Arc::new(Stats::new());
    let below = |major| stats.snapshot().of(major).map_or(0, |seen| seen.count);
    let options = OpenOptions::new().read(true).write(true).filter(cache).filter(stats.clone());
    let file = options.open_stack("memory(size=1M)").await?;

    for n in 0..1000 {
        file.write_all_at(vec![n as u8; 100], n * 100).await?;
    }
    let before = below(Major::Write);
    file.sync_data().await?;
    let reads = below(Major::Read);
    for n in 0..1000 {
        assert_eq!(file.read_at(vec![0; 100], n * 100).await?.1, [n as u8; 100]);
    }
    let (writes, later) = (below(Major::Write), below(Major::Read));
    println!("{before} writes before the flush, {writes} with it; {} reads later", later - reads);
    assert_eq!((before, later), (0, reads));
    assert!(writes < 10);
    file.close().await
}
