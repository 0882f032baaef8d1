//! LUKS volumes that are damaged, field by field: each is a clear error, and none is unlocked as something
//! that it is not.

mod support;

use std::os::unix::fs::FileExt;

use overlapped::Status;
use overlapped::driver::Filter;
use overlapped::driver::filter::luks::{Format, Luks};
use overlapped::fs::OpenOptions;
use serde_json::{Value, json};
use support::{Dir, backends, local, status};

const KEY: &str = "the key";

const GOOD: Status = Status::SUCCESS;
const NONE: Status = Status::UNRECOGNIZED_VOLUME;
const CORRUPT: Status = Status::FILE_CORRUPT_ERROR;
const UNSUPPORTED: Status = Status::NOT_SUPPORTED;
/// What was damaged is what only the right key would tell from another.
const WRONG: Status = Status::WRONG_PASSWORD;

/// Bytes of a copy of a header of version 2.
const COPY: usize = 0x4000;

fn options() -> OpenOptions {
    OpenOptions::new().read(true).write(true)
}

/// A volume of one sector.
fn volume(format: Format) -> Vec<u8> {
    let dir = Dir::new();
    local(backends()[0]).block_on(async {
        let raw = options().create(true).open(dir.path("image")).await.unwrap();
        Luks::format(raw.object(), KEY, &format.pbkdf2(1000)).await.unwrap();
        let luks = Luks::new(KEY).into_driver();
        let volume = options().filter(luks).open(dir.path("image")).await.unwrap();
        volume.write_all_at(vec![7; 512], 0).await.unwrap();
        volume.close().await.unwrap();
    });
    std::fs::read(dir.path("image")).unwrap()
}

/// Bytes in which header and key slots are.
const HEAD: usize = 2 << 20;

/// What becomes of a read of an image, on each backend; and header and key slots are as they were before.
fn opened(image: &[u8]) -> Status {
    let dir = Dir::new();
    let path = dir.file("image", "");
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let (head, rest) = image.split_at(HEAD.min(image.len()));
    // What is in between is a hole: there are many of these.
    let tail = &rest[rest.len().saturating_sub(512)..];
    file.write_all_at(head, 0).unwrap();
    file.write_all_at(tail, (image.len() - tail.len()) as u64).unwrap();
    let found = backends().into_iter().map(|backend| {
        local(backend).block_on(async {
            let luks = Luks::new(KEY).into_driver();
            let volume = options().filter(luks).open(&path).await.unwrap();
            let read = volume.read_at(vec![0; 512], 0).await.map(|(n, bytes)| {
                assert!(n == 512 && bytes == [7; 512], "other bytes than were written");
            });
            if read.is_err() {
                assert_ne!(status(volume.write_at(vec![9; 512], 0).await), GOOD);
            }
            let read = status(read);
            let _ = volume.close().await;
            read
        })
    });
    let found: Vec<Status> = found.collect();
    assert!(found.iter().all(|status| *status == found[0]), "{found:?}");
    let mut there = vec![0; head.len()];
    file.read_exact_at(&mut there, 0).unwrap();
    assert!(there == head, "the file has changed");
    found[0]
}

