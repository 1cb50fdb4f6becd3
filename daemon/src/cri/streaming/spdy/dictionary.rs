//! The preset dictionary with which header blocks are compressed (SPDY Protocol, draft 3.1, section 2.6.10.1).

/// Names that the dictionary begins with, each after its length as 32 bits.
const NAMES: [&str; 52] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
];

/// More of them, after the first ones.
const MORE_NAMES: [&str; 12] = [
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
];

/// The rest, without lengths.
const REST: [&str; 7] = [
    "origin",
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently",
    "400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivate",
    "max-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.",
];

/// The dictionary as the compressor wants it.
pub(super) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1500);
    for name in NAMES.iter().chain(&MORE_NAMES) {
        bytes.extend_from_slice(&u32::try_from(name.len()).expect("a short name").to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    // `origin` has its length too, the only one of the rest.
    bytes.extend_from_slice(&6_u32.to_be_bytes());
    bytes.extend(REST.iter().flat_map(|text| text.bytes()));
    bytes
}

#[cfg(test)]
mod tests {
    use super::dictionary;

    /// The checksum is what every SPDY/3 header block begins with: `78 bb e3 c6 a7 c2`.
    #[test]
    fn it_is_the_dictionary_of_the_draft() {
        let (mut low, mut high) = (1_u32, 0_u32);
        for byte in dictionary() {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        assert_eq!(high << 16 | low, 0xe3c6_a7c2);
    }
}
