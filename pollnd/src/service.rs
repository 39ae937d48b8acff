//! The node as a service of systemd (sd_notify(3), `Type=notify`): told when the node is up, that its lcores poll, and that it goes
//! down. Where no service manager listens, nothing is said.

use std::time::{Duration, Instant};

use sd_notify::{NotifyState, notify, watchdog_enabled};
use transport::node::inspect::Inspection;

/// Looks at lcores within the watchdog's time. Each may take an lcore its whole time to answer.
const LOOKS: u32 = 4;

/// The service manager's view of a node that is up.
pub(crate) struct Service {
    /// Interval of looks at the lcores; `None` without a watchdog.
    every: Option<Duration>,
    /// Time of the next one.
    due: Instant,
}

impl Service {
    /// Says that the node is up.
    pub(crate) fn up(status: &str) -> Service {
        say(&[NotifyState::Ready, NotifyState::Status(status)]);
        Service { every: watchdog_enabled().map(|t| t / LOOKS), due: Instant::now() }
    }

    /// Tells the watchdog that all lcores answer, when it is time to. Without a word from here the service manager starts
    /// the node anew.
    pub(crate) fn look(&mut self, lcores: &Inspection) {
        let Some(every) = self.every else { return };
        if Instant::now() < self.due {
            return;
        }
        match silent(lcores) {
            None => say(&[NotifyState::Watchdog]),
            Some(e) => tracing::warn!("the watchdog is not told: {e}"),
        }
        self.due = Instant::now() + every;
    }

    /// Says that the node goes down.
    pub(crate) fn down(self) {
        say(&[NotifyState::Stopping]);
    }
}

/// The first lcore that does not answer.
fn silent(lcores: &Inspection) -> Option<String> {
    (0..lcores.lcores()).find_map(|l| Some(format!("lcore {l}: {}", lcores.counts(l).err()?)))
}

fn say(what: &[NotifyState<'_>]) {
    if let Err(e) = notify(what) {
        tracing::warn!("the service manager is not told ({what:?}): {e}");
    }
}
