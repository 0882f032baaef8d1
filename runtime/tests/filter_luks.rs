//! LUKS volumes: QEMU and cryptsetup read what the filter wrote, and it reads what they wrote; whatever
//! else is in the file is a clear error.
//!
//! Needs `qemu-img`, `qemu-io` (qemu-utils) and `cryptsetup` (cryptsetup-bin).

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use overlapped::driver::filter::luks::{Format, Header, Luks, LuksError};
use overlapped::driver::{Disposition, Driver, Filter, Io, Irp, Lower, Major, MajorSet, Next};
use overlapped::fs::{File, OpenOptions};
use overlapped::wait::Event;
use overlapped::{LocalRuntime, Status};
use support::{Dir, Random, backends, both, local, status};

const KEY: &[u8] = b"a key with a new line\n";

fn run(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("env");
    command.arg(format!("PATH={path}")).arg(program).args(arguments);
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program that must be there, and must succeed.
#[track_caller]
fn done(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said} (Debian: qemu-utils, cryptsetup-bin)"
    );
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Place {
    dir: Dir,
    key: String,
    image: String,
}

impl Place {
    fn new() -> Place {
        let dir = Dir::new();
        let key = text(&dir.file("key", KEY)).to_owned();
        let image = text(&dir.path("image")).to_owned();
        Place { dir, key, image }
    }

    fn qemu(&self, program: &str, arguments: &[&str]) -> String {
        let secret = format!("secret,id=s,file={}", self.key);
        // `qemu-img` has its options behind the command's name.
        let (first, rest) = arguments.split_at(usize::from(program == "qemu-img"));
        done(program, &[first, &["--object", &secret], rest].concat())
    }

    /// As QEMU names the volume.
    fn volume(&self) -> String {
        format!("driver=luks,key-secret=s,file.driver=file,file.filename={}", self.image)
    }

    /// The volume's content, as QEMU reads it.
    fn by_qemu(&self) -> Vec<u8> {
        let raw = self.dir.path("raw");
        let volume = self.volume();
        self.qemu("qemu-img", &["convert", "--image-opts", &volume, "-O", "raw", text(&raw)]);
        std::fs::read(raw).unwrap()
    }

    fn cryptsetup(&self, arguments: &[&str]) -> String {
        done("cryptsetup", &[arguments, &["-q", "--key-file", &self.key]].concat())
    }

    async fn open(&self) -> File {
        options().filter(Luks::new(KEY).into_driver()).open(&self.image).await.unwrap()
    }

    async fn open_raw(&self) -> File {
        options().create(true).open(&self.image).await.unwrap()
    }

    async fn format(&self, format: &Format) {
        let raw = self.open_raw().await;
        Luks::format(raw.object(), KEY, format).await.unwrap();
        raw.close().await.unwrap();
    }

    /// What the first operation on the volume says.
    async fn first(&self) -> Status {
        status(self.open().await.read_at(vec![0; 512], 0).await)
    }
}

/// A runtime on one of the backends.
fn one() -> LocalRuntime {
    local(backends()[0])
}

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

fn quick(format: Format) -> Format {
    format.pbkdf2(1000)
}

async fn all(file: &File) -> Vec<u8> {
    let len = file.metadata().await.unwrap().len() as usize;
    let (n, bytes) = file.read_at(vec![0; len + 100], 0).await.unwrap();
    assert_eq!(n, len);
    bytes[..n].to_vec()
}

/// Bytes that are never the same, fast.
fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = vec![random.below(256) as u8; len];
    bytes.iter_mut().step_by(97).for_each(|byte| *byte = random.below(256) as u8);
    bytes
}