/// An image with other bytes at a place.
fn with(image: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn each_field_of_version_1() {
    let image = volume(Format::luks1());
    assert_eq!(opened(&image), GOOD);
    let payload = u32::from_be_bytes(image[104..108].try_into().unwrap());
    let number = |n: u32| n.to_be_bytes().to_vec();
    // By chance it may be any.
    let other = |at: usize| vec![!image[at]];
    let slot = 208;
    let (first, last) = (8 * 512, 8 * 512 + 64 * 4000 - 1);
    let cases: &[(&str, usize, Vec<u8>, Status)] = &[
        ("magic", 0, b"?".into(), NONE),
        ("version", 6, vec![0, 3], UNSUPPORTED),
        ("cipher", 8, b"twofish\0".into(), UNSUPPORTED),
        ("cipher that is no text", 8, vec![0xff], CORRUPT),
        ("mode", 40, b"cbc-essiv:sha256\0".into(), UNSUPPORTED),
        ("mode without an end", 40, vec![b'x'; 32], UNSUPPORTED),
        ("hash", 72, b"whirlpool\0".into(), UNSUPPORTED),
        ("hash that is no text", 72, vec![0xff], CORRUPT),
        ("another hash", 72, b"sha1\0\0\0\0".into(), WRONG),
        ("no payload", 104, number(0), UNSUPPORTED),
        ("payload in the header", 104, number(1), CORRUPT),
        ("payload in the key slot", 104, number(payload / 16), CORRUPT),
        ("no key", 108, number(0), UNSUPPORTED),
        ("key's length", 108, number(48), UNSUPPORTED),
        ("another key's length", 108, number(32), WRONG),
        ("key's length beyond all", 108, number(u32::MAX), UNSUPPORTED),
        ("digest", 112, other(112), WRONG),
        ("digest's salt", 132, other(132), WRONG),
        ("no iterations of the digest", 164, number(0), CORRUPT),
        ("other iterations of the digest", 164, number(7), WRONG),
        ("iterations of the digest beyond all", 164, number(u32::MAX), CORRUPT),
        ("UUID", 168, vec![0xff; 40], GOOD),
        ("slot's state", slot, vec![0xff], CORRUPT),
        ("no slot in use", slot, number(0xdead), WRONG),
        ("no iterations of a slot", slot + 4, number(0), CORRUPT),
        ("other iterations of a slot", slot + 4, number(7), WRONG),
        ("iterations of a slot beyond all", slot + 4, number(u32::MAX), CORRUPT),
        ("slot's salt", slot + 8, other(slot + 8), WRONG),
        ("slot's area in the header", slot + 40, number(0), CORRUPT),
        ("slot's area elsewhere", slot + 40, number(16), WRONG),
        ("slot's area in the data", slot + 40, number(payload), CORRUPT),
        ("slot's area beyond all", slot + 40, number(u32::MAX), CORRUPT),
        ("no stripes", slot + 44, number(0), CORRUPT),
        ("other stripes", slot + 44, number(3999), WRONG),
        ("stripes beyond all", slot + 44, number(u32::MAX), CORRUPT),
        ("another slot's state", slot + 7 * 48, vec![0xff], CORRUPT),
        ("key material's first byte", first, other(first), WRONG),
        ("key material's last byte", last, other(last), WRONG),
    ];
    for (what, at, bytes, expected) in cases {
        assert_eq!(opened(&with(&image, *at, bytes)), *expected, "{what}");
    }
}

/// With sums that fit, of both copies.
fn summed(mut image: Vec<u8>) -> Vec<u8> {
    for copy in image[..2 * COPY].chunks_exact_mut(COPY) {
        copy[448..512].fill(0);
        let sum = openssl::sha::sha256(copy);
        copy[448..480].copy_from_slice(&sum);
    }
    image
}

/// The same bytes in both copies.
fn in_both(image: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    with(&with(image, at, bytes), COPY + at, bytes)
}

#[test]
fn each_binary_field_of_version_2() {
    let image = volume(Format::luks2());
    assert_eq!(opened(&image), GOOD);
    let key = image.iter().skip(2 * COPY).position(|byte| *byte != 0).unwrap() + 2 * COPY;
    let both = |at, bytes: &[u8]| in_both(&image, at, bytes);
    for (what, image, expected) in [
        ("magics", both(0, b"?"), NONE),
        ("version", summed(both(6, &[0, 3])), UNSUPPORTED),
        ("length", summed(both(8, &[0xff; 8])), CORRUPT),
        ("length beyond the file", summed(both(8, &0x40_0000u64.to_be_bytes())), CORRUPT),
        ("sequence", summed(both(16, &[0; 8])), GOOD),
        ("label", summed(both(24, &[0xff; 48])), GOOD),
        ("sum's hash", summed(both(72, b"crc32\0\0\0")), UNSUPPORTED),
        ("another sum's hash", summed(both(72, b"sha512\0\0")), CORRUPT),
        ("salt", summed(both(104, b"?")), GOOD),
        ("UUID", summed(both(168, &[0xff; 40])), GOOD),
        ("subsystem", summed(both(208, &[0xff; 48])), GOOD),
        ("places", summed(both(256, &7u64.to_be_bytes())), CORRUPT),
        ("sums", both(448, b"???"), CORRUPT),
        ("bytes that are summed", both(5000, b"?"), CORRUPT),
        ("description without an end", summed(both(4096, &[b' '; COPY - 4096])), CORRUPT),
        ("description that is no text", summed(both(4096, &[0xff])), CORRUPT),
        ("one copy of two", with(&image, 0, &[0; COPY]), GOOD),
        ("the other copy", with(&image, COPY, &[0; COPY]), GOOD),
        ("key material's first byte", with(&image, key, &[!image[key]]), WRONG),
    ] {
        assert_eq!(opened(&image), expected, "{what}");
    }
}

/// All that has no parts of its own, by its path.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(parts) if !parts.is_empty() => {
            parts.iter().for_each(|(key, part)| leaves(part, &format!("{path}/{key}"), found));
        }
        Value::Array(parts) if !parts.is_empty() => {
            (0..).zip(parts).for_each(|(i, part)| leaves(part, &format!("{path}/{i}"), found));
        }
        _ => found.push(path.to_owned()),
    }
}

