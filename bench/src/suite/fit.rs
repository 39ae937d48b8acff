//! Cost of a message and of a byte: CPU time = a x messages + b x bytes, by least squares.

use serde::{Deserialize, Serialize};

use super::{Op, Point, Side};

/// The costs on one side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// The side.
    pub side: Side,
    /// The operation.
    pub op: Op,
    /// CPU time of a message, in us.
    pub us_per_message: f64,
    /// CPU time of a byte, in ns.
    pub ns_per_byte: f64,
    /// The largest difference between a point and the line, as a share of the point.
    pub worst: f64,
}

impl Fit {
    /// CPU time of a message of so many bytes, in us.
    pub fn cpu_us(&self, size: f64) -> f64 {
        self.us_per_message + self.ns_per_byte * 1e-3 * size
    }
}

/// The line through points of a size in bytes and the CPU time of a message in us. Each point counts alike, as if all
/// had run for a second of CPU time: a difference counts as a share. No cost is negative.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let points: Vec<_> = points.iter().copied().filter(|(_, us)| *us > 0.0).collect();
    if points.len() < 2 {
        return None;
    }
    // Of a second of CPU time: m messages, n bytes; a m + b n = 1.
    let sum = |f: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, us)| f(1.0 / us, x / us)).sum::<f64>();
    let (mm, mn, nn) = (sum(&|m, _| m * m), sum(&|m, n| m * n), sum(&|_, n| n * n));
    let (m1, n1) = (sum(&|m, _| m), sum(&|_, n| n));
    let det = mm * nn - mn * mn;
    if nn <= 0.0 || det <= mm * nn * 1e-12 {
        return None;
    }
    let (a, b) = ((m1 * nn - n1 * mn) / det, (n1 * mm - m1 * mn) / det);
    let (a, b) = if a < 0.0 {
        (0.0, n1 / nn)
    } else if b < 0.0 {
        (m1 / mm, 0.0)
    } else {
        (a, b)
    };
    let worst = points.iter().map(|(x, us)| ((a + b * x) / us - 1.0).abs()).fold(0.0, f64::max);
    Some((a, b, worst))
}

/// The fits of all sides and operations that were measured with several sizes, `base` operations at a time. Points with
/// fewer would be of nodes that wait; sides that have the smallest and the largest size alone would fit every line.
pub(super) fn all(points: &[Point], base: u32) -> Vec<Fit> {
    let mut fits = Vec::new();
    for p in points.iter().filter(|p| p.case.op.is_bulk() && !p.side.is_wide()) {
        let (side, op) = (p.side, p.case.op);
        if fits.iter().any(|f: &Fit| f.side == side && f.op == op) {
            continue;
        }
        let of = points.iter().filter(|q| q.side == side && q.case.op == op && q.case.concurrency == base);
        let xy: Vec<_> = of.map(|q| (f64::from(q.case.size), q.figures.cpu_us.median)).collect();
        if let Some((us_per_message, b, worst)) = line(&xy) {
            fits.push(Fit { side, op, us_per_message, ns_per_byte: b * 1e3, worst });
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::tests::sample;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6 * b.abs().max(1e-6)
    }

    #[test]
    fn a_line_is_found_again() {
        let sizes = [64.0, 1024.0, 65_536.0, 1_048_576.0];
        let (a, b, worst) = line(&sizes.map(|x| (x, 2.0 + 1e-4 * x))).unwrap();
        assert!(near(a, 2.0) && near(b, 1e-4) && worst < 1e-9, "{a} {b} {worst}");
        // A difference counts as a share of its point, so the large ones do not decide alone.
        let (a, b, worst) =
            line(&[(64.0, 1.0), (1024.0, 1.1), (65_536.0, 7.0), (1_048_576.0, 110.0)]).unwrap();
        assert!((0.8..1.2).contains(&a) && (0.9e-4..1.1e-4).contains(&b) && worst < 0.15, "{a} {b} {worst}");
    }

    #[test]
    fn no_cost_is_negative_and_none_is_made_up() {
        // Bytes that cost less the more there are: messages alone are charged.
        let (a, b, _) = line(&[(64.0, 5.0), (4096.0, 4.0), (65_536.0, 3.0)]).unwrap();
        assert!(a > 0.0 && b == 0.0, "{a} {b}");
        let (a, b, _) = line(&[(1000.0, 1.0), (2000.0, 4.0)]).unwrap();
        assert!(a == 0.0 && b > 0.0, "{a} {b}");
        assert_eq!(line(&[(64.0, 1.0)]), None);
        assert_eq!(line(&[(64.0, 1.0), (64.0, 1.1)]), None);
        assert_eq!(line(&[(64.0, 0.0), (4096.0, 0.0)]), None);
    }

    #[test]
    fn each_side_and_operation_with_payload_has_one() {
        let r = sample(3.0);
        assert_eq!(r.fits.len(), 3 * 4);
        for f in &r.fits {
            assert!((5.9..6.1).contains(&f.us_per_message) && (0.29..0.31).contains(&f.ns_per_byte), "{f:?}");
            assert!(near(f.cpu_us(0.0), f.us_per_message));
        }
    }
}
