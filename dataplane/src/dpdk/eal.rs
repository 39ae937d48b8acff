//! The EAL: started once a process, stopped when nothing of it is in use any more.
//!
//! ```text
//!           Close              Ended
//!   Live ──────────> Closing ──────────> Stopped
//!    ^                  │
//!    └───── InUse ──────┘
//! ```
//!
//! Only in Live may a user be added. A user is counted first and then looks at the state, a stop changes the state first and
//! then looks at the counts: one of them sees the other.

use std::ffi::{CStr, CString, c_char};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dpdk_sys as sys;
use fsm::AtomicFsm;

use super::config::{EalConfig, Host, Huge};
use super::eal_error::{CleanupError, EalError};
use super::usage;

/// Things that keep the EAL from being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldKind {
    Runs,
    Pools,
    Ports,
    Lcores,
}

fsm::fsm! {
    /// State of the EAL.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum EalState {
        /// It may be used.
        Live,
        /// It is looked whether it may be stopped.
        Closing,
        /// It is stopped, which is final.
        Stopped,
    }

    /// Events of a stop.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum EalEvent {
        /// It is to be stopped.
        Close,
        /// Something of it is in use.
        InUse,
        /// DPDK has cleaned up.
        Ended,
    }

    table EalState + EalEvent {
        start Live;
        else "a second stop is refused";
        Live + Close => Closing;
        Closing + InUse => Live;
        Closing + Ended => Stopped;
    }
}

struct Inner {
    holds: [AtomicUsize; 4],
    state: AtomicFsm<EalState>,
    huge: bool,
    args: Vec<String>,
    boot_log: String,
    notes: Vec<String>,
}

/// The running EAL. Clones are handles on the same one.
#[derive(Clone)]
pub struct Eal(Arc<Inner>);

/// Keeps the EAL running; see [`CleanupError::InUse`].
pub(crate) struct Hold {
    eal: Eal,
    kind: HoldKind,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.eal.release(self.kind);
    }
}

