//! `mirror`: a disk breaks, and nobody notices; it is replaced, and is as the other one again.
//!
//! `cargo run --example filter-mirror`

use std::io;
use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::mirror::{Mirror, State};
use overlapped::driver::filter::{Fault, Kind, Rule, Side};
use overlapped::driver::text::Bottom;
use overlapped::driver::{Driver, Filter};
use overlapped::fs::OpenOptions;

#[overlapped::main]
async fn main() -> io::Result<()> {
    let [one, two]: [Arc<dyn Driver>; 2] = [Arc::new(Memory::new()), Arc::new(Memory::new())];
    // Every read and write fails while it is broken.
    let broken = Fault::new(0, [Rule::new(Kind::Error(Status::IO_DEVICE_ERROR))]);
    broken.pause(true);
    let mirror = Mirror::of([Side::stack([], Bottom::Driver(two))]);
    let state = mirror.handle();
    let options = OpenOptions::new().read(true).write(true);
    let file = options.clone().filter(mirror.into_driver()).filter(broken.clone().into_driver());
    let file = file.on(one.clone()).open("disk").await?;

    file.write_all_at("before", 0).await?;
    broken.pause(false);
    file.write_all_at("during", 6).await?;
    let (_, read) = file.read_at(vec![0; 12], 0).await?;
    println!("{}: {:?}", String::from_utf8_lossy(&read), state.members()[0].status);
    assert_eq!(read, b"beforeduring");
    assert_eq!(state.members()[0].state, State::Out);

    broken.pause(true);
    state.resync(file.object(), 0).await?;
    assert!(state.members().iter().all(|member| member.state == State::In));
    let alone = options.on(one).open("disk").await?;
    assert_eq!(alone.read_at(vec![0; 12], 0).await?.1, b"beforeduring");
    file.close().await
}
