//! The certificates of manifests: Secrets that stand among them, and which hosts each is served for.
//!
//! A Secret's certificate is served for the names it is issued for, and for the hosts of KIngresses that name the Secret.
//! A certificate that cannot be used is a mistake like any other: the configuration before it stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::object::{Entry, Ingress, Object, Secret};
use super::problem::{Origin, Problem};
use crate::routing::rules::{IngressRules, Visibility};
use crate::routing::tls::{
    Binding, CLIENT_CA_FIELD, Certificate, CertificateSnapshot, ClientCa, ClientCertificate,
    InvalidIssuers, KEY_FIELD, parse_issuers,
};

/// Namespace and name of a Secret.
type Key = (Arc<str>, Arc<str>);

/// The certificates of one state of the manifests.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    secrets: HashMap<Key, Known>,
    /// Hosts, and the Secret that a KIngress names for them.
    named: Vec<(Vec<Arc<str>>, Key)>,
    /// What was made of this, or of the state before.
    last: Arc<Vec<Binding>>,
}

/// A Secret that can be used.
#[derive(Clone, Debug)]
struct Known {
    secret: Arc<Secret>,
    certificate: Arc<Certificate>,
    /// Who issues clients' certificates.
    issuers: Option<Arc<[CertificateDer<'static>]>>,
}

impl Certificates {
    /// Those of the next state, in which these objects are. Secrets that are the same are not read again.
    pub(super) fn next(
        &self,
        objects: &[Object],
        now: SystemTime,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut next = Self {
            last: Arc::clone(&self.last),
            ..Self::default()
        };
        for object in objects {
            let Object::Secret(secret) = object else {
                continue;
            };
            let key = (
                Arc::clone(&secret.meta.namespace),
                Arc::clone(&secret.meta.name),
            );
            let known = self.secrets.get(&key);
            let known = known.filter(|known| Arc::ptr_eq(&known.secret, secret));
            let known = known.map_or_else(|| Known::read(secret, now), |known| Ok(known.clone()));
            match known {
                Ok(known) => drop(next.secrets.insert(key, known)),
                Err(problem) => problems.push(*problem),
            }
        }
        for object in objects {
            if let Object::Ingress(ingress) = object {
                next.name(ingress, problems);
            }
        }
        next
    }

    /// Notes which Secrets a KIngress names.
    fn name(&mut self, ingress: &Ingress, problems: &mut Vec<Problem>) {
        let meta = &ingress.meta;
        for (index, tls) in ingress.spec.tls.iter().enumerate() {
            let namespace = match tls.secret_namespace.as_str() {
                "" => Arc::clone(&meta.namespace),
                namespace => namespace.into(),
            };
            let key: Key = (namespace, tls.secret_name.as_str().into());
            let hosts = tls.hosts_in(&ingress.spec, |visibility| visibility != "ClusterLocal");
            if !self.secrets.contains_key(&key) {
                let field = format!("spec.tls[{index}].secretName");
                let message = format!("there is no Secret {}/{} here", key.0, key.1);
                let problem = meta.origin.problem(field, message).warning();
                problems.push(problem.remedy(
                    "add its manifest; until then its hosts are served with another certificate that names them, or the default one",
                ));
            } else if !hosts.is_empty() {
                self.named.push((hosts, key));
            }
        }
    }

    /// What the entrance serves with these rules: the same value in memory when it is the same as before.
    ///
    /// Hosts whose clients are to show certificates, and for which nothing says who issues these, are warned of.
    pub(super) fn of(
        &mut self,
        ingresses: &[Arc<IngressRules>],
        warnings: &mut Vec<Problem>,
    ) -> Arc<Vec<Binding>> {
        let mut secrets: Vec<_> = self.secrets.iter().collect();
        secrets.sort_by_key(|(key, _)| *key);
        let named = { self.named.iter() }
            .filter_map(|(hosts, key)| Some((hosts.clone(), self.secrets.get(key)?)));
        let all = { secrets.into_iter() }.map(|(_, known)| (Vec::new(), known));
        let mut bindings: Vec<Binding> = { named.chain(all) }
            .map(|(hosts, known)| Binding {
                hosts,
                certificate: Arc::clone(&known.certificate),
                client_ca: None,
            })
            .collect();
        let by_client = self.with_client_certificates(&bindings, ingresses, warnings);
        bindings.splice(0..0, by_client);
        if *self.last != bindings {
            self.last = Arc::new(bindings);
        }
        Arc::clone(&self.last)
    }

