//! The control thread of a node on a DPDK port: looks at the link, restarts a port whose driver holds sent pages, waits
//! for the other end of a virtio link, and tells of it all, once a minute at most.
//!
//! ```text
//!            Up                Down               GivenUp (it would not connect again)
//!   Fresh ────────> Up ──────────────────> Down ───────────────────────────────> Away (device given up)
//!                    ^                     │ ^                                     │
//!                    └─────────────────────┘ └─────────────────────────────────────┘ MadeAnew
//!                              Up
//! ```

mod starts;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::dpdk::{EthPort, LinkState, PortSpec};
use fsm::Fsm;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use transport::node::lcore::Duplicates;

use self::starts::{Said, Starts};
use crate::limits;

/// Interval of looks at links and late drivers.
const LOOK: Duration = Duration::from_millis(100);
/// The same once a link that was up has been down for longer than a restart of its other end takes.
const LOOK_DOWN: Duration = Duration::from_secs(1);
const RESTARTS: Duration = Duration::from_secs(10);
/// Interval at which the same is told again.
const TELL: Duration = Duration::from_secs(60);
/// Longest time of lcores to let go of the port.
const YIELD: Duration = Duration::from_secs(2);

fsm::fsm! {
    /// State of the link.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Link {
        /// It has not been up yet.
        Fresh,
        Up,
        Down,
        /// The device is given up: it would not connect again.
        Away,
    }

    /// Events of the link.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum LinkEvent {
        Up,
        Down,
        GivenUp,
        MadeAnew,
    }

    table Link + LinkEvent {
        start Fresh;
        else "nothing changes";
        Fresh | Down + Up => Up;
        Up + Down => Down;
        Down + GivenUp => Away;
        Away + MadeAnew => Down;
    }
}

/// Lets a line through, and the next one a minute later.
#[derive(Debug, Default)]
struct Rare(Option<Instant>);

impl Rare {
    fn due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|t| now >= t + TELL);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// The socket that a virtio_user device connects to, which it does once.
fn backend(spec: &PortSpec) -> Option<PathBuf> {
    let virtio = spec.port_name().starts_with("net_virtio_user");
    spec.socket().filter(|s| virtio && !s.listens).map(|s| s.path)
}

/// Whether this process may have the descriptors that a device of so many queues takes: two for each of its rings, and some for
/// a moment. They are looked for and not tried: DPDK's interrupt thread closes its epoll instance and opens another at each
/// change, and aborts the process if somebody has taken the number meanwhile.
fn may_have(queues: u16) -> bool {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let is_free = |n: &u64| fs::symlink_metadata(format!("/proc/self/fd/{n}")).is_err();
    let want = 4 * usize::from(queues) + 8;
    (0..most).filter(is_free).take(want).count() == want
}

/// Inputs of the control thread.
pub(crate) struct Duties {
    /// Set by lcores whose driver holds sent pages.
    pub(crate) restart: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
    /// Other stations with our addresses, as each lcore sees them.
    pub(crate) duplicates: Arc<Mutex<Vec<Duplicates>>>,
    /// Told of each speed of the link; false when it could not be passed on yet.
    pub(crate) speed: Box<dyn FnMut(u32) -> bool + Send>,
    /// The speed that is known already, in Mbit/s.
    pub(crate) told: Option<u32>,
}

/// The thread.
pub(crate) struct Keeper {
    stop: Sender<()>,
    thread: JoinHandle<EthPort>,
}

/// The speed that a port tells, in Mbit/s, if it knows.
pub(crate) fn speed(l: LinkState) -> Option<u32> {
    (l.up && l.mbps > 0 && l.mbps != u32::MAX).then_some(l.mbps)
}

impl Keeper {
    /// Starts it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(port: EthPort, spec: &PortSpec, duties: Duties) -> Result<Keeper, String> {
        let (stop, stopped) = mpsc::channel();
        let backend = backend(spec);
        // A device that connects by itself has done so when it was made.
        let mut state = Fsm::START;
        if backend.is_some() || port.refresh_link().up {
            state.apply(LinkEvent::Up);
        }
        let watch = Watch {
            port,
            backend,
            duties,
            state,
            since: Instant::now(),
            again: Instant::now(),
            starts: Starts::new(Instant::now()),
            down: Rare::default(),
            failed: Rare::default(),
            trouble: Rare::default(),
        };
        let thread = limits::thread("looks after the port", move || watch.keep(&stopped))?;
        Ok(Keeper { stop, thread })
    }

    /// Ends the thread; the port.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) fn end(self) -> Result<EthPort, String> {
        drop(self.stop);
        self.thread.join().map_err(|_| "the control thread panicked".to_owned())
    }
}

struct Watch {
    port: EthPort,
    backend: Option<PathBuf>,
    duties: Duties,
    state: Fsm<Link>,
    /// Time at which the link went down.
    since: Instant,
    /// A device that could not be made is not tried again before.
    again: Instant,
    starts: Starts,
    down: Rare,
    failed: Rare,
    trouble: Rare,
}

impl Watch {
    fn keep(mut self, stopped: &Receiver<()>) -> EthPort {
        let mut look = LOOK;
        while stopped.recv_timeout(look) == Err(mpsc::RecvTimeoutError::Timeout) {
            let now = Instant::now();
            self.look(now);
            self.restart_if_wanted(now);
            self.warn_of_duplicates();
            if self.trouble.0.is_none_or(|t| now >= t + TELL) {
                for t in self.port.troubles() {
                    self.trouble.0 = Some(now);
                    tracing::warn!("{t}");
                }
            }
            look = if self.works() || now < self.since + RESTARTS { LOOK } else { LOOK_DOWN };
        }
        self.port
    }

