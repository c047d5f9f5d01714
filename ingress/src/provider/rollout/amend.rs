//! Small changes: some Services, or EndpointSlices, are others, and everything else is as it was.
//!
//! What comes of them is what looking at the whole would make of it, in the time that what has changed takes. That is
//! possible while no Service concerns another ([`Input::is_simple`]) and nothing is wrong; otherwise nothing has happened
//! here, and the whole is looked at.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parkway_activator::revision::{Protocol, RevisionId};

use super::super::object::Service;
use super::super::translate::{self, Lookup};
use super::super::world::{RevisionEntry, ServiceUrl, World};
use super::input::{Amended, Input, Sorted};
use super::service::ServiceState;
use super::{Entry, Product, Rollout, revision_entry};
use crate::routing::rules::{IngressRules, Visibility};

/// A Service that came, went, or is another.
#[derive(Debug)]
struct Change {
    before: Option<Arc<Entry>>,
    after: Option<Arc<Entry>>,
}

impl Rollout {
    /// The next state of the configuration, if it is a small change of this one; otherwise the objects come back.
    pub(super) fn amend(&mut self, objects: Sorted) -> Result<World, Sorted> {
        if !self.is_amendable() {
            return Err(objects);
        }
        let (input, amended) = self.input.amended(objects)?;
        let made = self
            .changed_entries(&input, &amended)
            .and_then(|(entries, changes)| {
                let world = self.changed_world(self.world.clone(), &input, &entries, &changes)?;
                Some((entries, world))
            });
        let Some((entries, world)) = made else {
            return Err(input.into_objects());
        };
        self.entries = entries;
        self.input = input;
        Ok(self.publish(world))
    }

    /// The Service in this place is in another state. None when the whole must be looked at.
    pub(super) fn amend_state(&mut self, place: usize, state: ServiceState) -> Option<World> {
        if !self.is_amendable() {
            return None;
        }
        let before = &self.entries[place];
        let entry = Entry {
            service: Arc::clone(&before.service),
            line: before.service.meta.origin.line(),
            state,
            product: None,
        };
        let after = self.with_product(entry, Some(before), &self.input)?;
        let change = Change {
            before: Some(Arc::clone(before)),
            after: Some(Arc::clone(&after)),
        };
        let mut entries = self.entries.clone();
        entries[place] = after;
        let world = self.changed_world(self.world.clone(), &self.input, &entries, &[change])?;
        self.entries = entries;
        Some(self.publish(world))
    }

    fn is_amendable(&self) -> bool {
        let mut entries = self.entries.iter();
        let is_known = self.world.generation > 0 && self.input.is_simple();
        is_known && entries.all(|entry| entry.product.is_some())
    }

    /// All entries as they are now, and which of them have changed.
    fn changed_entries(
        &self,
        input: &Input,
        amended: &Amended,
    ) -> Option<(Vec<Arc<Entry>>, Vec<Change>)> {
        let gone = amended
            .services
            .gone
            .iter()
            .map(|place| &self.entries[*place]);
        let mut gone: BTreeMap<_, _> = gone.map(|entry| (entry.key(), entry)).collect();
        let is_concerned = |entry: &Entry| {
            let namespace = &entry.service.meta.namespace;
            let mut names = entry.state.names();
            let are_its = !amended.endpoints.is_empty()
                && names.any(|name| amended.endpoints.concerns(namespace, name));
            // Warnings name lines.
            are_its || (entry.has_warnings() && entry.line != entry.service.meta.origin.line())
        };
        let mut entries = Vec::with_capacity(input.services.len());
        let mut changes = Vec::new();
        for (service, place) in input.services.iter().zip(&amended.services.before) {
            let before = match place.map(|place| &self.entries[place]) {
                Some(before) if !is_concerned(before) => {
                    entries.push(Arc::clone(before));
                    continue;
                }
                Some(before) => Some(before),
                None => gone.remove(&service.meta.key()),
            };
            let after = self.changed_entry(service, before, input)?;
            entries.push(Arc::clone(&after));
            changes.push(Change {
                before: before.cloned(),
                after: Some(after),
            });
        }
        changes.extend(gone.into_values().map(|before| Change {
            before: Some(Arc::clone(before)),
            after: None,
        }));
        Some((entries, changes))
    }

    fn changed_entry(
        &self,
        service: &Arc<Service>,
        before: Option<&Arc<Entry>>,
        input: &Input,
    ) -> Option<Arc<Entry>> {
        let entry = self.entry(service, before.map(|entry| &entry.state), input);
        self.with_product(entry.ok()?, before, input)
    }

    fn with_product(
        &self,
        mut entry: Entry,
        before: Option<&Arc<Entry>>,
        input: &Input,
    ) -> Option<Arc<Entry>> {
        let before = before.and_then(|entry| entry.product.as_ref());
        entry.product = Some(self.product(&entry, before, input)?);
        Some(Arc::new(entry))
    }

