//! The filter `trace`: each operation is written down once, in every format, and nothing waits for it.

mod support;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use overlapped::driver::bottom::{Failing, Memory};
use overlapped::driver::filter::trace::{Format, Sink, Totals};
use overlapped::driver::filter::{Later, Trace, Xor};
use overlapped::driver::{Driver, Major, MajorSet, Place};
use overlapped::fs::OpenOptions;
use overlapped::net::{TcpListener, TcpStream, UdpSocket, datagram_stack_of, stack_of};
use overlapped::sim::{FaultPlan, Simulation};
use overlapped::{Backend, Status};
use serde_json::Value;
use support::{
    Dir, alone, backends, both, child, is_child, kind, local, multi, pattern, until_blocking, watch,
};

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// How many there are of each operation.
fn counts<'a>(ops: impl Iterator<Item = &'a Value>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for op in ops {
        *counts.entry(op.as_str().unwrap()).or_default() += 1;
    }
    counts
}

/// What is written to, for looking at it.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn each_operation_on_a_file_is_a_line() {
    both(async |_| {
        let dir = Dir::new();
        let (data, log) = (dir.file("data", pattern(10_000)), dir.path("log"));
        let stack = format!(
            "trace(jsonl={log}, label=disk) | file({data})",
            log = log.display(),
            data = data.display()
        );
        let file = options().open_stack(&stack).await.unwrap();
        for i in 0..7 {
            file.write_at(vec![i; 100], u64::from(i) * 1000).await.unwrap();
        }
        for i in 0..5 {
            file.read_at(Vec::with_capacity(64), i * 64).await.unwrap();
        }
        file.write_vectored_at(vec!["ab", "cde"], 3).await.unwrap();
        file.read_at(Vec::with_capacity(64), 1 << 40).await.unwrap();
        assert!(file.set_len(i64::MAX as u64).await.is_err());
        file.sync_data().await.unwrap();
        file.metadata().await.unwrap();
        file.set_len(123).await.unwrap();
        // Done when all of it is in the log.
        file.close().await.unwrap();

        let lines = lines(&log);
        let expected = [
            ("cleanup", 1),
            ("close", 1),
            ("create", 1),
            ("flush", 1),
            ("query", 1),
            ("read", 6),
            ("set", 2),
            ("write", 8),
        ];
        assert_eq!(counts(lines.iter().map(|line| &line["op"])), BTreeMap::from(expected));
        for line in &lines {
            assert_eq!(line["code"] == 0, line["arg"] != i64::MAX, "{line}");
            assert_eq!(line["layer"], "disk");
            assert_eq!(line["name"], data.to_str().unwrap());
            let ns = |key: &str| line[key].as_u64().unwrap();
            assert_eq!(ns("end") - ns("begin"), ns("latency"));
            assert!(line["time"].as_f64().unwrap() > 1.7e9);
        }
        let of = |op: &'static str| lines.iter().filter(move |line| line["op"] == op);
        let create = of("create").next().unwrap();
        assert!(create["detail"].as_str().unwrap().starts_with(data.to_str().unwrap()));
        let places: Vec<_> = of("write")
            .map(|w| (w["offset"].as_u64(), w["len"].as_u64(), w["info"].as_u64()))
            .collect();
        assert_eq!(places[6], (Some(6000), Some(100), Some(100)));
        assert_eq!(places[7], (Some(3), Some(5), Some(5)));
        assert_eq!(of("write").nth(7).unwrap()["variant"], "vectored");
        assert_eq!(of("read").nth(5).unwrap()["info"], 0);
        let failed = of("set").next().unwrap();
        assert_eq!(failed["code"], Status::from_errno(libc::EFBIG).raw());
        assert!(failed["status"].as_str().unwrap().contains("File too large"));
        assert_eq!(of("read").next().unwrap()["status"], "SUCCESS");
        assert_eq!(of("set").nth(1).unwrap()["arg"], 123);
    });
}

