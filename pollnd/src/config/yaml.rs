//! YAML as configuration files have it: a tree of text with the place of each node.
//!
//! The parser is a crate's; its events are made into a tree here, since a tree of its own would follow every alias and stop at
//! the first fault. Tags are refused. Aliases are copies, and all nodes together are bounded, so that a small file cannot ask for
//! much memory.

use std::collections::BTreeMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use transport::wire::{Brief, without_controls};

/// Nodes of a file, copies for aliases included.
const NODES_MAX: usize = 1 << 16;
/// Depth of nesting.
const DEPTH_MAX: usize = 32;
/// Faults that are told of a file.
pub(crate) const FAULTS_MAX: usize = 100;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The line, from 1.
    pub(crate) line: usize,
    /// The character in it, from 1.
    pub(crate) col: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.col)
    }
}

/// A fault of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// Its place.
    pub(crate) at: Place,
    /// The key or value, the fault, and what is allowed.
    pub(crate) text: String,
}

impl Fault {
    /// One at `at`; what is said may be a file's own words, so that control characters are escaped.
    pub(crate) fn new(at: Place, text: impl Into<String>) -> Fault {
        Fault { at, text: without_controls(&text.into()) }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its beginning.
    pub(crate) at: Place,
    /// Its contents.
    pub(crate) kind: Kind,
}

/// Contents of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Text, in whatever style.
    Text(String),
    /// Nothing: a key without a value.
    Nothing,
    /// A list.
    List(Vec<Node>),
    /// Keys and their values, each key once.
    Map(Vec<(Key, Node)>),
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Its beginning.
    pub(crate) at: Place,
    /// Its text.
    pub(crate) text: String,
}

impl Node {
    /// Whether it is a mapping with this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        matches!(&self.kind, Kind::Map(all) if all.iter().any(|(k, _)| k.text == key))
    }

    /// Nodes in it, itself included.
    fn size(&self) -> usize {
        1 + match &self.kind {
            Kind::Text(_) | Kind::Nothing => 0,
            Kind::List(all) => all.iter().map(Node::size).sum(),
            Kind::Map(all) => all.iter().map(|(_, n)| 1 + n.size()).sum::<usize>(),
        }
    }

    /// Levels in it.
    fn depth(&self) -> usize {
        1 + match &self.kind {
            Kind::Text(_) | Kind::Nothing => 0,
            Kind::List(all) => all.iter().map(Node::depth).max().unwrap_or(0),
            Kind::Map(all) => all.iter().map(|(_, n)| n.depth()).max().unwrap_or(0),
        }
    }

    /// Its kind in words.
    pub(crate) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Text(_) => "a value",
            Kind::Nothing => "nothing",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

/// A list or mapping that has not ended.
struct Open {
    at: Place,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    /// The key that waits for its value; `None` for one that is no key.
    Map(Vec<(Key, Node)>, Option<Option<Key>>, BTreeMap<String, Place>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    faults: Vec<Fault>,
}

fn place(s: Span) -> Place {
    Place { line: s.start.line(), col: s.start.col() + 1 }
}

impl Builder {
    fn fault(&mut self, at: Place, text: impl Into<String>) {
        self.faults.push(Fault::new(at, text));
    }

    /// Takes so many nodes; `false` when there are too many.
    fn take(&mut self, at: Place, nodes: usize) -> bool {
        self.nodes = self.nodes.saturating_add(nodes);
        let fits = self.nodes <= NODES_MAX;
        if !fits {
            self.fault(
                at,
                format!(
                    "the file has more than {NODES_MAX} keys and values, aliases written out: leave some out"
                ),
            );
        }
        fits
    }

