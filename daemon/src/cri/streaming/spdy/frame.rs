//! Frames as bytes (SPDY Protocol, draft 3.1, section 2.2). Pure; knows no compression and keeps no state.

use std::io;

/// The version in every control frame.
const VERSION: u16 = 3;
/// Bytes before the payload of any frame.
pub(in super::super) const HEADER_LEN: usize = 8;
/// No more frames follow on this stream from this side.
pub(in super::super) const FLAG_FIN: u8 = 0x01;
/// The longest payload of a control frame that is taken. Header blocks of real clients have some hundred bytes.
pub(super) const MAX_CONTROL: usize = 16 << 10;
/// The longest payload of a data frame that is sent.
pub(super) const MAX_DATA: usize = 32 << 10;

/// The kinds of control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    SynStream = 1,
    SynReply = 2,
    RstStream = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
    Headers = 8,
    WindowUpdate = 9,
}

impl Kind {
    fn of(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::SynStream,
            2 => Self::SynReply,
            3 => Self::RstStream,
            4 => Self::Settings,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::Headers,
            9 => Self::WindowUpdate,
            _ => return None,
        })
    }
}

/// Why a stream is reset (section 2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    InvalidStream = 2,
    RefusedStream = 3,
}

/// The first eight bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    /// Data of a stream.
    Data { stream: u32, fin: bool, len: usize },
    /// A control frame.
    Control(Control),
    /// A control frame of a kind that is to be skipped.
    Unknown { len: usize },
}

/// The header of a control frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Control {
    /// What it is.
    pub kind: Kind,
    /// Its flags.
    pub flags: u8,
    /// How many bytes follow.
    pub len: usize,
}

impl Header {
    /// Reads the first eight bytes of a frame.
    ///
    /// # Errors
    /// Another version, or a control frame of unreasonable length.
    pub(super) fn parse(bytes: [u8; HEADER_LEN]) -> io::Result<Self> {
        let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let flags = bytes[4];
        let len = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
        if first >> 31 == 0 {
            return Ok(Self::Data { stream: first, fin: flags & FLAG_FIN != 0, len });
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(invalid(format!("a SPDY control frame of version {version}, expected {VERSION}")));
        }
        if len > MAX_CONTROL {
            return Err(invalid(format!("a SPDY control frame of {len} bytes, more than {MAX_CONTROL}")));
        }
        Ok(match Kind::of(first as u16) {
            Some(kind) => Self::Control(Control { kind, flags, len }),
            None => Self::Unknown { len },
        })
    }
}

/// An error of the peer.
pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The number at `at` of a payload.
///
/// # Errors
/// The payload ends before it.
pub(super) fn number(payload: &[u8], at: usize) -> io::Result<u32> {
    let bytes = payload.get(at..at + 4).ok_or_else(|| invalid("a SPDY control frame that is too short"))?;
    Ok(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

/// A control frame as bytes.
pub(in super::super) fn encode_control(kind: Kind, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + payload.len());
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&(kind as u16).to_be_bytes());
    frame.extend_from_slice(&flags_and_len(flags, payload.len()));
    frame.extend_from_slice(payload);
    frame
}

/// The header of a data frame.
pub(in super::super) fn encode_data(stream: u32, fin: bool, len: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&(stream & 0x7fff_ffff).to_be_bytes());
    header[4..].copy_from_slice(&flags_and_len(if fin { FLAG_FIN } else { 0 }, len));
    header
}

fn flags_and_len(flags: u8, len: usize) -> [u8; 4] {
    let len = u32::try_from(len).expect("a frame is shorter than 16 MiB").to_be_bytes();
    [flags, len[1], len[2], len[3]]
}

#[cfg(test)]
mod tests {
    use super::{Control, FLAG_FIN, HEADER_LEN, Header, Kind, encode_control, encode_data};

    fn header(bytes: &[u8]) -> [u8; HEADER_LEN] {
        bytes[..HEADER_LEN].try_into().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let ping = encode_control(Kind::Ping, 0, &7_u32.to_be_bytes());
        assert_eq!(ping, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(
            Header::parse(header(&ping)).unwrap(),
            Header::Control(Control { kind: Kind::Ping, flags: 0, len: 4 })
        );
        let data = encode_data(5, true, 70_000);
        assert_eq!(data, [0, 0, 0, 5, FLAG_FIN, 1, 0x11, 0x70]);
        assert_eq!(Header::parse(data).unwrap(), Header::Data { stream: 5, fin: true, len: 70_000 });
    }

    #[test]
    fn other_versions_long_frames_and_unknown_kinds() {
        assert!(Header::parse([0x80, 2, 0, 6, 0, 0, 0, 4]).is_err());
        assert!(Header::parse([0x80, 3, 0, 1, 0, 1, 0, 0]).is_err());
        assert_eq!(Header::parse([0x80, 3, 0, 77, 0, 0, 0, 9]).unwrap(), Header::Unknown { len: 9 });
    }
}
