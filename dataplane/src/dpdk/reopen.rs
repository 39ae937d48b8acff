//! A port whose device is given up while the other end of its link is gone, and made anew when that is back.
//!
//! A virtio_user device that has connected to a vhost socket does not do so again (field report 9), and holds what was
//! being sent; closing it brings the pages home. The queues stay with their lcores and the buffers with their pools.

use std::time::Duration;

use super::eal::HoldKind;
use super::port::EthPort;
use super::port_config::{LinkState, PortError};
use super::probe::{find, remove_vdev};
use super::spec::PortSpec;

/// The level of DPDK's log that lets only the worst through (`RTE_LOG_EMERG`).
const EMERGENCY: u32 = 1;

/// Does `f` without the lines of virtio drivers, which log each step that the other end's absence makes fail.
fn quietly<T>(f: impl FnOnce() -> T) -> T {
    let before = [c"pmd.net.virtio.driver", c"pmd.net.virtio.init"].map(|name| {
        // SAFETY: a terminated name; one that is registered gives its number, another gets one.
        let kind = unsafe { dpdk_sys::rte_log_register(name.as_ptr()) }.max(0) as u32;
        // SAFETY: reads and sets a number; a kind that does not exist is an error that changes nothing.
        let level = unsafe { dpdk_sys::rte_log_get_level(kind) };
        // SAFETY: as above.
        unsafe { dpdk_sys::rte_log_set_level(kind, EMERGENCY) };
        (kind, level)
    });
    let r = f();
    for (kind, level) in before {
        // SAFETY: as above; a level that could not be read is refused.
        unsafe { dpdk_sys::rte_log_set_level(kind, level.max(0) as u32) };
    }
    r
}

impl EthPort {
    /// Stops the port and gives its device up, so that the driver lets go of every buffer. Queues do nothing until
    /// [`EthPort::attach`].
    ///
    /// # Errors
    /// [`PortError::Polled`]: the port then runs on.
    pub fn detach(&mut self, limit: Duration) -> Result<(), PortError> {
        if self.away || self.made.is_none() {
            return Ok(());
        }
        if let Err(e @ PortError::Polled { .. }) = quietly(|| self.stop(limit)) {
            return Err(e);
        }
        quietly(|| self.release());
        self.away = true;
        Ok(())
    }

    /// [`EthPort::refresh_link`] of a port that is known to be down, without the driver's line about it each time: errors of
    /// virtio drivers are left out meanwhile.
    pub fn refresh_link_quietly(&self) -> LinkState {
        quietly(|| self.refresh_link())
    }

    /// Whether the device is given up.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Makes the device anew and starts it; its queues go on by themselves.
    ///
    /// # Errors
    /// As [`EthPort::open`], and [`PortError::Changed`] when it is no longer what the queues were made for.
    pub fn attach(&mut self) -> Result<(), PortError> {
        if !self.away {
            return Ok(());
        }
        let spec = self.spec.with_mac(self.shared.caps.mac);
        let (id, made) = find(&spec)?;
        let config = super::PortConfig { queues: self.queues(), fewer: false, ..self.config.clone() };
        let hold = self.eal.hold(HoldKind::Ports).ok_or(PortError::Stopped)?;
        let new = Self::configure(&self.eal, &spec, id, &config, hold, Some(self.pools.clone()));
        let given_up = |made: &Option<std::ffi::CString>| {
            // SAFETY: the port was never started, so no lcore polls it.
            unsafe { dpdk_sys::rte_eth_dev_close(id) };
            if let Some(n) = made {
                remove_vdev(n);
            }
        };
        let mut new = match new {
            Ok(p) => p,
            Err(e) => {
                given_up(&made);
                return Err(e);
            }
        };
        let what = if id != self.shared.id {
            Some("number")
        } else if new.shared.choice != self.shared.choice {
            Some("offloads")
        } else if new.shared.caps != self.shared.caps {
            Some("address, MTU or limits")
        } else {
            None
        };
        // The device is this port's: the other value only held it.
        new.forget();
        drop(new);
        if let Some(what) = what {
            given_up(&made);
            return Err(PortError::Changed { port: self.name().into(), what });
        }
        (self.made, self.away) = (made, false);
        let started = self.start().and_then(|()| {
            let before = std::mem::replace(&mut self.spread, super::spread::Spread::One(None));
            let learnt = self.learn_spread();
            let same = self.queues() == 1 || (learnt.is_ok() && self.spread == before);
            self.spread = before;
            if same {
                Ok(())
            } else {
                Err(PortError::Changed { port: self.name().into(), what: "spreading over queues" })
            }
        });
        if started.is_err() {
            self.detach(Duration::from_secs(1))?;
        }
        started
    }
}

impl PortSpec {
    /// The same device with an address of our choosing: one that is made anew keeps the one that peers know.
    fn with_mac(&self, mac: [u8; 6]) -> PortSpec {
        let PortSpec::Vdev { name, args } = self else { return self.clone() };
        if !name.starts_with("net_virtio_user") || args.split(',').any(|a| a.starts_with("mac=")) {
            return self.clone();
        }
        let mac = mac.map(|b| format!("{b:02x}")).join(":");
        PortSpec::Vdev { name: name.clone(), args: format!("{args},mac={mac}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_9_a_device_that_is_made_anew_keeps_its_address() {
        let with = |s: &str| s.parse::<PortSpec>().unwrap().with_mac([2, 0, 0, 0xaa, 0xbb, 1]);
        assert_eq!(
            with("net_virtio_user0,path=/v"),
            "net_virtio_user0,path=/v,mac=02:00:00:aa:bb:01".parse().unwrap()
        );
        for same in ["net_virtio_user0,path=/v,mac=02:00:00:00:00:09", "net_vhost0,iface=/v", "0000:03:00.0"]
        {
            assert_eq!(with(same), same.parse().unwrap());
        }
    }
}
