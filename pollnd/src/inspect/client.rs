//! The asking side: which node, one question, its answers line by line.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use transport::wire::Nid;

use super::{Request, claim, run_dir};
use crate::{limits, units};

/// Longest time of a node for one line. Its lcores have a second each.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same of nodes that are looked for by what they are: one that is stopped is none of them.
const GLANCE: Duration = Duration::from_secs(5);
/// Time in which a node that has ended a connection says on another that it runs.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A connection to a node.
pub(crate) struct Client {
    path: PathBuf,
    out: UnixStream,
    lines: BufReader<UnixStream>,
    /// It answers no more.
    gone: bool,
    /// The latest answer that was an error.
    refusal: Option<Value>,
}

/// Whether a process is in this one's network namespace, as far as can be told: of a process that is not ours to look at, or
/// of another process namespace, nothing is known.
fn is_here(pid: u32) -> bool {
    let of = |who: &str| std::fs::metadata(format!("/proc/{who}/ns/net")).ok().map(|m| m.ino());
    match (of(&pid.to_string()), of("self")) {
        (Some(its), Some(ours)) => its == ours,
        _ => true,
    }
}

/// The socket of the node that `node` (a process number or a path) names, or of the only one that runs in this network
/// namespace: what is asked without a name is not meant for another's networks.
fn find(node: Option<&str>) -> Result<PathBuf, String> {
    let looked = || run_dir::dirs().iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ");
    match node.map(|n| (n, n.parse::<u32>())) {
        Some((_, Ok(pid))) => {
            run_dir::all().into_iter().find(|(p, _)| *p == pid).map(|(_, path)| path).ok_or_else(|| {
                format!(
                    "no node with process number {pid}: looked in {}; ask as the user that it runs as, or give the path \
                     of its socket to --node",
                    looked()
                )
            })
        }
        Some((path, Err(_))) => Ok(path.into()),
        None => {
            let all = run_dir::all();
            let mut here = all.iter().filter(|(pid, _)| is_here(*pid));
            match (all.len(), here.clone().count()) {
                (_, 1) => Ok(here.next().map(|(_, path)| path.clone()).unwrap_or_default()),
                (0, _) => Err(format!(
                    "no node runs that may be asked: looked in {}; start one with `pollnd node`, or ask as the user that it \
                     runs as",
                    looked()
                )),
                (n, 0) => Err(format!(
                    "no node runs in this network namespace, and {n} in others: name one with --node\n{}",
                    listed(all.iter())
                )),
                (_, n) => Err(format!("{n} nodes run: choose one with --node\n{}", listed(here))),
            }
        }
    }
}

/// A node that runs, as it tells of itself.
pub(crate) struct Running {
    pub(crate) pid: u32,
    /// The primary one.
    pub(crate) nid: String,
    /// Of all NIs.
    pub(crate) nids: Vec<String>,
    /// The network that its NIDs are of ([`super::claim::scope`]).
    pub(crate) scope: String,
    /// The carrier of its streams.
    pub(crate) carrier: String,
    /// Its command.
    pub(crate) command: String,
    /// Whether other commands may go through it.
    pub(crate) guests: bool,
}

/// The NIDs that a node tells of.
fn nids(hello: &Value) -> Vec<String> {
    hello["nids"].as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
}

