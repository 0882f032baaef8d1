//! `trace`: what does a program ask its file for? Put on while the file is in use, and taken off again.
//!
//! `cargo run --example filter-trace`

use std::io;
use std::sync::Arc;

use overlapped::driver::Place;
use overlapped::driver::filter::Trace;
use overlapped::driver::filter::trace::{Format, Sink};
use overlapped::fs::{File, OpenOptions};

/// A program that knows nothing of this.
async fn work(file: &File) -> io::Result<()> {
    file.write_all_at("hello", 512).await?;
    file.read_at(vec![0; 100], 1000).await?;
    file.sync_all().await
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("filter-trace-{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).open_stack("memory(size=1M)").await?;
    work(&file).await?;

    let sink = Sink::create(Format::Jsonl, &path)?;
    let trace = Arc::new(Trace::new("its file").to(&sink));
    let (attached, change) = file.object().attach(Place::Top, trace)?;
    change.await;
    work(&file).await?;
    file.object().detach(&attached)?.await;

    work(&file).await?;
    let written = overlapped::spawn_blocking(move || sink.finish()).await??.records;
    let lines = overlapped::fs::read(&path).await?;
    print!("{}", String::from_utf8_lossy(&lines));
    assert_eq!(written, 3);
    std::fs::remove_file(path)
}
