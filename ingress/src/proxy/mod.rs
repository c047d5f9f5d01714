//! From a permit to a response: connections to endpoints, attempts, bodies, tunnels.
//!
//! [`forward`] tells the story of one request; [`send`] is one attempt, behind which sit the protocol engines, of which
//! [`http1`] is ours; [`pool`] keeps the connections, [`tls`] makes them secure where endpoints want that; [`body`] and [`held`] are what streams; [`sweep`] keeps the
//! deadlines of all of it. Everything here lives on one worker, but for [`probe`], which asks Pods whether they may
//! have requests at all.

pub mod access_log;
pub mod body;
pub mod counts;
pub mod deadlines;
pub mod destination;
pub mod failure;
pub mod forward;
pub mod head;
pub mod held;
pub mod http1;
pub mod log_lines;
pub mod observe;
pub mod pace;
pub mod pool;
pub mod probe;
pub mod request_log;
pub mod send;
pub mod stream;
pub mod sweep;
pub mod tls;
pub mod tunnel;
mod turned_away;
pub mod waiting_page;
