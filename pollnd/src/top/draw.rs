//! The screen as text.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Table, Widget, Wrap};

use super::rates::{ConnRow, Head, LcoreRow, NiRow, PeerRow};
use super::screen::{Pane, Screen};
use crate::inspect::nis::bound;
use crate::units;

/// The smallest screen that has room for a header, a pane and the keys.
const LEAST: (u16, u16) = (50, 10);
/// Lines from which all panes are shown, and not the chosen one alone.
const ALL_PANES: u16 = 30;
const HEAD: u16 = 5;

const HELP: &str = "\
q Esc Ctrl-C  leave
Tab 1 2 3 4   another pane
arrows PgUp PgDn Home End
              scroll the pane
s             another order of the pane's rows
p             pause, and go on
+ -           shorter and longer intervals
?             this

Rates are of the last interval, in before out. Latencies are bounds: at most so
much, in powers of two. Nothing is changed on the node.";

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn alarm(on: bool) -> Style {
    if on { bold().fg(Color::Red) } else { Style::new() }
}

fn bits(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".into(), |r| units::rate(r.round() as u64, 1.0))
}

fn times(rate: Option<f64>) -> String {
    // Tenths matter where little happens.
    rate.map_or_else(|| "-".into(), |r| units::per_second((r * 10.0).round() as u64, 10.0))
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "-".into(), |n| n.to_string())
}

fn age(up: Duration) -> String {
    let s = up.as_secs();
    let (days, hours, minutes) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{:02}", s % 60),
        (0, _) => format!("{hours}:{minutes:02}:{:02}", s % 60),
        _ => format!("{days} d {hours}:{minutes:02}"),
    }
}

/// Draws all of it.
pub(super) fn draw(screen: &mut Screen, area: Rect, buf: &mut Buffer) {
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let why = format!("too small: {}x{}, at least {}x{}", area.width, area.height, LEAST.0, LEAST.1);
        return Paragraph::new(why).wrap(Wrap { trim: true }).render(area, buf);
    }
    let [head, middle, foot] =
        Layout::vertical([Constraint::Length(HEAD), Constraint::Min(3), Constraint::Length(1)]).areas(area);
    header(screen, head, buf);
    if area.height < ALL_PANES {
        pane(screen, screen.pane, true, middle, buf);
    } else {
        for (p, area) in Pane::ALL.into_iter().zip(shares(screen, middle)) {
            pane(screen, p, true, area, buf);
        }
    }
    footer(screen, foot, buf);
    if screen.help {
        help(middle, buf);
    }
}

/// Room of each pane where all are shown: the first two have what they need, up to a quarter each.
fn shares(screen: &Screen, area: Rect) -> [Rect; 4] {
    let need = |p: Pane| screen.rows(p) as u16 + 3;
    let most = (area.height / 4).max(4);
    let few = |p: Pane| Constraint::Length(need(p).min(most));
    Layout::vertical([few(Pane::Lcores), few(Pane::Nis), Constraint::Fill(1), Constraint::Fill(1)])
        .areas(area)
}

/// Lines that show every row of every pane.
pub(super) fn height_of_all(screen: &Screen) -> u16 {
    let rows: usize = Pane::ALL.iter().map(|p| screen.rows(*p)).sum();
    u16::try_from(rows).unwrap_or(u16::MAX)
}

fn header(screen: &Screen, area: Rect, buf: &mut Buffer) {
    let h: &Head = &screen.view.head;
    let nid = h.node.nids.first().map_or("-", String::as_str);
    let more = match h.node.nids.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let usual = screen.gone.is_none() && !screen.paused && screen.late.is_none();
    let state = match (&screen.gone, screen.paused, screen.late) {
        (Some(_), ..) => "gone".to_owned(),
        (None, true, _) => "paused".to_owned(),
        (None, false, Some(s)) => format!("no answer for {s} s"),
        (None, false, None) => format!("every {}", units::time(screen.interval.as_secs_f64())),
    };
    let first = Line::from(vec![
        Span::styled(format!("{nid}{more}"), bold()),
        Span::raw("  "),
        Span::styled(state, if usual { Style::new() } else { bold() }),
        // The carrier of several ports is longer than most screens are wide.
        Span::raw(format!(", process {}, up {}, {}", h.node.pid, age(h.up), h.node.carrier)),
    ]);
    let cut = if h.cut { " or more" } else { "" };
    let traffic = Line::raw(format!(
        "in {} {}   out {} {}   {}, {}{cut}",
        times(h.msgs[0]),
        bits(h.bytes[0]),
        times(h.msgs[1]),
        bits(h.bytes[1]),
        units::many(h.peers as u64, "peer"),
        units::many(h.conns as u64, "connection")
    ));
    let mut costs: Vec<Span<'_>> = Vec::new();
    for (words, n) in [("errors", h.errors)].into_iter().chain(h.costs.iter().copied()) {
        costs.push(Span::styled(format!("{words} {n}"), alarm(words != "copied in" && n > 0)));
        costs.push(Span::raw("  "));
    }
    let mut lines = vec![first, traffic, latencies(h), Line::from(costs)];
    if let Some(why) = &screen.gone {
        lines.push(Line::styled(format!("{why}; waiting for it"), alarm(true)));
    }
    Paragraph::new(lines).render(area, buf);
}

