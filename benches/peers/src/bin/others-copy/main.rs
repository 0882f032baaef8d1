//! Copying a file on other runtimes with a ring a thread, in chunks of the same size.
//!
//! `others-copy --runtime monoio|compio|glommio --from A --to B`

mod compio_copy;
mod glommio_copy;
mod monoio_copy;

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
    let copy: fn(&Options) -> io::Result<()> = match options.runtime.as_str() {
        "monoio" => monoio_copy::copy,
        "compio" => compio_copy::copy,
        "glommio" => glommio_copy::copy,
        other => {
            eprintln!("--runtime: monoio, compio or glommio, not '{other}'");
            std::process::exit(2);
        }
    };
    copying::run(&options, copy)
}
