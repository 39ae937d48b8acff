//! From the text of a file to its contents, or to all of its faults.

use transport::lnd::tunables;
use transport::lnd::{Config, NIS_MAX, TcpKind};
use transport::wire::{Brief, Nid};

use super::checked::{cpts, fault_of, listed, plain};
use super::keys::{self, Key, Means, Part};
use super::model::{Model, Ni, Said, network};
use super::yaml::{self, Fault, Kind, Node, Place};
use super::{elsewhere, faulty, hands, readings, ways};
use crate::args;

const NI_KEYS: [&str; 5] = ["nid", "interfaces", "tunables", "lnd tunables", "CPT"];

/// The key of an NI's tunables that each NI may have its own value of.
pub(super) const CREDITS: &str = "credits";

struct Reader {
    faults: Vec<Fault>,
    kind: TcpKind,
    model: Model,
    /// Credits of the NI that is read, where they are others than the node's.
    own_credits: Option<u32>,
}

impl Reader {
    fn fault(&mut self, at: Place, text: impl Into<String>) {
        self.faults.push(Fault::new(at, text));
    }

    fn unknown<'a>(&mut self, key: &yaml::Key, within: &str, known: impl Iterator<Item = &'a str>) {
        let all: Vec<&str> = known.collect();
        let hint = match keys::nearest(&key.text, all.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None if all.len() > 12 => "docs/config.md has those that are".to_owned(),
            None => format!("there are {}", all.join(", ")),
        };
        self.fault(key.at, format!("{:?} is no key of {within}; {hint}", Brief(&key.text)));
    }

    fn mapping<'n>(&mut self, name: &str, node: &'n Node) -> &'n [(yaml::Key, Node)] {
        match &node.kind {
            Kind::Map(all) => all,
            Kind::Nothing => &[],
            _ => {
                self.fault(node.at, format!("{name}: {} where a mapping should be", node.what()));
                &[]
            }
        }
    }

    fn list<'n>(&mut self, name: &str, node: &'n Node) -> &'n [Node] {
        match &node.kind {
            Kind::List(all) => all,
            _ => {
                self.fault(node.at, format!("{name}: {} where a list (- ...) should be", node.what()));
                &[]
            }
        }
    }

    fn text<'n>(&mut self, name: &str, takes: &str, node: &'n Node) -> Option<&'n str> {
        match &node.kind {
            Kind::Text(s) => Some(s),
            _ => {
                self.fault(node.at, format!("{name}: {}; it takes {takes}", node.what()));
                None
            }
        }
    }

    fn root(&mut self, root: &Node) {
        let all = match &root.kind {
            Kind::Map(all) => all,
            _ => {
                let text = format!("{} where sections should be, such as net: and global:", root.what());
                return self.fault(root.at, text);
            }
        };
        if all.iter().any(|(k, _)| k.text == "dpdk") {
            self.kind = TcpKind::Port;
        }
        for (key, node) in all {
            let section = Part::SECTIONS.into_iter().find(|p| p.path() == key.text);
            if key.text == "net" {
                self.net(node);
            } else if key.text == "route" {
                self.model.routes = ways::read(node, &mut self.faults, &mut self.model.passed);
            } else if key.text == "peer" {
                self.model.peers = hands::read(node, &mut self.faults, &mut self.model.passed);
            } else if key.text == "fault" {
                self.model.faults = faulty::read(node, &mut self.faults);
            } else if let Some(part) = section {
                self.section(part, &key.text, node);
                if part == Part::Dpdk && self.model.said(Part::Dpdk, "device").is_none() {
                    let takes =
                        keys::of(part).find(|k| k.name == "device").map_or_else(String::new, Key::takes);
                    self.fault(
                        key.at,
                        format!("dpdk: no device: it takes {takes}; or leave the section out"),
                    );
                }
            } else if let Some((_, values)) = elsewhere::SECTIONS.iter().find(|s| s.0 == key.text) {
                for (part, name, value) in values(node, &mut self.faults) {
                    if let Some(k) = keys::of(part).find(|k| k.name == name) {
                        self.value(k, &value);
                    }
                }
            } else if let Some((_, why)) = readings::SECTIONS.iter().find(|p| p.0 == key.text) {
                self.model.passed.push(Fault::new(key.at, format!("{} is passed over: {why}", key.text)));
            } else {
                let other = elsewhere::SECTIONS.iter().map(|s| s.0);
                let known = ["net", "route", "peer", "fault"]
                    .into_iter()
                    .chain(other)
                    .chain(Part::SECTIONS.iter().map(|p| p.path()));
                self.unknown(key, "the file", known);
            }
        }
        if self.kind == TcpKind::Sockets
            && let Some(at) = self.model.said(Part::Telemetry, "dpdk").map(|s| s.at)
        {
            self.fault(at, "telemetry: dpdk: there is no section dpdk, so this is a node on kernel sockets: leave it out");
        }
    }

    fn section(&mut self, part: Part, name: &str, node: &Node) {
        for (key, value) in self.mapping(name, node) {
            match keys::of(part).find(|k| k.name == readings::renamed(&key.text)) {
                Some(k) => self.value(k, value),
                None => self.unknown(key, name, keys::of(part).map(|k| k.name)),
            }
        }
    }

    /// Takes a value; of NIs' all have to be the same.
    fn value(&mut self, key: &'static Key, node: &Node) {
        if matches!(key.means, Means::Reading) {
            return;
        }
        let before = self.faults.len();
        let values: Vec<String> = match key.means {
            Means::Options | Means::Eal => {
                let all = self.list(key.name, node);
                self.values(key, "words", all)
            }
            Means::Each(_) | Means::Device if matches!(node.kind, Kind::List(_)) => {
                let all = self.list(key.name, node);
                if all.is_empty() {
                    self.fault(node.at, format!("{}: an empty list; it takes {}", key.name, key.takes()));
                }
                self.values(key, &key.takes(), all)
            }
            _ => self.values(key, &key.takes(), std::slice::from_ref(node)),
        };
        if self.faults.len() > before {
            return;
        }
        let plain: Vec<String> = values.iter().map(|v| plain(key, v)).collect();
        if let (Means::Only(_, why), Some(said)) = (key.means, plain.first())
            && *said != key.default()
        {
            let (name, only) = (key.name, key.default());
            let text = format!("{name}: {said} is passed over: here it is always {only}, since {why}");
            return self.model.passed.push(Fault::new(node.at, text));
        }
        match self.model.said.iter().find(|s| std::ptr::eq(s.key, key)) {
            None => self.model.said.push(Said { key, at: node.at, values: plain }),
            Some(s) if s.values == plain => {}
            // The first NI's are the node's.
            Some(_) if key.name == CREDITS && key.part == Part::Tunables => {
                self.own_credits = plain.first().and_then(|n| n.parse().ok());
            }
            Some(s) => {
                let text = format!(
                    "{}: {}, and line {} says {}: it holds for all NIs of a node, say the same",
                    key.name,
                    Brief(&plain.join(" ")),
                    s.at.line,
                    Brief(s.value())
                );
                self.fault(node.at, text);
            }
        }
    }

    /// Values of a key that are right, of those in `all`.
    fn values(&mut self, key: &'static Key, takes: &str, all: &[Node]) -> Vec<String> {
        let mut good = Vec::new();
        for node in all {
            let Some(s) = self.text(key.name, takes, node) else { continue };
            match fault_of(key, s, self.kind) {
                Some(e) => self.fault(node.at, format!("{}: {e}", key.name)),
                None => good.push(s.to_owned()),
            }
        }
        good
    }

    fn net(&mut self, node: &Node) {
        // A section without a value says nothing, as others without one do.
        if matches!(node.kind, Kind::Nothing) {
            return;
        }
        for item in self.list("net", node) {
            let all = self.mapping("net", item);
            let find = |name: &str| all.iter().find(|(k, _)| k.text == name);
            for (k, _) in all.iter().filter(|(k, _)| !["net type", "local NI(s)"].contains(&&*k.text)) {
                self.unknown(k, "net", ["net type", "local NI(s)"].into_iter());
            }
            let Some((_, net)) = find("net type") else {
                self.fault(item.at, "net: no \"net type\": it takes tcp, or such as tcp1");
                continue;
            };
            let Some(name) = self.text("net type", "tcp, or such as tcp1", net) else { continue };
            // The kernel's loopback net, and all that it exports of it, is none that can be configured.
            if name == "lo" {
                continue;
            }
            if network(name).is_none() {
                self.fault(
                    net.at,
                    format!(
                        "net type: {:?} is none that this node has; it takes tcp, or tcp1 to tcp65535",
                        Brief(name)
                    ),
                );
                // Its NIs are another LND's, with tunables of that.
                continue;
            }
            match find("local NI(s)") {
                None => self.fault(
                    item.at,
                    format!("{name}: no \"local NI(s)\": a list of NIs, each with nid or interfaces"),
                ),
                Some((_, nis)) => {
                    let all = self.list("local NI(s)", nis);
                    for ni in all {
                        self.ni(name, ni);
                    }
                }
            }
        }
    }

    fn ni(&mut self, net: &str, node: &Node) {
        let net = net.to_owned();
        let mut ni =
            Ni { at: node.at, net, nid: None, interface: None, credits: None, credits_said: None, cpt: None };
        let before = self.faults.len();
        for (key, value) in self.mapping("local NI(s)", node) {
            match &*key.text {
                "nid" => ni.nid = self.nid(&ni.net, value),
                "interfaces" => ni.interface = self.interface(value),
                "tunables" => {
                    self.section(Part::Tunables, "tunables", value);
                    ni.credits = self.own_credits.take();
                    if value.has(CREDITS) {
                        let of_all =
                            self.model.said(Part::Tunables, CREDITS).and_then(|s| s.value().parse().ok());
                        ni.credits_said = ni.credits.or(of_all);
                    }
                }
                "lnd tunables" => self.section(Part::Lnd, "lnd tunables", value),
                "CPT" => ni.cpt = self.cpt(value),
                k if readings::NI.contains(&k) => {}
                _ => match readings::passed(key) {
                    Some(word) => self.model.passed.push(word),
                    None => self.unknown(key, "an NI", NI_KEYS.into_iter()),
                },
            }
        }
        if ni.nid.is_none() && ni.interface.is_none() && self.faults.len() == before {
            self.fault(node.at, "an NI without nid and interfaces: give one of them");
        }
        let first = self.model.nis.iter().find(|o| o.nid.is_some() && o.nid == ni.nid).map(|o| o.at.line);
        let nid = ni.nid.unwrap_or(Nid::LO);
        match (first, self.model.nis.len()) {
            (Some(line), _) => {
                self.fault(
                    ni.at,
                    format!("{nid} stands here a second time, first in line {line}: leave one out"),
                );
            }
            (None, NIS_MAX) => {
                self.fault(ni.at, format!("more than {NIS_MAX} NIs: run a second node for the others"));
            }
            _ => self.model.nis.push(ni),
        }
    }

    fn nid(&mut self, net: &str, node: &Node) -> Option<Nid> {
        let text = self.text("nid", "a NID, such as 10.0.0.1@tcp", node)?;
        match args::values::nid(text) {
            Err(e) => self.fault(node.at, format!("nid: {e}")),
            Ok(n) if network(net).is_some_and(|num| num != n.net_num()) => {
                self.fault(
                    node.at,
                    format!("nid: {text} is not of the net {net} that it stands in: correct either"),
                );
            }
            Ok(n) => return Some(n),
        }
        None
    }

    fn interface(&mut self, node: &Node) -> Option<String> {
        let all = self.mapping("interfaces", node);
        if let Some((k, _)) = all.get(1) {
            self.fault(k.at, "interfaces: an NI has one interface: make another NI for this one");
        }
        let Some((_, name)) = all.first() else {
            self.fault(node.at, "interfaces: none; it takes one, such as 0: eth0");
            return None;
        };
        let text = self.text("interfaces", "the name of an interface, such as 0: eth0", name)?;
        // The kernel's rule for names.
        if text.is_empty()
            || text.len() > 15
            || text.contains(['/', ':'])
            || text.contains(char::is_whitespace)
        {
            self.fault(
                name.at,
                format!("interfaces: {:?} is no name of an interface, such as eth0", Brief(text)),
            );
            return None;
        }
        if self.kind == TcpKind::Port {
            let text = format!(
                "interfaces: {text} is an interface of the kernel's, and the section dpdk has the port: leave it out, give nid"
            );
            self.fault(name.at, text);
            return None;
        }
        Some(text.to_owned())
    }

    fn cpt(&mut self, node: &Node) -> Option<(String, Place)> {
        let takes = "the list of all CPTs, such as \"[0]\"";
        let numbers: Option<Vec<u32>> = match &node.kind {
            Kind::List(all) => all.iter().map(|n| self.text("CPT", takes, n)?.parse().ok()).collect(),
            _ => {
                let text = self.text("CPT", takes, node)?;
                let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
                inner.and_then(|t| t.split(',').map(|n| n.trim().parse().ok()).collect())
            }
        };
        match numbers {
            Some(mut n) => {
                n.sort_unstable();
                Some((listed(&n), node.at))
            }
            None => {
                self.fault(node.at, format!("CPT: it takes {takes}"));
                None
            }
        }
    }

    /// Looks at what can only be judged together.
    fn together(&mut self) {
        let own = match self.model.said(Part::Dpdk, "cpu_pattern") {
            None => Some(vec![0]),
            Some(s) => cpts(s.value()),
        };
        let own = own.map(|all| listed(&all));
        for ni in &mut self.model.nis {
            if let Some((cpt, at)) = ni.cpt.take_if(|c| own.as_ref() != Some(&c.0)) {
                self.model.passed.push(Fault::new(at, readings::other_cpts(&cpt)));
            }
        }
        let mut c = Config { tcp_kind: self.kind, ..Config::new(Nid::LO, 0) };
        for (name, value, _) in self.model.tunables() {
            // Each has been tried by itself.
            let _ = tunables::set(&mut c, name, &value);
        }
        if let Err(e) = tunables::check(&c) {
            let last = ["transaction_timeout", "retry_count"]
                .into_iter()
                .filter_map(|n| self.model.said(Part::Global, n))
                .map(|s| s.at)
                .max();
            self.fault(last.unwrap_or_default(), e.to_string());
        }
    }
}

