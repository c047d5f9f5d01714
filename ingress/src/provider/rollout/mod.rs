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

mod amend;
mod input;
mod made;
mod service;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parkway_activator::revision::{Protocol, RevisionId};

use self::input::{Input, Sorted};
use self::made::Made;
use self::service::{Phase, ServiceState};
use super::knative::{self, RoutedTarget};
use super::object::{Object, Service, TemplateSpec};
use super::problem::{Origin, Problem};
use super::slices::{self, revision_endpoints};
use super::world::{InvalidKey, Options, RevisionEntry, ServiceUrl, Validate, World};
use crate::routing::rules::IngressRules;

/// How many Revisions without traffic a Service remembers; of more, the oldest are forgotten.
///
/// Knative keeps as many: `min-non-active-revisions` of config-gc.
pub const MAX_REMEMBERED_REVISIONS: usize = 20;

/// A Service and what was made of it.
#[derive(Debug)]
struct Entry {
    service: Arc<Service>,
    /// Where the Service stood then.
    line: u32,
    state: ServiceState,
    /// None until the world was made, and when others have a say in it.
    product: Option<Product>,
}

/// What a Service puts into the world.
#[derive(Debug)]
struct Product {
    revisions: Vec<(RevisionId, Arc<RevisionEntry>)>,
    warnings: Vec<Problem>,
    urls: Vec<Arc<ServiceUrl>>,
    rules: Arc<IngressRules>,
}

/// The state of all Services.
#[derive(Debug)]
pub struct Rollout {
    options: Options,
    validate: Arc<dyn Validate>,
    input: Input,
    /// What became of the Services of the input, in their order.
    entries: Vec<Arc<Entry>>,
    /// Revision documents as they were last accepted: they cannot be changed.
    documents: BTreeMap<RevisionId, Arc<TemplateSpec>>,
    /// The last world.
    world: World,
}

impl Rollout {
    /// Nothing is known yet.
    pub fn new(options: Options, validate: Arc<dyn Validate>) -> Self {
        Self {
            input: Input::empty(&options),
            options,
            validate,
            entries: Vec::new(),
            documents: BTreeMap::new(),
            world: World::default(),
        }
    }

    /// Takes over a state of the configuration, as a whole or not at all.
    ///
    /// # Errors
    ///
    /// All that is wrong; nothing has changed then.
    pub fn apply(&mut self, objects: Vec<Object>) -> Result<World, Vec<Problem>> {
        match self.amend(objects.into()) {
            Ok(world) => Ok(world),
            Err(objects) => self.apply_as_a_whole(objects, Self::make_world_in_steps),
        }
    }

