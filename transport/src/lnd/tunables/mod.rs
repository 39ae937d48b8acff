//! Tunables by the names that the kernel's modules give them, with their defaults and units (docs/protocol/socklnd.md
//! §10, docs/tunables.md).
//!
//! A parameter without a counterpart here (threads that sleep, say) is known by name as well: its default is taken, anything
//! else is refused with the reason. A file that a Lustre node has already is not refused for that: what has no use here
//! is passed over and told ([`from_modprobe`], [`kernel`]). Numbers are read as the kernel reads them: `0x` before
//! hexadecimal ones, `0` before octal ones.

pub mod kernel;
mod modprobe;
mod table;

use std::fmt;
use std::ops::RangeInclusive;

pub use self::modprobe::{Done, FileError, LineError, Notice, from_modprobe};
pub use self::table::{ALL, line, table};
use super::config::{Config, NiConfig, SEC, TcpKind};
use crate::wire::{Nid, Version};

/// Modules that tunables belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// The socket LND.
    Ksocklnd,
    /// LNet's core.
    Lnet,
    /// The library below Lustre and LNet: of interest for the CPUs that it shares out.
    Libcfs,
    /// This node's own: kernels have no such thing.
    Pollnd,
}

impl Module {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Module::Ksocklnd => "ksocklnd",
            Module::Lnet => "lnet",
            Module::Libcfs => "libcfs",
            Module::Pollnd => "pollnd",
        }
    }
}

/// The unit of what is off or on.
const FLAG: &str = "flag";

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

/// Differences where the streams are those of our own TCP.
enum OnPorts {
    /// Nothing.
    Same,
    /// It is read when the node starts, since...
    AtStart(&'static str),
    /// Only this value is true there, since...
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
    /// Its effect, in a few words.
    pub about: &'static str,
    /// Whether the kernel lets it be changed while it runs.
    runtime: bool,
    /// Least and greatest number with which a kernel loads its module and works.
    loads: (i64, i64),
    /// A kernel takes an empty word for the first one.
    empty: bool,
    ports: OnPorts,
    what: What,
}

impl fmt::Debug for Tunable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Reason why a tunable was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TuneError {
    /// No such name.
    #[error("{0} is no tunable of socklnd or LNet{hint}: `pollnd tunables --defaults` lists them", hint = hint(.0))]
    Name(String),
    /// A parameter of a kernel module, and of no use here.
    #[error("{name}: there is nothing to tune here, since {why}")]
    NoUse {
        /// Parameter.
        name: &'static str,
        /// Why.
        why: &'static str,
    },
    /// Of another module.
    #[error("{name} is a tunable of {module}: write `options {module} {name}=...`")]
    Module {
        /// Tunable.
        name: &'static str,
        /// Its module.
        module: &'static str,
    },
    /// Not a number, or out of range.
    #[error("{name}={value}: it takes {takes}")]
    Value {
        /// Tunable.
        name: &'static str,
        /// The value given.
        value: String,
        /// Values that it takes, with their unit.
        takes: String,
    },
    /// It has one value here.
    #[error("{name}={value}: here it is always {only}, since {why}")]
    Fixed {
        /// Tunable.
        name: &'static str,
        /// The value given.
        value: String,
        /// Its value.
        only: i64,
        /// Why.
        why: &'static str,
    },
    /// A node that runs does not look at it again.
    #[error("{name}={value}: it is read at load time: start the node again with --tunable {name}={value}")]
    LoadTime {
        /// Tunable.
        name: &'static str,
        /// The value given.
        value: String,
    },
    /// LNet divides the one by the other.
    #[error(
        "lnet_transaction_timeout={timeout} and lnet_retry_count={retries}: the time-out (s) has to be greater than the count"
    )]
    Retries {
        /// Transaction time-out in s.
        timeout: u64,
        /// Retries.
        retries: u32,
    },
}

/// The number that `s` is to a kernel.
fn number(s: &str) -> Option<i64> {
    let (minus, digits) = s.strip_prefix('-').map_or((false, s), |d| (true, d));
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let n = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with(['+', '-']))
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8).ok()
    } else {
        digits.parse().ok()
    }?;
    Some(if minus { -n } else { n })
}