/// Writes and reads of any offset and length, some at once, beside a model.
async fn churn(file: &File, model: &mut [u8], seed: u64) {
    let mut random = Random(seed);
    let size = model.len() as u64;
    for _ in 0..30 {
        let many = 1 + random.below(4);
        let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
        for _ in 0..many {
            let most = *[700, 5000, 100_000, 1_200_000].get(random.below(4) as usize).unwrap();
            let at = random.below(size);
            let len = (1 + random.below(most)).min(size - at);
            let (at, len) = if random.below(3) == 0 {
                (at / 4096 * 4096, (len / 4096 * 4096).max(4096).min(len))
            } else {
                (at, len)
            };
            let range = at as usize..(at + len) as usize;
            // Of writes at the same time to the same bytes nobody knows the order.
            if ranges.iter().all(|other| other.end <= range.start || range.end <= other.start) {
                ranges.push(range);
            }
        }
        let writes = ranges.into_iter().map(|range| {
            let bytes = bytes(&mut random, range.len());
            model[range.clone()].copy_from_slice(&bytes);
            async move {
                if bytes.len() > 10 && bytes[0] < 64 {
                    let (one, two) = bytes.split_at(bytes.len() / 3);
                    let parts = vec![one.to_vec(), two.to_vec()];
                    let (n, _) = file.write_vectored_at(parts, range.start as u64).await.unwrap();
                    file.write_all_at(bytes[n..].to_vec(), (range.start + n) as u64).await.unwrap();
                } else {
                    file.write_all_at(bytes, range.start as u64).await.unwrap();
                }
            }
        });
        join_all(writes).await;
        let at = random.below(size) as usize;
        let len = (1 + random.below(100_000) as usize).min(model.len() - at);
        let (_, bytes) = file.read_exact_at(vec![0; len], at as u64).await.unwrap();
        assert!(bytes == model[at..at + len], "at {at}, {len} bytes");
    }
}

const SIZE: usize = 4 << 20;

#[test]
fn qemu_reads_what_it_and_we_wrote() {
    both(async |_| {
        let place = Place::new();
        let create =
            ["create", "-f", "luks", "-o", "key-secret=s,iter-time=10", &place.image, "4M"];
        place.qemu("qemu-img", &create);
        let write = ["-c", "write -P 0xa5 1000 70000", "-c", "write -P 0x3c 4190000 4304"];
        let volume = place.volume();
        place.qemu("qemu-io", &[&["--image-opts", &volume], &write[..]].concat());
        let mut model = place.by_qemu();
        assert_eq!(model.len(), SIZE);
        assert!(model[1000..71000].iter().all(|b| *b == 0xa5));

        let file = place.open().await;
        assert!(all(&file).await == model, "what QEMU wrote");
        churn(&file, &mut model, 1).await;
        file.sync_all().await.unwrap();
        file.close().await.unwrap();
        assert!(place.by_qemu() == model, "what we wrote");
    });
}

#[test]
fn qemu_reads_a_volume_that_we_made() {
    for format in [Format::luks1(), Format::luks1().key_bits(256).hash("sha1")] {
        one().block_on(async {
            let place = Place::new();
            place.format(&quick(format.clone())).await;
            let file = place.open().await;
            assert_eq!(file.metadata().await.unwrap().len(), 0);
            // Past the end.
            file.set_len(SIZE as u64).await.unwrap();
            let mut model = all(&file).await;
            churn(&file, &mut model, 2).await;
            let (n, _) = file.write_at(vec![7; 1000], SIZE as u64 + 512).await.unwrap();
            assert_eq!(n, 1000);
            model.resize(SIZE + 2048, 0);
            // Between the old end and what was written is noise; the rest of the sector is zero.
            model[SIZE + 512..SIZE + 1512].fill(7);
            model[SIZE + 1512..SIZE + 1536].fill(0);
            model.truncate(SIZE + 1536);
            let (_, hole) = file.read_at(vec![0; 512], SIZE as u64).await.unwrap();
            model[SIZE..SIZE + 512].copy_from_slice(&hole);
            assert!(all(&file).await == model);
            file.close().await.unwrap();
            assert!(place.by_qemu() == model);

            let plain = place.dir.file("plain", &model);
            let (plain, volume) = (
                format!("driver=raw,file.driver=file,file.filename={}", text(&plain)),
                place.volume(),
            );
            place.qemu("qemu-img", &["compare", "--image-opts", &plain, &volume]);
            let write = ["-c", "write -P 0x77 5 100001"];
            place.qemu("qemu-io", &[&["--image-opts", &volume], &write[..]].concat());
            model[5..100_006].fill(0x77);
            assert!(all(&place.open().await).await == model);
        });
    }
}

