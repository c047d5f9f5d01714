//! What was made of Services, until it meets each KIngress and Service that was written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parkway_activator::revision::{Protocol, RevisionId};

use super::super::knative;
use super::super::object::{CoreService, Ingress, Meta};
use super::super::problem::{Origin, Problem};
use super::super::translate::{self, Lookup};
use super::super::world::{RevisionEntry, ServiceUrl, World};
use super::Product;
use super::input::Input;
use crate::routing::rules::IngressRules;

/// What was made of all Services.
#[derive(Debug, Default)]
pub(super) struct Made {
    fresh: Vec<Fresh>,
    placeholders: Vec<CoreService>,
    revisions: BTreeMap<RevisionId, Arc<RevisionEntry>>,
    /// Two Services have a Revision of one name.
    has_twins: bool,
}

/// A KIngress that has just been made.
#[derive(Debug)]
struct Fresh {
    /// The place of the Service among those of the input.
    place: usize,
    ingress: Ingress,
    revisions: Vec<(RevisionId, Arc<RevisionEntry>)>,
    warnings: Vec<Problem>,
    urls: Vec<Arc<ServiceUrl>>,
}

/// What Services put into the world, with the places of the Services.
pub(super) type Products = Vec<(usize, Product)>;

impl Made {
    pub(super) fn revision(&mut self, id: RevisionId, entry: Arc<RevisionEntry>) {
        self.has_twins |= self.revisions.insert(id, entry).is_some();
    }

    pub(super) fn protocol_of(&self, namespace: &str, name: &str) -> Protocol {
        let id = RevisionId::new(namespace, name);
        let known = self.revisions.get(&id);
        known.map(|entry| entry.spec.protocol).unwrap_or_default()
    }

    /// What was made of the Service in this place. Services come in the order of their names.
    pub(super) fn add(
        &mut self,
        place: usize,
        route: knative::Route,
        revisions: Vec<(RevisionId, Arc<RevisionEntry>)>,
        warnings: Vec<Problem>,
    ) {
        self.placeholders.extend(route.placeholders);
        self.fresh.push(Fresh {
            place,
            ingress: route.ingress,
            revisions,
            warnings,
            urls: route.urls,
        });
    }

    /// Makes the world, and returns what can be used again while nothing changes, with the places of the Services;
    /// `before` has the rules a Service had.
    pub(super) fn finish<'r>(
        self,
        input: &Input,
        before: impl Fn(&Meta) -> Option<&'r Arc<IngressRules>>,
    ) -> Result<(World, Products), Vec<Problem>> {
        let mut warnings = input.warnings.clone();
        warnings.extend(
            self.fresh
                .iter()
                .flat_map(|fresh| fresh.warnings.iter().cloned()),
        );
        let items = self.items(input, &mut warnings);
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
        let slices = input.slices.all().iter().filter(|_| !input.is_simple());
        let revisions = self.revisions.iter();
        let specs = revisions.map(|(id, entry)| (id.clone(), Arc::clone(&entry.spec)));
        let lookup = Lookup::new(services, slices.map(AsRef::as_ref), specs.collect());
        let mut translation = translate::translate_all(items, &lookup);
        let (errors, of_rules): (Vec<_>, Vec<_>) = translation
            .problems
            .into_iter()
            .partition(Problem::is_error);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut rules_of: Vec<Option<Arc<IngressRules>>> = vec![None; self.fresh.len()];
        for (rules, number) in translation.ingresses.iter_mut().zip(translation.numbers) {
            let (Some(fresh), Some(slot)) = (self.fresh.get(number), rules_of.get_mut(number))
            else {
                continue;
            };
            if let Some(before) = before(&fresh.ingress.meta).filter(|before| *before == rules) {
                *rules = Arc::clone(before);
            }
            *slot = Some(Arc::clone(rules));
        }
        // A warning about it would have to be given again; of twins one hides the other.
        let is_kept = input.is_simple() && of_rules.is_empty() && !self.has_twins;
        warnings.extend(of_rules);
        let urls = self.fresh.iter().flat_map(|fresh| &fresh.urls);
        let world = World {
            generation: 0,
            ingresses: Arc::new(translation.ingresses),
            urls: Arc::new(urls.cloned().collect()),
            revisions: Arc::new(self.revisions),
            services: translation.services,
            autoscaler_config: input.settings.autoscaler.clone(),
            certificates: Arc::default(),
            warnings,
        };
        let products = self.fresh.into_iter().zip(rules_of);
        let products = products.filter(|_| is_kept).filter_map(|(fresh, rules)| {
            let product = Product {
                revisions: fresh.revisions,
                warnings: fresh.warnings,
                urls: fresh.urls,
                rules: rules?,
            };
            Some((fresh.place, product))
        });
        Ok((world, products.collect()))
    }

    /// Every KIngress, made and written, in the order in which they stand there; with the numbers of those that were made.
    fn items<'a>(
        &'a self,
        input: &'a Input,
        warnings: &mut Vec<Problem>,
    ) -> Vec<(usize, &'a Ingress)> {
        let made = self.fresh.iter().enumerate();
        let mut items: Vec<(u32, (usize, &Ingress))> = made
            .map(|(number, fresh)| (input.order_of(fresh.place), (number, &fresh.ingress)))
            .collect();
        let by_name: HashMap<_, _> = { self.fresh.iter() }
            .filter(|_| !input.ingresses.is_empty())
            .map(|fresh| (fresh.ingress.meta.key(), &fresh.ingress.meta))
            .collect();
        for (order, written) in &input.ingresses {
            match by_name.get(&written.meta.key()) {
                None => items.push((*order, (usize::MAX, written))),
                Some(made) => warnings.push(superseded(written, &made.origin)),
            }
        }
        items.sort_by_key(|(order, _)| *order);
        items.into_iter().map(|(_, item)| item).collect()
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
    meta.labels.get("serving.knative.dev/route").is_some()
}
