//! A network namespace with the kernel's TCP, a TAP device in it, and a wire (`vhost_tap`) from there to a
//! virtio_user port. All of it goes when the [`Lab`] does, also in a panic.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

/// How long a program may take to start, or to go down.
const BRIEF: Duration = Duration::from_secs(20);
/// How long a transfer may take: a bound for a run that hangs, no measure.
const LONG: Duration = Duration::from_secs(100);

/// The kernel's node, in the namespace.
pub(crate) const KERNEL: &str = "10.99.0.1@tcp";
/// The node on the DPDK port.
pub(crate) const PORT: &str = "10.99.0.2@tcp";
/// The same over IPv6.
pub(crate) const KERNEL6: &str = "fd99::1@tcp";
/// The same over IPv6.
pub(crate) const PORT6: &str = "fd99::2@tcp";
/// Name of the TAP device.
pub(crate) const TAP: &str = "wire0";

/// A program that runs; it is ended when this value goes.
pub(crate) struct Proc {
    what: String,
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

fn collect(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut s = to.lock().unwrap();
            s.push_str(&line);
            s.push('\n');
        }
    })
}

impl Proc {
    pub(crate) fn start(mut c: Command) -> Proc {
        let what = format!("{c:?}");
        let mut child = c
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        let (out, err) = <(Arc<Mutex<String>>, Arc<Mutex<String>>)>::default();
        let readers = vec![
            collect(child.stdout.take().unwrap(), out.clone()),
            collect(child.stderr.take().unwrap(), err.clone()),
        ];
        Proc { what, child, out, err, readers }
    }

    /// Its process number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written until now.
    pub(crate) fn said_so_far(&self) -> String {
        self.said()
    }

    fn said(&self) -> String {
        format!("{}\n{}\n{}", self.what, self.out.lock().unwrap(), self.err.lock().unwrap())
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(format!("/var/run/dpdk/pollnd-{}", self.child.id()));
    }

    /// Waits until it has said `word` on its standard output or error.
    pub(crate) fn wait_for(&mut self, word: &str) {
        let end = Instant::now() + BRIEF;
        while !self.out.lock().unwrap().contains(word) && !self.err.lock().unwrap().contains(word) {
            let gone = self.child.try_wait().unwrap();
            assert!(gone.is_none(), "ended before it said {word:?} ({gone:?}): {}", self.said());
            assert!(Instant::now() < end, "did not say {word:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end; what it wrote to standard output, and all it said for an error message.
    fn end(&mut self, limit: Duration) -> (ExitStatus, String, String) {
        let end = Instant::now() + limit;
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
        // A guard lives to the end of its statement, and `said` locks again.
        let out = self.out.lock().unwrap().clone();
        (status, out, self.said())
    }

    /// Waits for its good end; its standard output.
    pub(crate) fn finish(mut self) -> String {
        let (status, out, said) = self.end(LONG);
        assert!(status.success(), "{status}: {said}");
        out
    }

    /// Waits for its end with this exit status, and for these words of it.
    pub(crate) fn fails_with(mut self, code: i32, words: &[&str]) {
        let (status, _, said) = self.end(LONG);
        assert_eq!(status.code(), Some(code), "{said}");
        words.iter().for_each(|w| assert!(said.contains(w), "{w:?} is not in {said}"));
    }

    fn term(&self) {
        if let Some(p) = Pid::from_raw(self.child.id() as i32) {
            // Gone already: `end` shows how.
            let _ = kill_process(p, Signal::TERM);
        }
    }

    /// Tells it to go down, and waits for its good end; its standard output.
    pub(crate) fn stop(self) -> String {
        self.down().0
    }

    /// As `stop`, for what it wrote to either.
    pub(crate) fn stop_and_tell(self) -> String {
        self.down().1
    }

    fn down(mut self) -> (String, String) {
        self.term();
        let (status, out, said) = self.end(BRIEF);
        assert!(status.success(), "{status}: {said}");
        (out, said)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|s| s.is_some()) {
            return;
        }
        self.term();
        let end = Instant::now() + Duration::from_secs(5);
        while self.child.try_wait().is_ok_and(|s| s.is_none()) {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::thread::panicking() {
            // With the counters of its end.
            self.readers.drain(..).for_each(|r| drop(r.join()));
            eprintln!("still running when the test failed: {}", self.said());
        }
    }
}

fn output(program: &str, args: &[&str]) -> Result<Output, String> {
    let o = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    if o.status.success() {
        return Ok(o);
    }
    Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&o.stderr).trim()))
}

