//! Makes `system-internal-tls` real: whom workers trust, and what becomes of those who wait for Pods nobody can trust.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parkway_activator::revision::RevisionId;
use parkway_activator::throttler::Throttler;
use rustls::version::TLS13;
use tracing::{info, warn};

use super::super::endpoints::ClusterEndpoints;
use crate::frontend::tls::{CertificatePublisher, Certificates, TlsSettings};
use crate::provider::kubernetes::InternalTlsChange;
use crate::provider::kubernetes::internal_tls::{CERTIFICATES, Certificates as SecretData};
use crate::proxy::tls::{Authorities, Failure, InternalTls, TrustPublisher};
use crate::routing::tls::{Certificate, CertificateSnapshot};

/// How long requests wait for a Pod that can be trusted while none can: as long as for one that cannot start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A Pod that was not tried for so long may be another by now, or gone: each is tried several times a second.
const CURRENT: Duration = Duration::from_secs(10);

/// For so long newcomers are answered likewise, instead of waiting.
const RETRY: Duration = Duration::from_secs(1);

/// What there is of it.
#[derive(Debug)]
pub(super) struct SystemInternalTls {
    trust: TrustPublisher,
    tls: InternalTls,
    /// What the activator's port for TLS shows.
    shown: CertificatePublisher,
    certificates: Certificates,
    is_enabled: bool,
}

impl SystemInternalTls {
    /// It is off.
    pub(super) fn new() -> (Self, InternalTls) {
        let (trust, tls) = TrustPublisher::new();
        let (shown, certificates) = CertificatePublisher::new(TlsSettings {
            versions: vec![&TLS13],
            ..TlsSettings::default()
        });
        let new = Self {
            trust,
            tls: tls.clone(),
            shown,
            certificates,
            is_enabled: false,
        };
        (new, tls)
    }

    /// What the activator's port for TLS shows: nothing, and so it refuses everybody, until it is on.
    pub(super) fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }

    /// Makes it so. To be called before endpoints are set that are to be reached by it.
    pub(super) fn apply(&mut self, change: InternalTlsChange, now: SystemTime) {
        let InternalTlsChange {
            is_enabled,
            problem,
            certificates,
            bundles,
        } = change;
        let mut problems: Vec<_> = problem.into_iter().collect();
        if is_enabled && certificates.is_none() {
            problems.push(format!("the Secret {CERTIFICATES} is not there"));
        }
        problems.extend(match (is_enabled, &certificates) {
            (true, Some(certificates)) => self.show(certificates, now).err(),
            (true, None) => None,
            (false, _) => self.show_nothing().err(),
        });
        let authorities = Authorities {
            secret: certificates.and_then(|certificates| certificates.authority),
            bundles,
        };
        let before = self.tls.generation();
        let state = self.trust.publish(is_enabled, authorities, problems);
        if self.is_enabled != is_enabled {
            info!(is_enabled, "system-internal-tls is switched");
        }
        if is_enabled && before != state.generation {
            info!(
                authorities = state.authorities,
                generation = state.generation,
                "Pods are trusted by these from now on"
            );
        }
        for problem in &state.problems {
            warn!(%problem, "system-internal-tls");
        }
        self.is_enabled = is_enabled;
    }

    /// Shows this certificate to who connects from now on; one that cannot be used leaves the one before.
    fn show(&self, certificates: &SecretData, now: SystemTime) -> Result<(), String> {
        let SecretData {
            certificate, key, ..
        } = certificates;
        let provider = rustls::crypto::ring::default_provider();
        let (chain, key) = (
            certificate.as_deref().unwrap_or_default(),
            key.as_deref().unwrap_or_default(),
        );
        Certificate::parse(CERTIFICATES.into(), chain, key, now, &provider)
            .map_err(|error| format!("{CERTIFICATES}: {}: {error}", error.field()))
            .and_then(|certificate| {
                let shown = CertificateSnapshot::build(&[], vec![Arc::new(certificate)]);
                self.publish(shown)
            })
    }

    fn show_nothing(&self) -> Result<(), String> {
        self.publish(CertificateSnapshot::default())
    }

    fn publish(&self, shown: CertificateSnapshot) -> Result<(), String> {
        let published = self.shown.publish(shown);
        published.map_err(|error| format!("{CERTIFICATES}: {error}"))
    }

    /// Whether there may be something for [`fail_starts`](Self::fail_starts) to do.
    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Answers those who have waited too long for Pods none of which can be trusted, and says why. Called again and again.
    pub(super) fn fail_starts(&self, throttler: &Throttler, endpoints: &ClusterEndpoints) {
        let mut by_revision: BTreeMap<RevisionId, Vec<Failure>> = BTreeMap::new();
        for failure in self.tls.failing() {
            if failure.last.elapsed() < CURRENT {
                let failures = by_revision.entry(failure.revision.clone());
                failures.or_default().push(failure);
            }
        }
        for (id, failures) in by_revision {
            let failing: BTreeSet<_> = failures.iter().map(|failure| failure.endpoint).collect();
            let mut pods = endpoints.pods(&id).into_iter();
            let waits = throttler
                .revision_state(&id)
                .is_some_and(|state| state.parked > 0);
            // The latest is first.
            let Some(failure) = failures.first() else {
                continue;
            };
            let first = failures.iter().map(|failure| failure.since).min();
            let is_over = first.is_some_and(|first| first.elapsed() >= PATIENCE);
            if waits && is_over && pods.all(|pod| failing.contains(&pod)) {
                throttler.set_aside_failed(&id, reason(failure), RETRY);
            }
        }
    }
}

fn reason(failure: &Failure) -> Arc<str> {
    let Failure {
        endpoint, message, ..
    } = failure;
    format!("its Pod {endpoint} cannot be trusted: {message}").into()
}
