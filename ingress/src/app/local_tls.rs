//! `parkway run` by TLS: which certificates there are, from files and from manifests, and what changes them.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair};
use tracing::{error, info, warn};

use crate::cli::TlsFiles;
use crate::frontend::tls::{CertificatePublisher, Certificates, TlsSettings};
use crate::provider::certificate_files::CertificateFiles;
use crate::provider::file::Watch;
use crate::provider::{Problem, World};
use crate::routing::tls::{Binding, Certificate, CertificateSnapshot};

/// The certificates of the entrance by TLS, and where they come from.
#[derive(Debug)]
pub(super) struct LocalTls {
    publisher: CertificatePublisher,
    readers: Certificates,
    files: CertificateFiles,
    /// Watches the files, if there are some.
    watch: Option<Watch>,
    /// What the files hold; without files, what was made at start.
    own: Vec<Arc<Certificate>>,
    of_manifests: Arc<Vec<Binding>>,
}

/// The files that were named, and what is in them.
pub(super) type OwnCertificates = (CertificateFiles, Vec<Arc<Certificate>>);

/// The files that were named, if they can be used.
///
/// # Errors
///
/// All that is wrong with them.
pub(crate) fn certificate_files(named: &TlsFiles) -> Result<OwnCertificates, Vec<Problem>> {
    let files = CertificateFiles::pair(&named.tls_cert, &named.tls_key);
    let files = files.map_err(|problem| vec![*problem])?;
    let own = files.read(now())?;
    Ok((files, own))
}

impl LocalTls {
    /// Serves what is in the files, and in the manifests; without files it makes a certificate of its own.
    ///
    /// # Errors
    ///
    /// When the files cannot be watched, or no certificate can be made.
    pub(super) fn new(
        (files, mut own): OwnCertificates,
        world: &World,
        domain: &str,
    ) -> anyhow::Result<Self> {
        let mut watch = None;
        if files.is_empty() {
            own.push(Arc::new(
                made(world, domain, now()).context("cannot make a certificate")?,
            ));
            warn!(
                "no --tls-cert: hosts without a Secret are served with a certificate made just now, which clients must be told to accept"
            );
        } else {
            let watching = files.watch();
            watch = Some(watching.context("cannot watch the files of --tls-cert")?);
        }
        let (publisher, readers) = CertificatePublisher::new(TlsSettings::new());
        let tls = Self {
            publisher,
            readers,
            files,
            watch,
            own,
            of_manifests: Arc::clone(&world.certificates),
        };
        tls.publish();
        Ok(tls)
    }

    /// For the entrance.
    pub(super) fn certificates(&self) -> Certificates {
        self.readers.clone()
    }

    /// The certificates of these manifests are in effect from now on.
    pub(super) fn take(&mut self, world: &World) {
        if !Arc::ptr_eq(&self.of_manifests, &world.certificates) {
            self.of_manifests = Arc::clone(&world.certificates);
            self.publish();
        }
    }

    /// Waits until a file has changed.
    ///
    /// # Cancel safety
    ///
    /// A change that was noticed before the future is dropped is reported by the next call.
    pub(super) async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Reads the files again; if they cannot be used, those before stay.
    pub(super) fn reload(&mut self) {
        match self.files.read(now()) {
            Ok(read) if read == self.own => {}
            Ok(read) => {
                self.own = read;
                self.publish();
                info!("certificates changed");
            }
            Err(problems) => {
                for problem in problems {
                    error!("{problem}");
                }
                warn!("the certificates before this change stay in effect");
            }
        }
    }

    fn publish(&self) {
        let mut bindings = self.of_manifests.to_vec();
        bindings.extend(self.own.iter().map(|certificate| Binding {
            hosts: Vec::new(),
            certificate: Arc::clone(certificate),
            client_ca: None,
        }));
        // The first, and others for the same names, with keys of other kinds.
        let first = self.own.first();
        let alike = self
            .own
            .iter()
            .filter(|one| first.is_some_and(|first| first.names() == one.names()));
        let snapshot = CertificateSnapshot::build(&bindings, alike.cloned().collect());
        if let Err(error) = self.publisher.publish(snapshot) {
            error!(%error, "certificates cannot be used; those before stay");
        }
    }
}

/// Waits until a file has changed, where there is an entrance by TLS.
pub(super) async fn changed(tls: &mut Option<LocalTls>) {
    match tls {
        Some(tls) => tls.changed().await,
        None => std::future::pending().await,
    }
}

/// A certificate that nobody has signed but itself, for the hosts there are.
fn made(world: &World, domain: &str, now: SystemTime) -> anyhow::Result<Certificate> {
    let external = world.urls.iter().filter(|url| !url.is_cluster_local);
    let wildcards = external.filter_map(|url| {
        let (_, parent) = url.host().split_once('.')?;
        Some(format!("*.{parent}"))
    });
    let mut names = BTreeSet::from(["localhost".to_owned(), format!("*.{domain}")]);
    names.extend(wildcards);
    let names: Vec<_> = names.into_iter().take(MOST_NAMES).collect();
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "parkway run");
    let year = year_of(now);
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + 2, 1, 1);
    let key = KeyPair::generate()?;
    let chain = params.self_signed(&key)?.pem();
    let provider = rustls::crypto::ring::default_provider();
    let source = "made at start".into();
    let key = key.serialize_pem();
    Ok(Certificate::parse(
        source,
        chain.as_bytes(),
        key.as_bytes(),
        now,
        &provider,
    )?)
}

/// How many names the certificate has that is made at start; it is served for other hosts all the same.
const MOST_NAMES: usize = 100;

/// The year, or one beside it at its edges.
fn year_of(now: SystemTime) -> i32 {
    const YEAR: u64 = 31_556_952;
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i32::try_from(1970 + since.as_secs() / YEAR).unwrap_or(i32::MAX - 2)
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates are valid by the wall clock"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// The port that plain requests are sent to.
pub(super) fn https_port(address: Option<std::net::SocketAddr>) -> Option<NonZeroU16> {
    NonZeroU16::new(address?.port())
}
