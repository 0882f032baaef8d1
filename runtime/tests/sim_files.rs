//! Simulated files: they answer as the kernel's do, and keep what is written, through filters and
//! whatever goes wrong.

mod support;

use std::fmt::Debug;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use overlapped::buf::AlignedBuf;
use overlapped::driver::Driver;
use overlapped::driver::filter::{PassKind, Xor, pass};
use overlapped::fs::{self, File, OpenOptions, Volume};
use overlapped::sim::{FaultPlan, Simulation, set_faults};

use support::{Dir, Random, backends, local};

/// What an operation came to, so that it can be compared.
fn told<T: Debug>(result: Result<T, impl Into<io::Error>>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => {
            let error = error.into();
            format!("{:?} {:?}", error.raw_os_error(), error.kind())
        }
    }
}

const PATHS: &[&str] = &[
    "a",
    "b",
    "d",
    "d/a",
    "d/e",
    "d/e/a",
    "d/..",
    "d/./a",
    "a/",
    "d/",
    "l",
    "l/a",
    "m",
    "missing/a",
    ".",
    "d/e/../../b",
    "",
    "l/..",
    "l/e/a",
];

async fn attributes(path: &Path, follow: bool) -> io::Result<impl Debug + use<>> {
    let found = if follow { fs::metadata(path).await? } else { fs::symlink_metadata(path).await? };
    let regular = found.is_file();
    // What directories weigh is the file system's affair, and the mode of links the system's.
    let mode = (!found.is_symlink()).then_some(found.mode());
    let len = (!found.is_dir()).then_some(found.len());
    let links = (!found.is_dir()).then_some(found.links());
    Ok((found.file_type(), regular, mode, len, links))
}

async fn list(path: &Path) -> io::Result<Vec<(std::ffi::OsString, String)>> {
    let (mut directory, mut names) = (fs::read_dir(path).await?, Vec::new());
    while let Some(entry) = directory.next_entry().await? {
        names.push((entry.file_name(), format!("{:?}", entry.file_type().await?)));
    }
    names.sort();
    Ok(names)
}

async fn on_open(file: &File, random: &mut Random) -> String {
    let at = random.below(10_000);
    let len = random.below(3000) as usize;
    match random.below(9) {
        0..=2 => told(file.read_at(vec![0; len], at).await),
        3 => told(file.write_at(random.bytes(len), at).await.map(|(n, _)| n)),
        4 => told(file.set_len(at).await),
        5 => told(file.punch_hole(at, len as u64).await),
        6 => told(file.allocate(at, len as u64).await),
        7 => told(file.metadata().await.map(|found| (found.len(), found.links()))),
        _ => told(file.copy_range(at, file, at + 20_000, len as u64).await),
    }
}

/// Random operations below a directory, and what each came to.
async fn script(root: &Path, seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let absolute = fs::canonicalize(root).await.unwrap();
    let mut log = Vec::new();
    let mut open: Vec<File> = Vec::new();
    for step in 0..400 {
        let path = root.join(random.of(PATHS));
        let other = root.join(random.of(PATHS));
        let kind = random.below(20);
        let result = match kind {
            0 | 1 => told(fs::create_dir(&path).await),
            2 => told(fs::remove_dir(&path).await),
            3 => told(fs::remove_file(&path).await),
            4 | 5 => told(fs::rename(&path, &other).await),
            6 => told(fs::hard_link(&path, &other).await),
            7 => told(
                fs::symlink(random.of(&["d", "a", "l", "../none/x", "e/..", "d/e/"]), &path).await,
            ),
            8 => told(fs::read_link(&path).await),
            9 => told(attributes(&path, true).await),
            10 => told(attributes(&path, false).await),
            11 => told(list(&path).await),
            12 => {
                let len = random.below(5000) as usize;
                told(fs::write(&path, random.bytes(len)).await)
            }
            13 => {
                let found = fs::canonicalize(&path).await;
                told(found.map(|found| found.strip_prefix(&absolute).unwrap().to_owned()))
            }
            14 => {
                let mode = [0o700, 0o600, 0o755][random.below(3) as usize];
                told(fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).await)
            }
            15 | 16 => {
                let choice = random.below(64);
                let has = |bit: u64| choice & (1 << bit) != 0;
                let options = OpenOptions::new().read(has(0)).write(has(1)).append(has(2));
                let options = options.create(has(3)).create_new(has(4) && has(5)).truncate(has(5));
                match options.open(&path).await {
                    Ok(file) => {
                        open.push(file);
                        "open".to_owned()
                    }
                    failed => told(failed.map(drop)),
                }
            }
            17 if !open.is_empty() => {
                let index = random.below(open.len() as u64) as usize;
                told(open.swap_remove(index).close().await)
            }
            _ if !open.is_empty() => {
                let index = random.below(open.len() as u64) as usize;
                on_open(&open[index], &mut random).await
            }
            _ => continue,
        };
        let (path, other) = (path.strip_prefix(root).unwrap(), other.strip_prefix(root).unwrap());
        log.push(format!("{step}: {kind} {path:?} {other:?} {result}"));
    }
    log
}

