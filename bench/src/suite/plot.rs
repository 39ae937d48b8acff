//! Plots as SVG, in colours that the page changes where it is dark.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Ink of axes and text; the page's style knows it by this value.
pub(super) const INK: RGBColor = RGBColor(0x4a, 0x55, 0x65);
/// Lines of the grid.
pub(super) const GRID: RGBColor = RGBColor(0xe3, 0xe7, 0xec);
/// Lines of a plot, told apart also by those who see few colours; the page's legends and dark mode know them by their values.
pub(super) const LINES: [RGBColor; 4] = [
    RGBColor(0x0b, 0x6b, 0xcb),
    RGBColor(0x0a, 0x8f, 0x7a),
    RGBColor(0xd9, 0x62, 0x0d),
    RGBColor(0x8a, 0x3f, 0xc4),
];

/// Pixels of a plot, which the page scales: two in a row, or three.
pub(super) const WIDE: (u32, u32) = (520, 320);
/// As [`WIDE`].
pub(super) const NARROW: (u32, u32) = (400, 290);

/// The horizontal axis: powers of two, but for lcores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Across {
    /// Bytes.
    Size,
    /// Operations at a time.
    Count,
    /// Lcores, evenly spaced.
    Lcores,
}

impl Across {
    /// The place of a value on the axis.
    fn at(self, x: f64) -> f64 {
        match self {
            Across::Lcores => x,
            Across::Size | Across::Count => x.max(1.0).log2(),
        }
    }
}

/// One point: where it is, its height, and lowest and highest of it.
pub(super) type Dot = (f64, f64, [f64; 2]);

/// One line.
pub(super) struct Line {
    /// The index of its colour.
    pub(super) colour: usize,
    /// The measured value.
    pub(super) dots: Vec<Dot>,
    /// A curve in place of straight lines between the dots.
    pub(super) curve: Option<Vec<(f64, f64)>>,
}

/// One plot.
pub(super) struct Plot<'a> {
    /// The vertical axis' name.
    pub(super) up: &'a str,
    /// The horizontal one's.
    pub(super) across: Across,
    /// Whether heights are told by their logarithm.
    pub(super) log: bool,
    /// The lines.
    pub(super) lines: Vec<Line>,
    /// Heights that it has at least, so that plots beside each other have the same.
    pub(super) heights: Option<[f64; 2]>,
    /// Pixels.
    pub(super) size: (u32, u32),
}

/// Lowest and highest of what lines show.
pub(super) fn heights<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Option<[f64; 2]> {
    let all = lines.into_iter().flat_map(|l| {
        let curve = l.curve.iter().flatten().map(|(_, y)| [*y, *y]);
        l.dots.iter().map(|(_, y, [a, b])| [y.min(*a), y.max(*b)]).chain(curve)
    });
    all.reduce(|[l, h], [a, b]| [l.min(a), h.max(b)])
}

/// A figure on an axis.
fn tick(y: f64) -> String {
    match y {
        0.0 => "0".into(),
        y if y >= 1e6 => format!("{}M", trimmed(y / 1e6)),
        y if y >= 1e4 => format!("{}k", trimmed(y / 1e3)),
        y => trimmed(y),
    }
}

fn trimmed(y: f64) -> String {
    let places = if y >= 100.0 {
        0
    } else if y >= 1.0 {
        1
    } else {
        3
    };
    let s = format!("{y:.places$}");
    if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_owned() } else { s }
}

/// The value at a place of the axis.
fn value(across: Across, x: f64) -> String {
    let n = if across == Across::Lcores { x } else { 2f64.powf(x) }.round() as u32;
    match across {
        Across::Count | Across::Lcores => n.to_string(),
        Across::Size if n >= 1 << 20 => format!("{}M", n >> 20),
        Across::Size if n >= 1 << 10 => format!("{}k", n >> 10),
        Across::Size => n.to_string(),
    }
}

/// Steps of a linear axis: at most six, each 1, 2 or 5 times a power of ten.
fn linear(high: f64) -> Vec<f64> {
    let rough = (high / 5.0).max(1e-12);
    let ten = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|n| n * ten).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(ten);
    (0..=6).map(|i| f64::from(i) * step).filter(|y| *y <= high * 1.0001).collect()
}

/// Steps of a logarithmic axis: powers of ten, with 2 and 5 between few.
fn logarithmic([low, high]: [f64; 2]) -> Vec<f64> {
    let tens = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let decades = (high / low).log10();
    let between: &[f64] = if decades <= 2.2 {
        &[1.0, 2.0, 5.0]
    } else if decades <= 3.5 {
        &[1.0, 3.0]
    } else {
        &[1.0]
    };
    let all = tens.flat_map(|t| between.iter().map(move |n| n * 10f64.powi(t)));
    all.filter(|y| (low..=high).contains(y)).collect()
}

/// Draws it.
///
/// # Errors
/// None that a caller could mend.
pub(super) fn svg(p: &Plot<'_>, title: &str) -> Result<String, String> {
    let mut out = String::new();
    draw(p, &mut out).map_err(|e| format!("the plot {title:?}: {e}"))?;
    let attributes = format!("<svg role=\"img\" aria-label=\"{}\" ", title.replace(['"', '<', '>', '&'], ""));
    Ok(out.replacen("<svg ", &attributes, 1))
}