    /// Makes what the Service puts into the world; what is as it was stays the same value. None when that takes
    /// saying something.
    fn product(&self, entry: &Entry, before: Option<&Product>, input: &Input) -> Option<Product> {
        let (service, state) = (&entry.service, &entry.state);
        let in_use = state.in_use(&service.meta.namespace);
        let mut revisions: Vec<(RevisionId, Arc<RevisionEntry>)> = Vec::with_capacity(in_use.len());
        for (id, known, takeover) in in_use {
            let revision = revision_entry(&id, known, takeover, input).ok()?;
            let mut known = before.iter().flat_map(|before| &before.revisions);
            let known = known.find(|(other, known)| *other == id && is_same(known, &revision));
            let revision = known.map_or_else(|| Arc::new(revision), |(_, known)| Arc::clone(known));
            revisions.push((id, revision));
        }
        let protocol_of = |name: &str| {
            let named = revisions.iter().find(|(id, _)| id.name() == name);
            named.map_or_else(Protocol::default, |(_, revision)| revision.spec.protocol)
        };
        let route = self.route(service, state, &protocol_of, input).ok()?;
        let specs = revisions.iter();
        let specs = specs.map(|(id, revision)| (id.clone(), Arc::clone(&revision.spec)));
        let lookup = Lookup::new(&route.placeholders, [], specs.collect());
        let translated = translate::translate_one(&route.ingress, &lookup);
        if !translated.problems.is_empty() || !translated.services.is_empty() {
            return None;
        }
        let known = before.map(|before| &before.rules);
        let known = known.filter(|rules| ***rules == translated.rules);
        let rules = known.map_or_else(|| Arc::new(translated.rules), Arc::clone);
        Some(Product {
            revisions,
            warnings: state.warnings(),
            urls: route.urls,
            rules,
        })
    }

    /// The world of these entries, made as if each Service were a small change: what is made on the way of one is gone
    /// before the next, while all of it together takes several times what stays, and leaves the memory full of holes.
    /// None when one Service concerns another or something is to be said: nothing has happened then.
    pub(super) fn make_world_one_by_one(
        &self,
        entries: &mut [Arc<Entry>],
        input: &Input,
    ) -> Option<World> {
        if !input.is_simple() {
            return None;
        }
        let before: HashMap<_, _> = { self.entries.iter() }
            .filter_map(|entry| Some((entry.key(), entry.product.as_ref()?)))
            .collect();
        let products = entries.iter().map(|entry| {
            let before = before.get(&entry.key()).copied();
            self.product(entry, before, input)
        });
        let products = products.collect::<Option<Vec<Product>>>()?;
        for (entry, product) in entries.iter_mut().zip(products) {
            Arc::get_mut(entry)?.product = Some(product); // nobody else has it yet
        }
        let mut by_name: Vec<&Arc<Entry>> = entries.iter().collect();
        by_name.sort_by_key(|entry| entry.key());
        let changes: Vec<Change> = { by_name.into_iter() }
            .map(|entry| Change {
                before: None,
                after: Some(Arc::clone(entry)),
            })
            .collect();
        let nothing = World {
            warnings: input.warnings.clone(),
            autoscaler_config: input.settings.autoscaler.clone(),
            generation: self.world.generation,
            ..World::default()
        };
        let world = self.changed_world(nothing, input, entries, &changes);
        drop(changes);
        if world.is_none() {
            for entry in entries {
                if let Some(entry) = Arc::get_mut(entry) {
                    entry.product = None;
                }
            }
        }
        world
    }

    /// The world after these changes. None when they concern other Services.
    fn changed_world(
        &self,
        mut world: World,
        input: &Input,
        entries: &[Arc<Entry>],
        changes: &[Change],
    ) -> Option<World> {
        if take_hosts_of_others(entries, changes) {
            return None;
        }
        change_revisions(&mut world.revisions, changes)?;
        for change in changes {
            change_urls(&mut world.urls, change);
        }
        let have_before = changes.iter().all(|change| change.before.is_some());
        if have_before && self.is_in_place(entries) {
            change_rules(&mut world.ingresses, changes)?;
        } else {
            let mut oldest_first: Vec<&Arc<Entry>> = entries.iter().collect();
            oldest_first.sort_by_cached_key(|entry| translate::age(&entry.service.meta));
            let products = oldest_first
                .iter()
                .filter_map(|entry| entry.product.as_ref());
            world.ingresses =
                Arc::new(products.map(|product| Arc::clone(&product.rules)).collect());
        }
        if changes.iter().any(Change::concerns_warnings) {
            let products = entries
                .iter()
                .filter_map(|entry| Some((entry, entry.product.as_ref()?)));
            let with_warnings = products.filter(|(_, product)| !product.warnings.is_empty());
            let by_name: BTreeMap<_, _> = with_warnings
                .map(|(entry, product)| (entry.key(), &product.warnings))
                .collect();
            world.warnings.clone_from(&input.warnings);
            world
                .warnings
                .extend(by_name.into_values().flatten().cloned());
        }
        Some(world)
    }

