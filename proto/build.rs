//! Generates the code of `statecast.v1` without a `protoc` on the machine.

use std::path::PathBuf;

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

const FILES: [&str; 5] = [
    "statecast/v1/record.proto",
    "statecast/v1/log.proto",
    "statecast/v1/groups.proto",
    "statecast/v1/admin.proto",
    "statecast/v1/state.proto",
];

/// The message whose fields the Rust view keeps as bytes.
const OPAQUE: &str = ".statecast.v1.RecordBatch";

fn main() {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let mut descriptors = protox::compile(FILES, ["proto"]).expect("the proto files compile");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    // What reflection serves is the public view, with structured records.
    std::fs::write(
        out_dir.join("statecast_v1_descriptor.bin"),
        descriptors.encode_to_vec(),
    )
    .expect("OUT_DIR is writable");

    keep_batches_as_bytes(&mut descriptors);
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::BoundedCodec")
        .compile_fds(descriptors)
        .expect("code is generated");
}

/// Turns every field of type `RecordBatch` into `bytes`. An embedded message
/// and a bytes field have the same encoding, so this is the same protocol.
fn keep_batches_as_bytes(descriptors: &mut FileDescriptorSet) {
    let messages = descriptors
        .file
        .iter_mut()
        .flat_map(|f| &mut f.message_type);
    for field in messages.flat_map(|m| &mut m.field) {
        if field.type_name.as_deref() == Some(OPAQUE) {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
}
