//! The page: one file of HTML with its plots, without scripts and without anything from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::compare::{Comparison, Verdict};
use super::plot::{self, Across, LINES, Line, NARROW, Plot, WIDE};
use super::{Carrier, Case, Figures, Op, Report, Side, bytes, plan};
use crate::repeat::Spread;
use crate::report::many;

type Drawn = Result<Option<Markup>, String>;

/// A figure of a case.
type Of = fn(&Figures) -> Spread;

/// Percentiles of a latency.
const PERCENTILES: [(&str, Of); 4] =
    [("p50", |f| f.p50_us), ("p90", |f| f.p90_us), ("p99", |f| f.p99_us), ("p99.9", |f| f.p999_us)];

/// A figure with as many digits as it deserves.
fn digits(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x >= 99_999.5 => format!("{:.0} k", x / 1e3),
        x if x >= 99.95 => format!("{x:.0}"),
        x if x >= 9.995 => format!("{x:.1}"),
        x if x >= 0.0995 => format!("{x:.2}"),
        x => format!("{x:.4}"),
    }
}

fn cell(s: Option<Spread>) -> Markup {
    html! {
        @if let Some(Spread { median, range: [low, high] }) = s {
            td { (digits(median)) span.range { (digits(low)) "–" (digits(high)) } }
        } @else {
            td.none { "–" }
        }
    }
}

fn legend(names: impl IntoIterator<Item = (usize, String)>) -> Markup {
    html! {
        div.legend { @for (colour, name) in names { span { i class=(format!("c{colour}")) {} (name) } } }
    }
}

/// A plot over its table; nothing where nothing was measured.
fn figure(title: &str, p: &Plot<'_>, table: &Markup) -> Drawn {
    let dots: usize = p.lines.iter().map(|l| l.dots.len()).sum();
    if dots == 0 {
        return Ok(None);
    }
    let svg = plot::svg(p, title)?;
    Ok(Some(html! {
        figure.plot data-points=(dots) {
            figcaption { (title) }
            (PreEscaped(svg))
            div.scroll { (table) }
        }
    }))
}

/// Plots beside each other, with the legend of all; nothing where there are none.
fn grid(class: &str, legend: &Markup, plots: &[Markup]) -> Option<Markup> {
    let some = !plots.is_empty();
    some.then(|| html! { (legend) div.grid.(class) { @for p in plots { (p) } } })
}

fn dot(x: u32, s: Spread) -> plot::Dot {
    (f64::from(x), s.median, s.range)
}

/// Columns of a table, which has one of their figures in each row.
type Column = (String, Vec<(u32, Spread)>);

fn table(first: &str, rows: &[u32], row: impl Fn(u32) -> String, columns: &[Column]) -> Markup {
    html! {
        table {
            thead { tr { th { (first) } @for (name, _) in columns { th { (name) } } } }
            tbody {
                @for r in rows {
                    tr {
                        th { (row(*r)) }
                        @for (_, all) in columns { (cell(all.iter().find(|(x, _)| x == r).map(|(_, s)| *s))) }
                    }
                }
            }
        }
    }
}

struct Page<'a> {
    r: &'a Report,
    /// Sides that have all cases; those of many lcores are in the plots by lcore.
    sides: Vec<Side>,
    ops: Vec<Op>,
}