#[test]
fn it_answers_as_the_kernel_does() {
    for seed in 0..15 {
        let (simulated, report) = Simulation::new(seed).run(async {
            let root = Path::new("/tmp/x");
            fs::create_dir(root).await.unwrap();
            script(root, seed).await
        });
        assert!(report.left.is_nothing(), "{}", report.left);
        for backend in backends() {
            let dir = Dir::new();
            let real = local(backend).block_on(script(&dir.path(""), seed));
            for (ours, theirs) in simulated.iter().zip(&real) {
                assert_eq!(ours, theirs, "seed {seed} on {backend}");
            }
            assert_eq!(simulated.len(), real.len());
        }
    }
}

fn stacks() -> Vec<Vec<Arc<dyn Driver>>> {
    let pass = || pass(PassKind::Future);
    let xor = |key| Arc::new(Xor(key)) as Arc<dyn Driver>;
    vec![
        vec![],
        vec![pass()],
        vec![xor(0x55)],
        vec![pass(), xor(1), pass(), xor(0xFF)],
        vec![xor(7), xor(8), xor(9), pass(), pass(), xor(10)],
    ]
}

/// Many tasks write and read parts of one file of their own each, and its model.
#[test]
fn a_file_is_an_array_of_bytes() {
    for (number, filters) in stacks().into_iter().enumerate() {
        for seed in 0..10 {
            let filters = filters.clone();
            let transforms = filters.iter().any(|f| f.name() == "xor");
            let ((), report) = Simulation::new(seed).faults(FaultPlan::rough()).run(async move {
                let mut options = OpenOptions::new().read(true).write(true).create(true);
                for filter in filters {
                    options = options.filter(filter);
                }
                let file = options.open("/tmp/file").await.unwrap();
                let mut random = Random(seed);
                let mut model: Vec<u8> = Vec::new();
                for _ in 0..300 {
                    let at = random.below(20_000) as usize;
                    let len = 1 + random.below(6000) as usize;
                    match random.below(8) {
                        0..=2 => {
                            // A filter's holes are not zeroes: no holes then.
                            let at = if transforms { at.min(model.len()) } else { at };
                            let bytes = random.bytes(len);
                            model.resize(model.len().max(at + len), 0);
                            model[at..at + len].copy_from_slice(&bytes);
                            file.write_all_at(bytes, at as u64).await.unwrap();
                        }
                        3 => {
                            let at = if transforms { at.min(model.len()) } else { at };
                            let parts: Vec<Vec<u8>> =
                                (0..4).map(|_| random.bytes(len / 4)).collect();
                            let (n, parts) =
                                file.write_vectored_at(parts, at as u64).await.unwrap();
                            let bytes = parts.concat();
                            if n > 0 {
                                model.resize(model.len().max(at + n), 0);
                                model[at..at + n].copy_from_slice(&bytes[..n]);
                            }
                        }
                        4 => {
                            let len = if transforms { at.min(model.len()) } else { at };
                            file.set_len(len as u64).await.unwrap();
                            model.resize(len, 0);
                        }
                        5 => {
                            let room = || Vec::with_capacity(len / 2 + 1);
                            let buffers = vec![room(), room()];
                            let (n, buffers) =
                                file.read_vectored_at(buffers, at as u64).await.unwrap();
                            let bytes = buffers.concat();
                            let end = (at + n).min(model.len());
                            assert_eq!(bytes, model.get(at..end).unwrap_or_default());
                            assert!(n > 0 || at >= model.len());
                        }
                        _ => {
                            let buf = Vec::with_capacity(len);
                            let (n, buf) = file.read_at(buf, at as u64).await.unwrap();
                            let end = (at + n).min(model.len());
                            assert_eq!(buf, model.get(at..end).unwrap_or_default());
                            assert!(n > 0 || at >= model.len());
                        }
                    }
                }
                set_faults(FaultPlan::none());
                let bytes = file.read_at(Vec::with_capacity(1 << 20), 0).await.unwrap().1;
                assert!(bytes == model, "stack {number}, seed {seed}");
                // What lies there is not what the program sees.
                let plain = fs::read("/tmp/file").await.unwrap();
                assert_eq!(plain == model, !transforms || model.is_empty());
            });
            assert!(report.left.is_nothing(), "{}", report.left);
        }
    }
}

