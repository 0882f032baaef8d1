//! How busy a thread is, as the system sees it.

use std::time::{Duration, Instant};

/// What a thread had used of its core at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    at: Instant,
    cpu: Duration,
    sleeps: i64,
}

impl Usage {
    /// Of the calling thread.
    pub(super) fn now() -> Usage {
        // SAFETY: plain numbers, which the call fills; it cannot fail for the calling thread.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
            usage
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        let cpu = time(usage.ru_utime) + time(usage.ru_stime);
        Usage { at: Instant::now(), cpu, sleeps: usage.ru_nvcsw as i64 }
    }

    /// Whether the thread has not slept at all since then (others may have had its core), or has been
    /// on its core for most of the time.
    pub(super) fn is_overloaded_since(self, before: Usage) -> bool {
        let passed = self.at.saturating_duration_since(before.at);
        self.sleeps == before.sleeps || self.cpu.saturating_sub(before.cpu) > passed * 3 / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_sleep_is_overloaded_and_who_mostly_sleeps_is_not() {
        let before = Usage::now();
        while before.at.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert!(Usage::now().is_overloaded_since(before));
        let before = Usage::now();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!Usage::now().is_overloaded_since(before));
        // Short sleeps, and much work.
        let ms = Duration::from_millis;
        let later = |cpu, sleeps| Usage {
            at: before.at + ms(100),
            cpu: before.cpu + ms(cpu),
            sleeps: before.sleeps + sleeps,
        };
        assert!(later(90, 50).is_overloaded_since(before));
        assert!(!later(50, 50).is_overloaded_since(before));
        assert!(later(50, 0).is_overloaded_since(before));
    }
}
