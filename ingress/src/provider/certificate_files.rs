//! Certificates in files that the command line names: read, checked, and read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::file::{Watch, read_text};
use super::problem::{Origin, Problem};
use crate::routing::tls::{Certificate, KEY_FIELD};

/// The flag that names a chain.
const CHAIN_FLAG: &str = "--tls-cert";
/// The flag that names a key.
const KEY_FLAG: &str = "--tls-key";

/// Files of certificates and of their keys.
#[derive(Clone, Debug)]
pub struct CertificateFiles(Vec<(PathBuf, PathBuf)>);

impl CertificateFiles {
    /// Takes chains and keys by their places.
    ///
    /// # Errors
    ///
    /// When there is not a key for each chain.
    pub fn pair(chains: &[PathBuf], keys: &[PathBuf]) -> Result<Self, Box<Problem>> {
        if chains.len() == keys.len() {
            let pairs = chains.iter().cloned().zip(keys.iter().cloned());
            return Ok(Self(pairs.collect()));
        }
        let (given, missing) = if chains.len() > keys.len() {
            (CHAIN_FLAG, KEY_FLAG)
        } else {
            (KEY_FLAG, CHAIN_FLAG)
        };
        let alone = { chains.iter().chain(keys) }.nth(chains.len().min(keys.len()));
        let alone = alone.map_or_else(|| Path::new("").to_owned(), Clone::clone);
        let (certificates, keys) = (chains.len(), keys.len());
        let message = format!("there are {certificates} certificates and {keys} keys");
        let problem = about(&alone, given, message);
        Err(problem
            .remedy(format!("give {missing} once for each {given}"))
            .into())
    }

    /// Whether no file was named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads all of them. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// All that is wrong with them.
    pub fn read(&self, now: SystemTime) -> Result<Vec<Arc<Certificate>>, Vec<Problem>> {
        let (mut read, mut problems) = (Vec::new(), Vec::new());
        for (chain, key) in &self.0 {
            match certificate(chain, key, now) {
                Ok(certificate) => read.push(Arc::new(certificate)),
                Err(problem) => problems.push(*problem),
            }
        }
        match problems.is_empty() {
            true => Ok(read),
            false => Err(problems),
        }
    }

    /// Begins to watch them.
    ///
    /// # Errors
    ///
    /// When the operating system refuses.
    pub fn watch(&self) -> notify::Result<Watch> {
        let files = { self.0.iter() }.flat_map(|(chain, key)| [chain.clone(), key.clone()]);
        Watch::new(&files.collect::<Vec<_>>())
    }
}

fn certificate(chain: &Path, key: &Path, now: SystemTime) -> Result<Certificate, Box<Problem>> {
    let read = |path: &Path, flag| {
        read_text(path).map_err(|error| {
            let problem = about(path, flag, format!("this file cannot be read: {error}"));
            Box::new(problem)
        })
    };
    let (pem, private) = (read(chain, CHAIN_FLAG)?, read(key, KEY_FLAG)?);
    let provider = rustls::crypto::ring::default_provider();
    let source = chain.display().to_string();
    Certificate::parse(source.into(), &pem, &private, now, &provider).map_err(|error| {
        let (path, flag) = match error.field() {
            KEY_FIELD => (key, KEY_FLAG),
            _ => (chain, CHAIN_FLAG),
        };
        let problem = about(path, flag, error.to_string());
        problem.remedy(error.remedy()).into()
    })
}

fn about(path: &Path, flag: &str, message: String) -> Problem {
    let mut problem = Origin::elsewhere("", "", "").problem(flag, message);
    problem.file = path.display().to_string();
    problem
}