impl std::fmt::Debug for Eal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Eal({})", self.0.args.join(" "))
    }
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts the EAL. The calling thread becomes its main lcore and keeps its own CPU affinity.
    ///
    /// # Errors
    /// [`EalError`] names the cause and the remedy. After [`EalError::Init`] the process cannot try again: DPDK
    /// does not undo a start that failed half-way.
    pub fn start(config: &EalConfig) -> Result<Eal, EalError> {
        let usable = hugepages::pool::usable(Path::new("/"));
        let host = Host {
            huge_free_mb: usable.bytes >> 20,
            huge_limits: usable.limits,
            no_run_dir: run_dir_refused(),
            cores: allowed_cores(),
            pid: std::process::id(),
        };
        let (args, huge) = config.args(&host)?;
        let mut notes = Vec::new();
        let want = u64::from(config.mem_mb);
        if !huge && config.huge == Huge::Auto && usable.free >> 20 >= want && usable.bytes >> 20 < want {
            notes.push(format!(
                "{} MiB of huge pages are free, but this process can have {} MiB: {}; it goes on with ordinary pages, which are slower",
                usable.free >> 20,
                host.huge_free_mb,
                host.huge_limits.join("; ")
            ));
        }
        if let Some(why) = &host.no_run_dir {
            notes.push(format!("no DPDK telemetry, since there is no place for its socket: {why}"));
        }
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyStarted);
        }
        // In whatever way the process ends but by being killed: DPDK leaves the folder behind.
        // SAFETY: registers a plain function.
        unsafe { libc::atexit(at_exit) };
        let affinity = Affinity::save();
        let log = LogCapture::start();
        let said = usage::Output::hold(&args);
        let started = init(&args);
        if let Some(said) = said {
            said.release(started.is_ok());
        }
        let boot_log = log.finish();
        affinity.restore();
        let unread = match started {
            Ok(unread) => unread,
            Err(errno) => {
                remove_runtime_dir();
                return Err(EalError::Init {
                    what: strerror(errno),
                    remedy: remedy(errno, &boot_log),
                    args: args.join(" "),
                    log: boot_log.trim_end().to_owned(),
                });
            }
        };
        if !unread.is_empty() {
            // SAFETY: it has just started, and nothing of it is in use.
            unsafe { sys::rte_eal_cleanup() };
            remove_runtime_dir();
            return Err(EalError::Words(unread.join(" ")));
        }
        Ok(Eal(Arc::new(Inner {
            holds: Default::default(),
            state: AtomicFsm::default(),
            huge,
            args,
            boot_log,
            notes,
        })))
    }

    /// Whether its memory is made of huge pages.
    pub fn huge(&self) -> bool {
        self.0.huge
    }

    /// The arguments it was started with.
    pub fn args(&self) -> &[String] {
        &self.0.args
    }

    /// Notes for the user on the start: features that it does without, and why.
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Output of the EAL while it started.
    pub fn boot_log(&self) -> &str {
        &self.0.boot_log
    }

    /// Whether devices use virtual addresses: page runs are then contiguous for every device, whatever their size.
    pub fn iova_is_va(&self) -> bool {
        // SAFETY: reads the configuration of the running EAL.
        unsafe { sys::rte_eal_iova_mode() == sys::RTE_IOVA_VA }
    }

    /// Makes the calling thread a polling lcore: only such threads may touch mempools. Pin the thread first; its
    /// NUMA node is looked up here.
    ///
    /// # Errors
    /// [`LcoreError`] when the EAL has no lcore left or is stopped.
    pub fn enter(&self) -> Result<PollLcore, LcoreError> {
        let hold = self.hold(HoldKind::Lcores).ok_or(LcoreError::Stopped)?;
        // SAFETY: reads thread-local state.
        let before = unsafe { sys::shim_lcore_id() };
        let registered = before == sys::SHIM_LCORE_ID_ANY;
        // SAFETY: the EAL runs (the hold keeps it), and the thread is not registered yet.
        if registered && unsafe { sys::rte_thread_register() } != 0 {
            return Err(LcoreError::Register { what: strerror(errno()), max: sys::RTE_MAX_LCORE });
        }
        // SAFETY: as above.
        let (id, node) = unsafe { (sys::shim_lcore_id(), sys::rte_socket_id() as i32) };
        Ok(PollLcore(Rc::new(LcoreInner { id, node, registered, _hold: hold })))
    }

    /// Stops the EAL and frees its memory.
    ///
    /// # Errors
    /// [`CleanupError::InUse`] while anything of it is out: stopping would unmap pages under their users.
    pub fn cleanup(&self) -> Result<(), CleanupError> {
        self.0.state.apply(EalEvent::Close).ok_or(CleanupError::Stopped)?;
        let [runs, pools, ports, lcores] = [0, 1, 2, 3].map(|i| self.0.holds[i].load(Ordering::SeqCst));
        if runs + pools + ports + lcores > 0 {
            self.0.state.apply(EalEvent::InUse);
            return Err(CleanupError::InUse { runs, pools, ports, lcores });
        }
        // SAFETY: nothing of the EAL is in use, and nothing can start to use it in state Closing.
        let r = unsafe { sys::rte_eal_cleanup() };
        self.0.state.apply(EalEvent::Ended);
        remove_runtime_dir();
        if r == 0 { Ok(()) } else { Err(CleanupError::Failed(r)) }
    }

    /// Stops the EAL as soon as nothing of it is in use, for at most `limit`; then gives up, so that the process
    /// can exit with what is still out mapped.
    ///
    /// # Errors
    /// The last [`CleanupError`]: report it and exit without cleanup.
    pub fn cleanup_within(&self, limit: Duration) -> Result<(), CleanupError> {
        let end = Instant::now() + limit;
        loop {
            match self.cleanup() {
                Err(CleanupError::InUse { .. }) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5))
                }
                r => return r,
            }
        }
    }

    pub(crate) fn hold(&self, kind: HoldKind) -> Option<Hold> {
        self.retain(kind).then(|| Hold { eal: self.clone(), kind })
    }

    /// Counts one more user; false when the EAL is stopped or about to be.
    pub(crate) fn retain(&self, kind: HoldKind) -> bool {
        self.0.holds[kind as usize].fetch_add(1, Ordering::SeqCst);
        if self.0.state.is(EalState::Live) {
            return true;
        }
        self.release(kind);
        false
    }

    pub(crate) fn release(&self, kind: HoldKind) {
        self.0.holds[kind as usize].fetch_sub(1, Ordering::SeqCst);
    }
}

/// Errors of making a thread a polling lcore.
#[derive(Debug, thiserror::Error)]
pub enum LcoreError {
    /// The EAL is stopped.
    #[error("the EAL is stopped: no thread can poll")]
    Stopped,
    /// The EAL refused.
    #[error("the EAL does not take this thread as an lcore ({what}): it has {max} in all; use fewer lcores")]
    Register {
        /// DPDK's name for the error.
        what: String,
        /// Lcores that DPDK was built for.
        max: u32,
    },
}

/// Proof that this thread is an lcore of the EAL. Not `Send`: it is the thread's. Queues keep clones; the
/// registration ends with the last one.
#[derive(Clone, Debug)]
pub struct PollLcore(Rc<LcoreInner>);

#[derive(Debug)]
struct LcoreInner {
    id: u32,
    node: i32,
    registered: bool,
    _hold: Hold,
}

impl std::fmt::Debug for Hold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hold({:?})", self.kind)
    }
}

impl PollLcore {
    /// The EAL's number of this lcore.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Its NUMA node, or -1 when its cores span several.
    pub fn node(&self) -> i32 {
        self.0.node
    }
}

