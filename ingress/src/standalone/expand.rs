//! `$(VAR)` in `command`, `args` and `env`, as Kubernetes replaces it.

/// Replaces every `$(NAME)` in `text` by what `value_of` says.
///
/// A reference nobody knows stays as it is written, and `$$` is a plain `$`, so `$$(NAME)` stays `$(NAME)`.
/// Source: kubernetes/kubernetes `third_party/forked/golang/expansion/expand.go`, and the field documentation of
/// `Container.command` in `staging/src/k8s.io/api/core/v1/types.go`.
pub(super) fn expand<'a>(text: &str, value_of: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('$') {
        expanded.push_str(plain);
        rest = if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            after
        } else if let Some((name, after)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match value_of(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            after
        } else {
            expanded.push('$');
            after
        };
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> String {
        expand(text, |name| match name {
            "PORT" => Some("8080"),
            "NESTED" => Some("$(PORT)"),
            "EMPTY" => Some(""),
            _ => None,
        })
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        assert_eq!(
            expanded("--listen=:$(PORT)/$(PORT)$(EMPTY)!"),
            "--listen=:8080/8080!"
        );
    }

    #[test]
    fn unknown_references_and_other_dollars_stay() {
        assert_eq!(
            expanded("$(NOBODY) $HOME ${PORT} 5$ $"),
            "$(NOBODY) $HOME ${PORT} 5$ $"
        );
        assert_eq!(expanded("$(PORT"), "$(PORT");
    }

    #[test]
    fn two_dollars_are_one_and_protect_a_reference() {
        assert_eq!(expanded("$$(PORT) $$$(PORT) $$$$"), "$(PORT) $8080 $$");
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expanded("$(NESTED)"), "$(PORT)");
    }
}
