//! From a request to its backend, through as many rules as rewritten hosts lead through.
//!
//! A DomainMapping's rule rewrites the host to a cluster-local name and points to an ExternalName that leads back to
//! the ingress (knative/serving `pkg/reconciler/domainmapping/resources/ingress.go`). When the rewritten host is one of
//! ours, the request is matched again here instead of passing us twice over the network.

use http::HeaderMap;

use super::headers::{self, Present};
use super::host::Host;
use super::names::SERVING_TAG;
use super::rules::{Backend, Target, Visibility};
use super::table::{Match, NoRoute, RouteSnapshot};

/// How many rules one request may pass; a DomainMapping needs two.
pub const MAX_PASSES: usize = 3;

/// What a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Resolved<'s> {
    /// The path it fell to last.
    pub matched: Match<'s>,
    /// The share it fell to.
    pub backend: &'s Backend,
    /// How many rules it passed: 1 to [`MAX_PASSES`].
    pub passes: usize,
}

impl RouteSnapshot {
    /// Follows a request to its backend and edits its headers as the rules on the way say.
    ///
    /// `headers` are those that [`headers::admit`] left, `present` says what is among them, or more. `choose` picks a share, usually with
    /// [`Dealer::choose`](super::split::Dealer::choose). From outside, `Knative-Serving-Tag` takes part in every match
    /// and is removed at the end unless a rule set it.
    ///
    /// # Errors
    ///
    /// [`NoRoute`], when a host or path is not served, or rewritten hosts lead through more than [`MAX_PASSES`] rules.
    pub fn resolve<'s>(
        &'s self,
        entrance: Visibility,
        host: &Host<'_>,
        path: &str,
        headers: &mut HeaderMap,
        mut present: Present,
        mut choose: impl FnMut(Match<'s>) -> &'s Backend,
    ) -> Result<Resolved<'s>, NoRoute> {
        let mut matched = self.find(entrance, host, path, headers)?;
        let mut tag_is_ours = entrance == Visibility::ClusterLocal;
        for passes in 1..=MAX_PASSES {
            let backend = choose(matched);
            headers::set_by_route(headers, present, &matched, backend);
            let sets_tag = || headers::route_sets(&SERVING_TAG, &matched, backend);
            match self.second_pass(&matched, backend, path, headers)? {
                Some(next) => {
                    tag_is_ours |= sets_tag();
                    matched = next;
                    // The rule before may have set what the next one looks for.
                    present = Present::in_head(headers);
                }
                None => {
                    // A tag that only this rule has set is not among what was there before.
                    if present.has(Present::SERVING_TAG) && !tag_is_ours && !sets_tag() {
                        headers.remove(SERVING_TAG);
                    }
                    return Ok(Resolved {
                        matched,
                        backend,
                        passes,
                    });
                }
            }
        }
        Err(NoRoute::Loop)
    }

    /// The path a request falls to after a rule that rewrites its host to another of our hosts, if it is such a rule.
    ///
    /// `headers` are those the first pass left; cluster-local hosts are allowed, because the rule, not the client, names
    /// the host.
    ///
    /// # Errors
    ///
    /// [`NoRoute::NoPath`], when the rewritten host is ours and has no such path.
    pub fn second_pass<'s>(
        &'s self,
        first: &Match<'_>,
        backend: &Backend,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Option<Match<'s>>, NoRoute> {
        let (Some(rewritten), Target::External { .. }) =
            (&first.path.rewrite_host, &backend.target)
        else {
            return Ok(None);
        };
        match Host::parse(rewritten) {
            Ok(host) if self.lists_host(Visibility::ClusterLocal, &host) => self
                .find(Visibility::ClusterLocal, &host, path, headers)
                .map(Some),
            Ok(_) | Err(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
