//! A cluster as a provider: what its API server says, as rules, Revisions and endpoints.
//!
//! ```text
//!  API server ──watch, one per kind──▶ watch ──News──▶ Cluster ──Changes──▶ app
//!                                      objects, kept    (pure: what follows from what)
//! ```
//!
//! All of `kube` and its objects ends here; what leaves is our own vocabulary, the same that files are translated to.

pub mod applied;
pub mod client;
pub mod cluster;
mod few;
pub mod internal_tls;
pub mod kept;
pub mod lease;
pub mod objects;
pub mod peers;
pub mod pods;
mod random;
pub mod secrets;
pub mod status;
pub mod ticket_keys;
pub mod watch;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

pub use cluster::{Changes, IngressChange, Outcome, Replica, RevisionChange, ServiceChange};
pub use internal_tls::InternalTlsChange;
pub use secrets::CertificateChange;
pub use watch::{Key, WatchHealth};

use cluster::{Cluster, News};
use internal_tls::{CERTIFICATES, Certificates};
use kept::{KeptRevision, KeptService, KeptSlice, SeenIngress};
use secrets::KeptSecret;
use ticket_keys::KeptTicketKeys;
use watch::Watch;

/// How much news may wait. When full, the watches wait too, and the API server after them.
const NEWS: usize = 1_024;

/// How long the rules of a KIngress that is given another class stay in effect although nobody says that it is served
/// elsewhere: the class may be nobody's.
pub const HANDOVER: Duration = Duration::from_secs(5 * 60);

/// How long they stay after it is served elsewhere. Names lead here until the Route's controller, the nodes' proxies and
/// whoever remembers an answer of DNS have followed; cluster DNS is remembered for 30 s.
///
/// Source: `ttl 30` of the `kubernetes` plugin in kubeadm's Corefile, kubernetes/kubernetes
/// `cmd/kubeadm/app/phases/addons/dns/manifests.go`.
pub const NAMES_FOLLOW: Duration = Duration::from_secs(60);

/// How long the first configuration waits for the Secrets that it names: without them, clients by TLS would be turned
/// away. Then all goes on without; a Parkway that may not read Secrets shall serve what needs none.
const SECRETS_PATIENCE: Duration = Duration::from_secs(10);

/// What a provider for a cluster is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The class of the KIngresses that are ours; none: this Parkway is no ingress.
    pub ingress_class: Option<String>,
    /// The namespace of Knative Serving.
    pub system_namespace: String,
    /// The Service whose ready endpoints are the replicas.
    pub gateway: Key,
    /// Whether the public endpoints of Revisions matter: where no gateway tells how many replicas there are.
    pub wants_public: bool,
    /// The Secret with the certificate for names that no KIngress binds.
    pub default_certificate: Option<Key>,
    /// The Secret with the keys of session tickets that all replicas share.
    pub ticket_keys: Option<Key>,
}

/// Configuration from a cluster.
#[derive(Debug)]
pub struct KubernetesProvider {
    cluster: Cluster,
    /// When what is another's now is let go at the latest.
    let_go: BTreeMap<Key, Instant>,
    news: mpsc::Receiver<News>,
    health: WatchHealth,
    /// Of the Secret of `system-internal-tls`, until that is on: who does not use it needs no right to read it.
    certificates: Option<Watch<Secret, Certificates, News>>,
    secrets: SecretWatches,
    /// Since when only Secrets are missing, and until when they are waited for.
    patience: Option<Instant>,
    /// Ends with the provider.
    watches: JoinSet<()>,
}

impl KubernetesProvider {
    /// Begins to watch, on the present runtime.
    pub fn new(client: &Client, settings: &Settings) -> Self {
        let (news, heard) = mpsc::channel(NEWS);
        let health = WatchHealth::default();
        let mut cluster = Cluster::new(settings.gateway.clone(), &settings.system_namespace);
        if settings.ingress_class.is_none() {
            cluster.without_ingresses();
        } else if let Some(secret) = &settings.default_certificate {
            cluster.set_default_certificate(secret.clone());
        }
        Self {
            cluster,
            let_go: BTreeMap::new(),
            news: heard,
            watches: {
                let mut watches = watches(client, settings, &news, &health);
                if let Some(secret) = &settings.ticket_keys {
                    watches.spawn(ticket_keys(client, secret, &news, &health).run());
                }
                watches
            },
            certificates: Some(certificates(client, settings, news.clone(), health.clone())),
            secrets: SecretWatches {
                client: client.clone(),
                news,
                health: health.clone(),
                running: BTreeMap::new(),
                tasks: JoinSet::new(),
            },
            patience: None,
            health,
        }
    }

