//! Messages made of nothing but a definition and a number to start from.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// How full a message is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Every field is there and is not its default. Lists have two items, maps one, so that there is but one encoding.
    Complete,
    /// Any field may be missing; lists and maps are of any small length.
    Random,
}

/// A small random number generator: the same seed gives the same messages on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.roll() >> 11) % end
    }
}

/// A message of that type.
pub(crate) fn message(descriptor: &MessageDescriptor, fill: Fill, dice: &mut Dice) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        if fill == Fill::Complete || dice.below(4) > 0 {
            message.set_field(&field, value(&field, fill, dice));
        }
    }
    message
}

fn value(field: &FieldDescriptor, fill: Fill, dice: &mut Dice) -> Value {
    let count = |dice: &mut Dice, complete| if fill == Fill::Complete { complete } else { dice.below(4) };
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { unreachable!("a map is a list of entries") };
        assert_eq!(entry.map_entry_key_field().kind(), Kind::String, "no contract has other keys");
        let entries = (0..count(dice, 1)).map(|_| {
            let key = MapKey::String(text(fill, dice));
            (key, single(&entry.map_entry_value_field().kind(), fill, dice))
        });
        Value::Map(entries.collect::<HashMap<_, _>>())
    } else if field.is_list() {
        Value::List((0..count(dice, 2)).map(|_| single(&field.kind(), fill, dice)).collect())
    } else {
        single(&field.kind(), fill, dice)
    }
}

fn single(kind: &Kind, fill: Fill, dice: &mut Dice) -> Value {
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "any bits will do")]
    match kind {
        Kind::Bool => Value::Bool(fill == Fill::Complete || dice.below(2) > 0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(fill, dice) as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(fill, dice) as i64),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(fill, dice) as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(fill, dice)),
        Kind::Float => Value::F32(1.5 + dice.below(1000) as f32),
        Kind::Double => Value::F64(1.5 + dice.below(1000) as f64),
        Kind::String => Value::String(text(fill, dice)),
        Kind::Bytes => Value::Bytes(text(fill, dice).into_bytes().into()),
        Kind::Enum(of) => {
            let values: Vec<i32> = of.values().map(|value| value.number()).collect();
            let last = values.last().copied().unwrap_or_default();
            // The last one is not the default, unless there is no other. A value nobody knows has to survive as well.
            let any = [values.as_slice(), &[i32::MAX]].concat();
            Value::EnumNumber(if fill == Fill::Complete { last } else { any[dice.below(any.len() as u64) as usize] })
        }
        Kind::Message(of) => Value::Message(message(of, fill, dice)),
    }
}

/// Small and large numbers alike, in both halves of the range.
fn integer(fill: Fill, dice: &mut Dice) -> u64 {
    let shift = dice.below(32);
    let number = dice.roll() >> shift;
    if fill == Fill::Complete { number | 1 } else { number }
}

fn text(fill: Fill, dice: &mut Dice) -> String {
    const LETTERS: [char; 8] = ['a', 'Z', '0', '/', ':', ' ', 'é', '🦀'];
    let length = if fill == Fill::Complete { 1 + dice.below(8) } else { dice.below(200) };
    (0..length).map(|_| LETTERS[dice.below(8) as usize]).collect()
}
