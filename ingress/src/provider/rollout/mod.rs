//! What becomes of Services over time: Knative's Configuration, Revision and Route controllers in one pure state.
//!
//! A changed template makes a new Revision. It takes the traffic of `latestRevision` when it is reported ready, and
//! until then the one before keeps it; the first Revision of a Service has nothing to wait for. Traffic that names a
//! Revision which has still to prove itself waits as a whole, as a Route does. Revisions without traffic leave the
//! world, but are remembered, so that traffic can be given back to them by name.
//!
//! ```text
//!                  first of its Service, or its endpoints are ready
//!   new template ────────────────────────────────────────────────▶ Ready ──▶ gets its traffic
//!        │                                                            ▲
//!        └──▶ Proving (in the world with `takeover`) ── ready ────────┘
//!                  │
//!                  └── failed ──▶ Failed (not in the world; a warning stays until the template changes)
//! ```
//!
//! Source: knative/serving `pkg/reconciler/configuration/configuration.go`, `pkg/reconciler/route/traffic/traffic.go`.

mod input;
mod service;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parkway_activator::revision::{Protocol, RevisionId, RevisionSpec};

use self::input::Input;
use self::service::{Phase, ServiceState};
use super::knative::{self, RoutedTarget};
use super::object::{CoreService, Ingress, Meta, Object, Service, TemplateSpec};
use super::problem::{Origin, Problem};
use super::slices::{self, Changed, revision_endpoints};
use super::translate::{self, Item, Lookup};
use super::world::{InvalidKey, Options, RevisionEntry, ServiceUrl, Validate, World};
use crate::routing::rules::IngressRules;

/// How many Revisions without traffic a Service remembers; of more, the oldest are forgotten.
///
/// Knative keeps as many: `min-non-active-revisions` of config-gc.
pub const MAX_REMEMBERED_REVISIONS: usize = 20;

/// Namespace and name.
type Key = (String, String);

/// A Service and what was made of it; cheap to clone.
#[derive(Clone, Debug)]
struct Entry {
    /// The place of the Service among those of the input.
    index: usize,
    service: Arc<Service>,
    state: Arc<ServiceState>,
    /// None until the world was made, and when others have a say in it.
    product: Option<Arc<Product>>,
}

/// What a Service puts into the world.
#[derive(Debug)]
struct Product {
    revisions: Vec<(RevisionId, Arc<RevisionEntry>)>,
    warnings: Vec<Problem>,
    urls: Vec<Arc<ServiceUrl>>,
    rules: Arc<IngressRules>,
}

impl Entry {
    /// Whether nothing has changed that this Service depends on.
    fn is_same(&self, service: &Arc<Service>, changed: &Changed) -> bool {
        let namespace = &service.meta.namespace;
        Arc::ptr_eq(&self.service, service)
            && self.product.is_some()
            && !self
                .state
                .names()
                .any(|name| changed.concerns(namespace, name))
    }
}

/// The state of all Services.
#[derive(Debug)]
pub struct Rollout {
    options: Options,
    validate: Arc<dyn Validate>,
    input: Input,
    services: BTreeMap<Key, Entry>,
    /// Revision documents as they were last accepted: they cannot be changed.
    documents: BTreeMap<RevisionId, Arc<TemplateSpec>>,
    generation: u64,
}

impl Rollout {
    /// Nothing is known yet.
    pub fn new(options: Options, validate: Arc<dyn Validate>) -> Self {
        Self {
            input: Input::empty(&options),
            options,
            validate,
            services: BTreeMap::new(),
            documents: BTreeMap::new(),
            generation: 0,
        }
    }

