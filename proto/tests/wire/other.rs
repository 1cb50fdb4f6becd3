//! A second implementation of the encoding, which shares no code with ours: rust-protobuf, driven by the same definitions.

use std::collections::HashMap;

use prost_reflect::DescriptorPool;
use protobuf::{
    Message as _,
    descriptor::{
        DescriptorProto, FileDescriptorSet,
        field_descriptor_proto::{Label, Type},
    },
    reflect::{FileDescriptor, MessageDescriptor},
};

/// Its messages by full name.
pub(crate) struct Implementation(HashMap<String, MessageDescriptor>);

impl Implementation {
    /// The implementation for those definitions.
    pub(crate) fn of(pool: &DescriptorPool) -> Self {
        let mut set = FileDescriptorSet::parse_from_bytes(&pool.encode_to_vec()).unwrap();
        for file in set.file.iter_mut().filter(|file| file.syntax() == "proto3") {
            file.message_type.iter_mut().for_each(pack_numbers);
        }
        let files = FileDescriptor::new_dynamic_fds(set.file, &[]).unwrap();
        let mut all = HashMap::new();
        let mut open: Vec<MessageDescriptor> = files.iter().flat_map(FileDescriptor::messages).collect();
        while let Some(message) = open.pop() {
            open.extend(message.nested_messages());
            all.insert(message.full_name().to_owned(), message);
        }
        Self(all)
    }

    /// Takes a message apart and puts it together again.
    #[track_caller]
    pub(crate) fn reencode(&self, name: &str, bytes: &[u8]) -> Vec<u8> {
        let message = self.0[name].parse_from_bytes(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(message.unknown_fields_dyn().iter().count(), 0, "{name} has unknown fields");
        message.write_to_bytes_dyn().unwrap()
    }
}

/// Says what proto3 leaves unsaid, that lists of numbers are packed: messages without generated code need to hear it.
fn pack_numbers(message: &mut DescriptorProto) {
    for field in &mut message.field {
        let number =
            !matches!(field.type_(), Type::TYPE_STRING | Type::TYPE_BYTES | Type::TYPE_MESSAGE | Type::TYPE_GROUP);
        if number && field.label() == Label::LABEL_REPEATED {
            field.options.mut_or_insert_default().set_packed(true);
        }
    }
    message.nested_type.iter_mut().for_each(pack_numbers);
}
