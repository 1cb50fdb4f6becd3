//! Holds our definitions against those of others, name by name and byte by byte.
//!
//! What others have and we lack, or have differently, fails. What only we have must be named below with the reason.

#![expect(clippy::unwrap_used, reason = "a test")]

mod contract;
mod other;
mod registry;
mod shape;
mod values;

use prost::Message as _;
use prost_reflect::{DynamicMessage, ReflectMessage as _};

use crate::{
    contract::{CONTRACT, OURS},
    values::{Dice, Fill},
};

/// How many random messages of each type are sent back and forth.
const ROUNDS: u64 = 24;

/// Our own package: nobody else defines it.
const OWN: &str = "gantry.";
/// No crate carries these definitions to compare with.
const ALONE: &str = "nri.";

/// Messages of the contract whose definition we know under another name.
fn our_name(theirs: &str) -> String {
    theirs.strip_prefix("grpc.").filter(|rest| !rest.starts_with("health.")).map_or_else(
        || theirs.to_owned(),
        |rest| match rest {
            "Any" => "google.protobuf.Any".to_owned(),
            "Status" => "google.rpc.Status".to_owned(),
            _ => format!("ttrpc.{rest}"),
        },
    )
}

/// Decodes with the generated type what `message` encodes to, and the other way round.
#[track_caller]
fn back_and_forth(message: &DynamicMessage, reencode: registry::Reencode, fill: Fill, from: &str) {
    let name = message.descriptor().full_name().to_owned();
    let sent = message.encode_to_vec();
    let answer = reencode(&sent).unwrap_or_else(|error| panic!("{name} of {from}: {error}"));
    if fill == Fill::Complete {
        assert_eq!(answer, sent, "{name} of {from}: {message}");
    }
    let read = |bytes: &[u8]| DynamicMessage::decode(message.descriptor(), bytes).unwrap();
    let (said, heard) = (read(&sent), read(&answer));
    assert!(heard == said, "{name} of {from}:\nsaid  {said}\nheard {heard}");
}

#[test]
fn what_others_encode_our_types_decode_and_encode_to_the_same_bytes() {
    let registry = registry::all();
    let mut compared = 0;
    for source in CONTRACT.iter() {
        for theirs in source.pool.all_messages().filter(|message| !message.is_map_entry()) {
            let Some(reencode) = registry.get(&our_name(theirs.full_name())) else { continue };
            compared += 1;
            back_and_forth(
                &values::message(&theirs, Fill::Complete, &mut Dice::new(1)),
                *reencode,
                Fill::Complete,
                source.from,
            );
            for seed in 0..ROUNDS {
                let message = values::message(&theirs, Fill::Random, &mut Dice::new(seed));
                back_and_forth(&message, *reencode, Fill::Random, source.from);
            }
        }
    }
    assert!(compared > 350, "only {compared} messages were compared");
}

#[test]
fn another_implementation_reads_and_writes_the_same_fields() {
    let registry = registry::all();
    for source in CONTRACT.iter() {
        let other = other::Implementation::of(&source.pool);
        for theirs in source.pool.all_messages().filter(|message| !message.is_map_entry()) {
            let name = theirs.full_name();
            let Some(reencode) = registry.get(&our_name(name)) else { continue };
            for seed in 0..ROUNDS {
                let bytes = values::message(&theirs, Fill::Complete, &mut Dice::new(seed)).encode_to_vec();
                let ours = reencode(&bytes).unwrap();
                // It writes fields in the order of their definition, ours in that of their numbers: nothing else may differ.
                let theirs = other.reencode(name, &ours);
                assert_eq!(theirs.len(), ours.len(), "{name} of {}", source.from);
                assert_eq!(reencode(&theirs).unwrap(), ours, "{name} of {}", source.from);
            }
        }
    }
}

#[test]
fn our_types_keep_every_field_of_our_definitions() {
    for (name, reencode) in registry::all() {
        let descriptor = OURS.pool.get_message_by_name(&name).unwrap();
        back_and_forth(
            &values::message(&descriptor, Fill::Complete, &mut Dice::new(7)),
            reencode,
            Fill::Complete,
            "ours",
        );
    }
}

#[test]
fn the_registry_names_every_message_we_define() {
    let registry = registry::all();
    let missing: Vec<_> = OURS
        .pool
        .all_messages()
        .map(|message| message.full_name().to_owned())
        .filter(|name| !name.starts_with("google.protobuf.") && !name.starts_with(OWN) && !name.starts_with(ALONE))
        .filter(|name| !OURS.pool.get_message_by_name(name).unwrap().is_map_entry() && !registry.contains_key(name))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}
