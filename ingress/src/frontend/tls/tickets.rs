//! Session tickets that several replicas understand, once a Secret has given them keys.
//!
//! A ticket is `name (16) ‖ nonce (12) ‖ AES-256-GCM(seconds since 1970 when it was made (8) ‖ session)`, with the name
//! authenticated; the cipher's key is derived from the Secret's by HKDF-SHA-256 (RFC 5869). Until there are keys, tickets
//! are this process's own, with keys of rustls' that change by themselves; those stay good when keys come.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

use crate::routing::tls::{NAME_BYTES, TicketKeys};

/// How long a ticket is good. RFC 8446 section 4.6.1 allows seven days; whoever gets hold of a key can read what was said
/// by sessions that its tickets have begun by TLS 1.2.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// How far the clock of the replica that made a ticket may be ahead of ours.
const CLOCKS: Duration = Duration::from_secs(5 * 60);

/// What the cipher's keys are derived for.
const PURPOSE: &[u8] = b"parkway session ticket";

/// Makes and reads tickets with keys that can be exchanged while connections are served.
pub struct SharedTickets {
    keys: ArcSwapOption<Vec<Key>>,
    /// Of this process alone.
    own: Option<Arc<dyn ProducesTickets>>,
    random: SystemRandom,
}

struct Key {
    name: [u8; NAME_BYTES],
    cipher: LessSafeKey,
}

impl SharedTickets {
    /// Without keys yet.
    pub fn new() -> Self {
        Self {
            keys: ArcSwapOption::empty(),
            own: rustls::crypto::ring::Ticketer::new().ok(),
            random: SystemRandom::new(),
        }
    }

    /// From now on these are the keys.
    pub fn set(&self, keys: &TicketKeys) {
        let keys = keys.iter().filter_map(|(name, rest)| Key::new(name, rest));
        self.keys.store(Some(Arc::new(keys.collect())));
    }

    fn seal(&self, session: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let Some(newest) = keys.as_ref().and_then(|keys| keys.first()) else {
            return self.own.as_ref()?.encrypt(session);
        };
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let made = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut sealed = [&made.to_be_bytes(), session].concat();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        let cipher = &newest.cipher;
        cipher
            .seal_in_place_append_tag(nonce_of, Aad::from(newest.name), &mut sealed)
            .ok()?;
        Some([&newest.name, nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        self.open_shared(ticket, now)
            .or_else(|| self.own.as_ref()?.decrypt(ticket))
    }

    fn open_shared(&self, ticket: &[u8], now: SystemTime) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let mut keys = keys.as_ref()?.iter();
        let key = keys.find(|key| key.name == *name)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let cipher = &key.cipher;
        let opened = cipher.open_in_place(nonce, Aad::from(*name), &mut sealed);
        let (made, session) = opened.ok()?.split_first_chunk()?;
        let made = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*made)))?;
        let is_good = made <= now.checked_add(CLOCKS)? && now < made + TICKET_LIFETIME;
        is_good.then(|| session.to_vec())
    }
}

impl Key {
    /// `None` only if the cipher does not take a key of its own length.
    fn new(name: &[u8; NAME_BYTES], secret: &[u8]) -> Option<Self> {
        let derived = Salt::new(HKDF_SHA256, &[]).extract(secret);
        let derived = derived.expand(&[PURPOSE], &AES_256_GCM).ok()?;
        Some(Self {
            name: *name,
            cipher: LessSafeKey::new(UnboundKey::from(derived)),
        })
    }
}

impl Default for SharedTickets {
    fn default() -> Self {
        Self::new()
    }
}

/// Without what is secret.
impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.load();
        let keys = keys.as_ref().map(|keys| keys.len());
        f.debug_struct("SharedTickets")
            .field("keys", &keys)
            .finish_non_exhaustive()
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(TICKET_LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.seal(session, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the age of a ticket passes between processes"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_780_000_000 + seconds)
    }

    fn keys(all: &[(&str, u8)]) -> TicketKeys {
        TicketKeys::parse(all.iter().map(|(name, byte)| (*name, [*byte; 80]))).unwrap()
    }

    fn replica(all: &[(&str, u8)]) -> SharedTickets {
        let tickets = SharedTickets::new();
        tickets.set(&keys(all));
        tickets
    }

    #[test]
    fn what_one_replica_makes_the_other_reads_before_and_after_a_rotation() {
        let one = replica(&[("1", 1)]);
        let ticket = one.seal(b"session", after(0)).unwrap();
        let other = replica(&[("1", 1)]);
        assert_eq!(other.open(&ticket, after(1)).unwrap(), b"session");

        other.set(&keys(&[("1", 1), ("2", 2)]));

        assert_eq!(other.open(&ticket, after(1)).unwrap(), b"session");
        let newer = other.seal(b"session", after(1)).unwrap();
        assert_eq!(
            one.open(&newer, after(2)),
            None,
            "made with a key of its own"
        );
        other.set(&keys(&[("2", 2)]));
        assert_eq!(other.open(&ticket, after(1)), None, "its key is gone");
        assert_eq!(other.open(&newer, after(2)).unwrap(), b"session");
    }

    #[test]
    fn tickets_of_other_keys_old_ones_and_changed_ones_are_none() {
        let one = replica(&[("1", 1)]);
        let ticket = one.seal(b"session", after(0)).unwrap();
        let lifetime = TICKET_LIFETIME.as_secs();
        assert!(one.open(&ticket, after(lifetime - 1)).is_some());
        assert_eq!(one.open(&ticket, after(lifetime)), None);
        let early = one.seal(b"session", after(CLOCKS.as_secs() + 1)).unwrap();
        assert_eq!(one.open(&early, after(0)), None);
        let mut same_name = [1; 80];
        same_name[79] = 2;
        let stranger = SharedTickets::new();
        stranger.set(&TicketKeys::parse([("1", same_name)]).unwrap());
        assert_eq!(stranger.open(&ticket, after(1)), None);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(one.open(&changed, after(1)), None, "byte {at}");
            assert_eq!(one.open(&ticket[..at], after(1)), None);
        }
    }

    #[test]
    fn without_keys_tickets_are_the_processs_own_and_stay_good_when_keys_come() {
        let one = SharedTickets::new();
        let ticket = one.seal(b"session", after(0)).unwrap();
        assert_eq!(SharedTickets::new().open(&ticket, after(0)), None);
        one.set(&keys(&[("1", 1)]));
        assert_eq!(one.open(&ticket, after(0)).unwrap(), b"session");
    }
}
