//! Routes as a configuration has them: to a network that no NI is on, by a gateway that is on one of ours
//! (docs/protocol/upper.md §1).

use std::fmt;
use std::str::FromStr;

use crate::wire::{Brief, NetId, Nid, NidParseError};

/// Most routes of a node.
pub const ROUTES_MAX: usize = 1024;
/// Most gateways that an expression of a `routes=` line stands for.
const EXPANDED_MAX: usize = 256;

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The network that it leads to.
    pub net: NetId,
    /// The router, by its NID on a network of ours.
    pub gateway: Nid,
    /// Networks between, 1 to 255, where it was said: 1 for a gateway that is on the network itself.
    pub hop: Option<u8>,
    /// Routes with the lowest number are taken first.
    pub priority: u32,
}

/// Reason why there is no such route, or can be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The network is one of the node's own.
    #[error("{0} is a network of this node's own NIs: it takes no route")]
    Local(NetId),
    /// `lo`.
    #[error("{0} is no network that a route could lead to: give one as tcp1 or o2ib")]
    Nowhere(NetId),
    /// The gateway is on no network of ours.
    #[error(
        "gateway {0} is on none of this node's networks: give the NID that the router has on one of those, or the node an NI there"
    )]
    Away(Nid),
    /// The gateway is this node.
    #[error("gateway {0} is this node itself: give the NID of the router")]
    Own(Nid),
    /// It is there already.
    #[error("there is a route to {net} by {gateway} already: delete that one first")]
    Twice {
        /// To.
        net: NetId,
        /// By.
        gateway: Nid,
    },
    /// There is none.
    #[error(
        "there is no route to {net} by {gateway}: `pollnd lnetctl route show` lists those that there are"
    )]
    Unknown {
        /// To.
        net: NetId,
        /// By.
        gateway: Nid,
    },
    /// 0 hops.
    #[error("0 hops: give 1 to 255, or none")]
    Hop,
    /// There are too many.
    #[error("there are {ROUTES_MAX} routes already, as many as there may be: delete some")]
    Full,
}

impl RouteError {
    /// The kernel's error number for it, positive.
    pub fn errno(self) -> i32 {
        match self {
            RouteError::Local(_) | RouteError::Twice { .. } => 17,
            RouteError::Away(_) => 113,
            RouteError::Nowhere(_) | RouteError::Own(_) | RouteError::Hop => 22,
            RouteError::Unknown { .. } => 2,
            RouteError::Full => 28,
        }
    }
}

impl Route {
    /// A route of priority 0, hops not said.
    pub fn new(net: NetId, gateway: Nid) -> Route {
        Route { net, gateway, hop: None, priority: 0 }
    }

    /// Hops as routes are compared by them: one where it was not said.
    pub fn hops(&self) -> u8 {
        self.hop.unwrap_or(1)
    }

    /// Whether a node with these NIs can have it beside those others.
    ///
    /// # Errors
    /// [`RouteError`], but for `Unknown`.
    pub fn check<'a>(
        &self,
        nids: &[Nid],
        others: impl ExactSizeIterator<Item = &'a Route>,
    ) -> Result<(), RouteError> {
        let Route { net, gateway, .. } = *self;
        if net == NetId::LO {
            return Err(RouteError::Nowhere(net));
        }
        if self.hop == Some(0) {
            return Err(RouteError::Hop);
        }
        if nids.iter().any(|n| n.net() == net) {
            return Err(RouteError::Local(net));
        }
        if nids.contains(&gateway) {
            return Err(RouteError::Own(gateway));
        }
        // An interface has addresses of one family.
        let leads = |n: &Nid| n.same_net(gateway) && n.is_large() == gateway.is_large();
        if gateway.ip().is_none() || gateway.station().is_err() || !nids.iter().any(leads) {
            return Err(RouteError::Away(gateway));
        }
        let full = others.len() >= ROUTES_MAX;
        for other in others {
            if (other.net, other.gateway) == (net, gateway) {
                return Err(RouteError::Twice { net, gateway });
            }
        }
        if full { Err(RouteError::Full) } else { Ok(()) }
    }

    /// Whether a node with these NIs can have all of them.
    ///
    /// # Errors
    /// [`RouteError`] of the first that it cannot.
    pub fn check_all(routes: &[Route], nids: &[Nid]) -> Result<(), RouteError> {
        let mut before: &[Route] = &[];
        for (i, route) in routes.iter().enumerate() {
            route.check(nids, before.iter())?;
            before = routes.get(..=i).unwrap_or(routes);
        }
        Ok(())
    }
}

impl fmt::Display for Route {
    /// As [`Route::from_str`] takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.net, self.gateway)?;
        match (self.hop, self.priority) {
            (None, 0) => Ok(()),
            (Some(hop), 0) => write!(f, " {hop}"),
            (Some(hop), priority) => write!(f, " {hop} {priority}"),
            (None, priority) => write!(f, " -1 {priority}"),
        }
    }
}

