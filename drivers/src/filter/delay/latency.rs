//! How long something takes.

use std::fmt;
use std::time::Duration;

use super::super::chance::unit;

/// A distribution of times.
///
/// ```
/// # mod overlapped { pub mod driver { pub use overlapped_drivers::filter; } }
/// use overlapped::driver::filter::{BadLatency, Latency};
/// use std::time::Duration;
///
/// let ms = Duration::from_millis;
/// let disk = Latency::average_p99(ms(4), ms(20))?;
/// let recorded = Latency::histogram([(ms(1), 90), (ms(3), 9), (ms(50), 1)])?;
/// assert!(Latency::between(ms(2), ms(1)).is_err());
/// # _ = (disk, recorded);
/// # Ok::<(), BadLatency>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Latency(Kind);

#[derive(Clone, PartialEq, Debug)]
enum Kind {
    Fixed(Duration),
    /// Each time between, the ends included, as likely.
    Between(Duration, Duration),
    /// A logarithm of seconds that is normal: average and deviation.
    LogNormal(f64, f64),
    /// Times, with the sum of the weights up to each.
    Recorded(Vec<(Duration, u64)>),
}

/// A distribution that there is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum BadLatency {
    /// The least time is above the most.
    Reversed,
    /// The average is 0, or the 99th percentile is below it or above its [`MOST`](Latency::MOST)-fold.
    OutOfReach,
    /// No time has a weight, or the weights are too large to be summed up.
    NoWeight,
}

impl fmt::Display for BadLatency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadLatency::Reversed => "the least time is above the most",
            BadLatency::OutOfReach => {
                "the 99th percentile must be from the average up to 14 times it, and neither be 0"
            }
            BadLatency::NoWeight => "a histogram needs times with weights that can be summed up",
        })
    }
}

impl std::error::Error for BadLatency {}

/// What is above 99 of 100 numbers of the normal distribution.
const Z99: f64 = 2.326_347_874_040_841;

impl Latency {
    /// The 99th percentile may be so many times the average. (Of a log-normal distribution it can be no
    /// more than 14.96 times.)
    pub const MOST: u32 = 14;

    /// Always the same.
    pub fn fixed(time: Duration) -> Latency {
        Latency(Kind::Fixed(time))
    }

    /// Any time between, as likely as any other.
    ///
    /// # Errors
    /// [`BadLatency::Reversed`].
    pub fn between(least: Duration, most: Duration) -> Result<Latency, BadLatency> {
        if least > most {
            Err(BadLatency::Reversed)
        } else {
            Ok(Latency(Kind::Between(least, most)))
        }
    }

    /// The log-normal distribution that has this average, and this time below which 99 of 100 are: most a
    /// little below the average, and a long tail.
    ///
    /// # Errors
    /// [`BadLatency::OutOfReach`].
    pub fn average_p99(average: Duration, p99: Duration) -> Result<Latency, BadLatency> {
        if average.is_zero() || p99 < average || p99 > average.saturating_mul(Self::MOST) {
            return Err(BadLatency::OutOfReach);
        }
        // average = exp(m + s²/2) and p99 = exp(m + Z99·s); the smaller of the two deviations.
        let (average, ratio) = (average.as_secs_f64(), p99.as_secs_f64() / average.as_secs_f64());
        let deviation = Z99 - (Z99 * Z99 - 2.0 * ratio.ln()).max(0.0).sqrt();
        Ok(Latency(Kind::LogNormal(average.ln() - deviation * deviation / 2.0, deviation)))
    }

    /// Times as they were recorded, each as likely as its weight says.
    ///
    /// # Errors
    /// [`BadLatency::NoWeight`].
    pub fn histogram(
        recorded: impl IntoIterator<Item = (Duration, u64)>,
    ) -> Result<Latency, BadLatency> {
        let mut sum = 0u64;
        let mut times = Vec::new();
        for (time, weight) in recorded.into_iter().filter(|(_, weight)| *weight > 0) {
            sum = sum.checked_add(weight).ok_or(BadLatency::NoWeight)?;
            times.push((time, sum));
        }
        if times.is_empty() {
            Err(BadLatency::NoWeight)
        } else {
            Ok(Latency(Kind::Recorded(times)))
        }
    }