/// Reads the text of a file.
///
/// # Errors
/// All of its faults, in their order.
pub(crate) fn read(text: &str) -> Result<Model, Vec<Fault>> {
    let start = Place { line: 1, col: 1 };
    let Some(root) = yaml::tree(text)? else {
        return Err(vec![Fault::new(
            start,
            "the file says nothing: it takes sections, such as net: and global:",
        )]);
    };
    let (faults, model) = (Vec::new(), Model::default());
    let mut r = Reader { faults, kind: TcpKind::Sockets, model, own_credits: None };
    r.root(&root);
    r.model.forget_oneself();
    r.model.settle_credits();
    r.together();
    r.faults.sort();
    r.faults.dedup();
    // A file of another kind has nothing but faults.
    r.faults.truncate(yaml::FAULTS_MAX);
    if r.faults.is_empty() { Ok(r.model) } else { Err(r.faults) }
}

#[cfg(test)]
mod tests {
    use super::super::write::Style;
    use super::*;

    fn faults(text: &str) -> String {
        let f = read(text).unwrap_err();
        f.iter().map(|f| format!("{}: {}\n", f.at, f.text)).collect()
    }

    /// The tree of a file without what is a reading, or another's section; order of keys aside.
    fn settings(text: &str) -> Vec<String> {
        fn walk(path: &str, n: &Node, all: &mut Vec<String>) {
            match &n.kind {
                Kind::Text(s) => all.push(format!("{path} = {s}")),
                Kind::Nothing => all.push(path.to_owned()),
                Kind::List(l) => {
                    l.iter().enumerate().for_each(|(i, n)| walk(&format!("{path}[{i}]"), n, all))
                }
                Kind::Map(m) => {
                    for (k, n) in m.iter().filter(|(k, _)| {
                        !readings::NI.contains(&&*k.text)
                            && !["lnd_timeout", "state", "type"].contains(&&*k.text)
                    }) {
                        walk(&format!("{path}/{}", k.text), n, all);
                    }
                }
            }
        }
        let Kind::Map(mut sections) = yaml::tree(text).unwrap().unwrap().kind else { panic!() };
        sections.retain(|(k, _)| ["net", "route", "global"].contains(&&*k.text));
        for (_, n) in &mut sections {
            if let Kind::List(nets) = &mut n.kind {
                nets.retain(|n| !matches!(&n.kind, Kind::Map(m) if m.iter().any(|(_, v)| v.kind == Kind::Text("lo".into()))));
            }
        }
        let mut all = Vec::new();
        sections.iter().for_each(|(k, n)| walk(&k.text, n, &mut all));
        all.sort();
        all
    }

