//! lnetctl's layouts of YAML. It has three: what comes over netlink, what is older, and answers of peers.
//!
//! ```text
//!   net:                                   statistics:                  ping:
//!   -     net type: tcp                        errors: 0                - primary nid: 10.0.0.1@tcp
//!         local NI(s):                     routing:                       peer_ni:
//!         -     nid: 10.0.0.1@tcp              - cpt[0]:                  - nid: 10.0.0.1@tcp
//!               interfaces:                          tiny:
//!                     0: eth0                            npages: 0
//! ```

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::yaml::quoted;

/// A layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Columns from a mapping to one in it.
    indent: usize,
    /// Columns from a mapping to the dash of a list in it.
    dash: usize,
    /// Columns from a dash to what it is before.
    item: usize,
}

/// Tables that kernels tell over netlink: nets, peers, routes.
pub(crate) const NETLINK: Layout = Layout { indent: 6, dash: 0, item: 6 };
/// Older ones: statistics, global settings, router buffers.
pub(crate) const OLD: Layout = Layout { indent: 4, dash: 4, item: 2 };
/// Answers of peers.
pub(crate) const ANSWER: Layout = Layout { indent: 2, dash: 0, item: 2 };

/// Values, keys in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// A key without a value.
    Nothing,
    /// A number, a word or a text.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// A mapping.
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The values of `v`, by its keys and in its order.
    pub(crate) fn of(v: &impl Serialize) -> Result<Tree, String> {
        let text = serde_json::to_string(v).map_err(|e| e.to_string())?;
        serde_json::from_str(&text).map_err(|e| e.to_string())
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree::Text(v.to_string()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree::Text(v.to_string()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree::Text(v.to_string()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree::Text(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(v) = all.next_element()? {
            list.push(v);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = all.next_entry()? {
            map.push(entry);
        }
        Ok(Tree::Map(map))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Tree, D::Error> {
        d.deserialize_any(Reader)
    }
}

impl Layout {
    /// The text of `v`, which is a mapping.
    ///
    /// # Errors
    /// Values that are no YAML.
    pub(crate) fn text(self, v: &impl Serialize) -> Result<String, String> {
        let mut out = String::new();
        self.block(&Tree::of(v)?, 0, &mut out);
        Ok(out)
    }

    /// Writes `t` from column `col` on, at which the text stands already.
    fn block(self, t: &Tree, col: usize, out: &mut String) {
        match t {
            Tree::Nothing => out.push('\n'),
            Tree::Text(s) => {
                out.push_str(&quoted(s));
                out.push('\n');
            }
            Tree::List(all) => self.list(all, col, out),
            Tree::Map(all) => {
                for (i, (key, value)) in all.iter().enumerate() {
                    if i > 0 {
                        pad(col, out);
                    }
                    out.push_str(key);
                    out.push(':');
                    match value {
                        Tree::Nothing => out.push('\n'),
                        Tree::Text(_) => {
                            out.push(' ');
                            self.block(value, col, out);
                        }
                        Tree::List(list) => {
                            out.push('\n');
                            pad(col + self.dash, out);
                            self.list(list, col + self.dash, out);
                        }
                        Tree::Map(_) => {
                            out.push('\n');
                            pad(col + self.indent, out);
                            self.block(value, col + self.indent, out);
                        }
                    }
                }
            }
        }
    }

    fn list(self, all: &[Tree], col: usize, out: &mut String) {
        for (i, value) in all.iter().enumerate() {
            if i > 0 {
                pad(col, out);
            }
            out.push('-');
            pad(self.item - 1, out);
            self.block(value, col + self.item, out);
        }
    }
}

fn pad(n: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', n));
}
