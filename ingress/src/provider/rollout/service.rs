//! One Service over time.

use std::collections::BTreeSet;
use std::sync::Arc;

use parkway_activator::revision::RevisionId;

use super::super::knative::RoutedTarget;
use super::super::names;
use super::super::object::{RevisionTemplate, Service};
use super::super::problem::Problem;
use super::super::slices::revision_endpoints;
use super::super::world::Validate;
use super::MAX_REMEMBERED_REVISIONS;
use super::input::{Input, ResolvedRevision, Template};

/// One Service: its Revisions, and who has its traffic.
#[derive(Clone, Debug, Default)]
pub(super) struct ServiceState {
    /// Who has the traffic now.
    pub(super) routed: Vec<RoutedTarget>,
    /// Who will have it once the Revisions that must prove themselves have.
    pub(super) awaited: Option<Vec<RoutedTarget>>,
    /// How many templates there were; part of the names that are made.
    templates: u32,
    /// Its Revisions, oldest first; the last was made from the present template.
    known: Vec<Known>,
    /// The one that `latestRevision` means.
    latest_ready: Arc<str>,
    /// Names that the traffic of the present template mentions, ready or not.
    wanted: Vec<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    template: Arc<RevisionTemplate>,
    revision: ResolvedRevision,
    warnings: Vec<Problem>,
    phase: Phase,
}

/// How far a Revision has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It may have traffic.
    Ready,
    /// It is being started to prove itself.
    Proving,
    /// It did not become ready.
    Failed(Arc<str>),
}

impl ServiceState {
    /// Takes over what the Service says now.
    pub(super) fn advance(
        &mut self,
        service: &Service,
        input: &Input,
        validate: &dyn Validate,
    ) -> Result<(), Vec<Problem>> {
        match self.known.last_mut() {
            Some(latest) if latest.template == service.template => {
                latest.look_again(service, input, validate)?;
            }
            _ => self.make_revision(service, input, validate)?,
        }
        self.prove_by_endpoints(service, input);
        self.route(service, input)
            .map_err(|problem| vec![*problem])?;
        self.forget();
        Ok(())
    }

    /// Makes a Revision of the present template, or takes up an earlier one of the same name.
    fn make_revision(
        &mut self,
        service: &Service,
        input: &Input,
        validate: &dyn Validate,
    ) -> Result<(), Vec<Problem>> {
        let name = match &service.template.name {
            Some(name) => Arc::clone(name),
            None => self
                .next_name(service, input)
                .map_err(|problem| vec![*problem])?,
        };
        if let Some(earlier) = self.known.iter().position(|known| known.name == name) {
            let mut again = self.known.remove(earlier);
            if again.template != service.template {
                return Err(vec![changed_under_its_name(service, &name)]);
            }
            again.look_again(service, input, validate)?;
            if again.phase != Phase::Ready {
                again.phase = Phase::Proving; // asked for anew, so tried anew
            }
            self.known.push(again);
        } else {
            let known = self.new_revision(service, name, input, validate)?;
            self.known.reserve_exact(1);
            self.known.push(known);
        }
        self.templates = self.templates.saturating_add(1);
        Ok(())
    }

    fn new_revision(
        &self,
        service: &Service,
        name: Arc<str>,
        input: &Input,
        validate: &dyn Validate,
    ) -> Result<Known, Vec<Problem>> {
        let id = id_of(service, &name);
        if let Some(written) = input.documents.get(&id)
            && written.template != service.template.spec
        {
            return Err(vec![changed_under_its_name(service, &name)]);
        }
        let (revision, warnings) = resolve(service, &id, input, validate)?;
        let is_first = self.known.is_empty();
        Ok(Known {
            name,
            template: service.template.clone(),
            revision,
            warnings,
            phase: if is_first {
                Phase::Ready
            } else {
                Phase::Proving
            },
        })
    }

