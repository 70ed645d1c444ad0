//! Escapes in arguments: `\t`, `\n`, `\r`, `\0`, `\\`.

/// The bytes that the text stands for.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char == '\\' {
            bytes.push(escaped(chars.next())?);
        } else {
            bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(bytes)
}

/// The byte that a character after a backslash stands for.
pub(super) fn escaped(char: Option<char>) -> Result<u8, String> {
    match char {
        Some('t') => Ok(b'\t'),
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(b'\0'),
        Some('\\') => Ok(b'\\'),
        Some(other) => Err(format!(
            "unknown escape \\{other}; known are \\t \\n \\r \\0 \\\\"
        )),
        None => Err("a lone \\ at the end; write \\\\ for a backslash".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_stand_for_their_bytes() {
        assert_eq!(unescape("a\\tb\\\\\\n").unwrap(), b"a\tb\\\n");
        assert_eq!(unescape("→").unwrap(), "→".as_bytes());
    }

    #[test]
    fn unknown_and_cut_off_escapes_are_refused() {
        assert!(unescape("\\x").unwrap_err().contains("\\x"));
        assert!(unescape("a\\").is_err());
    }
}
