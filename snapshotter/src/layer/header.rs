//! The 512 bytes in front of each entry, and the records that extend them. Pure: bytes in, values out.

use rustix::fs::Timespec;

pub(crate) const BLOCK: usize = 512;

/// A raw header whose checksum is right.
pub(crate) struct Header<'b> {
    block: &'b [u8; BLOCK],
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// Why bytes are no header.
pub(crate) type Bad = &'static str;

impl<'b> Header<'b> {
    pub(crate) fn parse(block: &'b [u8; BLOCK]) -> Result<Self, Bad> {
        let stated = number(&block[148..156]).ok_or("bad checksum field")?;
        let field = 148..156;
        let rest = || block.iter().enumerate().filter(|(at, _)| !field.contains(at)).map(|(_, byte)| *byte);
        let unsigned = 8 * i64::from(b' ') + rest().map(i64::from).sum::<i64>();
        // Some old writers summed signed bytes.
        if stated != unsigned
            && stated != 8 * i64::from(b' ') + rest().map(|byte| i64::from(byte.cast_signed())).sum::<i64>()
        {
            return Err("wrong header checksum");
        }
        let format = match (&block[257..265], &block[508..512]) {
            (b"ustar  \0", _) => Format::Gnu,
            (magic, b"tar\0") if magic.starts_with(b"ustar\0") => Format::Star,
            (magic, _) if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        };
        Ok(Self { block, format })
    }

    pub(crate) fn kind(&self) -> u8 {
        self.block[156]
    }

    pub(crate) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[0..100]);
        let prefix = match self.format {
            Format::Ustar => text(&self.block[345..500]),
            Format::Star => text(&self.block[345..476]),
            Format::V7 | Format::Gnu => b"",
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, name].join(&b'/') }
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<u32, Bad> {
        let mode = number(&self.block[100..108]).ok_or("bad mode")?;
        Ok(u32::try_from(mode & 0o7777).expect("twelve bits fit"))
    }

    pub(crate) fn uid(&self) -> Result<i64, Bad> {
        number(&self.block[108..116]).ok_or("bad owner")
    }

    pub(crate) fn gid(&self) -> Result<i64, Bad> {
        number(&self.block[116..124]).ok_or("bad group")
    }

    pub(crate) fn size(&self) -> Result<u64, Bad> {
        number(&self.block[124..136]).and_then(|size| u64::try_from(size).ok()).ok_or("bad size")
    }

    pub(crate) fn mtime(&self) -> Result<Timespec, Bad> {
        let tv_sec = number(&self.block[136..148]).ok_or("bad time")?;
        Ok(Timespec { tv_sec, tv_nsec: 0 })
    }

    /// Major and minor number, unchecked.
    pub(crate) fn device(&self) -> Result<(i64, i64), Bad> {
        let major = number(&self.block[329..337]).ok_or("bad device number")?;
        let minor = number(&self.block[337..345]).ok_or("bad device number")?;
        Ok((major, minor))
    }

    /// The first data segments of an old GNU sparse file, whether more follow in blocks of their own, and the whole size.
    pub(crate) fn old_sparse(&self) -> Result<(Vec<Segment>, bool, u64), Bad> {
        let segments = old_sparse_segments(&self.block[386..482])?;
        let size = number(&self.block[483..495]).and_then(|size| u64::try_from(size).ok()).ok_or("bad sparse size")?;
        Ok((segments, self.block[482] != 0, size))
    }
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The segments of a further block of an old GNU sparse file, and whether another one follows.
pub(crate) fn old_sparse_block(block: &[u8; BLOCK]) -> Result<(Vec<Segment>, bool), Bad> {
    Ok((old_sparse_segments(&block[0..504])?, block[504] != 0))
}

fn old_sparse_segments(fields: &[u8]) -> Result<Vec<Segment>, Bad> {
    let mut segments = Vec::new();
    for field in fields.as_chunks::<24>().0 {
        if field[0] == 0 {
            break;
        }
        let value = |bytes: &[u8]| number(bytes).and_then(|value| u64::try_from(value).ok()).ok_or("bad sparse map");
        segments.push(Segment { offset: value(&field[0..12])?, length: value(&field[12..24])? });
    }
    Ok(segments)
}

/// The bytes before the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits, or, with the top bit set, in base 256 and two's complement.
fn number(field: &[u8]) -> Option<i64> {
    if field.first()? & 0x80 != 0 {
        // Seven bits of the first byte: the topmost is the sign.
        let mut value = i128::from((field[0] << 1).cast_signed() >> 1);
        for byte in &field[1..] {
            value = value.checked_mul(256)? | i128::from(*byte);
            if value.unsigned_abs() > 1 << 64 {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let digits = field.iter().position(|byte| !matches!(byte, b' ' | 0)).map_or(&[][..], |start| &field[start..]);
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0)).unwrap_or(digits.len());
    let mut value: i64 = 0;
    for digit in &digits[..end] {
        if !matches!(digit, b'0'..=b'7') {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

/// One `length key=value` record of a pax header.
pub(crate) struct Record<'b> {
    pub(crate) key: &'b [u8],
    pub(crate) value: &'b [u8],
}

/// The next record, and what follows it.
pub(crate) fn record(bytes: &[u8]) -> Result<(Record<'_>, &[u8]), Bad> {
    const BAD: Bad = "bad extended header";
    let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(BAD)?;
    let length = decimal(&bytes[..space]).and_then(|length| usize::try_from(length).ok()).ok_or(BAD)?;
    if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
        return Err(BAD);
    }
    let body = &bytes[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
    if equals == 0 {
        return Err(BAD);
    }
    Ok((Record { key: &body[..equals], value: &body[equals + 1..] }, &bytes[length..]))
}

/// A number in decimal digits and nothing else.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A time in seconds with a fraction, possibly negative.
pub(crate) fn time(value: &[u8]) -> Option<Timespec> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let dot = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    let seconds = i64::try_from(decimal(&value[..dot])?).ok()?;
    let fraction = value.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, at| nanos * 10 + digit(at));
    Some(match (negative, nanos) {
        (false, nanos) => Timespec { tv_sec: seconds, tv_nsec: nanos },
        (true, 0) => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        // The kernel counts nanoseconds upwards from the second before.
        (true, nanos) => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_two_ways() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"00000009", None),
            (b"-0000001", None),
            (b"77777777777\0", Some(0o77_777_777_777)),
            (&[0x80, 0, 0, 0, 0, 0, 1, 0], Some(256)),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(-1)),
            (&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(i64::MAX)),
            (&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0xbf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
            (&[], None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn times_may_have_fractions_and_be_negative() {
        let spec = |tv_sec, tv_nsec| Some(Timespec { tv_sec, tv_nsec });
        for (value, expected) in [
            ("12", spec(12, 0)),
            ("12.5", spec(12, 500_000_000)),
            ("12.1234567899", spec(12, 123_456_789)),
            ("-1.25", spec(-2, 750_000_000)),
            ("-3", spec(-3, 0)),
            ("1.x", None),
            ("", None),
            (".5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(value.as_bytes()), expected, "{value}");
        }
    }

    #[test]
    fn records_are_read_by_their_length() {
        let (first, rest) = record(b"12 path=a=b\n11 x=\n y\n").ok().unwrap();
        assert_eq!((first.key, first.value), (&b"path"[..], &b"a=b"[..]));
        assert_eq!(rest, b"11 x=\n y\n");
        for bad in [
            &b"5 a=b"[..],
            b"99 a=b\n",
            b"4 a\n",
            b" a=b\n",
            b"7 =bcd\n",
            b"0 a=b\n",
            b"x",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(record(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
