//! Takes in what watches tell, and marks whom it concerns.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use parkway_activator::revision::RevisionId;

use super::super::super::knative::{NAMESPACE_HEADER, REVISION_HEADER};
use super::super::few::Few;
use super::super::kept::{Given, KeptIngress, KeptRevision, KeptService, KeptSlice, SeenIngress};
use super::super::objects;
use super::super::watch::{Change, Key};
use super::{Cluster, Entry, Marks, Outcome};

impl Cluster {
    pub(super) fn learn_ingress(&mut self, change: Change<SeenIngress>) {
        match change {
            Change::All(all) => {
                self.has_all[0] = true;
                let there: HashSet<Key> = all.iter().map(|seen| seen.key().clone()).collect();
                for gone in missing(self.ingresses.keys(), &there) {
                    self.forget_ingress(&gone);
                }
                for seen in all {
                    self.see_ingress(seen);
                }
            }
            Change::Set(seen) => self.see_ingress(seen),
            Change::Gone(key) => self.forget_ingress(&key),
        }
    }

    fn see_ingress(&mut self, seen: SeenIngress) {
        match seen {
            SeenIngress::Ours(kept) => self.set_ingress(kept),
            SeenIngress::Given(given) => self.give_away(&given),
        }
    }

    /// Leaves a KIngress of ours to whoever has it now; its rules stay until it is [let go](Cluster::let_go).
    fn give_away(&mut self, given: &Given) {
        let key = &given.key;
        let Some(entry) = self.ingresses.get_mut(key) else {
            return; // never ours
        };
        if entry.kept.uid != given.uid {
            self.forget_ingress(key);
            return;
        }
        *self.given_away.entry(key.clone()).or_default() |= given.is_served_since(&entry.kept);
        if !std::mem::replace(&mut entry.is_given_away, true) {
            self.marks.ingresses.remove(key);
            self.marks.given_away.push(key.clone());
        }
    }

    fn set_ingress(&mut self, kept: KeptIngress) {
        let key = kept.key.clone();
        let known = self.ingresses.get(&key);
        if known.is_some_and(|known| known.kept == kept) {
            return;
        }
        if known.is_some_and(|known| known.kept.uid != kept.uid) {
            self.forget_ingress(&key); // another of the same name: nothing of the one before holds
        }
        let refers_to = references(&kept);
        self.secrets.name(&key, &kept.ingress().spec);
        let before = self.ingresses.remove(&key);
        let before_to = before.iter().flat_map(|entry| &entry.refers_to);
        for gone in before_to.filter(|target| !refers_to.contains(target)) {
            remove_from(&mut self.users, gone, &key);
        }
        for target in &refers_to {
            self.users
                .entry(target.clone())
                .or_default()
                .insert(key.clone());
        }
        let entry = match before {
            Some(entry) => Entry {
                kept,
                refers_to,
                is_given_away: false,
                ..*entry
            },
            None => Entry {
                kept,
                refers_to,
                rules: None,
                ports: Vec::new(),
                outcome: Outcome::Programmed,
                is_given_away: false,
                notes: Vec::new(),
            },
        };
        self.marks.gone.retain(|gone| *gone != key);
        self.marks.given_away.retain(|given| *given != key);
        self.given_away.remove(&key);
        self.marks.ingresses.insert(key.clone());
        self.ingresses.insert(key, Box::new(entry));
    }

    pub(super) fn forget_ingress(&mut self, key: &Key) {
        let Some(entry) = self.ingresses.remove(key) else {
            return;
        };
        for target in &entry.refers_to {
            remove_from(&mut self.users, target, key);
        }
        self.secrets.forget(key);
        self.release_ports(&entry.ports);
        self.given_away.remove(key);
        self.marks.given_away.retain(|given| given != key);
        self.marks.ingresses.remove(key);
        self.marks.gone.push(key.clone());
    }

    pub(super) fn learn_revision(&mut self, change: Change<KeptRevision>) {
        match change {
            Change::All(all) => {
                self.has_all[1] = true;
                let there: HashSet<RevisionId> = all.iter().map(|kept| kept.id.clone()).collect();
                let known = self.revisions.iter();
                let known = known.filter(|(_, known)| known.revision.is_some());
                for gone in missing(known.map(|(id, _)| id), &there) {
                    self.forget_revision(&gone);
                }
                for kept in all {
                    self.set_revision(kept);
                }
            }
            Change::Set(kept) => self.set_revision(kept),
            Change::Gone(key) => self.forget_revision(&RevisionId::new(key.namespace, key.name)),
        }
    }

