//! The format of what is printed, as `%k\t%v\n`.

use std::fmt::Display;
use std::io::Write;

use statecast_client::{Batch, Entry, Header, HeaderViews, RecordView, Version};

use super::escapes::escaped;

/// The fields of a record.
const RECORD_FIELDS: &str = "Tpotkvh%";
/// Those of a key and its value, or of a change of it.
const STATE_FIELDS: &str = "TpotkvhVc%";

/// How a record, or a key and its value, is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    Headers,
    Version,
    Change,
}

/// What is printed. What it doesn't have is empty.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) offset: Option<u64>,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) headers: Headers<'a>,
    pub(super) version: Option<Version>,
    /// What became of the key.
    pub(super) change: &'static str,
}

/// Headers, as they are at hand.
#[derive(Debug, Clone)]
pub(super) enum Headers<'a> {
    Views(HeaderViews<'a>),
    Owned(&'a [Header]),
}

impl<'a> Row<'a> {
    pub(super) fn of_record(batch: &'a Batch, record: &'a RecordView<'a>) -> Self {
        Self {
            topic: batch.topic(),
            partition: batch.partition(),
            offset: Some(record.offset),
            timestamp_ms: Some(record.timestamp_ms),
            key: record.key.unwrap_or_default(),
            value: record.value.unwrap_or_default(),
            headers: Headers::Views(record.headers.clone()),
            version: None,
            change: "",
        }
    }

    pub(super) fn of_entry(topic: &'a str, entry: &'a Entry) -> Self {
        Self {
            topic,
            partition: entry.partition,
            offset: Some(entry.offset),
            timestamp_ms: Some(entry.timestamp_ms),
            key: &entry.key,
            value: &entry.value,
            headers: Headers::Owned(&entry.headers),
            version: Some(entry.version),
            change: "put",
        }
    }
}

impl Format {
    /// Reads a format for records; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_with(text, RECORD_FIELDS)
    }

    /// Reads a format for keys and their values; the error is for people.
    pub(super) fn parse_state(text: &str) -> Result<Self, String> {
        Self::parse_with(text, STATE_FIELDS)
    }

    fn parse_with(text: &str, known: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut chars = text.chars();
        let mut literal = Vec::new();
        while let Some(char) = chars.next() {
            match char {
                '\\' => literal.push(escaped(chars.next())?),
                '%' => {
                    let Some(piece) = field(chars.next(), known)? else {
                        literal.push(b'%');
                        continue;
                    };
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                }
                other => literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// Appends the row to `out`. What it doesn't have is empty.
    pub(super) fn write(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Topic => out.extend_from_slice(row.topic.as_bytes()),
                Piece::Partition => write_number(Some(row.partition), out),
                Piece::Offset => write_number(row.offset, out),
                Piece::Timestamp => write_number(row.timestamp_ms, out),
                Piece::Key => out.extend_from_slice(row.key),
                Piece::Value => out.extend_from_slice(row.value),
                Piece::Headers => write_headers(&row.headers, out),
                Piece::Version => write_number(row.version, out),
                Piece::Change => out.extend_from_slice(row.change.as_bytes()),
            }
        }
    }
}

/// The field that a character after `%` stands for; `None` for `%` itself.
fn field(char: Option<char>, known: &str) -> Result<Option<Piece>, String> {
    let Some(char) = char else {
        return Err("a lone % at the end; write %% for a percent sign".to_owned());
    };
    let unknown = || {
        let known = known.chars().map(|char| format!(" %{char}"));
        let known: String = known.collect();
        format!("unknown field %{char}; known are{known}")
    };
    if !known.contains(char) {
        return Err(unknown());
    }
    Ok(Some(match char {
        'T' => Piece::Topic,
        'p' => Piece::Partition,
        'o' => Piece::Offset,
        't' => Piece::Timestamp,
        'k' => Piece::Key,
        'v' => Piece::Value,
        'h' => Piece::Headers,
        'V' => Piece::Version,
        'c' => Piece::Change,
        '%' => return Ok(None),
        _ => return Err(unknown()),
    }))
}

fn write_number(number: Option<impl Display>, out: &mut Vec<u8>) {
    if let Some(number) = number {
        write!(out, "{number}").expect("a Vec takes everything");
    }
}

/// As `name=value,name=value`.
fn write_headers(headers: &Headers<'_>, out: &mut Vec<u8>) {
    let mut is_first = true;
    let mut write = |name: &str, value: Option<&[u8]>| {
        if !std::mem::replace(&mut is_first, false) {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(value.unwrap_or_default());
    };
    match headers {
        Headers::Views(headers) => headers.clone().for_each(|h| write(h.name, h.value)),
        Headers::Owned(headers) => headers
            .iter()
            .for_each(|h| write(&h.name, h.value.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_fields_and_escapes_alternate() {
        let format = Format::parse("%p:%k\\t%v 100%%\\n").unwrap();
        let text = |text: &[u8]| Piece::Text(text.to_vec());
        assert_eq!(
            format.pieces,
            [
                Piece::Partition,
                text(b":"),
                Piece::Key,
                text(b"\t"),
                Piece::Value,
                text(b" 100%\n"),
            ]
        );
    }

    #[test]
    fn unknown_fields_are_named() {
        assert!(Format::parse("%q").unwrap_err().contains("%q"));
        assert!(Format::parse("%").is_err());
        let unknown = Format::parse("%V").unwrap_err();
        assert!(unknown.ends_with("%T %p %o %t %k %v %h %%"), "{unknown}");
    }

    #[test]
    fn what_is_not_there_is_empty() {
        let format = Format::parse_state("%c %p %o %t %V %k=%v %h").unwrap();
        let row = Row {
            topic: "t",
            partition: 3,
            offset: None,
            timestamp_ms: None,
            key: b"key",
            value: b"",
            headers: Headers::Owned(&[]),
            version: None,
            change: "removed",
        };
        let mut out = Vec::new();
        format.write(&row, &mut out);
        assert_eq!(out, b"removed 3    key= ");
    }
}