#[test]
fn cryptsetup_opens_volumes_that_we_made() {
    for format in [
        Format::luks1().key_bits(256).hash("sha512"),
        Format::luks1().hash("sha1"),
        Format::luks2().key_bits(256).hash("sha512"),
        Format::luks2().sector(4096),
    ] {
        one().block_on(async {
            let place = Place::new();
            let format = quick(format.clone());
            place.format(&format).await;
            place.open().await.set_len(1 << 20).await.unwrap();
            let dump = done("cryptsetup", &["luksDump", &place.image]);
            assert!(dump.contains("xts-plain64"), "{dump}");
            place.cryptsetup(&["open", "--test-passphrase", &place.image]);
        });
    }
    // Argon2 with little memory.
    one().block_on(async {
        let place = Place::new();
        place.format(&Format::luks2().argon2id(4, 1024, 2)).await;
        place.open().await.set_len(1 << 20).await.unwrap();
        place.cryptsetup(&["open", "--test-passphrase", &place.image]);
        assert_eq!(place.first().await, Status::SUCCESS);
    });
}

#[test]
fn we_open_volumes_that_cryptsetup_made() {
    let pbkdf2 = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let argon2 =
        ["--pbkdf-memory", "1024", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2"];
    for more in [
        [&["--type", "luks1", "--hash", "sha1"], &pbkdf2[..]].concat(),
        [&["--type", "luks1", "--hash", "sha256", "--key-size", "256"], &pbkdf2[..]].concat(),
        [&["--type", "luks1", "--hash", "sha512"], &pbkdf2[..]].concat(),
        [&["--type", "luks2", "--hash", "sha512"], &pbkdf2[..]].concat(),
        [&["--type", "luks2", "--pbkdf", "argon2id", "--sector-size", "4096"], &argon2[..]]
            .concat(),
        [&["--type", "luks2", "--pbkdf", "argon2i", "--key-size", "256"], &argon2[..]].concat(),
    ] {
        let place = Place::new();
        std::fs::File::create(&place.image).unwrap().set_len(24 << 20).unwrap();
        let cipher = ["luksFormat", "--cipher", "aes-xts-plain64"];
        place.cryptsetup(&[&cipher[..], &more, &[&place.image]].concat());
        // A second passphrase, in the second slot.
        let other = place.dir.file("other", "another");
        let few = if more.contains(&"pbkdf2") { &pbkdf2[..] } else { &argon2[..] };
        place.cryptsetup(&[&["luksAddKey", &place.image, text(&other)], few].concat());
        one().block_on(async {
            assert_eq!(place.first().await, Status::SUCCESS, "{more:?}");
            let options = options().filter(Luks::key_file(&other).unwrap().into_driver());
            let file = options.clone().open(&place.image).await.unwrap();
            file.write_all_at(vec![1; 5000], 3).await.unwrap();
            let file = place.open().await;
            let (_, bytes) = file.read_at(vec![0; 5000], 3).await.unwrap();
            assert_eq!(bytes, vec![1; 5000]);
        });
    }
}

/// Cryptsetup enciphers a plain file in place, and deciphers it again: so it has read and written what is
/// behind the header.
#[test]
fn cryptsetup_agrees_on_the_data_of_version_2() {
    for sector in ["512", "4096"] {
        let place = Place::new();
        let mut model = bytes(&mut Random(3), SIZE);
        std::fs::write(&place.image, &model).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&place.image).unwrap();
        file.set_len(SIZE as u64 + (32 << 20)).unwrap();
        let few = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
        let how = ["reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M"];
        let what = ["--sector-size", sector, &place.image];
        place.cryptsetup(&[&how[..], &few, &what].concat());
        one().block_on(async {
            let file = place.open().await;
            let read = all(&file).await;
            assert!(read[..SIZE] == model[..], "what cryptsetup wrote");
            churn(&file, &mut model, 4).await;
            file.close().await.unwrap();
        });
        let header = place.dir.path("header");
        let how =
            ["reencrypt", "--decrypt", "--force-offline-reencrypt", "--header", text(&header)];
        place.cryptsetup(&[&how[..], &[&place.image]].concat());
        let plain = std::fs::read(&place.image).unwrap();
        assert!(plain[..SIZE] == model[..], "what we wrote");
    }
}