    fn golden(name: &str) -> String {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/texts/lnetctl/");
        std::fs::read_to_string(format!("{dir}{name}")).unwrap()
    }

    /// Import and export: of lnetctl's own texts everything that is a setting comes back, and nothing else.
    #[test]
    fn what_lnetctl_prints_is_read_and_written_again() {
        for (name, nis, passed) in [
            ("export.yaml", 2, 1),
            ("export-backup.yaml", 2, 1),
            ("net-show-v.yaml", 2, 0),
            ("net-show-v-5.yaml", 2, 0),
            ("net-show.yaml", 2, 0),
            ("global-show.yaml", 0, 0),
        ] {
            let text = golden(name);
            let m = read(&text).unwrap_or_else(|f| panic!("{name}: {f:?}"));
            assert_eq!(m.nis.len(), nis, "{name}");
            assert!(m.passed.len() == passed, "{name}: {:?}", m.passed);
            let out = Style::PLAIN.yaml(&m);
            assert_eq!(settings(&out), settings(&text), "{name}:\n{out}");
            let again = read(&out).unwrap();
            assert_eq!(Style::PLAIN.yaml(&again), out, "{name}");
        }
        // A router's own export makes a router, with the buffers that it has.
        for name in ["export.yaml", "export-backup.yaml"] {
            let m = read(&golden(name)).unwrap();
            let said = ["forwarding", "tiny_router_buffers", "small_router_buffers", "large_router_buffers"]
                .map(|k| m.said(Part::Node, k).map(Said::value));
            assert_eq!(said, [Some("enabled"), Some("512"), Some("1"), Some("1")], "{name}");
        }
        let m = read(&golden("export.yaml")).unwrap();
        let nids: Vec<String> = m.nis.iter().filter_map(|n| n.nid).map(|n| n.to_string()).collect();
        assert_eq!(nids, ["192.168.80.12@tcp", "192.168.81.12@tcp1"]);
        assert_eq!(m.nis[0].interface.as_deref(), Some("eth0"));
        assert_eq!(m.said(Part::Lnd, "timeout").unwrap().value(), "50");
    }

