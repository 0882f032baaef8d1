//! `record`: money is moved from one account to another; is any lost if the power fails? The disk is looked
//! at as it was after every flush.
//!
//! `cargo run --example filter-record`

use std::io;

use overlapped::driver::Filter;
use overlapped::driver::filter::{Record, Replay};
use overlapped::fs::{File, OpenOptions};

/// Two accounts, a sector each, of which the first bytes are what is in it.
async fn moves(file: &File, careful: bool) -> io::Result<()> {
    file.write_all_at(vec![100; 1024], 0).await?;
    file.sync_data().await?;
    file.write_all_at(vec![70; 512], 0).await?;
    if !careful {
        file.sync_data().await?;
    }
    file.write_all_at(vec![130; 512], 512).await?;
    file.sync_data().await
}

/// How often the sum is wrong.
async fn losses(careful: bool) -> io::Result<u32> {
    let log = std::env::temp_dir().join(format!("filter-record-{}", std::process::id()));
    let options = OpenOptions::new().read(true).write(true);
    let record = options.clone().filter(Record::to(&log).into_driver());
    let file = record.open_stack("memory").await?;
    moves(&file, careful).await?;
    file.close().await?;

    let disk = options.open_stack("memory").await?;
    let (mut replay, mut losses) = (Replay::open(&log).await?, 0);
    while replay.until_flush(disk.object()).await? {
        let (_, bytes) = disk.read_at(vec![0; 1024], 0).await?;
        println!("{} and {}", bytes[0], bytes[512]);
        losses += u32::from(bytes[0] as u32 + bytes[512] as u32 != 200);
    }
    std::fs::remove_file(log)?;
    Ok(losses)
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    assert_eq!(losses(false).await?, 1);
    assert_eq!(losses(true).await?, 0);
    Ok(())
}