    /// `<service>-0000N`, the first that no other template has.
    fn next_name(&self, service: &Service, input: &Input) -> Result<Arc<str>, Box<Problem>> {
        let mut number = self.templates.saturating_add(1);
        loop {
            let name = format!("{}-{number:05}", service.meta.name);
            if !names::is_dns_label(&name) {
                let problem = service.meta.origin.problem(
                    "metadata.name",
                    format!("{name} would be longer than 63 characters"),
                );
                return Err(problem.remedy("shorten the Service's name").into());
            }
            let name: Arc<str> = name.into();
            let id = id_of(service, &name);
            let is_another = input
                .documents
                .get(&id)
                .is_some_and(|written| written.template != service.template.spec);
            if !is_another && self.known.iter().all(|known| known.name != name) {
                return Ok(name);
            }
            number = number.saturating_add(1);
        }
    }

    /// Someone else's endpoints prove a Revision by being there.
    fn prove_by_endpoints(&mut self, service: &Service, input: &Input) {
        for known in self
            .known
            .iter_mut()
            .filter(|known| known.phase != Phase::Ready)
        {
            let id = id_of(service, &known.name);
            let endpoints = revision_endpoints(&id, known.revision.spec.protocol, &input.slices);
            if endpoints.is_some_and(|endpoints| !endpoints.is_empty()) {
                known.phase = Phase::Ready;
            }
        }
        self.note_latest_ready();
    }

    fn note_latest_ready(&mut self) {
        if let Some(latest) = self.known.last()
            && latest.phase == Phase::Ready
        {
            self.latest_ready.clone_from(&latest.name);
        }
    }

    /// The names of its Revisions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.known.iter().map(|known| &*known.name)
    }

    /// Whether traffic waits for this Revision to become ready.
    pub(super) fn is_proving(&self, name: &str) -> bool {
        let is_proving = |known: &Known| *known.name == *name && known.phase == Phase::Proving;
        self.wanted.iter().any(|wanted| **wanted == *name) && self.known.iter().any(is_proving)
    }

    pub(super) fn settle(&mut self, name: &str, phase: &Phase) {
        for known in self.known.iter_mut().filter(|known| *known.name == *name) {
            known.phase.clone_from(phase);
        }
        self.note_latest_ready();
    }

    /// Decides who has the traffic now.
    pub(super) fn route(&mut self, service: &Service, input: &Input) -> Result<(), Box<Problem>> {
        let latest = self
            .known
            .last()
            .map(|known| known.name.clone())
            .unwrap_or_default();
        self.wanted.clear();
        let mut targets = Vec::with_capacity(service.traffic.len());
        self.wanted.reserve_exact(service.traffic.len());
        let mut is_waiting = false;
        for (index, target) in service.traffic.iter().enumerate() {
            let revision = match &target.revision {
                None => {
                    self.wanted.push(latest.clone());
                    self.latest_ready.clone()
                }
                Some(name) => {
                    let known = self.known.iter().find(|known| known.name == *name);
                    let id = id_of(service, name);
                    if known.is_none() && !input.documents.contains_key(&id) {
                        return Err(self.no_such_revision(service, index, name).into());
                    }
                    is_waiting |= known.is_some_and(|known| known.phase != Phase::Ready);
                    self.wanted.push(name.clone());
                    name.clone()
                }
            };
            targets.push(RoutedTarget {
                revision,
                percent: target.percent,
                tag: target.tag.clone(),
            });
        }
        if is_waiting && self.can_stay(service, input) {
            self.awaited = Some(targets);
        } else {
            self.routed = targets;
            self.awaited = None;
        }
        Ok(())
    }

    /// Whether all Revisions that have the traffic now are still there.
    fn can_stay(&self, service: &Service, input: &Input) -> bool {
        let is_there = |target: &RoutedTarget| {
            let id = id_of(service, &target.revision);
            self.known.iter().any(|known| known.name == target.revision)
                || input.documents.contains_key(&id)
        };
        !self.routed.is_empty() && self.routed.iter().all(is_there)
    }

    fn no_such_revision(&self, service: &Service, index: usize, name: &str) -> Problem {
        let field = format!("spec.traffic[{index}].revisionName");
        let problem = service
            .meta
            .origin
            .problem(field, format!("there is no Revision {name}"));
        let known: Vec<&str> = self.known.iter().map(|known| &*known.name).collect();
        problem.remedy(format!(
            "known are {}; add a Revision of that name as a document, or name the template by spec.template.metadata.name",
            known.join(", ")
        ))
    }

    /// The Revisions the world needs: those with traffic, and those that have still to prove themselves for it.
    pub(super) fn in_use(
        &self,
        namespace: &Arc<str>,
    ) -> Vec<(RevisionId, &ResolvedRevision, bool)> {
        let mut in_use = Vec::new();
        for known in &self.known {
            let has_traffic = self.has_traffic(known);
            let must_prove_itself =
                known.phase == Phase::Proving && self.wanted.contains(&known.name);
            if has_traffic || must_prove_itself {
                in_use.push((
                    RevisionId::new(Arc::clone(namespace), Arc::clone(&known.name)),
                    &known.revision,
                    !has_traffic,
                ));
            }
        }
        in_use
    }

    fn has_traffic(&self, known: &Known) -> bool {
        self.routed
            .iter()
            .any(|target| target.revision == known.name)
    }

    /// Warnings about Revisions in use, and about those that did not become ready.
    pub(super) fn warnings(&self) -> Vec<Problem> {
        let in_use = self.known.iter().filter(|known| self.has_traffic(known));
        let mut warnings: Vec<Problem> = in_use.flat_map(|known| known.warnings.clone()).collect();
        for known in self
            .known
            .iter()
            .filter(|known| self.wanted.contains(&known.name))
        {
            let Phase::Failed(reason) = &known.phase else {
                continue;
            };
            let message = format!("the Revision {} did not become ready: {reason}", known.name);
            let mut keeping: Vec<&str> =
                self.routed.iter().map(|target| &*target.revision).collect();
            keeping.dedup();
            let problem = known
                .revision
                .origin
                .problem("spec.template", message)
                .value("")
                .warning();
            warnings.push(problem.remedy(format!(
                "{} keeps the traffic; change the template",
                keeping.join(", ")
            )));
        }
        warnings
    }

    /// Drops Revisions without traffic that are too many, oldest first.
    fn forget(&mut self) {
        let latest = self.known.last().map(|known| known.name.clone());
        let is_idle = |known: &Known| {
            known.name != self.latest_ready
                && Some(&known.name) != latest.as_ref()
                && !self.wanted.contains(&known.name)
                && !self.has_traffic(known)
        };
        let idle: Vec<Arc<str>> = self
            .known
            .iter()
            .filter(|known| is_idle(known))
            .map(|known| known.name.clone())
            .collect();
        let surplus = idle.len().saturating_sub(MAX_REMEMBERED_REVISIONS);
        let forgotten: BTreeSet<&Arc<str>> = idle.iter().take(surplus).collect();
        self.known.retain(|known| !forgotten.contains(&known.name));
    }
}

