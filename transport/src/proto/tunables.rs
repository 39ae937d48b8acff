//! Tunables by the names that the kernel's modules give them, in its units (docs/protocol/socklnd.md §10). Defaults are
//! the kernel's but for `conns_per_peer`, which is 1 and not derived from the link's speed.
//!
//! What has no counterpart here (buffer sizes of kernel sockets, threads that sleep) is known by name as well: its
//! default is taken, anything else is refused with the reason.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use super::config::{Accept, Config, SEC};

const MS: u64 = 1_000_000;

/// Which module the kernel has it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// The socket LND.
    Ksocklnd,
    /// LNet's core.
    Lnet,
}

impl Module {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Module::Ksocklnd => "ksocklnd",
            Module::Lnet => "lnet",
        }
    }
}

type Get = fn(&Config) -> i64;
type Set = fn(&mut Config, i64);

enum What {
    /// A number.
    Number(RangeInclusive<i64>, Get, Set),
    /// One of these words.
    Word(&'static [&'static str], Get, Set),
    /// Nothing to tune: only this value is true here, since...
    Fixed(i64, &'static str),
}

/// One tunable.
pub struct Tunable {
    /// Its name.
    pub name: &'static str,
    /// Its module.
    pub module: Module,
    /// Unit, or what it is a number of.
    pub unit: &'static str,
    /// Whether the kernel lets it be changed while it runs.
    pub runtime: bool,
    what: What,
}

/// Why a tunable was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TuneError {
    /// No such name.
    #[error("{0} is no tunable of socklnd or LNet: docs/protocol/socklnd.md §10 lists them")]
    Name(String),
    /// Not a number, or out of range.
    #[error("{name}={value}: it takes {takes}")]
    Value {
        /// Tunable.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it takes, with its unit.
        takes: String,
    },
    /// It has one value here.
    #[error("{name}={value}: here it is always {only}, since {why}")]
    Fixed {
        /// Tunable.
        name: &'static str,
        /// What was given.
        value: String,
        /// Its value.
        only: i64,
        /// Why.
        why: &'static str,
    },
    /// A line that is not `options MODULE NAME=VALUE...`.
    #[error("line {0}: {1:?} is not `options MODULE NAME=VALUE...`")]
    Line(usize, String),
}

fn flag(b: bool) -> i64 {
    i64::from(b)
}

fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

const ACCEPT: &[&str] = &["secure", "all", "none", "trust"];

const fn tunable(
    module: Module,
    runtime: bool,
    name: &'static str,
    unit: &'static str,
    what: What,
) -> Tunable {
    Tunable { name, module, unit, runtime, what }
}

const fn sock(runtime: bool, name: &'static str, unit: &'static str, what: What) -> Tunable {
    tunable(Module::Ksocklnd, runtime, name, unit, what)
}

const fn lnet(runtime: bool, name: &'static str, unit: &'static str, what: What) -> Tunable {
    tunable(Module::Lnet, runtime, name, unit, what)
}

use What::{Fixed, Number, Word};

