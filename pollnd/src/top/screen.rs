//! State of the screen, and keys that change it.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::rates::{Sample, Sort, View};

/// Intervals of looks to choose from, in seconds.
const INTERVALS: [f64; 9] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// A part of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pane {
    Lcores,
    Nis,
    Peers,
    Connections,
}

impl Pane {
    pub(super) const ALL: [Pane; 4] = [Pane::Lcores, Pane::Nis, Pane::Peers, Pane::Connections];

    pub(super) fn name(self) -> &'static str {
        match self {
            Pane::Lcores => "lcores",
            Pane::Nis => "NIs",
            Pane::Peers => "peers",
            Pane::Connections => "connections",
        }
    }

    /// Orders of its rows; it begins with the first.
    fn sorts(self) -> &'static [Sort] {
        match self {
            Pane::Lcores => &[Sort::Told, Sort::Busy],
            Pane::Nis => &[Sort::Name, Sort::Rate],
            Pane::Peers | Pane::Connections => &[Sort::Rate, Sort::Queue, Sort::Name],
        }
    }
}

/// Effect of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The screen may have changed.
    Draw,
    /// The user leaves.
    Quit,
}

/// State of the screen.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) pane: Pane,
    /// First row shown, by pane.
    pub(super) first: [usize; 4],
    /// Rows that the pane had room for when it was drawn.
    pub(super) room: [usize; 4],
    sort: [usize; 4],
    pub(super) paused: bool,
    pub(super) help: bool,
    pub(super) interval: Duration,
    pub(super) view: View,
    /// Reason why the figures are old.
    pub(super) gone: Option<String>,
    /// Seconds since the look that is under way began, where they are many.
    pub(super) late: Option<u64>,
    last: Option<Sample>,
}

impl Screen {
    pub(super) fn new(interval: Duration) -> Screen {
        Screen {
            pane: Pane::Peers,
            first: [0; 4],
            room: [0; 4],
            sort: [0; 4],
            paused: false,
            help: false,
            interval,
            view: View::default(),
            gone: None,
            late: None,
            last: None,
        }
    }

    /// Whether the node has been seen.
    pub(super) fn has_seen(&self) -> bool {
        self.last.is_some()
    }

    /// A look has come to its end.
    pub(super) fn seen(&mut self, look: Result<Sample, String>) {
        match look {
            Ok(now) => {
                self.view = View::between(self.last.as_ref(), &now);
                (self.last, self.gone) = (Some(now), None);
                self.sort();
            }
            Err(e) => self.gone = Some(e),
        }
    }

    pub(super) fn order(&self, pane: Pane) -> Sort {
        let sorts = pane.sorts();
        sorts[self.sort[pane as usize] % sorts.len()]
    }

    fn sort(&mut self) {
        let [lcores, nis, peers, conns] = Pane::ALL.map(|p| self.order(p));
        self.view.sort_lcores(lcores);
        self.view.sort_nis(nis);
        self.view.sort_peers(peers);
        self.view.sort_conns(conns);
    }

    /// Rows of a pane.
    pub(super) fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Lcores => self.view.lcores.len(),
            Pane::Nis => self.view.nis.len(),
            Pane::Peers => self.view.peers.len(),
            Pane::Connections => self.view.conns.len(),
        }
    }

    fn scroll(&mut self, by: isize) {
        let pane = self.pane as usize;
        let last = self.rows(self.pane).saturating_sub(self.room[pane]);
        self.first[pane] = self.first[pane].saturating_add_signed(by).min(last);
    }

    fn pace(&mut self, faster: bool) {
        let now = self.interval.as_secs_f64();
        let next = match faster {
            true => INTERVALS.iter().rev().find(|s| **s < now),
            false => INTERVALS.iter().find(|s| **s > now),
        };
        self.interval = next.map_or(self.interval, |s| Duration::from_secs_f64(*s));
    }

    fn turn(&mut self, by: usize) {
        self.pane = Pane::ALL[(self.pane as usize + by) % Pane::ALL.len()];
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, k: KeyEvent) -> Step {
        if k.kind == KeyEventKind::Release {
            return Step::Draw;
        }
        let page = self.room[self.pane as usize].max(1).cast_signed();
        let control = k.modifiers.contains(KeyModifiers::CONTROL);
        match k.code {
            KeyCode::Char('c') if control => return Step::Quit,
            // It takes the help away first.
            _ if std::mem::take(&mut self.help) => {}
            KeyCode::Char('q') | KeyCode::Esc => return Step::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(Pane::ALL.len() - 1),
            KeyCode::Char(n @ '1'..='4') => self.pane = Pane::ALL[n as usize - '1' as usize],
            KeyCode::Up => self.scroll(-1),
            KeyCode::Down => self.scroll(1),
            KeyCode::PageUp => self.scroll(-page),
            KeyCode::PageDown => self.scroll(page),
            KeyCode::Home => self.scroll(isize::MIN),
            KeyCode::End => self.scroll(isize::MAX),
            KeyCode::Char('s') => {
                self.sort[self.pane as usize] += 1;
                self.sort();
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('+') => self.pace(true),
            KeyCode::Char('-') => self.pace(false),
            _ => {}
        }
        Step::Draw
    }
}
