//! EndpointSlices: found by what they are about, and the endpoints they say.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;

use parkway_activator::endpoint::Endpoint;
use parkway_activator::revision::{Protocol, RevisionId};

use super::difference::Difference;
use super::object::EndpointSlice;

/// The label that says which Service an EndpointSlice belongs to.
pub(crate) const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label that says which Revision something belongs to.
pub(crate) const REVISION_LABEL: &str = "serving.knative.dev/revision";
/// The label that tells a Revision's own endpoints (`Private`) from those the ingress is to use (`Public`), which are
/// an activator's while the Revision is at zero.
pub(crate) const SERVICE_TYPE_LABEL: &str = "networking.internal.knative.dev/serviceType";

/// EndpointSlices, to be found by the Revision or Service they are about.
#[derive(Debug, Default)]
pub struct Slices {
    all: Vec<Arc<EndpointSlice>>,
    /// Hashes of what each is about, with its place; sorted. Equal hashes of different names are harmless.
    about: Vec<(u64, usize)>,
    hasher: RandomState,
}

/// What has been said, or is said, by EndpointSlices that changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    names: HashSet<(Arc<str>, Box<str>)>,
}

impl Changed {
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether the endpoints of this Revision may have changed.
    pub(crate) fn concerns(&self, namespace: &str, revision: &str) -> bool {
        let is_it = |name: &str| {
            name.strip_prefix(revision)
                .is_some_and(|rest| matches!(rest, "" | "-private"))
        };
        if self.names.len() <= FEW_NAMES {
            let mut names = self.names.iter();
            return names.any(|(other, name)| is_it(name) && **other == *namespace);
        }
        let has = |name: String| self.names.contains(&(namespace.into(), name.into()));
        has(revision.to_owned()) || has(format!("{revision}-private"))
    }
}

/// Up to this many names looking at each is quicker than looking one up.
const FEW_NAMES: usize = 16;

impl Slices {
    /// These slices.
    pub fn new(all: Vec<Arc<EndpointSlice>>) -> Self {
        let difference = Difference::between(&[], &all);
        Self::default().amended(all, &difference)
    }

    /// These slices, of which most are the same as here.
    pub(crate) fn amended(&self, all: Vec<Arc<EndpointSlice>>, difference: &Difference) -> Self {
        let mut places: Vec<Option<usize>> = vec![None; self.all.len()];
        for (place, before) in difference.before.iter().enumerate() {
            if let Some(before) = before {
                places[*before] = Some(place);
            }
        }
        let still = self.about.iter();
        let still = still.filter_map(|(hash, before)| Some((*hash, places[*before]?)));
        let mut about: Vec<(u64, usize)> = still.collect();
        for place in difference.added() {
            let names = names_of(&all[place]);
            about.extend(names.map(|name| (self.hash(&all[place], name), place)));
        }
        about.sort(); // stable, because it is quick with what is sorted but for the new ones at the end
        about.dedup();
        Self {
            all,
            about,
            hasher: self.hasher.clone(),
        }
    }

    /// What those slices are about that came, or went.
    pub(crate) fn changed_since(&self, before: &Self, difference: &Difference) -> Changed {
        let new = difference.added().map(|place| &self.all[place]);
        let gone = difference.gone.iter().map(|place| &before.all[*place]);
        let names = new.chain(gone).flat_map(|slice| {
            names_of(slice).map(|name| (Arc::clone(&slice.meta.namespace), name.into()))
        });
        Changed {
            names: names.collect(),
        }
    }

    fn hash(&self, slice: &EndpointSlice, name: &str) -> u64 {
        self.hasher.hash_one((&*slice.meta.namespace, name))
    }

    /// All of them, in their order.
    pub fn all(&self) -> &[Arc<EndpointSlice>] {
        &self.all
    }

    /// The same, on their own.
    pub(crate) fn into_all(self) -> Vec<Arc<EndpointSlice>> {
        self.all
    }

    /// Slices that may be about this name, and others that happen to hash like it.
    fn about<'s>(&'s self, namespace: &str, name: &str) -> impl Iterator<Item = usize> + 's {
        let hash = self.hasher.hash_one((namespace, name));
        let first = self.about.partition_point(|(other, _)| *other < hash);
        let rest = self.about.iter().skip(first);
        rest.take_while(move |(other, _)| *other == hash)
            .map(|(_, place)| *place)
    }
}

/// A Revision's endpoints when EndpointSlices say where they are; none when no slice is about it.
///
/// A slice is about a Revision when it carries the Revision's label, or belongs to the Service `<revision>` or
/// `<revision>-private`. Where a private one exists the others are left aside: they name an activator while the
/// Revision is at zero. Source: knative/serving `pkg/reconciler/serverlessservice/resources/services.go`.
pub fn revision_endpoints(
    id: &RevisionId,
    protocol: Protocol,
    slices: &Slices,
) -> Option<Vec<Endpoint>> {
    let private_name = format!("{}-private", id.name());
    let belongs = |slice: &&EndpointSlice| {
        let service = label_of(slice, SERVICE_NAME_LABEL);
        *slice.meta.namespace == *id.namespace()
            && (label_of(slice, REVISION_LABEL) == Some(id.name())
                || service == Some(id.name())
                || service == Some(&private_name))
    };
    let public = slices.about(id.namespace(), id.name());
    let places: BTreeSet<usize> = public
        .chain(slices.about(id.namespace(), &private_name))
        .collect();
    let candidates = places.into_iter().filter_map(|place| slices.all.get(place));
    let own: Vec<&EndpointSlice> = candidates.map(AsRef::as_ref).filter(belongs).collect();
    if own.is_empty() {
        return None;
    }
    let is_private = |slice: &&&EndpointSlice| {
        label_of(slice, SERVICE_TYPE_LABEL) == Some("Private")
            || label_of(slice, SERVICE_NAME_LABEL) == Some(&private_name)
    };
    let private: Vec<&EndpointSlice> = own.iter().filter(is_private).copied().collect();
    let chosen = if private.is_empty() { own } else { private };
    Some(endpoints(&chosen, |slice| serving_port(slice, protocol)))
}

/// The names of what a slice says that it is about.
fn names_of(slice: &EndpointSlice) -> impl Iterator<Item = &str> {
    let labels = [REVISION_LABEL, SERVICE_NAME_LABEL];
    labels
        .into_iter()
        .filter_map(|label| label_of(slice, label))
}

fn label_of<'s>(slice: &'s EndpointSlice, key: &str) -> Option<&'s str> {
    slice.meta.labels.get(key)
}

/// The port that serves requests: `http` or `http2`, as Knative names it, or the only one there is.
fn serving_port(slice: &EndpointSlice, protocol: Protocol) -> Option<u16> {
    let names = match protocol {
        Protocol::Http1 => ["http", "http1"],
        Protocol::H2c => ["http2", "h2c"],
    };
    let named = slice.ports.iter().find(|port| names.contains(&&*port.name));
    match (named, &*slice.ports) {
        (Some(port), _) | (None, [port]) => Some(port.port),
        _ => None,
    }
}

/// The ready endpoints of slices, in the order of their addresses.
pub(crate) fn endpoints(
    slices: &[&EndpointSlice],
    port: impl Fn(&EndpointSlice) -> Option<u16>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for slice in slices {
        let Some(port) = port(slice) else { continue };
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.is_ready);
        endpoints
            .extend(ready.map(|endpoint| Endpoint::new(SocketAddr::new(endpoint.address, port))));
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints
}
