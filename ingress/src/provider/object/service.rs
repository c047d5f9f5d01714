//! The Knative Service: a template and the traffic.
//!
//! Source: knative/serving `pkg/apis/serving/v1/service_types.go`, `route_types.go` and their validation.

use std::sync::Arc;

use super::super::fields::{Field, Fields};
use super::super::names;
use super::Meta;
use super::revision::{RevisionTemplate, read_template};

/// A Knative Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What is known about every object.
    pub meta: Meta,
    /// What its next Revision will be.
    pub template: Arc<RevisionTemplate>,
    /// Who gets which share of the requests; none written: all to the latest ready Revision.
    pub traffic: Box<[TrafficTarget]>,
}

/// One entry of `spec.traffic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficTarget {
    /// The Revision; none: the latest that is ready.
    pub revision: Option<Arc<str>>,
    /// Its share in percent.
    pub percent: u8,
    /// A name under which it can be reached on its own.
    pub tag: Option<Arc<str>>,
}

impl TrafficTarget {
    /// Everything to the latest ready Revision: what a Service without `spec.traffic` means.
    pub fn latest() -> Self {
        Self {
            revision: None,
            percent: 100,
            tag: None,
        }
    }
}

pub(super) fn read(mut fields: Fields<'_>, meta: Meta) -> Option<Service> {
    fields.inert(&["status"]);
    check_meta(&meta, &fields);
    let spec = fields.required("spec", "write the template below it");
    fields.finish();
    let mut spec = spec?.fields()?;
    let template = spec.required(
        "template",
        "write \"template:\" with \"spec:\" and the containers below it",
    );
    let template = template.and_then(|field| read_template(&field, &meta.name));
    let traffic = spec.get("traffic").map(|field| read_traffic(&field));
    spec.finish();
    Some(Service {
        meta,
        template: Arc::new(template?),
        traffic: match traffic {
            Some(targets) => targets?.into(),
            None => [TrafficTarget::latest()].into(),
        },
    })
}

/// The name becomes part of host names; scaling annotations belong to the template.
fn check_meta(meta: &Meta, fields: &Fields<'_>) {
    if !names::is_dns_1035_label(&meta.name) {
        fields.report(meta.origin.problem("metadata.name", names::LABEL_1035_RULE));
    }
    for key in meta
        .annotations
        .keys()
        .filter(|key| key.starts_with("autoscaling.knative.dev/"))
    {
        let path = format!("metadata.annotations[\"{key}\"]");
        let problem = meta
            .origin
            .problem(path, format!("{key} does nothing on the Service itself"));
        fields.report(problem.remedy("move it to spec.template.metadata.annotations"));
    }
}

fn read_traffic(field: &Field<'_>) -> Option<Vec<TrafficTarget>> {
    let items = field.items();
    let targets: Vec<TrafficTarget> = items.iter().filter_map(read_target).collect();
    if targets.len() != items.len() {
        return None; // the sum would be a second complaint about one mistake
    }
    if targets.is_empty() {
        return Some(vec![TrafficTarget::latest()]);
    }
    for (index, item) in items.iter().enumerate() {
        let tag = targets.get(index).and_then(|target| target.tag.as_ref());
        let is_repeated = targets
            .iter()
            .take(index)
            .any(|target| target.tag.as_ref() == tag);
        if let Some(tag) = tag
            && is_repeated
        {
            let problem = item.problem(format!("the tag {tag} is used twice"));
            item.report(problem.remedy("a tag is part of a host name: give each its own"));
        }
    }
    let total: u32 = targets.iter().map(|target| u32::from(target.percent)).sum();
    if total != 100 {
        let problem = field.problem(format!("the shares add up to {total}, not to 100"));
        field.report(problem.remedy("change the percent fields; one that is left out counts as 0"));
    }
    Some(targets)
}

fn read_target(item: &Field<'_>) -> Option<TrafficTarget> {
    let mut fields = item.fields()?;
    let revision_field = fields.get("revisionName");
    let latest_field = fields.get("latestRevision");
    let percent = fields.get("percent").map(|field| field.integer(0..=100));
    let tag_field = fields.get("tag");
    if let Some(configuration) = fields.get("configurationName") {
        let problem = configuration.problem("a Service has one Configuration, its own");
        configuration.report(problem.remedy("use revisionName, or latestRevision: true"));
    }
    fields.inert(&["url"]);
    fields.finish();
    let revision = match &revision_field {
        Some(field) => Some(field.string()?).filter(|name| !name.is_empty()),
        None => None,
    };
    let is_latest = match &latest_field {
        Some(field) => field.boolean()?,
        None => revision.is_none(),
    };
    let percent = match percent {
        Some(percent) => u8::try_from(percent?).ok()?,
        None => 0,
    };
    let tag = match tag_field {
        Some(field) => Some(field.string()?)
            .filter(|tag| !tag.is_empty())
            .map(|tag| (tag, field)),
        None => None,
    };
    match (&revision, is_latest) {
        (Some(_), true) => {
            item.report(
                item.problem("latestRevision: true and a revisionName exclude each other")
                    .remedy("keep one of them"),
            );
            return None;
        }
        (None, false) => {
            item.report(
                item.problem("latestRevision: false needs a revisionName")
                    .remedy("add one, or write latestRevision: true"),
            );
            return None;
        }
        _ => {}
    }
    let tag = match tag {
        Some((tag, _)) if names::is_dns_1035_label(&tag) => Some(tag),
        Some((_, field)) => {
            field.report(
                field
                    .problem(names::LABEL_1035_RULE)
                    .remedy("a tag is part of a host name"),
            );
            return None;
        }
        None => None,
    };
    Some(TrafficTarget {
        revision: revision.map(Arc::from),
        percent,
        tag: tag.map(Arc::from),
    })
}
