//! The load generator: a closed loop on every connection, every byte compared.
//!
//! `load --connect ADDR --connections C --size BYTES --depth D --seconds S`: prints `connected`,
//! begins when its standard input ends, and prints one line of JSON.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use io_uring::{IoUring, opcode, types};
use lexopt::prelude::*;
use overlapped_benches::ring;

struct Options {
    connect: SocketAddr,
    connections: usize,
    size: usize,
    depth: usize,
    seconds: f64,
}

fn options() -> Result<Options, lexopt::Error> {
    let mut options = Options {
        connect: "127.0.0.1:7777".parse().expect("an address"),
        connections: 1,
        size: 64,
        depth: 1,
        seconds: 1.0,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("connect") => options.connect = parser.value()?.parse()?,
            Long("connections") => options.connections = parser.value()?.parse()?,
            Long("size") => options.size = parser.value()?.parse()?,
            Long("depth") => options.depth = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

/// A connection: one round is `depth` messages out, and all of them back.
struct Connection {
    stream: TcpStream,
    out: Box<[u8]>,
    back: Box<[u8]>,
    sent: usize,
    received: usize,
    begin: Instant,
}

impl Connection {
    fn new(index: usize, options: &Options) -> io::Result<Connection> {
        let stream = TcpStream::connect(options.connect)?;
        stream.set_nodelay(true)?;
        let bytes = options.size * options.depth;
        let out = (0..bytes).map(|i| (i * 7 + index * 13) as u8).collect();
        let back = vec![0; bytes].into_boxed_slice();
        Ok(Connection { stream, out, back, sent: 0, received: 0, begin: Instant::now() })
    }

    fn send(&self, index: usize, ring: &mut IoUring) -> io::Result<()> {
        let rest = &self.out[self.sent..];
        let fd = types::Fd(self.stream.as_raw_fd());
        let entry = opcode::Send::new(fd, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data((index as u64) << 1 | 1);
        // SAFETY: `out` lives until after the ring, and nobody changes it.
        unsafe { ring::push(ring, &entry) }
    }

    fn receive(&mut self, index: usize, ring: &mut IoUring) -> io::Result<()> {
        let rest = &mut self.back[self.received..];
        let fd = types::Fd(self.stream.as_raw_fd());
        let entry = opcode::Recv::new(fd, rest.as_mut_ptr(), rest.len() as u32)
            .build()
            .user_data((index as u64) << 1);
        // SAFETY: `back` lives until after the ring, and is not looked at before it is full.
        unsafe { ring::push(ring, &entry) }
    }

    fn begin(&mut self, index: usize, ring: &mut IoUring, now: Instant) -> io::Result<()> {
        (self.sent, self.received, self.begin) = (0, 0, now);
        self.send(index, ring)?;
        self.receive(index, ring)
    }
}

fn main() -> io::Result<()> {
    let options = options().unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2);
    });
    let connections: io::Result<Vec<_>> =
        (0..options.connections).map(|i| Connection::new(i, &options)).collect();
    let mut connections = connections?;
    let mut ring = ring::new(4096)?;
    println!("connected");
    io::stdin().read_to_end(&mut Vec::new())?;

    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(options.seconds);
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("valid");
    let (mut rounds, mut errors) = (0u64, 0u64);
    let mut live = connections.len();
    for (index, connection) in connections.iter_mut().enumerate() {
        connection.begin(index, &mut ring, begin)?;
    }
    let mut batch = Vec::with_capacity(4096);
    while live > 0 {
        ring::turn(&mut ring, &mut batch)?;
        let now = Instant::now();
        for &(data, result, _) in &batch {
            let index = (data >> 1) as usize;
            let connection = &mut connections[index];
            if result <= 0 {
                return Err(io::Error::other(format!("connection {index} ended: {result}")));
            }
            if data & 1 == 1 {
                connection.sent += result as usize;
                if connection.sent < connection.out.len() {
                    connection.send(index, &mut ring)?;
                    continue;
                }
            } else {
                connection.received += result as usize;
                if connection.received < connection.back.len() {
                    connection.receive(index, &mut ring)?;
                    continue;
                }
            }
            if connection.sent < connection.out.len() || connection.received < connection.back.len()
            {
                continue;
            }
            errors += u64::from(connection.back != connection.out);
            rounds += 1;
            latencies.saturating_record((now - connection.begin).as_nanos() as u64);
            if now < end {
                connection.begin(index, &mut ring, now)?;
            } else {
                live -= 1;
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let echoes = rounds * options.depth as u64;
    let us = |q: f64| latencies.value_at_quantile(q) as f64 / 1e3;
    println!(
        "{}",
        serde_json::json!({
            "echoes": echoes, "seconds": seconds, "per_sec": echoes as f64 / seconds,
            "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999), "errors": errors,
        })
    );
    Ok(())
}
