//! The echo servers on other runtimes with a ring a thread.
//!
//! `others-echo --runtime monoio|compio|glommio --listen ADDR [--buf BYTES]`
//!
//! The command line, the first and the last line are those of our example `echo`; ADDR may also be
//! `unix:PATH`.

mod compio_echo;
mod glommio_echo;
mod monoio_echo;

use std::io;
use std::sync::Arc;

use overlapped_benches::cpu::raise_descriptor_limit;
use overlapped_benches::server::{Options, Totals, end_at, stop_signal};
use overlapped_examples::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of a connection's buffer, as in our own server.
const OWNED: usize = 64 << 10;

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let run = match options.runtime.as_str() {
        "monoio" => monoio_echo::run,
        "compio" => compio_echo::run,
        "glommio" => glommio_echo::run,
        other => {
            eprintln!("--runtime: monoio, compio or glommio, not '{other}'");
            std::process::exit(2);
        }
    };
    raise_descriptor_limit();
    let stop = stop_signal()?;
    let listener = options.bind()?;
    let totals = Arc::new(Totals::default());
    end_at(stop, totals.clone())?;
    run(listener, &totals, options.buffer.unwrap_or(OWNED))
}
