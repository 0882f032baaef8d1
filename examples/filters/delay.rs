//! `delay`: does a program do without a disk that is too slow? It asks another one then.
//!
//! `cargo run --example filter-delay`

use std::io;
use std::time::Duration;

use overlapped::fs::{File, OpenOptions};
use overlapped::time::timeout;

async fn read_from_either(first: &File, second: &File) -> io::Result<Vec<u8>> {
    match timeout(Duration::from_millis(50), first.read_at(vec![0; 5], 0)).await {
        Ok(read) => Ok(read?.1),
        Err(_) => Ok(second.read_at(vec![0; 5], 0).await?.1),
    }
}

#[overlapped::main]
async fn main() -> io::Result<()> {
    let options = OpenOptions::new().read(true).write(true);
    let fast = options.clone().open_stack("memory").await?;
    // Ten minutes for a read, which nobody waits for.
    let slow = options.open_stack("delay(ms=600000, op=read) | memory").await?;
    slow.write_all_at("first", 0).await?;
    fast.write_all_at("other", 0).await?;

    let read = read_from_either(&slow, &fast).await?;
    println!("{}", String::from_utf8_lossy(&read));
    assert_eq!(read, b"other");
    Ok(())
}
