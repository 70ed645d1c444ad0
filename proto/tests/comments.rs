//! Everything in the proto files has a comment: whoever writes a client in
//! another language has nothing else. Units and defaults are in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use statecast_proto::DESCRIPTOR_SET;

const PACKAGE: &str = "statecast.v1";

// Numbers of fields in `descriptor.proto`, of which the paths to places in a
// file consist.
const MESSAGE_OF_FILE: i32 = 4;
const ENUM_OF_FILE: i32 = 5;
const SERVICE_OF_FILE: i32 = 6;
const FIELD_OF_MESSAGE: i32 = 2;
const VALUE_OF_ENUM: i32 = 2;
const METHOD_OF_SERVICE: i32 = 2;

/// What a name at its end says about the unit, and the word that the comment has
/// for it.
const UNITS: [(&str, &str); 4] = [
    ("_ms", "milliseconds"),
    ("_us", "microseconds"),
    ("_bytes", "bytes"),
    ("_size", "bytes"),
];

/// Sizes that are counted otherwise.
const COUNTS: [&str; 1] = ["page_size"];

fn files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTOR_SET).expect("it is ours");
    let ours = set
        .file
        .into_iter()
        .filter(|file| file.package() == PACKAGE);
    let files: Vec<_> = ours.collect();
    assert!(files.len() > 3);
    files
}

/// The comments of a file by the path to what they are about.
struct Comments(BTreeMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Comments {
        let info = file.source_code_info.as_ref().expect("it is kept");
        let comments = info.location.iter().filter_map(|location| {
            let comment = location.leading_comments.as_ref()?;
            // Lines may end anywhere.
            let words: Vec<&str> = comment.split_whitespace().collect();
            Some((location.path.clone(), words.join(" ")))
        });
        Comments(comments.collect())
    }

    fn at(&self, path: &[i32]) -> &str {
        self.0.get(path).map_or("", |comment| comment.trim())
    }
}

/// The items of a list with their indices, which are parts of paths.
fn numbered<T>(items: &[T]) -> impl Iterator<Item = (i32, &T)> {
    (0..).zip(items)
}

/// The comments of a message's fields.
fn fields<'a>(
    message: &'a DescriptorProto,
    place: i32,
    comments: &'a Comments,
) -> impl Iterator<Item = (&'a FieldDescriptorProto, &'a str)> {
    numbered(&message.field).map(move |(at, field)| {
        let path = [MESSAGE_OF_FILE, place, FIELD_OF_MESSAGE, at];
        (field, comments.at(&path))
    })
}

/// Everything that ought to have a comment, by name.
fn commented(file: &FileDescriptorProto) -> Vec<(String, String)> {
    let comments = Comments::of(file);
    let mut all = Vec::new();
    let mut note = |name: String, path: &[i32]| all.push((name, comments.at(path).to_owned()));
    for (place, message) in numbered(&file.message_type) {
        let nested = message.nested_type.iter();
        // The protocol has no nested ones but those that maps consist of.
        assert!(nested.into_iter().all(|nested| {
            let options = nested.options.as_ref();
            options.is_some_and(prost_types::MessageOptions::map_entry)
        }));
        assert!(message.enum_type.is_empty());
        note(message.name().to_owned(), &[MESSAGE_OF_FILE, place]);
        for (at, field) in numbered(&message.field) {
            let name = format!("{}.{}", message.name(), field.name());
            note(name, &[MESSAGE_OF_FILE, place, FIELD_OF_MESSAGE, at]);
        }
    }
    for (place, of) in numbered::<EnumDescriptorProto>(&file.enum_type) {
        note(of.name().to_owned(), &[ENUM_OF_FILE, place]);
        for (at, value) in numbered(&of.value) {
            let path = [ENUM_OF_FILE, place, VALUE_OF_ENUM, at];
            note(value.name().to_owned(), &path);
        }
    }
    for (place, service) in numbered::<ServiceDescriptorProto>(&file.service) {
        note(service.name().to_owned(), &[SERVICE_OF_FILE, place]);
        for (at, method) in numbered(&service.method) {
            let path = [SERVICE_OF_FILE, place, METHOD_OF_SERVICE, at];
            note(format!("{}.{}", service.name(), method.name()), &path);
        }
    }
    all
}

