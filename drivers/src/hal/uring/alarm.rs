//! The end of a sleep that outlasts the sleep.
//!
//! A time limit of `io_uring_enter` is a timer that the kernel sets when it goes to sleep, and takes off
//! when it wakes up: with one connection, a fourteenth of all an echo costs. Most sleeps end early, and
//! the next one has the same limit, for it is that of the next timer. So a limit that is met a second
//! time becomes an operation of the ring, which stays when something else ends the sleep.
//!
//! **Invariants.** The alarm rings at `rings`, and is there as long as its completion has not been read. So a
//! sleep without a limit of its own ends at most `SLACK` after the limit that it was to have.
//!
//! A ring that several threads drive has none: its completion would interrupt a thread of the user's in
//! whatever that does.

use std::time::Duration;

use io_uring::types::{TimeoutFlags, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::setup::{self, Rung};
use super::{TAG_ALARM, TAG_CANCEL};

/// How much later than the limit of a sleep the alarm may ring.
const SLACK: Duration = Duration::from_micros(100);
/// Limits as close as that are the same: timers are counted in milliseconds.
const SAME: Duration = Duration::from_millis(1);

pub(super) struct Alarm {
    is_used: bool,
    /// By the kernel's monotonic clock, as all here.
    rings: Option<Duration>,
    /// The limit of the last sleep that the alarm was of no use to.
    last: Option<Duration>,
    /// Read by the kernel when it takes the entry.
    time: Box<Timespec>,
    /// That it has been moved is no news.
    moved_flags: squeue::Flags,
}

/// The time by the clock that the kernel's timers go by.
fn now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives through the call, which fills it, and cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Alarm {
    pub(super) fn new(ring: &IoUring, rung: Rung) -> Alarm {
        Alarm {
            is_used: rung.is_of_one_thread(),
            rings: None,
            last: None,
            time: Box::default(),
            moved_flags: setup::silent(ring),
        }
    }

    /// What is left to limit the sleep that begins.
    pub(super) fn limit(&mut self, ring: &mut IoUring, limit: Duration) -> Option<Duration> {
        if !self.is_used {
            return Some(limit);
        }
        let Some(end) = now().checked_add(limit) else { return Some(limit) };
        if self.rings.is_some_and(|rings| rings <= end + SLACK) {
            return None;
        }
        let is_same = |last: Duration| end.abs_diff(last) < SAME;
        if self.last.replace(end).is_some_and(is_same) && self.set(ring, end) {
            (self.rings, self.last) = (Some(end), None);
            return None;
        }
        Some(limit)
    }

    /// Queues the alarm; one that is set already is moved. `false`: there is no room.
    fn set(&mut self, ring: &mut IoUring, end: Duration) -> bool {
        *self.time = Timespec::from(end);
        let time = &raw const *self.time;
        let entry = if self.rings.is_some() {
            // It rings meanwhile, and is not found: then its completion ends the sleep.
            let moved =
                opcode::TimeoutUpdate::new(TAG_ALARM, time).flags(TimeoutFlags::ABS).build();
            moved.flags(self.moved_flags).user_data(TAG_CANCEL)
        } else {
            opcode::Timeout::new(time).flags(TimeoutFlags::ABS).build().user_data(TAG_ALARM)
        };
        // SAFETY: the time is boxed, and goes after the ring.
        unsafe { ring.submission().push(&entry) }.is_ok()
    }

    /// Its completion has been read.
    pub(super) fn rang(&mut self) {
        (self.rings, self.last) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use overlapped_iomgr::hal::{Hal, Op, Token, Wait};

    use super::super::setup::Rung;
    use super::super::tests::on_rungs;
    use super::super::{UringConfig, UringHal};
    use super::now;

    const OF_ONE_THREAD: [Rung; 2] = [Rung::Defer, Rung::DeferSqArray];

    /// Sleeps until `end` at most, which a receive of a byte ends early.
    fn disturbed(hal: &mut UringHal, end: Instant) {
        let (a, mut b) = UnixStream::pair().unwrap();
        let (mut byte, mut done) = ([0], Vec::new());
        let (fd, buf) = (a.as_raw_fd(), byte.as_mut_ptr());
        // SAFETY: the byte is here until the completion is.
        unsafe { hal.submit(Token::new(8), Op::Recv { fd, buf, len: 1, flags: 0 }, false) };
        let left = || end.saturating_duration_since(Instant::now());
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(2));
            b.write_all(&[1]).unwrap();
        });
        while done.is_empty() {
            hal.turn(Wait::For(left().max(Duration::from_millis(1))), &mut done).unwrap();
        }
        writer.join().unwrap();
        assert_eq!(byte, [1]);
    }

    /// Sleeps until `end`, by whatever it takes. In how many turns.
    fn sleep(hal: &mut UringHal, end: Instant) -> usize {
        let (mut turns, mut done) = (0, Vec::new());
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            hal.turn(Wait::For(left), &mut done).unwrap();
            turns += 1;
        }
        assert!(done.is_empty());
        turns
    }

    #[test]
    fn a_limit_that_is_met_again_is_set_once_and_ends_a_later_sleep() {
        on_rungs(OF_ONE_THREAD, &UringConfig::default(), |hal| {
            let end = Instant::now() + Duration::from_millis(700);
            let by_kernel = now() + Duration::from_millis(700);
            disturbed(hal, end);
            assert!(hal.alarm.rings.is_none(), "met once");
            disturbed(hal, end);
            let set = hal.alarm.rings.expect("met twice");
            assert!(set.abs_diff(by_kernel) < Duration::from_millis(50));
            disturbed(hal, end);
            assert_eq!(hal.alarm.rings, Some(set));
            assert_eq!(hal.in_flight(), 0);
            assert!(sleep(hal, end) < 5, "it does sleep");
            // The alarm itself may not have rung yet.
            sleep(hal, Instant::now() + Duration::from_millis(60));
            assert!(hal.alarm.rings.is_none());
        });
    }

    #[test]
    fn an_earlier_limit_moves_the_alarm() {
        on_rungs(OF_ONE_THREAD, &UringConfig::default(), |hal| {
            let (begin, late) = (Instant::now(), Duration::from_secs(100));
            disturbed(hal, begin + late);
            disturbed(hal, begin + late);
            assert!(hal.alarm.rings.is_some());
            // And a later one does not.
            let set = hal.alarm.rings;
            disturbed(hal, begin + 2 * late);
            assert_eq!(hal.alarm.rings, set);
            let end = Instant::now() + Duration::from_millis(700);
            disturbed(hal, end);
            assert_eq!(hal.alarm.rings, set, "met once");
            disturbed(hal, end);
            assert!(hal.alarm.rings < set);
            // For ever, but for the alarm.
            hal.turn(Wait::Forever, &mut Vec::new()).unwrap();
            assert!(begin.elapsed() >= Duration::from_millis(700) && begin.elapsed() < late);
            assert!(hal.alarm.rings.is_none());
        });
    }

    #[test]
    fn a_ring_of_several_threads_has_none() {
        on_rungs(Rung::SHARED, &UringConfig::default(), |hal| {
            let end = Instant::now() + Duration::from_millis(700);
            for _ in 0..3 {
                disturbed(hal, end);
            }
            assert!(hal.alarm.rings.is_none());
        });
    }
}