    /// A time by chance: `random` gives numbers, all equally likely.
    pub fn draw(&self, mut random: impl FnMut() -> u64) -> Duration {
        match &self.0 {
            Kind::Fixed(time) => *time,
            Kind::Between(least, most) => {
                let width = u64::try_from((*most - *least).as_nanos()).unwrap_or(u64::MAX);
                *least + Duration::from_nanos(random() % width.saturating_add(1))
            }
            Kind::LogNormal(average, deviation) => {
                // Two numbers make a normal one (Box and Muller).
                let (one, other) = (1.0 - unit(random()), unit(random()));
                let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
                let seconds = (average + deviation * normal).exp();
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
            Kind::Recorded(times) => {
                let all = times.last().map_or(1, |(_, sum)| *sum);
                let at = random() % all;
                let index = times.partition_point(|(_, sum)| *sum <= at);
                times.get(index).map_or(Duration::ZERO, |(time, _)| *time)
            }
        }
    }

    /// Whether it is no time at all.
    pub(super) fn is_zero(&self) -> bool {
        self.0 == Kind::Fixed(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::chance::Chance;
    use super::*;

    fn sorted(latency: &Latency, count: usize) -> Vec<Duration> {
        let chance = Chance::new(7);
        let mut times: Vec<_> = (0..count).map(|_| latency.draw(|| chance.draw())).collect();
        times.sort();
        times
    }

    #[test]
    fn average_and_p99_are_as_asked_for() {
        const N: usize = 200_000;
        for (average, p99) in [(1000, 1000), (1000, 1500), (1000, 5000), (250, 3500)] {
            let ms = |ms| Duration::from_millis(ms);
            let times = sorted(&Latency::average_p99(ms(average), ms(p99)).unwrap(), N);
            let near = |is: f64, wanted: u64, by: f64| (is / wanted as f64 - 1.0).abs() < by;
            let mean = times.iter().map(Duration::as_secs_f64).sum::<f64>() / N as f64 * 1000.0;
            assert!(near(mean, average, 0.03), "{average} {p99}: the average is {mean}");
            let found = times[N / 100 * 99].as_secs_f64() * 1000.0;
            assert!(near(found, p99, 0.05), "{average} {p99}: the 99th percentile is {found}");
        }
        let ms = Duration::from_millis;
        for (average, p99) in [(0, 0), (0, 5), (5, 4), (1, 15)] {
            let bad = Latency::average_p99(ms(average), ms(p99));
            assert_eq!(bad, Err(BadLatency::OutOfReach));
        }
    }

    #[test]
    fn a_histogram_is_met() {
        let ms = Duration::from_millis;
        let recorded = Latency::histogram([(ms(1), 70), (ms(9), 0), (ms(5), 30)]).unwrap();
        let times = sorted(&recorded, 10_000);
        let ones = times.iter().filter(|time| **time == ms(1)).count();
        assert!((6800..7200).contains(&ones), "{ones}");
        assert!(times[ones..].iter().all(|time| *time == ms(5)));
        assert_eq!(Latency::histogram([(ms(1), 0)]), Err(BadLatency::NoWeight));
        let large = [(ms(1), u64::MAX), (ms(2), 1)];
        assert_eq!(Latency::histogram(large), Err(BadLatency::NoWeight));
    }

    #[test]
    fn a_range_is_filled() {
        let us = Duration::from_micros;
        let times = sorted(&Latency::between(us(10), us(20)).unwrap(), 10_000);
        assert!(times[0] >= us(10) && times[9_999] <= us(20));
        assert!(times[100] < us(11) && times[9_900] > us(19));
        let all = Latency::between(Duration::ZERO, Duration::MAX).unwrap();
        _ = sorted(&all, 10);
    }
}
