//! Simulations.

use overlapped::sim::{FaultPlan, Simulation};
use overlapped::{fs, net::{TcpListener, TcpStream}, time};
#[test]
fn smoke() {
    let run = |seed| Simulation::new(seed).faults(FaultPlan::rough()).keep_trace().run(async {
     let listener = TcpListener::bind("10.0.0.1:80").await?;
     overlapped::spawn(async move {
         let (stream, _) = listener.accept().await?;
         stream.write_all(vec![7; 100_000]).await?;
         std::io::Result::Ok(())
     });
     let stream = TcpStream::connect("10.0.0.1:80").await?;
     let ((), bytes) = stream.read_exact(Vec::with_capacity(100_000)).await?;
     time::sleep(time::Duration::from_secs(3600)).await;
     fs::write("/tmp/copy", bytes).await?;
     std::io::Result::Ok(fs::read("/tmp/copy").await?.iter().map(|&b| u64::from(b)).sum::<u64>())
    });
    let (a, r) = run(1);
    println!("{}", r.trace.as_ref().unwrap());
    println!("{r:?}");
    assert_eq!(a.unwrap(), 700_000);
    assert_eq!(run(1).1, r);
}