#[test]
fn sectors_of_4096_bytes_are_made_whole() {
    both(async |_| {
        let place = Place::new();
        place.format(&quick(Format::luks2().sector(4096))).await;
        let file = place.open().await;
        let mut model = vec![0; SIZE];
        file.write_all_at(model.clone(), 0).await.unwrap();
        churn(&file, &mut model, 5).await;
        // Neighbours that are written at the same time survive.
        for round in 0..20u8 {
            join_all((0..16u64).map(|i| {
                let file = &file;
                async move {
                    let bytes = vec![round ^ i as u8; 512];
                    file.write_all_at(bytes, 8192 + i * 512).await.unwrap();
                }
            }))
            .await;
            for i in 0..16 {
                model[8192 + i * 512..][..512].fill(round ^ i as u8);
            }
            let (_, bytes) = file.read_at(vec![0; 8192], 8192).await.unwrap();
            assert!(bytes == model[8192..16384], "round {round}");
        }
        let read = all(&file).await;
        assert!(read == model);
        // The end: a part of a sector does not stay one.
        let end = SIZE as u64;
        file.write_all_at(vec![9; 100], end + 512).await.unwrap();
        assert_eq!(file.metadata().await.unwrap().len(), end + 4096);
        let (n, bytes) = file.read_at(vec![1; 9000], end).await.unwrap();
        assert_eq!(n, 4096);
        assert_eq!(bytes[..612], [vec![0; 512], vec![9; 100]].concat());
        assert!(bytes[612..4096].iter().all(|b| *b == 0));
    });
}

/// Holds writes until an event is set.
struct Gate(Event);

impl Filter for Gate {
    type Open = ();
    fn name(&self) -> &str {
        "gate"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Write])
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        self.0.signalled().await;
        next.forward(&mut io).await
    }
}

/// a write that waits for its neighbour in a sector ends when it is cancelled.
#[test]
fn x5_a_write_that_waits_for_a_sector_is_cancelled() {
    both(async |_| {
        let place = Place::new();
        place.format(&quick(Format::luks2().sector(4096))).await;
        let event = Event::manual(true);
        let options = options().filter(Luks::new(KEY).into_driver());
        let file = options.filter(Gate(event.clone()).into_driver()).open(&place.image).await;
        let file = file.unwrap();
        file.write_all_at(vec![0; 4096], 0).await.unwrap();
        event.reset();
        let mut first = file.write_at(vec![1; 512], 0);
        assert!(support::poll_once(&mut first).is_pending());
        let second = file.write_at(vec![2; 512], 512);
        let second = second.deadline(std::time::Duration::from_millis(20));
        assert_eq!(status(second.await), Status::IO_TIMEOUT);
        event.set();
        first.await.unwrap();
        let (_, bytes) = file.read_at(vec![9; 1024], 0).await.unwrap();
        assert!(bytes == [vec![1; 512], vec![0; 512]].concat());
    });
}

/// Does a part of each read and write.
struct Short;

impl Filter for Short {
    type Open = ();
    fn name(&self) -> &str {
        "short"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read, Major::Write])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let (at, len) = (io.offset(), io.len() / 3 + 1);
        next.forward(&mut io).at(at, len as u32).await
    }
    async fn write(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        let (at, len) = (io.offset(), io.len() / 3 + 1);
        next.forward(&mut io).at(at, len as u32).await
    }
}

#[test]
fn parts_of_sectors_from_below_are_made_whole() {
    for sector in [512, 4096] {
        one().block_on(async {
            let place = Place::new();
            place.format(&quick(Format::luks2().sector(sector))).await;
            let options =
                options().filter(Luks::new(KEY).into_driver()).filter(Short.into_driver());
            let file = options.open(&place.image).await.unwrap();
            let mut model = bytes(&mut Random(7), 40_960);
            file.write_all_at(model.clone(), 0).await.unwrap();
            model[1000..1700].fill(9);
            file.write_all_at(vec![9; 700], 1000).await.unwrap();
            let read = file.read_exact_at(vec![0; model.len()], 0).await.unwrap().1;
            assert!(read == model);
            // One sector: below it comes in parts.
            let (n, read) = file.read_at(vec![0; sector], 0).await.unwrap();
            assert!(n == sector && read == model[..sector]);
            let without = place.open().await;
            assert!(all(&without).await == model);
        });
    }
}