    fn set_revision(&mut self, kept: KeptRevision) {
        let id = self.shared(kept.id);
        let kept = KeptRevision {
            id: id.clone(),
            ..kept
        };
        let known = self.revisions.entry(id.clone()).or_default();
        if known.revision.as_ref() == Some(&kept) {
            return;
        }
        let is_new = known.revision.is_none();
        if is_new || known.spec != kept.spec {
            known.spec = Arc::clone(&kept.spec);
            mark_users(&mut self.marks, &self.users, &key_of(&id));
        }
        known.revision = Some(kept);
        self.marks.revisions.insert(id);
    }

    fn forget_revision(&mut self, id: &RevisionId) {
        if let Some(known) = self.revisions.get_mut(id)
            && known.revision.take().is_some()
        {
            mark_users(&mut self.marks, &self.users, &key_of(id));
            self.marks.revisions.insert(id.clone());
        }
    }

    pub(super) fn learn_service(&mut self, change: Change<KeptService>) {
        match change {
            Change::All(all) => {
                self.has_all[2] = true;
                let there: HashSet<Key> = all.iter().map(|kept| kept.key().clone()).collect();
                let known = self.services.keys().chain(self.private.keys());
                for gone in missing(known, &there) {
                    self.forget_service(&gone);
                }
                for kept in all {
                    self.set_service(kept);
                }
            }
            Change::Set(kept) => self.set_service(kept),
            Change::Gone(key) => self.forget_service(&key),
        }
    }

    fn set_service(&mut self, kept: KeptService) {
        match kept {
            KeptService::Ordinary(key, service) => {
                if self.services.get(&key) != Some(&service) {
                    self.services.insert(key.clone(), service);
                    mark_users(&mut self.marks, &self.users, &key);
                }
            }
            KeptService::PrivateOf(key, id, cluster_ip) => {
                let id = self.shared(id);
                let known = self.revisions.entry(id.clone()).or_default();
                let name = Some(&key.name);
                if known.cluster_ip != cluster_ip || known.private_service.as_ref() != name {
                    known.cluster_ip = cluster_ip;
                    known.private_service = name.cloned();
                    self.marks.revisions.insert(id.clone());
                }
                self.private.insert(key, id);
            }
        }
    }

    fn forget_service(&mut self, key: &Key) {
        if self.services.remove(key).is_some() {
            mark_users(&mut self.marks, &self.users, key);
        }
        if let Some(id) = self.private.remove(key)
            && let Some(known) = self.revisions.get_mut(&id)
        {
            known.cluster_ip = None;
            known.private_service = None;
            self.marks.revisions.insert(id);
        }
    }

    pub(super) fn learn_slice(&mut self, change: Change<KeptSlice>) {
        match change {
            Change::All(all) => {
                self.has_all[3] = true;
                let there: HashSet<Key> = all.iter().map(|kept| kept.key.clone()).collect();
                for gone in missing(self.slices.keys(), &there) {
                    self.forget_slice(&gone);
                }
                for kept in all {
                    self.set_slice(kept);
                }
            }
            Change::Set(kept) => self.set_slice(kept),
            Change::Gone(key) => self.forget_slice(&key),
        }
    }

    fn set_slice(&mut self, mut kept: KeptSlice) {
        let key = kept.key.clone();
        if self.slices.get(&key).is_some_and(|known| **known == kept) {
            return;
        }
        self.forget_slice(&key);
        if let Some(id) = kept.revision.take() {
            let id = self.shared(id);
            let of_revision = self.slices_of_revision.entry(id.clone()).or_default();
            of_revision.insert(key.clone());
            kept.revision = Some(id);
        } else {
            let of_service = self.slices_of_service.entry(kept.service_key());
            of_service.or_default().insert(key.clone());
        }
        self.mark_slice(&kept);
        self.slices.insert(key, Box::new(kept));
    }

    fn forget_slice(&mut self, key: &Key) {
        let Some(kept) = self.slices.remove(key) else {
            return;
        };
        match &kept.revision {
            Some(id) => remove_from(&mut self.slices_of_revision, id, key),
            None => remove_from(&mut self.slices_of_service, &kept.service_key(), key),
        }
        self.mark_slice(&kept);
    }

