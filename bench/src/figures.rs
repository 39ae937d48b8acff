//! Figures over the rounds of a bench: a median each, and the range.

use serde::Serialize;

use crate::repeat::median;

/// A figure over the rounds of a bench.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Median of the rounds.
    pub median: f64,
    /// Lowest and highest.
    pub range: [f64; 2],
}

/// Name and unit of a figure, and what it is of a round that has it.
pub type Figure<R> = (&'static str, &'static str, fn(&R) -> Option<f64>);

/// Figures, those that every round has.
pub fn rows<R>(figures: &[Figure<R>], rounds: &[R]) -> Vec<Row> {
    let row = |&(name, unit, of): &Figure<R>| {
        let all: Vec<f64> = rounds.iter().filter_map(of).collect();
        let low = all.iter().copied().fold(f64::INFINITY, f64::min);
        let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (!all.is_empty()).then(|| Row { name, unit, median: median(&all), range: [low, high] })
    };
    figures.iter().filter_map(row).collect()
}
