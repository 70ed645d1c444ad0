//! Numbers in as few bytes as they need: seven bits per byte, low ones first, where
//! all bytes but the last have the highest bit set. For what there is so much of that
//! every byte counts.

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
}
