//! Copying a file with `overlapped`.
//!
//! `copy --from A --to B`

use std::io;

use overlapped_benches::copying::{self, Options};
use overlapped_examples::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    copying::run(&options, |options| {
        let runtime = overlapped::Builder::new().build_local()?;
        runtime.block_on(overlapped::fs::copy(&options.from, &options.to)).map(drop)
    })
}
