//! `fault`: is what was saved before still there when a save fails? Each of its requests fails once.
//!
//! `cargo run --example filter-fault`

use std::io;
use std::sync::Arc;

use overlapped::Status;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::{Fault, Kind, Rule};
use overlapped::driver::{Filter, Major, MajorSet};
use overlapped::fs::{File, OpenOptions};

/// Writes to the half that is not in use, and then says that it is.
async fn save(file: &File, text: &'static [u8; 8]) -> io::Result<()> {
    let (_, used) = file.read_at(Vec::with_capacity(1), 0).await?;
    let other = u8::from(used.first() != Some(&1));
    file.write_all_at(text, 8 + 8 * u64::from(other)).await?;
    file.sync_data().await?;
    file.write_all_at(vec![other], 0).await?;
    file.sync_data().await
}

async fn load(file: &File) -> io::Result<Vec<u8>> {
    let (_, used) = file.read_at(vec![0], 0).await?;
    Ok(file.read_at(vec![0; 8], 8 + 8 * u64::from(used[0])).await?.1)
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    for nth in 0.. {
        let options = OpenOptions::new().read(true).write(true).on(Arc::new(Memory::new()));
        let good = options.clone().open("disk").await?;
        save(&good, b"the old.").await?;

        let of = MajorSet::of(&[Major::Read, Major::Write, Major::Flush]);
        let rule = Rule::new(Kind::Error(Status::DISK_FULL)).on(of).after(nth).once();
        let fault = Fault::new(0, [rule]);
        let bad = options.filter(fault.clone().into_driver()).open("disk").await?;
        let saved = save(&bad, b"the new.").await;

        let found = load(&good).await?;
        println!("{}: {}", fault.log().trim_end(), String::from_utf8_lossy(&found));
        assert!(found == b"the new." || saved.is_err() && found == b"the old.");
        if fault.count() == 0 {
            assert_eq!(nth, 5, "it has five requests, and all have failed once");
            break;
        }
    }
    Ok(())
}
