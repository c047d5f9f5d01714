//! A little chance, where nothing depends on it but that two differ.

use std::hash::{BuildHasher, RandomState};

/// A number that differs from process to process and from call to call: the standard library keys its hash maps with
/// chance from the operating system.
pub(super) fn number() -> u64 {
    RandomState::new().hash_one(0_u8)
}

/// A number from 0 up to, not including, 1.
pub(super) fn fraction() -> f64 {
    let bits = u32::try_from(number() >> 32).unwrap_or(u32::MAX);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// A name in the form of a random UUID (RFC 9562, section 5.4).
pub(super) fn uuid() -> String {
    let (high, low) = (number(), number());
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_look_like_random_uuids_and_differ() {
        let (one, other) = (uuid(), uuid());
        assert_ne!(one, other);
        for uuid in [one, other] {
            let parts: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12]);
            assert!(uuid.split('-').nth(2).unwrap().starts_with('4'));
        }
    }

    #[test]
    fn fractions_stay_below_one() {
        assert!(
            (0..1000)
                .map(|_| fraction())
                .all(|fraction| (0.0..1.0).contains(&fraction))
        );
    }
}