/// Reason why a text is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteParseError {
    /// Words that are missing, or too many.
    #[error("{:?} is no route: write NETWORK GATEWAY [HOP [PRIORITY]], for example \"tcp1 10.0.0.1@tcp\"", Brief(.0))]
    Words(String),
    /// The network, or the gateway.
    #[error(transparent)]
    Nid(#[from] NidParseError),
    /// The number of hops.
    #[error("{:?} hops: it takes 1 to 255", Brief(.0))]
    Hop(String),
    /// The priority.
    #[error("priority {:?}: it takes 0 to 4294967295, and the lowest is taken first", Brief(.0))]
    Priority(String),
    /// Brackets of a `routes=` line.
    #[error(
        "{:?}: brackets take numbers and ranges, for example 10.0.0.[1-4,8]@tcp, {EXPANDED_MAX} gateways at most",
        Brief(.0)
    )]
    Brackets(String),
}

/// -1 is what lnetctl prints for a number that was not said.
fn hop(s: &str) -> Result<Option<u8>, RouteParseError> {
    if s == "-1" {
        return Ok(None);
    }
    s.parse().ok().filter(|n| *n > 0).map(Some).ok_or_else(|| RouteParseError::Hop(s.to_owned()))
}

fn priority(s: &str) -> Result<u32, RouteParseError> {
    s.parse().map_err(|_| RouteParseError::Priority(s.to_owned()))
}

impl FromStr for Route {
    type Err = RouteParseError;

    /// `NET GATEWAY [HOP [PRIORITY]]`.
    fn from_str(s: &str) -> Result<Route, RouteParseError> {
        let words: Vec<&str> = s.split_whitespace().collect();
        let (net, gateway, rest) = match words.as_slice() {
            [net, gateway, rest @ ..] if rest.len() <= 2 => (net, gateway, rest),
            _ => return Err(RouteParseError::Words(s.to_owned())),
        };
        Ok(Route {
            net: net.parse()?,
            gateway: gateway.parse()?,
            hop: rest.first().map_or(Ok(None), |h| hop(h))?,
            priority: rest.get(1).map_or(Ok(0), |p| priority(p))?,
        })
    }
}

/// The routes of a module parameter `routes=`: `NET [HOP] GATEWAY[:PRIORITY] ...`, several of them with `;` between; brackets in a
/// gateway stand for several numbers.
///
/// # Errors
/// [`RouteParseError`] of the first that is none.
pub fn from_parameter(text: &str) -> Result<Vec<Route>, RouteParseError> {
    let mut all = Vec::new();
    for one in text.split([';', '\n']).map(str::trim).filter(|s| !s.is_empty()) {
        let mut words = one.split_whitespace().peekable();
        let Some(net) = words.next() else { continue };
        let net: NetId = net.parse()?;
        let hop = match words.peek() {
            Some(w) if w.bytes().all(|b| b.is_ascii_digit()) => words.next().map_or(Ok(None), hop)?,
            _ => None,
        };
        if words.peek().is_none() {
            return Err(RouteParseError::Words(one.to_owned()));
        }
        for word in words {
            // An IPv6 address has colons of its own, before the @.
            let at = word.rfind('@').unwrap_or(0);
            let (gateway, priority) = match word.get(at..).and_then(|net| net.split_once(':')) {
                Some((net, p)) => (word.get(..at + net.len()).unwrap_or(word), priority(p)?),
                None => (word, 0),
            };
            for gateway in expanded(gateway)? {
                all.push(Route { net, gateway: gateway.parse()?, hop, priority });
            }
        }
    }
    Ok(all)
}

