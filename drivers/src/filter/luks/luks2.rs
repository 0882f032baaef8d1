//! Headers of version 2: a few binary fields, and a description in JSON behind them.

use argon2::Algorithm;
use openssl::base64::{decode_block, encode_block};
use openssl::hash::MessageDigest;
use serde_json::{Value, json};

use super::error::LuksError;
use super::header::{Fields, Header, MAGIC, MAGIC_2, check_cipher};
use super::key::{Derivation, Digest, Slot, hash};

/// Bytes of the binary fields.
const BINARY: usize = 4096;

/// Where the second copy may be.
pub(super) const COPIES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// Bytes of each copy that [`write`] makes, and where the key slots' area and the data begin behind
/// them: as cryptsetup does.
const LEN: usize = 0x4000;
pub(super) const AREA: u64 = 2 * LEN as u64;
pub(super) const PAYLOAD: u64 = 16 << 20;

const CHECKSUM: std::ops::Range<usize> = 448..512;

const DAMAGED: LuksError = LuksError::Damaged("its description");

pub(super) fn len_of(start: &[u8]) -> Result<usize, LuksError> {
    let len = Fields(start).u64(8)?;
    if COPIES.contains(&len) { Ok(len as usize) } else { Err(LuksError::Damaged("its length")) }
}

pub(super) fn parse(bytes: &[u8]) -> Result<Header, LuksError> {
    let bytes = Fields(bytes).bytes(0, len_of(bytes)?)?;
    check_sum(bytes)?;
    let text = &bytes[BINARY..];
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    let json: Value = serde_json::from_slice(&text[..end]).map_err(|_| DAMAGED)?;

    let needs = &json["config"]["requirements"]["mandatory"];
    if let Some(first) = needs.as_array().and_then(|needs| needs.first()) {
        let what = format!("what it requires: {}", first.as_str().unwrap_or("?"));
        return Err(LuksError::Unsupported(what));
    }
    let segments = json["segments"].as_object().ok_or(DAMAGED)?;
    let Some((name, segment)) = segments.iter().next() else { return Err(DAMAGED) };
    if segments.len() != 1 || segment["type"] != "crypt" || !segment["integrity"].is_null() {
        return Err(LuksError::Unsupported("more than one plain segment of data".into()));
    }
    check_cipher(text_of(segment, "encryption")?)?;
    let sector = match number(segment, "sector_size")? {
        size @ (512 | 1024 | 2048 | 4096) => size as usize,
        _ => return Err(LuksError::Damaged("the size of its sectors")),
    };
    let size = match text_of(segment, "size")? {
        "dynamic" => None,
        _ => Some(number(segment, "size")?),
    };
    Ok(Header {
        version: 2,
        payload: number(segment, "offset")?,
        size,
        sector,
        tweak: number(segment, "iv_tweak")?,
        slots: slots(&json, name)?,
    })
}

fn check_sum(bytes: &[u8]) -> Result<(), LuksError> {
    let hash = hash(Fields(bytes).text(72, 32)?)?;
    let mut zeroed = bytes.to_vec();
    zeroed[CHECKSUM].fill(0);
    let sum = openssl::hash::hash(hash, &zeroed)?;
    let its = &bytes[CHECKSUM][..hash.size()];
    if *sum == *its { Ok(()) } else { Err(LuksError::Damaged("its checksum")) }
}

/// The key slots of the segment's digest.
fn slots(json: &Value, segment: &str) -> Result<Vec<(Slot, Digest)>, LuksError> {
    let mut slots = Vec::new();
    for digest in json["digests"].as_object().ok_or(DAMAGED)?.values() {
        let lists = |key: &str| digest[key].as_array().ok_or(DAMAGED);
        if !lists("segments")?.iter().any(|name| name == segment) {
            continue;
        }
        if digest["type"] != "pbkdf2" {
            return Err(LuksError::Unsupported("the type of its digest".into()));
        }
        let its = Digest {
            hash: hash(text_of(digest, "hash")?)?,
            salt: base64(digest, "salt")?,
            iterations: number_32(digest, "iterations")?,
            digest: base64(digest, "digest")?,
        };
        for name in lists("keyslots")? {
            let slot = &json["keyslots"][name.as_str().ok_or(DAMAGED)?];
            // Those of priority 0 are opened when they are asked for by number only.
            if slot["type"] == "luks2" && slot["priority"] != 0 {
                slots.push((self::slot(slot)?, its.clone()));
            }
        }
    }
    Ok(slots)
}

