//! Where `consume` starts: `earliest`, `latest`, an offset, or a time.

use std::time::Duration;

use jiff::Timestamp;
use statecast_client::{GroupStart, Start};

/// A start as a person writes it; times that count from now are resolved when
/// the verb runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// Says where.
    At(Start),
    /// So long before now.
    Ago(Duration),
    /// Nowhere: a group goes on where it has committed, or fails.
    Fail,
}

impl From {
    /// Reads a start; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let at = match text {
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            "fail" => return Ok(Self::Fail),
            _ => {
                if let Some(ago) = text.strip_prefix('-') {
                    return humantime::parse_duration(ago)
                        .map(Self::Ago)
                        .map_err(|_| format!("{text:?} is no time before now, such as -1h"));
                }
                match text.strip_prefix('@') {
                    Some(time) => Start::Time(time_ms(time)?),
                    None => match text.parse() {
                        Ok(offset) => Start::Offset(offset),
                        Err(_) => Start::Time(rfc3339_ms(text)?),
                    },
                }
            }
        };
        Ok(Self::At(at))
    }

    /// With `now` in milliseconds since the Unix epoch; the error is for people.
    pub(super) fn resolve(self, now: i64) -> Result<Start, String> {
        match self {
            Self::At(start) => Ok(start),
            Self::Ago(ago) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                Ok(Start::Time(now.saturating_sub(ago)))
            }
            Self::Fail => Err("only a group that is joined can be told to fail".to_owned()),
        }
    }

    /// Where a group begins that has committed nothing.
    pub(super) fn group_start(self, now: i64) -> Result<GroupStart, String> {
        if self == Self::Fail {
            return Ok(GroupStart::Fail);
        }
        match self.resolve(now)? {
            Start::Earliest => Ok(GroupStart::Earliest),
            Start::Latest => Ok(GroupStart::Latest),
            Start::Time(ms) => Ok(GroupStart::Time(ms)),
            _ => Err(
                "a group starts at earliest, latest, a time, or not at all (fail); \
                 to go on at an offset, use `statecast group reset`"
                    .to_owned(),
            ),
        }
    }
}

/// Milliseconds since the Unix epoch, or RFC 3339.
fn time_ms(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(ms) => Ok(ms),
        Err(_) => rfc3339_ms(text),
    }
}

fn rfc3339_ms(text: &str) -> Result<i64, String> {
    let time: Result<Timestamp, _> = text.parse();
    time.map(Timestamp::as_millisecond).map_err(|_| {
        format!(
            "{text:?} is none of earliest, latest, an offset, @MILLISECONDS, -1h, \
             or a time such as 2026-11-23T10:00:00Z"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_say_it() {
        let at = |start| Ok(From::At(start));
        assert_eq!(From::parse("earliest"), at(Start::Earliest));
        assert_eq!(From::parse("latest"), at(Start::Latest));
        assert_eq!(From::parse("42"), at(Start::Offset(42)));
        assert_eq!(From::parse("@1500"), at(Start::Time(1500)));
        assert_eq!(From::parse("1970-01-01T00:00:02Z"), at(Start::Time(2000)));
        assert_eq!(From::parse("@1970-01-01T00:00:02Z"), at(Start::Time(2000)));
        assert_eq!(From::parse("-1h"), Ok(From::Ago(Duration::from_secs(3600))));
    }

    #[test]
    fn time_before_now_is_counted_from_now() {
        let start = From::parse("-2s").unwrap();
        assert_eq!(start.resolve(10_000), Ok(Start::Time(8_000)));
        assert_eq!(start.group_start(10_000), Ok(GroupStart::Time(8_000)));
    }

    #[test]
    fn groups_start_at_no_offset_and_only_they_may_fail() {
        assert!(From::parse("7").unwrap().group_start(0).is_err());
        let fail = From::parse("fail").unwrap();
        assert_eq!(fail.group_start(0), Ok(GroupStart::Fail));
        assert!(fail.resolve(0).is_err());
    }

    #[test]
    fn nonsense_is_told_what_would_make_sense() {
        assert!(From::parse("soon").unwrap_err().contains("earliest"));
        assert!(From::parse("-soon").unwrap_err().contains("-1h"));
    }
}
