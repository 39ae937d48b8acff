//! Configuration in the syntax of modprobe.d: what a Lustre node has on its disk already.

use std::fmt;

use super::super::config::Config;
use super::super::route::{self, RouteParseError};
use super::kernel::{self, Here, Kind};
use super::{FromFile, Module, TuneError, find, number};
use crate::wire::Brief;

/// A fault in a file, by line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct FileError {
    /// Which line, from 1; the first of those that a `\\` joins.
    pub line: usize,
    /// The fault.
    pub why: LineError,
}

/// Faults of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Its first word is no command of modprobe.d.
    #[error(
        "{:?} is no command of modprobe.d: a line begins with options, alias, blacklist, install, remove, softdep, \
         weakdep or #{hint}", Brief(.0), hint = hint(.0)
    )]
    Command(String),
    /// A command without all of its words.
    #[error("`{command}` takes {takes}")]
    Short {
        /// The command.
        command: &'static str,
        /// Words that have to follow it.
        takes: &'static str,
    },
    /// Not `NAME=VALUE`.
    #[error("{:?} is not NAME=VALUE", Brief(.0))]
    Pair(String),
    /// A quotation that does not end.
    #[error("the quotation does not end")]
    Quote,
    /// A name or value that is wrong.
    #[error(transparent)]
    Tune(#[from] TuneError),
    /// Routes that are none.
    #[error("routes: {0}")]
    Route(#[from] RouteParseError),
}

/// Hint at the likely meaning of a line that begins with `word`.
fn hint(word: &str) -> String {
    match OURS.iter().find(|m| m.name() == word) {
        Some(m) => format!("; write `options {} NAME=VALUE`", m.name()),
        None => String::new(),
    }
}

/// Something that a file says and this node does not do as it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Which line, from 1.
    pub line: usize,
    /// The parameter.
    pub name: &'static str,
    /// Its value there.
    pub value: String,
    /// Treatment of the value.
    pub done: Done,
}

/// Treatments of a value that cannot be taken as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing, since...
    PassedOver(&'static str),
    /// It is taken for that one; and what the parameter takes here.
    TakenFor(i64, String),
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Notice { line, name, value, done } = self;
        match done {
            Done::PassedOver(why) => write!(f, "line {line}: {name}={value} is passed over: {why}"),
            Done::TakenFor(n, takes) => {
                write!(f, "line {line}: {name}={value} is taken for {n}: here it is {takes}")
            }
        }
    }
}

/// Modules whose options are of interest.
const OURS: [Module; 4] = [Module::Ksocklnd, Module::Lnet, Module::Libcfs, Module::Pollnd];

/// The commands of modprobe.d(5), how many words have to follow, and which. The last two are no longer obeyed, nor
/// refused.
const COMMANDS: &[(&str, usize, &str)] = &[
    ("options", 2, "a module and NAME=VALUE"),
    ("alias", 2, "a name and a module"),
    ("blacklist", 1, "a module"),
    ("install", 2, "a module and a command"),
    ("remove", 2, "a module and a command"),
    ("softdep", 2, "a module and pre: or post: modules"),
    ("weakdep", 2, "a module and modules"),
    ("include", 1, "a path"),
    ("config", 1, "a word"),
];

/// Most of a wrong word that an error shows, in characters.
const SHOWN: usize = 40;

