//! Places for connections: how many there may be in all and of one client, and who did not get one.
//!
//! Shared by all workers. A client's share is counted only where it is bounded below what there may be in all; then each
//! connection costs a look into a table, when it begins and when it ends. Requests cost nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tracing::warn;

/// All connections of clients. Cloning gives another handle.
#[derive(Clone, Debug, Default)]
pub struct Places(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    open: AtomicUsize,
    /// Connections by client, while it has any: no more entries than connections.
    of_client: Mutex<HashMap<IpAddr, usize>>,
    unwelcome: [AtomicU64; Unwelcome::ALL.len()],
    not_accepted: AtomicU64,
}

/// Why a connection was closed before anything was read from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// There are as many as there may be in all.
    Connections,
    /// There are as many of this client as it may have.
    ClientConnections,
    /// Who connects to an entrance behind proxies is none of those that are trusted.
    UntrustedProxy,
    /// What a proxy says first is no header of the PROXY protocol, or too long a one.
    ProxyHeader,
    /// A proxy has not said all of its header in time, or went away.
    ProxyHeaderTimeout,
}

impl Unwelcome {
    /// All of them, for metrics.
    pub const ALL: [Self; 5] = [
        Self::Connections,
        Self::ClientConnections,
        Self::UntrustedProxy,
        Self::ProxyHeader,
        Self::ProxyHeaderTimeout,
    ];

    /// As a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ClientConnections => "client_connections",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::ProxyHeader => "proxy_header",
            Self::ProxyHeaderTimeout => "proxy_header_timeout",
        }
    }
}

impl Places {
    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    /// How many connections were closed at once, by reason.
    pub fn unwelcome(&self) -> impl Iterator<Item = (Unwelcome, u64)> {
        let counts = self.0.unwelcome.each_ref();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        Unwelcome::ALL.into_iter().zip(counts)
    }

    /// How often the system could not give us a connection that waits, because files or memory had run out.
    pub fn not_accepted(&self) -> u64 {
        self.0.not_accepted.load(Ordering::Relaxed)
    }

    /// A place for one more, unless `bound` are taken.
    pub(super) fn take(&self, bound: usize) -> Result<Place, Unwelcome> {
        let counted = self
            .0
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < bound).then_some(count + 1)
            });
        match counted {
            Ok(_) => Ok(Place(self.clone())),
            Err(_) => Err(Unwelcome::Connections),
        }
    }

    /// A place for one more of this client, unless it has `bound`.
    pub(super) fn take_of_client(
        &self,
        address: IpAddr,
        bound: usize,
    ) -> Result<ClientPlace, Unwelcome> {
        let client = client(address);
        let mut of_client = self.0.of_client.lock();
        let count = of_client.entry(client).or_default();
        if *count >= bound {
            return Err(Unwelcome::ClientConnections);
        }
        *count += 1;
        drop(of_client);
        Ok(ClientPlace {
            places: self.clone(),
            client,
        })
    }

    /// Counts a connection that is closed at once. The first of a kind is worth a word: a proxy that is not trusted by
    /// mistake would else be a riddle.
    pub(super) fn count(&self, why: Unwelcome, peer: IpAddr) {
        let at = Unwelcome::ALL.iter().position(|one| *one == why);
        let count = at.and_then(|at| self.0.unwelcome.get(at));
        if count.is_some_and(|count| count.fetch_add(1, Ordering::Relaxed) == 0) {
            warn!(%peer, reason = why.as_str(), "a connection is closed at once; from now on such are only counted");
        }
    }

    pub(super) fn count_not_accepted(&self) {
        self.0.not_accepted.fetch_add(1, Ordering::Relaxed);
    }
}

/// What of an address is one client: of IPv6 the first 64 bits, because who has one has all of them (RFC 6177).
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// A place among all connections; free when dropped.
#[derive(Debug)]
pub(super) struct Place(Places);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among a client's connections; free when dropped.
#[derive(Debug)]
pub(super) struct ClientPlace {
    places: Places,
    client: IpAddr,
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut of_client = self.places.0.of_client.lock();
        if let Some(count) = of_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                of_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn there_are_as_many_places_as_the_bound_and_one_again_when_one_is_free() {
        let places = Places::default();
        let first = places.take(2).unwrap();
        let second = places.take(2).unwrap();

        assert_eq!(places.take(2).unwrap_err(), Unwelcome::Connections);

        assert_eq!(places.open(), 2);
        drop(first);
        let third = places.take(2).unwrap();
        drop((second, third));
        assert_eq!(places.open(), 0);
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_a_network_of_64_bits_and_nothing_is_kept_of_who_left() {
        let places = Places::default();
        let take = |text| places.take_of_client(address(text), 1);
        let taken = [
            take("192.0.2.1").unwrap(),
            take("192.0.2.2").unwrap(),
            take("2001:db8:0:1::1").unwrap(),
            take("2001:db8:0:2::1").unwrap(),
        ];

        for same in [
            "192.0.2.1",
            "::ffff:192.0.2.2",
            "2001:db8:0:1::2",
            "2001:db8:0:2:ffff::",
        ] {
            assert_eq!(
                take(same).unwrap_err(),
                Unwelcome::ClientConnections,
                "{same}"
            );
        }

        drop(taken);
        assert!(places.0.of_client.lock().is_empty());
        drop(take("192.0.2.1").unwrap());
    }

    #[test]
    fn who_is_not_welcome_is_counted_by_reason() {
        let places = Places::default();
        for why in Unwelcome::ALL {
            places.count(why, address("192.0.2.1"));
        }
        places.count(Unwelcome::ProxyHeader, address("192.0.2.1"));

        let counts: Vec<_> = places.unwelcome().collect();

        assert_eq!(counts.len(), Unwelcome::ALL.len());
        for (why, count) in counts {
            let expected = if why == Unwelcome::ProxyHeader { 2 } else { 1 };
            assert_eq!(count, expected, "{}", why.as_str());
        }
    }
}