    /// Whether the device is there and nobody has seen its link go down.
    fn works(&self) -> bool {
        matches!(self.state.get(), Link::Fresh | Link::Up)
    }

    fn look(&mut self, now: Instant) {
        match self.state.get() {
            Link::Fresh | Link::Up => {
                let link = self.port.refresh_link();
                self.saw(link, now);
            }
            // It would not connect again; closed, it lets go of what was being sent.
            Link::Down if self.backend.is_some() => match self.port.detach(YIELD) {
                Ok(()) => {
                    if self.port.is_away() {
                        self.state.apply(LinkEvent::GivenUp);
                    } else {
                        let link = self.port.refresh_link_quietly();
                        self.saw(link, now);
                    }
                }
                Err(e) if self.failed.due(now) => tracing::error!("{e}"),
                Err(_) => {}
            },
            Link::Down => {
                let link = self.port.refresh_link_quietly();
                self.saw(link, now);
            }
            Link::Away => self.try_again(now),
        }
        // Of a port that does not run other lines tell.
        if !self.works() && self.starts.runs() && self.down.due(now) {
            let waits = match &self.backend {
                Some(p) => format!("; it is joined again when its other end serves {} again", p.display()),
                None => String::new(),
            };
            let secs = (now - self.since).as_secs();
            tracing::warn!("port {}: its link has been down for {secs} s{waits}", self.port.name());
        }
    }

    fn saw(&mut self, link: LinkState, now: Instant) {
        if let Some(mbps) = speed(link).filter(|m| self.duties.told != Some(*m)) {
            // An lcore that is held up is told at the next look.
            self.duties.told = (self.duties.speed)(mbps).then_some(mbps);
        }
        let was = self.state.get();
        if self.state.apply(if link.up { LinkEvent::Up } else { LinkEvent::Down }).is_some() {
            if link.up && was == Link::Down {
                tracing::warn!(
                    "port {}: its link is up again after {} s",
                    self.port.name(),
                    (now - self.since).as_secs()
                );
            } else if link.up {
                tracing::info!("port {}: its link is up", self.port.name());
            } else {
                (self.since, self.down) = (now, Rare::default());
            }
        }
    }

    /// Makes the device anew once somebody serves its socket. Looked at first, since the driver logs each failure.
    fn try_again(&mut self, now: Instant) {
        if now < self.again {
            return;
        }
        if !may_have(self.port.queues()) {
            if self.failed.due(now) {
                tracing::error!(
                    "port {}: it is not joined again: {}",
                    self.port.name(),
                    limits::told(&Errno::MFILE.into())
                );
            }
            return;
        }
        if self.backend.as_ref().is_none_or(|p| UnixStream::connect(p).is_err()) {
            return;
        }
        match self.port.attach() {
            Ok(()) => {
                self.state.apply(LinkEvent::MadeAnew);
                let link = self.port.refresh_link();
                self.saw(link, now);
            }
            // The driver says something each time.
            Err(e) => {
                self.again = now + LOOK_DOWN;
                if self.failed.due(now) {
                    tracing::error!("{e}");
                }
            }
        }
    }

    /// The stacks tell of each once a minute.
    fn warn_of_duplicates(&self) {
        for lcore in self.duties.duplicates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            while let Some(d) = lcore.next_one() {
                tracing::warn!(port = self.port.name(), "{d}");
            }
        }
    }

    /// Restarts the port when an lcore wants that, and starts it when it did not start.
    fn restart_if_wanted(&mut self, now: Instant) {
        let flags = self.duties.restart.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = flags.iter().fold(false, |any, f| f.swap(false, Ordering::AcqRel) | any);
        drop(flags);
        // Nobody is there to take what the driver holds: a restart changes nothing.
        let said = if wanted && self.works() {
            tracing::warn!(
                port = self.port.name(),
                "its driver has held sent pages for a second: stopping and starting it"
            );
            self.starts.restart(&mut self.port, now)
        } else {
            self.starts.look(&mut self.port, now)
        };
        match said {
            Some(Said::Fails(line)) => tracing::error!("{line}"),
            Some(Said::Runs(line)) => tracing::warn!("{line}"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        insta::assert_snapshot!(fsm::listing::<Link>(), @r"
        Fresh + Up -> Up
        Up + Down -> Down
        Down + Up -> Up
        Down + GivenUp -> Away
        Away + MadeAnew -> Down
        otherwise: nothing changes
        ");
    }

    #[test]
    fn the_same_is_told_once_a_minute() {
        let start = Instant::now();
        let mut r = Rare::default();
        let told: Vec<u64> = (0..200).filter(|s| r.due(start + Duration::from_secs(*s))).collect();
        assert_eq!(told, [0, 60, 120, 180]);
    }

    #[test]
    fn only_a_device_that_connects_by_itself_is_made_anew() {
        let b = |s: &str| backend(&s.parse().unwrap());
        assert_eq!(b("net_virtio_user0,path=/v"), Some("/v".into()));
        for other in [
            "net_virtio_user0,path=/v,server=1",
            "net_vhost0,iface=/v,client=1",
            "net_vhost0,iface=/v",
            "net_tap0",
        ] {
            assert_eq!(b(other), None, "{other}");
        }
    }
}
