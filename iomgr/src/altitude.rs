//! Where filters that go on every stack stand among one another.

use std::fmt;
use std::str::FromStr;

/// A height in a stack, as those of NT's minifilters: a decimal fraction of any length, compared as a
/// number, so that there is room for one more between any two. Higher filters see requests first.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_iomgr::Altitude; } }
/// use overlapped::driver::Altitude;
///
/// let altitude = |text: &str| text.parse::<Altitude>().unwrap();
/// assert!(altitude("385100.45") < altitude("385100.5"));
/// assert!(altitude("385100.5") < altitude("1000000"));
/// assert_eq!(altitude("385100.50"), altitude("0385100.5"));
/// assert_eq!(altitude("385100.50").to_string(), "385100.5");
/// let error = "high".parse::<Altitude>().unwrap_err();
/// assert!(error.to_string().contains("a decimal fraction"));
/// ```
// Digits that do not matter are left out, so that the derived order is that of the numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Altitude {
    places: usize,
    whole: Box<str>,
    fraction: Box<str>,
}

impl Altitude {
    /// Where the filters stand, as it were, that a program has put into a stack by itself, whatever they
    /// are: in the middle of NT's altitudes.
    pub const GIVEN: u32 = 200_000;
}

impl From<u32> for Altitude {
    fn from(whole: u32) -> Altitude {
        whole.to_string().parse().expect("digits")
    }
}

impl FromStr for Altitude {
    type Err = BadAltitude;

    fn from_str(text: &str) -> Result<Altitude, BadAltitude> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return Err(BadAltitude(text.into()));
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        Ok(Altitude { places: whole.len(), whole: whole.into(), fraction: fraction.into() })
    }
}

impl fmt::Display for Altitude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.whole.is_empty() { "0" } else { &self.whole })?;
        if self.fraction.is_empty() { Ok(()) } else { write!(f, ".{}", self.fraction) }
    }
}

/// A text is no [`Altitude`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadAltitude(Box<str>);

impl fmt::Display for BadAltitude {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an altitude is a decimal fraction such as 385100.5, not '{}'", self.0)
    }
}

impl std::error::Error for BadAltitude {}

impl From<BadAltitude> for std::io::Error {
    fn from(error: BadAltitude) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidInput, error)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn altitudes_are_numbers() {
        let order =
            ["0", "0.001", "0.01", "0.9", "1", "9.99", "10", "10.05", "10.5", "10.51", "200000"];
        for (i, one) in order.iter().enumerate() {
            for (j, other) in order.iter().enumerate() {
                let [one, other] = [one, other].map(|text| text.parse::<Altitude>().unwrap());
                assert_eq!(one.cmp(&other), i.cmp(&j), "{one} and {other}");
            }
            assert_eq!(one.parse::<Altitude>().unwrap().to_string(), *one);
        }
        for same in ["007.100", "7.1", "07.1"] {
            assert_eq!(same.parse::<Altitude>().unwrap().to_string(), "7.1");
        }
        assert_eq!(Altitude::from(0), "0.0".parse().unwrap());
        assert_eq!(Altitude::from(4_000_000_000).to_string(), "4000000000");
        for bad in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1.2.3", " 1", "١", "1_000"] {
            assert!(bad.parse::<Altitude>().is_err(), "{bad}");
        }
    }
}