    /// Puts a node where it belongs; `false` when there are too many.
    fn put(&mut self, node: Node, anchor: usize) -> bool {
        if anchor > 0 {
            if !self.take(node.at, node.size()) {
                return false;
            }
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return true;
        };
        let fault = match &mut open.kind {
            OpenKind::List(all) => {
                all.push(node);
                None
            }
            OpenKind::Map(all, waits, seen) => match waits.take() {
                Some(key) => {
                    all.extend(key.map(|k| (k, node)));
                    None
                }
                None => {
                    let (key, fault) = match node.kind {
                        Kind::Text(text) => match seen.get(&text) {
                            Some(first) => {
                                let line = first.line;
                                let text = format!(
                                    "{:?} stands here a second time, first in line {line}: leave one out",
                                    Brief(&text)
                                );
                                (None, Some((node.at, text)))
                            }
                            None => {
                                seen.insert(text.clone(), node.at);
                                (Some(Key { at: node.at, text }), None)
                            }
                        },
                        _ => (None, Some((node.at, format!("{} where a key should be", node.what())))),
                    };
                    *waits = Some(key);
                    fault
                }
            },
        };
        if let Some((at, text)) = fault {
            self.fault(at, text);
        }
        true
    }

    fn begin(&mut self, at: Place, anchor: usize, kind: OpenKind) -> bool {
        if self.open.len() >= DEPTH_MAX {
            self.fault(at, format!("more than {DEPTH_MAX} lists and mappings within each other"));
            return false;
        }
        self.open.push(Open { at, anchor, kind });
        self.take(at, 1)
    }

    fn end(&mut self) -> bool {
        let Some(open) = self.open.pop() else { return false };
        let kind = match open.kind {
            OpenKind::List(all) => Kind::List(all),
            OpenKind::Map(all, ..) => Kind::Map(all),
        };
        self.put(Node { at: open.at, kind }, open.anchor)
    }

    /// Takes an event; `false` where the rest is of no use.
    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        let at = place(span);
        let tag = match &event {
            Event::Scalar(_, _, _, tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => {
                tag.as_deref()
            }
            _ => None,
        };
        if let Some(tag) = tag {
            self.fault(
                at,
                format!(
                    "the tag {}: values have no tags here, leave it out",
                    Brief(&format!("{}{}", tag.handle, tag.suffix))
                ),
            );
        }
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.fault(at, "a second document begins (---): a file is one document");
                    return false;
                }
                true
            }
            Event::Scalar(text, style, anchor, _) => {
                let nothing =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let kind = if nothing { Kind::Nothing } else { Kind::Text(text.into_owned()) };
                self.take(at, 1) && self.put(Node { at, kind }, anchor)
            }
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                None => {
                    self.fault(at, "an alias within what it stands for has no end: write it out");
                    false
                }
                Some(mut node) => {
                    if self.open.len() + node.depth() > DEPTH_MAX {
                        self.fault(at, format!("more than {DEPTH_MAX} lists and mappings within each other"));
                        return false;
                    }
                    node.at = at;
                    self.take(at, node.size()) && self.put(node, 0)
                }
            },
            Event::SequenceStart(anchor, _) => self.begin(at, anchor, OpenKind::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.begin(at, anchor, OpenKind::Map(Vec::new(), None, BTreeMap::new()))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => true,
        }
    }
}

/// Characters that no parser is shown: YAML forbids them, and takes some for the file's end.
fn characters(text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (n, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let at = |col: usize| Place { line: n + 1, col: col + 1 };
        let indent = line.len() - line.trim_start().len();
        if let Some(col) = line[..indent].find('\t').filter(|_| indent < line.len()) {
            faults.push(Fault::new(at(col), "a tab: YAML indents with spaces alone"));
        }
        let odd = |c: char| c.is_control() && c != '\t' || matches!(c, '\u{feff}' | '\u{fffe}' | '\u{ffff}');
        let bom = usize::from(n == 0 && line.starts_with('\u{feff}'));
        if let Some((col, c)) = line.chars().enumerate().skip(bom).find(|(_, c)| odd(*c)) {
            faults.push(Fault::new(at(col), format!("the character {:?} has no place in YAML", c)));
        }
    }
    faults
}

/// The tree of a file's text; `None` for one that says nothing.
///
/// # Errors
/// All faults that are found, in their order.
pub(crate) fn tree(text: &str) -> Result<Option<Node>, Vec<Fault>> {
    let mut b = Builder { faults: characters(text), ..Builder::default() };
    if b.faults.is_empty() {
        let mut parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        while let Some(next) = parser.next_event() {
            let (event, span) = match next {
                Ok(e) => e,
                Err(e) => {
                    let at = Place { line: e.marker().line(), col: e.marker().col() + 1 };
                    b.fault(at, format!("no YAML: {}", e.info()));
                    break;
                }
            };
            if !b.event(event, span) || b.faults.len() >= FAULTS_MAX {
                break;
            }
        }
    }
    b.faults.truncate(FAULTS_MAX);
    if b.faults.is_empty() { Ok(b.root.filter(|r| r.kind != Kind::Nothing)) } else { Err(b.faults) }
}