    /// Waits until something has changed; tells everything that has. The first time that is all there is.
    ///
    /// # Cancel safety
    ///
    /// What was heard before it is dropped is told by the next call.
    pub async fn changed(&mut self) -> Changes {
        loop {
            let let_go = self.let_go.values().min().copied();
            tokio::select! {
                heard = self.heard() => match heard {
                    Some(news) => self.cluster.learn(news),
                    None => self.cluster.do_without_secrets(),
                },
                () = until(let_go) => {}
            }
            // Whatever else is there belongs to the same moment.
            while let Ok(news) = self.news.try_recv() {
                self.cluster.learn(news);
            }
            if self.cluster.wants_certificates()
                && let Some(certificates) = self.certificates.take()
            {
                self.watches.spawn(certificates.run());
            }
            self.let_go();
            if let Some(scopes) = self.cluster.secret_scopes() {
                self.secrets.follow(&scopes);
            }
            if let Some(changes) = self.cluster.changes() {
                return changes;
            }
        }
    }

    /// Lets go of what is another's for long enough.
    fn let_go(&mut self) {
        let now = Instant::now();
        let given_away: BTreeMap<Key, bool> = { self.cluster.given_away() }
            .map(|(key, is_served)| (key.clone(), is_served))
            .collect();
        self.let_go.retain(|key, _| given_away.contains_key(key));
        for (key, is_served) in given_away {
            let patience = if is_served { NAMES_FOLLOW } else { HANDOVER };
            let due = self.let_go.entry(key.clone()).or_insert(now + patience);
            *due = (*due).min(now + patience);
            if *due > now {
                continue;
            }
            if !is_served {
                warn!(ingress = %key, "it has another class, and nobody has served it since: its rules go all the same");
            }
            self.cluster.let_go(&key);
            self.let_go.remove(&key);
        }
    }

    /// These KIngresses of ours as they were told last.
    /// The next news; none when Secrets have been waited for long enough.
    async fn heard(&mut self) -> Option<News> {
        if !self.cluster.waits_for_secrets() {
            return self.news.recv().await; // never ends: we hold a sender
        }
        let until = { self.patience }.unwrap_or_else(|| Instant::now() + SECRETS_PATIENCE);
        self.patience = Some(until);
        if let Ok(news) = tokio::time::timeout_at(until, self.news.recv()).await {
            return news;
        }
        warn!("Secrets cannot be read so far: what needs none is served");
        None
    }

    /// These KIngresses as they were told last.
    pub fn known(&self, keys: &[Key]) -> Vec<IngressChange> {
        keys.iter()
            .filter_map(|key| self.cluster.known(key))
            .collect()
    }

    /// How the watches are.
    pub fn health(&self) -> WatchHealth {
        self.health.clone()
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Watches for Secrets, where KIngresses name some.
///
/// One for each namespace that is named, of Secrets of one type: a watch shows whole Secrets, so it shall see no more
/// than it must; and a watch for each Secret would be a connection for each.
struct SecretWatches {
    client: Client,
    news: mpsc::Sender<News>,
    health: WatchHealth,
    running: BTreeMap<Arc<str>, AbortHandle>,
    /// Ends with the provider.
    tasks: JoinSet<()>,
}

impl fmt::Debug for SecretWatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.running.keys()).finish()
    }
}