/// The messages that clients send, and those within them.
fn sent_by_clients(files: &[FileDescriptorProto]) -> BTreeSet<String> {
    let messages: BTreeMap<String, &DescriptorProto> = files
        .iter()
        .flat_map(|file| &file.message_type)
        .map(|message| (format!(".{PACKAGE}.{}", message.name()), message))
        .collect();
    let services = files.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| &service.method);
    let mut open: Vec<&str> = methods.map(MethodDescriptorProto::input_type).collect();
    let mut sent = BTreeSet::new();
    while let Some(name) = open.pop() {
        if let Some(message) = messages.get(name)
            && sent.insert(message.name().to_owned())
        {
            open.extend(message.field.iter().map(FieldDescriptorProto::type_name));
        }
    }
    sent
}

fn assert_none(offences: &str) {
    assert!(offences.is_empty(), "\n{offences}");
}

#[test]
fn everything_has_a_comment() {
    let files = files();
    let all: Vec<_> = files.iter().flat_map(commented).collect();
    assert!(all.len() > 250, "all of it is looked at");
    let mut offences = String::new();
    for (name, comment) in all {
        if !comment.ends_with(['.', ':']) {
            writeln!(offences, "{name} has no comment of whole sentences").unwrap();
        }
    }
    assert_none(&offences);
}

#[test]
fn units_are_named() {
    let mut offences = String::new();
    for file in files() {
        let comments = Comments::of(&file);
        for (place, message) in numbered(&file.message_type) {
            for (field, comment) in fields(message, place, &comments) {
                let unit = UNITS.iter().find(|(end, _)| {
                    field.name().ends_with(end) && !COUNTS.contains(&field.name())
                });
                let Some((_, unit)) = unit else { continue };
                if !comment.to_lowercase().contains(unit) {
                    let (message, field) = (message.name(), field.name());
                    writeln!(offences, "{message}.{field} doesn't speak of {unit}").unwrap();
                }
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn what_a_client_may_leave_out_has_a_default_that_is_named() {
    let files = files();
    let sent = sent_by_clients(&files);
    for known in [
        "Join",
        "RecordBatch",
        "Header",
        "TopicConfig",
        "PartitionBatch",
    ] {
        assert!(sent.contains(known), "{known} is sent by clients");
    }
    let mut offences = String::new();
    for file in &files {
        let comments = Comments::of(file);
        let messages = numbered(&file.message_type);
        for (place, message) in messages.filter(|(_, message)| sent.contains(message.name())) {
            for (field, comment) in fields(message, place, &comments) {
                // One of them is chosen, and others aren't there.
                let choice = field.oneof_index.is_some() && !field.proto3_optional();
                if !choice && !comment.contains("Default: ") && !comment.ends_with("Required.") {
                    let (message, field) = (message.name(), field.name());
                    writeln!(offences, "{message}.{field} has no default").unwrap();
                }
            }
        }
    }
    assert_none(&offences);
}

#[test]
fn of_what_a_response_may_leave_out_it_is_said_when() {
    let files = files();
    let sent = sent_by_clients(&files);
    let mut offences = String::new();
    for file in &files {
        let comments = Comments::of(file);
        let messages = numbered(&file.message_type);
        for (place, message) in messages.filter(|(_, message)| !sent.contains(message.name())) {
            for (field, comment) in fields(message, place, &comments) {
                let absent = comment.to_lowercase().contains("absent");
                if field.proto3_optional() && !absent {
                    let (message, field) = (message.name(), field.name());
                    writeln!(offences, "{message}.{field}: when is it absent?").unwrap();
                }
            }
        }
    }
    assert_none(&offences);
}