fn ask_who(mut c: Client) -> Result<(Client, Running), String> {
    let h = c.one(&Request::Hello {})?;
    let text = |k: &str| h[k].as_str().unwrap_or_default().to_owned();
    let running = Running {
        pid: h["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        nid: text("nid"),
        nids: nids(&h),
        scope: text("scope"),
        carrier: text("carrier"),
        command: text("command"),
        guests: h["guests"].as_bool().unwrap_or(false),
    };
    Ok((c, running))
}

/// The node that `which`, a process number or a path, names, or the only one.
///
/// # Errors
/// As [`Client::new`].
pub(crate) fn any(which: Option<&str>) -> Result<(Client, Running), String> {
    ask_who(Client::new(which)?)
}

/// The node that `which` names, or the only one, if others may go through it.
///
/// # Errors
/// There is none, or several; with the remedy.
pub(crate) fn open(which: Option<&str>) -> Result<(Client, Running), String> {
    let (client, running) = any(which)?;
    if !running.guests {
        return Err(format!(
            "that is `pollnd {}` of {}, which nobody else can use: name a `pollnd node`",
            running.command, running.nid
        ));
    }
    Ok((client, running))
}

/// A node of `nid` that runs, is not this process, and that `fits` likes.
pub(crate) fn running(nid: Nid, fits: impl Fn(&Running) -> bool) -> Option<(Client, Running)> {
    let others = claim::candidates(nid).into_iter().filter(|(_, pid)| *pid != std::process::id());
    let mut asked =
        others.filter_map(|(dir, pid)| ask_who(Client::connect(dir.join(format!("{pid}.sock"))).ok()?).ok());
    asked.find(|(_, r)| fits(r))
}

/// Nodes of this network namespace that are not this process, as they tell of themselves. They have 5 s for each answer.
pub(crate) fn here() -> impl Iterator<Item = (Client, Running)> {
    let others = run_dir::all().into_iter().filter(|(pid, _)| *pid != std::process::id() && is_here(*pid));
    others.filter_map(|(_, path)| {
        let c = Client::connect(path).ok()?;
        c.wait_for(GLANCE);
        ask_who(c).ok()
    })
}

/// The node of this network namespace that has an NI at the address.
pub(crate) fn at_address(ip: IpAddr) -> Option<Running> {
    let at = |n: &String| n.parse::<Nid>().is_ok_and(|n| n.ip() == Some(ip));
    here().map(|(_, r)| r).find(|r| r.nids.iter().any(at))
}

impl Running {
    /// It in words: its command, a NID and its process.
    pub(crate) fn named(&self) -> String {
        format!("`pollnd {}` of {} (process {})", self.command, self.nid, self.pid)
    }
}

fn listed<'a>(nodes: impl Iterator<Item = &'a (u32, PathBuf)>) -> String {
    nodes.map(|(pid, path)| describe(*pid, path)).collect::<Vec<_>>().join("\n")
}

fn describe(pid: u32, path: &std::path::Path) -> String {
    let hello = Client::connect(path.to_path_buf()).and_then(|mut c| c.one(&Request::Hello {}));
    let text =
        |k: &str| hello.as_ref().ok().and_then(|h| h[k].as_str().map(str::to_owned)).unwrap_or_default();
    let nids = hello.as_ref().map(nids).unwrap_or_default().join(", ");
    format!("  --node {pid}  {nids} {}", text("carrier"))
}

impl Client {
    /// Connects to the node that `node` names, or to the only one.
    ///
    /// # Errors
    /// No node, or several; with the remedy.
    pub(crate) fn new(node: Option<&str>) -> Result<Client, String> {
        Client::connect(find(node)?)
    }

    /// Another connection to the same node.
    ///
    /// # Errors
    /// It has gone.
    pub(crate) fn again(&self) -> Result<Client, String> {
        Client::connect(self.path.clone())
    }

    fn connect(path: PathBuf) -> Result<Client, String> {
        let made = UnixStream::connect(&path).and_then(|out| {
            out.set_read_timeout(Some(PATIENCE))?;
            Ok((out.try_clone()?, out))
        });
        match made {
            Ok((lines, out)) => {
                Ok(Client { path, out, lines: BufReader::new(lines), gone: false, refusal: None })
            }
            Err(e) if limits::none_left(&e) => {
                Err(format!("cannot ask {}: {}", path.display(), limits::told(&e)))
            }
            Err(e) => Err(format!(
                "cannot ask {}: {e}; it should be the control socket of a running node (see --node)",
                path.display()
            )),
        }
    }

    /// Whether the node has failed to answer: it has ended, or what it says next answers an earlier question.
    pub(crate) fn gone(&self) -> bool {
        self.gone
    }

    fn lost(&mut self, why: impl std::fmt::Display) -> String {
        self.gone = true;
        format!("the node at {} does not answer: {why}", self.path.display())
    }

