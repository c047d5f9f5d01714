//! The Secret with the keys of session tickets that all replicas share.

use k8s_openapi::api::core::v1::Secret;

use super::watch::Change;
use crate::routing::tls::{InvalidTicketKeys, TicketKeys};

/// What is kept of the Secret: each of its entries is a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTicketKeys(Result<TicketKeys, InvalidTicketKeys>);

impl KeptTicketKeys {
    /// Reads the Secret.
    pub fn of(secret: &Secret) -> Self {
        let entries = secret.data.iter().flatten();
        Self(TicketKeys::parse(
            entries.map(|(name, value)| (name, &value.0)),
        ))
    }
}

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct KnownTicketKeys {
    known: Option<Result<TicketKeys, String>>,
    is_marked: bool,
}

impl KnownTicketKeys {
    pub(super) fn learn(&mut self, change: Change<KeptTicketKeys>) {
        let kept = match change {
            Change::All(all) => all.into_iter().next(),
            Change::Set(kept) => Some(kept),
            Change::Gone(_) => None,
        };
        let now = match kept {
            Some(KeptTicketKeys(keys)) => keys.map_err(|error| error.to_string()),
            None => Err("it is not there".to_owned()),
        };
        if self.known.as_ref() != Some(&now) {
            self.known = Some(now);
            self.is_marked = true;
        }
    }

    /// What is known, if that is news.
    pub(super) fn change(&mut self) -> Option<Result<TicketKeys, String>> {
        let is_marked = std::mem::take(&mut self.is_marked);
        self.known.clone().filter(|_| is_marked)
    }
}
