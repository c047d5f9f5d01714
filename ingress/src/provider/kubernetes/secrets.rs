//! The certificates of KIngresses: which Secrets they name, what these hold, and what the entrances serve by that.
//!
//! Pure, as [`Cluster`](super::cluster::Cluster) is. A Secret that is missing or cannot be used makes the KIngresses
//! that name it wait and say so; what they were served with before stays, so that a slip of the hand takes nobody
//! offline.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;

use super::super::kingress::{IngressSpec, IngressTls};
use super::cluster::Outcome;
use super::objects;
use super::watch::{Change, Key};
use crate::routing::tls::{
    Binding, CLIENT_CA_FIELD, Certificate, CertificateError, CertificateSnapshot, ClientCa,
    ClientCertificate, InvalidIssuers, parse_issuers,
};

/// How many namespaces are watched for Secrets one by one. Beyond, one watch sees all namespaces: each watch is a
/// connection to the API server.
pub const NAMESPACES_WATCHED: usize = 64;

/// The scope of the watch that sees all namespaces.
const ALL_NAMESPACES: &str = "";

/// What is kept of a Secret: what it is good for, and nothing of what it holds besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSecret {
    /// Its name.
    pub key: Key,
    /// Its certificate, or why that cannot be served.
    pub certificate: Result<Arc<Certificate>, CertificateError>,
    /// Who issues the certificates of its hosts' clients, or why nobody does.
    pub issuers: Result<Arc<[CertificateDer<'static>]>, InvalidIssuers>,
}

impl KeptSecret {
    /// Reads a Secret of the type `kubernetes.io/tls`.
    pub fn of(object: &objects::Secret, now: SystemTime, provider: &CryptoProvider) -> Self {
        let key = Key::of(object);
        let source = format!("Secret {key}");
        let bytes = |field: &Option<k8s_openapi::ByteString>| {
            field.as_ref().map_or_else(Vec::new, |it| it.0.clone())
        };
        let chain = bytes(&object.data.certificate);
        let private = bytes(&object.data.key);
        let parsed = Certificate::parse(source.into(), &chain, &private, now, provider);
        Self {
            key,
            certificate: parsed.map(Arc::new),
            issuers: parse_issuers(&bytes(&object.data.client_ca)),
        }
    }
}

/// The certificates of the entrances from now on.
#[derive(Clone, Debug)]
pub struct CertificateChange {
    /// For clients outside: hosts that are visible there.
    pub external: CertificateSnapshot,
    /// For clients within: all hosts.
    pub local: CertificateSnapshot,
}

/// What is known of Secrets, and who needs them.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// For names that nobody binds.
    default: Option<(Key, Option<Arc<Certificate>>)>,
    known: HashMap<Key, KeptSecret>,
    /// The KIngresses that name a Secret.
    users: HashMap<Key, BTreeSet<Key>>,
    /// The Secrets that a KIngress names.
    named: HashMap<Key, BTreeSet<Key>>,
    /// What is watched, and whether it has been listed.
    scopes: BTreeMap<Arc<str>, bool>,
    /// Others may be named than are watched.
    is_rescoped: bool,
    /// Nobody waits any more for what has not been listed.
    is_given_up: bool,
    /// What each KIngress is served with, and when it was created.
    served: HashMap<Key, (i64, Vec<Claim>)>,
    is_changed: bool,
}

/// A certificate and the hosts that a KIngress wants it for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    secret: Key,
    certificate: Arc<Certificate>,
    external: Vec<Arc<str>>,
    local: Vec<Arc<str>>,
    /// Whose certificates its clients outside show.
    client_ca: Option<Arc<ClientCa>>,
}

/// What is wrong with the certificates of a KIngress.
#[derive(Debug)]
pub(super) struct Trouble {
    /// To be said of the KIngress.
    pub(super) outcome: Outcome,
    /// All its hosts have a certificate all the same: the one from before.
    pub(super) is_covered: bool,
}

