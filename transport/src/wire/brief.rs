//! Texts of others in errors: what a file, a command line or a peer says may be shown at a terminal, and be of any length.

use std::fmt::{self, Display, Formatter, Write};

/// Most characters of a text that an error shows.
const MOST: usize = 80;

/// A text as errors show it: control characters, and others that do not print, are escaped (`\u{1b}`), and what is longer than 80
/// characters ends with `…`. Debug puts quotes around it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Brief<'a>(pub &'a str);

impl Brief<'_> {
    fn write(self, f: &mut Formatter<'_>, is_plain: impl Fn(char) -> bool) -> fmt::Result {
        let mut all = self.0.chars();
        for c in all.by_ref().take(MOST) {
            if is_plain(c) { f.write_char(c)? } else { Display::fmt(&c.escape_debug(), f)? }
        }
        if all.next().is_some() { f.write_char('…') } else { Ok(()) }
    }
}

impl Display for Brief<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, |c| matches!(c, '"' | '\'' | '\\'))
    }
}

impl fmt::Debug for Brief<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        self.write(f, |c| c == '\'')?;
        f.write_char('"')
    }
}

/// The text with its control characters escaped, whole.
pub fn without_controls(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_print_is_escaped_and_what_is_long_is_cut() {
        let strange = "a\u{1b}[2J\n\"'\\é\u{202e}\u{9b}";
        assert_eq!(Brief(strange).to_string(), r#"a\u{1b}[2J\n"'\é\u{202e}\u{9b}"#);
        assert_eq!(format!("{:?}", Brief(strange)), r#""a\u{1b}[2J\n\"'\\é\u{202e}\u{9b}""#);
        assert_eq!(without_controls("a\u{1b}\u{7f}é"), r"a\u{1b}\u{7f}é");
        for (n, len) in [(0, 0), (80, 80), (81, 81), (900_000, 81)] {
            let text = Brief(&"é".repeat(n)).to_string();
            assert_eq!((text.chars().count(), text.ends_with('…')), (len, n > 80));
        }
        // Of escapes each counts as the one character that it is.
        assert_eq!(Brief(&"\0".repeat(100)).to_string(), format!("{}…", r"\0".repeat(80)));
    }
}
