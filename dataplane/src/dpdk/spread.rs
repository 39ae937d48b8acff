//! Spreading of received packets over a device's queues: decided from the device's offer, read back once it runs.

use std::sync::Arc;

use dpdk_sys as sys;

use super::eal::strerror;
use super::offload::{Choice, Offer};
use crate::steer::{KEY, Rss, Steering};

/// Most entries of a redirection table that are read.
const RETA_MAX: usize = 2048;
/// Entries that one of DPDK's records has.
const GROUP: usize = 64;
/// Room for a key, in bytes; its first [`KEY`].len() count.
const KEY_ROOM: usize = 255;

/// Receive-side scaling that a device reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Entries of its redirection table.
    pub reta: u16,
    /// Length of its key in bytes, 0 when it does not tell.
    pub key_len: u8,
}

/// Spreading of packets over the queues of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// There is one queue, for the reason given where more were asked for.
    One(Option<String>),
    /// By hash.
    Rss(Arc<Rss>),
    /// Queues in pairs: answers come back on the one that was asked from.
    Mirror,
}

impl Spread {
    /// As a user reads it.
    pub(crate) fn describe(&self, queues: u16) -> String {
        match self {
            Spread::One(None) => "1 queue".into(),
            Spread::One(Some(why)) => format!("1 queue ({why})"),
            Spread::Rss(_) => format!("{queues} queues, RSS"),
            Spread::Mirror => format!("{queues} queues, mirrored"),
        }
    }

    pub(crate) fn steering(&self, queue: u16, queues: u16) -> Steering {
        match self {
            Spread::One(_) => Steering::default(),
            Spread::Rss(r) => Steering::rss(queue, queues, r.clone()),
            Spread::Mirror => Steering::mirror(queue, queues),
        }
    }
}

/// Devices whose transmit queue i is the receive queue i of the other end, or that learn from what is sent where to
/// answer (virtio 1.2 §5.1.6.5.6; the kernel's tun behind vhost-net does the same).
fn mirrors(driver: &str) -> bool {
    driver == "net_vhost" || driver.starts_with("net_virtio")
}

/// Whether the device can do more than one queue so that we know which packets come to which, and if not, why.
pub(crate) fn refusal(o: &Offer, c: &Choice, reta: u16) -> Option<String> {
    let readable = (1..=RETA_MAX).contains(&usize::from(reta));
    let by_ports = c.rss & sys::SHIM_ETH_RSS_NONFRAG_IPV4_TCP != 0 && readable;
    (o.queues > 1 && !by_ports && !mirrors(&o.driver))
        .then(|| format!("driver {} neither hashes TCP ports nor mirrors its queues", o.driver))
}

/// Spreading of packets by the running port `id` over `queues` queues. A key or a table under which a queue gets no
/// connection is replaced where the driver allows.
pub(crate) fn learn(id: u16, queues: u16, c: &Choice, t: Table) -> Result<Spread, String> {
    if queues == 1 {
        return Ok(Spread::One(None));
    }
    if c.rss == 0 {
        return Ok(Spread::Mirror);
    }
    let mut rss = read(id, t.reta, c.rss);
    if !rss.as_ref().is_ok_and(|r| r.reaches_all(queues)) {
        write(id, t, queues, c.rss);
        rss = read(id, t.reta, c.rss);
    }
    let rss = rss?;
    if !rss.reaches_all(queues) {
        return Err("its RSS key or table leaves a queue without connections, and cannot be changed".into());
    }
    Ok(Spread::Rss(Arc::new(rss)))
}

fn groups(reta: u16) -> Vec<sys::rte_eth_rss_reta_entry64> {
    let n = usize::from(reta).min(RETA_MAX).div_ceil(GROUP);
    // SAFETY: plain data, all-zero valid.
    let one = || unsafe { std::mem::zeroed::<sys::rte_eth_rss_reta_entry64>() };
    let mut all: Vec<_> = std::iter::repeat_with(one).take(n).collect();
    for (i, g) in all.iter_mut().enumerate() {
        let has = (usize::from(reta) - i * GROUP).min(GROUP) as u32;
        g.mask = u64::MAX >> (GROUP as u32 - has);
    }
    all
}

fn check(r: i32, what: &str) -> Result<(), String> {
    if r == 0 { Ok(()) } else { Err(format!("its driver does not tell its {what}: {}", strerror(-r))) }
}

