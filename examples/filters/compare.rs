//! `compare`: does a new stack do what the old one does? A filter with a bug in it is found by its first
//! wrong byte.
//!
//! `cargo run --example filter-compare`

use std::io;

use overlapped::driver::Filter;
use overlapped::driver::filter::Side;
use overlapped::driver::filter::compare::{Compare, Difference};
use overlapped::fs::OpenOptions;

/// The first difference between plain memory and a stack that is to be tried.
async fn first_difference(tried: &str) -> io::Result<Option<Difference>> {
    let compare = Compare::with(Side::text(tried).map_err(io::Error::other)?).report_only();
    let differences = compare.differences();
    let options = OpenOptions::new().read(true).write(true).filter(compare.into_driver());
    let file = options.open_stack("memory").await?;
    for n in 0..100 {
        file.write_all_at(vec![n as u8; 100], n * 100).await?;
    }
    for n in 0..100 {
        file.read_at(vec![0; 100], n * 100).await?;
    }
    file.close().await?;
    Ok(differences.first())
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    assert!(first_difference("cache(size=64K, mode=writeback) | memory").await?.is_none());
    // It changes a bit of the 43rd write.
    let bug = "fault(kind=corrupt, op=write, after=42, once=yes) | memory";
    let found = first_difference(bug).await?.expect("a difference");
    println!("{found:?}");
    assert_eq!(found.offset / 100, 42);
    Ok(())
}
