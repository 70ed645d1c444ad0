//! What the broker remembers of keys that it need not know to the last byte.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Stands for a key, within one process: the same for the same key, and by chance for
/// others, one in 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub u64);

/// Gives keys their hashes. Keyed at random and in secret, so that nobody outside can
/// make keys that have the same.
#[derive(Clone, Copy)]
pub struct KeyHasher(SipHasher13);

impl KeyHasher {
    /// `seed` is random and secret.
    pub fn new(seed: u128) -> KeyHasher {
        KeyHasher(SipHasher13::new_with_key(&seed.to_le_bytes()))
    }

    /// The hash of a key.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let mut hasher = self.0;
        hasher.write(key);
        KeyHash(hasher.finish())
    }
}

/// Without its seed.
impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyHasher").finish_non_exhaustive()
    }
}
