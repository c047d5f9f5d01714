//! `parkway top`: what a running Parkway does, in a terminal.
//!
//! It asks the admin entrance for `/state` and draws what it says; nothing is kept between two looks but which line is
//! marked. When the Parkway goes away, that is said, and asked again.

mod state;
mod text;
mod view;

use std::io::{IsTerminal as _, stdin, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
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
        stdout().is_terminal(),
        "standard output is no terminal: use --once"
    );
    ensure!(
        stdin().is_terminal(),
        "standard input is no terminal: use --once"
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
    loop {
        let next = Instant::now() + every;
        view.saw(look(runtime, settings).map_err(|error| format!("{error:#}")));
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let left = next.saturating_duration_since(Instant::now());
            match wait(left)? {
                Waited::InVain => break,
                Waited::HungUp => return Ok(()),
                Waited::ForEvents => {}
            }
            while event::poll(Duration::ZERO)? {
                if let Event::Key(key) = event::read()?
                    && key.kind != KeyEventKind::Release
                    && !pressed(&mut view, key)
                {
                    return Ok(());
                }
            }
        }
    }
}

/// What came while we waited for somebody at the terminal.
enum Waited {
    InVain,
    ForEvents,
    HungUp,
}

/// Waits for a key, for a change of the terminal's size, or for its end: that nobody is at the other end any more is
/// told by a signal (`SIGHUP`) only to those whose controlling terminal it is, and crossterm would read on for ever.
fn wait(most: Duration) -> anyhow::Result<Waited> {
    let stdin = stdin();
    let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
    match poll(&mut watched, Some(&Timespec::try_from(most)?)) {
        Ok(0) => Ok(Waited::InVain),
        Ok(_) if watched[0].revents() == PollFlags::IN => Ok(Waited::ForEvents),
        Ok(_) => Ok(Waited::HungUp),
        Err(Errno::INTR) => Ok(Waited::ForEvents),
        Err(error) => Err(error.into()),
    }
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