#[test]
fn as_text() {
    one().block_on(async {
        let place = Place::new();
        place.format(&quick(Format::luks1())).await;
        let stack = format!("luks(key=@{}) | file({})", place.key, place.image);
        let file = options().open_stack(&stack).await.unwrap();
        file.write_all_at("text", 0).await.unwrap();
        assert!(!std::fs::read(&place.image).unwrap().windows(4).any(|bytes| bytes == b"text"));
        assert_eq!(all(&place.open().await).await[..4], *b"text");
        // The key as it stands is another one: it lacks the new line.
        let stack = format!("luks(key=\"a key with a new line\") | file({})", place.image);
        let file = options().open_stack(&stack).await.unwrap();
        assert_eq!(status(file.metadata().await), Status::WRONG_PASSWORD);
        let missing = options().open_stack("luks(key=@/no/such/file) | null").await.map(drop);
        assert!(missing.unwrap_err().to_string().contains("the path of a file that can be read"));
    });
}

#[test]
fn what_cannot_be_transformed_is_refused() {
    both(async |_| {
        let place = Place::new();
        place.format(&quick(Format::luks1())).await;
        let file = place.open().await;
        file.write_all_at(vec![5; 4096], 0).await.unwrap();
        assert_eq!(status(file.punch_hole(0, 512).await), Status::NOT_SUPPORTED);
        let plain = options().create(true).open(place.dir.path("plain")).await.unwrap();
        plain.write_all_at(vec![0; 4096], 0).await.unwrap();
        let refused = overlapped::Request::new(
            file.object(),
            overlapped::operation::CopyRange::new(plain.object(), 0, 0, 512),
        );
        assert_eq!(status(refused.await), Status::NOT_SUPPORTED);
        let refused = overlapped::Request::new(
            plain.object(),
            overlapped::operation::CopyRange::new(file.object(), 0, 0, 512),
        );
        assert_eq!(status(refused.await), Status::NOT_SUPPORTED);
        assert_eq!(status(file.set_len(1000).await), Status::UNALIGNED);
        assert_eq!(file.metadata().await.unwrap().len(), 4096);
        file.allocate(0, 1 << 20).await.unwrap();
        assert!(file.metadata().await.unwrap().allocated() >= 1 << 20);
        file.set_len(1024).await.unwrap();
        assert_eq!(all(&file).await, vec![5; 1024]);
        file.set_len(0).await.unwrap();
        assert_eq!(place.first().await, Status::SUCCESS, "the header is still there");

        let luks = || Luks::new(KEY).into_driver();
        let truncates = options().truncate(true).filter(luks()).open(&place.image).await;
        assert_eq!(status(truncates.map(drop)), Status::NOT_SUPPORTED);
        let appends = OpenOptions::new().read(true).append(true).filter(luks());
        let appends = appends.open(&place.image).await.unwrap();
        assert_eq!(status(appends.write_at(vec![1; 512], 0).await), Status::NOT_SUPPORTED);
        assert_eq!(
            status(file.read_at(vec![0; 512], i64::MAX as u64 - 1023).await),
            Status::OFFSET_OVERFLOW
        );
        assert_eq!(place.first().await, Status::SUCCESS);
    });
}

#[test]
fn wrong_keys_and_damaged_headers() {
    both(async |_| {
        for format in [quick(Format::luks1()), quick(Format::luks2())] {
            let place = Place::new();
            place.format(&format).await;
            let wrong = options().filter(Luks::new("not it").into_driver());
            let wrong = wrong.open(&place.image).await.unwrap();
            for _ in 0..2 {
                assert_eq!(status(wrong.read_at(vec![0; 1], 0).await), Status::WRONG_PASSWORD);
                assert_eq!(status(wrong.write_at(vec![0; 1], 0).await), Status::WRONG_PASSWORD);
                assert_eq!(status(wrong.metadata().await), Status::WRONG_PASSWORD);
                assert_eq!(status(wrong.set_len(0).await), Status::WRONG_PASSWORD);
            }
            let good = std::fs::read(&place.image).unwrap();
            let version_2 = good[7] == 2;
            let damage = async |at: usize, bytes: &[u8]| {
                let mut image = good.clone();
                image[at..at + bytes.len()].copy_from_slice(bytes);
                std::fs::write(&place.image, image).unwrap();
                place.first().await
            };
            if version_2 {
                // The second copy stands in, whatever the first one is.
                for at in [0, 9, 500, 5000] {
                    assert_eq!(damage(at, b"???").await, Status::SUCCESS, "at {at}");
                }
                let both = vec![b'?'; 0x8000];
                assert_eq!(damage(0, &both).await, Status::UNRECOGNIZED_VOLUME);
                assert_eq!(damage(100, &both[100..]).await, Status::FILE_CORRUPT_ERROR);
            } else {
                assert_eq!(damage(0, b"?").await, Status::UNRECOGNIZED_VOLUME);
                assert_eq!(damage(40, b"cbc-essiv:sha256").await, Status::NOT_SUPPORTED);
                assert_eq!(damage(72, b"whirlpool").await, Status::NOT_SUPPORTED);
                assert_eq!(damage(111, b"\x30").await, Status::NOT_SUPPORTED);
                assert_eq!(damage(208, b"\xff").await, Status::FILE_CORRUPT_ERROR);
                assert_eq!(damage(252, &[255; 4]).await, Status::FILE_CORRUPT_ERROR);
                assert_eq!(damage(248, &[255; 4]).await, Status::FILE_CORRUPT_ERROR);
                // Of the digest, or the key's material: no key fits any more.
                assert_eq!(damage(112, b"????").await, Status::WRONG_PASSWORD);
                assert_eq!(damage(4096, b"????").await, Status::WRONG_PASSWORD);
            }
            assert_eq!(damage(7, b"\x09").await, Status::NOT_SUPPORTED);
            std::fs::write(&place.image, &good[..5000]).unwrap();
            assert_eq!(place.first().await, Status::FILE_CORRUPT_ERROR);
            std::fs::write(&place.image, "").unwrap();
            assert_eq!(place.first().await, Status::UNRECOGNIZED_VOLUME);
        }
    });
}