/// All of them.
pub static ALL: &[Tunable] = &[
    sock(
        true,
        "sock_timeout",
        "s",
        Number(1..=3600, |c| count(c.timeout / SEC), |c, v| c.timeout = v as u64 * SEC),
    ),
    sock(
        false,
        "credits",
        "messages",
        Number(1..=65_535, |c| c.ni_credits.into(), |c, v| c.ni_credits = v as u32),
    ),
    sock(
        false,
        "peer_credits",
        "messages",
        Number(1..=65_535, |c| c.peer_credits.into(), |c, v| c.peer_credits = v as u32),
    ),
    sock(false, "peer_buffer_credits", "messages", Fixed(0, "this node does not route")),
    sock(false, "peer_timeout", "s", Fixed(180, "only routers watch their peers")),
    sock(false, "nscheds", "threads a CPT", Fixed(0, "lcores do that work: --lcores")),
    sock(false, "nconnds", "threads", Fixed(4, "lcores make connections without threads of their own")),
    sock(false, "nconnds_max", "threads", Fixed(64, "lcores make connections without threads of their own")),
    sock(
        true,
        "min_reconnectms",
        "ms",
        Number(1000..=3_600_000, |c| count(c.min_reconnect / MS), |c, v| c.min_reconnect = v as u64 * MS),
    ),
    sock(
        true,
        "max_reconnectms",
        "ms",
        Number(1000..=3_600_000, |c| count(c.max_reconnect / MS), |c, v| c.max_reconnect = v as u64 * MS),
    ),
    sock(true, "eager_ack", "mask", Fixed(0, "ACKs are never delayed")),
    sock(false, "typed_conns", "flag", Number(0..=1, |c| flag(c.typed_conns), |c, v| c.typed_conns = v != 0)),
    sock(true, "min_bulk", "bytes", Number(0..=1 << 20, |c| c.min_bulk.into(), |c, v| c.min_bulk = v as u32)),
    sock(true, "tx_buffer_size", "bytes", Fixed(0, "windows size themselves")),
    sock(true, "rx_buffer_size", "bytes", Fixed(0, "windows size themselves")),
    sock(true, "nagle", "flag", Fixed(0, "small segments are never held back")),
    sock(true, "round_robin", "flag", Number(0..=1, |c| flag(c.round_robin), |c, v| c.round_robin = v != 0)),
    sock(
        true,
        "keepalive",
        "s",
        Number(0..=86_400, |c| count(c.keepalive / SEC), |c, v| c.keepalive = v as u64 * SEC),
    ),
    sock(true, "enable_csum", "flag", Number(0..=1, |c| flag(c.enable_csum), |c, v| c.enable_csum = v != 0)),
    sock(
        true,
        "inject_csum_error",
        "flag",
        Number(0..=1, |c| flag(c.inject_csum_error), |c, v| c.inject_csum_error = v != 0),
    ),
    sock(
        true,
        "nonblk_zcack",
        "flag",
        Number(0..=1, |c| flag(c.nonblk_zcack), |c, v| c.nonblk_zcack = v != 0),
    ),
    sock(
        true,
        "zc_min_payload",
        "bytes",
        Number(2048..=16 << 20, |c| c.zc_min_payload.into(), |c, v| c.zc_min_payload = v as u32),
    ),
    sock(true, "zc_recv", "flag", Fixed(0, "receive buffers are lent without it")),
    sock(
        false,
        "conns_per_peer",
        "connections of each bulk type",
        Number(1..=127, |c| c.conns_per_peer.into(), |c, v| c.conns_per_peer = v as u8),
    ),
    sock(false, "tos", "byte", Fixed(-1, "packets carry no mark")),
    sock(false, "enable_irq_affinity", "flag", Fixed(0, "queues are polled")),
    lnet(
        false,
        "accept",
        "word",
        Word(
            ACCEPT,
            |c| match c.accept {
                Accept::Secure => 0,
                Accept::All => 1,
                Accept::None => 2,
                Accept::Trust => 3,
            },
            |c, v| {
                c.accept = match v {
                    0 => Accept::Secure,
                    1 => Accept::All,
                    2 => Accept::None,
                    _ => Accept::Trust,
                }
            },
        ),
    ),
    lnet(false, "accept_port", "port", Number(1..=65_535, |c| c.port.into(), |c, v| c.port = v as u16)),
    lnet(
        true,
        "accept_timeout",
        "s",
        Number(1..=3600, |c| count(c.accept_timeout / SEC), |c, v| c.accept_timeout = v as u64 * SEC),
    ),
    lnet(
        true,
        "lnet_transaction_timeout",
        "s",
        Number(
            1..=3600,
            |c| count(c.transaction_timeout / SEC),
            |c, v| c.transaction_timeout = v as u64 * SEC,
        ),
    ),
];

impl Tunable {
    /// What it takes, in words.
    pub fn takes(&self) -> String {
        match &self.what {
            Number(r, ..) => format!("{} to {} ({})", r.start(), r.end(), self.unit),
            Word(words, ..) => words.join(", "),
            Fixed(only, _) => format!("{only} ({})", self.unit),
        }
    }