    fn apply_as_a_whole(
        &mut self,
        objects: Sorted,
        make: impl Fn(&Self, &mut [Arc<Entry>], &Input) -> Result<World, Vec<Problem>>,
    ) -> Result<World, Vec<Problem>> {
        let input = Input::read(objects, &self.options, self.validate.as_ref())?;
        let mut problems = self.changed_documents(&input);
        let before: HashMap<_, _> = self
            .entries
            .iter()
            .map(|entry| (entry.key(), entry))
            .collect();
        let mut entries = Vec::with_capacity(input.services.len());
        for service in &input.services {
            let before = before.get(&service.meta.key());
            match self.entry(service, before.map(|entry| &entry.state), &input) {
                Ok(entry) => entries.push(Arc::new(entry)),
                Err(found) => problems.extend(found),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let world = make(self, &mut entries, &input)?;
        self.entries = entries;
        let documents = input.documents.iter();
        self.documents = documents
            .map(|(id, entry)| (id.clone(), entry.template.clone()))
            .collect();
        self.input = input;
        Ok(self.publish(world))
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
        let is_concerned = |entry: &Arc<Entry>| {
            *entry.service.meta.namespace == *id.namespace() && entry.state.is_proving(id.name())
        };
        let place = self.entries.iter().position(is_concerned)?;
        let service = Arc::clone(&self.entries[place].service);
        let mut state = self.entries[place].state.clone();
        state.settle(id.name(), phase);
        state.route(&service, &self.input).ok()?;
        if let Some(world) = self.amend_state(place, state.clone()) {
            return Some(world);
        }
        let mut entries = self.entries.clone();
        entries[place] = Arc::new(Entry {
            line: service.meta.origin.line(),
            service,
            state,
            product: None,
        });
        match self.make_world(&mut entries, &self.input) {
            Ok(world) => {
                self.entries = entries;
                Some(self.publish(world))
            }
            Err(problems) => {
                // All of it was checked by `apply`. Should that not be true, the traffic stays where it is.
                for problem in problems {
                    tracing::error!(revision = %id, %problem, "the Revision cannot take over");
                }
                None
            }
        }
    }

    fn publish(&mut self, mut world: World) -> World {
        world.generation = self.world.generation + 1;
        self.world = world.clone();
        world
    }

    /// A Service as it goes on from its last state; what it puts into the world is to come.
    fn entry(
        &self,
        service: &Arc<Service>,
        before: Option<&ServiceState>,
        input: &Input,
    ) -> Result<Entry, Vec<Problem>> {
        let mut state = before.cloned().unwrap_or_default();
        state.advance(service, input, self.validate.as_ref())?;
        Ok(Entry {
            service: Arc::clone(service),
            line: service.meta.origin.line(),
            state,
            product: None,
        })
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

    /// Makes the world of all Services one by one if that is possible, else all at once.
    fn make_world_in_steps(
        &self,
        entries: &mut [Arc<Entry>],
        input: &Input,
    ) -> Result<World, Vec<Problem>> {
        let world = self.make_world_one_by_one(entries, input);
        world.map_or_else(|| self.make_world(entries, input), Ok)
    }

    /// Makes the world of all Services, and notes what each has put into it.
    fn make_world(&self, entries: &mut [Arc<Entry>], input: &Input) -> Result<World, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut made = Made::default();
        for (id, known) in &input.documents {
            match revision_entry(id, known, false, input) {
                Ok(entry) => made.revision(id.clone(), Arc::new(entry)),
                Err(problem) => problems.push(*problem),
            }
        }
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_by_key(|place| entries[*place].key());
        for place in by_name {
            let Entry { service, state, .. } = &*entries[place];
            let in_use = state.in_use(&service.meta.namespace);
            let mut revisions = Vec::with_capacity(in_use.len());
            for (id, known, takeover) in in_use {
                match revision_entry(&id, known, takeover, input) {
                    Ok(entry) => {
                        let entry = Arc::new(entry);
                        revisions.push((id.clone(), Arc::clone(&entry)));
                        made.revision(id, entry);
                    }
                    Err(problem) => problems.push(*problem),
                }
            }
            let protocol_of = |name: &str| made.protocol_of(&service.meta.namespace, name);
            match self.route(service, state, &protocol_of, input) {
                Ok(route) => made.add(place, route, revisions, state.warnings()),
                Err(problem) => problems.push(*problem),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let before: HashMap<_, _> = { self.entries.iter() }
            .filter_map(|entry| Some((entry.key(), &entry.product.as_ref()?.rules)))
            .collect();
        let (world, products) = made.finish(input, |meta| before.get(&meta.key()).copied())?;
        for (place, product) in products {
            // Nobody else has it yet, unless it is what was there before, and then it says the same.
            if let Some(entry) = Arc::get_mut(&mut entries[place]) {
                entry.product = Some(product);
            }
        }
        Ok(world)
    }

    fn route(
        &self,
        service: &Service,
        state: &ServiceState,
        protocol_of: &dyn Fn(&str) -> Protocol,
        input: &Input,
    ) -> Result<knative::Route, Box<Problem>> {
        let route = |targets: &[RoutedTarget]| {
            knative::route(
                service,
                targets,
                &input.settings,
                &self.options,
                protocol_of,
            )
        };
        // What is awaited is checked now: later there would be nobody to tell.
        state.awaited.as_deref().map(route).transpose()?;
        route(&state.routed)
    }
}

impl Entry {
    fn key(&self) -> (&str, &str) {
        self.service.meta.key()
    }

    fn has_warnings(&self) -> bool {
        let product = self.product.as_ref();
        product.is_some_and(|product| !product.warnings.is_empty())
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
        endpoints: endpoints.map(Vec::into_boxed_slice),
        origin: known.origin.clone(),
    })
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
