//! Host names from templates: the part of Go's text/template that is used for them.
//!
//! Source: knative/networking `pkg/config/config.go`, `DomainTemplateValues` and `TagTemplateValues`. Only plain
//! substitutions are understood; functions, conditions and `{{.Annotations}}` are refused with a message.

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name,
    Namespace,
    Domain,
    Tag,
}

/// What the substitutions stand for.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostValues<'a> {
    /// `{{.Name}}`.
    pub name: &'a str,
    /// `{{.Namespace}}`.
    pub namespace: &'a str,
    /// `{{.Domain}}`.
    pub domain: &'a str,
    /// `{{.Tag}}`.
    pub tag: &'a str,
}

impl HostTemplate {
    /// `{{.Name}}.{{.Namespace}}.{{.Domain}}`.
    pub fn default_domain() -> Self {
        let dot = || Part::Text(".".to_owned());
        Self(vec![
            Part::Name,
            dot(),
            Part::Namespace,
            dot(),
            Part::Domain,
        ])
    }

    /// `{{.Tag}}-{{.Name}}`.
    pub fn default_tag() -> Self {
        Self(vec![Part::Tag, Part::Text("-".to_owned()), Part::Name])
    }

    /// A template for the host of a Service.
    ///
    /// # Errors
    ///
    /// When it uses anything but Name, Namespace and Domain, or does not use Name: every Service would have one host.
    pub fn parse_domain(text: &str) -> Result<Self, String> {
        Self::parse(text, &["Name", "Namespace", "Domain"])
    }

    /// A template for the name of a tag.
    ///
    /// # Errors
    ///
    /// When it uses anything but Tag and Name, or does not use both.
    pub fn parse_tag(text: &str) -> Result<Self, String> {
        let template = Self::parse(text, &["Tag", "Name"])?;
        if template.0.contains(&Part::Tag) {
            Ok(template)
        } else {
            Err("the template must use {{.Tag}}".to_owned())
        }
    }

    fn parse(text: &str, allowed: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((action, after)) = after.split_once("}}") else {
                return Err("the template has \"{{\" without \"}}\"".to_owned());
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let field = action
                .trim()
                .strip_prefix('.')
                .filter(|field| allowed.contains(field));
            parts.push(match field {
                Some("Name") => Part::Name,
                Some("Namespace") => Part::Namespace,
                Some("Domain") => Part::Domain,
                Some("Tag") => Part::Tag,
                _ => {
                    let allowed: Vec<String> = allowed
                        .iter()
                        .map(|name| format!("{{{{.{name}}}}}"))
                        .collect();
                    return Err(format!(
                        "{{{{{action}}}}} is not understood; only {} are",
                        allowed.join(", ")
                    ));
                }
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.contains(&Part::Name) {
            Ok(Self(parts))
        } else {
            Err("the template must use {{.Name}}".to_owned())
        }
    }

    /// The text with every substitution made.
    pub fn fill(&self, values: HostValues<'_>) -> String {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Name => values.name.to_owned(),
            Part::Namespace => values.namespace.to_owned(),
            Part::Domain => values.domain.to_owned(),
            Part::Tag => values.tag.to_owned(),
        };
        self.0.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: HostValues<'_> = HostValues {
        name: "shop",
        namespace: "prod",
        domain: "example.com",
        tag: "blue",
    };

    #[test]
    fn the_defaults_are_knatives() {
        assert_eq!(
            HostTemplate::default_domain().fill(VALUES),
            "shop.prod.example.com"
        );
        assert_eq!(HostTemplate::default_tag().fill(VALUES), "blue-shop");
        let written = HostTemplate::parse_domain("{{.Name}}.{{.Namespace}}.{{.Domain}}").unwrap();
        assert_eq!(written, HostTemplate::default_domain());
        assert_eq!(
            HostTemplate::parse_tag("{{.Tag}}-{{.Name}}").unwrap(),
            HostTemplate::default_tag()
        );
    }

    #[test]
    fn text_and_blanks_around_substitutions_are_kept_and_dropped() {
        let template = HostTemplate::parse_domain("x-{{ .Name }}-{{.Namespace}}.y").unwrap();
        assert_eq!(template.fill(VALUES), "x-shop-prod.y");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_reason() {
        let refused = |text| HostTemplate::parse_domain(text).unwrap_err();
        assert_eq!(
            refused("{{.Name}}.{{index .Annotations \"x\"}}"),
            "{{index .Annotations \"x\"}} is not understood; only {{.Name}}, {{.Namespace}}, {{.Domain}} are"
        );
        assert_eq!(
            refused("{{.Name}.x"),
            "the template has \"{{\" without \"}}\""
        );
        assert_eq!(
            refused("{{.Namespace}}.x"),
            "the template must use {{.Name}}"
        );
        assert_eq!(
            HostTemplate::parse_tag("{{.Name}}").unwrap_err(),
            "the template must use {{.Tag}}"
        );
    }
}