    /// The connection has ended without an answer: the node has, or somebody has cut this command off.
    fn ended(&mut self) -> String {
        let runs = self.is_answered();
        self.lost(if runs { "it has ended this connection, and runs: try again" } else { "it has ended" })
    }

    /// Whether the node answers on another connection. One that is being killed takes it, and does not.
    fn is_answered(&self) -> bool {
        let asked = UnixStream::connect(&self.path).and_then(|mut s| {
            s.set_read_timeout(Some(LAST_WORD))?;
            s.write_all(b"{\"do\":\"hello\"}\n")?;
            s.read(&mut [0])
        });
        asked.is_ok_and(|n| n > 0)
    }

    /// The text of an error of the socket. A node that is killed before it has read a question resets the connection.
    fn failed(&mut self, e: std::io::Error) -> String {
        match e.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.ended(),
            _ => self.lost(e),
        }
    }

    /// Text about a node that has not answered in time.
    fn mute(&self) -> String {
        let waited = self.out.read_timeout().ok().flatten().unwrap_or(PATIENCE);
        let pid = self.path.file_stem().and_then(|p| p.to_str()?.parse::<u32>().ok());
        let pid = pid.map_or_else(|| "its process number".to_owned(), |p| p.to_string());
        format!(
            "it has said nothing for {}: it is stopped (kill -CONT {pid} lets it go on), or it hangs",
            units::time(waited.as_secs_f64())
        )
    }

    /// Sends a question.
    ///
    /// # Errors
    /// The node has gone.
    pub(super) fn send(&mut self, r: &Request) -> Result<(), String> {
        let mut line = serde_json::to_string(r).map_err(|e| e.to_string())?;
        line.push('\n');
        let Err(e) = self.out.write_all(line.as_bytes()) else { return Ok(()) };
        // One that has no place for another asker says so, and does not wait for the question.
        if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
            && let Err(told) = self.next()
            && self.refusal.is_some()
        {
            return Err(told);
        }
        Err(self.failed(e))
    }

    /// The next object.
    ///
    /// # Errors
    /// The node's error, or that it has gone.
    pub(super) fn next(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => return Err(self.ended()),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(self.lost(self.mute()));
            }
            Err(e) => return Err(self.failed(e)),
        }
        let v: Value = serde_json::from_str(&line).map_err(|e| self.lost(format!("{e} in {line:?}")))?;
        match v["error"].as_str().map(str::to_owned) {
            Some(e) => {
                let over = v["over"] == true;
                self.refusal = Some(v);
                if over {
                    return Err(self.lost(e));
                }
                Err(older(e))
            }
            None => Ok(v),
        }
    }

    /// The latest answer that was an error, with what it says beside.
    pub(crate) fn refusal(&self) -> Option<&Value> {
        self.refusal.as_ref()
    }

    /// A question with one object as its answer.
    pub(crate) fn one(&mut self, r: &Request) -> Result<Value, String> {
        self.send(r)?;
        self.next()
    }

    /// A question that rows answer, until one has `end`; the last is returned.
    pub(super) fn rows(&mut self, r: &Request, mut each: impl FnMut(Value)) -> Result<Value, String> {
        self.try_rows(r, |v| {
            each(v);
            Ok(())
        })
    }

    /// As [`Client::rows`], until `each` fails.
    pub(crate) fn try_rows(
        &mut self,
        r: &Request,
        mut each: impl FnMut(Value) -> Result<(), String>,
    ) -> Result<Value, String> {
        self.send(r)?;
        loop {
            let v = self.next()?;
            if v.get("end").is_some() {
                return Ok(v);
            }
            each(v)?;
        }
    }

    /// Waits for answers as long as they take.
    pub(crate) fn patient(&self) {
        // A time-out that cannot be lifted ends the wait early, with an error that says so.
        let _ = self.out.set_read_timeout(None);
    }

    /// Waits for each answer as long as is usual.
    pub(crate) fn wait_as_usual(&self) {
        self.wait_for(PATIENCE);
    }

    /// Waits for each answer so long.
    pub(crate) fn wait_for(&self, patience: Duration) {
        let _ = self.out.set_read_timeout(Some(patience));
    }

    /// Something that says "no more questions" from another thread.
    pub(crate) fn hang_up(&self) -> Result<impl Fn() + Send + use<>, String> {
        self.shut(Shutdown::Write)
    }

    /// Something that ends the wait for an answer from another thread.
    pub(crate) fn cut_off(&self) -> Result<impl Fn() + Send + use<>, String> {
        self.shut(Shutdown::Both)
    }

    fn shut(&self, how: Shutdown) -> Result<impl Fn() + Send + use<>, String> {
        let s = self.out.try_clone().map_err(|e| limits::told(&e))?;
        Ok(move || {
            let _ = s.shutdown(how);
        })
    }
}