/// The texts that one with brackets stands for.
fn expanded(text: &str) -> Result<Vec<String>, RouteParseError> {
    let bad = || RouteParseError::Brackets(text.to_owned());
    let Some((before, rest)) = text.split_once('[') else {
        return if text.contains(']') { Err(bad()) } else { Ok(vec![text.to_owned()]) };
    };
    let (inside, after) = rest.split_once(']').ok_or_else(bad)?;
    let mut all = Vec::new();
    let tails = expanded(after).map_err(|_| bad())?;
    for part in inside.split(',') {
        let (range, step) = part.split_once('/').unwrap_or((part, "1"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |s: &str| s.trim().parse::<u16>().map_err(|_| bad());
        let (first, last, step) = (number(first)?, number(last)?, number(step)?);
        if step == 0 || first > last {
            return Err(bad());
        }
        for n in (first..=last).step_by(step.into()) {
            for tail in &tails {
                if all.len() >= EXPANDED_MAX {
                    return Err(bad());
                }
                all.push(format!("{before}{n}{tail}"));
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nid(s: &str) -> Nid {
        s.parse().unwrap()
    }

    #[test]
    fn a_route_is_written_as_it_is_read() {
        for (text, hop, priority) in [
            ("tcp1 10.0.0.1@tcp", None, 0),
            ("tcp1 10.0.0.1@tcp 2", Some(2), 0),
            ("o2ib fd00::1@tcp3 255 4294967295", Some(255), u32::MAX),
            ("tcp1 10.0.0.1@tcp -1 5", None, 5),
        ] {
            let r: Route = text.parse().unwrap();
            assert_eq!((r.to_string().as_str(), r.hop, r.priority), (text, hop, priority));
        }
        for (bad, says) in [
            ("", "no route"),
            ("tcp1", "no route"),
            ("tcp1 10.0.0.1@tcp 1 2 3", "no route"),
            ("eth1 10.0.0.1@tcp", "no network"),
            ("tcp1 10.0.0.x@tcp", "10.0.0.x"),
            ("tcp1 10.0.0.1@tcp 0", "1 to 255"),
            ("tcp1 10.0.0.1@tcp 256", "1 to 255"),
            ("tcp1 10.0.0.1@tcp 1 -1", "priority"),
        ] {
            let e = bad.parse::<Route>().unwrap_err().to_string();
            assert!(e.contains(says), "{bad}: {e}");
        }
    }

    #[test]
    fn the_parameter_of_kernels_is_read() {
        let read = |s: &str| {
            from_parameter(s).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        for (text, all) in [
            ("", ""),
            ("tcp1 10.0.0.1@tcp", "tcp1 10.0.0.1@tcp"),
            (
                "tcp1 2 10.0.0.1@tcp:3 10.0.0.2@tcp;; o2ib fd00::1@tcp:1 ",
                "tcp1 10.0.0.1@tcp 2 3; tcp1 10.0.0.2@tcp 2; o2ib fd00::1@tcp -1 1",
            ),
            ("tcp1 10.0.0.[1-2,8]@tcp", "tcp1 10.0.0.1@tcp; tcp1 10.0.0.2@tcp; tcp1 10.0.0.8@tcp"),
            (
                "tcp1 10.0.[0-4/4].[1-2]@tcp:7",
                "tcp1 10.0.0.1@tcp -1 7; tcp1 10.0.0.2@tcp -1 7; tcp1 10.0.4.1@tcp -1 7; tcp1 10.0.4.2@tcp -1 7",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(all), "{text}");
        }
        for bad in [
            "tcp1",
            "tcp1 2",
            "tcp1 0 10.0.0.1@tcp",
            "tcp1 10.0.0.[1-@tcp",
            "tcp1 10.0.0.[2-1]@tcp",
            "tcp1 10.0.[0-255].[0-255]@tcp",
            "tcp1 10.0.0.1]@tcp",
            "tcp1 10.0.0.1@tcp:x",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_that_a_node_cannot_have_are_refused() {
        let own = [nid("10.0.0.9@tcp"), nid("fd00::9@tcp2")];
        let check = |s: &str, others: &[&str]| {
            let others: Vec<Route> = others.iter().map(|s| s.parse().unwrap()).collect();
            s.parse::<Route>().unwrap().check(&own, others.iter()).map_err(RouteError::errno)
        };
        assert_eq!(check("tcp1 10.0.0.1@tcp", &["tcp1 10.0.0.2@tcp", "tcp3 10.0.0.1@tcp"]), Ok(()));
        assert_eq!(check("tcp1 fd00::1@tcp2", &[]), Ok(()));
        assert_eq!(check("tcp1 10.0.0.1@tcp", &["tcp1 10.0.0.1@tcp 4 4"]), Err(17));
        assert_eq!(check("tcp2 10.0.0.1@tcp", &[]), Err(17));
        assert_eq!(check("lo 10.0.0.1@tcp", &[]), Err(22));
        assert_eq!(check("tcp1 10.0.0.9@tcp", &[]), Err(22));
        for away in ["10.0.0.1@tcp1", "10.0.0.1@tcp2", "fd00::1@tcp", "10.0.0.1@o2ib", "224.0.0.1@tcp"] {
            assert_eq!(check(&format!("tcp7 {away}"), &[]), Err(113), "{away}");
        }
        let many: Vec<Route> =
            (0..ROUTES_MAX as u32).map(|n| Route::new(NetId(0x2_0100 + n), nid("10.0.0.1@tcp"))).collect();
        assert_eq!(Route::check_all(&many, &own), Ok(()));
        let one_more: Route = "tcp1 10.0.0.1@tcp".parse().unwrap();
        assert_eq!(one_more.check(&own, many.iter()), Err(RouteError::Full));
    }
}