    /// Every section, in every form that the writer has.
    #[test]
    fn what_is_written_reads_the_same() {
        let text = "net: [{net type: tcp3, local NI(s): [{nid: 10.0.0.1@tcp3}, {nid: 10.0.0.2@tcp3, lnd tunables: {tos: 0x20}}]}]\n\
                    global: {discovery: 0, lnd_timeout: 7, max_interfaces: 200}\n\
                    node: {options: [/etc/a b.conf, \"/x,y\"], selftest: no, copy: on, accept: all, run_for: 1.5}\n\
                    dpdk: {device: \"net_virtio_user0,path=/tmp/a,queues=2\", lcores: 2, cpu_pattern: \"0[0-1]\", balance: off, eal: [-a, \"b,c\"]}\n\
                    telemetry: {dpdk: false}\nlog: {level: \"warn,transport=debug\"}\n";
        let m = read(text).unwrap();
        insta::assert_snapshot!(Style::PLAIN.yaml(&m), @r#"
        net:
        -     net type: tcp3
              local NI(s):
              -     nid: 10.0.0.1@tcp3
                    lnd tunables:
                          tos: 32
              -     nid: 10.0.0.2@tcp3
                    lnd tunables:
                          tos: 32
        global:
            discovery: 0
        node:
            accept: all
            options: ["/etc/a b.conf", "/x,y"]
            selftest: false
            copy: true
            run_for: 1.5
        dpdk:
            device: net_virtio_user0,path=/tmp/a,queues=2
            lcores: 2
            cpu_pattern: "0[0-1]"
            balance: off
            eal: ["-a", "b,c"]
        telemetry:
            dpdk: false
        log:
            level: warn,transport=debug
        "#);
        let again = read(&Style::PLAIN.yaml(&m)).unwrap();
        let values = |m: &Model| {
            let mut all: Vec<_> = m.said.iter().map(|s| (s.key.part, s.key.name, s.values.clone())).collect();
            all.sort();
            all
        };
        assert_eq!(values(&again), values(&m));
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_place() {
        insta::assert_snapshot!(faults(include_str!("../../../testdata/config/bad.yaml")), @r#"
        4:16: nid: 10.0.0.1@tcp1 is not of the net tcp that it stands in: correct either
        6:29: peer_timeout: "60": here it is always 180, since routers watch networks here, not peers
        7:29: peer_credits: "many" is none of its values; it takes 1 to 65535 (messages)
        8:15: "credit" is no key of tunables; did you mean "credits"?
        10:20: tos: "256" is none of its values; it takes -1 to 255 (byte)
        11:24: nscheds: "4": here it is always 0, since lcores do that work: --lcores
        13:16: nid: `10.0.0.300` is no IPv4 or IPv6 address; write a NID as ADDRESS@NETWORK, for example 10.0.0.1@tcp
        15:18: interfaces: eth0 is an interface of the kernel's, and the section dpdk has the port: leave it out, give nid
        16:15: interfaces: an NI has one interface: make another NI for this one
        17:11: an NI without nid and interfaces: give one of them
        18:17: net type: "o2ib" is none that this node has; it takes tcp, or tcp1 to tcp65535
        20:7: net: no "net type": it takes tcp, or such as tcp1
        22:16: discovery: "2" is none of its values; it takes 0 to 1 (flag)
        23:24: recovery_interval: "5": here it is always 1, since the first recovery ping comes after 1 s
        24:5: "healthy" is no key of global; docs/config.md has those that are
        26:13: accept: "everybody" is none of its values; it takes secure, all, none, trust
        27:14: options: a value where a list (- ...) should be
        28:15: selftest: "perhaps" is none of its values; it takes true, false
        29:13: budget: "0" is none of its values; it takes 1 to 1048576 (MiB)
        30:12: run_for: nothing; it takes 0.1 to 3600 (s)
        31:1: dpdk: no device: it takes a PCI address, a virtual device with its arguments, or a port's name; or leave the section out
        32:5: "mtuu" is no key of dpdk; did you mean "mtu"?
        33:10: mtu: "100" is none of its values; it takes 576 to 9600 (bytes)
        34:13: lcores: a list; it takes 1 to 64 (lcores)
        35:14: gateway: "router" is none of its values; it takes an IP address
        36:14: balance: "maybe" is none of its values; it takes on, off
        38:11: dpdk: "5" is none of its values; it takes true, false
        40:12: level: "loud" is no level; write error, warn, info, debug or trace, or such as warn,transport=debug
        41:1: "metrics" is no key of the file; there are net, route, peer, fault, routing, buffers, numa, global, node, dpdk, telemetry, log
        "#);
        insta::assert_snapshot!(faults("- a\n- b\n"), @"1:1: a list where sections should be, such as net: and global:");
        insta::assert_snapshot!(
            faults("dpdk: {device: [], mtu: [1500, 9], vlan: [default, [1]]}\n"),
            @r#"
        1:1: dpdk: no device: it takes a PCI address, a virtual device with its arguments, or a port's name; or leave the section out
        1:16: device: an empty list; it takes a PCI address, a virtual device with its arguments, or a port's name
        1:32: mtu: "9" is none of its values; it takes 576 to 9600 (bytes)
        1:52: vlan: a list; it takes 1 to 4094 (VLAN id)
        "#
        );
        insta::assert_snapshot!(
            faults("routing: {enable: 4, on: 1}\nbuffers: {tiny: 2000000, huge: 1, large: []}\nnuma: {range: 3, x: 1}\n"),
            @r#"
        1:19: enable: "4" is none of its values; it takes 0 or 1
        1:22: "on" is no key of routing; there is enable
        2:17: tiny_router_buffers: "2000000" is none of its values; it takes 0 to 1048576 (buffers)
        2:26: "huge" is no key of buffers; there are tiny, small, large
        2:42: large_router_buffers: a list; it takes 0 to 1048576 (buffers)
        3:15: numa_range: "3": here it is always 0, since an NI's queues are those of every lcore: distance decides nothing
        3:18: "x" is no key of numa; there is range
        "#
        );
        insta::assert_snapshot!(faults("# nothing\n"), @"1:1: the file says nothing: it takes sections, such as net: and global:");
        insta::assert_snapshot!(
            faults("global: {transaction_timeout: 3, retry_count: 5}\n"),
            @"1:47: lnet_transaction_timeout=3 and lnet_retry_count=5: the time-out (s) has to be greater than the count"
        );
    }

    #[test]
    fn the_sample_is_good() {
        let m = read(include_str!("../../../dist/pollnd.yaml")).unwrap();
        assert_eq!((m.nis.len(), m.passed.len(), m.on_port()), (1, 0, false));
        // With the port that it shows, too.
        let all = include_str!("../../../dist/pollnd.yaml")
            .replace("\n# dpdk:", "\ndpdk:")
            .replace("\n#     ", "\n    ");
        let m = read(&all).unwrap();
        assert!(m.on_port() && m.said(Part::Dpdk, "gateway").is_some(), "{m:?}");
    }

    #[test]
    fn a_node_is_no_peer_of_its_own() {
        let nis = "net:\n- net type: tcp\n  local NI(s):\n  - nid: 10.0.0.1@tcp\n";
        let peers = |primary: &str| {
            read(&format!("{nis}peer:\n- primary nid: {primary}\n  peer ni:\n  - nid: {primary}\n"))
                .unwrap()
                .peers
        };
        assert_eq!((peers("10.0.0.1@tcp").len(), peers("10.0.0.2@tcp").len()), (0, 1));
    }
}