#[test]
fn direct_io_must_be_aligned() {
    Simulation::new(1).faults(FaultPlan::rough()).run(async {
        let options = OpenOptions::new().read(true).write(true).create(true).direct(true);
        let file = options.open("/tmp/file").await.unwrap();
        let mut buf = AlignedBuf::new(4096, 4096);
        buf.fill(3);
        let (n, buf) = file.write_at(buf, 4096).await.unwrap();
        assert_eq!(n, 4096);
        let crooked = file.read_at(buf, 1).await.unwrap_err();
        assert_eq!(crooked.status(), overlapped::Status::UNALIGNED);
    });
}

#[test]
fn a_name_may_go_while_its_file_is_open() {
    let ((), report) = Simulation::new(2).faults(FaultPlan::rough()).run(async {
        fs::write("/tmp/a", "still here").await.unwrap();
        let file = File::open("/tmp/a").await.unwrap();
        fs::remove_file("/tmp/a").await.unwrap();
        assert!(!fs::try_exists("/tmp/a").await.unwrap());
        let ((), buf) = file.read_exact_at(vec![0; 10], 0).await.unwrap();
        assert_eq!(buf, b"still here");
        assert_eq!(file.metadata().await.unwrap().links(), 0);
        assert_eq!(file.hard_link("/tmp/b").await.unwrap_err().kind(), io::ErrorKind::NotFound);

        let nameless = fs::tempfile_in("/tmp").await.unwrap();
        nameless.write_all_at("named", 0).await.unwrap();
        nameless.hard_link("/tmp/b").await.unwrap();
        assert_eq!(fs::read("/tmp/b").await.unwrap(), b"named");
    });
    assert!(report.left.is_nothing(), "{}", report.left);
}

#[test]
fn trees_are_made_and_removed() {
    for seed in 0..10 {
        let plan = FaultPlan { pending: 0.3, ..FaultPlan::rough() };
        let ((), report) = Simulation::new(seed).faults(plan).run(async {
            let volume = Volume::new([pass(PassKind::Routine)]).unwrap();
            for i in 0..40 {
                let dir = format!("/srv/{}/{}/{i}", i % 3, i % 7);
                volume.create_dir_all(&dir).await.unwrap();
                for file in 0..i {
                    fs::write(format!("{dir}/{file}"), vec![0; file]).await.unwrap();
                }
            }
            assert_eq!(list(Path::new("/srv")).await.unwrap().len(), 3);
            volume.remove_dir_all("/srv").await.unwrap();
            assert_eq!(list(Path::new("/")).await.unwrap().len(), 1);
        });
        assert!(report.left.is_nothing(), "{}", report.left);
    }
}

#[test]
fn times_are_virtual() {
    Simulation::new(3).run(async {
        fs::write("/tmp/a", "x").await.unwrap();
        let before = fs::metadata("/tmp/a").await.unwrap().modified().unwrap();
        overlapped::time::sleep(std::time::Duration::from_secs(1000)).await;
        fs::write("/tmp/a", "y").await.unwrap();
        let found = fs::metadata("/tmp/a").await.unwrap();
        let later = found.modified().unwrap().duration_since(before).unwrap().as_secs();
        assert_eq!(later, 1000);
        assert_eq!(
            found.created().unwrap().duration_since(before).unwrap_or_default().as_secs(),
            0
        );
    });
}
