//! `throttle`: a backup that leaves others something of the disk, until nobody needs it.
//!
//! `cargo run --example filter-throttle`

use std::time::Duration;

use overlapped::driver::Filter;
use overlapped::driver::filter::{Rates, Throttle};
use overlapped::fs::OpenOptions;
use overlapped::time::now;

#[overlapped::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A megabyte a second, of which a tenth may go at once.
    let slow = Rates { bytes: Some(1_000_000), burst: Some(100_000), ..Rates::ANY };
    let throttle = Throttle::new(slow)?;
    let options = OpenOptions::new().read(true).write(true).filter(throttle.clone().into_driver());
    let backup = options.open_stack("memory").await?;

    let start = now();
    for n in 0..30 {
        backup.write_all_at(vec![0; 10_000], n * 10_000).await?;
    }
    let took = now() - start;
    println!("300 000 bytes in {took:?}");
    assert!(took > Duration::from_millis(150));

    // In the night. This would take longer than a minute.
    throttle.set_rates(Rates::ANY)?;
    backup.write_all_at(vec![0; 100_000_000], 0).await?;
    assert_eq!(throttle.waiting(), 0);
    backup.close().await?;
    Ok(())
}
