//! Samples, and how they are compared.

use std::collections::BTreeMap;
use std::{fmt, fs, io};

use overlapped_benches::contest::{median, ratio, target};
use serde_json::Value;

/// Samples by run and repetition: only those of the same turn are compared.
pub type Samples = BTreeMap<(u64, u64), Value>;

/// In the order they came.
pub type Rows = Vec<Row>;

/// A row's name, and its contestants.
pub type Row = (String, Vec<(String, Samples)>);

/// Those of one kind of contest.
pub fn read(name: &str) -> io::Result<Rows> {
    let mut rows: Rows = Vec::new();
    for line in fs::read_to_string(target().join("bench").join(format!("{name}.jsonl")))?.lines() {
        let entry: Value = serde_json::from_str(line)?;
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| entry[key].as_u64().unwrap_or(0);
        let contestant = at(at(&mut rows, text("row")), text("contestant"));
        contestant.insert((number("run"), number("repetition")), entry["sample"].clone());
    }
    Ok(rows)
}

fn at<T: Default>(list: &mut Vec<(String, T)>, name: String) -> &mut T {
    let index = list.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
        list.push((name, T::default()));
        list.len() - 1
    });
    &mut list[index].1
}

/// The median of what stands under a key.
pub fn of(samples: &Samples, key: &str) -> f64 {
    median(&samples.values().filter_map(|s| s[key].as_f64()).collect::<Vec<_>>())
}

/// A comparison turn by turn.
#[derive(Clone, Copy)]
pub struct Compared {
    /// The median of the ratios.
    pub ratio: f64,
    /// How many are below 1.
    pub below: usize,
    /// Of how many.
    pub of: usize,
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({}/{})", self.ratio, self.below, self.of)
    }
}

/// What stands under a key, `a` to `b`, in the turns that have both.
pub fn compared(a: &Samples, b: &Samples, key: &str) -> Option<Compared> {
    let cost = |sample: &Value| sample[key].as_f64().unwrap_or(f64::NAN);
    let pairs = a.iter().filter_map(|(turn, sample)| Some((cost(sample), cost(b.get(turn)?))));
    let (own, base): (Vec<f64>, Vec<f64>) = pairs.unzip();
    let (ratio, below, of) = ratio(&own, &base);
    (of > 0).then_some(Compared { ratio, below, of })
}

/// The samples of a contestant.
pub fn find<'a>(row: &'a Row, name: &str) -> Option<&'a Samples> {
    row.1.iter().find(|(n, _)| n == name).map(|(_, samples)| samples)
}