#[test]
fn layers_are_told_apart_and_write_to_one_file() {
    both(async |_| {
        let dir = Dir::new();
        let log = dir.path("log");
        let stack = format!(
            "trace(jsonl={0}, label=upper, bytes=4) | xor(key=0x0f) | \
             trace(jsonl={0}, label=lower, bytes=4, ops=write) | memory",
            log.display()
        );
        let file = options().open_stack(&stack).await.unwrap();
        file.write_all_at("@@@@@", 0).await.unwrap();
        file.read_at(Vec::with_capacity(2), 1).await.unwrap();
        file.close().await.unwrap();
        let lines = lines(&log);
        let of = |layer: &str, op: &str| -> Vec<_> {
            let is = |line: &&Value| line["layer"] == layer && line["op"] == op;
            lines.iter().filter(is).map(|line| line["data"].as_str()).collect()
        };
        assert_eq!(of("upper", "write"), [Some("40404040")]);
        assert_eq!(of("lower", "write"), [Some("4f4f4f4f")]);
        assert_eq!(of("upper", "read"), [Some("4040")]);
        assert_eq!(of("lower", "read"), [] as [Option<&str>; 0]);
        assert_eq!((of("upper", "close").len(), of("lower", "close").len()), (1, 0));
        // The same file in another format.
        let sink = Sink::create(Format::Jsonl, &log).unwrap();
        assert_eq!(kind(Sink::create(Format::Chrome, &log)), io::ErrorKind::AlreadyExists);
        drop(sink);
    });
}

/// Events of Chrome's format: how many begin of each operation, by layer.
fn chrome(path: &Path) -> BTreeMap<(String, String), usize> {
    let trace: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).expect("whole");
    let events = trace["traceEvents"].as_array().unwrap();
    let mut begun = BTreeMap::new();
    let mut counts = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for event in events {
        let id = (text(&event["name"]), event["cat"].as_str(), event["id"].as_str());
        let at = event["ts"].as_f64();
        match event["ph"].as_str().unwrap() {
            "M" => assert!(event["args"]["name"].is_string()),
            "b" => {
                assert!(event["args"]["status"].is_string());
                *counts.entry((text(&event["cat"]), text(&event["name"]))).or_default() += 1;
                assert!(begun.insert(id, at.unwrap()).is_none(), "an id for each");
            }
            "e" => assert!(begun.remove(&id).unwrap() <= at.unwrap()),
            other => panic!("{other}"),
        }
    }
    assert!(begun.is_empty(), "each has an end");
    let records = trace["otherData"]["records"].as_u64().unwrap();
    assert_eq!(records as usize, counts.values().sum::<usize>());
    assert_eq!(trace["otherData"]["dropped"], 0);
    counts
}

#[test]
fn chrome_reads_it_whenever_it_looks() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("trace \"of\" a.json");
        let sink = Sink::create(Format::Chrome, &path).unwrap();
        assert_eq!(sink.finish().unwrap(), Totals::default());
        assert!(chrome(&path).is_empty());
        let memory = Arc::new(Memory::new());
        for round in 1..=3 {
            let [upper, lower] =
                ["upper", "lower"].map(|label| Arc::new(Trace::new(label).to(&sink)));
            let stack = options().filter(upper).filter(lower).on(memory.clone());
            let file = stack.open("a \"quoted\" name\n").await.unwrap();
            for i in 0..10 {
                file.write_at(vec![7; 99], i * 99).await.unwrap();
            }
            file.close().await.unwrap();
            let counts = chrome(&path);
            for layer in ["upper", "lower"] {
                let of = |op: &str| counts[&(layer.to_owned(), op.to_owned())];
                assert_eq!((of("write"), of("create"), of("close")), (10 * round, round, round));
            }
        }
    });
}