impl Page<'_> {
    fn bulk(&self) -> impl Iterator<Item = Op> {
        self.ops.iter().copied().filter(|op| op.is_bulk())
    }

    fn sides_legend(&self) -> Markup {
        legend(self.sides.iter().enumerate().map(|(i, s)| (i, s.name())))
    }

    /// A plot of each operation with payload, by size, with a line for each side.
    fn by_size(&self, (what, up): (&str, &str), log: bool, get: fn(&Figures) -> Spread) -> Drawn {
        let mut all = Vec::new();
        for op in self.bulk() {
            let column = |s: &Side| {
                let of = self.r.by_size(op, *s).into_iter();
                (s.name(), of.map(|(size, f)| (size, get(f))).collect::<Vec<_>>())
            };
            let columns: Vec<Column> = self.sides.iter().map(column).collect();
            let line = |(colour, (_, all)): (usize, &Column)| Line {
                colour,
                dots: all.iter().map(|(x, s)| dot(*x, *s)).collect(),
                curve: None,
            };
            let lines = columns.iter().enumerate().map(line).collect();
            let p = Plot { up, across: Across::Size, log, lines, heights: None, size: WIDE };
            let rows = table("size", &self.r.options.sizes, bytes, &columns);
            all.extend(figure(&format!("{} {what}", op.name()), &p, &rows)?);
        }
        Ok(grid("two", &self.sides_legend(), &all))
    }

    /// A row of plots for each operation, one for each side, with a line for each percentile.
    fn latency(&self) -> Drawn {
        let mut all = Vec::new();
        for op in &self.ops {
            let columns = |s: &Side| -> Vec<Column> {
                let of = self.r.by_concurrency(*op, *s);
                let one = |(name, get): &(&str, fn(&Figures) -> Spread)| {
                    ((*name).to_owned(), of.iter().map(|(n, f)| (*n, get(f))).collect())
                };
                PERCENTILES.iter().map(one).collect()
            };
            let line = |(colour, (_, all)): (usize, &Column)| Line {
                colour,
                dots: all.iter().map(|(x, s)| dot(*x, *s)).collect(),
                curve: None,
            };
            let sides: Vec<(Side, Vec<Column>)> = self.sides.iter().map(|s| (*s, columns(s))).collect();
            let measured = sides.iter().filter(|(_, c)| c.iter().any(|(_, all)| !all.is_empty()));
            let drawn: Vec<(Side, &[Column], Vec<Line>)> =
                measured.map(|(s, c)| (*s, c.as_slice(), c.iter().enumerate().map(line).collect())).collect();
            let heights = plot::heights(drawn.iter().flat_map(|(.., lines)| lines));
            let mut row = Vec::new();
            for (side, columns, lines) in drawn {
                let p = Plot { up: "µs", across: Across::Count, log: true, lines, heights, size: NARROW };
                let rows = table("at a time", &self.r.options.concurrency, |n| n.to_string(), columns);
                row.extend(figure(&format!("{}, {}", self.small(*op), side.name()), &p, &rows)?);
            }
            all.extend(grid("three", &html! { h3 { (self.small(*op)) } }, &row));
        }
        let names = PERCENTILES.iter().map(|(name, _)| (*name).to_owned()).enumerate();
        Ok((!all.is_empty()).then(|| html! { (legend(names)) @for row in all { (row) } }))
    }

    /// An operation at the size at which concurrency varies.
    fn small(&self, op: Op) -> String {
        match op {
            Op::Ping => "LNet ping".into(),
            op => format!("{} {}", op.name(), bytes(plan::small(&self.r.options.sizes))),
        }
    }

    /// CPU time by size, with the fitted line.
    fn fits(&self) -> Drawn {
        let mut all = Vec::new();
        for op in self.bulk() {
            let line = |(colour, side): (usize, &Side)| {
                let dots: Vec<_> =
                    self.r.by_size(op, *side).into_iter().map(|(x, f)| dot(x, f.cpu_us)).collect();
                let fit = self.r.fits.iter().find(|f| f.op == op && f.side == *side);
                let (from, to) = (dots.first().map_or(1.0, |d| d.0), dots.last().map_or(1.0, |d| d.0));
                let curve = fit.map(|f| {
                    let at = |i: u32| from * (to / from).powf(f64::from(i) / 40.0);
                    (0..=40).map(|i| (at(i), f.cpu_us(at(i)))).collect()
                });
                Line { colour, dots, curve }
            };
            let lines = self.sides.iter().enumerate().map(line).collect();
            let p = Plot {
                up: "CPU µs a message",
                across: Across::Size,
                log: true,
                lines,
                heights: None,
                size: WIDE,
            };
            let rows = self.r.fits.iter().filter(|f| f.op == op);
            let column = |s: &Side| {
                let of = self.r.by_size(op, *s).into_iter();
                (s.name(), of.map(|(size, f)| (size, f.cpu_us)).collect::<Vec<_>>())
            };
            let columns: Vec<Column> = self.sides.iter().map(column).collect();
            let tables = html! {
                table {
                    thead { tr { th { "fitted" } th { "µs a message" } th { "ns a KiB" } th { "farthest point" } } }
                    tbody { @for f in rows { tr {
                        th { (f.side.name()) }
                        td { (digits(f.us_per_message)) }
                        td { (digits(f.ns_per_byte * 1024.0)) }
                        td { (format!("{:.0} %", f.worst * 100.0)) }
                    } } }
                }
                (table("measured, µs", &self.r.options.sizes, bytes, &columns))
            };
            all.extend(figure(&format!("{}: CPU time of a message", op.name()), &p, &tables)?);
        }
        Ok(grid("two", &self.sides_legend(), &all))
    }

    /// Goodput and messages by the number of lcores.
    fn scaling(&self) -> Drawn {
        let links: Vec<Side> = self.r.sides().into_iter().filter(|s| s.carrier == Carrier::Link).collect();
        let ops: Vec<Op> = self.bulk().collect();
        if links.len() < 2 {
            return Ok(None);
        }
        let sizes = &self.r.options.sizes;
        let (small, large) = (plan::small(sizes), plan::large(sizes));
        let base = self.r.options.base_concurrency;
        let mut all = Vec::new();
        for (size, up, get) in
            [(large, "Gbit/s", (|f| f.gbps) as fn(&Figures) -> Spread), (small, "operations/s", |f| f.per_s)]
        {
            let column = |op: &Op| {
                let case = Case { op: *op, size, concurrency: base };
                let at = |s: &Side| self.r.at(*s, case).map(|f| (s.lcores, get(f)));
                (op.name().to_owned(), links.iter().filter_map(at).collect::<Vec<_>>())
            };
            let columns: Vec<Column> = ops.iter().map(column).collect();
            let line = |(colour, (_, all)): (usize, &Column)| Line {
                colour,
                dots: all.iter().map(|(x, s)| dot(*x, *s)).collect(),
                curve: None,
            };
            let lines = columns.iter().enumerate().map(line).collect();
            let p = Plot { up, across: Across::Lcores, log: false, lines, heights: None, size: WIDE };
            let lcores: Vec<u32> = links.iter().map(|s| s.lcores).collect();
            let rows = table("lcores", &lcores, |n| n.to_string(), &columns);
            all.extend(figure(&format!("{} messages, {base} at a time", bytes(size)), &p, &rows)?);
        }
        let names = ops.iter().map(|op| op.name().to_owned()).enumerate();
        Ok(grid("two", &legend(names), &all))
    }

    /// The figures that are quoted: each of the best link beside kernel sockets; or of the only side.
    fn cards(&self) -> Markup {
        let sizes = &self.r.options.sizes;
        let (small, large) = (plan::small(sizes), plan::large(sizes));
        let few = self.r.options.concurrency.iter().copied().min().unwrap_or(1);
        let first = self.bulk().next();
        let op = first.unwrap_or(Op::Ping);
        let (bulk, one) = match op {
            Op::Ping => (None, Case { op, size: 0, concurrency: few }),
            _ => (
                Some(Case { op, size: large, concurrency: self.r.options.base_concurrency }),
                Case { op, size: small, concurrency: few },
            ),
        };
        type Get = fn(&Figures) -> Spread;
        let cards: [(&str, Option<Case>, Get, bool); 3] = [
            ("Gbit/s", bulk, |f| f.gbps, true),
            ("Gbit a CPU-second", bulk, |f| f.gbit_per_cpu_s, true),
            ("µs, median", Some(one), |f| f.p50_us, false),
        ];
        let best = |case: Case, get: Get, more: bool| {
            let own = self.sides.iter().filter(|s| s.carrier != Carrier::Sockets || self.sides.len() == 1);
            let all = own.filter_map(|s| Some((s, get(self.r.at(*s, case)?).median)));
            all.reduce(|a, b| if (b.1 > a.1) == more { b } else { a })
        };
        let sockets = Side { carrier: Carrier::Sockets, lcores: 0 };
        html! {
            div.cards {
                @for (unit, case, get, more) in cards {
                    @if let Some((case, (side, x))) = case.and_then(|c| Some((c, best(c, get, more)?))) {
                        div.card {
                            div.value { (digits(x)) span { (unit) } }
                            div { (case.name()) ", " (side.name()) }
                            @if let Some(base) = self.r.at(sockets, case).filter(|_| *side != sockets) {
                                div.beside {
                                    "kernel sockets: " (digits(get(base).median)) ", ratio "
                                    b { (digits(x / get(base).median.max(1e-9))) "×" }
                                }
                            }
                        }
                    }
                }
                div.card {
                    @if self.r.nothing_lost {
                        div.value { "0" span { (if self.r.options.peer.is_some() { "failed" } else { "lost" }) } }
                        div { (self.r.checked()) }
                    } @else {
                        div.value.bad { (if self.r.options.peer.is_some() { "FAILED" } else { "LOST" }) }
                        div { (self.r.lost()) }
                    }
                }
            }
        }
    }

    fn machine(&self) -> Markup {
        let (r, m) = (self.r, &self.r.machine);
        let git = r.program.git.as_ref().map_or_else(String::new, |g| format!(", git {g}"));
        let build = if r.program.release { "" } else { ", debug build: its times are no measure" };
        let list = |v: &[u32], f: fn(u32) -> String| v.iter().map(|n| f(*n)).collect::<Vec<_>>().join(", ");
        let o = &r.options;
        let rows = [
            ("pollnd", format!("{}{git}{build}", r.program.version)),
            (
                "CPU",
                format!(
                    "{}, {} of them, {}",
                    m.cpu,
                    many(m.cpus.into(), "CPU"),
                    many(m.numa_nodes.into(), "NUMA node")
                ),
            ),
            ("Kernel", m.kernel.clone()),
            ("DPDK", m.dpdk.clone()),
            ("Memory of the link", m.memory.clone()),
            (
                "Lcores of the link",
                if o.lcores.is_empty() { "not told".into() } else { list(&o.lcores, |n| n.to_string()) },
            ),
            ("Huge pages", m.huge_pages.clone()),
            ("CPU quota", m.quota.clone().unwrap_or_else(|| "none".into())),
            ("Load average", format!("{:.2} before, {:.2} after", r.load[0], r.load[1])),
            ("Peer", o.peer.clone().unwrap_or_else(|| "none: both nodes are in one process".into())),
            ("Sizes", format!("{}; {} at a time", list(&o.sizes, bytes), o.base_concurrency)),
            (
                "At a time",
                format!("{}; {}", list(&o.concurrency, |n| n.to_string()), bytes(plan::small(&o.sizes))),
            ),
            ("Rounds", format!("{} of {} s a case; {:.0} s in all", o.rounds, o.seconds, r.took_s)),
        ];
        html! {
            div.scroll { table.facts { tbody {
                @for (name, value) in rows { tr { th { (name) } td { (value) } } }
                @for l in &r.left_out { tr { th { "Left out" } td { (l.what) ": " (l.why) } } }
            } } }
        }
    }
}

