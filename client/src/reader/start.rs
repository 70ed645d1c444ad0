//! Where reading starts.

use statecast_proto::v1;
use statecast_proto::v1::start::Position;

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Start {
    /// The oldest record that is kept.
    #[default]
    Earliest,
    /// Only what is appended from now on.
    Latest,
    /// The record with this offset; it must lie within the readable range, or
    /// be its end.
    Offset(u64),
    /// The first record at or after this time: milliseconds since the Unix
    /// epoch. As `Latest` when there is none.
    Time(i64),
}

impl Start {
    pub(crate) fn into_wire(self) -> v1::Start {
        let position = match self {
            Self::Earliest => Position::Earliest(v1::Earliest {}),
            Self::Latest => Position::Latest(v1::Latest {}),
            Self::Offset(offset) => Position::Offset(offset),
            Self::Time(ms) => Position::TimestampMs(ms),
        };
        v1::Start {
            position: Some(position),
        }
    }

    #[cfg(test)]
    pub(super) fn from_wire(position: &Position) -> Self {
        match *position {
            Position::Earliest(_) => Self::Earliest,
            Position::Latest(_) => Self::Latest,
            Position::Offset(offset) => Self::Offset(offset),
            Position::TimestampMs(ms) => Self::Time(ms),
        }
    }
}