impl Tunable {
    /// The only value that is true over TCP of this kind, and why.
    fn only(&self, kind: TcpKind) -> Option<(i64, &'static str)> {
        match (&self.what, &self.ports) {
            (What::Fixed(n, why), _) => Some((*n, why)),
            (_, OnPorts::Fixed(n, why)) if kind == TcpKind::Port => Some((*n, why)),
            _ => None,
        }
    }

    /// Reason why it has only one value in `cfg`, if so.
    pub fn fixed(&self, cfg: &Config) -> Option<&'static str> {
        self.only(cfg.tcp_kind).map(|(_, why)| why)
    }

    /// Whether it can be changed while a node of `cfg` runs.
    pub fn runtime(&self, cfg: &Config) -> bool {
        self.runtime && !(cfg.tcp_kind == TcpKind::Port && matches!(self.ports, OnPorts::AtStart(_)))
    }

    /// Reason why it cannot, where a kernel could.
    pub fn at_start(&self, cfg: &Config) -> Option<&'static str> {
        match self.ports {
            OnPorts::AtStart(why) if cfg.tcp_kind == TcpKind::Port => Some(why),
            _ => None,
        }
    }

    /// Values that it takes, in words.
    pub fn takes(&self) -> String {
        match &self.what {
            What::Number(r, ..) => format!("{} to {} ({})", r.start(), r.end(), self.unit),
            What::Word(words, ..) => words.join(", "),
            What::Fixed(only, _) => format!("{only} ({})", self.unit),
        }
    }

    /// Its value in `cfg`.
    pub fn value(&self, cfg: &Config) -> String {
        match &self.what {
            What::Word(words, get, _) => {
                usize::try_from(get(cfg)).ok().and_then(|i| words.get(i)).unwrap_or(&"?").to_string()
            }
            _ => self.number(cfg).unwrap_or(0).to_string(),
        }
    }

    /// Its value in `cfg`, where it is a number.
    pub fn number(&self, cfg: &Config) -> Option<i64> {
        match &self.what {
            What::Number(_, get, _) => Some(get(cfg)),
            What::Fixed(only, _) => Some(*only),
            What::Word(..) => None,
        }
    }

    /// The number behind `value`, if it is one that may be set.
    fn read(&self, kind: TcpKind, value: &str) -> Result<i64, TuneError> {
        let bad = || TuneError::Value { name: self.name, value: value.into(), takes: self.takes() };
        if let Some((only, why)) = self.only(kind) {
            let same = number(value) == Some(only);
            let other = TuneError::Fixed { name: self.name, value: value.into(), only, why };
            return if same { Ok(only) } else { Err(other) };
        }
        match &self.what {
            What::Number(r, ..) => number(value).filter(|v| r.contains(v)).ok_or_else(bad),
            What::Word(words, ..) => words.iter().position(|w| *w == value).map(|i| i as i64).ok_or_else(bad),
            What::Fixed(only, _) => Ok(*only),
        }
    }

    /// Its value in a kernel's file: kernels take more numbers than there is a meaning for.
    fn read_file(&self, kind: TcpKind, value: &str) -> Result<FromFile, TuneError> {
        let bad = || TuneError::Value { name: self.name, value: value.into(), takes: self.takes() };
        let n = || {
            let n = number(value).filter(|n| (self.loads.0..=self.loads.1).contains(n)).ok_or_else(bad)?;
            Ok(if self.unit == FLAG { i64::from(n != 0) } else { n })
        };
        if let Some((only, why)) = self.only(kind) {
            return Ok(if n()? == only { FromFile::Set(only) } else { FromFile::PassedOver(why) });
        }
        match &self.what {
            What::Number(r, ..) => {
                let n = n()?;
                let near = n.clamp(*r.start(), *r.end());
                Ok(if near == n { FromFile::Set(n) } else { FromFile::Near(near) })
            }
            What::Word(..) if self.empty && value.is_empty() => Ok(FromFile::Set(0)),
            What::Word(..) | What::Fixed(..) => self.read(kind, value).map(FromFile::Set),
        }
    }

    fn put(&self, cfg: &mut Config, v: i64) {
        match &self.what {
            What::Number(_, _, set) | What::Word(_, _, set) => set(cfg, v),
            What::Fixed(..) => {}
        }
    }

    /// Sets it in `cfg`.
    ///
    /// # Errors
    /// [`TuneError::Value`], [`TuneError::Fixed`]; nothing was changed then.
    pub fn set(&self, cfg: &mut Config, value: &str) -> Result<(), TuneError> {
        let v = self.read(cfg.tcp_kind, value)?;
        self.put(cfg, v);
        Ok(())
    }
}

