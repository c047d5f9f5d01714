//! The picture: a line about the whole, Revisions, the endpoints of the one that is marked, the last cold starts.

use std::net::SocketAddr;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};

use super::state::{ColdStart, Endpoint, Revision, State};
use super::text::{PHASES, millis};

/// Lines of the last cold starts, their frame included.
const STARTS: u16 = 9;
/// Lines of the endpoints, likewise.
const ENDPOINTS: u16 = 5;

/// What is shown.
#[derive(Debug)]
pub(super) struct View {
    admin: SocketAddr,
    filter: Option<String>,
    state: State,
    /// Why the last look saw nothing.
    error: Option<String>,
    table: TableState,
}

impl View {
    pub(super) fn new(admin: SocketAddr, filter: Option<String>) -> Self {
        Self {
            admin,
            filter,
            state: State::default(),
            error: None,
            table: TableState::default().with_selected(0),
        }
    }

    /// A look has brought this. Without an answer what was seen before stays.
    pub(super) fn saw(&mut self, looked: Result<State, String>) {
        match looked {
            Ok(state) => {
                self.state = state;
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// Marks a line further down, or up.
    pub(super) fn mark(&mut self, by: isize) {
        let last = self.state.revisions(self.filter.as_deref()).count();
        let marked = self.table.selected().unwrap_or(0);
        let marked = marked.saturating_add_signed(by).min(last.saturating_sub(1));
        self.table.select(Some(marked));
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, revisions, endpoints, starts, foot] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(4),
            Constraint::Length(ENDPOINTS),
            Constraint::Length(STARTS),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_revisions(frame, revisions);
        self.draw_endpoints(frame, endpoints);
        self.draw_starts(frame, starts);
        let keys = " q quit   ↑↓ mark a Revision ";
        frame.render_widget(Line::styled(keys, Modifier::DIM), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let name = Span::styled("Parkway ", Modifier::BOLD);
        let first = Line::from_iter([name, Span::raw(self.admin.to_string())]);
        let second = match &self.error {
            None => Line::raw(self.state.summary()),
            Some(error) => Line::styled(error.clone(), Color::Red),
        };
        Paragraph::new(vec![first, second])
    }

    fn draw_revisions(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let header = [
            "Revision",
            "State",
            "Ready",
            "In flight",
            "Parked",
            "Starts",
            "Full",
        ];
        let rows = self.state.revisions(self.filter.as_deref()).map(row);
        let widths = [
            Constraint::Min(24),
            Constraint::Length(10),
            Constraint::Length(6),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(7),
            Constraint::Length(6),
        ];
        let table = Table::new(rows, widths)
            .header(Row::new(header).style(Modifier::BOLD))
            .block(Block::bordered().title("Revisions"))
            .row_highlight_style(Modifier::REVERSED);
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn draw_endpoints(&self, frame: &mut Frame<'_>, area: Rect) {
        let marked = self.table.selected().unwrap_or(0);
        let marked = self.state.revisions(self.filter.as_deref()).nth(marked);
        let block = Block::bordered();
        let Some(revision) = marked else {
            return frame.render_widget(block.title("Endpoints"), area);
        };
        let lines = about(revision);
        let block = block.title(format!("Endpoints of {}", revision.id()));
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_starts(&self, frame: &mut Frame<'_>, area: Rect) {
        let starts = self.state.cold_starts(self.filter.as_deref());
        let rows = starts.take(usize::from(STARTS)).map(start_row);
        let widths = [
            Constraint::Length(6),
            Constraint::Min(20),
            Constraint::Length(10),
            Constraint::Length(9),
            Constraint::Length(7),
            Constraint::Fill(2),
        ];
        let header = ["Start", "Revision", "Outcome", "Took", "Waited", "Longest"];
        let table = Table::new(rows, widths)
            .header(Row::new(header).style(Modifier::BOLD))
            .block(Block::bordered().title("Last cold starts"));
        frame.render_widget(table, area);
    }
}

fn row(revision: &Revision) -> Row<'_> {
    let stands = revision.stands();
    let colour = match stands {
        "failing" => Color::Red,
        "starting" | "busy" => Color::Yellow,
        "ready" => Color::Green,
        _ => Color::Reset,
    };
    Row::new([
        Cell::from(revision.id()),
        Cell::from(stands).style(Style::from(colour)),
        Cell::from(revision.ready().to_string()),
        Cell::from(revision.load()),
        Cell::from(revision.parked.to_string()),
        Cell::from(revision.counters.cold_starts.to_string()),
        Cell::from(revision.counters.queue_full.to_string()),
    ])
}

/// Its endpoints, or why there are none.
fn about(revision: &Revision) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    if let Some(failure) = &revision.failure {
        lines.push(Line::styled(
            format!("the last start failed: {failure}"),
            Color::Red,
        ));
    }
    if let Some(seconds) = revision.starting_seconds {
        let usual = match revision.usual_start_seconds {
            None => String::new(),
            Some(usual) => format!("; that usually takes up to {}", millis(usual * 1e3)),
        };
        lines.push(Line::raw(format!(
            "starting since {}{usual}",
            millis(seconds * 1e3)
        )));
    }
    let endpoints: Vec<String> = revision.endpoints.iter().map(endpoint).collect();
    match endpoints.is_empty() {
        true => lines.push(Line::styled("none", Modifier::DIM)),
        false => lines.push(Line::raw(endpoints.join("  "))),
    }
    lines
}

fn endpoint(endpoint: &Endpoint) -> String {
    let state = match (endpoint.ready, endpoint.suspect) {
        (false, _) => " leaving",
        (true, true) => " set aside",
        (true, false) => "",
    };
    format!("{} ({}){state}", endpoint.address, endpoint.in_flight)
}

fn start_row(start: &ColdStart) -> Row<'_> {
    let colour = match start.outcome.as_str() {
        "starting" => Color::Yellow,
        "failed" => Color::Red,
        "ready" => Color::Green,
        _ => Color::Reset,
    };
    Row::new([
        Cell::from(start.number.to_string()),
        Cell::from(start.id()),
        Cell::from(start.outcome.as_str()).style(Style::from(colour)),
        Cell::from(millis(start.total_ms)),
        Cell::from(start.waited.to_string()),
        Cell::from(start.longest(PHASES)),
    ])
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;

    fn state() -> State {
        let state = json!({
            "ready": true, "workers": 2, "connections": 7, "parked": 3, "parkedBytes": 2048,
            "configuration": { "generation": 4, "rejected": false },
            "autoscaler": { "kind": "embedded" },
            "revisions": [
                { "namespace": "default", "name": "bank-00001", "containerConcurrency": 0, "parked": 0, "inFlight": 5,
                  "endpoints": [{ "address": "127.0.0.1:4000", "inFlight": 5, "ready": true, "suspect": false }],
                  "counters": { "coldStarts": 2, "queueFull": 0 } },
                { "namespace": "default", "name": "shop-00001", "containerConcurrency": 1, "parked": 3, "inFlight": 0,
                  "startingSeconds": 1.5, "usualStartSeconds": 2.0, "counters": { "coldStarts": 1, "queueFull": 9 } }
            ],
            "coldStarts": [{ "number": 3, "namespace": "default", "revision": "bank-00001", "outcome": "ready",
                "totalMs": 61.2, "waited": 200, "phases": [{ "name": "parking", "ms": 0.1 }, { "name": "readiness", "ms": 50.0 }] }]
        });
        State::parse(state.to_string().as_bytes()).unwrap()
    }

    fn drawn(view: &mut View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 30)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[track_caller]
    fn assert_shows(screen: &str, words: &[&str]) {
        let shows = |line: &str| {
            let mut rest = line;
            words.iter().all(|word| match rest.split_once(word) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        };
        assert!(screen.lines().any(shows), "{words:?} in\n{screen}");
    }

    fn view() -> View {
        let mut view = View::new("127.0.0.1:9090".parse().unwrap(), None);
        view.saw(Ok(state()));
        view
    }

    #[test]
    fn revisions_endpoints_and_starts_are_shown_and_where_requests_wait_comes_first() {
        let mut view = view();
        let screen = drawn(&mut view);
        assert_shows(
            &screen,
            &[
                "ready",
                "2 workers",
                "7 connections",
                "3 parked (2.0 KiB)",
                "embedded",
                "generation 4",
            ],
        );
        assert_shows(
            &screen,
            &["default/shop-00001", "starting", "0", "0/0", "3", "1", "9"],
        );
        assert_shows(
            &screen,
            &["default/bank-00001", "ready", "1", "5", "0", "2"],
        );
        assert_shows(
            &screen,
            &["starting since 1.50 s; that usually takes up to 2.00 s"],
        );
        assert_shows(
            &screen,
            &[
                "3",
                "bank-00001",
                "ready",
                "61 ms",
                "200",
                "readiness 50 ms, parking 0.1 ms",
            ],
        );
        let (shop, bank) = (screen.find("shop-00001"), screen.find("bank-00001"));
        assert!(shop < bank, "{screen}");

        view.mark(1);
        assert_shows(&drawn(&mut view), &["Endpoints of default/bank-00001"]);
        assert_shows(&drawn(&mut view), &["127.0.0.1:4000 (5)"]);
    }

    #[test]
    fn marking_stays_within_what_is_there_and_a_filter_narrows_it() {
        let mut view = view();
        view.mark(100);
        assert_shows(&drawn(&mut view), &["Endpoints of default/bank-00001"]);
        view.mark(-100);
        assert_shows(&drawn(&mut view), &["Endpoints of default/shop-00001"]);
        view.filter = Some("BANK".to_owned());
        assert!(!drawn(&mut view).contains("shop"));
    }

    #[test]
    fn a_parkway_that_went_away_is_said_and_what_was_seen_stays() {
        let mut view = view();
        view.saw(Err("no Parkway answers at 127.0.0.1:9090".to_owned()));
        let screen = drawn(&mut view);
        assert_shows(&screen, &["no Parkway answers"]);
        assert_shows(&screen, &["default/shop-00001"]);
    }

    #[test]
    fn a_terminal_that_is_too_small_is_no_harm() {
        for (width, height) in [(1, 1), (10, 3), (40, 12)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let mut view = view();
            terminal.draw(|frame| view.draw(frame)).unwrap();
        }
    }
}