fn slot(slot: &Value) -> Result<Slot, LuksError> {
    let (area, af, kdf) = (&slot["area"], &slot["af"], &slot["kdf"]);
    check_cipher(text_of(area, "encryption")?)?;
    let salt = base64(kdf, "salt")?;
    let argon2 = |algorithm| -> Result<Derivation, LuksError> {
        Ok(Derivation::Argon2 {
            algorithm,
            salt: salt.clone(),
            time: number_32(kdf, "time")?,
            memory: number_32(kdf, "memory")?,
            lanes: number_32(kdf, "cpus")?,
        })
    };
    let derivation = match text_of(kdf, "type")? {
        "pbkdf2" => Derivation::Pbkdf2 {
            hash: hash(text_of(kdf, "hash")?)?,
            salt,
            iterations: number_32(kdf, "iterations")?,
        },
        "argon2i" => argon2(Algorithm::Argon2i)?,
        "argon2id" => argon2(Algorithm::Argon2id)?,
        _ => return Err(LuksError::Unsupported("how a key slot derives its key".into())),
    };
    let small = |from: &Value, key| number_32(from, key).map(|n| n as usize);
    let its = Slot {
        derivation,
        hash: hash(text_of(af, "hash")?)?,
        stripes: small(af, "stripes")?,
        key_len: small(slot, "key_size")?,
        area_key_len: small(area, "key_size")?,
        area: number(area, "offset")?,
    };
    let size = number(area, "size")?;
    if its.area_len().is_none_or(|len| len as u64 > size) {
        return Err(LuksError::Damaged("a key slot's area"));
    }
    Ok(its)
}

fn text_of<'a>(value: &'a Value, key: &str) -> Result<&'a str, LuksError> {
    value[key].as_str().ok_or(DAMAGED)
}

/// A number: large ones are written as text.
fn number(value: &Value, key: &str) -> Result<u64, LuksError> {
    match &value[key] {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
    .ok_or(DAMAGED)
}

fn number_32(value: &Value, key: &str) -> Result<u32, LuksError> {
    u32::try_from(number(value, key)?).map_err(|_| DAMAGED)
}

fn base64(value: &Value, key: &str) -> Result<Vec<u8>, LuksError> {
    decode_block(text_of(value, key)?).map_err(|_| DAMAGED)
}

/// What a header that is to be written says.
pub(super) struct New<'a> {
    pub hash: &'a str,
    pub uuid: &'a str,
    pub sector: usize,
    pub slot: &'a Slot,
    pub digest: &'a Digest,
    /// A salt for each copy's checksum.
    pub salts: [[u8; 64]; 2],
}

/// Bytes that a key slot's area has for itself.
pub(super) fn area_size(slot: &Slot) -> u64 {
    ((slot.key_len * slot.stripes) as u64).next_multiple_of(4096)
}

/// Both copies of a header with one key slot.
pub(super) fn write(new: &New<'_>) -> Result<Vec<u8>, LuksError> {
    let Slot { stripes, key_len, area, .. } = new.slot;
    let kdf = match &new.slot.derivation {
        Derivation::Pbkdf2 { salt, iterations, .. } => json!({
            "type": "pbkdf2", "hash": new.hash, "iterations": iterations,
            "salt": encode_block(salt),
        }),
        Derivation::Argon2 { algorithm, salt, time, memory, lanes } => json!({
            "type": algorithm.as_str(), "time": time, "memory": memory, "cpus": lanes,
            "salt": encode_block(salt),
        }),
    };
    let json = json!({
        "keyslots": { "0": {
            "type": "luks2",
            "key_size": key_len,
            "af": { "type": "luks1", "stripes": stripes, "hash": new.hash },
            "area": {
                "type": "raw", "offset": area.to_string(),
                "size": area_size(new.slot).to_string(),
                "encryption": "aes-xts-plain64", "key_size": new.slot.area_key_len,
            },
            "kdf": kdf,
        } },
        "tokens": {},
        "segments": { "0": {
            "type": "crypt", "offset": PAYLOAD.to_string(), "size": "dynamic", "iv_tweak": "0",
            "encryption": "aes-xts-plain64", "sector_size": new.sector,
        } },
        "digests": { "0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": new.hash,
            "iterations": new.digest.iterations,
            "salt": encode_block(&new.digest.salt), "digest": encode_block(&new.digest.digest),
        } },
        "config": {
            "json_size": (LEN - BINARY).to_string(),
            "keyslots_size": (PAYLOAD - AREA).to_string(),
        },
    });
    let json = json.to_string();
    let mut both = vec![0; 2 * LEN];
    for (i, copy) in both.chunks_exact_mut(LEN).enumerate() {
        let mut put = |at: usize, bytes: &[u8]| copy[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, if i == 0 { MAGIC } else { MAGIC_2 });
        put(6, &2u16.to_be_bytes());
        put(8, &(LEN as u64).to_be_bytes());
        put(16, &1u64.to_be_bytes());
        put(72, b"sha256");
        put(104, &new.salts[i]);
        put(168, new.uuid.as_bytes());
        put(256, &((i * LEN) as u64).to_be_bytes());
        put(BINARY, json.as_bytes());
        let sum = openssl::hash::hash(MessageDigest::sha256(), copy)?;
        copy[CHECKSUM][..sum.len()].copy_from_slice(&sum);
    }
    Ok(both)
}
