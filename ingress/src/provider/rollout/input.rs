//! The objects of one state of the configuration, sorted by kind and checked against each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use parkway_activator::revision::{RevisionId, RevisionSpec};

use super::super::annotations;
use super::super::difference::Difference;
use super::super::knative;
use super::super::object::{
    ConfigMap, CoreService, EndpointSlice, Ingress, Labels, Meta, Object, Service, TemplateSpec,
};
use super::super::problem::{Origin, Problem, did_you_mean};
use super::super::settings::Settings;
use super::super::slices::{Changed, Slices};
use super::super::world::{Options, Validate};
use super::invalid_keys;
use crate::workload::Workload;

/// One state of the configuration.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) settings: Settings,
    pub(super) services: Vec<Arc<Service>>,
    /// The place of each Service among all objects.
    orders: Vec<u32>,
    pub(super) slices: Slices,
    /// All other objects, each with its place among all.
    others: Vec<(u32, Object)>,
    pub(super) documents: BTreeMap<RevisionId, ResolvedRevision>,
    pub(super) ingresses: Vec<(u32, Arc<Ingress>)>,
    pub(super) core_services: Vec<Arc<CoreService>>,
    pub(super) warnings: Vec<Problem>,
}

/// The objects of a configuration by kind, as far as many of them are expected.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) services: Vec<Arc<Service>>,
    pub(super) orders: Vec<u32>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    pub(super) others: Vec<(u32, Object)>,
}

impl From<Vec<Object>> for Sorted {
    fn from(objects: Vec<Object>) -> Self {
        let mut sorted = Self::default();
        for (order, object) in (0..).zip(objects) {
            match object {
                Object::Service(service) => {
                    sorted.services.push(service);
                    sorted.orders.push(order);
                }
                Object::EndpointSlice(slice) => sorted.slices.push(slice),
                other => sorted.others.push((order, other)),
            }
        }
        sorted
    }
}

/// How a state differs from the one before, where nothing but Services and their endpoints does.
#[derive(Debug)]
pub(super) struct Amended {
    pub(super) services: Difference,
    pub(super) endpoints: Changed,
}

/// A Revision with its defaults filled in, from a document of its own or from a Service's template.
#[derive(Clone, Debug)]
pub(super) struct ResolvedRevision {
    pub(super) template: Arc<TemplateSpec>,
    pub(super) annotations: Labels,
    pub(super) spec: Arc<RevisionSpec>,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) origin: Origin,
    /// Where the fields of the template stand in the object.
    spec_path: &'static str,
}

/// Annotations of a Revision that mean something, for the sake of misspelt ones.
///
/// Source: knative/serving `pkg/apis/autoscaling/register.go`.
const SCALING_ANNOTATIONS: [&str; 26] = [
    "activation-scale",
    "activationScale",
    "class",
    "initial-scale",
    "initialScale",
    "max-scale",
    "maxScale",
    "metric",
    "metric-aggregation-algorithm",
    "metricAggregationAlgorithm",
    "min-scale",
    "minScale",
    "panic-threshold-percentage",
    "panicThresholdPercentage",
    "panic-window-percentage",
    "panicWindowPercentage",
    "scale-down-delay",
    "scaleDownDelay",
    "scale-to-zero-pod-retention-period",
    "scaleToZeroPodRetentionPeriod",
    "target",
    "target-burst-capacity",
    "targetBurstCapacity",
    "target-utilization-percentage",
    "targetUtilizationPercentage",
    "window",
];

const SCALING_GROUP: &str = "autoscaling.knative.dev/";

