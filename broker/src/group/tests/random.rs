//! Random choices that a seed decides.

/// splitmix64: small, fast, good enough to choose test steps.
#[derive(Debug, Clone)]
pub(in crate::group) struct Random(u64);

impl Random {
    pub(in crate::group) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(in crate::group) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[low, high)`.
    pub(in crate::group) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    /// True once in `n` times.
    pub(in crate::group) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    /// The same for smaller numbers.
    pub(in crate::group) fn number(&mut self, low: u32, high: u32) -> u32 {
        let number = self.between(u64::from(low), u64::from(high));
        u32::try_from(number).expect("it is below a small one")
    }

    /// One of these.
    pub(in crate::group) fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        self.some_of(of).expect("there are some")
    }

    /// One of these, if there are any.
    pub(in crate::group) fn some_of<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let len = u64::try_from(of.len()).expect("64 bits are enough");
        let at = (len > 0).then(|| self.between(0, len))?;
        of.get(usize::try_from(at).expect("it is below the length"))
    }
}