/// Words of a line, quotations whole and without their marks; a comment ends it.
fn words(line: &str) -> Result<Vec<String>, LineError> {
    let (mut all, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            ('#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => all.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    all.extend(word);
    if quote.is_some() { Err(LineError::Quote) } else { Ok(all) }
}

/// The module of a line with options, if it is one of [`OURS`].
fn module(text: &str) -> Result<Option<Module>, LineError> {
    let mut words = text.split_whitespace();
    let Some(first) = words.next().filter(|w| !w.starts_with('#')) else { return Ok(None) };
    let (command, least, takes) = *COMMANDS
        .iter()
        .find(|c| c.0 == first)
        .ok_or_else(|| LineError::Command(first.chars().take(SHOWN).collect()))?;
    if words.clone().count() < least {
        return Err(LineError::Short { command, takes });
    }
    // The kernel takes - and _ in the name of a module for the same.
    let named = words.next().filter(|_| command == "options").map(|m| m.replace('-', "_"));
    Ok(named.and_then(|n| OURS.into_iter().find(|m| m.name() == n)))
}

/// One parameter of a kernel module.
fn parameter(
    cfg: &mut Config,
    module: Module,
    name: &str,
    value: &str,
) -> Result<Option<(&'static str, Done)>, LineError> {
    let Some(p) = kernel::find(module, name) else {
        return match kernel::anywhere(name) {
            Some(p) => Err(TuneError::Module { name: p.name, module: p.module.name() }.into()),
            // Those of libcfs are about CPUs, or about its own log.
            None if module == Module::Libcfs => Ok(None),
            None => Err(TuneError::Name(name.to_owned()).into()),
        };
    };
    if p.here == Here::Routes {
        // As with modprobe, the last line counts.
        cfg.site_routes = route::from_parameter(value)?;
        return Ok(None);
    }
    if let Here::PassedOver(why) = p.here {
        if p.kind == Kind::Number && number(value).is_none() {
            let takes = "a number".into();
            return Err(TuneError::Value { name: p.name, value: value.into(), takes }.into());
        }
        return Ok(Some((p.name, Done::PassedOver(why))));
    }
    let t = find(name)?;
    Ok(match t.read_file(cfg.tcp_kind, value)? {
        FromFile::Set(n) => {
            t.put(cfg, n);
            None
        }
        FromFile::Near(n) => {
            t.put(cfg, n);
            Some((t.name, Done::TakenFor(n, t.takes())))
        }
        FromFile::PassedOver(why) => Some((t.name, Done::PassedOver(why))),
    })
}

/// One logical line.
fn line(cfg: &mut Config, n: usize, text: &str, notices: &mut Vec<Notice>) -> Result<(), LineError> {
    let Some(module) = module(text)? else { return Ok(()) };
    for pair in words(text)?.into_iter().skip(2) {
        let Some((name, value)) = pair.split_once('=') else { return Err(LineError::Pair(pair)) };
        if module == Module::Pollnd {
            let t = find(name)?;
            if t.module != module {
                return Err(TuneError::Module { name: t.name, module: t.module.name() }.into());
            }
            t.set(cfg, value)?;
        } else if let Some((name, done)) = parameter(cfg, module, name, value)? {
            notices.push(Notice { line: n, name, value: value.to_owned(), done });
        }
    }
    Ok(())
}

/// Takes in the lines of a modprobe configuration for our modules: `options ksocklnd credits=256 peer_credits=16`.
/// Comments, and what is said of other modules, are passed over without a word; gives what is said of ours and not
/// done, or done otherwise.
///
/// # Errors
/// The first line that is wrong; those before it are in `cfg`.
pub fn from_modprobe(cfg: &mut Config, text: &str) -> Result<Vec<Notice>, FileError> {
    let mut notices = Vec::new();
    let (mut whole, mut first) = (String::new(), None);
    for (n, part) in text.lines().enumerate() {
        let n = *first.get_or_insert(n + 1);
        if let Some(part) = part.strip_suffix('\\') {
            whole.push_str(part);
            continue;
        }
        whole.push_str(part);
        line(cfg, n, &whole, &mut notices).map_err(|why| FileError { line: n, why })?;
        whole.clear();
        first = None;
    }
    // A last line that promised another.
    let n = first.unwrap_or(0);
    line(cfg, n, &whole, &mut notices).map_err(|why| FileError { line: n, why })?;
    Ok(notices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnd::{Accept, TcpKind};
    use crate::wire::Nid;

    fn read(text: &str) -> Result<(Config, Vec<String>), String> {
        let mut c = Config::new(Nid::LO, 1);
        let said = from_modprobe(&mut c, text).map_err(|e| e.to_string())?;
        Ok((c, said.iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn lines_of_our_modules_are_taken_in_and_others_passed_over() {
        let text = "# site\n\
            options lnet networks=\"tcp0(eth0), o2ib0(ib0)\" accept='all'\n\
            options ksocklnd credits=512 peer_credits=32 # fast\n\
            options kvm nested=1\n\
            alias x y\n\
            \toptions ksocklnd \\\n  tos=0x28 \\\n  zc_recv=0\n\
            options pollnd zc_v2=1\n\
            options lnet ip2nets=\"tcp 10.*.*.*; o2ib 192.168.*.*\" lnet_retry_count=3";
        let (c, said) = read(text).unwrap();
        assert_eq!((c.accept, c.ni_credits, c.peer_credits), (Accept::All, 512, 32));
        assert_eq!((c.tcp.tos, c.zc_v2, c.retry_count), (Some(0x28), true, 3));
        assert_eq!(
            said,
            [
                "line 2: networks=tcp0(eth0), o2ib0(ib0) is passed over: --nid names the network and the address",
                "line 10: ip2nets=tcp 10.*.*.*; o2ib 192.168.*.* is passed over: --nid names the network and the address"
            ]
        );
        // Later ones win, as with modprobe.
        assert_eq!(read("options lnet accept=all\noptions lnet accept=none").unwrap().0.accept, Accept::None);
    }

    /// Field report 12: lines of ordinary sites.
    #[test]
    fn what_a_kernel_has_and_this_node_has_not_is_passed_over_and_named() {
        let text = "options lnet cpu_npartitions=2 lock_prim_nid=1\n\
            options libcfs cpu_pattern=\"0[0-3] 1[4-7]\" libcfs_debug=0\n\
            options ksocklnd nscheds=6 peer_timeout=100 min_reconnectms=500 nagle=7 keepalive=-1\n\
            options ksocklnd zc_min_payload=1024 conns_per_peer=200 peer_timeout=180 nconnds=4 zc_recv=0\n\
            options lnet \"forwarding=enabled\" tiny_router_buffers=512 lnet_health_sensitivity=0 peer_buffer_credits=64";
        let (c, said) = read(text).unwrap();
        insta::assert_snapshot!(said.join("\n"), @r"
        line 1: cpu_npartitions=2 is passed over: --cpu-pattern says where this node's lcores are
        line 1: lock_prim_nid=1 is passed over: a peer goes by the name that it gives itself
        line 2: cpu_pattern=0[0-3] 1[4-7] is passed over: --cpu-pattern says where this node's lcores are
        line 3: nscheds=6 is passed over: lcores do that work: --lcores
        line 3: peer_timeout=100 is passed over: routers watch networks here, not peers
        line 3: min_reconnectms=500 is taken for 1000: here it is 1000 to 3600000 (ms)
        line 3: keepalive=-1 is taken for 0: here it is 0 to 86400 (s)
        line 4: zc_min_payload=1024 is taken for 2048: here it is 2048 to 16777216 (bytes)
        line 4: conns_per_peer=200 is taken for 127: here it is 0 to 127 (connections)
        line 5: peer_buffer_credits=64 is passed over: ksocklnd's of that name goes before it
        ");
        assert!(c.tcp.nagle && c.routing.forwarding && c.routing.buffers() == [512, 16_384, 1024]);
        assert_eq!(c.health_sensitivity, 0);
        assert_eq!(
            (c.min_reconnect, c.keepalive, c.zc_min_payload, c.conns_per_peer),
            (1_000_000_000, 0, 2048, 127)
        );
    }

    /// Field report 12: no parameter of any release keeps a site's file from being read, with any value that loads.
    #[test]
    fn each_parameter_of_each_release_may_stand_in_a_file() {
        for p in kernel::PARAMS {
            let words: &[&str] = match (p.name, p.kind) {
                ("accept", _) => &["secure", "all", "none"],
                ("forwarding", _) => &["", "enabled", "disabled"],
                ("routes", _) => &["", "tcp1 10.0.0.1@tcp", "o2ib 1 10.0.0.[1-4]@tcp1:2; tcp7 fd00::1@tcp"],
                (_, Kind::Text) => &["", "x", "a b"],
                (_, Kind::Number) => &["1", "2", "4", "0x4"],
            };
            for w in words {
                for kind in [TcpKind::Sockets, TcpKind::Port] {
                    let mut c = Config::new(Nid::LO, 1);
                    c.tcp_kind = kind;
                    let text = format!("options {} {}=\"{w}\"", p.module.name(), p.name);
                    let said = from_modprobe(&mut c, &text).unwrap_or_else(|e| panic!("{text}: {e}"));
                    let over = matches!(p.here, Here::PassedOver(_));
                    assert!(!over || said.len() == 1 && said[0].name == p.name, "{text}: {said:?}");
                }
            }
        }
    }

    /// Field report 12: what modprobe.d(5) allows.
    #[test]
    fn the_syntax_of_modprobe_d() {
        let text = "\n   \n#c\n  # c\n# a comment that goes \\\n on\n\
            alias net-pf-10 off\nblacklist kvm\nsoftdep lnet pre: ib_core post: x\nweakdep a b\n\
            install ksocklnd /sbin/modprobe --ignore-install ksocklnd && echo \"it's there\r\n\
            remove lnet /usr/sbin/lustre_rmmod 'ldiskfs\ninclude /etc/x\nconfig binary_indexes\n\
            options ko2iblnd-opa peer_credits=128 map_on_demand=32\noptions ptlrpc ptlrpcd_per_cpt_max=32\n\
            options ksocklnd credits=300 \\";
        let (c, said) = read(text).unwrap();
        assert_eq!((c.ni_credits, said.len()), (300, 0));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let long = "x".repeat(500);
        for (text, says) in [
            // Field report 12.
            (
                "optons ksocklnd credits=1",
                "line 1: \"optons\" is no command of modprobe.d: a line begins with options,",
            ),
            ("#\nlnet accept=foo", "line 2: \"lnet\" is no command"),
            (&long, "line 1: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" is no command"),
            ("\u{1}\0", "line 1: \"\\u{1}\\0\" is no command"),
            ("OPTIONS lnet accept=all", "line 1: \"OPTIONS\" is no command"),
            ("options", "line 1: `options` takes a module and NAME=VALUE"),
            ("options lnet", "line 1: `options` takes a module and NAME=VALUE"),
            ("blacklist", "line 1: `blacklist` takes a module"),
            ("alias x", "line 1: `alias` takes a name and a module"),
            ("options lnet accept=foo", "line 1: accept=foo: it takes secure, all, none, trust"),
            ("options ksocklnd tos=300", "line 1: tos=300: it takes -1 to 255 (byte)"),
            ("options ksocklnd credits=0", "line 1: credits=0: it takes 1 to 65535 (messages)"),
            ("options ksocklnd nscheds=many", "line 1: nscheds=many: it takes 0 (threads a CPT)"),
            ("options lnet auto_down=yes", "line 1: auto_down=yes: it takes a number"),
            (
                "options ksocklnd networks=tcp",
                "line 1: networks is a tunable of lnet: write `options lnet networks=...`",
            ),
            ("options pollnd credits=8", "line 1: credits is a tunable of ksocklnd"),
            ("options lnet routes=\"tcp1 10.0.0.x@tcp\"", "line 1: routes: `10.0.0.x` is no IPv4"),
            ("options lnet routes=tcp1", "line 1: routes: \"tcp1\" is no route: write NETWORK GATEWAY"),
            ("\noptions ksocklnd credits", "line 2: \"credits\" is not NAME=VALUE"),
            ("options ksocklnd a=\"b c", "line 1: the quotation does not end"),
            (
                "alias a b\n\noptions ksocklnd \\\n tos=8 tos=300",
                "line 3: tos=300: it takes -1 to 255 (byte)",
            ),
            (
                "options lnet credits=1",
                "line 1: credits is a tunable of ksocklnd: write `options ksocklnd credits=...`",
            ),
            ("options lnet acept=all \\", "line 1: acept is no tunable"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.starts_with(says), "{e}");
        }
        assert!(read("lnet accept=all").unwrap_err().ends_with("or #; write `options lnet NAME=VALUE`"));
    }
}