fn against(c: &Comparison) -> Markup {
    let mark = |v: Verdict| match v {
        Verdict::Noise => "noise",
        Verdict::Better => "better",
        Verdict::Worse => "worse",
    };
    let names: Vec<&str> =
        c.rows.first().map_or_else(Vec::new, |r| r.changes.iter().map(|x| x.figure).collect());
    html! {
        section #against {
            h2 { "Against " (c.other) }
            p { b { (c.headline()) } ". Ratios are of medians, this report's to the other's. A figure is better or worse where \
                all rounds of one are on the same side of all rounds of the other; else it is noise." }
            @if !c.warnings.is_empty() {
                ul.warnings { @for w in &c.warnings { li { (w) } } }
            }
            div.scroll { table.against {
                thead { tr { th { "" } th { "case" } @for n in names { th { (n) } } } }
                tbody { @for r in &c.rows { tr {
                    th { (r.side.name()) }
                    th { (r.case.name()) }
                    @for x in &r.changes {
                        td class=(mark(x.verdict)) title=(x.verdict.name()) {
                            (format!("{:.2}×", x.ratio))
                            span.range { (digits(x.now.median)) " / " (digits(x.then.median)) }
                        }
                    }
                } } }
            } }
        }
    }
}

/// Colours by class, and by the values that plots have them as.
fn colours() -> String {
    let hex = |c: plotters::style::RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
    let lines = LINES.iter().enumerate().map(|(i, c)| {
        let c = hex(*c);
        format!(
            ".c{i}{{background:var(--c{i})}}svg [stroke=\"{c}\"]{{stroke:var(--c{i})}}svg [fill=\"{c}\"]{{fill:var(--c{i})}}"
        )
    });
    let others = [(plot::INK, "ink"), (plot::GRID, "grid")].map(|(c, name)| {
        let c = hex(c);
        format!("svg [stroke=\"{c}\"]{{stroke:var(--{name})}}svg [fill=\"{c}\"]{{fill:var(--{name})}}")
    });
    lines.chain(others).collect()
}

