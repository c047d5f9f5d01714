//! The keys of session tickets that several replicas share.
//!
//! Each is 48 or 80 random bytes, the forms that nginx takes (nginx `src/event/ngx_event_openssl.c`,
//! `ngx_ssl_session_ticket_keys`) and Envoy (80, its `session_ticket_keys`), so that what rotates theirs can rotate
//! these: the first 16 name the key, the rest is what the cipher's key is derived from.

use std::fmt;

/// How many keys are used: the newest, and as many older ones as rotations lie between a ticket and its use. Of more,
/// the oldest count for nothing.
pub const MOST_TICKET_KEYS: usize = 8;

/// How many bytes name a key.
pub const NAME_BYTES: usize = 16;

/// How long a key may be, in bytes.
const LENGTHS: [usize; 2] = [48, 80];

/// Keys of session tickets, the newest first: that one encrypts, all decrypt.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKeys(Vec<Box<[u8]>>);

impl TicketKeys {
    /// Takes keys by their names, of which the greatest, byte by byte, is the newest.
    ///
    /// # Errors
    ///
    /// When there is none, or one has another length than it may have: then none is taken, because replicas that took
    /// some of them would not understand each other.
    pub fn parse<K: AsRef<str>, V: AsRef<[u8]>>(
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, InvalidTicketKeys> {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| other.as_ref().cmp(one.as_ref()));
        let mut keys = Vec::new();
        for (name, key) in entries {
            let key = key.as_ref();
            if !LENGTHS.contains(&key.len()) {
                return Err(InvalidTicketKeys::WrongLength {
                    field: name.as_ref().to_owned(),
                    length: key.len(),
                });
            }
            keys.push(key.into());
        }
        if keys.is_empty() {
            return Err(InvalidTicketKeys::None);
        }
        keys.truncate(MOST_TICKET_KEYS);
        Ok(Self(keys))
    }

    /// Each key's name and the rest of it, the newest first.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8; NAME_BYTES], &[u8])> {
        self.0.iter().filter_map(|key| key.split_first_chunk())
    }
}

/// Without what is secret.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.0.len())
    }
}

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicketKeys {
    /// There is none.
    #[error("there is no key in it: add one of 80 random bytes, such as `openssl rand 80` gives")]
    None,
    /// One is too short or too long.
    #[error(
        "{field}: a key has 80 bytes, or 48, and this has {length}: make one with `openssl rand 80`"
    )]
    WrongLength {
        /// Which.
        field: String,
        /// How many bytes it has.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(entries: &[(&str, &[u8])]) -> Result<TicketKeys, InvalidTicketKeys> {
        TicketKeys::parse(entries.iter().copied())
    }

    #[test]
    fn the_greatest_name_is_the_newest_key_and_the_oldest_of_many_go() {
        let names: Vec<String> = (10..30).map(|day| format!("2026-11-{day}")).collect();
        let entries = names
            .iter()
            .map(|name| (name, [name.as_bytes()[9]; 48]))
            .rev();
        let keys = TicketKeys::parse(entries).unwrap();
        let used: Vec<u8> = keys.iter().map(|(name, _)| name[0]).collect();
        assert_eq!(used, *b"98765432");
        assert!(keys.iter().all(|(_, rest)| rest.len() == 32));
        assert_eq!(format!("{keys:?}"), "TicketKeys(8)");
    }

    #[test]
    fn one_bad_key_makes_all_of_them_unusable() {
        let bad = keys(&[("a", &[1; 80]), ("b", &[2; 32])]).unwrap_err();
        assert!(
            bad.to_string().starts_with("b: a key has 80 bytes"),
            "{bad}"
        );
        assert_eq!(keys(&[]), Err(InvalidTicketKeys::None));
    }
}