/// The error of a node; of one that knows nothing of such a question, in words for people.
fn older(e: String) -> String {
    let unknown = e.split_once("unknown variant `").or_else(|| e.split_once("unknown field `"));
    match unknown.and_then(|(_, rest)| rest.split_once('`')) {
        Some((question, _)) => format!(
            "the node that runs is of another pollnd, which does not know {question}: start it again with the pollnd of this command, or \
             leave --node out and give a --nid of this machine that no node has, for a node of this process"
        ),
        None => e,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A socket in a folder, and one that asks there.
    fn asker() -> (tempfile::TempDir, UnixListener, Client) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("7.sock");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, listener, Client::connect(path).unwrap())
    }

    /// A node that is killed with a question unread was "Connection reset by peer".
    #[test]
    fn a_node_that_ends_with_a_question_unread_has_ended() {
        let (_dir, listener, mut c) = asker();
        let (node, _) = listener.accept().unwrap();
        c.send(&Request::Hello {}).unwrap();
        drop(node);
        // It takes a connection still, as one does that is being killed.
        let e = c.next().unwrap_err();
        assert!(c.gone() && e.ends_with("it has ended"), "{e}");
        let runs = std::thread::spawn(move || {
            let mut s = listener.incoming().nth(1).unwrap().unwrap();
            s.read(&mut [0]).and_then(|_| s.write_all(b"{}\n")).unwrap();
        });
        let e = c.next().unwrap_err();
        assert!(c.gone() && e.contains("ended this connection, and runs"), "{e}");
        runs.join().unwrap();
        let e = c.next().unwrap_err();
        assert!(c.gone() && e.ends_with("it has ended"), "{e}");
    }

    #[test]
    fn a_node_that_cuts_a_command_off_says_why() {
        let (_dir, listener, mut c) = asker();
        let (mut node, _) = listener.accept().unwrap();
        node.write_all(b"{\"error\":\"many others ask it\",\"over\":true}\n").unwrap();
        let e = c.next().unwrap_err();
        assert!(c.gone() && e.contains("many others ask it"), "{e}");
    }

    /// Serde's words for a question that it does not know.
    #[test]
    fn a_node_of_an_older_pollnd_is_told_as_such() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(tag = "do", rename_all = "lowercase")]
        enum Old {
            Hello {},
        }
        let request = Request::Selftest { words: vec!["new_session".into()], key: Some(7), features: None };
        let asked = serde_json::to_string(&request).unwrap();
        let e = serde_json::from_str::<Old>(&asked).unwrap_err();
        let told = older(format!("not a request: {e}"));
        assert!(
            told.contains("another pollnd") && told.contains("selftest") && !told.contains("variant"),
            "{told}"
        );
        assert!(matches!(serde_json::from_str::<Old>("{\"do\":\"hello\"}"), Ok(Old::Hello {})));
        assert_eq!(older("no such peer".into()), "no such peer");
    }

    #[test]
    fn a_node_that_is_stopped_is_told_from_one_that_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("4711.sock");
        let _deaf = UnixListener::bind(&path).unwrap();
        let mut c = Client::connect(path).unwrap();
        c.wait_for(Duration::from_millis(20));
        let e = c.one(&Request::Hello {}).unwrap_err();
        assert!(
            e.contains("4711.sock") && e.contains("nothing for 20.0 ms") && e.contains("kill -CONT 4711"),
            "{e}"
        );
    }
}