/// The wire's program: an example of another crate, built beside this test.
fn bridge_program() -> PathBuf {
    let me = std::env::current_exe().unwrap();
    let profile = me.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples/vhost_tap");
    if !program.exists() {
        // `cargo test` of the whole workspace has built it; that of this crate alone has not.
        let target = profile.parent().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--package", "pollnd-dataplane", "--features", "dpdk", "--example", "vhost_tap"])
            .arg("--target-dir")
            .arg(target)
            .current_dir(root)
            .status();
        assert!(built.is_ok_and(|s| s.success()) && program.exists(), "cannot build {}", program.display());
    }
    program
}

/// What the wire counted in one direction and injected.
#[derive(Debug)]
pub(crate) struct Wire(Value);

impl Wire {
    pub(crate) fn get(&self, way: &str, name: &str) -> u64 {
        self.0[way][name].as_u64().unwrap_or_else(|| panic!("{way}.{name} in {}", self.0))
    }
}

/// A network namespace of the test's own, with loopback up.
pub(crate) struct Namespace(String);

impl Namespace {
    pub(crate) fn new() -> Namespace {
        let n = SERIAL.fetch_add(1, Ordering::Relaxed);
        let ns = Namespace(format!("pollnd-{}-{n}", std::process::id()));
        output("ip", &["netns", "add", &ns.0]).unwrap();
        ns.ip(&["link", "set", "lo", "up"]);
        ns
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    /// `pollnd ARGS` in it.
    pub(crate) fn pollnd(&self, args: &[&str]) -> Command {
        let mut c = self.inside(env!("CARGO_BIN_EXE_pollnd"));
        c.args(args);
        c
    }

    /// `ip ARGS` in it.
    pub(crate) fn ip(&self, args: &[&str]) {
        output("ip", &[&["-n", &self.0], args].concat()).unwrap();
    }

    /// Gives `dev` an IPv6 address that may be used at once.
    pub(crate) fn add6(&self, addr: &str, dev: &str) {
        self.ip(&["-6", "addr", "add", addr, "dev", dev, "nodad"]);
    }

    /// A command in it.
    pub(crate) fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", &self.0]).arg(program);
        c
    }

    /// The kernel's network counters in it that are not 0, if they can be told.
    pub(crate) fn counters(&self) -> Option<BTreeMap<String, u64>> {
        let o = self.inside("nstat").args(["--json", "-a", "-s"]).output().ok()?;
        let v: Value = serde_json::from_slice(&o.stdout).ok()?;
        let all = v["kernel"].as_object()?.iter();
        Some(all.filter_map(|(k, n)| Some((k.clone(), n.as_u64().filter(|n| *n > 0)?))).collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(e) = output("ip", &["netns", "del", &self.0]) {
            eprintln!("{e}");
        }
    }
}

/// The namespace and the wire.
pub(crate) struct Lab {
    ns: Namespace,
    dir: tempfile::TempDir,
    bridge: Option<Proc>,
    mtu: u16,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Reason why this machine cannot run such a test, if it cannot.
pub(crate) fn missing(tools: &[&str]) -> Option<String> {
    if !geteuid().is_root() {
        return Some("network namespaces take root".into());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("no /dev/net/tun: load the tun module (modprobe tun)".into());
    }
    let lacks = |t: &&&str| output("sh", &["-c", &format!("command -v {t}")]).is_err();
    if let Some(t) = ["ip", "nstat", "ss"].iter().chain(tools).find(lacks) {
        return Some(format!("no {t}: apt-get install iproute2 tcpdump tshark"));
    }
    // Tests of one program may try at the same time.
    let ns = format!("pollnd-try-{}-{}", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed));
    let tried = output("ip", &["netns", "add", &ns]).err();
    if tried.is_none() {
        let _ = output("ip", &["netns", "del", &ns]);
    }
    tried
}

impl Lab {
    /// A namespace with the TAP device at 10.99.0.1/24; `wire` are more options for the wire.
    pub(crate) fn new(mtu: u16, wire: &[&str]) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let mut lab = Lab { ns: Namespace::new(), dir, bridge: None, mtu };
        let mut c = lab.inside(bridge_program());
        let sock = lab.file("wire.sock");
        let mtu = mtu.to_string();
        c.arg("--sock").arg(sock).args(["--tap", TAP, "--addr", "10.99.0.1/24", "--mtu", &mtu]).args(wire);
        lab.bridge.insert(Proc::start(c)).wait_for("ready");
        lab
    }

