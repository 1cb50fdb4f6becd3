//! Ids of pods and containers, and the random names of other things.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;

/// The bytes of an id; it has twice as many characters.
const ID_BYTES: usize = 32;

/// A new id: 64 hexadecimal digits, never given twice.
pub fn new_id() -> String {
    hex(&random::<ID_BYTES>())
}

/// A new UUID of version 4.
pub fn new_uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Bytes that nobody can guess.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("every kernel has /dev/urandom");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_form_and_differ() {
        let (one, other) = (new_id(), new_id());
        assert_ne!(one, other);
        assert!(one.len() == 64 && one.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{one}");
        assert!(model::ContainerId::new(one).is_ok());
        let uuid = new_uuid();
        let lengths: Vec<_> = uuid.split('-').map(str::len).collect();
        assert_eq!((lengths, &uuid[14..15]), (vec![8, 4, 4, 4, 12], "4"));
    }
}
