//! Numbers in as few bytes as they need: seven bits per byte, low ones first, where
//! all bytes but the last have the highest bit set. For what there is so much of that
//! every byte counts.

/// Bytes that the largest number takes.
const MAX_LEN: usize = 10;

/// Bytes that a number takes: 1 to 10.
pub fn len(number: u64) -> usize {
    let bits = (u64::BITS - number.leading_zeros()) as usize;
    bits.div_ceil(7).max(1)
}

/// Appends a number.
pub fn put(out: &mut Vec<u8>, number: u64) {
    let mut left = number;
    while left >= 0x80 {
        let [low, ..] = left.to_le_bytes();
        out.push(low | 0x80);
        left >>= 7;
    }
    let [low, ..] = left.to_le_bytes();
    out.push(low);
}

/// Takes the first number off; `None` if there is none.
pub fn take(bytes: &mut &[u8]) -> Option<u64> {
    let len = 1 + bytes.iter().position(|&byte| is_last(byte))?;
    let (number, rest) = bytes.split_at(len);
    *bytes = rest;
    Some(decode(number))
}

/// Takes the first number off bytes that may not be ours; `None`, too, if it is not as
/// [`put`] writes it: in as few bytes as it can be.
pub fn take_checked(bytes: &mut &[u8]) -> Option<u64> {
    let most = bytes.len().min(MAX_LEN);
    let last = bytes[..most].iter().position(|&byte| is_last(byte))?;
    let is_shortest = last == 0 || bytes[last] > 0;
    // Of the longest, the last byte has room for one bit of 64.
    let fits = last + 1 < MAX_LEN || bytes[last] == 1;
    (is_shortest && fits).then(|| take(bytes))?
}

/// Takes the last number off; `None` if there is none.
pub fn take_last(bytes: &mut &[u8]) -> Option<u64> {
    let (_, before) = bytes.split_last()?;
    let start = before.iter().rposition(|&byte| is_last(byte));
    let (rest, number) = bytes.split_at(start.map_or(0, |at| at + 1));
    *bytes = rest;
    Some(decode(number))
}

/// How many numbers there are.
pub fn count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| is_last(byte)).count()
}

/// Whether a byte is the last one of its number.
pub fn is_last(byte: u8) -> bool {
    byte < 0x80
}

fn decode(number: &[u8]) -> u64 {
    let add = |higher, &byte| higher << 7 | u64::from(byte & 0x7f);
    number.iter().rev().fold(0, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_from_both_ends() {
        let edges = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1]);
        let numbers: Vec<u64> = edges.chain([u64::MAX]).collect();
        let mut bytes = Vec::new();
        for (nth, &number) in numbers.iter().enumerate() {
            assert_eq!(count(&bytes), nth);
            let before = bytes.len();
            put(&mut bytes, number);
            assert_eq!(bytes.len() - before, len(number));
        }
        let mut left = &bytes[..];
        for &number in &numbers {
            assert_eq!(take(&mut left), Some(number));
        }
        assert_eq!(take(&mut left), None);
        let mut left = &bytes[..];
        for &number in numbers.iter().rev() {
            assert_eq!(take_last(&mut left), Some(number));
        }
        assert_eq!(take_last(&mut left), None);
    }

    #[test]
    fn foreign_bytes_are_a_number_only_if_they_are_written_as_it_is() {
        let edges = (0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1]);
        for number in edges.chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            let written = bytes.clone();
            // Nothing of what follows is taken.
            bytes.push(0x80);
            let mut left = &bytes[..];
            assert_eq!(take_checked(&mut left), Some(number));
            assert_eq!(left, [0x80]);
            let end = written.len() - 1;
            assert_eq!(take_checked(&mut &written[..end]), None, "it has no end");
            let mut longer = written;
            longer[end] |= 0x80;
            longer.push(0);
            assert_eq!(
                take_checked(&mut &longer[..]),
                None,
                "{number} in more bytes"
            );
        }
        for last in 2..0x80 {
            let too_large = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, last];
            assert_eq!(take_checked(&mut &too_large[..]), None);
        }
        let endless = [0x81; 20];
        assert_eq!(take_checked(&mut &endless[..]), None);
        let long = [
            0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 1,
        ];
        assert_eq!(take_checked(&mut &long[..]), None);
    }
}
