//! What a producer is called.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::limits;

/// The name of a producer: 1 to 200 of `A–Z a–z 0–9 . _ -`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerName(Arc<str>);

/// Why a name is not one that a producer can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProducerNameError {
    /// Empty or too long.
    #[error("a producer's name has 1 to {} characters", limits::PRODUCER_NAME_BYTES.end())]
    Length,
    /// Something else than letters, digits and `. _ -`.
    #[error("a producer's name has only the characters A-Z a-z 0-9 . _ -")]
    Character,
}

impl ProducerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for ProducerName {
    type Error = ProducerNameError;

    fn try_from(name: &str) -> Result<ProducerName, ProducerNameError> {
        if !limits::PRODUCER_NAME_BYTES.contains(&name.len()) {
            return Err(ProducerNameError::Length);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !name.bytes().all(allowed) {
            return Err(ProducerNameError::Character);
        }
        Ok(ProducerName(name.into()))
    }
}

impl Borrow<str> for ProducerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProducerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_to_the_rules() {
        let longest = "x".repeat(200);
        for good in ["a", "A-z_0.9", "__one", ".a", "-", &longest] {
            let name = ProducerName::try_from(good);
            assert_eq!(name.map(|n| n.to_string()).as_deref(), Ok(good));
        }
        let too_long = "x".repeat(201);
        for bad in ["", &too_long] {
            assert_eq!(ProducerName::try_from(bad), Err(ProducerNameError::Length));
        }
        for bad in ["a b", "ä", "a/b", "a\0"] {
            assert_eq!(
                ProducerName::try_from(bad),
                Err(ProducerNameError::Character)
            );
        }
    }
}
