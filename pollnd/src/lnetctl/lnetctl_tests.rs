//! lnetctl's own texts (testdata/texts): each is read into what is shown, and printed again, byte for byte.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::layout::{ANSWER, Layout, NETLINK, OLD};
use super::refusal::{Form, Refusal, status};
use super::routed::{RouteShown, Routes, RoutingShown};
use super::shown::*;
use crate::config::yaml::{self, Kind, Node};

const FOLDERS: [&str; 4] = ["lnetctl", "mr", "mr-link", "fault"];

fn dir(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/texts").join(folder)
}

/// All texts with this ending: folder/name, and text.
fn texts(ending: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for folder in FOLDERS {
        for e in std::fs::read_dir(dir(folder)).unwrap() {
            let path = e.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(ending) {
                all.push((format!("{folder}/{name}"), std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

pub(super) fn golden(name: &str) -> String {
    std::fs::read_to_string(dir("").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A tree as JSON: numbers and flags are what they look like.
fn value(n: &Node) -> Value {
    match &n.kind {
        Kind::Nothing => Value::Null,
        Kind::List(all) => all.iter().map(value).collect(),
        Kind::Map(all) => Value::Object(all.iter().map(|(k, v)| (k.text.clone(), value(v))).collect()),
        Kind::Text(s) => match (s.parse::<i64>(), s.as_str()) {
            (Ok(n), _) => json!(n),
            (_, "true") => json!(true),
            (_, "false") => json!(false),
            _ => json!(s),
        },
    }
}

/// The parts of a text, each from a key at the left margin to the next.
fn sections(text: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        match line.split_once(':').filter(|_| !line.starts_with([' ', '-'])) {
            Some((key, _)) => all.push((key.to_owned(), line.to_owned())),
            None => all.last_mut().unwrap_or_else(|| panic!("{line}")).1 += line,
        }
    }
    all
}

fn parsed<T: DeserializeOwned>(text: &str) -> T {
    let tree = yaml::tree(text).unwrap_or_else(|f| panic!("{f:?}\n{text}")).unwrap();
    serde_json::from_value(value(&tree)).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The text of that name as what is shown.
pub(crate) fn read<T: DeserializeOwned>(name: &str) -> T {
    parsed(&golden(name))
}

/// A text read as a `T`, and printed again.
fn printed<T: Serialize + DeserializeOwned>(layout: Layout, text: &str) -> String {
    layout.text(&parsed::<T>(text)).unwrap()
}

#[test]
fn all_that_lnetctl_shows_is_read_and_printed_the_same() {
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for (name, whole) in texts(".yaml") {
        for (key, text) in sections(&whole) {
            let again = match key.as_str() {
                "net" => printed::<Nets>(NETLINK, &text),
                "peer" => printed::<Peers>(NETLINK, &text),
                "peer list" => printed::<PeerList>(NETLINK, &text),
                "route" => printed::<Routes>(NETLINK, &text),
                "statistics" => printed::<StatsShow>(OLD, &text),
                "global" => printed::<GlobalShow>(OLD, &text),
                "ping" => printed::<Pinged>(ANSWER, &text),
                "discover" => printed::<Discovered>(ANSWER, &text),
                "cpt-of-nid" => printed::<CptOfNid>(ANSWER, &text),
                "manage" => refusal(&text).text(),
                // They come together.
                "routing" => {
                    let buffers = sections(&whole).into_iter().find(|s| s.0 == "buffers");
                    let both = text.clone() + &buffers.map_or(String::new(), |b| b.1);
                    assert_eq!(printed::<RoutingShown>(OLD, &both), both, "{name}");
                    text.clone()
                }
                "buffers" | "udsp" | "Peer NI recovery" => continue,
                other => panic!("{name}: {other}"),
            };
            assert_eq!(again, text, "{name}");
            *seen.entry(key).or_default() += 1;
        }
    }
    for key in [
        "net",
        "route",
        "routing",
        "peer",
        "peer list",
        "statistics",
        "global",
        "ping",
        "discover",
        "manage",
        "cpt-of-nid",
    ] {
        assert!(seen.contains_key(key), "{seen:?}");
    }
}

/// One of lnetctl's refusals, in whichever of its forms.
fn refusal(text: &str) -> Refusal {
    let netlink = text.starts_with("---");
    let lines: Vec<&str> = text.lines().filter(|l| !["---", "..."].contains(l)).collect();
    let [verb, what, errno, descr, more @ ..] = &lines[..] else { panic!("{text}") };
    let word = |l: &str| l.trim_matches(|c: char| "- :".contains(c)).to_owned();
    let verb: &'static str = ["add", "del", "show", "set", "manage", "parser", "yaml"]
        .into_iter()
        .find(|v| word(verb) == *v)
        .unwrap_or_else(|| panic!("{text}"));
    let errno = errno.trim().strip_prefix("errno: -").unwrap().parse().unwrap();
    let mut descr = descr.trim().strip_prefix("descr: ").unwrap().to_owned();
    let form = if netlink {
        Form::Netlink
    } else if descr.starts_with("! '") {
        Form::Answer
    } else {
        Form::Old
    };
    if let Some(d) = descr.strip_prefix("! ") {
        let inner = &d[1..d.len() - 1];
        descr = if netlink { inner.replace("\\\"", "\"") } else { inner.replace("''", "'") };
    }
    for l in more {
        descr += &format!("\n{}", l.trim());
    }
    let status = if form == Form::Answer { 255 } else { status(errno) };
    Refusal { form, verb, what: word(what), errno, descr, status }
}

#[test]
fn all_that_lnetctl_refuses_is_read_and_printed_the_same() {
    let mut n = 0;
    for (name, text) in texts(".stderr") {
        if !text.contains("errno:") {
            continue;
        }
        for text in text.split_inclusive("...\n") {
            assert_eq!(refusal(text).text(), text, "{name}");
            n += 1;
        }
    }
    assert!(n > 20, "{n}");
}

/// The exit status that `commands.txt` has of each.
#[test]
fn exit_statuses_are_lnetctl_s() {
    assert_eq!([22, 12, 42, 2, 255].map(status), [234, 244, 214, 254, 1]);
    let commands = golden("lnetctl/commands.txt");
    let told = |name: &str| {
        let line = commands.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap();
        line.split(" | ").nth(2).unwrap().parse::<u8>().unwrap()
    };
    for name in ["err-udsp-bad.txt", "import-bad-if.txt", "err-ping-garbage.yaml", "import-unknown-key.txt"] {
        let text = golden(&format!("lnetctl/{name}.stderr"));
        assert_eq!(refusal(&text).status, told(name), "{name}");
    }
}

/// Each level leaves out the same keys as lnetctl's.
#[test]
fn levels_leave_out_what_lnetctl_leaves_out() {
    let read = |name: &str| -> Nets {
        serde_json::from_value(value(&yaml::tree(&golden(name)).unwrap().unwrap())).unwrap()
    };
    // In one state of that node; traffic went on between the commands.
    let settle = |mut n: Nets| {
        n.net.iter_mut().flat_map(|n| &mut n.nis).for_each(|ni| {
            ni.statistics = ni.statistics.map(|_| Statistics::default());
            for m in [&mut ni.sent_stats, &mut ni.received_stats] {
                *m = m.map(|_| Messages::default());
            }
        });
        n
    };
    let all = settle(read("lnetctl/net-show-v-5.yaml"));
    for (level, name) in [(0, ""), (1, "-v"), (2, "-v-2"), (3, "-v-3"), (4, "-v-4"), (5, "-v-5")] {
        let mut at = all.clone();
        at.net.iter_mut().flat_map(|n| &mut n.nis).for_each(|ni| ni.at(Level(level)));
        assert_eq!(at, settle(read(&format!("lnetctl/net-show{name}.yaml"))), "{level}");
    }
    let peers = |name: &str| -> Vec<Peer> {
        let text = golden(name);
        let text = &sections(&text).into_iter().find(|s| s.0 == "peer").unwrap().1;
        let p: Peers = serde_json::from_value(value(&yaml::tree(text).unwrap().unwrap())).unwrap();
        p.peer
    };
    let keys = |p: &Peer| {
        let mut v = serde_json::to_value(p).unwrap();
        let mut names = Vec::new();
        fn walk(path: &str, v: &mut Value, names: &mut Vec<String>) {
            match v {
                Value::Object(m) => m.iter_mut().for_each(|(k, v)| walk(&format!("{path}/{k}"), v, names)),
                Value::Array(a) => a.iter_mut().for_each(|v| walk(path, v, names)),
                _ => names.push(path.to_owned()),
            }
        }
        walk("", &mut v, &mut names);
        names
    };
    let all = peers("lnetctl/peer-show-v-5.yaml").remove(0);
    for (level, name) in [(0, "peer-show"), (1, "peer-show-v"), (4, "peer-show-v-4")] {
        let mut at = all.clone();
        at.at(Level(level));
        assert_eq!(keys(&at), keys(&peers(&format!("lnetctl/{name}.yaml"))[0]), "{name}");
    }
    let mut exported = all.clone();
    exported.exported();
    assert_eq!(keys(&exported), keys(&peers("lnetctl/export.yaml")[0]));
    let mut kept = all.clone();
    kept.backup();
    assert_eq!(kept, peers("lnetctl/export-backup.yaml")[0]);
    // One that is not Multi-Rail is made with its primary NID alone.
    let mut second = all.nis[0].clone();
    second.nid = "10.9.9.9@tcp9".into();
    for multi_rail in [true, false] {
        let mut two = Peer { multi_rail, ..all.clone() };
        two.nis.insert(0, second.clone());
        let mut exported = two.clone();
        exported.exported();
        two.backup();
        let is: Vec<&str> = two.nis.iter().map(|n| &*n.nid).collect();
        let kept = if multi_rail { vec!["10.9.9.9@tcp9", &all.primary] } else { vec![&*all.primary] };
        assert_eq!((is, exported.nis.len()), (kept.clone(), kept.len()));
    }
}

/// Levels of routes, and what `export` keeps of them.
#[test]
fn routes_are_shown_by_level() {
    let read = |text: &str| -> Vec<RouteShown> {
        let r: Routes = serde_json::from_value(value(&yaml::tree(text).unwrap().unwrap())).unwrap();
        r.route
    };
    let section = |name: &str| {
        let all = sections(&golden(name));
        read(&all.into_iter().find(|s| s.0 == "route").unwrap().1)
    };
    let all = read(&golden("lnetctl/route-show-v-4.yaml"));
    for (level, name) in [(0, ""), (1, "-v"), (4, "-v-4")] {
        let mut at = all.clone();
        at.iter_mut().for_each(|r| r.at(Level(level)));
        assert_eq!(at, read(&golden(&format!("lnetctl/route-show{name}.yaml"))), "{level}");
    }
    let mut kept = section("lnetctl/export.yaml");
    assert_eq!(kept, all);
    kept.iter_mut().for_each(RouteShown::backup);
    assert_eq!(kept, section("lnetctl/export-backup.yaml"));
}

/// A backup of what `export` shows is what `export --backup` shows.
#[test]
fn a_backup_is_lnetctl_s() {
    let text = golden("lnetctl/export.yaml");
    let nets = &sections(&text)[0].1;
    let mut nets: Nets = serde_json::from_value(value(&yaml::tree(nets).unwrap().unwrap())).unwrap();
    nets.net.retain(|n| n.name != "lo");
    nets.net.iter_mut().flat_map(|n| &mut n.nis).for_each(|ni| ni.backup(true));
    let backup = golden("lnetctl/export-backup.yaml");
    assert_eq!(NETLINK.text(&nets).unwrap(), sections(&backup)[0].1);
}