impl Input {
    pub(super) fn empty(options: &Options) -> Self {
        Self {
            settings: Settings::new(&options.domain, options.autoscaler_defaults.clone()),
            services: Vec::new(),
            orders: Vec::new(),
            slices: Slices::default(),
            others: Vec::new(),
            documents: BTreeMap::new(),
            ingresses: Vec::new(),
            core_services: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn read(
        objects: Sorted,
        options: &Options,
        validate: &dyn Validate,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = repeated(&objects);
        let mut input = Self {
            services: objects.services,
            orders: objects.orders,
            slices: Slices::new(objects.slices),
            ..Self::empty(options)
        };
        let mut revisions = Vec::new();
        let mut configs = Vec::new();
        for (order, object) in &objects.others {
            match object {
                Object::Revision(revision) => revisions.push(Arc::clone(revision)),
                Object::Ingress(ingress) => input.ingresses.push((*order, Arc::clone(ingress))),
                Object::CoreService(service) => input.core_services.push(Arc::clone(service)),
                Object::ConfigMap(config) => configs.push(Arc::clone(config)),
                Object::Service(_) | Object::EndpointSlice(_) | Object::Secret(_) => {}
            }
        }
        input.others = objects.others;
        input.read_configs(&configs, validate, &mut problems);
        for revision in revisions {
            let meta = &revision.meta;
            let id = RevisionId::new(Arc::clone(&meta.namespace), Arc::clone(&meta.name));
            let label = |key| Arc::from(meta.labels.get(key).unwrap_or_default());
            let template = Template {
                spec: &revision.spec,
                annotations: &meta.annotations,
                service: label("serving.knative.dev/service"),
                configuration: label("serving.knative.dev/configuration"),
                origin: &meta.origin,
                spec_path: "spec",
                annotations_path: "metadata.annotations",
            };
            match input.resolve(&id, &template, validate) {
                Ok((known, warnings)) => {
                    input.documents.insert(id, known);
                    input.warnings.extend(warnings);
                }
                Err(found) => problems.extend(found),
            }
        }
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        input.warnings.extend(problems);
        Ok(input)
    }

    fn read_configs(
        &mut self,
        configs: &[Arc<ConfigMap>],
        validate: &dyn Validate,
        problems: &mut Vec<Problem>,
    ) {
        for config in configs {
            self.settings.read(config, problems);
        }
        let invalid = validate.autoscaler_config(&self.settings.autoscaler);
        let written = configs
            .iter()
            .find(|config| *config.meta.name == *"config-autoscaler");
        let origin = written.map_or_else(
            || Origin::elsewhere("ConfigMap", "knative-serving", "config-autoscaler"),
            |config| config.meta.origin.clone(),
        );
        problems.extend(invalid_keys(invalid, &origin, "data"));
    }

    /// The next state, and how it differs from this one, when both are [simple](Self::is_simple) and have the same
    /// settings. Otherwise the objects come back.
    pub(super) fn amended(&self, objects: Sorted) -> Result<(Self, Amended), Sorted> {
        let pairs = self.others.iter().zip(&objects.others);
        let is_same = self.others.len() == objects.others.len() && { pairs }
            .all(|((_, one), (_, other))| one.is_same_as(other));
        if !self.is_simple() || !is_same {
            return Err(objects);
        }
        let services = Difference::between(&self.services, &objects.services);
        let slices = Difference::between(self.slices.all(), &objects.slices);
        let is_repeated =
            adds_a_name_twice(&self.services, &objects.services, &services, |service| {
                &service.meta
            }) || adds_a_name_twice(self.slices.all(), &objects.slices, &slices, |slice| {
                &slice.meta
            });
        if is_repeated {
            return Err(objects);
        }
        let all_slices = self.slices.amended(objects.slices, &slices);
        let amended = Amended {
            services,
            endpoints: all_slices.changed_since(&self.slices, &slices),
        };
        let input = Self {
            settings: self.settings.clone(),
            services: objects.services,
            orders: objects.orders,
            slices: all_slices,
            others: objects.others,
            documents: BTreeMap::new(),
            ingresses: Vec::new(),
            core_services: Vec::new(),
            warnings: self.warnings.clone(),
        };
        Ok((input, amended))
    }

    /// The objects it was made of.
    pub(super) fn into_objects(self) -> Sorted {
        Sorted {
            services: self.services,
            orders: self.orders,
            slices: self.slices.into_all(),
            others: self.others,
        }
    }

    /// Whether there are but Services, their endpoints and settings: then no Service concerns another.
    pub(super) fn is_simple(&self) -> bool {
        self.documents.is_empty() && self.ingresses.is_empty() && self.core_services.is_empty()
    }

    /// The place of a Service among all objects.
    pub(super) fn order_of(&self, service: usize) -> u32 {
        self.orders.get(service).copied().unwrap_or(u32::MAX)
    }

    /// Fills in the defaults of a Revision and checks its values.
    pub(super) fn resolve(
        &self,
        id: &RevisionId,
        template: &Template<'_>,
        validate: &dyn Validate,
    ) -> Result<(ResolvedRevision, Vec<Problem>), Vec<Problem>> {
        let origin = template.origin;
        let (path, annotations) = (template.annotations_path, template.annotations);
        let mut spec = knative::revision_spec(
            template.spec,
            &self.settings.defaults,
            origin,
            template.spec_path,
        )?;
        spec.service = Arc::clone(&template.service);
        spec.configuration = Arc::clone(&template.configuration);
        let mut problems = unknown_annotations(annotations, origin, path);
        problems.extend(annotations::misplaced(annotations, origin, path));
        let invalid = validate.scaling(
            &annotations.to_map(),
            spec.concurrency,
            &self.settings.autoscaler,
        );
        problems.extend(invalid_keys(invalid, origin, path));
        let workload = match knative::workload(id, template.spec, &spec, annotations, origin, path)
        {
            Ok(workload) => workload,
            Err(problem) => {
                problems.push(*problem);
                None
            }
        };
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        let known = ResolvedRevision {
            template: template.spec.clone(),
            annotations: annotations.clone(),
            spec: Arc::new(spec),
            workload: workload.map(Arc::new),
            origin: origin.clone(),
            spec_path: template.spec_path,
        };
        Ok((known, problems))
    }
}

/// What a Revision is made of, and where that stands in its object.
pub(super) struct Template<'a> {
    pub(super) spec: &'a Arc<TemplateSpec>,
    pub(super) annotations: &'a Labels,
    pub(super) service: Arc<str>,
    pub(super) configuration: Arc<str>,
    pub(super) origin: &'a Origin,
    pub(super) spec_path: &'static str,
    pub(super) annotations_path: &'static str,
}

impl ResolvedRevision {
    /// Where a field of the template stands in the object.
    pub(super) fn path(&self, field: &str) -> String {
        format!("{}.{field}", self.spec_path)
    }
}

/// Objects of one kind, namespace and name exist once.
fn repeated(objects: &Sorted) -> Vec<Problem> {
    let services = objects.services.iter().map(|object| &object.meta);
    let mut problems = repeated_of_a_kind("Service (serving.knative.dev)", services);
    let slices = objects.slices.iter().map(|object| &object.meta);
    problems.extend(repeated_of_a_kind("EndpointSlice", slices));
    let others = objects.others.iter();
    let mut by_kind: BTreeMap<&str, Vec<&Meta>> = BTreeMap::new();
    for (_, object) in others {
        by_kind
            .entry(object.kind())
            .or_default()
            .push(object.meta());
    }
    for (kind, objects) in by_kind {
        problems.extend(repeated_of_a_kind(kind, objects.into_iter()));
    }
    problems
}

fn repeated_of_a_kind<'m>(kind: &str, objects: impl Iterator<Item = &'m Meta>) -> Vec<Problem> {
    let mut seen: HashMap<(&str, &str), &Origin> = HashMap::new();
    let mut problems = Vec::new();
    for meta in objects {
        let Some(first) = seen.get(&meta.key()) else {
            seen.insert(meta.key(), &meta.origin);
            continue;
        };
        let message = format!(
            "the {kind} {}/{} stands here a second time",
            meta.namespace, meta.name
        );
        let problem = meta.origin.problem("metadata.name", message);
        problems.push(problem.remedy(format!(
            "it is already in {first}: keep one of them, or rename it"
        )));
    }
    problems
}