impl SecretWatches {
    fn follow(&mut self, scopes: &BTreeSet<Arc<str>>) {
        self.running.retain(|scope, watch| {
            let stays = scopes.contains(scope);
            if !stays {
                watch.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
        for scope in scopes {
            if !self.running.contains_key(scope) {
                let watch = self.tasks.spawn(self.watch(scope).run());
                self.running.insert(Arc::clone(scope), watch);
            }
        }
    }

    fn watch(&self, scope: &Arc<str>) -> Watch<objects::Secret, KeptSecret, News> {
        let provider = rustls::crypto::ring::default_provider();
        let told = Arc::clone(scope);
        Watch {
            kind: "Secret",
            api: match &**scope {
                "" => Api::all(self.client.clone()),
                namespace => Api::namespaced(self.client.clone(), namespace),
            },
            labels: String::new(),
            fields: "type=kubernetes.io/tls".to_owned(),
            keep: Box::new(move |object| {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "certificates are valid by the wall clock"
                )]
                let now = SystemTime::now();
                Some(KeptSecret::of(&object, now, &provider))
            }),
            wrap: Box::new(move |change| News::Secret(Arc::clone(&told), change)),
            news: self.news.clone(),
            health: self.health.clone(),
        }
    }
}

fn watches(
    client: &Client,
    settings: &Settings,
    news: &mpsc::Sender<News>,
    health: &WatchHealth,
) -> JoinSet<()> {
    let mut watches = JoinSet::new();
    if let Some(class) = settings.ingress_class.clone() {
        watches.spawn(
            Watch {
                kind: "Ingress",
                api: Api::<objects::KIngress>::all(client.clone()),
                labels: String::new(),
                fields: String::new(),
                keep: Box::new(move |object| Some(SeenIngress::of(object, &class))),
                wrap: Box::new(News::Ingress),
                news: news.clone(),
                health: health.clone(),
            }
            .run(),
        );
    }
    watches.spawn(
        Watch {
            kind: "Revision",
            api: Api::<objects::Revision>::all(client.clone()),
            labels: String::new(),
            fields: String::new(),
            keep: Box::new(|object| Some(KeptRevision::of(&object))),
            wrap: Box::new(News::Revision),
            news: news.clone(),
            health: health.clone(),
        }
        .run(),
    );
    watches.spawn(
        Watch {
            kind: "Service",
            api: Api::<objects::Service>::all(client.clone()),
            // A Revision's public Service leads to an activator or to Pods: we go to the Revision itself.
            labels: format!("{SERVICE_TYPE_LABEL}!=Public"),
            fields: String::new(),
            keep: Box::new(KeptService::of),
            wrap: Box::new(News::Service),
            news: news.clone(),
            health: health.clone(),
        }
        .run(),
    );
    let gateway = settings.gateway.clone();
    let slices = match settings.wants_public {
        true => String::new(),
        false => format!("{SERVICE_TYPE_LABEL}!=Public"),
    };
    watches.spawn(
        Watch {
            kind: "EndpointSlice",
            api: Api::<objects::EndpointSlice>::all(client.clone()),
            labels: slices,
            fields: String::new(),
            keep: Box::new(move |object| KeptSlice::of(&object, |service| *service == gateway)),
            wrap: Box::new(News::Slice),
            news: news.clone(),
            health: health.clone(),
        }
        .run(),
    );
    watches.spawn(
        Watch {
            kind: "ConfigMap",
            api: Api::<objects::ConfigMap>::namespaced(client.clone(), &settings.system_namespace),
            labels: String::new(),
            fields: String::new(),
            keep: Box::new(Some),
            wrap: Box::new(News::Config),
            news: news.clone(),
            health: health.clone(),
        }
        .run(),
    );
    watches
}

fn ticket_keys(
    client: &Client,
    secret: &Key,
    news: &mpsc::Sender<News>,
    health: &WatchHealth,
) -> Watch<Secret, KeptTicketKeys, News> {
    Watch {
        kind: "Secret",
        api: Api::namespaced(client.clone(), &secret.namespace),
        labels: String::new(),
        // By name, which a right may be restricted to.
        fields: format!("metadata.name={}", secret.name),
        keep: Box::new(|secret| Some(KeptTicketKeys::of(&secret))),
        wrap: Box::new(News::TicketKeys),
        news: news.clone(),
        health: health.clone(),
    }
}

fn certificates(
    client: &Client,
    settings: &Settings,
    news: mpsc::Sender<News>,
    health: WatchHealth,
) -> Watch<Secret, Certificates, News> {
    Watch {
        kind: "Secret",
        api: Api::namespaced(client.clone(), &settings.system_namespace),
        labels: String::new(),
        // By name, which a right may be restricted to.
        fields: format!("metadata.name={CERTIFICATES}"),
        keep: Box::new(|secret| Some(Certificates::of(secret))),
        wrap: Box::new(News::Certificates),
        news,
        health,
    }
}

use super::slices::SERVICE_TYPE_LABEL;
