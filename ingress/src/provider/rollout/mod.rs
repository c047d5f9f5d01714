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

use parkway_activator::revision::{Protocol, RevisionId};

use self::input::Input;
use self::service::{Phase, ServiceState};
use super::knative::{self, RoutedTarget};
use super::object::{CoreService, Ingress, Meta, Object, TemplateSpec};
use super::problem::{Origin, Problem};
use super::translate::{self, Lookup, revision_endpoints};
use super::world::{InvalidKey, Options, RevisionEntry, ServiceUrl, Validate, World};

/// How many Revisions without traffic a Service remembers; of more, the oldest are forgotten.
///
/// Knative keeps as many: `min-non-active-revisions` of config-gc.
pub const MAX_REMEMBERED_REVISIONS: usize = 20;

/// Namespace and name.
type Key = (String, String);

/// The state of all Services.
#[derive(Debug)]
pub struct Rollout {
    options: Options,
    validate: Arc<dyn Validate>,
    input: Input,
    services: BTreeMap<Key, ServiceState>,
    /// Revision documents as they were last accepted: they cannot be changed.
    documents: BTreeMap<RevisionId, TemplateSpec>,
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
        let mut services = BTreeMap::new();
        for (index, service) in input.services.iter().enumerate() {
            let key = (service.meta.namespace.clone(), service.meta.name.clone());
            let mut state = self.services.get(&key).cloned().unwrap_or_default();
            state.index = index;
            match state.advance(service, &input, self.validate.as_ref()) {
                Ok(()) => drop(services.insert(key, state)),
                Err(found) => problems.extend(found),
            }
        }
        if problems.is_empty() {
            let world = self.world(&services, &input)?;
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
        let (_, state) = { of_namespace }.find(|(_, state)| state.is_proving(id.name()))?;
        state.settle(id.name(), phase);
        state
            .route(self.input.services.get(state.index)?, &self.input)
            .ok()?;
        let world = match self.world(&services, &self.input) {
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
        services: &BTreeMap<Key, ServiceState>,
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
            collect(
                &mut world.revisions,
                &mut problems,
                id,
                revision_entry(id, entry, false, input),
            );
        }
        for (key, state) in services {
            let Some(service) = input.services.get(state.index) else {
                continue;
            };
            for (id, known, takeover) in state.in_use(&key.0) {
                collect(
                    &mut world.revisions,
                    &mut problems,
                    &id,
                    revision_entry(&id, known, takeover, input),
                );
            }
            world.warnings.extend(state.warnings());
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
                Ok(route) => made.add(state.index, route),
                Err(problem) => problems.push(*problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        made.finish(&mut world, input)?;
        Ok(world)
    }
}

fn protocol_of(
    revisions: &BTreeMap<RevisionId, RevisionEntry>,
    namespace: &str,
    name: &str,
) -> Protocol {
    let id = RevisionId::new(namespace, name);
    revisions
        .get(&id)
        .map(|entry| entry.spec.protocol)
        .unwrap_or_default()
}

fn collect(
    revisions: &mut BTreeMap<RevisionId, RevisionEntry>,
    problems: &mut Vec<Problem>,
    id: &RevisionId,
    entry: Result<RevisionEntry, Box<Problem>>,
) {
    match entry {
        Ok(entry) => drop(revisions.insert(id.clone(), entry)),
        Err(problem) => problems.push(*problem),
    }
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
            translate::SERVICE_NAME_LABEL,
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
struct Made {
    /// With the place of the Service among the objects.
    ingresses: Vec<(usize, Ingress)>,
    placeholders: Vec<CoreService>,
    urls: Vec<(Key, ServiceUrl)>,
}

impl Made {
    fn add(&mut self, index: usize, route: knative::Route) {
        let key = (
            route.ingress.meta.namespace.clone(),
            route.ingress.meta.name.clone(),
        );
        self.ingresses.push((index, route.ingress));
        self.placeholders.extend(route.placeholders);
        self.urls
            .extend(route.urls.into_iter().map(|url| (key.clone(), url)));
    }

    fn finish(self, world: &mut World, input: &Input) -> Result<(), Vec<Problem>> {
        let made: Vec<(usize, &Ingress)> = self
            .ingresses
            .iter()
            .map(|(at, made)| (input.order_of(*at), made))
            .collect();
        let mut ingresses: Vec<(usize, &Ingress)> = made.clone();
        let by_name: HashMap<_, _> = made
            .iter()
            .map(|(_, made)| (made.meta.key(), *made))
            .collect();
        for (order, written) in &input.ingresses {
            match by_name.get(&written.meta.key()) {
                None => ingresses.push((*order, written)),
                Some(made) => world.warnings.push(superseded(written, &made.meta.origin)),
            }
        }
        ingresses.sort_by_key(|(order, _)| *order);
        let revisions = world
            .revisions
            .iter()
            .map(|(id, entry)| (id.clone(), entry.spec.clone()))
            .collect();
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
        let lookup = Lookup::new(services, input.slices.iter(), revisions);
        let ingresses = ingresses.into_iter().map(|(_, ingress)| ingress).collect();
        let translation = translate::translate(ingresses, &lookup);
        let (errors, warnings): (Vec<_>, Vec<_>) = translation
            .problems
            .into_iter()
            .partition(Problem::is_error);
        if !errors.is_empty() {
            return Err(errors);
        }
        world.ingresses = translation.ingresses;
        world.services = translation.services;
        world.warnings.extend(warnings);
        world.urls = self.urls.into_iter().map(|(_, url)| url).collect();
        Ok(())
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
