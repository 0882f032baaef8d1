//! The echo servers that are not ours: bare io_uring loops, an epoll loop, and tokio.
//!
//! `peer-echo --runtime raw|raw-oneshot|raw-epoll|tokio|tokio-mt --listen ADDR [--workers N]
//! [--buf BYTES] [--pool N]`
//!
//! ADDR is `HOST:PORT`; tokio also serves `udp:HOST:PORT` and `unix:PATH`.
//!
//! The command line, the first and the last line are those of our example `echo`.

mod epoll;
mod oneshot;
mod pooled;
mod tokio_echo;

use std::io;

use overlapped_benches::cpu::raise_descriptor_limit;
use overlapped_benches::server::{Options, Totals, stop_signal};
use overlapped_examples::Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes of a buffer that belongs to a connection, as in our own server.
const OWNED: usize = 64 << 10;

/// Bytes of a buffer of a pool.
const POOLED: usize = 64 << 10;

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    raise_descriptor_limit();
    let stop = stop_signal()?;
    let listener = options.bind()?;
    let totals = std::sync::Arc::new(Totals::default());
    let owned = options.buffer.unwrap_or(OWNED);
    match options.runtime.as_str() {
        "raw" => {
            let size = options.buffer.unwrap_or(POOLED);
            pooled::run(listener.tcp()?, &stop, &totals, options.pool, size)?;
        }
        "raw-oneshot" => oneshot::run(listener.tcp()?, &stop, &totals, owned)?,
        "raw-epoll" => epoll::run(listener.tcp()?, &stop, &totals, owned)?,
        "tokio" => {
            let builder = tokio::runtime::Builder::new_current_thread();
            tokio_echo::run(builder, listener, stop, &totals, owned)?;
        }
        "tokio-mt" => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(options.workers);
            tokio_echo::run(builder, listener, stop, &totals, owned)?;
        }
        other => {
            eprintln!("--runtime: raw, raw-oneshot, raw-epoll, tokio or tokio-mt, not '{other}'");
            std::process::exit(2);
        }
    }
    totals.print();
    Ok(())
}
