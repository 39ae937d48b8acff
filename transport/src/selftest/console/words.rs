//! Words of a line, and the options among them as getopt_long takes them.

/// An option of a verb.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opt {
    /// Behind `--`; also any beginning of it that no other option has.
    pub(super) long: &'static str,
    /// Behind `-`.
    pub(super) short: char,
    /// Name of its value, if it has one.
    pub(super) value: Option<&'static str>,
}

/// An option without a value.
pub(super) const fn flag(long: &'static str, short: char) -> Opt {
    Opt { long, short, value: None }
}

/// An option with a value.
pub(super) const fn with(long: &'static str, short: char, value: &'static str) -> Opt {
    Opt { long, short, value: Some(value) }
}

/// Options that are given, by their long names, with their values; and the other words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) options: Vec<(&'static str, String)>,
    pub(super) rest: Vec<String>,
}

impl Given {
    /// Whether an option is there.
    pub(super) fn has(&self, long: &str) -> bool {
        self.options.iter().any(|(o, _)| *o == long)
    }

    /// The value of an option; the last one counts.
    pub(super) fn value(&self, long: &str) -> Option<&str> {
        self.options.iter().rev().find(|(o, _)| *o == long).map(|(_, v)| v.as_str())
    }
}

/// Tells options from other words.
///
/// # Errors
/// The word that is no option, or lacks a value or has one too many.
pub(super) fn options(words: &[String], known: &[Opt]) -> Result<Given, String> {
    let mut given = Given::default();
    let mut words = words.iter();
    while let Some(w) = words.next() {
        if w == "--" {
            given.rest.extend(words.by_ref().cloned());
        } else if let Some(long) = w.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((n, v)) => (n, Some(v.to_owned())),
                None => (long, None),
            };
            let opt = by_name(name, known)?;
            let value = match (opt.value, value) {
                (None, None) => String::new(),
                (None, Some(v)) => {
                    return Err(format!("option '--{}' takes no value: leave out ={v}", opt.long));
                }
                (Some(_), Some(v)) => v,
                (Some(what), None) => words.next().cloned().ok_or_else(|| lacks(opt.long, what))?,
            };
            given.options.push((opt.long, value));
        } else if w.len() > 1 && w.starts_with('-') {
            let mut letters = w.chars().skip(1);
            while let Some(c) = letters.next() {
                let opt = known.iter().find(|o| o.short == c).ok_or_else(|| unknown(w, known))?;
                let value = match opt.value {
                    None => String::new(),
                    Some(what) => {
                        let joined: String = letters.by_ref().collect();
                        if joined.is_empty() {
                            words.next().cloned().ok_or_else(|| lacks(opt.long, what))?
                        } else {
                            joined
                        }
                    }
                };
                given.options.push((opt.long, value));
            }
        } else {
            given.rest.push(w.clone());
        }
    }
    Ok(given)
}

fn by_name(name: &str, known: &[Opt]) -> Result<Opt, String> {
    if let Some(o) = known.iter().find(|o| o.long == name) {
        return Ok(*o);
    }
    let mut fits = known.iter().filter(|o| !name.is_empty() && o.long.starts_with(name));
    match (fits.next(), fits.next()) {
        (Some(o), None) => Ok(*o),
        (Some(a), Some(b)) => {
            Err(format!("option '--{name}' may be --{} or --{}: write more of it", a.long, b.long))
        }
        (None, _) => Err(unknown(&format!("--{name}"), known)),
    }
}

fn lacks(long: &str, what: &str) -> String {
    format!("option '--{long}' has no value: write --{long} {what}")
}

fn unknown(word: &str, known: &[Opt]) -> String {
    let all: Vec<String> = known.iter().map(|o| format!("--{}", o.long)).collect();
    match all.is_empty() {
        true => format!("unrecognized option '{word}': there are none here"),
        false => format!("unrecognized option '{word}': there are {}", all.join(", ")),
    }
}

/// The words of a line of a script: between blanks, with quotes and backslashes as in a shell, up to a `#` that begins a word.
///
/// # Errors
/// A quote that does not end.
pub fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() => break,
            '\'' | '"' => {
                let w = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some(q) if q == c => break,
                        Some('\\') if c == '"' => w.extend(chars.next()),
                        Some(q) => w.push(q),
                        None => return Err(format!("a {c} that does not end: write another one behind it")),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [Opt; 3] = [with("concurrency", 'c', "N"), flag("force", 'f'), with("count", 'n', "N")];

    fn take(line: &str) -> Result<Given, String> {
        options(&split(line).unwrap(), &KNOWN)
    }

    #[test]
    fn options_are_taken_as_getopt_long_takes_them() {
        let same = |options: &[(&'static str, &str)], rest: &[&str]| Given {
            options: options.iter().map(|(o, v)| (*o, (*v).to_owned())).collect(),
            rest: rest.iter().map(|s| (*s).to_owned()).collect(),
        };
        let c = [("concurrency", "-1")];
        for line in
            ["--concurrency -1 a b", "a --concurrency=-1 b", "a b -c -1", "a -c-1 b", "--conc -1 a -- b"]
        {
            assert_eq!(take(line), Ok(same(&c, &["a", "b"])), "{line}");
        }
        assert_eq!(take("-fc3 -"), Ok(same(&[("force", ""), ("concurrency", "3")], &["-"])));
        assert_eq!(take("-- --force"), Ok(same(&[], &["--force"])));
        for (line, says) in [
            ("--co 1", "--concurrency or --count"),
            ("--nosuch", "unrecognized option '--nosuch': there are --concurrency, --force, --count"),
            ("-x", "unrecognized option '-x'"),
            ("--count", "write --count N"),
            ("-c", "write --concurrency N"),
            ("--force=1", "takes no value"),
        ] {
            let e = take(line).unwrap_err();
            assert!(e.contains(says), "{line}: {e}");
        }
    }

    #[test]
    fn lines_are_split_as_a_shell_splits_them() {
        for (line, words) in [
            ("", &[][..]),
            ("  # a comment", &[]),
            ("run  b1 # now", &["run", "b1"]),
            ("a#b", &["a#b"]),
            ("add_group 'a b' \"c \\\" d\" e\\ f ''", &["add_group", "a b", "c \" d", "e f", ""]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
        assert!(split("run 'b").unwrap_err().contains("does not end"));
    }
}