    /// The hosts whose clients are asked for certificates.
    fn with_client_certificates(
        &self,
        bindings: &[Binding],
        ingresses: &[Arc<IngressRules>],
        warnings: &mut Vec<Problem>,
    ) -> Vec<Binding> {
        let wanting = ingresses.iter().filter_map(|rules| {
            let wanted = rules.policy.as_ref()?.client_certificate?;
            Some((rules, wanted))
        });
        let mut wanting = wanting.peekable();
        if wanting.peek().is_none() {
            return Vec::new();
        }
        let snapshot = CertificateSnapshot::build(bindings, Vec::new());
        let mut asking = Vec::new();
        for (rules, wanted) in wanting {
            let visible = { rules.rules.iter() }
                .filter(|rule| rule.visibility == Visibility::ExternalIp)
                .flat_map(|rule| &rule.hosts);
            for host in visible {
                let served = snapshot.bound_certificates(&host.to_ascii_lowercase());
                let before = asking.len();
                asking.extend(served.iter().filter_map(|certificate| {
                    Some(Binding {
                        hosts: vec![Arc::clone(host)],
                        client_ca: Some(self.client_ca(certificate, wanted)?),
                        certificate: Arc::clone(certificate),
                    })
                }));
                if asking.len() == before {
                    warnings.push(nobody_issues(rules, host, wanted));
                }
            }
        }
        asking
    }

    /// Who issues clients' certificates by the Secret of this certificate.
    fn client_ca(
        &self,
        certificate: &Arc<Certificate>,
        wanted: ClientCertificate,
    ) -> Option<Arc<ClientCa>> {
        let mut secrets = self.secrets.values();
        let known = secrets.find(|known| Arc::ptr_eq(&known.certificate, certificate))?;
        Some(Arc::new(ClientCa {
            source: Arc::clone(certificate.source()),
            roots: Arc::clone(known.issuers.as_ref()?),
            wanted,
        }))
    }
}

impl Known {
    fn read(secret: &Arc<Secret>, now: SystemTime) -> Result<Self, Box<Problem>> {
        let meta = &secret.meta;
        let source = format!("Secret {}/{}", meta.namespace, meta.name);
        let provider = rustls::crypto::ring::default_provider();
        let (chain, key) = (&secret.certificate, &secret.key);
        let certificate =
            Certificate::parse(source.into(), &chain.bytes, &key.bytes, now, &provider);
        let certificate = certificate.map_err(|error| {
            let entry = if error.field() == KEY_FIELD {
                key
            } else {
                chain
            };
            about(&meta.origin, entry, error.to_string(), error.remedy())
        })?;
        let issuers = secret.client_ca.as_ref().map(|entry| {
            parse_issuers(&entry.bytes).map_err(|error| {
                let remedy = InvalidIssuers::REMEDY;
                about(&meta.origin, entry, error.to_string(), remedy)
            })
        });
        Ok(Self {
            secret: Arc::clone(secret),
            certificate: Arc::new(certificate),
            issuers: issuers.transpose()?,
        })
    }
}

/// Without the value: it may be a private key.
fn about(origin: &Origin, entry: &Entry, message: String, remedy: &str) -> Box<Problem> {
    let problem = origin.problem(&*entry.field, message);
    problem.value("").remedy(remedy).into()
}

fn nobody_issues(rules: &IngressRules, host: &str, wanted: ClientCertificate) -> Problem {
    let name = &rules.name;
    let origin = Origin::elsewhere("Ingress", &name.namespace, &name.name);
    let outcome = match wanted {
        ClientCertificate::Required => "every request is answered 403",
        ClientCertificate::Optional => "nobody is asked for one",
    };
    let problem = origin.problem(
        "",
        format!("nothing says who issues the certificates of {host}'s clients: {outcome}"),
    );
    let remedy = format!("add {CLIENT_CA_FIELD} to the Secret with the certificate of {host}");
    problem.warning().remedy(remedy)
}