impl Known {
    /// The template is unchanged, but it may stand in other lines, and other settings may be wrong for it. What the
    /// Revision promises stays as it was made.
    fn look_again(
        &mut self,
        service: &Service,
        input: &Input,
        validate: &dyn Validate,
    ) -> Result<(), Vec<Problem>> {
        let id = id_of(service, &self.name);
        let (revision, warnings) = resolve(service, &id, input, validate)?;
        self.revision.origin = revision.origin;
        self.warnings = warnings;
        Ok(())
    }
}

fn id_of(service: &Service, revision: &Arc<str>) -> RevisionId {
    RevisionId::new(Arc::clone(&service.meta.namespace), Arc::clone(revision))
}

/// The Revision of the present template, and warnings about it.
fn resolve(
    service: &Service,
    id: &RevisionId,
    input: &Input,
    validate: &dyn Validate,
) -> Result<(ResolvedRevision, Vec<Problem>), Vec<Problem>> {
    let template = Template {
        spec: &service.template.spec,
        annotations: &service.template.annotations,
        service: Arc::clone(&service.meta.name),
        configuration: Arc::clone(&service.meta.name),
        origin: &service.meta.origin,
        spec_path: "spec.template.spec",
        annotations_path: "spec.template.metadata.annotations",
    };
    input.resolve(id, &template, validate)
}

fn changed_under_its_name(service: &Service, name: &str) -> Problem {
    let origin = &service.meta.origin;
    let field = if service.template.name.is_some() {
        "spec.template.metadata.name"
    } else {
        "spec.template"
    };
    let problem = origin.problem(
        field,
        format!("the template has changed, but a Revision {name} exists already"),
    );
    problem
        .value(name)
        .remedy("a Revision cannot be changed: give the template a new name, or none")
}
