//! One command line of a file and of what was typed, which wins.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use transport::lnd::{PeerByHand, Route, TcpKind};
use transport::node::NodeBuilder;
use transport::wire::Nid;

use super::keys::{Means, Part};
use super::model::{self, Model, Said};
use super::own_nis::{Placed, Running, decide, set_nis};
use super::reader;
use super::source::Source;
use super::yaml::Place;
use crate::args::tuned::{Filed, Tuned};
use crate::args::{self, Cli, Command, NodeArgs, ServeArgs, Told};
use crate::inspect::failure::Failure;
use crate::{fault_rules, iface, networks, settings};

/// Argument of the EAL that keeps DPDK's telemetry from being served.
pub(crate) const NO_TELEMETRY: &str = "--no-telemetry";

/// Number that lnetctl's `import` has for an interface that is not there (docs/protocol/upper.md §5).
const NO_INTERFACE: i32 = libc::ENOMSG;

/// Reason why there is no command line.
pub(crate) enum Bad {
    /// The command line is none.
    Line(clap::Error),
    /// Faults of a file, a line each.
    File(String),
}

/// A file that was read.
pub(crate) struct Loaded {
    /// Its path, or `standard input`.
    name: String,
    /// Its contents.
    pub(crate) model: Model,
}

impl Loaded {
    /// Its path, or `standard input`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A place in the file, in words.
    pub(crate) fn at(&self, at: Place) -> String {
        format!("{}:{at}", self.name)
    }

    /// A fault at a place in the file, as a line.
    pub(super) fn fault(&self, at: Place, e: impl std::fmt::Display) -> String {
        format!("{}: {e}\n", self.at(at))
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// Its faults, a line each.
pub(crate) fn load(path: &Path) -> Result<Loaded, String> {
    read(Source::of_file(path)?)
}

/// Reads a file's text.
///
/// # Errors
/// Its faults, a line each.
pub(crate) fn read(of: Source) -> Result<Loaded, String> {
    let Source { name, text } = of;
    match reader::read(&text) {
        Ok(model) => Ok(Loaded { name, model }),
        Err(faults) => Err(faults.iter().map(|f| format!("{name}:{}: {}\n", f.at, f.text)).collect()),
    }
}

/// A command line that was typed, by its parts.
struct Typed<'a> {
    /// Up to the word `node`.
    head: &'a [OsString],
    options: &'a [OsString],
    /// `--` and what follows it.
    eal: &'a [OsString],
}

impl<'a> Typed<'a> {
    /// The parts of a command line of `pollnd node`.
    fn of(argv: &'a [OsString]) -> Option<Typed<'a>> {
        let word = |w: &OsString| !w.as_encoded_bytes().starts_with(b"-");
        let node = 1 + argv.iter().skip(1).position(word)?;
        let (head, rest) = argv.split_at_checked(node + 1)?;
        if head.last()? != "node" {
            return None;
        }
        let end = rest.iter().position(|w| w == "--").unwrap_or(rest.len());
        let (options, eal) = rest.split_at_checked(end)?;
        Some(Typed { head, options, eal })
    }

    /// Whether the option `flag` stands there: options' names are never cut short, and no value begins with two dashes.
    fn has(&self, flag: &str) -> bool {
        self.options.iter().any(|w| {
            let rest = w.as_encoded_bytes().strip_prefix(b"--").and_then(|w| w.strip_prefix(flag.as_bytes()));
            rest.is_some_and(|r| r.is_empty() || r.starts_with(b"="))
        })
    }

    /// The value of `--config`.
    fn config(&self) -> Option<PathBuf> {
        let mut words = self.options.iter();
        while let Some(w) = words.next() {
            if w == "--config" {
                return words.next().map(PathBuf::from);
            }
            let joined = w.to_str().and_then(|w| w.strip_prefix("--config="));
            if let Some(path) = joined {
                return Some(path.into());
            }
        }
        None
    }
}

/// Whether the command line `argv` has the option `flag`, and so wins over what files say of it.
pub(super) fn by_line(argv: &[OsString], flag: &str) -> bool {
    Typed::of(argv).is_some_and(|t| t.has(flag))
}

/// The words of a file, and what the command line wins over.
#[derive(Default)]
struct Words {
    options: Vec<OsString>,
    eal: Vec<OsString>,
    notes: Vec<String>,
}

impl Words {
    fn wins(&mut self, flag: &str, file: &Loaded, at: Place, said: &str) {
        self.notes.push(format!("{flag} of the command line wins over {}: {said}", file.at(at)));
    }