/// Outcome for a value in a kernel's file.
enum FromFile {
    /// It is set.
    Set(i64),
    /// The nearest that there is here is set.
    Near(i64),
    /// Nothing, since...
    PassedOver(&'static str),
}

/// Tunables whose names end with the one that is none: lnetctl has some without the module's prefix, as retry_count.
fn hint(name: &str) -> String {
    let ends = |t: &&Tunable| t.name.strip_suffix(name).is_some_and(|head| head.ends_with('_'));
    let near: Vec<&str> = ALL.iter().filter(ends).map(|t| t.name).collect();
    if near.is_empty() || name.is_empty() {
        String::new()
    } else {
        format!(" (did you mean {}?)", near.join(", "))
    }
}

/// The tunable `name`.
///
/// # Errors
/// [`TuneError::Name`], [`TuneError::NoUse`]
pub fn find(name: &str) -> Result<&'static Tunable, TuneError> {
    ALL.iter().find(|t| t.name == name).ok_or_else(|| match kernel::anywhere(name) {
        Some(&kernel::Param { name, here: kernel::Here::PassedOver(why), .. }) => {
            TuneError::NoUse { name, why }
        }
        Some(&kernel::Param { name, here: kernel::Here::Routes, .. }) => {
            TuneError::NoUse { name, why: "--route, or a file of --options, says it" }
        }
        _ => TuneError::Name(name.to_owned()),
    })
}

/// Sets the tunable `name` in the configuration of a node that does not run yet.
///
/// # Errors
/// [`TuneError`].
pub fn set(cfg: &mut Config, name: &str, value: &str) -> Result<(), TuneError> {
    find(name)?.set(cfg, value)
}

/// Whether the values go together.
///
/// # Errors
/// [`TuneError::Retries`]
pub fn check(cfg: &Config) -> Result<(), TuneError> {
    let (timeout, retries) = (cfg.transaction_timeout / SEC, cfg.retry_count);
    if timeout <= u64::from(retries) {
        return Err(TuneError::Retries { timeout, retries });
    }
    Ok(())
}

/// Does with `cfg` what the kernel does before it starts, and says what it changed or what is not as it seems.
pub fn settle(cfg: &mut Config) -> Vec<String> {
    let mut said = Vec::new();
    let of = |n: &NiConfig| n.credits.unwrap_or(cfg.ni_credits);
    let most = cfg.nis.iter().map(of).max().unwrap_or(cfg.ni_credits);
    if cfg.peer_credits > most {
        said.push(format!(
            "peer_credits={} is more than credits={most}: taken for that many",
            cfg.peer_credits
        ));
    }
    let capped = cfg.peer_credits.min(most);
    said.extend(cfg.nis.iter().filter_map(|n| fewer_credits(capped, of(n), n.nid)));
    cfg.peer_credits = capped;
    if !cfg.typed_conns && cfg.nids().any(|n| cfg.first_version(n).is_typed()) {
        said.push(
            "typed_conns=0: untyped connections carry nothing in versions 3 and 4; give protocol=2, too, and an IPv4 NID"
                .into(),
        );
    }
    if cfg.routing.cut_through && !cfg.routing.forwarding {
        said.push(
            "cut_through=1 without forwarding=enabled: nothing is passed on until this node is ordered to (pollnd lnetctl set \
             routing 1)"
                .into(),
        );
    }
    if cfg.tcp.tos.is_some() && cfg.tcp.mark().is_none() {
        said.push(
            "tos is applied only where TCP's keep-alive is enabled: keepalive_idle, _count, _intvl".into(),
        );
    }
    said
}

/// Text about an NI whose own credits are fewer than `peer_credits`: a peer has no more of them there.
pub fn fewer_credits(peer_credits: u32, credits: u32, nid: Nid) -> Option<String> {
    (credits < peer_credits).then(|| {
        format!(
            "peer_credits={peer_credits} is more than credits={credits} of {nid}: taken for that many there"
        )
    })
}