    /// The same name, in memory that it shares with what is known of the Revision: several objects tell it.
    fn shared(&self, id: RevisionId) -> RevisionId {
        match self.revisions.get_key_value(&id) {
            Some((known, _)) => known.clone(),
            None => id,
        }
    }

    /// Marks whom a slice concerns.
    fn mark_slice(&mut self, slice: &KeptSlice) {
        if let Some(id) = &slice.revision {
            self.marks.revisions.insert(id.clone());
        }
        let service = slice.service_key();
        self.marks.replicas |= service == self.gateway;
        self.marks.bucket_owners |= self.is_bucket(&service);
        if let Some(ports) = self.ports_of_service.get(&service) {
            self.marks.ports.extend(ports.iter().cloned());
        }
        for user in self.users.get(&service).into_iter().flatten() {
            if self
                .ingresses
                .get(user)
                .is_some_and(|entry| entry.is_waiting())
            {
                self.marks.ingresses.insert(user.clone());
            }
        }
    }

    pub(super) fn learn_config(&mut self, change: Change<objects::ConfigMap>) {
        let named = |map: objects::ConfigMap| (map.metadata.name.unwrap_or_default(), map.data);
        match change {
            Change::All(all) => {
                self.has_all[4] = true;
                let there: HashSet<String> = { all.iter() }
                    .filter_map(|map| map.metadata.name.clone())
                    .collect();
                self.internal_tls
                    .retain_bundles(|name| there.contains(name));
                let others = all.into_iter();
                let others = others.filter_map(|map| self.internal_tls.keep_bundle(map));
                self.config = others.map(named).collect();
            }
            Change::Set(map) => match self.internal_tls.keep_bundle(map) {
                Some(map) => {
                    let (name, data) = named(map);
                    self.config.insert(name, data);
                }
                None => return,
            },
            Change::Gone(key) => {
                self.internal_tls.forget_bundle(&key.name);
                self.config.remove(&*key.name);
            }
        }
        self.marks.config = true;
        let network = self.config.get("config-network");
        if self.internal_tls.learn_config(network) {
            // Its Pods are reached in another way from now on.
            let all = self.revisions.keys().cloned();
            self.marks.revisions.extend(all);
        }
    }
}

/// Services and Revisions that the splits name.
fn references(kept: &KeptIngress) -> Few<Key> {
    let spec = kept.ingress().spec;
    let paths = { spec.rules.iter() }
        .flat_map(|rule| rule.http.iter())
        .flat_map(|http| &http.paths);
    let mut references = Few::default();
    for split in paths.flat_map(|path| &path.splits) {
        let header = |wanted: &str| {
            let mut headers = split.append_headers.iter();
            headers
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| value.as_str())
        };
        references.insert(
            kept.key
                .beside(&split.service_namespace, &split.service_name),
        );
        if let Some(revision) = header(REVISION_HEADER) {
            let namespace = header(NAMESPACE_HEADER).unwrap_or(&split.service_namespace);
            references.insert(kept.key.beside(namespace, revision));
        }
    }
    references
}

impl KeptSlice {
    fn service_key(&self) -> Key {
        Key {
            namespace: Arc::clone(&self.key.namespace),
            name: Arc::clone(&self.service),
        }
    }
}

fn key_of(id: &RevisionId) -> Key {
    Key::new(id.namespace(), id.name())
}

fn mark_users(marks: &mut Marks, users: &HashMap<Key, Few<Key>>, target: &Key) {
    if let Some(users) = users.get(target) {
        marks.ingresses.extend(users.iter().cloned());
    }
}

fn remove_from<K: Eq + Hash, S: BuildHasher>(
    index: &mut HashMap<K, Few<Key>, S>,
    at: &K,
    what: &Key,
) {
    if let Some(set) = index.get_mut(at) {
        set.remove(what);
        if set.is_empty() {
            index.remove(at);
        }
    }
}

fn missing<'k, K: Clone + Eq + Hash + 'k>(
    known: impl Iterator<Item = &'k K>,
    there: &HashSet<K>,
) -> Vec<K> {
    known.filter(|key| !there.contains(key)).cloned().collect()
}
