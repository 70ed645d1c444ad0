//! The rules that names which users choose have in common.

use std::ops::RangeInclusive;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("is empty or too long")]
    Length,
    /// Something else than letters, digits and `. _ -`.
    #[error("has other characters than A-Z a-z 0-9 . _ -")]
    Character,
    /// It begins with a dot or with `__`, which are the broker's own.
    #[error("begins with a dot or with two underscores")]
    Reserved,
}

/// Whether `name` has a length of `bytes`, only characters of `A–Z a–z 0–9 . _ -`
/// and those that are `also` taken, and doesn't begin as the broker's own do.
pub fn check_name(name: &str, bytes: &RangeInclusive<usize>, also: &[u8]) -> Result<(), NameError> {
    if !bytes.contains(&name.len()) {
        return Err(NameError::Length);
    }
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') || also.contains(&b);
    if !name.bytes().all(allowed) {
        return Err(NameError::Character);
    }
    if name.starts_with('.') || name.starts_with("__") {
        return Err(NameError::Reserved);
    }
    Ok(())
}
