//! What `docs/protocol.md` tells is what the code does.

use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use statecast_proto::batch::decode;
use statecast_proto::reason::Reason;
use statecast_proto::{checksum, partition_for_key};
use tonic::Code;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    std::fs::read_to_string(path).expect("the page is there")
}

/// The rows of the table below the header row that begins with `header`.
fn table<'a>(page: &'a str, header: &str) -> Vec<Vec<&'a str>> {
    let mut lines = page.lines();
    lines
        .find(|line| line.starts_with(header))
        .expect("the table is there");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// `NotFound` as `NOT_FOUND`.
fn screaming(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.char_indices() {
        if index > 0 && letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

#[test]
fn table_of_reasons_is_that_of_the_code() {
    let page = page();
    let mut listed = String::new();
    for row in table(&page, "| reason |") {
        writeln!(listed, "| {} |", row.join(" | ")).unwrap();
    }
    let mut expected = String::new();
    for reason in Reason::ALL {
        let status = screaming(&format!("{:?}", Code::from_i32(reason.code())));
        let retry = if reason.retryable() { "yes" } else { "no" };
        let meaning = reason.meaning();
        writeln!(
            expected,
            "| `{reason}` | `{status}` | {retry} | {meaning} |"
        )
        .unwrap();
    }
    assert!(listed == expected, "the table should be:\n{expected}");
}

#[test]
fn hashes_of_keys_are_those_of_the_code() {
    let page = page();
    let vectors = table(&page, "| key | murmur2");
    assert!(vectors.len() > 3);
    for vector in vectors {
        let key = vector[0].trim_matches('`').trim_matches('"');
        let hash: i32 = vector[1].trim_matches('`').parse().unwrap();
        let masked = hash.cast_unsigned() & 0x7fff_ffff;
        // A modulus that leaves the masked hash as it is.
        assert_eq!(partition_for_key(key.as_bytes(), 1 << 31), masked, "{key}");
    }
}

#[test]
fn batch_of_the_example_is_what_the_page_says() {
    let page = page();
    let (before, rest) = page.split_once("```\n0a 06").expect("the example is there");
    let (example, _) = rest.split_once("```").unwrap();
    let mut payload = vec![0x0a, 0x06];
    for line in example.lines() {
        let bytes = line.split_whitespace().map_while(|word| {
            (word.len() == 2)
                .then(|| u8::from_str_radix(word, 16).ok())
                .flatten()
        });
        payload.extend(bytes);
    }
    let crc = format!("`{:#010x}`", checksum(&payload));
    assert!(before.contains(&crc), "its checksum is {crc}");

    let records: Result<Vec<_>, _> = decode(Bytes::from(payload)).unwrap().collect();
    let [first, second] = &records.unwrap()[..] else {
        panic!("the page speaks of two records");
    };
    assert_eq!(first.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(first.value.as_deref(), Some(&b"v"[..]));
    assert_eq!(second.key.as_deref(), Some(&b"l"[..]));
    assert_eq!(second.value, None);
}
