//! One ready replica's address.

use std::cmp::Ordering;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// The address of one replica that serves requests of a Revision, and whether it is spoken to by TLS.
///
/// Ordered by address, because the first-available policy and the shares of several replicas go by address order. As
/// large as an address: requests and queues hold very many.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint(At);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    V4(SocketAddrV4),
    V6(SocketAddrV6),
    SecuredV4(SocketAddrV4),
    SecuredV6(SocketAddrV6),
}

impl Endpoint {
    /// An endpoint at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self(match address {
            SocketAddr::V4(address) => At::V4(address),
            SocketAddr::V6(address) => At::V6(address),
        })
    }

    /// An endpoint that is spoken to by TLS, and in no other way.
    ///
    /// It is part of what the endpoint is, so that no request can be sent there in the clear, whatever it was told
    /// before it got here.
    pub fn secured(address: SocketAddr) -> Self {
        Self(match address {
            SocketAddr::V4(address) => At::SecuredV4(address),
            SocketAddr::V6(address) => At::SecuredV6(address),
        })
    }

    /// Where to connect.
    pub fn address(self) -> SocketAddr {
        match self.0 {
            At::V4(address) | At::SecuredV4(address) => SocketAddr::V4(address),
            At::V6(address) | At::SecuredV6(address) => SocketAddr::V6(address),
        }
    }

    /// Whether it is spoken to by TLS.
    pub fn is_secured(self) -> bool {
        matches!(self.0, At::SecuredV4(_) | At::SecuredV6(_))
    }
}

impl Ord for Endpoint {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |endpoint: &Self| (endpoint.address(), endpoint.is_secured());
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Endpoint {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address(), f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secured() { "tls " } else { "" };
        write!(f, "{scheme}{}", self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_its_address_and_how_it_is_spoken_to_and_no_larger_than_the_address() {
        for address in ["10.0.0.1:8112", "[2001:db8::1]:8112"] {
            let address: SocketAddr = address.parse().unwrap();
            let (plain, secured) = (Endpoint::new(address), Endpoint::secured(address));
            assert_eq!((plain.address(), secured.address()), (address, address));
            assert!(!plain.is_secured() && secured.is_secured());
            assert_ne!(plain, secured);
        }
        assert_eq!(size_of::<Endpoint>(), size_of::<SocketAddr>());
    }

    #[test]
    fn endpoints_are_in_the_order_of_their_addresses() {
        let at = |text: &str| text.parse().unwrap();
        let sorted = [
            Endpoint::secured(at("10.0.0.1:80")),
            Endpoint::new(at("10.0.0.2:80")),
            Endpoint::secured(at("10.0.0.2:80")),
            Endpoint::new(at("10.0.0.2:81")),
            Endpoint::new(at("[::1]:1")),
        ];
        assert!(sorted.is_sorted());
    }
}
