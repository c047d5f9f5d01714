//! Where stat messages go.

use crate::stat::StatMessage;

/// Takes stat messages; behind it is the remote autoscaler or the embedded one.
pub trait StatSink: Send + Sync {
    /// Takes a list of messages that belong together: one tick's reports, or first requests.
    ///
    /// Never waits. What cannot be delivered is dropped and counted by the implementation: the next second brings
    /// newer numbers.
    fn send(&self, messages: Vec<StatMessage>);

    /// Whether what is sent now would reach an autoscaler.
    fn is_connected(&self) -> bool;
}
