//! `google.protobuf.Any` as containerd uses it: the type url is the bare name of the message.
//!
//! It packs and unpacks messages it is told the type of. It never guesses: an `Any` of another type is given back as it
//! came, because clients store `Any`s of their own that nobody else can decode.

use prost::{DecodeError, Name};
use prost_types::Any;

/// Wraps a message; the type url is its full name without any prefix.
#[must_use]
pub fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Whether `any` says that it holds an `M`. A `something/` before the name is accepted.
#[must_use]
pub fn is<M: Name>(any: &Any) -> bool {
    let wanted = M::full_name();
    any.type_url.strip_suffix(wanted.as_str()).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('/'))
}

/// Opens `any` if it holds an `M`; `None` if it holds something else.
///
/// # Errors
///
/// The type is right but the bytes are not a message.
pub fn unpack<M: Name + Default>(any: &Any) -> Result<Option<M>, DecodeError> {
    if is::<M>(any) { M::decode(any.value.as_slice()).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{runc::v1::Options, types::Descriptor};

    #[test]
    fn a_packed_message_has_a_bare_name_and_comes_back() {
        let options = Options { binary_name: "crun".into(), ..Default::default() };
        let any = pack(&options);
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        assert_eq!(unpack::<Options>(&any).unwrap(), Some(options));
    }

    #[test]
    fn a_prefix_before_the_name_is_accepted_but_a_longer_name_is_not() {
        let mut any = pack(&Options { binary_name: "crun".into(), ..Default::default() });
        any.type_url = "type.googleapis.com/containerd.runc.v1.Options".into();
        assert!(unpack::<Options>(&any).unwrap().is_some());
        any.type_url = "my.containerd.runc.v1.Options".into();
        assert!(unpack::<Options>(&any).unwrap().is_none());
    }

    #[test]
    fn another_type_is_none_and_bad_bytes_are_an_error() {
        let any = pack(&Options::default());
        assert!(unpack::<Descriptor>(&any).unwrap().is_none());
        let broken = Any { value: vec![0xff], ..any };
        assert!(unpack::<Options>(&broken).is_err());
    }
}