    /// Whether each Service is as old as the one that was in its place.
    fn is_in_place(&self, entries: &[Arc<Entry>]) -> bool {
        let is_like = |(one, other): (&Arc<Entry>, &Arc<Entry>)| {
            let (meta, before) = (&one.service.meta, &other.service.meta);
            Arc::ptr_eq(one, other)
                || (meta.key() == before.key() && meta.created == before.created)
        };
        entries.len() == self.entries.len() && entries.iter().zip(&self.entries).all(is_like)
    }
}

impl Change {
    fn before(&self) -> Option<&Product> {
        self.before.as_ref()?.product.as_ref()
    }

    fn after(&self) -> Option<&Product> {
        self.after.as_ref()?.product.as_ref()
    }

    fn concerns_warnings(&self) -> bool {
        let mut products = self.before().into_iter().chain(self.after());
        products.any(|product| !product.warnings.is_empty())
    }
}

/// Whether nothing has changed about a Revision, not even where it is written.
fn is_same(one: &RevisionEntry, other: &RevisionEntry) -> bool {
    one == other && one.origin.line() == other.origin.line()
}

/// None when a Revision's name is that of another Service's.
fn change_revisions(
    revisions: &mut Arc<BTreeMap<RevisionId, Arc<RevisionEntry>>>,
    changes: &[Change],
) -> Option<()> {
    let of = |product: Option<&Product>| {
        let revisions = product.map(|product| product.revisions.clone());
        revisions.unwrap_or_default()
    };
    let mut new = Vec::new();
    for change in changes {
        let (before, after) = (of(change.before()), of(change.after()));
        let is_same = before.len() == after.len() && { before.iter().zip(&after) }
            .all(|((_, one), (_, other))| Arc::ptr_eq(one, other));
        if is_same {
            continue;
        }
        for (id, known) in before {
            let removed = Arc::make_mut(revisions).remove(&id)?;
            if !Arc::ptr_eq(&removed, &known) {
                return None;
            }
        }
        new.extend(after);
    }
    for (id, revision) in new {
        if Arc::make_mut(revisions).insert(id, revision).is_some() {
            return None;
        }
    }
    Some(())
}

fn change_urls(urls: &mut Arc<Vec<Arc<ServiceUrl>>>, change: &Change) {
    let (before, after) = (change.before(), change.after());
    let Some(entry) = change.before.as_ref().or(change.after.as_ref()) else {
        return;
    };
    let urls = Arc::make_mut(urls);
    let first = urls.partition_point(|url| (&*url.namespace, &*url.service) < entry.key());
    let end = first + before.map_or(0, |product| product.urls.len());
    let after = after.map(|product| product.urls.clone());
    urls.splice(first..end, after.unwrap_or_default());
}

fn change_rules(ingresses: &mut Arc<Vec<Arc<IngressRules>>>, changes: &[Change]) -> Option<()> {
    for change in changes {
        let (before, after) = (&change.before()?.rules, &change.after()?.rules);
        if !Arc::ptr_eq(before, after) {
            let place = ingresses
                .iter()
                .position(|rules| Arc::ptr_eq(rules, before))?;
            Arc::make_mut(ingresses)[place] = Arc::clone(after);
        }
    }
    Some(())
}

/// Whether a change lists a host that it did not list before, and another Service does: then somebody must be told.
fn take_hosts_of_others(entries: &[Arc<Entry>], changes: &[Change]) -> bool {
    let mut new: HashMap<(Visibility, Cow<'_, str>), *const Entry> = HashMap::new();
    for change in changes {
        let (Some(entry), Some(product)) = (&change.after, change.after()) else {
            continue;
        };
        let before = change.before().map(|product| hosts(&product.rules));
        if before.is_some_and(|before| before.eq(hosts(&product.rules))) {
            continue;
        }
        for host in hosts(&product.rules) {
            let owner = *new.entry(host).or_insert(Arc::as_ptr(entry));
            if owner != Arc::as_ptr(entry) {
                return true;
            }
        }
    }
    let is_taken = |entry: &Arc<Entry>| {
        let products = entry.product.iter();
        let mut hosts = products.flat_map(|product| hosts(&product.rules));
        hosts.any(|host| {
            new.get(&host)
                .is_some_and(|owner| *owner != Arc::as_ptr(entry))
        })
    };
    !new.is_empty() && entries.iter().any(is_taken)
}

/// The hosts of all rules, in lower case.
fn hosts(rules: &IngressRules) -> impl Iterator<Item = (Visibility, Cow<'_, str>)> {
    rules.rules.iter().flat_map(|rule| {
        rule.hosts.iter().map(|host| {
            let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
            let host = match is_lower {
                true => Cow::Borrowed(&**host),
                false => Cow::Owned(host.to_ascii_lowercase()),
            };
            (rule.visibility, host)
        })
    })
}

#[cfg(test)]
mod tests;
