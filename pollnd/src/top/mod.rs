//! `pollnd top`: a live view of a running node.
//!
//! `asker` asks the node on a thread of its own, so that keys are heard while it does not answer; `rates` makes rates of two looks;
//! `screen` holds what the user has chosen; `draw` makes text of both. The node is only asked, by the questions of `pollnd stats`,
//! `peers` and `connections`.

mod asker;
mod draw;
mod rates;
mod screen;
#[cfg(test)]
#[path = "top_tests.rs"]
mod tests;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use self::asker::{Looker, Looks};
use self::screen::{Screen, Step};
use crate::args::TopArgs;
use crate::{MISUSED, limits, out};

/// Longest wait for a key before looks and signals are seen to.
const GLANCE: Duration = Duration::from_millis(50);
/// Wait for an answer from which on it is told: what is shown is that old.
const LATE: Duration = Duration::from_secs(3);
/// Width of `--once` where nobody tells one.
const WIDTH: u16 = 120;
/// Least and most columns of `--once`, as `--width` takes them.
const WIDTHS: (u16, u16) = (50, 500);

/// `pollnd top`.
///
/// # Errors
/// No node, or it does not answer; the terminal cannot be had.
pub(crate) fn main(a: &TopArgs) -> Result<ExitCode, String> {
    let interval = Duration::from_secs_f64(a.interval);
    if a.once {
        return once(a, interval).map(|()| ExitCode::SUCCESS);
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        out::note("standard input and output are no terminal: --once prints the figures as text");
        return Ok(ExitCode::from(MISUSED));
    }
    let looks = Looks::by(Looker::new(a.asked.node.as_deref())?)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| format!("cannot watch for signals: {}", limits::told(&e)))?;
    // It gives the terminal back when it panics, too.
    let mut terminal = ratatui::try_init().map_err(|e| format!("the terminal cannot be used: {e}"))?;
    let ended = live(&mut terminal, Screen::new(interval), looks, &mut signals);
    // It shows the cursor again.
    drop(terminal);
    let restored = ratatui::try_restore().map_err(|e| format!("the terminal is not as it was: {e}"));
    if let End::Signal(n) = ended? {
        // As if it had not been caught.
        let _ = emulate_default_handler(n);
    }
    restored.map(|()| ExitCode::SUCCESS)
}

/// End of the live view.
enum End {
    Quit,
    Signal(i32),
}

fn live(
    terminal: &mut DefaultTerminal,
    mut screen: Screen,
    mut looks: Looks,
    signals: &mut Signals,
) -> Result<End, String> {
    let lost = |e: std::io::Error| format!("the terminal has gone: {e}");
    let mut next = Instant::now();
    let mut draw = true;
    loop {
        if let Some(look) = looks.end() {
            screen.seen(look);
            draw = true;
        }
        let now = Instant::now();
        if now >= next && !screen.paused && looks.since.is_none() {
            looks.begin();
            // Until there are rates the next look comes soon.
            let pause = if screen.has_seen() { screen.interval } else { screen.interval.min(GLANCE * 4) };
            next = now + pause;
        }
        let late = looks.since.map(|t| t.elapsed()).filter(|waited| *waited >= LATE).map(|w| w.as_secs());
        draw |= std::mem::replace(&mut screen.late, late) != late;
        if std::mem::take(&mut draw) {
            terminal.draw(|f| draw::draw(&mut screen, f.area(), f.buffer_mut())).map_err(lost)?;
        }
        if let Some(n) = signals.pending().next() {
            return Ok(End::Signal(n));
        }
        if event::poll(GLANCE).map_err(lost)? {
            let before = screen.interval;
            match event::read().map_err(lost)? {
                Event::Key(k) if screen.key(k) == Step::Quit => return Ok(End::Quit),
                _ => draw = true,
            }
            if screen.interval < before {
                next = next.min(Instant::now() + screen.interval);
            }
        }
    }
}

/// One frame as text, of all rows, with the rates of one interval.
fn once(a: &TopArgs, interval: Duration) -> Result<(), String> {
    let mut looker = Looker::new(a.asked.node.as_deref())?;
    let mut screen = Screen::new(interval);
    screen.seen(Ok(looker.look()?));
    std::thread::sleep(interval);
    screen.seen(Ok(looker.look()?));
    let columns = || std::env::var("COLUMNS").ok();
    out::text(draw::text(&mut screen, a.width.unwrap_or_else(|| width(columns().as_deref()))))
}

/// Width of the text where the environment says `columns`: one that is none, or beyond those of `--width`, is no reason to fail.
fn width(columns: Option<&str>) -> u16 {
    let said = columns.and_then(|c| c.parse::<u64>().ok());
    said.map_or(WIDTH, |c| c.clamp(WIDTHS.0.into(), WIDTHS.1.into()) as u16)
}
