//! The language of `cpu_pattern`: Lustre's, with what its release 2.17 has added to it (`C[0]`, `X[0]`).

use super::CptError;

/// Highest CPU or node number accepted in a pattern; the kernel's own limit is 8,192 CPUs.
const NUMBER_MAX: usize = 65_535;

/// Numbers between brackets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum List {
    /// `*`: all that there are.
    All,
    /// Those.
    These(Vec<usize>),
}

/// A pattern, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// A partition for each NUMA node.
    Each,
    /// The same without the CPUs of these numbers.
    Without(Vec<usize>),
    /// The same without the CPUs at these places of each partition.
    WithoutPlaces(Vec<usize>),
    /// CPUs, partition by partition, in order.
    Cpus(Vec<List>),
    /// NUMA nodes, partition by partition, in order.
    Nodes(Vec<List>),
}

struct Cursor<'a> {
    pattern: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> Option<u8> {
        self.pattern.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn take(&mut self, c: u8) -> bool {
        let found = self.peek() == Some(c);
        self.at += usize::from(found);
        found
    }

    /// The letter in either case.
    fn letter(&mut self, c: u8) -> bool {
        self.take(c) || self.take(c.to_ascii_lowercase())
    }

    fn err<T>(&self, what: &'static str) -> Result<T, CptError> {
        Err(CptError::Syntax { pattern: self.pattern.to_owned(), what, column: self.at + 1 })
    }

    fn number(&mut self) -> Result<usize, CptError> {
        let mut n = 0usize;
        let start = self.at;
        while let Some(d) = self.peek().filter(u8::is_ascii_digit) {
            n = n * 10 + usize::from(d - b'0');
            if n > NUMBER_MAX {
                return self.err("a number over 65535");
            }
            self.at += 1;
        }
        if self.at == start { self.err("no number") } else { Ok(n) }
    }

    /// Text between brackets: numbers, ranges, ranges with a stride; or all.
    fn list(&mut self) -> Result<List, CptError> {
        let mut v = Vec::new();
        self.blanks();
        if self.take(b'*') {
            self.blanks();
            return if self.take(b']') { Ok(List::All) } else { self.err("no ] behind *") };
        }
        loop {
            self.blanks();
            let low = self.number()?;
            let high = if self.take(b'-') { self.number()? } else { low };
            if high < low {
                return self.err("a range that ends before it starts");
            }
            let stride = if self.take(b'/') { self.number()? } else { 1 };
            if stride == 0 {
                return self.err("a stride of 0");
            }
            v.extend((low..=high).step_by(stride));
            if v.len() > NUMBER_MAX + 1 {
                return self.err("a list of more than 65536 numbers");
            }
            self.blanks();
            if self.take(b']') {
                return Ok(List::These(v));
            }
            if !self.take(b',') {
                return self.err("neither , nor ]");
            }
        }
    }

    /// Exclusions, up to the end.
    fn without(&mut self) -> Result<Vec<usize>, CptError> {
        let mut all = Vec::new();
        loop {
            self.blanks();
            if self.peek().is_none() && !all.is_empty() {
                return Ok(all);
            }
            if !self.take(b'[') {
                return self.err("no [ with what is left out");
            }
            match self.list()? {
                List::These(v) => all.extend(v),
                List::All => return self.err("all CPUs left out"),
            }
        }
    }

    /// Numbered partitions, up to the end.
    fn groups(&mut self) -> Result<Vec<List>, CptError> {
        let mut groups: Vec<(usize, List)> = Vec::new();
        loop {
            self.blanks();
            if self.peek().is_none() {
                break;
            }
            let number = self.number()?;
            self.blanks();
            if !self.take(b'[') {
                return self.err("no [ behind a partition's number");
            }
            groups.push((number, self.list()?));
        }
        let last = groups.len().saturating_sub(1);
        let mut ordered: Vec<Option<List>> = groups.iter().map(|_| None).collect();
        for (number, list) in groups {
            let bad = |what| CptError::Numbering { pattern: self.pattern.to_owned(), number, what, last };
            let slot = ordered.get_mut(number).ok_or_else(|| bad("out of range"))?;
            if slot.is_some() {
                return Err(bad("there twice"));
            }
            *slot = Some(list);
        }
        Ok(ordered.into_iter().flatten().collect())
    }
}

/// Reads a pattern.
///
/// # Errors
/// [`CptError::Syntax`], [`CptError::Numbering`].
pub(super) fn parse(pattern: &str) -> Result<Pattern, CptError> {
    let mut c = Cursor { pattern, at: 0 };
    c.blanks();
    let nodes = c.letter(b'N');
    c.blanks();
    if c.letter(b'X') {
        return c.without().map(Pattern::Without);
    }
    if c.letter(b'C') {
        return c.without().map(Pattern::WithoutPlaces);
    }
    let groups = c.groups()?;
    Ok(match (groups.is_empty(), nodes) {
        (true, _) => Pattern::Each,
        (false, true) => Pattern::Nodes(groups),
        (false, false) => Pattern::Cpus(groups),
    })
}
