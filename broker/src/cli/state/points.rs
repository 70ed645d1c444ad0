//! Points in the history of a topic, as a person writes them.

use statecast_client::{AsOf, Scan, Start};

use crate::cli::start::From;

/// A time, or an offset; times that count from now are resolved when the verb runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point(From);

impl Point {
    /// Reads a point; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unclear = || {
            format!(
                "{text:?} is none of an offset, @MILLISECONDS, -1h, or a time such as \
                 2026-11-23T10:00:00Z"
            )
        };
        match From::parse(text) {
            Ok(From::Fail | From::At(Start::Earliest | Start::Latest)) | Err(_) => Err(unclear()),
            Ok(point) => Ok(Self(point)),
        }
    }

    /// With `now` in milliseconds since the Unix epoch.
    pub(super) fn resolve(self, now: i64) -> AsOf {
        match self.0.resolve(now) {
            Ok(Start::Offset(offset)) => AsOf::Offset(offset),
            Ok(Start::Time(ms)) => AsOf::Time(ms),
            _ => unreachable!("it was parsed as an offset or a time"),
        }
    }
}

/// A partition and an offset in it, as `0:42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) partition: u32,
    pub(super) offset: u64,
}

impl Place {
    /// Reads a place; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).ok_or_else(|| format!("{text:?} is no PARTITION:OFFSET, such as 0:42"))
    }

    fn read(text: &str) -> Option<Self> {
        let (partition, offset) = text.split_once(':')?;
        Some(Self {
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
        })
    }
}

/// A state of all partitions: a time, or an offset for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Points {
    Places(Vec<Place>),
    Time(Point),
}

impl Points {
    /// Reads the points; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let places: Option<Vec<_>> = text.split(',').map(Place::read).collect();
        if let Some(places) = places {
            return Ok(Self::Places(places));
        }
        match Point::parse(text) {
            Ok(Point(From::At(Start::Offset(offset)))) => Err(format!(
                "each partition has offsets of its own: write PARTITION:{offset}, with commas between several"
            )),
            Ok(time) => Ok(Self::Time(time)),
            Err(_) => Err(format!(
                "{text:?} is none of PARTITION:OFFSET (with commas between several), \
                 @MILLISECONDS, -1h, or a time such as 2026-11-23T10:00:00Z"
            )),
        }
    }

    /// With `now` in milliseconds since the Unix epoch.
    pub(super) fn set(&self, scan: Scan, now: i64) -> Scan {
        match self {
            Self::Places(places) => places
                .iter()
                .fold(scan, |scan, at| scan.as_of_offset(at.partition, at.offset)),
            Self::Time(point) => match point.resolve(now) {
                AsOf::Time(ms) => scan.as_of_time(ms),
                _ => unreachable!("it was parsed as a time"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn point_is_an_offset_or_a_time() {
        let resolved = |text| Point::parse(text).map(|point| point.resolve(10_000));
        assert_eq!(resolved("42"), Ok(AsOf::Offset(42)));
        assert_eq!(resolved("@1500"), Ok(AsOf::Time(1500)));
        assert_eq!(resolved("-2s"), Ok(AsOf::Time(8000)));
        assert_eq!(resolved("1970-01-01T00:00:02Z"), Ok(AsOf::Time(2000)));
        for text in ["earliest", "latest", "fail", "soon"] {
            assert!(resolved(text).is_err(), "{text}");
        }
    }

    #[test]
    fn points_are_places_or_a_time_but_no_lone_offset() {
        let place = |partition, offset| Place { partition, offset };
        let two = Points::Places(vec![place(0, 5), place(3, 7)]);
        assert_eq!(Points::parse("0:5,3:7"), Ok(two));
        let time = Points::parse("1970-01-01T00:00:02Z");
        assert!(matches!(time, Ok(Points::Time(_))), "{time:?}");
        let lone = Points::parse("42").unwrap_err();
        assert!(lone.contains("PARTITION:42"), "{lone}");
        assert!(Points::parse("latest").is_err());
    }
}