fn described(image: &[u8], description: &Value) -> Vec<u8> {
    let mut text = description.to_string().into_bytes();
    text.resize(COPY - 4096, 0);
    summed(in_both(image, 4096, &text))
}

#[test]
fn each_part_of_the_description_of_version_2() {
    let image = volume(Format::luks2());
    let text = &image[4096..COPY];
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    let good: Value = serde_json::from_slice(&text[..end]).unwrap();
    let mut paths = Vec::new();
    leaves(&good, "", &mut paths);
    assert!(paths.len() >= 30, "{paths:?}");
    // Nobody reads these, or only to see that there is nothing in them.
    let unread = ["/tokens", "/config/json_size", "/config/keyslots_size", "/keyslots/0/area/type"];
    let unread = [&unread[..], &["/keyslots/0/af/type"]].concat();
    let damages = [
        Value::Null,
        json!(-1),
        json!(""),
        json!("?"),
        json!({}),
        json!(1.5),
        json!(u64::MAX),
        json!("99999999999999999999999"),
    ];
    for path in &paths {
        for damage in &damages {
            // Any number will do for these.
            let numbers = ["/segments/0/iv_tweak", "/keyslots/0/area/size"];
            if numbers.contains(&path.as_str()) && damage.is_u64() {
                continue;
            }
            let mut description = good.clone();
            *description.pointer_mut(path).unwrap() = damage.clone();
            let found = opened(&described(&image, &description));
            match unread.contains(&path.as_str()) {
                true => assert_eq!(found, GOOD, "{path}: {damage}"),
                false => {
                    let clear = [CORRUPT, UNSUPPORTED, WRONG].contains(&found);
                    assert!(clear, "{path}: {damage}: {found}");
                }
            }
        }
    }
    // Some that are well made, and cannot be.
    for (path, damage, expected) in [
        ("/segments/0/offset", json!("0"), UNSUPPORTED),
        ("/segments/0/offset", json!("4096"), CORRUPT),
        ("/segments/0/offset", json!("65536"), CORRUPT),
        ("/segments/0/sector_size", json!(8192), CORRUPT),
        ("/segments/0/size", json!("513"), CORRUPT),
        ("/segments/0/encryption", json!("aes-cbc-plain"), UNSUPPORTED),
        ("/segments/0/integrity", json!({"type": "hmac(sha256)"}), UNSUPPORTED),
        ("/segments/1", json!({"type": "linear"}), UNSUPPORTED),
        ("/config/requirements", json!({"mandatory": ["online-reencrypt"]}), UNSUPPORTED),
        ("/keyslots/0/area/offset", json!("0"), CORRUPT),
        ("/keyslots/0/area/offset", json!("16777216"), CORRUPT),
        ("/keyslots/0/area/size", json!("4096"), CORRUPT),
        ("/keyslots/0/kdf/type", json!("scrypt"), UNSUPPORTED),
        ("/keyslots/0/kdf/iterations", json!(0), CORRUPT),
        ("/keyslots/0/af/stripes", json!(0), CORRUPT),
        ("/keyslots/0/priority", json!(0), WRONG),
        ("/digests/0/digest", json!("AAAA"), CORRUPT),
        ("/digests/0/keyslots", json!([]), WRONG),
        ("/digests/0/segments", json!(["7"]), WRONG),
    ] {
        let mut description = good.clone();
        let (above, key) = path.rsplit_once('/').unwrap();
        description.pointer_mut(above).unwrap()[key] = damage.clone();
        assert_eq!(opened(&described(&image, &description)), expected, "{path}: {damage}");
    }
}

#[test]
fn files_that_end_too_early() {
    for format in [Format::luks1(), Format::luks2()] {
        let image = volume(format);
        let cut = |len: usize| opened(&image[..len]);
        assert_eq!(cut(0), NONE);
        assert_eq!(cut(5), NONE);
        for len in [6, 8, 300, 591, 4096, 5000, 40_000] {
            assert_eq!(cut(len), CORRUPT, "{len}");
        }
    }
}

/// A partition that is a volume makes none of the disk: its offsets count from the partition.
#[test]
fn a_disk_with_a_volume_on_it() {
    for format in [Format::luks1(), Format::luks2()] {
        let image = volume(format);
        for at in [0x4000, 0x8000, 1 << 20] {
            let disk = [vec![0; at], image.clone()].concat();
            assert_eq!(opened(&disk), NONE, "at {at}");
        }
    }
}
