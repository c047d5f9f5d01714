//! Text as Go writes it, for answers that must read like those of Knative's own components.

use std::fmt::Write as _;

/// As `%q` writes it, except that all beyond ASCII is shown as bytes.
pub(super) fn quoted(value: &[u8]) -> String {
    let mut text = String::from('"');
    for byte in value {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => write!(text, "\\x{byte:02x}").unwrap_or_default(),
        }
    }
    text.push('"');
    text
}
