//! One block of a tar archive (POSIX ustar, with what GNU and pax made of it). Pure.

/// The size of a block.
pub(super) const BLOCK_BYTES: usize = 512;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: u8,
    pub(super) size: u64,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK_BYTES]) -> Result<Self, &'static str> {
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                // The checksum counts itself as spaces.
                u64::from(if (148..156).contains(&at) { b' ' } else { *byte })
            })
            .sum();
        if number(&block[148..156]) != Ok(sum) {
            return Err("it is no tar archive, or a header is damaged");
        }
        let mut name = text(&block[..100]).to_vec();
        // GNU's old format has times where ustar has the beginning of a long name.
        if &block[257..263] == b"ustar\0" {
            let prefix = text(&block[345..500]);
            if !prefix.is_empty() {
                name = [prefix, b"/", &name].concat();
            }
        }
        Ok(Self { name, link: text(&block[157..257]).to_vec(), kind: block[156], size: number(&block[124..136])? })
    }
}

/// A field up to its first zero.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits, or in base 256 if the first bit is set.
fn number(field: &[u8]) -> Result<u64, &'static str> {
    if field[0] & 0x80 != 0 {
        let (sign, digits) = (field[0] & 0x7f, &field[1..]);
        let high = digits.len().saturating_sub(8);
        if sign != 0 || digits[..high].iter().any(|byte| *byte != 0) {
            return Err("a number is out of range");
        }
        return Ok(digits[high..].iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0_u64, |value, digit| match digit {
        b'0'..=b'7' => {
            value.checked_mul(8).map(|value| value + u64::from(digit - b'0')).ok_or("a number is out of range")
        }
        _ => Err("a number is not octal"),
    })
}

/// A number in decimal digits.
pub(super) fn decimal(digits: &[u8]) -> Result<u64, &'static str> {
    let text = std::str::from_utf8(digits).map_err(|_| "a number is not decimal")?;
    text.parse().map_err(|_| "a number is not decimal")
}

/// A key and its value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// The records of an extended header, `length key=value\n` each.
pub(super) fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    const BAD: &str = "an extended header is malformed";
    let mut records = Vec::new();
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
        let length = usize::try_from(decimal(&rest[..space])?).map_err(|_| BAD)?;
        if length > rest.len() || length < space + 2 {
            return Err(BAD);
        }
        let record = rest[space + 1..length].strip_suffix(b"\n").ok_or(BAD)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        records.push((&record[..equals], &record[equals + 1..]));
        rest = &rest[length..];
    }
    Ok(records)
}
