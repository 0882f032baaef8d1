//! What tasks and timers cost without I/O, on other runtimes with a thread each.
//!
//! `others-tasks --runtime monoio|compio|glommio` and otherwise the options and the line of JSON of
//! `tasks`. The works that need two workers of one runtime are not for these.

mod compio_tasks;
mod glommio_tasks;
mod monoio_tasks;

use std::io;

use overlapped_benches::tasks::Options;

fn main() -> io::Result<()> {
    let options = Options::from_args().unwrap_or_else(|error| usage(&error));
    if options.work.starts_with("wake-workers") {
        usage(&"these runtimes have one worker");
    }
    match options.runtime.as_str() {
        "monoio" => options.run::<monoio_tasks::Monoio>(1),
        "compio" => options.run::<compio_tasks::Compio>(1),
        "glommio" => options.run::<glommio_tasks::Glommio>(1),
        other => usage(&format!("--runtime: monoio, compio or glommio, not '{other}'")),
    }
}

fn usage(error: &dyn std::fmt::Display) -> ! {
    eprintln!("{error}");
    std::process::exit(2);
}