/// The page of a report, with a comparison if there is one.
///
/// # Errors
/// None that a caller could mend.
pub fn html(r: &Report, c: Option<&Comparison>) -> Result<String, String> {
    let sides = r.sides().into_iter().filter(|s| !s.is_wide()).collect();
    let page = Page { r, sides, ops: r.ops() };
    let sections = [
        (
            "goodput",
            "Goodput by size",
            "Payload that arrived.",
            page.by_size(("goodput", "Gbit/s"), false, |f| f.gbps)?,
        ),
        (
            "cpu",
            "CPU cost by size",
            "Payload for a second of CPU time; lcores that spin count in full.",
            page.by_size(("for a CPU-second", "Gbit"), false, |f| f.gbit_per_cpu_s)?,
        ),
        (
            "latency",
            "Latency by concurrency",
            "From the begin of an operation to its end, as whoever began it sees it.",
            page.latency()?,
        ),
        (
            "fit",
            "Cost of a message and of a byte",
            "Lines are CPU time = a × messages + b × bytes, fitted by least squares to the measured points, each of which counts alike.",
            page.fits()?,
        ),
        (
            "scaling",
            "Scaling by lcore",
            "Lcores of both nodes together: one that they share, then half of them each node's. With more than two a node has as many \
             peers as lcores, and each of them has so many operations at a time; raw messages stay on the lcore of their peer, \
             lnet_selftest is on one lcore of each node.",
            page.scaling()?,
        ),
    ];
    let sections: Vec<_> =
        sections.into_iter().filter_map(|(id, title, what, body)| Some((id, title, what, body?))).collect();
    let style = format!("{}{}", include_str!("page.css"), colours());
    let m = &r.machine;
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "pollnd: benchmark report" }
                style { (PreEscaped(style)) }
            }
            body {
                header {
                    h1 { "pollnd " span { "benchmark report" } }
                    p { (m.cpu) " · Linux " (m.kernel) " · " (m.dpdk) " · pollnd " (r.program.version) " · " (utc(r.began)) }
                    nav { @for (id, title, ..) in &sections { a href=(format!("#{id}")) { (title) } } a href="#machine" { "Where it ran" } }
                }
                main {
                    (page.cards())
                    p.note { "Dots are medians of " (many(r.options.rounds.into(), "round")) ", bars reach from the lowest to the highest; \
                        tables have the same figures. CPU time is of the whole process" (if r.options.peer.is_some() { ", this side's node alone." } else { ", both nodes together." }) }
                    @if let Some(c) = c { (against(c)) }
                    @for (id, title, what, body) in &sections {
                        section id=(id) { h2 { (title) } p.note { (what) } (body) }
                    }
                    section #machine { h2 { "Where it ran, and what" } (page.machine()) }
                }
            }
        }
    };
    Ok(markup.into_string())
}