/// Percentiles of the operations that ended in the interval.
fn latencies(h: &Head) -> Line<'static> {
    let some = h.operations.iter().filter(|o| o.latency.count() > 0);
    let words = some.map(|o| {
        let [half, nearly] = [0.5, 0.99].map(|share| bound(o.latency.at_most(share)));
        format!("{} {} p50 {half} p99 {nearly}", o.name, times(o.rate))
    });
    let words: Vec<String> = words.collect();
    Line::raw(if words.is_empty() { "no operations of this node's own".into() } else { words.join("   ") })
}

fn footer(screen: &Screen, area: Rect, buf: &mut Buffer) {
    let order = screen.order(screen.pane).name();
    let keys = format!("q leave  Tab pane  s order: {order}  p pause  +/- interval  ? help");
    Line::styled(keys, dim()).render(area, buf);
}

fn help(area: Rect, buf: &mut Buffer) {
    Clear.render(area, buf);
    Paragraph::new(HELP).render(area, buf);
}

/// A column: its title, its least width, and whether it is of words. The first column of words has what is left.
type Column = (&'static str, u16, bool);

// Columns that matter less stand further right, and are left out first where there is no room.
const LCORES: &[Column] = &[
    ("lcore", 5, false),
    ("busy", 6, false),
    ("polls", 8, false),
    ("packets in", 10, false),
    ("out", 8, false),
    ("in", 11, false),
    ("out", 11, false),
    ("drops", 8, false),
    ("conns", 5, false),
    ("naps", 8, false),
];
const NIS: &[Column] = &[
    ("NID", 16, true),
    ("in", 8, false),
    ("out", 8, false),
    ("in", 11, false),
    ("out", 11, false),
    ("dropped", 7, false),
    ("credits", 9, false),
    ("p50", 8, false),
    ("p99", 11, false),
];
const PEERS: &[Column] = &[
    ("peer", 16, true),
    ("state", 10, true),
    ("conns", 5, false),
    ("credits", 7, false),
    ("queue", 6, false),
    ("in", 11, false),
    ("out", 11, false),
    ("last failure", 24, true),
];
const CONNS: &[Column] = &[
    ("remote", 18, true),
    ("type", 8, true),
    ("state", 11, true),
    ("recv-q", 7, false),
    ("send-q", 8, false),
    ("in", 11, false),
    ("out", 11, false),
    ("rtt", 8, false),
    ("resent", 6, false),
    ("lcore", 5, false),
    ("local", 18, true),
];

/// The columns that there is room for.
fn fitting(columns: &'static [Column], width: u16) -> &'static [Column] {
    let room = |n: &usize| columns.iter().take(*n).map(|c| c.1 + 1).sum::<u16>() <= width.saturating_add(1);
    let most = (1..=columns.len()).rev().find(room).unwrap_or(1);
    columns.get(..most).unwrap_or(columns)
}

/// A pane with its title, its columns and the rows that there is room for. `keys` names the key that chooses it, too.
fn pane(screen: &mut Screen, pane: Pane, keys: bool, area: Rect, buf: &mut Buffer) {
    let at = pane as usize;
    let rows = screen.rows(pane);
    let room = usize::from(area.height.saturating_sub(2));
    screen.room[at] = room;
    screen.first[at] = screen.first[at].min(rows.saturating_sub(room));
    let first = screen.first[at];
    let chosen = screen.pane == pane;
    let mut title = format!("{}: {rows}", pane.name());
    if keys {
        title = format!("[{}] {title}", at + 1);
    }
    if rows > room && room > 0 {
        title += &format!(", {} to {}", first + 1, (first + room).min(rows));
    }
    let style = if chosen { bold().add_modifier(Modifier::REVERSED) } else { dim() };
    let [line, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    Line::styled(format!("{title:<width$}", width = usize::from(area.width)), style).render(line, buf);
    let (v, shown) = (&screen.view, first..(first + room).min(rows));
    let (columns, cells): (_, Vec<Vec<String>>) = match pane {
        Pane::Lcores => (LCORES, v.lcores[shown.clone()].iter().map(of_lcore).collect()),
        Pane::Nis => (NIS, v.nis[shown.clone()].iter().map(of_ni).collect()),
        Pane::Peers => (PEERS, v.peers[shown.clone()].iter().map(of_peer).collect()),
        Pane::Connections => (CONNS, v.conns[shown.clone()].iter().map(of_conn).collect()),
    };
    table(columns, cells, rest, buf);
    // One that does not answer says why in place of figures.
    if pane == Pane::Lcores {
        for (i, l) in v.lcores[shown].iter().enumerate() {
            let (Some(why), y) = (&l.silent, rest.y + 1 + i as u16) else { continue };
            let room = Rect { x: rest.x + 6, y, width: rest.width.saturating_sub(6), height: 1 };
            Clear.render(room, buf);
            Line::styled(why.as_str(), alarm(true)).render(room, buf);
        }
    }
}

fn table(columns: &'static [Column], cells: Vec<Vec<String>>, area: Rect, buf: &mut Buffer) {
    let columns = fitting(columns, area.width);
    let grows = columns.iter().position(|c| c.2);
    let width = |(i, c): (usize, &Column)| match grows == Some(i) {
        true => Constraint::Min(c.1),
        false => Constraint::Length(c.1),
    };
    let widths: Vec<Constraint> = columns.iter().enumerate().map(width).collect();
    let cell = |(text, column): (String, &Column)| {
        let text = Text::raw(text);
        Cell::new(if column.2 { text } else { text.right_aligned() })
    };
    let row = |texts: Vec<String>| Row::new(texts.into_iter().zip(columns).map(cell).collect::<Vec<_>>());
    let titles = row(columns.iter().map(|c| c.0.to_owned()).collect()).style(dim());
    let table = Table::new(cells.into_iter().map(row).collect::<Vec<_>>(), widths);
    Widget::render(table.header(titles).column_spacing(1), area, buf);
}

fn of_lcore(l: &LcoreRow) -> Vec<String> {
    vec![
        l.lcore.to_string(),
        l.busy.map_or_else(|| "-".into(), |b| format!("{:.1}%", 100.0 * b)),
        times(l.polls),
        times(l.packets[0]),
        times(l.packets[1]),
        bits(l.bytes[0]),
        bits(l.bytes[1]),
        l.drops.to_string(),
        l.conns.to_string(),
        times(l.naps),
    ]
}

fn of_ni(n: &NiRow) -> Vec<String> {
    let credits = if n.credits[1] == 0 { "-".into() } else { format!("{}/{}", n.credits[0], n.credits[1]) };
    let [half, nearly] = [0.5, 0.99].map(|share| bound(n.latency.at_most(share)));
    vec![
        n.nid.clone(),
        times(n.msgs[0]),
        times(n.msgs[1]),
        bits(n.bytes[0]),
        bits(n.bytes[1]),
        n.drops.to_string(),
        credits,
        half,
        nearly,
    ]
}

fn of_peer(p: &PeerRow) -> Vec<String> {
    vec![
        p.peer.clone(),
        p.state.clone(),
        p.conns.to_string(),
        p.credits.to_string(),
        p.queued.to_string(),
        bits(p.bytes[0]),
        bits(p.bytes[1]),
        p.why.clone().unwrap_or_default(),
    ]
}

fn of_conn(c: &ConnRow) -> Vec<String> {
    vec![
        c.remote.clone(),
        c.kind.clone(),
        c.state.clone(),
        number(c.queued[0]),
        number(c.queued[1]),
        bits(c.bytes[0]),
        bits(c.bytes[1]),
        c.rtt_ns.map_or_else(|| "-".into(), |ns| units::time(ns as f64 / 1e9)),
        number(c.retransmits),
        c.lcore.to_string(),
        c.local.clone(),
    ]
}

/// The screen as lines of text, for those who have no terminal.
pub(super) fn text(screen: &mut Screen, width: u16) -> String {
    // Each pane has a title and titles of columns beside its rows.
    let height = height_of_all(screen).saturating_add(HEAD + 1 + 4 * 2).max(LEAST.1);
    let area = Rect::new(0, 0, width.max(LEAST.0), height);
    let mut buf = Buffer::empty(area);
    let [head, mut rest] = Layout::vertical([Constraint::Length(HEAD), Constraint::Min(0)]).areas(area);
    header(screen, head, &mut buf);
    for p in Pane::ALL {
        let height = screen.rows(p) as u16 + 2;
        pane(screen, p, false, Rect { height, ..rest }, &mut buf);
        (rest.y, rest.height) = (rest.y + height, rest.height.saturating_sub(height));
    }
    lines(&buf)
}

/// A buffer as lines without the blanks at their ends, and without empty ones at its end.
fn lines(buf: &Buffer) -> String {
    let width = usize::from(buf.area.width).max(1);
    let lines = buf.content.chunks(width).map(|l| l.iter().map(|c| c.symbol()).collect::<String>());
    let all: Vec<String> = lines.map(|l| l.trim_end().to_owned()).collect();
    all.join("\n").trim_end().to_owned() + "\n"
}

#[cfg(test)]
pub(super) fn shown(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut t = ratatui::Terminal::new(ratatui::backend::TestBackend::new(width, height)).unwrap();
    t.draw(|f| draw(screen, f.area(), f.buffer_mut())).unwrap();
    lines(t.backend().buffer())
}
