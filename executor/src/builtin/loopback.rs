//! Brings up the loopback device of a container's own network namespace: without it, the processes of the container do not
//! reach each other by `localhost`.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use serde_json::Value;

use std::os::fd::AsRawFd;

/// It is the first device of every network namespace.
const LOOPBACK_INDEX: i32 = 1;
/// The length of a request: a netlink header and a link message.
const REQUEST: usize = 16 + 16;
/// The length of an answer: a netlink header, an error number, and the header of what it answers.
const ANSWER: usize = 16 + 4 + 16;

/// Whether the container is to have a network namespace that is made for it.
pub(super) fn is_wanted(spec: &Value) -> bool {
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    namespaces.iter().any(|namespace| {
        let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default();
        namespace.get("type").and_then(Value::as_str) == Some("network") && path.is_empty()
    })
}

/// Brings it up, in the network namespace of this process.
pub(super) fn bring_up() -> Result<(), Errno> {
    let route =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::NetlinkRoute))?;
    send(route.as_raw_fd(), &request(), MsgFlags::empty())?;
    let mut answer = [0; ANSWER];
    if recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())? < 20 {
        return Err(Errno::EPROTO);
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        negative => Err(Errno::from_raw(-negative)),
    }
}

/// `RTM_NEWLINK` for the device, with the flag "up" and no other.
fn request() -> [u8; REQUEST] {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    let up = u32::try_from(libc::IFF_UP).unwrap_or_default();
    let mut bytes = [0; REQUEST];
    bytes[0..4].copy_from_slice(&u32::try_from(REQUEST).unwrap_or_default().to_ne_bytes());
    bytes[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    // Sequence number and sender stay 0. Family and type of the device, too: any.
    bytes[20..24].copy_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    bytes[24..28].copy_from_slice(&up.to_ne_bytes());
    bytes[28..32].copy_from_slice(&up.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn only_a_network_namespace_of_its_own_has_a_loopback_device_to_bring_up() {
        let wanted = |namespaces| super::is_wanted(&json!({"linux": {"namespaces": namespaces}}));
        assert!(wanted(json!([{"type": "pid"}, {"type": "network"}])));
        assert!(wanted(json!([{"type": "network", "path": ""}])));
        assert!(!wanted(json!([{"type": "network", "path": "/run/netns/a"}])));
        assert!(!wanted(json!([{"type": "pid"}])));
        assert!(!super::is_wanted(&json!({})));
    }
}