#[test]
fn masks_and_samples() {
    both(async |_| {
        let out = Shared::default();
        let sink = Sink::builder(Format::Jsonl).write_to(out.clone()).unwrap();
        let ops = MajorSet::of(&[Major::Read, Major::Flush]);
        let trace = Arc::new(Trace::new("some").to(&sink).ops(ops).sample(10));
        let file = options().filter(trace).on(Arc::new(Memory::new())).open("m").await.unwrap();
        for _ in 0..95 {
            file.write_at("x", 0).await.unwrap();
            file.read_at(Vec::with_capacity(1), 0).await.unwrap();
        }
        file.close().await.unwrap();
        assert_eq!(sink.totals(), Totals { records: 10, dropped: 0 });
        assert_eq!(out.text().matches("\"op\":\"read\"").count(), 10);
    });
}

#[test]
fn failures_are_told_and_passed_on() {
    both(async |_| {
        let out = Shared::default();
        let sink = Sink::builder(Format::Hexdump).write_to(out.clone()).unwrap();
        let bottom = Failing::new(MajorSet::of(&[Major::Write]), Status::DISK_FULL);
        let trace = Arc::new(Trace::new("t").to(&sink));
        let file = options().filter(trace).on(Arc::new(bottom)).open("f").await.unwrap();
        assert_eq!(support::status(file.write_at("lost", 0).await), Status::DISK_FULL);
        file.close().await.unwrap();
        assert!(out.text().contains("write at 0 of 4 = DISK_FULL 0 in "), "{}", out.text());
        assert!(!out.text().contains("|lost|"), "it was not written");
    });
}

#[test]
fn hexdumps_are_cut() {
    both(async |_| {
        let out = Shared::default();
        let sink = Sink::builder(Format::Hexdump).write_to(out.clone()).unwrap();
        let trace = Arc::new(Trace::new("t").to(&sink).bytes(20));
        let file = options().filter(trace).on(Arc::new(Memory::new())).open("f").await.unwrap();
        file.write_vectored_at(vec!["0123456789", "abcdef\n", "ghijklmnop"], 0).await.unwrap();
        file.read_at(Vec::with_capacity(3), 15).await.unwrap();
        file.close().await.unwrap();
        let text = out.text();
        let dump = "\n00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n\
                    00000010  0a 67 68 69                                       |.ghi|\n         … 27 bytes in all\n";
        assert!(text.contains(dump), "{text}");
        let dump = "\n00000000  66 0a 67                                          |f.g|\n";
        assert!(text.contains(dump), "{text}");
    });
}

/// Streams and datagrams: their ends are no errors, and their names are their addresses.
#[test]
fn sockets() {
    both(async |_| {
        let out = Shared::default();
        let sink = Sink::builder(Format::Jsonl).write_to(out.clone()).unwrap();
        let trace = || [Arc::new(Trace::new("net").to(&sink)) as Arc<dyn Driver>];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let client = TcpStream::connect_with(to, stack_of(trace()).unwrap()).await.unwrap();
        let name = format!("{} to {to}", client.local_addr().unwrap());
        let (server, _) = listener.accept().await.unwrap();
        client.write_all("hello").await.unwrap();
        server.read_exact(Vec::with_capacity(5)).await.unwrap();
        client.shutdown(Shutdown::Write).await.unwrap();
        client.close().await.unwrap();
        let stack = datagram_stack_of(trace()).unwrap();
        let socket = UdpSocket::bind_with("127.0.0.1:0", stack).await.unwrap();
        socket.send_to("hello", to).await.unwrap();
        socket.close().await.unwrap();
        let lines: Vec<Value> =
            out.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ops: Vec<_> = lines.iter().map(|line| line["op"].as_str().unwrap()).collect();
        let expected = "connect write shutdown cleanup close send cleanup close";
        assert_eq!(ops.join(" "), expected);
        for line in &lines {
            assert_eq!(line["code"], 0, "{line}");
            assert!(line.get("offset").is_none());
        }
        assert_eq!(lines[0]["detail"], to.to_string());
        assert!(lines[..5].iter().all(|line| line["name"] == name));
        assert_eq!(lines[5]["address"], to.to_string());
    });
}