    /// Gives the TAP device another address of its network.
    pub(crate) fn add(&self, ip: std::net::Ipv4Addr) {
        self.ns.ip(&["addr", "add", &format!("{ip}/24"), "dev", TAP]);
    }

    /// Gives the TAP device the address of [`KERNEL6`], too.
    pub(crate) fn add6(&self) {
        self.ns.add6("fd99::1/64", TAP);
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command in the namespace.
    pub(crate) fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        self.ns.inside(program)
    }

    /// Runs `f` on a thread that lives in the namespace: its sockets are there.
    pub(crate) fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| {
            let entered = s.spawn(|| {
                let ns = std::fs::File::open(format!("/run/netns/{}", self.ns.0)).unwrap();
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(ns.as_fd(), kind).unwrap();
                f()
            });
            entered.join().unwrap_or_else(|e| std::panic::resume_unwind(e))
        })
    }

    /// `pollnd ARGS` over the kernel's TCP, in the namespace.
    pub(crate) fn kernel(&self, args: &[&str]) -> Command {
        self.kernel_as(KERNEL, args)
    }

    /// The same, where the arguments say which address it has.
    pub(crate) fn on_kernel(&self, args: &[&str]) -> Command {
        let mut c = self.inside(env!("CARGO_BIN_EXE_pollnd"));
        c.args(args).args(["--carrier", "sockets"]);
        c
    }

    /// The same with another NID.
    pub(crate) fn kernel_as(&self, nid: &str, args: &[&str]) -> Command {
        let mut c = self.inside(env!("CARGO_BIN_EXE_pollnd"));
        c.args(args).args(["--carrier", "sockets", "--nid", nid]);
        c
    }

    /// `pollnd ARGS` on the DPDK port, outside of it.
    pub(crate) fn port(&self, args: &[&str]) -> Command {
        self.port_as(PORT, args)
    }

    /// The same with another NID.
    pub(crate) fn port_as(&self, nid: &str, args: &[&str]) -> Command {
        let mut c = self.on_port(args);
        c.args(["--nid", nid]);
        c
    }

    /// The same, where the arguments say which address it has.
    pub(crate) fn on_port(&self, args: &[&str]) -> Command {
        let sock = self.file("wire.sock");
        let vdev = format!("net_virtio_user0,path={},queues=1,queue_size=1024,mrg_rxbuf=1", sock.display());
        let mut c = Command::new(env!("CARGO_BIN_EXE_pollnd"));
        c.args(args).args(["--vdev", &vdev, "--mtu", &self.mtu.to_string()]);
        c
    }

    /// The list of peers that the node `nid` on the wire's port keeps in the run folder.
    pub(crate) fn known(&self, nid: &str) -> Vec<String> {
        let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("pollnd"));
        let own = format!("/tmp/pollnd-{}", geteuid().as_raw());
        let dirs = xdg.into_iter().chain(["/run/pollnd".into(), own.into()]);
        let files = dirs.filter_map(|d| std::fs::read_dir(d).ok()).flatten().flatten().map(|e| e.path());
        let wire = self.dir.path().file_name().and_then(OsStr::to_str).unwrap();
        let ours = |p: &PathBuf| {
            let name = p.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.starts_with(&format!("{nid}.port-")) && name.contains(wire) && name.ends_with(".peers")
        };
        let text =
            files.into_iter().find(ours).and_then(|p| std::fs::read_to_string(p).ok()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The kernel's network counters of the namespace that are not 0.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        self.ns.counters().unwrap()
    }

    /// Takes the wire down.
    pub(crate) fn wire(mut self) -> Wire {
        let out = self.bridge.take().unwrap().stop();
        Wire(out.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or_else(|| panic!("{out}")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let sockets = self.inside("ss").args(["-tinOa"]).output().map(|o| o.stdout).unwrap_or_default();
            eprintln!("counters of the namespace: {:?}", self.ns.counters());
            eprintln!("its sockets: {}", String::from_utf8_lossy(&sockets));
        }
        // It has a TAP device in the namespace, so it goes first.
        drop(self.bridge.take());
    }
}