impl Secrets {
    /// The Secret with the certificate for names that nobody binds.
    pub(super) fn set_default(&mut self, secret: Key) {
        self.default = Some((secret, None));
        self.is_rescoped = true;
    }

    /// Notes which Secrets a KIngress names.
    pub(super) fn name(&mut self, ingress: &Key, spec: &IngressSpec) {
        let names: BTreeSet<Key> = spec.tls.iter().map(|tls| secret_of(ingress, tls)).collect();
        let before = match names.is_empty() {
            true => self.named.remove(ingress),
            false => self.named.insert(ingress.clone(), names.clone()),
        };
        let before = before.unwrap_or_default();
        if before == names {
            return;
        }
        self.is_rescoped = true;
        for gone in before.difference(&names) {
            if let Some(users) = self.users.get_mut(gone) {
                users.remove(ingress);
                if users.is_empty() {
                    self.users.remove(gone);
                }
            }
        }
        for secret in names {
            let users = self.users.entry(secret).or_default();
            users.insert(ingress.clone());
        }
    }

    /// A KIngress is gone.
    pub(super) fn forget(&mut self, ingress: &Key) {
        self.name(ingress, &IngressSpec::default());
        if let Some((_, claims)) = self.served.remove(ingress) {
            self.is_changed |= !claims.is_empty();
        }
    }

    /// What to watch, if that has changed: namespaces that are named, or `""` for all of them when they are too many.
    pub(super) fn rescope(&mut self) -> Option<BTreeSet<Arc<str>>> {
        if !std::mem::take(&mut self.is_rescoped) {
            return None;
        }
        let default = self.default.iter().map(|(secret, _)| secret);
        let named: BTreeSet<Arc<str>> = { self.users.keys().chain(default) }
            .map(|secret| Arc::clone(&secret.namespace))
            .collect();
        self.known.retain(|key, _| named.contains(&key.namespace));
        let scopes = match named.len() {
            0..=NAMESPACES_WATCHED => named,
            _ => BTreeSet::from([ALL_NAMESPACES.into()]),
        };
        if scopes.len() == self.scopes.len() && scopes.iter().all(|it| self.scopes.contains_key(it))
        {
            return None;
        }
        let is_listed = |scope: &Arc<str>| self.scopes.get(scope).copied().unwrap_or(false);
        self.scopes = { scopes.iter() }
            .map(|scope| (Arc::clone(scope), is_listed(scope)))
            .collect();
        Some(scopes)
    }

    /// Whether everything that is watched has been listed once, or is no longer waited for.
    pub(super) fn is_complete(&self) -> bool {
        self.is_given_up || !self.is_rescoped && self.scopes.values().all(|is_listed| *is_listed)
    }

    /// Nobody waits any more for what has not been listed.
    pub(super) fn give_up(&mut self) {
        self.is_given_up = true;
    }

