//! What a test does to the double's answers.

use std::time::Duration;

/// Which requests a fault is for.
///
/// ```
/// use parkway_tests::api::Which;
/// let statuses = Which::any().verb("update").plural("ingresses").subresource("status");
/// # let _: Which = statuses;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    verb: Option<String>,
    plural: Option<String>,
    subresource: Option<String>,
    name: Option<String>,
}

impl Which {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Lists of these resources.
    pub fn lists(plural: &str) -> Self {
        Self::any().verb("list").plural(plural)
    }

    /// Watches of these resources.
    pub fn watches(plural: &str) -> Self {
        Self::any().verb("watch").plural(plural)
    }

    /// Only requests of this verb: get, list, watch, create, update, patch or delete.
    #[must_use]
    pub fn verb(self, verb: &str) -> Self {
        Self {
            verb: Some(verb.to_owned()),
            ..self
        }
    }

    /// Only requests for these resources, by their name in paths.
    #[must_use]
    pub fn plural(self, plural: &str) -> Self {
        Self {
            plural: Some(plural.to_owned()),
            ..self
        }
    }

    /// Only requests for this subresource.
    #[must_use]
    pub fn subresource(self, subresource: &str) -> Self {
        Self {
            subresource: Some(subresource.to_owned()),
            ..self
        }
    }

    /// Only requests for objects of this name.
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            ..self
        }
    }

    /// Whether a request is one of them.
    pub fn includes(&self, request: &Request) -> bool {
        let is = |wanted: &Option<String>, has: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == has)
        };
        is(&self.verb, request.verb)
            && is(&self.plural, &request.plural)
            && is(&self.subresource, &request.subresource)
            && is(&self.name, &request.name)
    }
}

/// A request that the double was asked, as its log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// Group; empty for the core group.
    pub group: String,
    /// The resource's name in paths.
    pub plural: String,
    /// Empty when there is none.
    pub subresource: String,
    /// Empty for all namespaces, or for what is in none.
    pub namespace: String,
    /// Empty for lists and watches.
    pub name: String,
    /// The query as it was sent, empty when there was none.
    pub query: String,
    /// The status it was answered with; 0 while it was not.
    pub status: u16,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is answered with this status and a `Status` object that goes with it.
    Refused(u16),
    /// A watch answers 200, and its first event is the ERROR event of a version that is gone.
    Gone,
    /// It is answered later.
    Late(Duration),
    /// It is never answered.
    Unanswered,
    /// Somebody else changes an annotation of the object just before it is written.
    Overtaken,
}

/// An effect, on whom, and how often yet.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) which: Which,
    pub(super) left: u32,
    pub(super) effect: Effect,
}

/// What happens to an event of a watch on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mishap {
    /// It is not sent.
    Lost,
    /// It is sent twice.
    Doubled,
}