/// Text that reads as `s`: plain where that is plain enough.
pub(crate) fn quoted(s: &str) -> String {
    let number = s.strip_prefix('-').unwrap_or(s);
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./@:,=+-".contains(c);
    let word = s.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !s.ends_with(':')
        && s.chars().all(plain);
    if digits || word && !matches!(s.to_ascii_lowercase().as_str(), "null") {
        return s.to_owned();
    }
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out += &format!("\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        let f = tree(text).unwrap_err();
        f.iter().map(|f| format!("{}: {}\n", f.at, f.text)).collect()
    }

    #[test]
    fn all_faults_of_the_syntax_that_can_be_found_are() {
        insta::assert_snapshot!(faults("a: 1\nb: !!int 2\na: 3\n? [x]\n: 4\nc: !own {d: 5}\n"), @r#"
        2:4: the tag tag:yaml.org,2002:int: values have no tags here, leave it out
        3:1: "a" stands here a second time, first in line 1: leave one out
        4:3: a list where a key should be
        6:4: the tag !own: values have no tags here, leave it out
        "#);
        insta::assert_snapshot!(faults("a:\n\tb: 1\n  \tc: 2\nd: \u{1}\n"), @r"
        2:1: a tab: YAML indents with spaces alone
        3:3: a tab: YAML indents with spaces alone
        4:4: the character '\u{1}' has no place in YAML
        ");
        assert!(
            faults("a: 1\n---\nb: 2\n").starts_with("2:1: a second document"),
            "{}",
            faults("a: 1\n---\nb: 2\n")
        );
        assert!(faults("a: [1\nb: 2\n").contains("no YAML"));
        assert!(faults("a: 1\0\nb: 2").starts_with("1:5: the character '\\0'"));
        assert!(faults("a: &x [*x]").contains("has no end"));
        for nothing in ["", "\n\n", "# only this\n", "---\n", "~\n", "\u{feff}"] {
            assert_eq!(tree(nothing), Ok(None), "{nothing:?}");
        }
    }

    /// A few hundred bytes that stand for 10^9 values, and deep ones, cost no more than the bound.
    #[test]
    fn aliases_are_bounded_however_they_multiply() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..10 {
            let list = vec![format!("*a{}", n - 1); 10].join(", ");
            laughs += &format!("a{n}: &a{n} [{list}]\n");
        }
        assert!(faults(&laughs).contains("more than 65536 keys and values"));
        let mut chain = String::from("a0: &a0 [x]\n");
        for n in 1..40 {
            chain += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
        }
        assert!(faults(&chain).contains("more than 32 lists"));
        for open in ["[", "{a: ", "- "] {
            assert!(tree(&open.repeat(100_000)).is_err());
        }
        let few = tree("a: &x {b: 1}\nc: *x\n").unwrap().unwrap();
        let Kind::Map(all) = &few.kind else { panic!("{few:?}") };
        assert_eq!(all[0].1.kind, all[1].1.kind);
        assert_eq!(all[1].1.at, Place { line: 2, col: 4 });
    }

    #[test]
    fn what_is_quoted_reads_as_it_was() {
        for s in [
            "1",
            "-1",
            "eth0",
            "fd00::1@tcp",
            "",
            "null",
            "a: b",
            "#x",
            "a\"b\\c",
            "\u{7}",
            "[0]",
            "-",
            "x:",
            "true",
            "ä",
            "N C[0]",
        ] {
            let t = tree(&format!("k: {}\n", quoted(s))).unwrap().unwrap();
            let Kind::Map(all) = t.kind else { panic!() };
            assert_eq!(all[0].1.kind, Kind::Text(s.into()), "{}", quoted(s));
        }
        assert_eq!(quoted("192.168.80.12@tcp"), "192.168.80.12@tcp");
    }
}
