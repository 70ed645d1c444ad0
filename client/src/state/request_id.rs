//! Names for requests, so that one that is made again is carried out once.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// A name that no other request has, of this process or another: 32 hexadecimal
/// digits.
pub(super) fn fresh() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // The standard library seeds these from the system's randomness, with 128 bits for
    // each thread, and differently each time.
    let random = || RandomState::new().hash_one(number);
    format!("{:016x}{:016x}", random(), random())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let names = |_| (0..1000).map(|_| fresh()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4)
            .map(|n| std::thread::spawn(move || names(n)))
            .collect();
        let all: BTreeSet<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(all.len(), 4000);
        assert!(all.iter().all(|name| name.len() == 32));
    }
}
