//! A token bucket, kept as a time.

use std::time::{Duration, Instant};

/// Lets so many units through in a second, and a burst of them at once.
///
/// In place of a number of tokens it keeps when the bucket will be full again: every unit taken puts that
/// off by a unit's time. So nothing has to be filled in between, and nothing drifts. **Invariant:** the
/// bucket lacks `rate × (full − now)` units, or none if that is past; more than the burst is a debt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    /// Units a second, and the burst. `None`: any number.
    rate: Option<(u64, u64)>,
    /// `None`: long past.
    full: Option<Instant>,
}

impl Meter {
    pub(super) fn new(rate: Option<u64>, burst: u64) -> Meter {
        Meter { rate: rate.map(|rate| (rate.max(1), burst.max(1))), full: None }
    }

    /// The time of so many units.
    fn time(rate: u64, units: u64) -> Duration {
        let nanos = (u128::from(units) * 1_000_000_000).div_ceil(u128::from(rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long it is until so many units can be taken. More than the burst can be taken, as a debt, when
    /// the bucket is full; none, when it lacks less than the burst.
    pub(super) fn wait(&self, units: u64, now: Instant) -> Duration {
        let (Some((rate, burst)), Some(full)) = (self.rate, self.full) else {
            return Duration::ZERO;
        };
        let lacks = full.saturating_duration_since(now);
        let may_lack = Self::time(rate, burst.saturating_sub(units.max(1)));
        lacks.saturating_sub(may_lack)
    }

    /// Takes units, whether they are there or not.
    pub(super) fn take(&mut self, units: u64, now: Instant) {
        let Some((rate, _)) = self.rate.filter(|_| units > 0) else { return };
        let from = self.full.map_or(now, |full| full.max(now));
        // A time is 584 years at most, so this is never too far to be expressed.
        self.full = Some(from.checked_add(Self::time(rate, units)).unwrap_or(from));
    }

    /// Gives units back that were taken and not used.
    pub(super) fn give(&mut self, units: u64) {
        if let (Some((rate, _)), Some(full)) = (self.rate, self.full) {
            self.full = full.checked_sub(Self::time(rate, units));
        }
    }

    /// Changes rate and burst; what the bucket lacks stays the same number of units.
    pub(super) fn change(&mut self, rate: Option<u64>, burst: u64, now: Instant) {
        let lacks = self.full.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        let units = self.rate.map_or(0, |(rate, _)| {
            let units = lacks.as_nanos() * u128::from(rate) / 1_000_000_000;
            u64::try_from(units).unwrap_or(u64::MAX)
        });
        *self = Meter::new(rate, burst);
        self.take(units, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn units_cost_their_time() {
        let start = Instant::now();
        let mut meter = Meter::new(Some(1000), 100);
        assert_eq!(meter.wait(100, start), Duration::ZERO);
        meter.take(100, start);
        assert_eq!(meter.wait(1, start), SECOND / 1000);
        assert_eq!(meter.wait(100, start), SECOND / 10);
        // A whole burst is there again after its time, and no more than that.
        let later = start + SECOND / 10;
        assert_eq!(meter.wait(100, later), Duration::ZERO);
        let much_later = start + 100 * SECOND;
        meter.take(100, much_later);
        assert_eq!(meter.wait(100, much_later), SECOND / 10);
    }

    #[test]
    fn more_than_the_burst_is_a_debt() {
        let start = Instant::now();
        let mut meter = Meter::new(Some(1000), 100);
        assert_eq!(meter.wait(1000, start), Duration::ZERO);
        meter.take(1000, start);
        assert_eq!(meter.wait(1, start), SECOND - SECOND * 99 / 1000);
        assert_eq!(meter.wait(0, start), SECOND - SECOND * 99 / 1000);
        assert_eq!(meter.wait(1000, start), SECOND);
        meter.give(900);
        assert_eq!(meter.wait(1, start), SECOND / 1000);
    }

    #[test]
    fn a_change_keeps_what_is_owed() {
        let start = Instant::now();
        let mut meter = Meter::new(Some(1000), 1);
        meter.take(1000, start);
        assert_eq!(meter.wait(1, start), SECOND);
        meter.change(Some(10_000), 1, start);
        assert_eq!(meter.wait(1, start), SECOND / 10);
        meter.change(None, 1, start);
        assert_eq!(meter.wait(u64::MAX, start), Duration::ZERO);
        meter.take(u64::MAX, start);
        meter.change(Some(u64::MAX), u64::MAX, start);
        assert_eq!(meter.wait(u64::MAX, start), Duration::ZERO);
        meter.take(u64::MAX, start);
        assert!(meter.wait(u64::MAX, start) <= SECOND);
    }
}
