//! The format of `consume`: `%k\t%v\n`.

use statecast_client::{Batch, RecordView};

use super::escapes::escaped;

/// How a record is printed.
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
}

impl Format {
    /// Reads a format; the error is for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut chars = text.chars();
        let mut literal = Vec::new();
        while let Some(char) = chars.next() {
            match char {
                '\\' => literal.push(escaped(chars.next())?),
                '%' => {
                    let Some(piece) = field(chars.next())? else {
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

    /// Appends the record to `out`. What the record doesn't have is empty.
    pub(super) fn write(&self, batch: &Batch, record: &RecordView<'_>, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Topic => out.extend_from_slice(batch.topic().as_bytes()),
                Piece::Partition => write_number(batch.partition().into(), out),
                Piece::Offset => write_number(record.offset.into(), out),
                Piece::Timestamp => write_number(record.timestamp_ms.into(), out),
                Piece::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Piece::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Piece::Headers => write_headers(record, out),
            }
        }
    }
}

/// The field that a character after `%` stands for; `None` for `%` itself.
fn field(char: Option<char>) -> Result<Option<Piece>, String> {
    Ok(Some(match char {
        Some('T') => Piece::Topic,
        Some('p') => Piece::Partition,
        Some('o') => Piece::Offset,
        Some('t') => Piece::Timestamp,
        Some('k') => Piece::Key,
        Some('v') => Piece::Value,
        Some('h') => Piece::Headers,
        Some('%') => return Ok(None),
        Some(other) => {
            return Err(format!(
                "unknown field %{other}; known are %T %p %o %t %k %v %h %%"
            ));
        }
        None => return Err("a lone % at the end; write %% for a percent sign".to_owned()),
    }))
}

fn write_number(number: i128, out: &mut Vec<u8>) {
    use std::io::Write;
    write!(out, "{number}").expect("a Vec takes everything");
}

/// As `name=value,name=value`.
fn write_headers(record: &RecordView<'_>, out: &mut Vec<u8>) {
    for (index, header) in record.headers.clone().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(header.name.as_bytes());
        out.push(b'=');
        out.extend_from_slice(header.value.unwrap_or_default());
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
    }
}
