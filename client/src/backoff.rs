//! How long to wait between attempts.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Exponential backoff with jitter: after the n-th failure in a row, between
/// half of and the whole of `min(first · 2ⁿ, max)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure. Default: 50 ms.
    pub first: Duration,
    /// The longest wait. Default: 2 s.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(50),
            max: Duration::from_secs(2),
        }
    }
}

impl Backoff {
    /// The wait after this many failures in a row before this one.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        self.jittered(failures, random_fraction())
    }

    fn jittered(&self, failures: u32, fraction: f64) -> Duration {
        let factor = 2_u32.saturating_pow(failures.min(16));
        let whole = self.first.saturating_mul(factor).min(self.max);
        whole.mul_f64(0.5 + fraction / 2.0)
    }
}

/// In `[0, 1)`. The standard library seeds each `RandomState` anew, which is
/// random enough to keep clients from coming back in step.
fn random_fraction() -> f64 {
    let bits = RandomState::new().hash_one(0_u8) >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_the_maximum() {
        let backoff = Backoff {
            first: Duration::from_millis(10),
            max: Duration::from_millis(100),
        };
        let whole: Vec<_> = (0..6)
            .map(|n| backoff.jittered(n, 1.0).as_millis())
            .collect();
        assert_eq!(whole, [10, 20, 40, 80, 100, 100]);
        assert_eq!(backoff.jittered(1, 0.0).as_millis(), 10);
        assert_eq!(backoff.jittered(u32::MAX, 1.0).as_millis(), 100);
    }

    #[test]
    fn jitter_lies_in_the_unit_interval_and_varies() {
        let fractions: Vec<_> = (0..32).map(|_| random_fraction()).collect();
        assert!(fractions.iter().all(|f| (0.0..1.0).contains(f)));
        assert!(fractions.iter().any(|f| (f - fractions[0]).abs() > 1e-9));
    }
}
