//! Verbs that ask peers: `ping`, `discover`.

use serde::Serialize;
use transport::wire::Nid;

use super::Asked;
use super::layout::ANSWER;
use super::refusal::{self, Form, Refusal};
use super::shown::{Answer, Discovered, NidOnly, Peer, Pinged};
use crate::inspect::Request;
use crate::inspect::account::Ask;
use crate::inspect::seats::{Again, Pong};
use crate::out;

/// Seconds to wait for an answer to `discover`.
const PATIENCE: u32 = 60;

/// NIDs of a command line.
fn nids(verb: &'static str, words: &[String]) -> Result<Vec<Nid>, Refusal> {
    let all = words.iter().map(|w| w.parse()).collect::<Result<_, _>>();
    all.map_err(|_| {
        let descr = "\"Unable to parse nidlist: no valid NIDs in string\"";
        Refusal::netlink("manage", verb, libc::EINVAL, descr)
    })
}

/// Asks one; `None` in the place of an error number is for a node that answers no more.
fn ask(
    node: &mut Asked,
    nid: Nid,
    timeout: u32,
    discover: Option<Again>,
) -> Result<Answer, Result<i32, String>> {
    let r = Request::Ping { target: nid.to_string(), timeout: f64::from(timeout), discover };
    let pong = match node.0.one(&r) {
        Ok(mut v) => serde_json::from_value::<Pong>(v["end"].take()).map_err(|e| Err(e.to_string()))?,
        Err(e) => {
            return Err(node.errno().filter(|_| !node.0.gone()).ok_or(e));
        }
    };
    let known: Vec<Peer> = node.rows(Ask::Peers { nid: Some(nid.to_string()) }).map_err(|r| Err(r.descr))?;
    let peer_ni = pong.nids.into_iter().map(|nid| NidOnly { nid }).collect::<Vec<_>>();
    // One that is no peer is this node.
    let multi_rail = known.first().map_or(discover.is_some(), |p| p.multi_rail);
    // Of a peer that is known the primary one.
    let primary =
        known.first().filter(|p| p.multi_rail).map_or_else(|| nid.to_string(), |p| p.primary.clone());
    Ok(Answer { primary, multi_rail, peer_ni })
}

fn all(
    verb: &'static str,
    words: &[String],
    (timeout, discover): (u32, Option<Again>),
    node: impl FnOnce() -> Result<Asked, Refusal>,
    print: impl Fn(Vec<Answer>) -> Result<String, String>,
) -> Result<(), Refusal> {
    let nids = nids(verb, words)?;
    let mut node = node()?;
    node.0.wait_for(std::time::Duration::from_secs(u64::from(timeout) + 10));
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for nid in nids {
        match ask(&mut node, nid, timeout, discover) {
            Ok(a) => good.push(a),
            Err(Ok(errno)) => {
                let why = refusal::text(errno);
                let descr = format!("failed to {verb} {nid}: {why}");
                let r = Refusal::netlink("manage", verb, errno, descr).with_status(255);
                bad.push(Refusal { form: Form::Answer, ..r });
            }
            Err(Err(e)) => return Err(e.into()),
        }
    }
    if !good.is_empty() {
        out::text(print(good)?)?;
    }
    match bad.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        // One head over all of them.
        [first, rest @ ..] => {
            let items = |r: &Refusal| r.text().lines().skip(1).map(|l| format!("{l}\n")).collect::<String>();
            out::text(first.text() + &rest.iter().map(items).collect::<String>())?;
            Err(Refusal::words(first.status, ""))
        }
    }
}

fn text(v: &impl Serialize) -> Result<String, String> {
    ANSWER.text(v)
}

pub(super) fn ping(
    words: &[String],
    timeout: u32,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    all("ping", words, (timeout, None), node, |ping| text(&Pinged { ping }))
}

pub(super) fn discover(
    words: &[String],
    force: bool,
    node: impl FnOnce() -> Result<Asked, Refusal>,
) -> Result<(), Refusal> {
    let again = if force { Again::Anew } else { Again::Known };
    let print = |discover| text(&Discovered { discover });
    all("discover", words, (PATIENCE, Some(again)), node, print)
}
