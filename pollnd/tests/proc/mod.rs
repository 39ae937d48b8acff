//! Runs of the `pollnd` program: what it says, how it ends, and addresses of one's own for each test.

use std::io::{BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// Bound of every wait: for a run that hangs, no measure.
const LIMIT: Duration = Duration::from_secs(180);

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// An address on loopback that no other test uses, also of another run of the tests.
pub(crate) fn own_ip() -> Ipv4Addr {
    let (n, pid) = (SERIAL.fetch_add(1, Ordering::Relaxed), std::process::id());
    Ipv4Addr::new(127, 64 + (pid >> 8 & 0x7f) as u8, pid as u8, 1 + (n % 250) as u8)
}

/// Its NID.
pub(crate) fn nid(ip: Ipv4Addr) -> String {
    format!("{ip}@tcp")
}

/// TCP connections that are open with `ip` at this end, as the kernel counts them.
pub(crate) fn connections(ip: Ipv4Addr) -> usize {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("{:08X}:", u32::from_ne_bytes(ip.octets()));
    let open = |l: &&str| {
        let w: Vec<_> = l.split_whitespace().collect();
        w.len() > 3 && w[1].starts_with(&local) && w[3] == ESTABLISHED
    };
    table.lines().filter(open).count()
}

/// Whether a test can dial from ports below 1024, as peers of Linux nodes must; else it says that it is skipped.
pub(crate) fn can(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("SKIP: {test}: ports below 1024 take root");
    }
    root
}

/// Waits until `ready`.
pub(crate) fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < end, "no {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where a node of `nid` keeps the list of its peers, once `peer` is on it.
pub(crate) fn list_of_peers(nid: &str, peer: &str) -> PathBuf {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("pollnd"));
    let dirs =
        xdg.into_iter().chain(["/run/pollnd".into(), format!("/tmp/pollnd-{}", geteuid().as_raw()).into()]);
    let dirs: Vec<PathBuf> = dirs.collect();
    let mut found = None;
    eventually("list of peers", || {
        let files =
            dirs.iter().filter_map(|d| std::fs::read_dir(d).ok()).flatten().flatten().map(|e| e.path());
        found = files.into_iter().find(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let ours = name.starts_with(&format!("{nid}.")) && name.ends_with(".peers");
            ours && std::fs::read_to_string(p).is_ok_and(|t| t.lines().any(|l| l == peer))
        });
        found.is_some()
    });
    found.unwrap()
}

/// A program that runs. It is ended when this value goes.
pub(crate) struct Proc {
    what: String,
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// End of a program.
#[derive(Debug)]
pub(crate) struct End {
    what: String,
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

fn collect(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let mut s = to.lock().unwrap();
            s.push_str(&String::from_utf8_lossy(&line));
            s.push('\n');
        }
    })
}

/// `pollnd ARGS`.
pub(crate) fn pollnd(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_pollnd"));
    c.args(args);
    c
}

/// `pollnd ARGS`, running.
pub(crate) fn start(args: &[&str]) -> Proc {
    Proc::start(pollnd(args))
}

/// `pollnd ARGS` to its end.
pub(crate) fn run(args: &[&str]) -> End {
    start(args).end()
}

/// `pollnd node` on kernel sockets at `ip`, up.
pub(crate) fn node(ip: Ipv4Addr, more: &[&str]) -> Proc {
    let p = start(&[&["node", "--nid", &nid(ip)], more].concat());
    p.up()
}

impl Proc {
    pub(crate) fn start(mut c: Command) -> Proc {
        c.stdin(Stdio::null());
        Proc::reading(c)
    }

    /// With the standard input that the command has.
    pub(crate) fn reading(mut c: Command) -> Proc {
        let what = format!("{c:?}");
        let mut child =
            c.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
        let (out, err) = <(Arc<Mutex<String>>, Arc<Mutex<String>>)>::default();
        let readers = vec![
            collect(child.stdout.take().unwrap(), out.clone()),
            collect(child.stderr.take().unwrap(), err.clone()),
        ];
        Proc { what, child, out, err, readers }
    }

    fn said(&self) -> String {
        format!("{}\n{}\n{}", self.what, self.out.lock().unwrap(), self.err.lock().unwrap())
    }

    /// Count of `word` on its standard error.
    pub(crate) fn heard(&self, word: &str) -> usize {
        self.err.lock().unwrap().matches(word).count()
    }

