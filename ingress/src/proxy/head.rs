//! The head of a parked request, packed.
//!
//! While a request runs, its head is `http::request::Parts`, which every engine speaks. While it is parked that would
//! cost kibibytes, so it is packed into one exact allocation, whatever protocol it came by, and unpacked when the
//! request goes on: as `Parts` for HTTP/2, as the bytes of an HTTP/1 head for a connection that is rebuilt.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

/// A request head in one allocation: version, method, target, header fields in their order.
#[derive(Debug)]
pub struct PackedHead(Box<[u8]>);

impl PackedHead {
    /// Packs `parts`; extensions are left behind.
    pub fn pack(parts: &Parts) -> Self {
        let mut bytes = Vec::with_capacity(Self::packed_len(parts));
        bytes.push(match parts.version {
            Version::HTTP_10 => HTTP_10,
            Version::HTTP_2 => HTTP_2,
            _ => HTTP_11,
        });
        put(&mut bytes, parts.method.as_str().as_bytes());
        put(&mut bytes, parts.uri.to_string().as_bytes());
        for (name, value) in &parts.headers {
            put(&mut bytes, name.as_str().as_bytes());
            put(&mut bytes, value.as_bytes());
        }
        Self(bytes.into_boxed_slice())
    }

    /// How many bytes packing `parts` takes.
    pub fn packed_len(parts: &Parts) -> usize {
        let fields: usize = parts
            .headers
            .iter()
            .map(|(name, value)| put_len(name.as_str().len()) + put_len(value.len()))
            .sum();
        1 + put_len(parts.method.as_str().len()) + put_len(uri_len(&parts.uri)) + fields
    }

    /// The size in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is packed, which cannot be: a head has a method.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes a head of the packed bytes again.
    pub fn unpack(&self) -> Option<Parts> {
        let (version, rest) = self.0.split_first()?;
        let mut fields = Fields(rest);
        let method = Method::from_bytes(fields.next()?).ok()?;
        let uri = Uri::try_from(fields.next()?).ok()?;
        let mut headers = HeaderMap::with_capacity(16);
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            let name = HeaderName::from_bytes(name).ok()?;
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = method;
        parts.uri = uri;
        parts.version = match *version {
            HTTP_10 => Version::HTTP_10,
            HTTP_2 => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        parts.headers = headers;
        Some(parts)
    }

    /// Appends the head as HTTP/1 has it on the wire (RFC 9112 section 3), for a connection that is built anew.
    ///
    /// `framing` are whole field lines that belong to the connection and were not packed.
    pub fn write_http1(&self, wire: &mut Vec<u8>, framing: &[u8]) {
        let (version, rest) = self.0.split_at(1.min(self.0.len()));
        let mut fields = Fields(rest);
        let (method, target) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        // Each field's name and value are told apart by two bytes more on the wire.
        wire.reserve(self.0.len() + self.0.len() / 4 + 32);
        wire.extend_from_slice(method);
        wire.push(b' ');
        wire.extend_from_slice(target);
        wire.extend_from_slice(match version {
            [HTTP_10] => b" HTTP/1.0\r\n",
            _ => b" HTTP/1.1\r\n",
        });
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            wire.extend_from_slice(name);
            wire.extend_from_slice(b": ");
            wire.extend_from_slice(value);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(framing);
        wire.extend_from_slice(b"\r\n");
    }
}

const HTTP_10: u8 = 0;
const HTTP_11: u8 = 1;
const HTTP_2: u8 = 2;

/// Appends a field behind its length: seven bits a byte, the lowest first; all bytes but the last have the highest bit.
fn put(bytes: &mut Vec<u8>, field: &[u8]) {
    let mut length = field.len();
    while length > LOW_BITS {
        bytes.push(low_bits(length) | MORE);
        length >>= 7;
    }
    bytes.push(low_bits(length));
    bytes.extend_from_slice(field);
}

/// How many bytes a field takes, with its length.
fn put_len(length: usize) -> usize {
    let bits = usize::BITS - (length | 1).leading_zeros();
    length + usize::try_from(bits.div_ceil(7)).unwrap_or_default()
}

const LOW_BITS: usize = 0x7f;
const MORE: u8 = 0x80;

fn low_bits(length: usize) -> u8 {
    u8::try_from(length & LOW_BITS).unwrap_or_default()
}

fn uri_len(uri: &Uri) -> usize {
    let authority = uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let scheme = uri.scheme_str().map_or(0, |scheme| scheme.len() + 3);
    scheme + authority + uri.path_and_query().map_or(1, |path| path.as_str().len())
}

struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (mut length, mut shift, mut rest) = (0_usize, 0, self.0);
        loop {
            let (byte, further) = rest.split_first()?;
            rest = further;
            length |= usize::from(byte & !MORE).checked_shl(shift)?;
            shift += 7;
            if byte & MORE == 0 {
                break;
            }
        }
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Parts {
        let request = http::Request::builder()
            .method("PURGE")
            .uri("http://shop.example.com/cart?item=1")
            .header("host", "shop.example.com")
            .header("x-twice", "1")
            .header("cookie", "a=b")
            .header("x-twice", "2")
            .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
            .body(())
            .unwrap();
        request.into_parts().0
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let before = parts();
        let packed = PackedHead::pack(&before);
        assert_eq!(packed.len(), PackedHead::packed_len(&before));

        let after = packed.unpack().unwrap();

        assert_eq!(after.method, before.method);
        assert_eq!(after.uri, before.uri);
        assert_eq!(after.version, before.version);
        assert_eq!(after.headers, before.headers);
    }

    #[test]
    fn fields_of_any_length_and_all_versions_come_back() {
        for length in [0, 1, 127, 128, 129, 16_383, 16_384, 70_000] {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                let mut before = parts();
                before.version = version;
                let value = HeaderValue::from_str(&"x".repeat(length)).unwrap();
                before.headers.insert("x-long", value);
                let packed = PackedHead::pack(&before);
                assert_eq!(packed.len(), PackedHead::packed_len(&before));
                let after = packed.unpack().unwrap();
                assert_eq!(after.headers, before.headers);
                assert_eq!(after.version, version);
            }
        }
    }

    #[test]
    fn http1_bytes_are_what_a_client_would_have_sent() {
        let mut wire = Vec::new();
        PackedHead::pack(&parts()).write_http1(&mut wire, b"connection: close\r\n");
        let expected = b"PURGE http://shop.example.com/cart?item=1 HTTP/1.1\r\nhost: shop.example.com\r\n\
            x-twice: 1\r\nx-twice: 2\r\ncookie: a=b\r\nx-latin: caf\xe9\r\nconnection: close\r\n\r\n";
        assert_eq!(wire, expected);
    }
}
