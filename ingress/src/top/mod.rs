//! `parkway top`: what a running Parkway does, in a terminal.
//!
//! It asks the admin entrance for `/state` and draws what it says; nothing is kept between two looks but which line is
//! marked. When the Parkway goes away, that is said, and asked again.

mod state;
mod text;
mod view;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use self::state::State;
use self::view::View;
use crate::ask::ask;
use crate::cli::Top;

/// Shows until somebody presses `q`, or prints once.
///
/// # Errors
///
/// When there is no terminal, or with `--once` no Parkway answers.
pub fn run(settings: &Top) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if settings.once {
        let state = look(&runtime, settings)?;
        print(&text::plain(&state, settings.filter.as_deref()));
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        std::io::stdout().is_terminal(),
        "standard output is no terminal: use --once"
    );
    let mut terminal = ratatui::try_init()?;
    let shown = show(&runtime, settings, &mut terminal);
    ratatui::try_restore()?;
    shown?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "the answer to a command")]
fn print(text: &str) {
    print!("{text}");
}

fn look(runtime: &Runtime, settings: &Top) -> anyhow::Result<State> {
    let body = runtime.block_on(ask(&settings.target, "/state", None))?;
    State::parse(&body)
}

fn show(
    runtime: &Runtime,
    settings: &Top,
    terminal: &mut ratatui::DefaultTerminal,
) -> anyhow::Result<()> {
    let mut view = View::new(settings.target.admin, settings.filter.clone());
    let every = Duration::from_millis(settings.interval);
    while !has_hung_up() {
        let next = Instant::now() + every;
        view.saw(look(runtime, settings).map_err(|error| format!("{error:#}")));
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left)? {
                break;
            }
            if let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && !pressed(&mut view, key)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether nobody is at the other end of the terminal any more: then nothing would ever be read or seen again. A signal
/// (`SIGHUP`) says so only to those whose controlling terminal it is.
fn has_hung_up() -> bool {
    let stdout = std::io::stdout();
    let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
    let asked = poll(&mut watched, Some(&Timespec::default()));
    asked.is_ok()
        && watched[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
}

/// What a key does; `false`: that was enough.
fn pressed(view: &mut View, key: KeyEvent) -> bool {
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if with_control => return false,
        KeyCode::Down | KeyCode::Char('j') => view.mark(1),
        KeyCode::Up | KeyCode::Char('k') => view.mark(-1),
        KeyCode::PageDown => view.mark(10),
        KeyCode::PageUp => view.mark(-10),
        _ => {}
    }
    true
}