impl Drop for LcoreInner {
    fn drop(&mut self) {
        if self.registered {
            // SAFETY: this thread was registered by `enter`, and the hold keeps the EAL running.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}

extern "C" fn at_exit() {
    // Reads static strings of the EAL, which the library keeps to the end.
    remove_runtime_dir();
}

/// Reason why DPDK cannot make its run-time folder, if it cannot. The rules are those of its `eal_create_runtime_dir`.
fn run_dir_refused() -> Option<String> {
    let var = |v| std::env::var_os(v).filter(|d| !d.is_empty());
    // SAFETY: asks for a number.
    let root = unsafe { libc::getuid() } == 0;
    let base = var("RUNTIME_DIRECTORY")
        .or_else(|| if root { Some("/var/run".into()) } else { var("XDG_RUNTIME_DIR") })
        .unwrap_or_else(|| "/tmp".into());
    if let Some(e) = too_long(Path::new(&base)) {
        return Some(e);
    }
    let (base, dpdk) = (Path::new(&base), Path::new(&base).join("dpdk"));
    let dir = if dpdk.is_dir() { &dpdk } else { base };
    let refused = CString::new(dir.as_os_str().as_encoded_bytes()).ok().and_then(|c| {
        // SAFETY: a terminated string.
        let r = unsafe { libc::access(c.as_ptr(), libc::W_OK | libc::X_OK) };
        (r != 0).then(std::io::Error::last_os_error)
    })?;
    Some(format!(
        "{} cannot be written ({refused}); set RUNTIME_DIRECTORY to a folder that can",
        dir.display()
    ))
}

/// An error for a folder whose path leaves telemetry's socket no room: the EAL would not start.
fn too_long(base: &Path) -> Option<String> {
    // unix(7): 108 with the zero behind it. Process numbers have up to seven digits; a number may be added to the name.
    let most = 107 - "/dpdk/pollnd-4194304/dpdk_telemetry.v2:99".len();
    let len = base.as_os_str().len();
    (len > most).then(|| {
        format!(
            "{} has {len} bytes, and a folder with that socket in it at most {most}; set RUNTIME_DIRECTORY to one with a shorter path",
            base.display()
        )
    })
}

/// Whether the process may have only so much address space.
fn address_space_is_limited() -> bool {
    let mut l = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: writes the structure that it is given.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut l) == 0 && l.rlim_cur != libc::RLIM_INFINITY }
}

/// Removes the run-time folder, which DPDK leaves behind, when it is of this process alone: when we chose its name.
pub(super) fn remove_runtime_dir() {
    // SAFETY: returns a static string, empty before the EAL has made the folder.
    let dir = unsafe { sys::rte_eal_get_runtime_dir() };
    if dir.is_null() {
        return;
    }
    // SAFETY: a terminated string.
    let dir = unsafe { CStr::from_ptr(dir) }.to_string_lossy().into_owned();
    let own = format!("pollnd-{}", std::process::id());
    if Path::new(&dir).file_name().is_some_and(|f| f == own.as_str()) {
        // Best effort: a folder that stays is litter, not an error.
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// The version of the DPDK that is loaded, such as `DPDK 22.11.11`.
pub fn dpdk_version() -> String {
    // SAFETY: a static string.
    unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
}

pub(crate) fn errno() -> i32 {
    // SAFETY: reads thread-local state.
    unsafe { sys::shim_errno() }
}

pub(crate) fn strerror(e: i32) -> String {
    // SAFETY: returns a terminated string for every value.
    unsafe { CStr::from_ptr(sys::rte_strerror(e)) }.to_string_lossy().into_owned()
}

/// Starts the EAL; the words that it has not read.
fn init(args: &[String]) -> Result<Vec<String>, i32> {
    // No argument has a zero byte: `EalConfig::args` looked.
    let args: Vec<CString> = args.iter().filter_map(|a| CString::new(a.as_str()).ok()).collect();
    let mut argv: Vec<*mut c_char> = args.iter().map(|a| a.as_ptr().cast_mut()).collect();
    let argc = argv.len() as i32;
    argv.push(std::ptr::null_mut());
    // The EAL keeps pointers into the strings.
    std::mem::forget(args);
    // SAFETY: a terminated argument vector of terminated strings; it is called once a process.
    let read = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    let read = usize::try_from(read).map_err(|_| errno())?;
    // getopt has moved what is no option, or an option's value, to the end.
    let unread = argv.iter().skip(read + 1).take_while(|a| !a.is_null());
    // SAFETY: pointers of the vector above, to terminated strings that stay.
    Ok(unread.map(|a| format!("{:?}", unsafe { CStr::from_ptr(*a) })).collect())
}

fn remedy(errno: i32, log: &str) -> &'static str {
    match errno {
        libc::EACCES if log.contains("Cannot get hugepage information") && log.contains("No free ") => {
            "reserve huge pages (echo N > /proc/sys/vm/nr_hugepages), or leave out what asks for them in files (--huge-dir, \
             --huge-unlink, --legacy-mem, --single-file-segments)"
        }
        libc::EACCES if log.contains("Cannot get hugepage information") => {
            "leave out what asks for huge pages in files (--huge-dir, --huge-unlink, --legacy-mem, --single-file-segments), or \
             mount a file system for them where this user may write (mount -t hugetlbfs none /dev/hugepages)"
        }
        libc::EACCES | libc::EPERM => {
            "run as root, or grant the user its huge pages, vfio group and run-time folder"
        }
        libc::ENOMEM if address_space_is_limited() => {
            "lift the limit of this process's address space (ulimit -v unlimited): the EAL reserves many times the memory that it takes"
        }
        libc::ENOMEM => {
            "reserve more huge pages (echo N > /proc/sys/vm/nr_hugepages), ask for less memory, or take ordinary pages (-- --no-huge)"
        }
        libc::EINVAL => {
            "correct the arguments; those after -- are passed on as they are, and -- --help lists those that there are"
        }
        libc::ENODEV | libc::ENOTSUP => "look at the log below: a device or bus is not usable",
        libc::EALREADY => "run a new process: the EAL starts once",
        libc::EPROTO => "the vdev or PCI bus did not probe: look at the log below",
        _ => "look at the log below, or run `pollnd doctor`",
    }
}

fn cpu_set() -> (libc::cpu_set_t, bool) {
    // SAFETY: a cpu_set_t is plain bits, all-zero valid; the call writes at most its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let ok = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) == 0;
        (set, ok)
    }
}

fn allowed_cores() -> Vec<usize> {
    let (set, ok) = cpu_set();
    if !ok {
        return vec![0];
    }
    // SAFETY: every index is below CPU_SETSIZE.
    (0..libc::CPU_SETSIZE as usize).filter(|i| unsafe { libc::CPU_ISSET(*i, &set) }).collect()
}

/// The EAL pins the thread that starts it; the caller's affinity is not the EAL's to change.
struct Affinity(Option<libc::cpu_set_t>);

impl Affinity {
    fn save() -> Affinity {
        let (set, ok) = cpu_set();
        Affinity(ok.then_some(set))
    }

