//! The page that a browser is shown while it waits for a start: who gets it, and how it looks.
//!
//! It loads itself anew by the header `Refresh`, without a script, so a page of somebody's own need not do anything for it.

use std::sync::LazyLock;
use std::time::Duration;

use http::request::Parts;
use http::{Method, header};

/// How long a page may be, in bytes.
pub const LONGEST_TEMPLATE: usize = 16 * 1024;

/// How often it loads itself anew unless the route says otherwise.
pub const REFRESH: Duration = Duration::from_secs(2);

/// No page says that more than this has been done: it is not there yet.
const MOST_PERCENT: u8 = 95;

/// While nobody knows how long a start takes, half of the bar is filled after this.
const UNKNOWN: Duration = Duration::from_secs(5);

/// What a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingPage {
    /// How long a browser is kept waiting before it is shown the page.
    pub patience: Duration,
    /// How often the page loads itself anew, in whole seconds.
    pub refresh: Duration,
    /// A page of the route's own.
    pub template: Option<Template>,
}

/// How a start stands.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'m> {
    /// Whose start it is.
    pub service: &'m str,
    /// Since when.
    pub elapsed: Duration,
    /// How long it takes usually, if that is known.
    pub usual: Option<Duration>,
    /// How far it has come, in words.
    pub stage: &'m str,
}

/// A page with places where something is filled in, such as `{{service}}`. What is filled in is escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<[Piece]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Service,
    Stage,
    Elapsed,
    Estimate,
    Percent,
    Refresh,
}

const PLACES: [(&str, Place); 6] = [
    ("service", Place::Service),
    ("stage", Place::Stage),
    ("elapsed", Place::Elapsed),
    ("estimate", Place::Estimate),
    ("percent", Place::Percent),
    ("refresh", Place::Refresh),
];

/// Why a template is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPage {
    /// More than [`LONGEST_TEMPLATE`].
    #[error("this is longer than {LONGEST_TEMPLATE} bytes")]
    TooLong,
    /// There is nothing to show.
    #[error("this is empty")]
    Empty,
    /// `{{` without `}}`.
    #[error("{{{{ at byte {0} has no }}}}")]
    Open(usize),
    /// Nothing of that name can be filled in.
    #[error("nothing is known as {{{{{0}}}}}")]
    Unknown(String),
}

/// Whether somebody waits in front of a browser: a navigation, as browsers say themselves (W3C Fetch Metadata, section 2.2),
/// and where they do not, a GET that would rather have HTML than anything.
pub fn is_navigation(head: &Parts) -> bool {
    if head.method != Method::GET || head.headers.contains_key(header::UPGRADE) {
        return false;
    }
    if let Some(mode) = head.headers.get("sec-fetch-mode") {
        return mode == "navigate";
    }
    let accepts = head.headers.get_all(header::ACCEPT).iter();
    let mut accepts = accepts.filter_map(|value| value.to_str().ok());
    accepts.any(|value| {
        value.split(',').any(|range| {
            let kind = range.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("text/html")
        })
    })
}

impl WaitingPage {
    /// The page at a moment.
    pub fn html(&self, moment: &Moment<'_>) -> String {
        let template = self.template.as_ref().unwrap_or(&OURS);
        template.html(moment, self.refresh)
    }
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// When it is empty, too long, or wants something filled in that nobody knows.
    pub fn parse(text: &str) -> Result<Self, InvalidPage> {
        if text.trim().is_empty() {
            return Err(InvalidPage::Empty);
        }
        if text.len() > LONGEST_TEMPLATE {
            return Err(InvalidPage::TooLong);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let at = text.len() - after.len() - 2;
            let (name, after) = after.split_once("}}").ok_or(InvalidPage::Open(at))?;
            let name = name.trim();
            let known = PLACES.iter().find(|(known, _)| *known == name);
            let (_, place) = known.ok_or_else(|| InvalidPage::Unknown(name.to_owned()))?;
            pieces.push(Piece::Text(before.into()));
            pieces.push(Piece::Place(*place));
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        Ok(Self(pieces.into()))
    }

    fn html(&self, moment: &Moment<'_>, refresh: Duration) -> String {
        let mut html = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => html.push_str(text),
                Piece::Place(place) => escape(&moment.value(*place, refresh), &mut html),
            }
        }
        html
    }
}