fn draw(p: &Plot<'_>, out: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let xs = || p.lines.iter().flat_map(|l| l.dots.iter().map(|d| p.across.at(d.0)));
    let (left, right) = xs().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, r), x| (l.min(x), r.max(x)));
    let Some([mut low, mut high]) = p.heights.or_else(|| heights(&p.lines)) else { return Ok(()) };
    // Heights are drawn as they are, or as logarithms.
    let steps = if p.log {
        low = low.max(high * 1e-7).max(1e-9) / 1.25;
        high = high.max(low * 2.0) * 1.25;
        logarithmic([low, high])
    } else {
        low = 0.0;
        high = (high * 1.08).max(1e-9);
        linear(high)
    };
    let y = |y: f64| if p.log { y.max(low).log10() } else { y };
    let root = SVGBackend::with_string(out, p.size).into_drawing_area();
    let pad = 0.03 * (right - left).max(1.0);
    let (left, right) = (left - pad, right + pad);
    let mut chart = ChartBuilder::on(&root)
        .margin_top(12)
        .margin_right(14)
        .margin_bottom(4)
        .margin_left(4)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(left..right, y(low)..y(high))?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(0)
        .y_labels(0)
        .axis_style(INK)
        .axis_desc_style(("sans-serif", 14).into_font().color(&INK))
        .x_desc(match p.across {
            Across::Size => "bytes",
            Across::Count => "at a time",
            Across::Lcores => "lcores",
        })
        .y_desc(p.up)
        .draw()?;
    // The plot's own steps: the crate knows neither powers of two nor sizes.
    let mut xs: Vec<f64> = xs().collect();
    xs.sort_by(f64::total_cmp);
    xs.dedup();
    for step in &steps {
        chart.draw_series(LineSeries::new([(left, y(*step)), (right, y(*step))], GRID))?;
    }
    let plane = chart.plotting_area();
    let area = plane.get_pixel_range();
    let text = |h, v| ("sans-serif", 13).into_font().color(&INK).pos(Pos::new(h, v));
    for step in steps {
        let at = plane.map_coordinate(&(left, y(step)));
        let style = text(HPos::Right, VPos::Center);
        root.draw(&Text::new(tick(step), (area.0.start - 7, at.1), style))?;
    }
    for x in xs {
        let at = plane.map_coordinate(&(x, y(low)));
        let mark = PathElement::new([(at.0, area.1.end), (at.0, area.1.end + 4)], INK);
        root.draw(&mark)?;
        let style = text(HPos::Center, VPos::Top);
        root.draw(&Text::new(value(p.across, x), (at.0, area.1.end + 7), style))?;
    }
    for line in &p.lines {
        let colour = LINES[line.colour % LINES.len()];
        let x = |x: f64| p.across.at(x);
        let path: Vec<_> = match &line.curve {
            Some(curve) => curve.iter().map(|(at, h)| (x(*at), y(*h))).collect(),
            None => line.dots.iter().map(|(at, h, _)| (x(*at), y(*h))).collect(),
        };
        chart.draw_series(LineSeries::new(path, colour.stroke_width(2)))?;
        chart.draw_series(line.dots.iter().map(|(at, h, [l, t])| {
            ErrorBar::new_vertical(x(*at), y(*l), y(*h), y(*t), colour.stroke_width(1), 7)
        }))?;
        chart.draw_series(
            line.dots.iter().map(|(at, h, _)| Circle::new((x(*at), y(*h)), 3, colour.filled())),
        )?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_in_range() {
        assert_eq!(linear(23.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(linear(0.9), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8]);
        assert_eq!(logarithmic([3.0, 70.0]), [5.0, 10.0, 20.0, 50.0]);
        assert_eq!(logarithmic([0.5, 2e5]), [1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
        assert_eq!(
            [0.0, 0.25, 5.0, 120.0, 20_000.0, 2.5e6].map(tick),
            ["0", "0.25", "5", "120", "20k", "2.5M"]
        );
        assert_eq!(
            [(Across::Size, 6.0), (Across::Size, 12.0), (Across::Count, 6.0), (Across::Lcores, 6.0)]
                .map(|(a, x)| value(a, x)),
            ["64", "4k", "64", "6"]
        );
    }

    #[test]
    fn every_dot_and_bar_is_drawn() {
        let dots = vec![(64.0, 1.0, [0.9, 1.1]), (4096.0, 10.0, [9.0, 12.0])];
        for log in [false, true] {
            let lines = vec![
                Line { colour: 0, dots: dots.clone(), curve: None },
                Line {
                    colour: 1,
                    dots: dots.clone(),
                    curve: Some(vec![(64.0, 1.0), (512.0, 2.0), (4096.0, 9.0)]),
                },
            ];
            let p = Plot { up: "Gbit/s", across: Across::Size, log, lines, heights: None, size: WIDE };
            let s = svg(&p, "a <plot> of \"it\"").unwrap();
            assert_eq!(s.matches("<circle").count(), 2 * (2 + 2), "dots, and the middle of bars: {s}");
            assert!(s.contains(r##"stroke="#0B6BCB""##) && s.contains("aria-label=\"a plot of it\""), "{s}");
            assert!(s.contains("\n4k\n") && s.contains("\nGbit/s\n"), "{s}");
        }
    }

    #[test]
    fn heights_have_the_bars_and_curves_in_them() {
        let l = |dots, curve| Line { colour: 0, dots, curve };
        assert_eq!(heights(&[l(vec![], None)]), None);
        let lines = [l(vec![(1.0, 5.0, [4.0, 6.0])], None), l(vec![], Some(vec![(1.0, 9.0)]))];
        assert_eq!(heights(&lines), Some([4.0, 9.0]));
    }
}