    fn restore(self) {
        if let Some(set) = self.0 {
            // SAFETY: a set that the kernel gave us.
            unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) };
        }
    }
}

/// Collects what the EAL logs while it starts, so that a failure can show it; from then on the log goes to the
/// standard error stream (DPDK's default is the standard output, where results belong).
struct LogCapture {
    stream: *mut libc::FILE,
    text: *mut (*mut c_char, usize),
}

impl LogCapture {
    fn start() -> LogCapture {
        let text = Box::into_raw(Box::new((std::ptr::null_mut(), 0)));
        // SAFETY: both addresses stay valid: `text` is never freed, since the EAL's threads may still hold the
        // stream after `finish`.
        let stream = unsafe { libc::open_memstream(&raw mut (*text).0, &raw mut (*text).1) };
        if !stream.is_null() {
            // SAFETY: an open stream that is never closed.
            unsafe { sys::rte_openlog_stream(stream.cast()) };
        }
        LogCapture { stream, text }
    }

    fn finish(self) -> String {
        // SAFETY: `stream` is open; after fflush the text is terminated and complete; descriptor 2 is duplicated,
        // so closing is nobody's concern.
        unsafe {
            let fd = libc::dup(2);
            let err = if fd < 0 { std::ptr::null_mut() } else { libc::fdopen(fd, c"w".as_ptr()) };
            if !err.is_null() {
                libc::setvbuf(err, std::ptr::null_mut(), libc::_IONBF, 0);
            }
            sys::rte_openlog_stream(err.cast());
            if self.stream.is_null() || libc::fflush(self.stream) != 0 || (*self.text).0.is_null() {
                return String::new();
            }
            CStr::from_ptr((*self.text).0).to_string_lossy().into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<EalState>(), @r"
        Live + Close -> Closing
        Closing + InUse -> Live
        Closing + Ended -> Stopped
        otherwise: a second stop is refused
        ");
    }

    /// Field report 10: a long path kept the EAL from starting, with "a device or bus is not usable".
    #[test]
    fn report_10_a_folder_without_room_for_a_socket_is_done_without() {
        assert_eq!(too_long(Path::new("/var/run")), None);
        let long = format!("/tmp/{}", "x".repeat(90));
        let e = too_long(Path::new(&long)).unwrap();
        assert!(e.contains(&long) && e.contains("95 bytes") && e.contains("RUNTIME_DIRECTORY"), "{e}");
    }
}