    /// Its value in `cfg`.
    pub fn value(&self, cfg: &Config) -> String {
        match &self.what {
            Number(_, get, _) => get(cfg).to_string(),
            Word(words, get, _) => {
                usize::try_from(get(cfg)).ok().and_then(|i| words.get(i)).unwrap_or(&"?").to_string()
            }
            Fixed(only, _) => only.to_string(),
        }
    }

    /// Why it has only one value here, if so.
    pub fn fixed(&self) -> Option<&'static str> {
        match self.what {
            Fixed(_, why) => Some(why),
            _ => None,
        }
    }

    /// Sets it in `cfg`.
    ///
    /// # Errors
    /// [`TuneError::Value`], [`TuneError::Fixed`]; nothing was changed then.
    pub fn set(&self, cfg: &mut Config, value: &str) -> Result<(), TuneError> {
        let bad = || TuneError::Value { name: self.name, value: value.into(), takes: self.takes() };
        match &self.what {
            Number(r, _, set) => {
                let v = value.parse().ok().filter(|v| r.contains(v)).ok_or_else(bad)?;
                set(cfg, v);
            }
            Word(words, _, set) => {
                let i = words.iter().position(|w| *w == value).ok_or_else(bad)?;
                set(cfg, i as i64);
            }
            Fixed(only, why) => {
                if value.parse() != Ok(*only) {
                    return Err(TuneError::Fixed { name: self.name, value: value.into(), only: *only, why });
                }
            }
        }
        Ok(())
    }
}

/// Sets the tunable `name`.
///
/// # Errors
/// [`TuneError`].
pub fn set(cfg: &mut Config, name: &str, value: &str) -> Result<(), TuneError> {
    let t = ALL.iter().find(|t| t.name == name).ok_or_else(|| TuneError::Name(name.to_owned()))?;
    t.set(cfg, value)
}

/// Takes in the lines of a modprobe configuration for our modules: `options ksocklnd credits=256 peer_credits=16`.
/// Comments, and lines for other modules, are passed over.
///
/// # Errors
/// The first [`TuneError`].
pub fn from_modprobe(cfg: &mut Config, text: &str) -> Result<(), TuneError> {
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some("options"), Some(module)) = (words.next(), words.next()) else { continue };
        if !["ksocklnd", "lnet"].contains(&module) {
            continue;
        }
        for pair in words {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(TuneError::Line(n + 1, line.trim().to_owned()));
            };
            // What LNet says of its networks is said otherwise here: by --nid.
            if module == "lnet" && ["networks", "ip2nets", "routes"].contains(&name) {
                continue;
            }
            set(cfg, name, value)?;
        }
    }
    Ok(())
}