/// Any bytes: an error or a header, never a panic, and never work that does not end.
#[test]
fn headers_of_any_bytes() {
    let headers: Vec<Vec<u8>> = [quick(Format::luks1()), quick(Format::luks2())]
        .iter()
        .map(|format| {
            let place = Place::new();
            one().block_on(place.format(format));
            std::fs::read(&place.image).unwrap()[..0x4000].to_vec()
        })
        .collect();
    let mut random = Random(6);
    for (version, header) in headers.iter().enumerate() {
        assert_eq!(usize::from(Header::parse(header).unwrap().version()), version + 1);
        for _ in 0..1500 {
            let mut bytes = header.clone();
            for _ in 0..1 + random.below(6) {
                let at = random.below(if version == 0 { 600 } else { 5200 }) as usize;
                bytes[at] = random.below(256) as u8;
            }
            bytes.truncate(random.below(3) as usize * 0x2000 + random.below(0x4000) as usize);
            if version == 1 && bytes.len() > 0x3000 {
                // With a sum that fits, so that the description is looked at.
                bytes.resize(0x4000, 0);
                bytes[448..512].fill(0);
                bytes[72..104].copy_from_slice(&header[72..104]);
                bytes[..16].copy_from_slice(&header[..16]);
                let sum = openssl::sha::sha256(&bytes);
                bytes[448..480].copy_from_slice(&sum);
            }
            _ = Header::len_of(&bytes);
            if let Ok(header) = Header::parse(&bytes) {
                assert!(header.sector_size() >= 512 && header.payload_offset() < 1 << 63);
            }
        }
    }
    assert_eq!(Header::parse(&[]).unwrap_err(), LuksError::NotLuks);
}

/// Counts the reads of a file's start, and of key material.
#[derive(Default)]
struct Counting {
    headers: AtomicUsize,
}