    fn option(&mut self, typed: &Typed<'_>, file: &Loaded, s: &Said) {
        let said = format!("{}: {}", s.key.name, s.values.join(" "));
        let (flags, word): (&[&str], String) = match s.key.means {
            Means::Option(flag) | Means::OnOff(flag) => (&[flag], format!("--{flag}={}", s.value())),
            // Places are those of NIs: with the command line's the file's are passed over.
            Means::Each("ni-ports") if typed.has("nid") || typed.has("ni") => return,
            Means::Each(flag) => (&[flag], format!("--{flag}={}", s.values.join(","))),
            Means::Flag(flag, says) => {
                let word = if s.value() == says.to_string() { format!("--{flag}") } else { String::new() };
                if typed.has(flag) && !word.is_empty() {
                    return;
                }
                (&[flag], word)
            }
            Means::Device => {
                let flags = ["port", "vdev"];
                match flags.into_iter().find(|f| typed.has(f)) {
                    Some(flag) => self.wins(&format!("--{flag}"), file, s.at, &said),
                    // One option for all keeps them in their order; it takes virtual devices, too.
                    None => self.options.extend(s.values.iter().map(|d| format!("--port={d}").into())),
                }
                return;
            }
            Means::Eal | Means::Telemetry => {
                let words: Vec<OsString> = match s.key.means {
                    Means::Eal => s.values.iter().map(OsString::from).collect(),
                    _ if s.value() == "false" => vec![NO_TELEMETRY.into()],
                    _ => Vec::new(),
                };
                if !words.is_empty() && !typed.eal.is_empty() {
                    return self.wins("what stands behind --", file, s.at, &said);
                }
                return self.eal.extend(words);
            }
            Means::Tunable(_)
            | Means::Not(_)
            | Means::Options
            | Means::Level
            | Means::Only(..)
            | Means::Reading => return,
        };
        match flags.iter().find(|f| typed.has(f)) {
            Some(flag) => self.wins(&format!("--{flag}"), file, s.at, &said),
            None if word.is_empty() => {}
            None => self.options.push(word.into()),
        }
    }
}

/// The NIDs of a file's NIs.
///
/// # Errors
/// Addresses that are not of this machine's interfaces.
pub(super) fn nids(file: &Loaded) -> Result<Vec<Nid>, Failure> {
    let (mut faults, mut errno) = (String::new(), None);
    let mut all = Vec::new();
    for ni in &file.model.nis {
        let name = ni.interface.as_deref().unwrap_or_default();
        match (ni.nid, &ni.interface) {
            (Some(nid), None) => all.push(nid),
            (Some(nid), Some(_)) => match nid.ip().and_then(iface::owner) {
                Some((other, _)) if other != name => {
                    faults += &file.fault(
                        ni.at,
                        format_args!(
                            "{nid}: its address is {other}'s here, and not {name}'s: correct either"
                        ),
                    );
                }
                _ => all.push(nid),
            },
            (None, _) => match iface::address(name) {
                Some(ip) => all.push(model::nid_of(ni, ip)),
                None => {
                    errno = Some(NO_INTERFACE);
                    faults += &file.fault(
                        ni.at,
                        format_args!("interfaces: {name} is no interface of this machine with an address: give another, or a nid"),
                    );
                }
            },
        }
    }
    if let Some((i, nid)) = all.iter().enumerate().find(|(i, n)| all[..*i].contains(n)) {
        let at = file.model.nis.get(i).map_or_else(Place::default, |n| n.at);
        faults += &file.fault(at, format_args!("{nid} stands here a second time: leave one out"));
    }
    if faults.is_empty() { Ok(all) } else { Err(Failure { text: faults, errno }) }
}

/// The NIDs of a file's NIs with their places, as far as this machine has them: of a file whose NIs are passed over, or were looked at.
pub(super) fn named(file: &Loaded) -> impl Iterator<Item = (Nid, Place)> + '_ {
    let by_interface = |ni: &model::Ni| Some(model::nid_of(ni, iface::address(ni.interface.as_deref()?)?));
    file.model.nis.iter().filter_map(move |ni| Some((ni.nid.or_else(|| by_interface(ni))?, ni.at)))
}

/// The arguments of a node by `argv`, a command line of `pollnd node`, and `file`; of one that runs, if it does.
///
/// # Errors
/// Faults of either.
pub(crate) fn with(argv: &[OsString], file: Option<&Loaded>, running: Option<&Running>) -> Result<Cli, Bad> {
    let Some((typed, file)) = Typed::of(argv).zip(file) else {
        let mut cli = args::parse(argv.iter().cloned()).map_err(Bad::Line)?;
        if let Command::Node(a) = &mut cli.command {
            a.told.argv = argv.to_vec();
        }
        return Ok(cli);
    };
    let mut words = Words::default();
    let by_line = ["nid", "ni"].into_iter().find(|f| typed.has(f));
    let mut own = Vec::new();
    match (file.model.nis.first(), by_line) {
        (Some(first), Some(flag)) => {
            words.wins(&format!("--{flag}"), file, first.at, "the NIs there");
        }
        (Some(_), None) => own = nids(file).map_err(|e| Bad::File(e.text))?,
        (None, _) => {}
    }
    if !typed.has("nid") {
        if own.is_empty() && file.model.nis.is_empty() {
            return Err(Bad::File(format!(
                "{}: it names no NI: add one under net:, or give --nid\n",
                file.name
            )));
        }
        if by_line.is_none() {
            let flags = std::iter::once("nid").chain(std::iter::repeat("ni"));
            words.options.extend(flags.zip(&own).map(|(f, n)| OsString::from(format!("--{f}={n}"))));
        }
    }
    for s in &file.model.said {
        words.option(&typed, file, s);
    }
    if let Some((_, at)) = file.model.routes.first() {
        match typed.has("route") {
            true => words.wins("--route", file, *at, "the routes there"),
            false => {
                let all = file.model.routes.iter().map(|(r, _)| OsString::from(format!("--route={r}")));
                words.options.extend(all);
            }
        }
    }
    if let Some((_, at)) = file.model.peers.first() {
        match typed.has("peer-nids") {
            true => words.wins("--peer-nids", file, *at, "the peers there"),
            false => {
                let all = file.model.peers.iter().map(|(p, _)| OsString::from(format!("--peer-nids={p}")));
                words.options.extend(all);
            }
        }
    }
    if let Some((_, at)) = file.model.faults.first() {
        match typed.has("fault") {
            true => words.wins("--fault", file, *at, "the rules there"),
            false => {
                let all = file.model.faults.iter();
                words
                    .options
                    .extend(all.map(|(r, _)| OsString::from(format!("--fault={}", fault_rules::words(r)))));
            }
        }
    }
    let eal: Vec<OsString> = match typed.eal.is_empty() && !words.eal.is_empty() {
        true => std::iter::once(OsString::from("--")).chain(words.eal).collect(),
        false => typed.eal.to_vec(),
    };
    let line = [typed.head, &words.options, typed.options, &eal].concat();
    let mut cli = args::parse(line).map_err(Bad::Line)?;
    if let Command::Node(a) = &mut cli.command {
        a.node.filed = filed(file, a, &mut words.notes);
        a.node.nid = a.nid;
        let credits = own.iter().zip(&file.model.nis).filter_map(|(nid, ni)| Some((*nid, ni.credits?)));
        a.node.filed.credits = credits.collect();
        if let Some(r) = running {
            let kept = runs_on(a, r, by_line.is_some(), (file, &own)).map_err(Bad::File)?;
            words.notes.extend(kept);
        }
        words.notes.extend(file.model.passed.iter().map(|p| format!("{}: {}", file.at(p.at), p.text)));
        let level = file.model.said(Part::Log, "level").map(|s| s.value().to_owned());
        a.told = Told { argv: argv.to_vec(), level, notes: words.notes };
        together(file, a).map_err(Bad::File)?;
    }
    Ok(cli)
}

/// Gives the arguments the NIs that the node is to have, which has some; tells of those that stay though nobody names them.
fn runs_on(
    a: &mut ServeArgs,
    r: &Running,
    by_line: bool,
    (file, own): (&Loaded, &[Nid]),
) -> Result<Vec<String>, String> {
    let now: Vec<Placed> = r.nis.iter().map(|n| n.0).collect();
    let line = by_line.then(|| networks::with_places(&a.node));
    let line = line.transpose().map_err(|e| fault(file, &e))?;
    let filed = places(file, &a.node, own)?;
    let (all, kept) = decide(line.as_deref(), &filed, &now);
    set_nis(a, &all);
    let others = r.nis.iter().filter(|n| !own.contains(&n.0.0));
    a.node.filed.credits.extend(others.filter_map(|n| Some((n.0.0, n.1?))));
    if file.model.nis.is_empty() {
        return Ok(Vec::new());
    }
    let why = "it was added while the node ran, and the command line's NIs win over those of files";
    let name = &file.name;
    let kept = kept.iter().filter(|nid| !named(file).any(|n| n.0 == **nid));
    Ok(kept.map(|nid| format!("net: {nid} is kept, though {name} does not name it: {why}")).collect())
}

fn fault(file: &Loaded, e: &str) -> String {
    format!("{}: {}\n", file.name, e.trim_start_matches("--"))
}

/// The NIs `own` of a file, for a node of the ports of `a`, with the places of their ports.
///
/// # Errors
/// NIs that do not go with the ports.
fn places(file: &Loaded, a: &NodeArgs, own: &[Nid]) -> Result<Vec<Placed>, String> {
    let [first, rest @ ..] = own else { return Ok(Vec::new()) };
    // Places of ports are those of the file's own NIs.
    let said = file.model.said(Part::Dpdk, "ni_ports");
    let ni_ports = said.iter().flat_map(|s| &s.values).filter_map(|v| v.parse().ok()).collect();
    let of_file = NodeArgs { nid: *first, ni: rest.to_vec(), ni_ports, ..a.clone() };
    networks::with_places(&of_file).map_err(|e| fault(file, &e))
}

/// The arguments of a node whose options are those of a file alone.
///
/// # Errors
/// Options that do not go together.
pub(super) fn alone(file: &Loaded) -> Result<ServeArgs, String> {
    let nothing = Typed { head: &[], options: &[], eal: &[] };
    let mut words = Words::default();
    for s in &file.model.said {
        words.option(&nothing, file, s);
    }
    // Its NID is not looked at.
    let mut line: Vec<OsString> = ["pollnd", "node", "--nid=127.0.0.1@tcp"].map(OsString::from).to_vec();
    line.extend(words.options);
    if !words.eal.is_empty() {
        line.push("--".into());
        line.extend(words.eal);
    }
    match args::parse(line).map(|cli| cli.command) {
        Ok(Command::Node(a)) => Ok(a),
        Ok(_) => Err(fault(file, "its options are none of a node's")),
        Err(e) => Err(fault(file, &e.to_string())),
    }
}

/// Looks at a file that names no NI as far as it can be judged without: the files of options that it names, and values together.
///
/// # Errors
/// Faults, a line each.
pub(super) fn without_nis(file: &Loaded) -> Result<(), String> {
    let mut a = alone(file)?;
    a.node.filed = filed(file, &a, &mut Vec::new());
    let kind = if networks::on_port(&a.node) { TcpKind::Port } else { TcpKind::Sockets };
    settings::config(&a.node, kind, true, None).map(drop).map_err(|e| placed(file, &[], &e))
}

/// Tunables of a file, but those that the command line sets.
fn filed(file: &Loaded, a: &ServeArgs, notes: &mut Vec<String>) -> Filed {
    let given = settings::given(&a.node);
    let options = file.model.said(Part::Node, "options");
    let mut tunables = Vec::new();
    for (name, value, s) in file.model.tunables() {
        let at = format!("{}: {}: {}", file.at(s.at), s.key.name, s.value());
        match given.iter().find(|(_, t)| t.name == name) {
            Some((how, _)) => notes.push(format!("{how} of the command line wins over {at}")),
            None => tunables.push((Tuned { name, value }, at)),
        }
    }
    let options = options.iter().flat_map(|s| &s.values).map(PathBuf::from).collect();
    Filed { options, tunables, credits: Vec::new() }
}

/// Looks at what can only be judged together, before anything has begun.
///
/// # Errors
/// All that is wrong, a line each.
fn together(file: &Loaded, a: &ServeArgs) -> Result<(), String> {
    let kind = if networks::on_port(&a.node) { TcpKind::Port } else { TcpKind::Sockets };
    let mut faults = networks::faults(&a.node);
    faults.extend(settings::config(&a.node, kind, true, None).err());
    let node = a.node.ni.iter().fold(NodeBuilder::new(a.nid), |n, ni| n.also(*ni));
    let node = node.faults(a.node.fault.clone());
    faults.extend(node.check().err().map(|e| e.to_string()));
    let mut all: Vec<String> = faults.iter().map(|e| placed(file, &a.told.argv, e)).collect();
    all.extend(routes(file, a));
    all.extend(peers(file, a));
    if all.is_empty() { Ok(()) } else { Err(all.concat()) }
}

/// Faults of routes: of those of the file, or of the command line's, which win.
fn routes(file: &Loaded, a: &ServeArgs) -> Vec<String> {
    let nids = networks::nids(&a.node);
    if by_line(&a.told.argv, "route") {
        let fault = Route::check_all(&a.node.route, &nids).err();
        return fault.iter().map(|e| format!("--route: {e}\n")).collect();
    }
    let all = file.model.routes.iter().enumerate();
    let fault = |(i, (route, at)): (usize, &(Route, Place))| {
        let before = file.model.routes.iter().take(i).map(|r| &r.0);
        route.check(&nids, before).err().map(|e| file.fault(*at, format_args!("route: {e}")))
    };
    all.filter_map(fault).collect()
}

/// Faults of peers by hand, likewise.
fn peers(file: &Loaded, a: &ServeArgs) -> Vec<String> {
    let nids = networks::nids(&a.node);
    if by_line(&a.told.argv, "peer-nids") {
        let fault = PeerByHand::check_all(&a.node.peer_nids, &nids).err();
        return fault.iter().map(|e| format!("--peer-nids: {e}\n")).collect();
    }
    let all = file.model.peers.iter().enumerate();
    let fault = |(i, (peer, at)): (usize, &(PeerByHand, Place))| {
        let before = file.model.peers.iter().take(i).map(|p| &p.0.nids[..]);
        peer.check(&nids, before).err().map(|e| file.fault(*at, format_args!("peer: {e}")))
    };
    all.filter_map(fault).collect()
}

/// A fault of an option, with the place in the file that says it, unless the command line `argv` does.
fn placed(file: &Loaded, argv: &[OsString], e: &str) -> String {
    let of =
        |flag: &str| e.strip_prefix("--").and_then(|e| e.strip_prefix(flag)).filter(|r| r.starts_with(' '));
    let said = file.model.said.iter().find_map(|s| {
        let flags: &[&str] = match &s.key.means {
            Means::Option(flag) | Means::Each(flag) | Means::OnOff(flag) => &[*flag],
            Means::Device => &["port", "vdev"],
            Means::Options => &["options"],
            _ => &[],
        };
        flags.iter().find_map(|flag| Some((s, *flag, of(flag)?)))
    });
    if let Some((s, flag, rest)) = said {
        return match by_line(argv, flag) {
            true => format!("{e}\n"),
            // The option's name is not the file's.
            false => file.fault(s.at, format_args!("{}{rest}", s.key.name)),
        };
    }
    let device = || file.model.said.iter().find(|s| matches!(s.key.means, Means::Device)).map(|s| s.at);
    let ni =
        || file.model.nis.iter().find(|n| n.nid.is_some_and(|n| e.contains(&n.to_string()))).map(|n| n.at);
    let at = if e.contains(" ports") { device().or_else(ni) } else { ni() };
    match at {
        Some(at) => file.fault(at, e.trim_start_matches("--")),
        None if e.starts_with(&file.name) => format!("{e}\n"),
        None => format!("{}: {e}\n", file.name),
    }
}

/// The arguments of the command line `argv`; a node's with those of the file that it names.
///
/// # Errors
/// Faults of either.
pub(crate) fn parse(argv: Vec<OsString>) -> Result<Cli, Bad> {
    let help = |w: &OsString| ["-h", "--help", "-V", "--version"].iter().any(|h| w == OsStr::new(h));
    let path = match Typed::of(&argv) {
        Some(t) if !t.options.iter().any(help) => t.config(),
        _ => None,
    };
    let file = path.map(|p| load(&p)).transpose().map_err(Bad::File)?;
    with(&argv, file.as_ref(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "net:
  - {net type: tcp, local NI(s): [{nid: 10.0.0.1@tcp}]}
  - {net type: tcp1, local NI(s): [{nid: 10.1.0.1@tcp1}]}
dpdk:
  device: [net_tap0, net_tap1]
";

    /// The fault of a node by the file `TWO` with `more` keys of `dpdk`, and by `words` of the command line.
    fn fault(more: &str, words: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.yaml");
        std::fs::write(&path, format!("{TWO}{more}")).unwrap();
        let argv: Vec<OsString> = ["pollnd", "node"].iter().chain(words).map(OsString::from).collect();
        let file = load(&path).unwrap();
        match with(&argv, Some(&file), None) {
            Err(Bad::File(e)) => e.replace(&format!("{}/", dir.path().display()), ""),
            Err(Bad::Line(e)) => panic!("{e}"),
            Ok(_) => String::new(),
        }
    }

    /// Nothing hides what stands behind it: values for another number of ports had hidden a router that cannot be reached, and a route its peers.
    #[test]
    fn all_faults_are_told() {
        let more = "  mtu: [1500, default, 9000]\n  tso: [on, on, on]\n  gateway: [10.0.0.254, 10.7.0.254]\n\
                    route: [{net: tcp5, gateway: 10.2.0.9@tcp2}, {net: tcp6, gateway: 10.0.0.9@tcp}, {net: tcp7, gateway: 10.2.0.9@tcp2}]\n\
                    peer: [{primary nid: 10.0.0.1@tcp, peer ni: [{nid: 10.0.0.9@tcp}]}]\n";
        let all = fault(more, &[]);
        let places: Vec<&str> = all.lines().filter_map(|l| l.split(&[' ', ',']).next()).collect();
        assert_eq!(
            places,
            [
                "node.yaml:6:8:",
                "node.yaml:7:8:",
                "node.yaml:8:12:",
                "node.yaml:9:9:",
                "node.yaml:9:82:",
                "node.yaml:10:8:"
            ],
            "{all}"
        );
        // Nobody can tell whose router each of three is.
        let all = fault("  gateway: [10.0.0.254, 10.7.0.254, 10.8.0.254]\n", &[]);
        assert_eq!(all.lines().count(), 1, "{all}");
    }

    #[test]
    fn a_fault_has_the_place_and_the_name_of_its_key() {
        for (more, words, says) in [
            (
                "  mtu: [1500, default, 9000]\n",
                &[][..],
                "node.yaml:6:8: mtu with 3 values: there are 2 ports",
            ),
            ("  ni_ports: [0]\n", &[], "node.yaml:6:13: ni_ports 0: 1 place for 2 NIs"),
            ("  tx_csum: [auto, auto, off]\n", &[], "node.yaml:6:12: tx_csum with 3 values"),
            // The file is not to blame for what the command line says in its place.
            ("  mtu: 1500\n", &["--mtu", "1500,1500,9000"], "--mtu with 3 values"),
            ("", &["--vdev", "net_tap0", "--vdev", "net_tap0"], "--vdev net_tap0: it is named twice"),
        ] {
            let e = fault(more, words);
            assert!(e.starts_with(says), "{more}{words:?}: {e}");
        }
        assert_eq!(fault("  mtu: [1500, default]\n", &[]), "");
    }
}
