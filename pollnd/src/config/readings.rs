//! Keys that lnetctl writes, or has in its examples, and that set nothing here: readings, and keys of other releases.
//!
//! Those that every export has are ignored. Of others that somebody may have meant as a setting a word is said.

use super::yaml::{Fault, Key};

/// Sections that lnetctl exports, and reasons why this node has no use for them.
pub(super) const SECTIONS: [(&str, &str); 2] = [
    ("udsp", "this node chooses NIDs by health, credits and turn alone"),
    ("statistics", "they are readings"),
];

/// Keys of an NI that are readings.
pub(super) const NI: [&str; 8] = [
    "status",
    "statistics",
    "sent_stats",
    "received_stats",
    "dropped_stats",
    "health stats",
    "udsp info",
    "dev cpt",
];
/// Keys of a route that are readings.
pub(super) const ROUTE: [&str; 2] = ["state", "type"];
/// A key of a peer that is a reading.
pub(super) const PEER: &str = "peer state";

/// Keys of lists' items that older lnetctls (2.10 to 2.15) write or take, and reasons why they set nothing.
const OLDER: [(&str, &str); 4] = [
    ("tcp bonding", "kernels have no bonding of their own any more, and an NI has one interface"),
    ("health_sensitivity", "a gateway is up while it answers; global has what is to be set"),
    ("detail", "it says how much lnetctl was asked to print"),
    ("seq_no", "it numbers lnetctl's own answers"),
];

/// A word about a key that is passed over.
pub(super) fn passed(key: &Key) -> Option<Fault> {
    let (name, why) = OLDER.iter().find(|k| k.0 == key.text)?;
    Some(Fault::new(key.at, format!("{name} is passed over: {why}")))
}

/// Keys of older lnetctls (2.10 to 2.12), and their names since.
const RENAMED: [(&str, &str); 1] = [("max_intf", "max_interfaces")];

/// The name of a key that older lnetctls call otherwise.
pub(super) fn renamed(name: &str) -> &str {
    RENAMED.iter().find(|r| r.0 == name).map_or(name, |r| r.1)
}

/// A word about an NI's CPTs that are not those of the node.
pub(super) fn other_cpts(said: &str) -> String {
    format!("CPT: {said} is passed over: an NI is served by all of the node's CPTs")
}

#[cfg(test)]
mod tests {
    use super::super::keys::Part;
    use super::super::model::Said;
    use super::super::reader::read;

    /// Keys that lnetctl of 2.10 to 2.15 writes, from knowledge: none of them keeps a node from starting.
    #[test]
    fn older_exports_are_read_with_a_word_about_what_sets_nothing() {
        let text = "net:
    - net type: tcp
      local NI(s):
        - nid: 10.0.0.1@tcp
          status: up
          interfaces:
              0: eth0
          statistics: {send_count: 1, recv_count: 2, drop_count: 0}
          tunables: {peer_timeout: 180, peer_credits: 8, peer_buffer_credits: 0, credits: 256}
          lnd tunables:
          tcp bonding: 0
          dev cpt: 0
          CPT: \"[0,1]\"
          seq_no: 1
route:
    - {net: o2ib, gateway: 10.0.0.9@tcp, hop: -1, priority: 0, health_sensitivity: 1, state: up, detail: 1, seq_no: 3}
peer:
    - primary nid: 10.0.0.2@tcp
      Multi-Rail: True
      peer state: 273
      detail: 3
      peer ni:
        - {nid: 10.0.0.2@tcp, state: NA, max_ni_tx_credits: 8, health value: 1000}
global: {numa_range: 0, max_intf: 200, discovery: 1, drop_asym_route: 0, lnd_timeout: 49}
";
        let m = read(text).unwrap();
        let words: Vec<String> = m.passed.iter().map(|p| format!("{} {}", p.at, p.text)).collect();
        let says = [
            "11:11 tcp bonding is passed over: ",
            "14:11 seq_no is passed over: ",
            "16:64 health_sensitivity is passed over: ",
            "16:98 detail is passed over: ",
            "16:109 seq_no is passed over: ",
            "21:7 detail is passed over: ",
            "24:35 max_interfaces: 200 is passed over: here it is always 4096, since ",
            "13:16 CPT: [0,1] is passed over: an NI is served by all of the node's CPTs",
        ];
        assert_eq!(words.len(), says.len(), "{words:#?}");
        for (word, says) in words.iter().zip(says) {
            assert!(word.starts_with(says), "{says}\n{words:#?}");
        }
        assert_eq!((m.routes.len(), m.peers.len(), m.nis[0].cpt.as_ref()), (1, 1, None));
        assert_eq!(m.said(Part::Global, "max_interfaces").map(Said::value), None);
    }

    /// A net that this node cannot have is one fault, and its NIs' values are not compared with those of others.
    #[test]
    fn another_lnd_s_net_is_one_fault() {
        let text = "net:
    - net type: o2ib1
      local NI(s):
        - nid: 172.16.1.4@o2ib1
          interfaces: {0: ib0}
          tunables: {peer_timeout: 100, peer_credits: 128, credits: 1024}
          lnd tunables: {peercredits_hiw: 64, map_on_demand: 32, concurrent_sends: 256, fmr_pool_size: 2048, fmr_flush_trigger: 512, fmr_cache: 1}
          CPT: \"[0,1]\"
    - net type: tcp
      local NI(s):
        - {nid: 10.0.0.1@tcp, tunables: {peer_credits: 8}}
";
        let faults = read(text).unwrap_err();
        let told: Vec<String> = faults.iter().map(|f| format!("{}: {}", f.at, f.text)).collect();
        assert_eq!(
            told,
            ["2:17: net type: \"o2ib1\" is none that this node has; it takes tcp, or tcp1 to tcp65535"]
        );
    }
}