    /// Takes over a state of the configuration, as a whole or not at all.
    ///
    /// # Errors
    ///
    /// All that is wrong; nothing has changed then.
    pub fn apply(&mut self, objects: Vec<Object>) -> Result<World, Vec<Problem>> {
        let input = Input::read(objects, &self.options, self.validate.as_ref())?;
        let mut problems = self.changed_documents(&input);
        let is_comparable = input.is_simple() && input.settings == self.input.settings;
        let changed = is_comparable.then(|| input.slices.changed_since(&self.input.slices));
        let mut services = BTreeMap::new();
        for (index, service) in input.services.iter().enumerate() {
            let key = (service.meta.namespace.clone(), service.meta.name.clone());
            let before = self.services.get(&key);
            if let (Some(before), Some(changed)) = (before, &changed)
                && before.is_same(service, changed)
            {
                let entry = Entry {
                    index,
                    ..before.clone()
                };
                services.insert(key, entry);
                continue;
            }
            let mut state = before
                .map(|entry| ServiceState::clone(&entry.state))
                .unwrap_or_default();
            match state.advance(service, &input, self.validate.as_ref()) {
                Ok(()) => {
                    let entry = Entry {
                        index,
                        service: Arc::clone(service),
                        state: Arc::new(state),
                        product: None,
                    };
                    services.insert(key, entry);
                }
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            let world = self.world(&mut services, &input)?;
            self.services = services;
            self.documents = input
                .documents
                .iter()
                .map(|(id, entry)| (id.clone(), entry.template.clone()))
                .collect();
            self.input = input;
            return Ok(self.publish(world));
        }
        Err(problems)
    }

    /// A Revision with `takeover` has become ready: it gets its traffic. None when nothing waited for it.
    pub fn revision_ready(&mut self, id: &RevisionId) -> Option<World> {
        self.settle(id, &Phase::Ready)
    }

    /// A Revision with `takeover` did not become ready: the one before keeps the traffic, and a warning says why. None
    /// when nothing waited for it.
    pub fn revision_failed(
        &mut self,
        id: &RevisionId,
        reason: impl Into<Arc<str>>,
    ) -> Option<World> {
        self.settle(id, &Phase::Failed(reason.into()))
    }

    fn settle(&mut self, id: &RevisionId, phase: &Phase) -> Option<World> {
        let mut services = self.services.clone();
        let of_namespace = services
            .iter_mut()
            .filter(|((namespace, _), _)| namespace == id.namespace());
        let (_, entry) = { of_namespace }.find(|(_, entry)| entry.state.is_proving(id.name()))?;
        let state = Arc::make_mut(&mut entry.state);
        state.settle(id.name(), phase);
        state.route(&entry.service, &self.input).ok()?;
        entry.product = None;
        let world = match self.world(&mut services, &self.input) {
            Ok(world) => world,
            Err(problems) => {
                // All of it was checked by `apply`. Should that not be true, the traffic stays where it is.
                for problem in problems {
                    tracing::error!(revision = %id, %problem, "the Revision cannot take over");
                }
                return None;
            }
        };
        self.services = services;
        Some(self.publish(world))
    }

    fn publish(&mut self, mut world: World) -> World {
        self.generation += 1;
        world.generation = self.generation;
        world
    }

    /// Revisions are immutable, in documents of their own too.
    fn changed_documents(&self, input: &Input) -> Vec<Problem> {
        let changed = |(id, entry): &(&RevisionId, &input::ResolvedRevision)| {
            self.documents
                .get(*id)
                .is_some_and(|known| *known != entry.template)
        };
        let refuse = |(_, entry): (&RevisionId, &input::ResolvedRevision)| {
            let problem = entry.origin.problem("spec", "a Revision cannot be changed");
            problem
                .value("")
                .remedy("give the changed one a new metadata.name")
        };
        input.documents.iter().filter(changed).map(refuse).collect()
    }

    fn world(
        &self,
        services: &mut BTreeMap<Key, Entry>,
        input: &Input,
    ) -> Result<World, Vec<Problem>> {
        let mut world = World {
            autoscaler_config: input.settings.autoscaler.clone(),
            warnings: input.warnings.clone(),
            ..World::default()
        };
        let mut problems = Vec::new();
        let mut made = Made::default();
        for (id, entry) in &input.documents {
            match revision_entry(id, entry, false, input) {
                Ok(entry) => made.revision(&mut world, id.clone(), Arc::new(entry)),
                Err(problem) => problems.push(*problem),
            }
        }
        for (key, entry) in services.iter() {
            if let Some(product) = &entry.product {
                world.revisions.extend(product.revisions.iter().cloned());
                world.warnings.extend_from_slice(&product.warnings);
                world.urls.extend_from_slice(&product.urls);
                made.known
                    .push((entry.index, &entry.service.meta, Arc::clone(&product.rules)));
                continue;
            }
            let (service, state) = (&entry.service, &entry.state);
            let mut revisions = Vec::new();
            for (id, known, takeover) in state.in_use(&key.0) {
                match revision_entry(&id, known, takeover, input) {
                    Ok(entry) => {
                        let entry = Arc::new(entry);
                        revisions.push((id.clone(), Arc::clone(&entry)));
                        made.revision(&mut world, id, entry);
                    }
                    Err(problem) => problems.push(*problem),
                }
            }
            let warnings = state.warnings();
            world.warnings.extend_from_slice(&warnings);
            let protocol_of = |name: &str| self::protocol_of(&world.revisions, &key.0, name);
            let route = |targets: &[RoutedTarget]| {
                knative::route(
                    service,
                    targets,
                    &input.settings,
                    &self.options,
                    &protocol_of,
                )
            };
            // What is awaited is checked now: later there would be nobody to tell.
            let awaited = state.awaited.as_deref().map(route).transpose();
            match awaited.and_then(|_| route(&state.routed)) {
                Ok(route) => {
                    world.urls.extend_from_slice(&route.urls);
                    made.add(key, entry.index, route, revisions, warnings);
                }
                Err(problem) => problems.push(*problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let products = made.finish(&mut world, input, |key| {
            let entry = self.services.get(key)?;
            Some(Arc::clone(&entry.product.as_ref()?.rules))
        })?;
        for (key, product) in products {
            if let Some(entry) = services.get_mut(&key) {
                entry.product = Some(Arc::new(product));
            }
        }
        Ok(world)
    }
}

fn protocol_of(
    revisions: &BTreeMap<RevisionId, Arc<RevisionEntry>>,
    namespace: &str,
    name: &str,
) -> Protocol {
    let id = RevisionId::new(namespace, name);
    revisions
        .get(&id)
        .map(|entry| entry.spec.protocol)
        .unwrap_or_default()
}

/// A Revision as the world shows it: run by us, or reached at someone else's endpoints.
fn revision_entry(
    id: &RevisionId,
    known: &input::ResolvedRevision,
    takeover: bool,
    input: &Input,
) -> Result<RevisionEntry, Box<Problem>> {
    let endpoints = revision_endpoints(id, known.spec.protocol, &input.slices);
    if endpoints.is_none() && known.workload.is_none() {
        let path = known.path("containers[0].image");
        let problem = known.origin.problem(
            path,
            "an image is not run here, and no EndpointSlice says where it runs",
        );
        let remedy = format!(
            "add command: [program, argument] to run it as a local process, or an EndpointSlice with the label {}: {}",
            slices::SERVICE_NAME_LABEL,
            id.name()
        );
        return Err(problem.remedy(remedy).into());
    }
    Ok(RevisionEntry {
        spec: known.spec.clone(),
        annotations: known.annotations.clone(),
        takeover,
        workload: known.workload.clone().filter(|_| endpoints.is_none()),
        endpoints,
        origin: known.origin.clone(),
    })
}

/// What was made of the Services, until it meets each KIngress and Service that was written.
#[derive(Debug, Default)]
struct Made<'a> {
    fresh: Vec<Fresh>,
    /// With the place of the Service among those of the input.
    known: Vec<(usize, &'a Meta, Arc<IngressRules>)>,
    placeholders: Vec<CoreService>,
    /// The Revisions that a fresh KIngress may lead to.
    revisions: BTreeMap<RevisionId, Arc<RevisionSpec>>,
}

/// A KIngress that has just been made.
#[derive(Debug)]
struct Fresh {
    key: Key,
    /// The place of the Service among those of the input.
    index: usize,
    ingress: Ingress,
    revisions: Vec<(RevisionId, Arc<RevisionEntry>)>,
    warnings: Vec<Problem>,
    urls: Vec<Arc<ServiceUrl>>,
}

impl Made<'_> {
    fn revision(&mut self, world: &mut World, id: RevisionId, entry: Arc<RevisionEntry>) {
        self.revisions.insert(id.clone(), Arc::clone(&entry.spec));
        world.revisions.insert(id, entry);
    }

    fn add(
        &mut self,
        key: &Key,
        index: usize,
        route: knative::Route,
        revisions: Vec<(RevisionId, Arc<RevisionEntry>)>,
        warnings: Vec<Problem>,
    ) {
        self.placeholders.extend(route.placeholders);
        self.fresh.push(Fresh {
            key: key.clone(),
            index,
            ingress: route.ingress,
            revisions,
            warnings,
            urls: route.urls,
        });
    }

    /// Returns what can be used again while nothing changes; `before` has the rules a Service had.
    fn finish(
        self,
        world: &mut World,
        input: &Input,
        before: impl Fn(&Key) -> Option<Arc<IngressRules>>,
    ) -> Result<Vec<(Key, Product)>, Vec<Problem>> {
        let made: Vec<(usize, &Ingress)> = self
            .fresh
            .iter()
            .map(|fresh| (input.order_of(fresh.index), &fresh.ingress))
            .collect();
        let fresh = made.iter().enumerate();
        let mut items: Vec<(usize, Item<'_>)> = fresh
            .map(|(number, (order, ingress))| (*order, Item::New(number, ingress)))
            .collect();
        let known = self.known.iter().map(|(index, meta, rules)| {
            let item = Item::Known(meta, Arc::clone(rules));
            (input.order_of(*index), item)
        });
        items.extend(known);
        let by_name: HashMap<_, _> = made
            .iter()
            .map(|(_, made)| (made.meta.key(), *made))
            .collect();
        for (order, written) in &input.ingresses {
            match by_name.get(&written.meta.key()) {
                None => items.push((*order, Item::New(usize::MAX, written))),
                Some(made) => world.warnings.push(superseded(written, &made.meta.origin)),
            }
        }
        items.sort_by_key(|(order, _)| *order);
        // What was written wins, unless a cluster made it of a Service, to lead to its own ingress.
        let is_written = |service: &&Arc<CoreService>| !is_made_by_route(&service.meta);
        let written = input.core_services.iter().filter(is_written);
        let of_routes = input
            .core_services
            .iter()
            .filter(|service| is_made_by_route(&service.meta));
        let services = written
            .map(AsRef::as_ref)
            .chain(&self.placeholders)
            .chain(of_routes.map(AsRef::as_ref));
        let slices = input.slices.iter().filter(|_| !input.is_simple());
        let lookup = Lookup::new(services, slices, self.revisions);
        let items = items.into_iter().map(|(_, item)| item).collect();
        let mut translation = translate::translate_new(items, &lookup);
        let (errors, warnings): (Vec<_>, Vec<_>) = translation
            .problems
            .into_iter()
            .partition(Problem::is_error);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut rules_of: Vec<Option<Arc<IngressRules>>> = vec![None; made.len()];
        for (rules, number) in translation.ingresses.iter_mut().zip(translation.numbers) {
            let (Some(fresh), Some(slot)) = (self.fresh.get(number), rules_of.get_mut(number))
            else {
                continue;
            };
            if let Some(before) = before(&fresh.key).filter(|before| before == rules) {
                *rules = before;
            }
            *slot = Some(Arc::clone(rules));
        }
        // A warning about it would have to be given again.
        let is_kept = input.is_simple() && warnings.is_empty();
        world.ingresses = translation.ingresses;
        world.services = translation.services;
        world.warnings.extend(warnings);
        let products = self.fresh.into_iter().zip(rules_of);
        let product = |(fresh, rules): (Fresh, Option<Arc<IngressRules>>)| {
            let product = Product {
                revisions: fresh.revisions,
                warnings: fresh.warnings,
                urls: fresh.urls,
                rules: rules?,
            };
            Some((fresh.key, product))
        };
        Ok(products.filter_map(product).filter(|_| is_kept).collect())
    }
}

/// A cluster holds both the Service and the KIngress made of it.
fn superseded(written: &Ingress, service: &Origin) -> Problem {
    let message =
        format!("this KIngress is made from the Service of the same name ({service}), and skipped");
    let problem = written.meta.origin.problem("metadata.name", message);
    if is_made_by_route(&written.meta) {
        problem.note()
    } else {
        problem.warning().remedy("give it another name")
    }
}

/// Whether a cluster made the object of a Route.
fn is_made_by_route(meta: &Meta) -> bool {
    meta.labels.contains_key("serving.knative.dev/route")
}

fn invalid_keys(found: Vec<InvalidKey>, origin: &Origin, map: &str) -> Vec<Problem> {
    let problem = |invalid: InvalidKey| {
        origin
            .problem(format!("{map}[\"{}\"]", invalid.key), invalid.problem)
            .value(invalid.value)
    };
    found.into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests;