/// A change to a node that runs, checked.
#[derive(Clone, Copy, Debug)]
pub struct Change(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Set(&'static Tunable, i64),
    Link(Option<u32>),
}

impl Change {
    /// The tunable `name` gets a value while a node of `cfg` runs.
    ///
    /// # Errors
    /// [`TuneError`]
    pub fn new(cfg: &Config, name: &str, value: &str) -> Result<Change, TuneError> {
        let t = find(name)?;
        let v = t.read(cfg.tcp_kind, value)?;
        if !t.runtime(cfg) {
            return Err(TuneError::LoadTime { name: t.name, value: value.into() });
        }
        let mut after = cfg.clone();
        t.put(&mut after, v);
        check(&after)?;
        Ok(Change(Kind::Set(t, v)))
    }

    /// The tunable `t` gets the value that it has in `after`, whose values go together ([`check`]), while a node of `cfg`
    /// runs.
    ///
    /// # Errors
    /// [`TuneError::LoadTime`]
    pub fn towards(cfg: &Config, after: &Config, t: &'static Tunable) -> Result<Change, TuneError> {
        let value = t.value(after);
        if !t.runtime(cfg) {
            return Err(TuneError::LoadTime { name: t.name, value });
        }
        Ok(Change(Kind::Set(t, t.read(cfg.tcp_kind, &value)?)))
    }

    /// The link has this speed in Mbit/s, or it is not known.
    pub fn link(mbps: Option<u32>) -> Change {
        Change(Kind::Link(mbps))
    }

    /// Makes the change.
    pub(crate) fn apply(&self, cfg: &mut Config) {
        match self.0 {
            Kind::Set(t, v) => t.put(cfg, v),
            Kind::Link(mbps) => cfg.link_mbps = mbps,
        }
    }
}

/// The version behind `protocol`: the kernel's 3 leaves the choice to the address family.
fn version(v: i64) -> Option<Version> {
    match v {
        1 => Some(Version::V1),
        2 => Some(Version::V2),
        4 => Some(Version::V4),
        _ => None,
    }
}

/// The number of a version; that of none is the kernel's default.
fn protocol(v: Option<Version>) -> i64 {
    match v {
        Some(Version::V1) => 1,
        Some(Version::V2) => 2,
        None | Some(Version::V3) => 3,
        Some(Version::V4) => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lnd::Accept;
    use crate::wire::Nid;

    fn cfg() -> Config {
        Config::new(Nid::LO, 1)
    }

    #[test]
    fn values_by_default() {
        insta::assert_snapshot!(table(&cfg()), @r"
        sock_timeout                    50  ksocklnd rw  0 to 86400 (s)
        credits                        256  ksocklnd ro  1 to 65535 (messages)
        peer_credits                     8  ksocklnd ro  1 to 65535 (messages)
        peer_buffer_credits              0  ksocklnd ro  0 to 65535 (messages)
        peer_timeout                   180  ksocklnd ro  fixed: routers watch networks here, not peers
        nscheds                          0  ksocklnd ro  fixed: lcores do that work: --lcores
        nconnds                          4  ksocklnd ro  fixed: lcores make connections without threads of their own
        nconnds_max                     64  ksocklnd ro  fixed: lcores make connections without threads of their own
        min_reconnectms               1000  ksocklnd rw  1000 to 3600000 (ms)
        max_reconnectms              60000  ksocklnd rw  1000 to 3600000 (ms)
        eager_ack                        0  ksocklnd rw  fixed: our TCP acknowledges at once, and the kernel's sockets when the kernel sees fit
        typed_conns                      1  ksocklnd ro  0 to 1 (flag)
        min_bulk                      1024  ksocklnd rw  0 to 1048576 (bytes)
        tx_buffer_size                   0  ksocklnd rw  0 to 1073741824 (bytes)
        rx_buffer_size                   0  ksocklnd rw  0 to 1073741824 (bytes)
        nagle                            0  ksocklnd rw  0 to 1 (flag)
        round_robin                      1  ksocklnd rw  0 to 1 (flag)
        keepalive                       30  ksocklnd rw  0 to 86400 (s)
        keepalive_idle                  30  ksocklnd rw  -1 to 32767 (s)
        keepalive_count                  5  ksocklnd rw  -1 to 127 (probes)
        keepalive_intvl                  5  ksocklnd rw  -1 to 32767 (s)
        enable_csum                      0  ksocklnd rw  0 to 1 (flag)
        inject_csum_error                0  ksocklnd rw  0 to 1 (flag)
        nonblk_zcack                     1  ksocklnd rw  0 to 1 (flag)
        zc_min_payload               16384  ksocklnd rw  2048 to 16777216 (bytes)
        zc_recv                          0  ksocklnd rw  fixed: receive buffers are lent without it
        zc_recv_min_nfrags              16  ksocklnd rw  fixed: receive buffers are lent without it
        conns_per_peer                   0  ksocklnd rw  0 to 127 (connections)
        tos                             -1  ksocklnd ro  -1 to 255 (byte)
        enable_irq_affinity              0  ksocklnd ro  fixed: queues are polled
        skip_mr_route_setup              0  ksocklnd rw  fixed: no route is ever set
        backoff_init                     3  ksocklnd rw  fixed: no TCP that we use has that patch
        backoff_max                      3  ksocklnd rw  fixed: no TCP that we use has that patch
        protocol                         3  ksocklnd ro  1 to 4 (version)
        accept                      secure  lnet     ro  secure, all, none, trust
        accept_port                    988  lnet     ro  1 to 65535 (port)
        accept_port_bulk               988  lnet     ro  1 to 65535 (port)
        accept_backlog                 127  lnet     ro  1 to 65535 (connections)
        accept_timeout                   5  lnet     rw  1 to 3600 (s)
        forwarding                  disabled  lnet     rw  disabled, enabled
        tiny_router_buffers              0  lnet     rw  0 to 1048576 (buffers)
        small_router_buffers             0  lnet     rw  0 to 1048576 (buffers)
        large_router_buffers             0  lnet     rw  0 to 1048576 (buffers)
        lnet_transaction_timeout       150  lnet     rw  1 to 3600 (s)
        lnet_retry_count                 2  lnet     rw  0 to 255 (retries)
        lnet_health_sensitivity        100  lnet     rw  0 to 1000 (points)
        lnet_recovery_limit              0  lnet     rw  0 to 86400 (s)
        lnet_max_recovery_ping_interval   900  lnet     rw  1 to 3600 (s)
        lnet_peer_discovery_disabled     0  lnet     rw  0 to 1 (flag)
        alive_router_check_interval     60  lnet     rw  0 to 86400 (s)
        router_ping_timeout             50  lnet     rw  1 to 3600 (s)
        avoid_asym_router_failure        1  lnet     rw  0 to 1 (flag)
        lnet_drop_asym_route             0  lnet     rw  0 to 1 (flag)
        zc_v2                            0  pollnd   ro  0 to 1 (flag)
        cut_through                      0  pollnd   rw  0 to 1 (flag)
        v1_on_reset                      0  pollnd   ro  0 to 1 (flag)
        unprivileged_v6                  0  pollnd   ro  0 to 1 (flag)
        ");
    }

    #[test]
    fn what_is_different_on_ports() {
        let (mut ports, sockets) = (cfg(), cfg());
        ports.tcp_kind = TcpKind::Port;
        let differ: String = ALL
            .iter()
            .map(|t| (line(t, &sockets), line(t, &ports)))
            .filter(|(a, b)| a != b)
            .map(|(_, b)| b + "\n")
            .collect();
        insta::assert_snapshot!(differ, @r"
        tx_buffer_size                   0  ksocklnd ro  0 to 1073741824 (bytes); ro: windows are mapped when the node starts
        rx_buffer_size                   0  ksocklnd ro  0 to 1073741824 (bytes); ro: windows are mapped when the node starts
        nagle                            0  ksocklnd rw  fixed: our TCP never holds back small segments
        ");
    }

    #[test]
    fn every_number_and_word_can_be_set_to_its_ends_and_read_back() {
        for t in ALL {
            let mut c = cfg();
            let ends: Vec<String> = match &t.what {
                What::Number(r, ..) => vec![r.start().to_string(), r.end().to_string()],
                What::Word(w, ..) => w.iter().map(ToString::to_string).collect(),
                What::Fixed(only, _) => vec![only.to_string()],
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
        for v in ["100", "16777217", "", "many", "0x", "--4096", "0x+1000", "4096k"] {
            assert_eq!(
                say(&mut c, "zc_min_payload", v),
                format!("zc_min_payload={v}: it takes 2048 to 16777216 (bytes)")
            );
        }
        assert_eq!(say(&mut c, "accept", "some"), "accept=some: it takes secure, all, none, trust");
        assert_eq!(
            say(&mut c, "zc_recv", "1"),
            "zc_recv=1: here it is always 0, since receive buffers are lent without it"
        );
        assert_eq!(
            say(&mut c, "credit", "1"),
            "credit is no tunable of socklnd or LNet: `pollnd tunables --defaults` lists them"
        );
        assert_eq!(
            say(&mut c, "networks", "tcp0(eth0)"),
            "networks: there is nothing to tune here, since --nid names the network and the address"
        );
        assert_eq!(
            say(&mut c, "routes", "tcp1 10.0.0.1@tcp"),
            "routes: there is nothing to tune here, since --route, or a file of --options, says it"
        );
        assert_eq!(c.zc_min_payload, 16_384);
        c.tcp_kind = TcpKind::Port;
        assert_eq!(
            say(&mut c, "nagle", "1"),
            "nagle=1: here it is always 0, since our TCP never holds back small segments"
        );
        set(&mut c, "nagle", "0").unwrap();
    }

    #[test]
    fn numbers_are_read_as_kernels_read_them() {
        let read = ["0", "17", "-1", "0x2f", "0X2F", "017", "-0x10"].map(number);
        assert_eq!(read, [Some(0), Some(17), Some(-1), Some(47), Some(47), Some(15), Some(-16)]);
        assert_eq!(["", "-", "+1", "08", "1 ", "99999999999999999999"].map(number), [None; 6]);
    }

    #[test]
    fn what_is_read_at_load_time_stays_while_the_node_runs() {
        let mut c = cfg();
        let say = |c: &Config, n: &str, v: &str| Change::new(c, n, v).unwrap_err().to_string();
        assert_eq!(
            say(&c, "peer_credits", "16"),
            "peer_credits=16: it is read at load time: start the node again with --tunable peer_credits=16"
        );
        // A fault that counts everywhere is told first.
        assert_eq!(say(&c, "peer_credits", "0"), "peer_credits=0: it takes 1 to 65535 (messages)");
        Change::new(&c, "tx_buffer_size", "65536").unwrap();
        c.tcp_kind = TcpKind::Port;
        assert!(matches!(Change::new(&c, "tx_buffer_size", "65536"), Err(TuneError::LoadTime { .. })));
        Change::new(&c, "min_bulk", "4096").unwrap().apply(&mut c);
        assert_eq!(c.min_bulk, 4096);
        Change::link(Some(100_000)).apply(&mut c);
        assert_eq!(c.conns(), 4);
    }

    #[test]
    fn values_that_do_not_go_together() {
        let mut c = cfg();
        assert_eq!(
            Change::new(&c, "lnet_transaction_timeout", "2").unwrap_err().to_string(),
            "lnet_transaction_timeout=2 and lnet_retry_count=2: the time-out (s) has to be greater than the count"
        );
        set(&mut c, "lnet_retry_count", "10").unwrap();
        set(&mut c, "lnet_transaction_timeout", "10").unwrap();
        assert_eq!(check(&c), Err(TuneError::Retries { timeout: 10, retries: 10 }));
        let mut c = cfg();
        assert_eq!(settle(&mut c), Vec::<String>::new());
        for (n, v) in [("peer_credits", "300"), ("typed_conns", "0"), ("tos", "8"), ("keepalive_idle", "-1")]
        {
            set(&mut c, n, v).unwrap();
        }
        let said = settle(&mut c);
        assert_eq!((c.peer_credits, said.len()), (256, 3), "{said:?}");
        set(&mut c, "protocol", "2").unwrap();
        assert!(!settle(&mut c).iter().any(|s| s.contains("typed_conns")));
        let routes = |c: &mut Config| !settle(c).iter().any(|s| s.contains("without forwarding"));
        set(&mut c, "cut_through", "1").unwrap();
        assert!(!routes(&mut c));
        set(&mut c, "forwarding", "enabled").unwrap();
        assert!(routes(&mut c));
    }

    #[test]
    fn the_bulk_port_stays_where_it_is_when_the_other_moves() {
        let mut c = cfg();
        set(&mut c, "accept_port", "5000").unwrap();
        assert_eq!((c.port, c.bulk_port(), c.accept), (5000, 988, Accept::Secure));
        set(&mut c, "accept_port_bulk", "5001").unwrap();
        set(&mut c, "accept_port", "5002").unwrap();
        assert_eq!((c.port, c.bulk_port()), (5002, 5001));
    }
}
