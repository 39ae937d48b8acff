//! Configuration in the syntax of modprobe.d: what a Lustre node has on its disk already.

use super::super::config::Config;
use super::{Module, TuneError, find};

/// What a file has that is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct FileError {
    /// Which line, from 1; the first of those that a `\\` joins.
    pub line: usize,
    /// What is wrong with it.
    pub why: LineError,
}

/// What a line has that is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Not `NAME=VALUE`.
    #[error("{0:?} is not NAME=VALUE")]
    Pair(String),
    /// A quotation that does not end.
    #[error("the quotation does not end")]
    Quote,
    /// A name or value that is wrong.
    #[error(transparent)]
    Tune(#[from] TuneError),
}

/// What LNet's own module takes beside the tunables: networks are named by `--nid` here, and there are no routes,
/// router pings, peer health or discovery to be tuned.
const PASSED_OVER: &[&str] = &[
    "networks",
    "ip2nets",
    "routes",
    "rnet_htable_size",
    "use_tcp_bonding",
    "forwarding",
    "tiny_router_buffers",
    "small_router_buffers",
    "large_router_buffers",
    "peer_buffer_credits",
    "auto_down",
    "check_routers_before_use",
    "avoid_asym_router_failure",
    "alive_router_check_interval",
    "dead_router_check_interval",
    "live_router_check_interval",
    "router_ping_timeout",
    "router_sensitivity_percentage",
    "local_nid_dist_zero",
    "portal_rotor",
    "config_on_load",
    "lnet_numa_range",
    "lnet_interfaces_max",
    "lnet_peer_discovery_disabled",
    "lnet_drop_asym_route",
    "lnet_health_sensitivity",
    "lnet_recovery_interval",
    "lnet_recovery_limit",
    "lnet_max_recovery_ping_interval",
    "lnet_response_tracking",
];

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

/// One logical line.
fn line(cfg: &mut Config, text: &str, passed_over: &mut Vec<String>) -> Result<(), LineError> {
    let mut given = text.split_whitespace();
    let module = match (given.next(), given.next()) {
        (Some("options"), Some(m)) => m,
        _ => return Ok(()),
    };
    let modules = [Module::Ksocklnd, Module::Lnet, Module::Pollnd];
    let Some(module) = modules.into_iter().find(|m| m.name() == module) else { return Ok(()) };
    for pair in words(text)?.into_iter().skip(2) {
        let Some((name, value)) = pair.split_once('=') else { return Err(LineError::Pair(pair)) };
        if module == Module::Lnet && PASSED_OVER.contains(&name) {
            passed_over.push(name.to_owned());
            continue;
        }
        let t = find(name)?;
        if t.module != module {
            return Err(TuneError::Module { name: t.name, module: t.module.name() }.into());
        }
        t.set(cfg, value)?;
    }
    Ok(())
}

/// Takes in the lines of a modprobe configuration for our modules: `options ksocklnd credits=256 peer_credits=16`.
/// Comments, and lines for other modules, are passed over; gives the names of LNet that mean nothing here.
///
/// # Errors
/// The first line that is wrong; those before it are in `cfg`.
pub fn from_modprobe(cfg: &mut Config, text: &str) -> Result<Vec<String>, FileError> {
    let mut passed_over = Vec::new();
    let (mut whole, mut first) = (String::new(), None);
    for (n, part) in text.lines().enumerate() {
        let n = *first.get_or_insert(n + 1);
        if let Some(part) = part.strip_suffix('\\') {
            whole.push_str(part);
            continue;
        }
        whole.push_str(part);
        line(cfg, &whole, &mut passed_over).map_err(|why| FileError { line: n, why })?;
        whole.clear();
        first = None;
    }
    // A last line that promised another.
    line(cfg, &whole, &mut passed_over).map_err(|why| FileError { line: first.unwrap_or(0), why })?;
    Ok(passed_over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Accept;
    use crate::wire::Nid;

    fn read(text: &str) -> Result<(Config, Vec<String>), String> {
        let mut c = Config::new(Nid::LO, 1);
        let over = from_modprobe(&mut c, text).map_err(|e| e.to_string())?;
        Ok((c, over))
    }

    #[test]
    fn lines_of_our_modules_are_taken_in_and_others_passed_over() {
        let text = "# site\n\
            options lnet networks=\"tcp0(eth0), o2ib0(ib0)\" accept='all'\n\
            options ksocklnd credits=512 peer_credits=32 # fast\n\
            options kvm nested=1\n\
            alias x y\noptions\n\
            \toptions ksocklnd \\\n  tos=0x28 \\\n  zc_recv=0\n\
            options pollnd zc_v2=1\n\
            options lnet ip2nets=\"tcp 10.*.*.*; o2ib 192.168.*.*\" lnet_retry_count=3";
        let (c, over) = read(text).unwrap();
        assert_eq!((c.accept, c.ni_credits, c.peer_credits), (Accept::All, 512, 32));
        assert_eq!((c.tcp.tos, c.zc_v2, c.retry_count), (Some(0x28), true, 3));
        assert_eq!(over, ["networks", "ip2nets"]);
        // Later ones win, as with modprobe.
        assert_eq!(read("options lnet accept=all\noptions lnet accept=none").unwrap().0.accept, Accept::None);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, says) in [
            ("\noptions ksocklnd credits", "line 2: \"credits\" is not NAME=VALUE"),
            ("options ksocklnd a=\"b c", "line 1: the quotation does not end"),
            ("a\n\noptions ksocklnd \\\n tos=8 tos=300", "line 3: tos=300: it takes -1 to 255 (byte)"),
            (
                "options lnet credits=1",
                "line 1: credits is a tunable of ksocklnd: write `options ksocklnd credits=...`",
            ),
            ("options lnet acept=all \\", "line 1: acept is no tunable"),
            (
                "options ksocklnd nscheds=4",
                "line 1: nscheds=4: here it is always 0, since lcores do that work",
            ),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.starts_with(says), "{e}");
        }
    }
}
