//! One ready replica's address.

use std::fmt;
use std::net::SocketAddr;

/// The address of one replica that serves requests of a Revision.
///
/// Ordered by address, because the first-available policy and the shares of several replicas go by address order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint(SocketAddr);

impl Endpoint {
    /// An endpoint at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// Where to connect.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
