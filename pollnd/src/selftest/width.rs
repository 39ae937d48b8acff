//! Lines that fit a terminal.

use console::Term;

/// Columns that lines are made for at least.
const NARROWEST: usize = 40;
/// Columns where nobody tells them.
const USUAL: usize = 80;
/// Bars, in columns.
const BAR: usize = 24;
/// Bars below it tell nothing.
const BAR_MIN: usize = 4;

/// Columns of a terminal.
pub(super) fn of(term: &Term) -> usize {
    term.size_checked().map_or(USUAL, |(_, columns)| usize::from(columns)).max(NARROWEST)
}

/// The text of those fields, in their order, that fit `width`. Each has a rank: the greatest goes first, and 0 never; what is too
/// wide even so is cut.
pub(super) fn fit(fields: &[(u8, String)], width: usize) -> String {
    let mut kept: Vec<&(u8, String)> = fields.iter().collect();
    loop {
        let columns: usize = kept.iter().map(|f| f.1.chars().count()).sum();
        let least = kept.iter().enumerate().max_by_key(|(_, f)| f.0).filter(|(_, f)| f.0 > 0);
        match least.map(|(at, _)| at) {
            Some(at) if columns > width => drop(kept.remove(at)),
            _ => return kept.iter().flat_map(|f| f.1.chars()).take(width).collect(),
        }
    }
}

/// A bar of `rate` against the greatest one, and a blank, as wide as `room` allows; nothing where that is too little.
pub(super) fn bar(rate: f64, top: f64, room: usize) -> String {
    let width = room.saturating_sub(1).min(BAR);
    if width < BAR_MIN {
        return String::new();
    }
    let full = if top > 0.0 { (rate / top * width as f64).round() as usize } else { 0 }.min(width);
    "█".repeat(full) + &"░".repeat(width - full) + " "
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_goes_first() {
        let fields = [(0, "aaaa".to_owned()), (2, " bb".to_owned()), (1, " c".to_owned())];
        let at = |width| fit(&fields, width);
        assert_eq!([9, 8, 6, 5, 4, 3].map(at), ["aaaa bb c", "aaaa c", "aaaa c", "aaaa", "aaaa", "aaa"]);
        assert_eq!([30, 25, 7, 5, 4].map(|room| bar(1.0, 2.0, room).chars().count()), [25, 25, 7, 5, 0]);
        assert_eq!(bar(1.0, 2.0, 5), "██░░ ");
    }
}