    /// Takes in what a watch tells. Returns the KIngresses that it concerns.
    pub(super) fn learn(&mut self, scope: &Arc<str>, change: Change<KeptSecret>) -> BTreeSet<Key> {
        let Some(is_listed) = self.scopes.get_mut(scope) else {
            return BTreeSet::new(); // of a watch that has ended meanwhile
        };
        let mut concerned = BTreeSet::new();
        match change {
            Change::All(all) => {
                let is_first = !std::mem::replace(is_listed, true);
                let is_within = |key: &Key| **scope == *ALL_NAMESPACES || key.namespace == *scope;
                let there: BTreeSet<Key> = all.iter().map(|kept| kept.key.clone()).collect();
                let gone: Vec<Key> = { self.known.keys() }
                    .filter(|key| is_within(key) && !there.contains(*key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.known.remove(&key);
                    concerned.insert(key);
                }
                if is_first {
                    // That it is missing is known only now.
                    let default = self.default.iter().map(|(secret, _)| secret);
                    let named = self.users.keys().chain(default);
                    concerned.extend(named.filter(|key| is_within(key)).cloned());
                }
                for kept in all {
                    self.set(kept, &mut concerned);
                }
            }
            Change::Set(kept) => self.set(kept, &mut concerned),
            Change::Gone(key) => {
                if self.known.remove(&key).is_some() {
                    concerned.insert(key);
                }
            }
        }
        self.update_default(&concerned);
        let users = concerned.iter().filter_map(|key| self.users.get(key));
        users.flatten().cloned().collect()
    }

    fn set(&mut self, kept: KeptSecret, concerned: &mut BTreeSet<Key>) {
        if self.known.get(&kept.key) != Some(&kept) {
            concerned.insert(kept.key.clone());
            self.known.insert(kept.key.clone(), kept);
        }
    }

    fn update_default(&mut self, concerned: &BTreeSet<Key>) {
        if let Some((secret, certificate)) = &mut self.default
            && concerned.contains(secret)
        {
            match self.known.get(secret).map(|kept| &kept.certificate) {
                Some(Ok(now)) => {
                    self.is_changed = true;
                    *certificate = Some(Arc::clone(now));
                }
                other => {
                    let stays = certificate.is_some();
                    tracing::warn!(%secret, why = ?other, stays, "the default certificate cannot be used");
                }
            }
        }
    }

    /// Finds the certificates of a KIngress, and says what is wrong with them.
    pub(super) fn look(
        &mut self,
        ingress: &Key,
        created: i64,
        spec: &IngressSpec,
        wanted: Option<ClientCertificate>,
    ) -> Option<Trouble> {
        let before = self.served.remove(ingress);
        let (_, before) = before.unwrap_or_default();
        let mut claims: Vec<Claim> = Vec::new();
        let mut trouble: Option<Trouble> = None;
        for (index, tls) in spec.tls.iter().enumerate() {
            let secret = secret_of(ingress, tls);
            let mut others = before.iter();
            let last = others.find(|claim| claim.secret == secret);
            let found = self.certificate(&secret).and_then(|certificate| {
                let client_ca = wanted.map(|wanted| self.client_ca(&secret, wanted));
                Ok((certificate, client_ca.transpose()?))
            });
            let served = match found {
                Ok(found) => Some(found),
                Err((reason, why)) => {
                    let trouble = trouble.get_or_insert_with(|| Trouble {
                        outcome: Outcome::Waiting {
                            reason,
                            message: format!("spec.tls[{index}]: Secret {secret}{why}"),
                        },
                        is_covered: true,
                    });
                    trouble.is_covered &= last.is_some();
                    // What was asked of clients before is no answer to what is wanted now; without an issuer nobody can
                    // show a certificate, and the route turns everybody away who has to.
                    let still = |ca: &&Arc<ClientCa>| Some(ca.wanted) == wanted;
                    last.map(|claim| {
                        let client_ca = claim.client_ca.as_ref().filter(still);
                        (Arc::clone(&claim.certificate), client_ca.cloned())
                    })
                }
            };
            if let Some((certificate, client_ca)) = served {
                claims.push(Claim {
                    certificate,
                    client_ca,
                    external: tls.hosts_in(spec, |visibility| visibility != CLUSTER_LOCAL),
                    local: tls.hosts_in(spec, |visibility| visibility == CLUSTER_LOCAL),
                    secret,
                });
            }
        }
        if trouble.as_ref().is_some_and(|it| !it.is_covered) {
            // The rules of before stay as well.
            let is_new = |claim: &&Claim| claims.iter().all(|it| it.secret != claim.secret);
            let old: Vec<Claim> = before.iter().filter(is_new).cloned().collect();
            claims.extend(old);
        }
        self.is_changed |= claims != before;
        if !claims.is_empty() {
            self.served.insert(ingress.clone(), (created, claims));
        }
        trouble
    }

    /// The certificate in a Secret, or in one word and for people why there is none.
    fn certificate(&self, secret: &Key) -> Result<Arc<Certificate>, (&'static str, String)> {
        let Some(kept) = self.known.get(secret) else {
            let scopes = &self.scopes;
            let scope = { scopes.get(&secret.namespace) }.or_else(|| scopes.get(ALL_NAMESPACES));
            return Err(match scope {
                Some(true) => {
                    let Key { namespace, name } = secret;
                    let remedy = format!(
                        " is not there, or not of type kubernetes.io/tls: create it with \
                         `kubectl create secret tls {name} -n {namespace} --cert=FILE --key=FILE`"
                    );
                    ("SecretMissing", remedy)
                }
                _ => {
                    let remedy = " has not been read yet: if this stays, see in /state whether Parkway may list Secrets";
                    ("SecretUnread", remedy.to_owned())
                }
            });
        };
        let certificate = kept.certificate.as_ref();
        certificate.map(Arc::clone).map_err(|error| {
            let (field, remedy) = (error.field(), error.remedy());
            ("SecretUnusable", format!(": {field}: {error}: {remedy}"))
        })
    }

    /// Who issues the certificates of a host's clients by the Secret of its own.
    fn client_ca(
        &self,
        secret: &Key,
        wanted: ClientCertificate,
    ) -> Result<Arc<ClientCa>, (&'static str, String)> {
        let missing = &Err(InvalidIssuers::None);
        let known = self.known.get(secret);
        match known.map_or(missing, |kept| &kept.issuers) {
            Ok(roots) => Ok(Arc::new(ClientCa {
                source: format!("Secret {secret}").into(),
                roots: Arc::clone(roots),
                wanted,
            })),
            Err(error) => {
                let remedy = InvalidIssuers::REMEDY;
                let why = format!(
                    ": {CLIENT_CA_FIELD}: {error}, and the route's clients show certificates: {remedy}"
                );
                Err(("SecretUnusable", why))
            }
        }
    }

    /// What the entrances serve, if that has changed.
    ///
    /// A host belongs to the oldest KIngress that has a certificate for it: nobody can put another in its place. This
    /// looks at all certificates, for the tables that handshakes read are made as a whole.
    pub(super) fn changes(&mut self) -> Option<CertificateChange> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut oldest: Vec<_> = self.served.iter().collect();
        oldest.sort_by(|(key, (created, _)), (other_key, (other_created, _))| {
            (created, key).cmp(&(other_created, other_key))
        });
        let mut owners: HashMap<&str, &Key> = HashMap::new();
        let (mut external, mut local) = (Vec::new(), Vec::new());
        for (ingress, (_, claims)) in oldest {
            for claim in claims {
                // A binding without hosts would be for all that the certificate names.
                let bind = |bindings: &mut Vec<Binding>, hosts: Vec<Arc<str>>, client_ca| {
                    if !hosts.is_empty() {
                        bindings.push(Binding {
                            hosts,
                            certificate: Arc::clone(&claim.certificate),
                            client_ca,
                        });
                    }
                };
                let outside = owned(&mut owners, ingress, &claim.external);
                let within = owned(&mut owners, ingress, &claim.local);
                bind(&mut local, [outside.as_slice(), &within].concat(), None);
                bind(&mut external, outside, claim.client_ca.clone());
            }
        }
        let default = self.default.iter().filter_map(|(_, it)| it.clone());
        let default: Vec<_> = default.collect();
        Some(CertificateChange {
            external: CertificateSnapshot::build(&external, default.clone()),
            local: CertificateSnapshot::build(&local, default),
        })
    }
}

/// Those of `hosts` that nobody older has.
fn owned<'a>(
    owners: &mut HashMap<&'a str, &'a Key>,
    ingress: &'a Key,
    hosts: &'a [Arc<str>],
) -> Vec<Arc<str>> {
    let is_ours = |host: &&'a Arc<str>| *owners.entry(host).or_insert(ingress) == ingress;
    hosts.iter().filter(is_ours).cloned().collect()
}

const CLUSTER_LOCAL: &str = "ClusterLocal";

fn secret_of(ingress: &Key, tls: &IngressTls) -> Key {
    let namespace = match tls.secret_namespace.as_str() {
        "" => Arc::clone(&ingress.namespace),
        namespace => namespace.into(),
    };
    Key::new(namespace, tls.secret_name.as_str())
}

#[cfg(test)]
mod tests;
