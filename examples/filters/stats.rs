//! `stats`: how does a program use its disk? It appends records one by one: many small, unaligned writes.
//!
//! `cargo run --example filter-stats`

use std::io;
use std::sync::Arc;

use overlapped::driver::Major;
use overlapped::driver::filter::Stats;
use overlapped::fs::OpenOptions;

#[overlapped::main]
async fn main() -> io::Result<()> {
    let stats = Arc::new(Stats::new());
    let options = OpenOptions::new().read(true).write(true).filter(stats.clone());
    let log = options.open_stack("memory").await?;
    for n in 0..100 {
        log.write_all_at(vec![n; 100], u64::from(n) * 100).await?;
        if n % 10 == 9 {
            log.sync_data().await?;
        }
    }

    let seen = stats.snapshot();
    println!("{seen}");
    let (writes, flushes) = (seen.of(Major::Write).unwrap(), seen.of(Major::Flush).unwrap());
    assert_eq!((writes.count, writes.bytes, flushes.count), (100, 10_000, 10));
    // All of 64 to 127 bytes; and few at a multiple of 512.
    assert_eq!((writes.shapes.len(), writes.shapes[0].bits), (1, Some(6)));
    let aligned = writes.shapes[0].aligned.iter().filter(|aligned| aligned.bits >= 9);
    assert!(aligned.map(|aligned| aligned.requests).sum::<u64>() < 5);
    log.close().await
}
