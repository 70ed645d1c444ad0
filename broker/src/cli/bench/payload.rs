//! Values for bench records: incompressible, and cheap to make.

use bytes::Bytes;

/// Size of the pool beyond the size of a value: bytes. A prime, so that values
/// repeat only after a long while.
const POOL: usize = 1_048_573;

/// Each value is a slice of one pool of pseudo-random bytes, at an offset that
/// moves on.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    pool: Bytes,
    size: usize,
    at: usize,
}

impl Payload {
    pub(super) fn new(size: usize, seed: u64) -> Self {
        let mut pool = Vec::with_capacity(POOL + size + 8);
        // xorshift64*, by Vigna; a seed of 0 would stay 0.
        let mut state = seed | 1 << 63;
        while pool.len() < POOL + size {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let random = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
            pool.extend_from_slice(&random.to_le_bytes());
        }
        Self {
            pool: pool.into(),
            size,
            at: 0,
        }
    }

    /// The next value.
    pub(super) fn next(&mut self) -> &[u8] {
        let value = &self.pool[self.at..self.at + self.size];
        self.at = (self.at + self.size + 61) % POOL;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_size_and_differ() {
        let mut payload = Payload::new(100, 0);
        let first = payload.next().to_vec();
        assert_eq!(first.len(), 100);
        for _ in 0..100_000 {
            assert_ne!(payload.next(), first);
        }
    }

    #[test]
    fn values_larger_than_the_pool_are_possible() {
        let mut payload = Payload::new(3 << 20, 7);
        assert_eq!(payload.next().len(), 3 << 20);
        assert_eq!(payload.next().len(), 3 << 20);
    }
}
