//! What a Parkway says of KIngresses: to the other replicas what is in effect here, and, while it leads, to the API what
//! is in effect everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::ConfigMaps;
use crate::admin;
use crate::cli::{PeerAuth as Choice, Serve};
use crate::provider::kubernetes::applied::{AppliedLog, Step};
use crate::provider::kubernetes::client::Client;
use crate::provider::kubernetes::lease::config::ElectionConfig;
use crate::provider::kubernetes::lease::{self, Leadership};
use crate::provider::kubernetes::peers::auth::{PeerAuth, TokenFile};
use crate::provider::kubernetes::peers::confirm::{self, Confirmations, SILENT_AFTER};
use crate::provider::kubernetes::peers::serve_peers;
use crate::provider::kubernetes::status::conditions::Entrances;
use crate::provider::kubernetes::status::{self, StatusBoard};
use crate::provider::kubernetes::{IngressChange, Key, Outcome, Replica};

/// The ConfigMap of the system namespace that says how leaders are elected.
const ELECTION_CONFIG: &str = "config-leader-election";
/// Component and queue of our Lease's name, as Knative puts them together.
const LEASE: (&str, &str) = ("parkway", "ingress");

/// Who leads, what is in effect where, and what is written of it.
#[derive(Debug)]
pub(super) struct Leading {
    log: AppliedLog,
    board: StatusBoard,
    confirmations: Confirmations,
    leadership: Leadership,
    /// Ends our candidature.
    stand_down: CancellationToken,
    /// It has ended, and another may lead.
    has_stood_down: CancellationToken,
}

impl Leading {
    /// Stands for election, answers the other replicas, and writes status while leading: all in `tasks`.
    pub(super) fn start(
        settings: &Serve,
        cluster_domain: &str,
        client: &Client,
        peers: TcpListener,
        config: Option<&ConfigMaps>,
        tasks: &mut JoinSet<()>,
    ) -> Self {
        let stand_down = CancellationToken::new();
        let election = lease::Settings::new(
            &settings.system_namespace,
            &settings.pod_name,
            LEASE,
            election_config(config),
        );
        let (leadership, candidate) = lease::elect(client.clone(), election, stand_down.clone());
        let has_stood_down = CancellationToken::new();
        let stood_down = has_stood_down.clone();
        tasks.spawn(async move {
            candidate.await;
            stood_down.cancel();
            // Who has stood down has nothing more to do.
            std::future::pending::<()>().await;
        });

        let log = AppliedLog::new();
        let token = TokenFile::new(&settings.peer_token_file);
        let auth = match settings.peer_auth {
            Choice::Token => PeerAuth::tokens(client.clone(), token.clone()),
            Choice::None => PeerAuth::Open,
        };
        // All replicas listen on the same one.
        let port = peers.local_addr();
        let port = port.map_or(settings.listen_peers.port(), |address| address.port());
        tasks.spawn(serve_peers(peers, log.clone(), auth));
        let asking = confirm::Settings {
            own_pod: settings.pod_name.clone(),
            port,
            token: (settings.peer_auth == Choice::Token).then_some(token),
            silent_after: SILENT_AFTER,
        };
        let (confirmations, asking) = Confirmations::new(asking, log.clone(), leadership.clone());
        tasks.spawn(asking);

        let namespace = settings.namespace();
        let entrance = |service: &str| format!("{service}.{namespace}.svc.{cluster_domain}");
        let entrances = Entrances {
            public: entrance(&settings.gateway_service),
            private: entrance(&settings.gateway_local_service),
        };
        let board = StatusBoard::new(status::Settings::new(&settings.ingress_class, entrances));
        let writing = board.write(client.clone(), leadership.clone(), confirmations.clone());
        tasks.spawn(writing);
        Self {
            log,
            board,
            confirmations,
            leadership,
            stand_down,
            has_stood_down,
        }
    }

    /// These replicas are ready, ours among them if it is.
    pub(super) fn set_replicas(&self, replicas: Vec<Replica>) {
        self.confirmations.set_replicas(replicas);
    }

    /// Of KIngresses: these are as they are told, with their rules in effect if they can be; these are gone.
    /// `conflicts` says which do not have all their hosts.
    pub(super) fn tell(
        &self,
        in_effect: Vec<IngressChange>,
        gone: &[Key],
        conflicts: &BTreeMap<Key, String>,
    ) {
        for key in gone {
            self.board.gone(key);
        }
        let removed = gone.iter().map(|key| Step::Removed { key: key.clone() });
        let mut steps: Vec<Step> = removed.collect();
        let mut seen = Vec::with_capacity(in_effect.len());
        for mut change in in_effect {
            if change.outcome == Outcome::Programmed {
                steps.push(Step::Applied {
                    key: change.key.clone(),
                    uid: Arc::clone(&change.uid),
                    generation: change.generation,
                });
                if let Some(message) = conflicts.get(&change.key) {
                    change.outcome = Outcome::Refused {
                        reason: DOMAIN_CONFLICT,
                        message: message.clone(),
                    };
                }
            }
            seen.push(status::IngressObject::from(&change));
        }
        self.log.record(steps);
        self.board.seen_all(seen);
    }

    /// These KIngresses are another's now: nothing more is said of them.
    pub(super) fn leave(&self, given_away: &[Key]) {
        for key in given_away {
            self.board.gone(key);
        }
    }

    /// Lets another lead.
    pub(super) fn stand_down(&self) {
        self.stand_down.cancel();
    }

    /// Is cancelled when another may lead after we have stood down.
    pub(super) fn has_stood_down(&self) -> CancellationToken {
        self.has_stood_down.clone()
    }

    /// What the admin counts of it.
    pub(super) fn told(&self) -> admin::cluster::Leading {
        let (leadership, board) = self.shown();
        (leadership, board, self.confirmations.clone())
    }

    /// What the admin shows of it.
    pub(super) fn shown(&self) -> (Leadership, StatusBoard) {
        (self.leadership.clone(), self.board.clone())
    }
}

/// The reason that Kourier gives (knative-extensions/net-kourier `pkg/reconciler/ingress/ingress.go`).
const DOMAIN_CONFLICT: &str = "DomainConflict";

fn election_config(config: Option<&BTreeMap<String, BTreeMap<String, String>>>) -> ElectionConfig {
    let Some(data) = config.and_then(|config| config.get(ELECTION_CONFIG)) else {
        return ElectionConfig::default();
    };
    ElectionConfig::parse(data).unwrap_or_else(|error| {
        warn!(%error, "{ELECTION_CONFIG} cannot be used: its defaults hold");
        ElectionConfig::default()
    })
}