/// Whether a name that is new is that of two objects. Names that were there before were those of one.
fn adds_a_name_twice<T>(
    before: &[Arc<T>],
    after: &[Arc<T>],
    difference: &Difference,
    meta: impl Fn(&T) -> &Meta,
) -> bool {
    let mut new = HashSet::new();
    if !{ difference.added() }.all(|place| new.insert(meta(&after[place]).key())) {
        return true;
    }
    for place in &difference.gone {
        new.remove(&meta(&before[*place]).key());
    }
    let mut still = difference.before.iter().flatten();
    !new.is_empty() && still.any(|place| new.contains(&meta(&before[*place]).key()))
}

/// Scaling annotations nobody knows: a slip there would be silent.
fn unknown_annotations(annotations: &Labels, origin: &Origin, path: &str) -> Vec<Problem> {
    let scaling = annotations
        .keys()
        .filter_map(|key| Some((key, key.strip_prefix(SCALING_GROUP)?)));
    let unknown = scaling.filter(|(_, name)| !SCALING_ANNOTATIONS.contains(name));
    let warn = |(key, name): (&str, &str)| {
        let problem = origin.problem(
            format!("{path}[\"{key}\"]"),
            format!("there is no annotation {key}"),
        );
        match did_you_mean(name, SCALING_ANNOTATIONS) {
            Some(meant) => problem
                .warning()
                .remedy(format!("did you mean {SCALING_GROUP}{meant}?")),
            None => problem.warning().remedy("remove it, or check the spelling"),
        }
    };
    unknown.map(warn).collect()
}