    /// It has said all of `words` on its standard error.
    pub(crate) fn err_has(&self, words: &[&str]) {
        let err = self.err.lock().unwrap().clone();
        for w in words {
            assert!(err.contains(w), "{w:?} is not in {}", self.said());
        }
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until `ready` holds of its standard output and error.
    pub(crate) fn until(&mut self, what: &str, ready: impl Fn(&str, &str) -> bool) {
        let end = Instant::now() + LIMIT;
        while !ready(&self.out.lock().unwrap(), &self.err.lock().unwrap()) {
            assert!(self.runs(), "ended before {what}: {}", self.said());
            assert!(Instant::now() < end, "no {what}: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the node says that it is there.
    pub(crate) fn up(mut self) -> Proc {
        self.until("\"is up on\"", |out, _| out.contains("is up on"));
        self
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, s: Signal) {
        if let Some(p) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(p, s).unwrap_or_else(|e| panic!("{e}: {}", self.said()));
        }
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> End {
        let end = Instant::now() + LIMIT;
        let status = loop {
            if let Some(s) = self.child.try_wait().unwrap() {
                break s;
            }
            assert!(Instant::now() < end, "does not come to an end: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        };
        for r in self.readers.drain(..) {
            r.join().unwrap();
        }
        let (out, err) = (self.out.lock().unwrap().clone(), self.err.lock().unwrap().clone());
        assert!(!err.contains("panicked"), "{}\n{err}", self.what);
        End { what: self.what.clone(), status, out, err }
    }

    /// Tells it to go down, and waits for its end.
    pub(crate) fn stop(self) -> End {
        self.signal(Signal::TERM);
        self.end()
    }

    /// kill -9.
    pub(crate) fn kill(self) {
        self.signal(Signal::KILL);
        assert_eq!(self.end().status.signal(), Some(9));
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // A killed EAL leaves its run-time folder behind. As root it is here.
        let _ = std::fs::remove_dir_all(format!("/var/run/dpdk/pollnd-{}", self.child.id()));
        if self.child.try_wait().is_ok_and(|s| s.is_some()) {
            return;
        }
        if std::thread::panicking() {
            eprintln!("still running when the test failed: {}", self.said());
        }
        // It may be stopped (SIGSTOP), and there is nothing of its to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    /// It did what it was asked to do.
    pub(crate) fn good(self) -> End {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// It ended with `code` and said all of `words` on its standard error.
    pub(crate) fn failed(self, code: i32, words: &[&str]) -> End {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        for w in words {
            assert!(self.err.contains(w), "{w:?} is not in {self:#?}");
        }
        self
    }

    /// It said all of `words` on its standard error.
    pub(crate) fn tells(self, words: &[&str]) -> End {
        for w in words {
            assert!(self.err.contains(w), "{w:?} is not in {self:#?}");
        }
        self
    }

    /// It said all of `words` on its standard output.
    pub(crate) fn says(self, words: &[&str]) -> End {
        for w in words {
            assert!(self.out.contains(w), "{w:?} is not in {self:#?}");
        }
        self
    }

    /// A counter of a node's end: a line of its own, left out when 0.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let value = self.out.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |v| v.parse().unwrap_or_else(|_| panic!("{name} in {self:#?}")))
    }

    /// The counters of errors and drops, as the node printed them.
    pub(crate) fn errors(&self) -> Vec<&str> {
        self.out.lines().filter(|l| l.starts_with("err_") || l.starts_with("drop_")).collect()
    }

    /// The JSON object on its standard output.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.out.trim()).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }
}

/// Nodes of one test, whose control sockets are in a folder of their own.
pub(crate) struct Place(pub(crate) tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub(crate) fn start(&self, args: &[&str]) -> Proc {
        let mut c = pollnd(args);
        c.env("XDG_RUNTIME_DIR", self.0.path());
        Proc::start(c)
    }

    pub(crate) fn run(&self, args: &[&str]) -> End {
        self.start(args).end()
    }

    /// A file of this text for a node.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("node.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `pollnd lnetctl` of a node.
    pub(crate) fn ctl(&self, node: &Proc, args: &[&str]) -> End {
        self.run(&[&["lnetctl", "--node", &node.id().to_string()], args].concat())
    }
}