/// A table of all of them with their values in `cfg`.
pub fn table(cfg: &Config) -> String {
    let mut out = String::new();
    for t in ALL {
        let change = if t.runtime { "rw" } else { "ro" };
        let (module, value) = (t.module.name(), t.value(cfg));
        let takes = t.fixed().map_or_else(|| t.takes(), |why| format!("fixed: {why}"));
        let _ = writeln!(out, "{:<26}{value:>8}  {module:<9}{change}  {takes}", t.name);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Nid;

    fn cfg() -> Config {
        Config::new(Nid::LO, 1)
    }

    #[test]
    fn values_by_default() {
        insta::assert_snapshot!(table(&cfg()), @r"
        sock_timeout                    50  ksocklnd rw  1 to 3600 (s)
        credits                        256  ksocklnd ro  1 to 65535 (messages)
        peer_credits                     8  ksocklnd ro  1 to 65535 (messages)
        peer_buffer_credits              0  ksocklnd ro  fixed: this node does not route
        peer_timeout                   180  ksocklnd ro  fixed: only routers watch their peers
        nscheds                          0  ksocklnd ro  fixed: lcores do that work: --lcores
        nconnds                          4  ksocklnd ro  fixed: lcores make connections without threads of their own
        nconnds_max                     64  ksocklnd ro  fixed: lcores make connections without threads of their own
        min_reconnectms               1000  ksocklnd rw  1000 to 3600000 (ms)
        max_reconnectms              60000  ksocklnd rw  1000 to 3600000 (ms)
        eager_ack                        0  ksocklnd rw  fixed: ACKs are never delayed
        typed_conns                      1  ksocklnd ro  0 to 1 (flag)
        min_bulk                      1024  ksocklnd rw  0 to 1048576 (bytes)
        tx_buffer_size                   0  ksocklnd rw  fixed: windows size themselves
        rx_buffer_size                   0  ksocklnd rw  fixed: windows size themselves
        nagle                            0  ksocklnd rw  fixed: small segments are never held back
        round_robin                      1  ksocklnd rw  0 to 1 (flag)
        keepalive                       30  ksocklnd rw  0 to 86400 (s)
        enable_csum                      0  ksocklnd rw  0 to 1 (flag)
        inject_csum_error                0  ksocklnd rw  0 to 1 (flag)
        nonblk_zcack                     1  ksocklnd rw  0 to 1 (flag)
        zc_min_payload               16384  ksocklnd rw  2048 to 16777216 (bytes)
        zc_recv                          0  ksocklnd rw  fixed: receive buffers are lent without it
        conns_per_peer                   1  ksocklnd ro  1 to 127 (connections of each bulk type)
        tos                             -1  ksocklnd ro  fixed: packets carry no mark
        enable_irq_affinity              0  ksocklnd ro  fixed: queues are polled
        accept                      secure  lnet     ro  secure, all, none, trust
        accept_port                    988  lnet     ro  1 to 65535 (port)
        accept_timeout                   5  lnet     rw  1 to 3600 (s)
        lnet_transaction_timeout       150  lnet     rw  1 to 3600 (s)
        ");
    }

    #[test]
    fn every_number_and_word_can_be_set_to_its_ends_and_read_back() {
        for t in ALL {
            let mut c = cfg();
            let ends: Vec<String> = match &t.what {
                Number(r, ..) => vec![r.start().to_string(), r.end().to_string()],
                Word(w, ..) => w.iter().map(ToString::to_string).collect(),
                Fixed(only, _) => vec![only.to_string()],
            };
            for v in ends {
                t.set(&mut c, &v).unwrap();
                assert_eq!(t.value(&c), v, "{}", t.name);
            }
        }
    }

    #[test]
    fn bad_values_name_the_tunable_the_value_and_the_range() {
        let mut c = cfg();
        let say = |c: &mut Config, n: &str, v: &str| set(c, n, v).unwrap_err().to_string();
        assert_eq!(
            say(&mut c, "zc_min_payload", "100"),
            "zc_min_payload=100: it takes 2048 to 16777216 (bytes)"
        );
        assert_eq!(say(&mut c, "accept", "some"), "accept=some: it takes secure, all, none, trust");
        assert_eq!(
            say(&mut c, "nagle", "1"),
            "nagle=1: here it is always 0, since small segments are never held back"
        );
        assert_eq!(
            say(&mut c, "credit", "1"),
            "credit is no tunable of socklnd or LNet: docs/protocol/socklnd.md §10 lists them"
        );
        assert_eq!(c.zc_min_payload, 16_384);
    }

    #[test]
    fn modprobe_lines() {
        let mut c = cfg();
        let text = "# site\noptions lnet networks=tcp0(eth0) accept=all\n\
                    options ksocklnd credits=512 peer_credits=32 # fast\noptions kvm nested=1\nalias x y\n";
        from_modprobe(&mut c, text).unwrap();
        assert_eq!((c.accept, c.ni_credits, c.peer_credits), (Accept::All, 512, 32));
        assert_eq!(
            from_modprobe(&mut c, "\noptions ksocklnd credits").unwrap_err(),
            TuneError::Line(2, "options ksocklnd credits".into())
        );
    }
}
