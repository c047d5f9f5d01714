//! What a plain scalar means.

use super::Value;

/// A plain scalar by the core schema of YAML 1.2, section 10.3.2.
///
/// Digits after a leading zero stay a string: YAML 1.1 read them as octal, and a wrong guess is worse than a question.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let has_leading_zero = digits.len() > 1 && digits.starts_with('0');
        return match text.parse() {
            Ok(number) if !has_leading_zero => Value::Int(number),
            Err(_) if !has_leading_zero => Value::Number(text.to_owned()),
            _ => Value::String(text.to_owned()),
        };
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(Ok(number)) = text
            .strip_prefix(prefix)
            .map(|rest| i64::from_str_radix(rest, radix))
        {
            return Value::Int(number);
        }
    }
    if is_float(digits) {
        return Value::Number(text.to_owned());
    }
    Value::String(text.to_owned())
}

fn is_float(unsigned: &str) -> bool {
    let looks_like_one = unsigned
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'))
        && unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) || (looks_like_one && unsigned.parse::<f64>().is_ok())
}