impl Moment<'_> {
    fn value(&self, place: Place, refresh: Duration) -> String {
        match place {
            Place::Service => self.service.to_owned(),
            Place::Stage => self.stage.to_owned(),
            Place::Elapsed => seconds(self.elapsed),
            Place::Estimate => self.estimate(),
            Place::Percent => self.percent().to_string(),
            Place::Refresh => refresh.as_secs().to_string(),
        }
    }

    fn estimate(&self) -> String {
        match self.usual {
            None => "How long it takes is not known yet.".to_owned(),
            Some(usual) if self.elapsed < usual => format!(
                "That usually takes {}: {} to go.",
                seconds(usual),
                seconds(usual - self.elapsed)
            ),
            Some(usual) => format!(
                "That usually takes {}; this time it takes longer.",
                seconds(usual)
            ),
        }
    }

    fn percent(&self) -> u8 {
        let elapsed = self.elapsed.as_secs_f64();
        let done = match self.usual {
            Some(usual) => elapsed / usual.as_secs_f64().max(0.001),
            None => elapsed / (elapsed + UNKNOWN.as_secs_f64()),
        };
        (0..MOST_PERCENT)
            .rev()
            .find(|percent| f64::from(*percent) / 100.0 <= done)
            .map_or(0, |percent| percent + 1)
    }
}

/// Whole seconds, for people.
fn seconds(duration: Duration) -> String {
    match duration.as_secs_f64().ceil() {
        seconds if seconds <= 1.0 => "1 second".to_owned(),
        seconds if seconds < 120.0 => format!("{seconds:.0} seconds"),
        seconds => format!("{:.0} minutes", seconds / 60.0),
    }
}

fn escape(text: &str, html: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            letter => html.push(letter),
        }
    }
}

/// The page of those who have none of their own.
static OURS: LazyLock<Template> =
    LazyLock::new(|| Template::parse(include_str!("waiting_page.html")).expect("a test reads it"));

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn navigates(headers: &[(&str, &str)]) -> bool {
        let request = Request::get("/");
        let request = { headers.iter() }.fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        is_navigation(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_browsers_navigation_is_told_from_what_else_it_and_others_fetch() {
        let html = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
        assert!(navigates(&[("sec-fetch-mode", "navigate"), html]));
        assert!(navigates(&[html]), "an old browser");
        assert!(!navigates(&[("sec-fetch-mode", "cors"), html]));
        assert!(!navigates(&[("accept", "*/*")]), "curl");
        assert!(!navigates(&[("accept", "application/json")]));
        assert!(!navigates(&[]));
        assert!(!navigates(&[html, ("upgrade", "websocket")]));
        let post = Request::post("/").header("sec-fetch-mode", "navigate");
        assert!(!is_navigation(&post.body(()).unwrap().into_parts().0));
    }

    fn moment(elapsed_ms: u64, usual_ms: Option<u64>) -> Moment<'static> {
        Moment {
            service: "<shop> & \"sons\"",
            elapsed: Duration::from_millis(elapsed_ms),
            usual: usual_ms.map(Duration::from_millis),
            stage: "asking for an instance",
        }
    }

    fn page(template: Option<&str>) -> WaitingPage {
        WaitingPage {
            patience: Duration::ZERO,
            refresh: REFRESH,
            template: template.map(|text| Template::parse(text).unwrap()),
        }
    }

    #[test]
    fn our_page_says_who_starts_and_how_long_that_takes() {
        let html = page(None).html(&moment(1_000, Some(4_000)));
        assert!(
            html.contains("&lt;shop&gt; &amp; &quot;sons&quot;"),
            "{html}"
        );
        assert!(
            html.contains("usually takes 4 seconds: 3 seconds to go"),
            "{html}"
        );
        assert!(html.contains("value=\"26\""), "{html}");
        assert!(!html.contains("{{"), "{html}");
        assert!(!html.contains("http"), "nothing from elsewhere: {html}");
    }

    #[test]
    fn a_bar_is_never_full_and_fills_without_an_estimate_too() {
        let percent = |elapsed, usual| moment(elapsed, usual).percent();
        assert_eq!(percent(0, Some(4_000)), 1);
        assert_eq!(percent(400_000, Some(4_000)), MOST_PERCENT);
        assert_eq!(percent(5_000, None), 51);
        assert_eq!(percent(u64::from(u32::MAX), None), MOST_PERCENT);
        assert_eq!(percent(1_000, Some(0)), MOST_PERCENT);
    }

    #[test]
    fn a_page_of_somebodys_own_is_filled_in_and_what_is_filled_in_is_escaped() {
        let html = page(Some("<p>{{ service }} {{elapsed}} {{refresh}}</p>"));
        let html = html.html(&moment(2_500, None));
        assert_eq!(
            html,
            "<p>&lt;shop&gt; &amp; &quot;sons&quot; 3 seconds 2</p>"
        );
    }

    #[test]
    fn a_page_that_cannot_be_meant_is_refused() {
        assert_eq!(Template::parse(" "), Err(InvalidPage::Empty));
        assert_eq!(Template::parse("a {{service"), Err(InvalidPage::Open(2)));
        let unknown = Err(InvalidPage::Unknown("host".to_owned()));
        assert_eq!(Template::parse("{{host}}"), unknown);
        let long = "x".repeat(LONGEST_TEMPLATE + 1);
        assert_eq!(Template::parse(&long), Err(InvalidPage::TooLong));
    }
}