impl Driver for Counting {
    fn name(&self) -> &str {
        "counting"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    fn dispatch(&self, irp: Irp<'_>, lower: Lower<'_>) -> Disposition {
        self.headers.fetch_add(usize::from(irp.offset() == 0), Ordering::Relaxed);
        lower.skip(irp)
    }
}

#[test]
fn unlocked_once_for_all() {
    both(async |_| {
        let place = Place::new();
        place.format(&Format::luks1().pbkdf2(100_000)).await;
        place.open().await.write_all_at(vec![3; 4096], 0).await.unwrap();
        let counting = Arc::new(Counting::default());
        let options = options().filter(Luks::new(KEY).into_driver()).filter(counting.clone());
        let file = options.open(&place.image).await.unwrap();
        // One that goes before it is done does not take the others with it, nor do those that are polled once.
        let mut gone: Vec<_> = (0..3).map(|_| file.read_at(vec![0; 512], 0)).collect();
        for request in &mut gone {
            assert!(support::poll_once(request).is_pending());
        }
        let rest = join_all((0..8).map(|i| file.read_at(vec![0; 512], i % 8 * 512)));
        drop(gone.remove(0));
        drop(gone);
        for result in rest.await {
            assert_eq!(result.unwrap().1, vec![3; 512]);
        }
        let headers = counting.headers.load(Ordering::Relaxed);
        assert!((1..=3).contains(&headers), "{headers} times");
        file.read_at(vec![0; 512], 0).await.unwrap();
        assert_eq!(counting.headers.load(Ordering::Relaxed), headers);
        file.write_at(vec![0; 512], 0).await.unwrap();
        assert_eq!(overlapped::driver::heap_futures(), 0, "its futures are small");
    });
}

/// A request that waits for the key is cancelled at once, and the file closed.
#[test]
fn a_cancel_does_not_wait_for_the_key() {
    for backend in backends() {
        local(backend).block_on(async {
            let place = Place::new();
            place.format(&quick(Format::luks1())).await;
            // A number of iterations that would take hours.
            let mut image = std::fs::read(&place.image).unwrap();
            image[212..216].copy_from_slice(&(1u32 << 22).to_be_bytes());
            std::fs::write(&place.image, image).unwrap();
            let file = place.open().await;
            let request =
                file.read_at(vec![0; 512], 0).deadline(std::time::Duration::from_millis(50));
            assert_eq!(status(request.await), Status::IO_TIMEOUT);
            file.close().await.unwrap();
        });
    }
}

/// Past the page cache: all that goes below is aligned.
#[test]
fn direct() {
    both(async |_| {
        let place = Place::new();
        let direct = options().create(true).direct(true);
        let raw = match direct.clone().open(&place.image).await {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                return eprintln!("no direct I/O on this file system");
            }
            opened => opened.unwrap(),
        };
        for format in [Format::luks1(), Format::luks2().sector(4096)] {
            Luks::format(raw.object(), KEY, &quick(format)).await.unwrap();
            let options = direct.clone().filter(Luks::new(KEY).into_driver());
            let file = options.open(&place.image).await.unwrap();
            let mut block = overlapped::buf::AlignedBuf::new(8192, 4096);
            block[..5].copy_from_slice(b"plain");
            let (_, block) = file.write_all_at(block, 4096).await.unwrap();
            let (n, block) = file.read_at(block, 4096).await.unwrap();
            assert!(n == 8192 && block.starts_with(b"plain"));
        }
    });
}

/// A simulated machine has no threads: the key is derived where it is asked for.
#[test]
fn on_a_simulated_machine() {
    let ((), report) = overlapped::sim::Simulation::new(1).run(async {
        let raw = options().create(true).open("/tmp/volume").await.unwrap();
        Luks::format(raw.object(), KEY, &quick(Format::luks1())).await.unwrap();
        let options = options().filter(Luks::new(KEY).into_driver());
        let file = options.open("/tmp/volume").await.unwrap();
        file.write_all_at(vec![1; 1000], 100).await.unwrap();
        let (_, read) = file.read_at(vec![0; 1000], 100).await.unwrap();
        assert_eq!(read, vec![1; 1000]);
    });
    assert!(report.left.is_nothing(), "{}", report.left);
}

/// Has a header, whatever is below.
struct WithHeader(Vec<u8>);

impl Filter for WithHeader {
    type Open = ();
    fn name(&self) -> &str {
        "with-header"
    }
    fn hooks(&self) -> MajorSet {
        MajorSet::of(&[Major::Read])
    }
    async fn read(&self, _: &(), next: Next<'_>, mut io: Io<'_>) -> Result<usize, Status> {
        match self.0.get(io.offset() as usize..) {
            Some(rest) if !rest.is_empty() => Ok(io.answer(&rest[..rest.len().min(io.len())])),
            _ => next.forward(&mut io).await,
        }
    }
}

#[test]
fn it_conforms() {
    for format in [Format::luks1(), Format::luks2().sector(4096)] {
        let place = Place::new();
        one().block_on(place.format(&quick(format)));
        let image = std::fs::read(&place.image).unwrap();
        let below = || WithHeader(image.clone()).into_driver();
        let make = || Ok(vec![Luks::new(KEY).into_driver(), below()]);
        overlapped::driver::testing::conformance::file_filters(make, 8).unwrap();
    }
}