fn read(id: u16, reta: u16, types: u64) -> Result<Rss, String> {
    if usize::from(reta) > RETA_MAX {
        return Err(format!("its redirection table has {reta} entries, of which {RETA_MAX} are read"));
    }
    let mut key = [0u8; KEY_ROOM];
    let (mut len, mut hashed) = (KEY_ROOM as u8, 0);
    // SAFETY: places for the answers, with room for the longest key that its length can name.
    check(unsafe { sys::shim_eth_rss_get(id, key.as_mut_ptr(), &mut len, &mut hashed) }, "RSS key")?;
    let ports = types & (sys::SHIM_ETH_RSS_NONFRAG_IPV4_TCP | sys::SHIM_ETH_RSS_NONFRAG_IPV6_TCP);
    if hashed & ports != ports {
        return Err("its hash leaves TCP ports out".into());
    }
    let mut table = groups(reta);
    // SAFETY: as many records as the size asks for.
    check(unsafe { sys::rte_eth_dev_rss_reta_query(id, table.as_mut_ptr(), reta) }, "redirection table")?;
    let reta = table.iter().flat_map(|g| g.reta).take(usize::from(reta)).collect();
    Ok(Rss::new(key[..KEY.len()].to_vec(), reta))
}

/// [`KEY`] in the length that the device wants: from DPDK 23.11 on another one is refused (field report 6). Bytes beyond
/// [`KEY`]'s are not read for TCP. A device that tells no length is offered the usual one.
fn key_of(len: u8) -> Vec<u8> {
    let len = if len == 0 { KEY.len() } else { usize::from(len) };
    KEY.iter().copied().cycle().take(len).collect()
}

/// Asks for a known key and an even table. Whether it was granted is seen when they are read again.
fn write(id: u16, t: Table, queues: u16, types: u64) {
    let reta = t.reta;
    if usize::from(reta) > RETA_MAX {
        return;
    }
    let mut key = key_of(t.key_len);
    // SAFETY: a key of the length named, which the call copies.
    unsafe { sys::shim_eth_rss_set(id, key.as_mut_ptr(), key.len() as u8, types) };
    let mut table = groups(reta);
    for (i, q) in table.iter_mut().flat_map(|g| &mut g.reta).enumerate() {
        *q = (i % usize::from(queues)) as u16;
    }
    // SAFETY: as many records as the size says.
    unsafe { sys::rte_eth_dev_rss_reta_update(id, table.as_mut_ptr(), reta) };
}

#[cfg(test)]
mod tests {
    use super::super::offload::{negotiate, tests::offer};
    use super::*;

    #[test]
    fn several_queues_need_a_hash_of_ports_or_a_mirror() {
        let tcp = sys::SHIM_ETH_RSS_NONFRAG_IPV4_TCP;
        let no = "neither hashes TCP ports nor mirrors";
        for (driver, rss, queues, reta, want) in [
            ("net_i40e", tcp, 4, 512, None),
            ("net_i40e", tcp, 4, 0, Some(no)),
            ("net_i40e", sys::SHIM_ETH_RSS_IPV4, 4, 512, Some(no)),
            ("net_af_packet", 0, 2, 0, Some(no)),
            ("net_af_packet", 0, 1, 0, None),
            ("net_vhost", 0, 2, 0, None),
            ("net_virtio_user", 0, 2, 0, None),
            ("net_virtio", 0, 2, 0, None),
        ] {
            let o = Offer { rss, queues, ..offer(driver, u64::MAX, u64::MAX) };
            let why = refusal(&o, &negotiate(&o), reta);
            assert_eq!(why.is_some(), want.is_some(), "{driver} {rss:x} {queues} {reta}");
            assert!(why.is_none_or(|w| w.contains(driver) && w.contains(want.unwrap())));
        }
    }

    #[test]
    fn a_key_has_the_length_that_the_device_names() {
        for (len, want) in [(0, 40), (40, 40), (52, 52), (16, 16), (255, 255)] {
            let k = key_of(len);
            assert_eq!((k.len(), &k[..want.min(40)]), (want, &KEY[..want.min(40)]));
        }
    }

    #[test]
    fn tables_are_asked_for_entry_by_entry() {
        let masks = |n| groups(n).iter().map(|g| g.mask).collect::<Vec<_>>();
        assert_eq!(masks(128), [u64::MAX; 2]);
        assert_eq!(masks(65), [u64::MAX, 1]);
        assert_eq!(masks(0), []);
        assert_eq!(groups(u16::MAX).len(), RETA_MAX / GROUP);
    }

    #[test]
    fn what_a_user_reads() {
        assert_eq!(Spread::One(None).describe(1), "1 queue");
        assert_eq!(Spread::One(Some("no hash".into())).describe(1), "1 queue (no hash)");
        assert_eq!(Spread::Mirror.describe(4), "4 queues, mirrored");
        let s = Spread::Mirror.steering(3, 4);
        assert_eq!((s.queue(), s.queues(), s.how()), (3, 4, Some("mirrored")));
    }
}
