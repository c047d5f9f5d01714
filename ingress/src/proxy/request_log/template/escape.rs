//! The functions of Go's `text/template` that make a value safe where it stands (`src/text/template/funcs.go`).

use std::fmt::{Arguments, Write as _};

/// `js`: safe inside quotes of JavaScript, and of JSON but for the single quote.
pub(super) fn js(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' | '\'' | '"' => out.extend(['\\', character]),
            '<' | '>' | '&' | '=' => put(&mut out, format_args!("\\u{:04X}", u32::from(character))),
            // Go has no word about this one.
            '\x7f' => out.push(character),
            _ if character.is_control() => {
                put(&mut out, format_args!("\\u{:04X}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out
}

/// `html`: safe in text and in quoted attributes.
pub(super) fn html(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            _ => out.push(character),
        }
    }
    out
}

/// `urlquery`: safe as a part of a query.
pub(super) fn url_query(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => put(&mut out, format_args!("%{byte:02X}")),
        }
    }
    out
}

/// `%q`: in quotes, as Go source would have it.
pub(super) fn quote(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for character in value.chars() {
        match character {
            '\\' | '"' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if character.is_ascii_control() => {
                put(&mut out, format_args!("\\x{:02x}", u32::from(character)));
            }
            _ if character.is_control() => {
                put(&mut out, format_args!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
    out
}

/// Writes to a string, which cannot fail.
fn put(out: &mut String, written: Arguments<'_>) {
    out.write_fmt(written).unwrap_or_default();
}