/// A time since 1970 as date and time of day.
fn utc(s: u64) -> String {
    let (days, of_day) = (s / 86_400, s % 86_400);
    // The years begin in March, so that the day that leap years have more is their last.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", of_day / 3600, of_day / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::tests::sample;

    #[test]
    fn a_page_has_every_plot_and_nothing_from_elsewhere() {
        let r = sample(1.0);
        let c = Comparison::of(&r, &sample(2.0), "old <one>.json");
        let page = html(&r, Some(&c)).unwrap();
        // By size: 4 and 4; latency: 5 operations on 3 sides; 4 fits; 2 of scaling.
        assert_eq!(page.matches("<svg ").count(), 4 + 4 + 15 + 4 + 2);
        assert_eq!(
            page.matches("<svg ").count(),
            page.matches("<table").count() - 4 - 2,
            "a table beneath each"
        );
        for none in ["http-equiv", "src=", "<script", "<link", "@import", "url("] {
            assert!(!page.contains(none), "{none}");
        }
        let links = page.matches("http").count();
        assert_eq!(links, page.matches("http://www.w3.org/2000/svg").count(), "the name space of SVG alone");
        assert!(page.contains("A &lt;CPU&gt; &amp; more") && page.contains("old &lt;one&gt;.json"));
        assert!(!page.contains("NaN") && !page.contains("inf"), "figures that are none");
    }

    /// Sides of many lcores are in the plots by lcore, and nowhere else.
    #[test]
    fn all_numbers_of_lcores_are_in_one_plot() {
        let mut r = sample(1.0);
        let before = html(&r, None).unwrap();
        let link = |lcores| Side { carrier: Carrier::Link, lcores };
        let plan = plan::Plan { options: r.options.clone(), ops: Op::ALL.to_vec() };
        for lcores in [4, 6] {
            let round = |c: Case| (c, r.points.iter().find(|p| p.case == c).unwrap().rounds[0]);
            let round: Vec<_> = plan.cases_on(link(lcores)).into_iter().map(round).collect();
            r.add(link(lcores), &[round.clone(), round]);
        }
        let page = html(&r, None).unwrap();
        let scaling = |page: &str| page[page.find("<section id=\"scaling\"").unwrap()..].to_owned();
        assert_eq!(page.matches("<svg ").count(), before.matches("<svg ").count());
        let dots = |page: &str| page.matches("data-points=\"16\"").count();
        assert_eq!((dots(&scaling(&page)), dots(&scaling(&before))), (2, 0), "four operations, four numbers");
        assert!(scaling(&page).contains("\n6\n") && scaling(&page).contains("<th>6</th>"));
        let elsewhere = |page: &str| page.matches("virtio link, 4 lcores").count();
        assert_eq!(elsewhere(&page), 0);
    }

    #[test]
    fn a_page_says_what_was_checked() {
        let mut r = sample(1.0);
        assert!(html(&r, None).unwrap().contains("every message once and whole, all memory home"));
        r.options.peer = Some("10.0.0.2@tcp".into());
        let page = html(&r, None).unwrap();
        assert!(page.contains("no operation failed") && page.contains("the peer's end was not looked at"));
        assert!(!page.contains("every message once and whole"), "nobody looked at the far end");
    }

    #[test]
    fn a_report_of_pings_alone_has_a_page() {
        let mut r = sample(1.0);
        r.points.retain(|p| p.case.op == Op::Ping && p.side.carrier == Carrier::Sockets);
        r.fits.clear();
        let page = html(&r, None).unwrap();
        assert_eq!(page.matches("<svg ").count(), 1);
        assert!(
            !page.contains("id=\"fit\"") && !page.contains("id=\"against\""),
            "no section without a plot"
        );
    }

    #[test]
    fn dates_are_the_calendar_s() {
        assert_eq!(
            [0, 951_782_400, 1_796_083_199].map(utc),
            ["1970-01-01 00:00 UTC", "2000-02-29 00:00 UTC", "2026-11-30 23:59 UTC"]
        );
    }
}
