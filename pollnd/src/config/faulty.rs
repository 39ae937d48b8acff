//! Fault rules in a file: from its tree, and from them its text. lnetctl's files have none (docs/config.md).
//!
//! ```text
//!   fault:
//!       drop:
//!           - {source: "*@tcp", dest: "*@tcp", rate: 10, message: [PUT, GET]}
//!       delay:
//!           - {source: "*", dest: 10.0.0.2@tcp, interval: 5, latency: 2}
//! ```

use transport::lnet::faults::{FaultRule, RULES_MAX};
use transport::wire::Brief;

use super::hands::{list, mapping, text};
use super::yaml::{Fault, Kind, Node, Place, quoted};
use crate::fault_rules::{self as rules, KEYS, KINDS, RuleText};

fn one(delay: bool, node: &Node, faults: &mut Vec<Fault>) -> Option<FaultRule> {
    let before = faults.len();
    let mut rule = RuleText::default();
    for (key, value) in mapping("fault", node, faults)? {
        let values =
            if let Kind::List(all) = &value.kind { all.as_slice() } else { std::slice::from_ref(value) };
        let list = ["portal", "message", "health_error"].contains(&&*key.text);
        if values.len() > 1 && !list && KEYS.split(", ").any(|k| k == key.text) {
            faults.push(Fault::new(value.at, format!("{}: a list; it takes one value", Brief(&key.text))));
            continue;
        }
        for value in values {
            let Some(said) = text(key, value, faults) else { continue };
            match rule.take(&key.text, said) {
                Some(taken) => faults.extend(taken.err().map(|e| Fault::new(value.at, e))),
                None => {
                    let text = format!("{:?} is no key of a fault rule; there are {KEYS}", Brief(&key.text));
                    faults.push(Fault::new(key.at, text));
                    break;
                }
            }
        }
    }
    if faults.len() > before {
        return None;
    }
    rule.whole(delay).map_err(|e| faults.push(Fault::new(node.at, format!("fault: {e}")))).ok()
}

/// The rules of a section, with their places: those that drop or fail first, as the node tries them.
pub(super) fn read(section: &Node, faults: &mut Vec<Fault>) -> Vec<(FaultRule, Place)> {
    if section.kind == Kind::Nothing {
        return Vec::new();
    }
    let Some(all) = mapping("fault", section, faults) else { return Vec::new() };
    let known = |name: &str| KINDS.iter().any(|k| k.0 == name);
    for (key, _) in all.iter().filter(|(k, _)| !known(&k.text)) {
        faults.push(Fault::new(
            key.at,
            format!("{:?} is no key of fault; there are drop, delay", Brief(&key.text)),
        ));
    }
    let mut found: Vec<(FaultRule, Place)> = Vec::new();
    for (name, delay) in KINDS {
        for (key, node) in all.iter().filter(|(k, _)| k.text == name) {
            for node in list(&format!("fault: {}", key.text), node, faults) {
                found.extend(one(delay, node, faults).map(|r| (r, node.at)));
            }
        }
    }
    if let Some((_, at)) = found.get(RULES_MAX) {
        faults.push(Fault::new(
            *at,
            format!("fault: more than {RULES_MAX} rules, as many as there may be: leave some out"),
        ));
    }
    found
}

/// The section of these rules; nothing for none.
pub(super) fn section(rules: &[(FaultRule, Place)]) -> String {
    let mut out = String::new();
    for (name, delay) in KINDS {
        let mut of_kind = rules.iter().filter(|(r, _)| rules::delays(r) == delay).peekable();
        if of_kind.peek().is_none() {
            continue;
        }
        out += if out.is_empty() { "fault:\n" } else { "" };
        out += &format!("    {name}:\n");
        for (rule, _) in of_kind {
            for (i, (name, values)) in RuleText::of(rule).said().iter().enumerate() {
                let values: Vec<String> = values.iter().map(|v| quoted(v)).collect();
                let value =
                    if values.len() > 1 { format!("[{}]", values.join(", ")) } else { values.concat() };
                out += &format!("        {} {name}: {value}\n", if i == 0 { "-" } else { " " });
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::config::reader;
    use crate::config::write::Style;
    use crate::fault_rules as rules;

    #[test]
    fn rules_are_read_and_written_again() {
        let text = "fault: {delay: [{source: \"*\", dest: 10.0.0.2@tcp, interval: 5, latency: 2.5}], drop: [{source: \"*@tcp\", dest: \"*\", rate: 10, \
                    message: [put, GET], portal: 50, health_error: [local_timeout, random]}, {source: \"*@tcp1\", dest: \"*\", rate: 1, message: PUT}]}\n";
        let m = reader::read(text).unwrap();
        let told = |m: &crate::config::model::Model| {
            m.faults.iter().map(|(r, _)| rules::words(r)).collect::<Vec<_>>()
        };
        let all = [
            "drop source=*@tcp dest=* rate=10 portal=50 message=PUT,GET health_error=random",
            "drop source=*@tcp1 dest=* rate=1 message=PUT",
            "delay source=* dest=10.0.0.2@tcp interval=5 latency=2.5",
        ];
        assert_eq!(told(&m), all);
        let written = Style::PLAIN.yaml(&m);
        assert_eq!(told(&reader::read(&written).unwrap_or_else(|f| panic!("{f:?}\n{written}"))), all);
        assert!(written.starts_with("fault:\n    drop:\n        - source: "), "{written}");
        assert!(reader::read("global: {retry_count: 1}\nfault:\n").unwrap().faults.is_empty());
    }

    #[test]
    fn what_is_wrong_with_rules_is_said() {
        let bad = "fault:\n  drop:\n  - {source: \"*\", dest: \"*\", rate: 0}\n  - {source: \"*\", rate: 1}\n  - 5\n\
                   \x20 - {source: \"*\", dest: \"*\", speed: 3}\n  - {source: \"*\", dest: \"*\", rate: 1, latency: 3}\n\
                   \x20 - {source: \"*\", dest: \"*\", rate: [1, 2]}\n  - {source: x@tcp, dest: {a: b}, rate: 1, portal: [1, 64]}\n\
                   \x20 delay: 3\n  slow: []\n";
        let faults = reader::read(bad).unwrap_err();
        let told: String = faults.iter().map(|f| format!("{}: {}\n", f.at, f.text)).collect();
        for says in [
            "3:36: rate: \"0\" is none of its values",
            "4:5: fault: a rule without source or dest",
            "5:5: fault: a value where a mapping should be",
            "6:30: \"speed\" is no key of a fault rule; there are source, dest",
            "7:5: fault: latency is for delay rules",
            "8:36: rate: a list; it takes one value",
            "9:14: source x@tcp: ",
            "9:27: dest: a mapping; it takes a value",
            "9:56: portal: \"64\"",
            "10:10: fault: delay: a value where a list (- ...) should be",
            "11:3: \"slow\" is no key of fault; there are drop, delay",
        ] {
            assert!(told.contains(says), "{says}\n{told}");
        }
        let one = "  - {source: \"*\", dest: \"*\", rate: 1}\n";
        let many = |n| reader::read(&format!("fault:\n  drop:\n{}", one.repeat(n)));
        assert!(many(64).is_ok());
        assert!(many(65).unwrap_err()[0].text.contains("more than 64 rules"));
    }
}