/// Many tasks on several threads, files that come and go: each request once, in order of nothing.
#[test]
fn many_threads_write_to_one_sink() {
    for backend in backends() {
        let _watch = watch("threads");
        let dir = Dir::new();
        let path = dir.path("log");
        let sink = Sink::builder(Format::Jsonl).queue(1 << 17).create(&path).unwrap();
        let trace = Arc::new(Trace::new("t").to(&sink));
        let runtime = multi(backend, 4);
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let trace = trace.clone();
                runtime.spawn(async move {
                    for _ in 0..20 {
                        let memory = Arc::new(Memory::new());
                        let options = options().filter(trace.clone());
                        let file =
                            options.filter(Arc::new(Later)).on(memory).open("m").await.unwrap();
                        for i in 0..50 {
                            file.write_at("x", i).await.unwrap();
                        }
                        file.close().await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        // The last close has waited for all.
        let lines = lines(&path);
        let each = |n: usize| n * 8 * 20;
        let expected =
            [("cleanup", each(1)), ("close", each(1)), ("create", each(1)), ("write", each(50))];
        assert_eq!(counts(lines.iter().map(|line| &line["op"])), BTreeMap::from(expected));
        assert_eq!(sink.totals(), Totals { records: each(53) as u64, dropped: 0 });
    }
}

/// A writer ends with its sink, and lets go of its file.
#[test]
fn writers_end() {
    alone("writers_end", |backend| {
        let names = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            let name = |task: io::Result<std::fs::DirEntry>| {
                std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
            };
            tasks.map(name).filter(|name| name.trim() == "trace").count()
        };
        let dir = Dir::new();
        let path = dir.path("log");
        for round in 0..50 {
            local(backend).block_on(async {
                let stack = format!("trace(chrome={}) | memory", path.display());
                let file = options().open_stack(&stack).await.unwrap();
                for _ in 0..round {
                    file.write_at("x", 0).await.unwrap();
                }
                file.close().await.unwrap();
            });
            // A new one each time, which has emptied the file.
            assert_eq!(chrome(&path).values().sum::<usize>(), 3 + round);
        }
        until_blocking(|| names() == 0);
        assert_eq!(support::descriptors_in(&dir), 0);
    });
}

/// Something that is as slow as it is told to be.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (open, changed) = &*self.0;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

#[test]
fn what_cannot_be_written_is_dropped_and_counted() {
    both(async |_| {
        let gate = Gate::default();
        let sink = Sink::builder(Format::Jsonl).queue(8).write_to(gate.clone()).unwrap();
        let trace = Arc::new(Trace::new("t").to(&sink));
        let file = options().filter(trace).on(Arc::new(Memory::new())).open("f").await.unwrap();
        // The writer hangs. No read does.
        for _ in 0..1000 {
            file.read_at(Vec::with_capacity(1), 0).await.unwrap();
        }
        let dropped = sink.totals().dropped;
        assert!(dropped > 0, "read while it is live");
        gate.open();
        file.close().await.unwrap();
        let Totals { records, dropped } = sink.finish().unwrap();
        assert_eq!(records + dropped, 1000 + 3, "with create, cleanup, close");

        // Bytes have a limit too.
        let gate = Gate::default();
        let sink = Sink::builder(Format::Hexdump).memory(1000).write_to(gate.clone()).unwrap();
        let trace = Arc::new(Trace::new("t").to(&sink));
        let file = options().filter(trace).on(Arc::new(Memory::new())).open("f").await.unwrap();
        for _ in 0..100 {
            file.write_at(vec![1; 300], 0).await.unwrap();
        }
        gate.open();
        file.close().await.unwrap();
        let Totals { records, dropped } = sink.finish().unwrap();
        assert!(dropped > 0 && records >= 4, "{records} {dropped}");
        assert_eq!(records + dropped, 100 + 3);
    });
}

/// One that fails, one that panics, and one that hangs for ever: files are closed all the same.
#[test]
fn a_bad_sink_does_no_harm() {
    struct Bad(bool);
    impl Write for Bad {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            assert!(self.0, "a test's panic, in the writer");
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let story = async |sink: &Sink| {
        let trace = Arc::new(Trace::new("t").to(sink));
        let file = options().filter(trace).on(Arc::new(Memory::new())).open("f").await.unwrap();
        file.write_all_at("fine", 0).await.unwrap();
        file.close().await.unwrap();
    };
    both(async |_| {
        let sink = Sink::builder(Format::Jsonl).write_to(Bad(true)).unwrap();
        story(&sink).await;
        assert_eq!(kind(sink.finish()), io::ErrorKind::StorageFull);
        story(&sink).await;
        assert_eq!(sink.totals(), Totals { records: 0, dropped: 8 });
        let sink = Sink::builder(Format::Jsonl).write_to(Bad(false)).unwrap();
        story(&sink).await;
        story(&sink).await;
        assert_eq!(kind(sink.finish()), io::ErrorKind::Other);
        assert_eq!(sink.totals(), Totals { records: 0, dropped: 8 });
    });
    local(Backend::Epoll).block_on(async {
        let gate = Gate::default();
        let sink = Sink::builder(Format::Jsonl).write_to(gate.clone()).unwrap();
        story(&sink).await;
        gate.open();
    });
}

#[test]
fn dropped_files_and_detached_filters_leave_whole_traces() {
    for backend in backends() {
        let _watch = watch("dropped files");
        let dir = Dir::new();
        let path = dir.path("log");
        let sink = Sink::create(Format::Jsonl, &path).unwrap();
        let trace = || Arc::new(Trace::new("t").to(&sink)) as Arc<dyn Driver>;
        local(backend).block_on(async {
            let memory = Arc::new(Memory::new());
            let file = options().filter(trace()).on(memory.clone()).open("f").await.unwrap();
            file.write_all_at("bytes", 0).await.unwrap();
            drop(file);
            let file = options().on(memory).open("f").await.unwrap();
            file.write_all_at("unseen", 0).await.unwrap();
            let (attached, _) = file.object().attach(Place::Top, trace()).unwrap();
            file.read_at(Vec::with_capacity(9), 0).await.unwrap();
            file.object().detach(&attached).unwrap().await;
            file.read_at(Vec::with_capacity(9), 0).await.unwrap();
            file.close().await.unwrap();
        });
        assert_eq!(sink.finish().unwrap().dropped, 0);
        let lines = lines(&path);
        let expected = [("cleanup", 1), ("close", 1), ("create", 1), ("read", 1), ("write", 1)];
        assert_eq!(counts(lines.iter().map(|line| &line["op"])), BTreeMap::from(expected));
    }
}

#[test]
fn in_a_simulation_it_is_the_same_each_time() {
    let run = |seed| {
        let out = Shared::default();
        let sink = Sink::builder(Format::Jsonl).queue(2).write_to(out.clone()).unwrap();
        let simulation = Simulation::new(seed).faults(FaultPlan::rough());
        let (done, _) = simulation.run(async {
            let trace = Arc::new(Trace::new("sim").to(&sink).bytes(4));
            let file = options().create(true).filter(trace.clone()).open("/tmp/f").await?;
            for i in 0..200 {
                file.write_all_at(vec![i as u8; 50], i * 50).await?;
                overlapped::time::sleep(std::time::Duration::from_millis(i)).await;
            }
            file.close().await?;
            let listener =
                TcpListener::bind_with("10.0.0.1:80", stack_of([trace as Arc<dyn Driver>])?)
                    .await?;
            let client = TcpStream::connect("10.0.0.1:80").await?;
            let (server, _) = listener.accept().await?;
            client.write_all(vec![1; 10_000]).await?;
            server.read_exact(Vec::with_capacity(10_000)).await?;
            io::Result::Ok(())
        });
        done.unwrap();
        assert_eq!(sink.finish().unwrap().dropped, 0, "time stands still");
        // Numbers of file objects are the process's.
        let text = out.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(|mut line| {
                line["file"] = Value::Null;
                line.to_string()
            })
            .collect::<Vec<_>>()
    };
    let _watch = watch("simulations");
    let first = run(7);
    assert!(first.len() > 200 && first[3].contains("\"time\":0.0"), "{}", first[3]);
    assert!(first == run(7));
    assert!(first != run(8));
}

/// A packet of a file of pcap's.
#[derive(Debug)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    protocol: u8,
    sequence: u32,
    flags: u8,
    data: Vec<u8>,
    /// With what is not in the file.
    len: usize,
}

fn packets(path: &Path) -> Vec<Packet> {
    let bytes = std::fs::read(path).unwrap();
    let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((u32_at(0), u32_at(20)), (0xA1B2_3C4D, 101));
    let (mut at, mut packets) = (24, Vec::new());
    while at < bytes.len() {
        let (kept, whole) = (u32_at(at + 8) as usize, u32_at(at + 12) as usize);
        let ip = &bytes[at + 16..][..kept];
        at += 16 + kept;
        let (header, protocol, [from, to]) = if ip[0] >> 4 == 4 {
            let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
            assert_eq!(usize::from(ip[2]) << 8 | usize::from(ip[3]), whole);
            (20, ip[9], [12, 16].map(|at| address(at).into()))
        } else {
            let address =
                |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
            assert_eq!(usize::from(ip[4]) << 8 | usize::from(ip[5]), whole - 40);
            (40, ip[6], [8, 24].map(|at| address(at).into()))
        };
        let transport = &ip[header..];
        let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        let own = if protocol == 6 { 20 } else { 8 };
        packets.push(Packet {
            from: SocketAddr::new(from, port(0)),
            to: SocketAddr::new(to, port(2)),
            protocol,
            sequence: u32::from_be_bytes(transport[4..8].try_into().unwrap()),
            flags: if protocol == 6 { transport[13] } else { 0 },
            data: transport[own..].to_vec(),
            len: whole - header - own,
        });
    }
    packets
}

/// What `tcpdump` says of it, in words. `None`: there is none here, and nobody has promised one.
fn tcpdump(path: &Path) -> Option<String> {
    let output = Command::new("tcpdump").args(["-nn", "-vv", "-S", "-r"]).arg(path).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let is_ci = std::env::var_os("CI").is_some();
            assert!(!is_ci, "tcpdump is missing ({error}): apt-get install tcpdump");
            eprintln!("not checked by tcpdump, which is missing: apt-get install tcpdump");
            return None;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    for bad in ["incorrect", "bad cksum", "bad udp", "bad hdr", "truncated", "wrong", "invalid"] {
        assert!(!said.contains(bad) && !errors.contains(bad), "{said}\n{errors}");
    }
    Some(said)
}

/// A stream's bytes in one direction, put together by their numbers.
fn stream(packets: &[Packet], from: SocketAddr) -> Vec<u8> {
    let mut of = packets.iter().filter(|packet| packet.from == from);
    let first = of.find(|packet| packet.flags & 2 != 0).expect("a SYN").sequence;
    let mut bytes = Vec::new();
    for packet in of {
        assert_eq!(packet.len, packet.data.len());
        let at = packet.sequence.wrapping_sub(first).wrapping_sub(1) as usize;
        assert!(at <= bytes.len(), "a hole");
        bytes.splice(at..bytes.len().min(at + packet.len), packet.data.iter().copied());
    }
    bytes
}

#[test]
fn tcpdump_reads_a_connection() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        both(async |_| {
            let dir = Dir::new();
            let (connecting, accepting) = (dir.path("connecting"), dir.path("accepting"));
            let stack = |path: &Path| {
                let sink = Sink::create(Format::Pcap, path).unwrap();
                stack_of([Arc::new(Trace::new("net").to(&sink)) as Arc<dyn Driver>]).unwrap()
            };
            let listener = TcpListener::bind_with(address, stack(&accepting)).await.unwrap();
            let to = listener.local_addr().unwrap();
            let client = TcpStream::connect_with(to, stack(&connecting)).await.unwrap();
            let from = client.local_addr().unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let (up, down) = (pattern(200_000), pattern(70_001));
            let sends = async {
                client.write_all(up.clone()).await.unwrap();
                client.shutdown(Shutdown::Write).await.unwrap();
            };
            let serves = async {
                let ((), got) = server.read_exact(Vec::with_capacity(100_000)).await.unwrap();
                let mut got = got;
                loop {
                    // Into buffers of the pool.
                    let lease = server.read_lease().await.unwrap();
                    if lease.is_empty() {
                        break;
                    }
                    got.extend_from_slice(&lease);
                }
                assert!(got == up);
                server.write_all(down.clone()).await.unwrap();
            };
            futures_util::join!(sends, serves);
            client.peek(Vec::with_capacity(10)).await.unwrap();
            client.read_exact(Vec::with_capacity(70_001)).await.unwrap();
            server.close().await.unwrap();
            assert_eq!(client.read(Vec::with_capacity(9)).await.unwrap().0, 0);
            client.close().await.unwrap();

            for path in [&connecting, &accepting] {
                let packets = packets(path);
                assert!(packets.iter().all(|packet| packet.protocol == 6));
                let flags: Vec<_> = packets.iter().map(|p| (p.from == from, p.flags)).collect();
                assert_eq!(flags[..3], [(true, 0x02), (false, 0x12), (true, 0x10)]);
                let end = |is_client| flags.iter().filter(|f| **f == (is_client, 0x11)).count();
                assert_eq!((end(true), end(false)), (1, 1), "{flags:?}");
                assert!(stream(&packets, from) == up);
                assert!(stream(&packets, to) == down);
                if let Some(said) = tcpdump(path) {
                    assert_eq!(said.matches("Flags [").count(), packets.len());
                    assert_eq!(said.matches("(correct)").count(), packets.len(), "{said}");
                }
            }
        });
    }
}

