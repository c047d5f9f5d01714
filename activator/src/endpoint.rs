//! One ready replica's address.

use std::fmt;
use std::net::SocketAddr;

/// The address of one replica that serves requests of a Revision.
///
/// Ordered by address, because the first-available policy and the shares of several replicas go by address order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    address: SocketAddr,
    is_secured: bool,
}

impl Endpoint {
    /// An endpoint at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            is_secured: false,
        }
    }

    /// An endpoint that is spoken to by TLS, and in no other way.
    ///
    /// It is part of what the endpoint is, so that no request can be sent there in the clear, whatever it was told
    /// before it got here.
    pub fn secured(address: SocketAddr) -> Self {
        Self {
            address,
            is_secured: true,
        }
    }

    /// Where to connect.
    pub fn address(self) -> SocketAddr {
        self.address
    }

    /// Whether it is spoken to by TLS.
    pub fn is_secured(self) -> bool {
        self.is_secured
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::new(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.address, f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secured { "tls " } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}
