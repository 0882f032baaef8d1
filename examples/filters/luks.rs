//! `luks`: a file whose bytes mean nothing to who has no key.
//!
//! `cargo run --example filter-luks`

use std::io::{self, ErrorKind};
use std::sync::Arc;

use overlapped::driver::Filter;
use overlapped::driver::bottom::Memory;
use overlapped::driver::filter::luks::{Format, Luks};
use overlapped::fs::OpenOptions;

#[overlapped::main]
async fn main() -> io::Result<()> {
    let options = OpenOptions::new().read(true).write(true).on(Arc::new(Memory::new()));
    let disk = options.clone().open("disk").await?;
    // Few iterations: this is no secret.
    Luks::format(disk.object(), "the key", &Format::luks2().pbkdf2(1000)).await?;

    let volume = options.clone().filter(Luks::new("the key").into_driver()).open("disk").await?;
    volume.write_all_at("attack at dawn", 5000).await?;
    assert_eq!(volume.read_at(vec![0; 14], 5000).await?.1, b"attack at dawn");
    volume.close().await?;

    let len = disk.metadata().await?.len() as usize;
    let ((), bytes) = disk.read_exact_at(vec![0; len], 0).await?;
    assert!(bytes.starts_with(b"LUKS"));
    assert!(!bytes.windows(14).any(|some| some == b"attack at dawn"));

    let other = options.filter(Luks::new("another").into_driver()).open("disk").await?;
    let error = io::Error::from(other.read_at(vec![0; 14], 5000).await.unwrap_err());
    println!("{} bytes on the disk; with another key: {error}", bytes.len());
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    Ok(())
}