#[test]
fn tcpdump_reads_datagrams() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("udp");
        let sink = Sink::create(Format::Pcap, &path).unwrap();
        let stack = || {
            let trace = Arc::new(Trace::new("net").to(&sink)) as Arc<dyn Driver>;
            datagram_stack_of([trace]).unwrap()
        };
        let mut expected = Vec::new();
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind_with(local, stack()).await.unwrap();
            let other = UdpSocket::bind(local).await.unwrap();
            let [here, there] = [&socket, &other].map(|socket| socket.local_addr().unwrap());
            for text in ["", "odd", "even", "much longer than the others"] {
                socket.send_to(text, there).await.unwrap();
                other.recv_from(Vec::with_capacity(99)).await.unwrap();
                other.send_to(text, here).await.unwrap();
                socket.recv_from(Vec::with_capacity(99)).await.unwrap();
                expected.extend([(here, there, text), (there, here, text)]);
            }
            socket.send_segments_to("abcdefgh", 3, there).await.unwrap();
            expected.extend(["abc", "def", "gh"].map(|text| (here, there, text)));
            socket.connect(there).await.unwrap();
            socket.send("connected").await.unwrap();
            expected.push((here, there, "connected"));
            socket.close().await.unwrap();
        }
        let packets = packets(&path);
        let got: Vec<_> = packets
            .iter()
            .map(|packet| (packet.from, packet.to, str::from_utf8(&packet.data).unwrap()))
            .collect();
        assert_eq!(got, expected);
        if let Some(said) = tcpdump(&path) {
            assert_eq!(said.matches("[udp sum ok] UDP, length").count(), packets.len(), "{said}");
        }
    });
}

/// What is cut or missing shows as such.
#[test]
fn packets_are_cut_and_holes_stay_holes() {
    both(async |_| {
        let dir = Dir::new();
        let path = dir.path("cut");
        let sink = Sink::create(Format::Pcap, &path).unwrap();
        let ops = MajorSet::of(&[Major::Write]);
        let trace = Trace::new("net").to(&sink).ops(ops).sample(2).bytes(16);
        let stack = stack_of([Arc::new(trace) as Arc<dyn Driver>]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect_with(listener.local_addr().unwrap(), stack).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        for n in 0..6 {
            client.write_all(vec![n; 1000]).await.unwrap();
            server.read_exact(Vec::with_capacity(1000)).await.unwrap();
        }
        client.close().await.unwrap();
        let packets = packets(&path);
        let data: Vec<_> = packets.iter().filter(|packet| packet.len > 0).collect();
        let seen: Vec<_> =
            data.iter().map(|p| (p.data.clone(), p.len, p.sequence - data[0].sequence)).collect();
        let part = |n: u8| (vec![n; 16], 1000, 1000 * u32::from(n));
        assert_eq!(seen, [part(0), part(2), part(4)]);
        if let Some(said) = tcpdump(&path) {
            assert_eq!(said.matches("length 1000").count(), 3, "{said}");
        }
        // A file's requests are no packets.
        let trace = Arc::new(Trace::new("file").to(&sink));
        let file = options().filter(trace).on(Arc::new(Memory::new())).open("f").await.unwrap();
        file.write_at("no packet", 0).await.unwrap();
        file.close().await.unwrap();
        assert_eq!(self::packets(&path).len(), packets.len());
    });
}

#[test]
fn a_transforming_filter_below_is_seen_from_above() {
    both(async |_| {
        let dir = Dir::new();
        let sinks = ["plain", "wire"]
            .map(|name| (Sink::create(Format::Pcap, dir.path(name)).unwrap(), dir.path(name)));
        let trace = |i: usize| Arc::new(Trace::new("t").to(&sinks[i].0)) as Arc<dyn Driver>;
        let stack = stack_of([trace(0), Arc::new(Xor(1)), trace(1)]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect_with(listener.local_addr().unwrap(), stack).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        server.write_all("bbbb").await.unwrap();
        client.read_exact(Vec::with_capacity(4)).await.unwrap();
        let peer = client.peer_addr().unwrap();
        client.close().await.unwrap();
        assert_eq!(stream(&packets(&sinks[0].1), peer), b"cccc");
        assert_eq!(stream(&packets(&sinks[1].1), peer), b"bbbb");
    });
}

#[test]
fn events_of_tracing() {
    const NAME: &str = "events_of_tracing";
    if !is_child(NAME) {
        for backend in backends() {
            let set =
                |command: &mut Command| _ = command.env("OVERLAPPED_BACKEND", backend.to_string());
            child(NAME, set);
        }
        return;
    }
    let out = Shared::default();
    let writer = out.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    subscriber.init();
    for stack in ["trace(label=one) | memory", "trace(tracing, label=two) | memory"] {
        overlapped::block_on(async {
            let file = options().open_stack(stack).await.unwrap();
            file.write_at("abc", 5).await.unwrap();
            file.close().await.unwrap();
        });
    }
    let text = out.text();
    for layer in ["one", "two"] {
        let is_write = |line: &&str| {
            line.contains(&format!("overlapped::trace: layer=\"{layer}\""))
                && line.contains("op=\"write\"")
        };
        let lines: Vec<_> = text.lines().filter(is_write).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert!(lines[0].contains("offset=5 len=3"), "{text}");
        assert!(lines[0].contains("status=SUCCESS"), "{text}");
    }
}

#[test]
fn bad_texts_are_told() {
    both(async |_| {
        let dir = Dir::new();
        let missing = dir.path("no/such/directory");
        for (stack, why) in [
            (String::from("trace(sample=0) | memory"), "a number above 0"),
            (String::from("trace(queue=0) | memory"), "a number of requests"),
            (String::from("trace(ops=reed) | memory"), "operations, such as"),
            (String::from("trace(trasing) | memory"), "yes or no"),
            (String::from("trace(jsonn=x) | memory"), "it has: label, ops, sample"),
            (format!("trace(jsonl={}) | memory", missing.display()), "No such file"),
        ] {
            let error = options().open_stack(&stack).await.map(drop).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
    });
}
