//! Two nodes in virtual time, 10.0.0.1 and 10.0.0.2: where a test of what applications see begins.
//!
//! ```
//! use transport::lnd::{Payload, Sink};
//! use transport::lnet::MdMem;
//! use transport::testing::net::SEC;
//! use transport::testing::pair::Pair;
//!
//! let mut pair = Pair::new();
//! pair.attach(1, MdMem::Sink(Sink::Lend(4096)));
//! assert!(pair.ping(0).is_ok());
//! assert_eq!(pair.put(0, Payload::inline(b"some bytes").unwrap()), Ok(10));
//! pair.take_events(1);
//! pair.run(SEC);
//! pair.assert_quiet();
//! ```

use std::ops::{Deref, DerefMut};

use super::data::Spot;
use super::net::{Net, SEC};
use crate::lnd::{Config, Data, LnetError, Payload, Sink};
use crate::lnet::{Event, MdMem, MdSpec, Op};
use crate::wire::{Nid, PingInfo, ProcessId};

/// Spot of [`Pair`]'s entries and operations.
pub const AT: Spot = Spot(26, 5);
/// The tag of its operations.
const TAG: u64 = 0x7061_6972;
/// Longer than any operation lasts, in ns.
const PATIENCE: u64 = 400 * SEC;

/// 10.0.0.n@tcp.
pub fn nid(n: u8) -> Nid {
    Nid::tcp([10, 0, 0, n].into(), 0)
}

/// The process of Lustre at [`nid`].
pub fn id(n: u8) -> ProcessId {
    ProcessId::lustre(nid(n))
}

/// The defaults of a node at [`nid`], but for discovery, which is off: tests that count messages, bytes and credits of their own
/// operations would have to leave out its pings and pushes each time.
pub fn config(n: u8) -> Config {
    Config { discovery: false, ..discovering(n) }
}

/// The defaults of a node at [`nid`].
pub fn discovering(n: u8) -> Config {
    Config::new(nid(n), 1_700_000_000_000_000_000 + u64::from(n))
}

/// The two nodes, 0 and 1, on a network of their own.
pub struct Pair(Net);

impl Deref for Pair {
    type Target = Net;

    fn deref(&self) -> &Net {
        &self.0
    }
}

impl DerefMut for Pair {
    fn deref_mut(&mut self) -> &mut Net {
        &mut self.0
    }
}

impl Default for Pair {
    fn default() -> Pair {
        Pair::new()
    }
}

impl Pair {
    /// Two nodes with the defaults.
    pub fn new() -> Pair {
        Pair::of(config(1), config(2))
    }

    /// Two nodes of these configurations.
    pub fn of(a: Config, b: Config) -> Pair {
        Pair::on(Net::new(), a, b)
    }

    /// The same on a network that is other than usual.
    pub fn on(mut net: Net, a: Config, b: Config) -> Pair {
        net.add(a);
        net.add(b);
        Pair(net)
    }

    fn other(&self, node: usize) -> ProcessId {
        self.nodes[1 - node].machine.config().id()
    }

    /// An entry of `node` that takes everybody's PUTs, or answers their GETs.
    pub fn attach(&mut self, node: usize, mem: MdMem) {
        self.op(node, AT.attach(TAG, MdSpec::new(mem)));
        self.drive(node, |e| matches!(e, Event::Attached { tag: TAG, .. }));
    }

    /// Lets time pass until `node` hears of what `last` means, and gives it; what else was heard stays.
    pub fn drive(&mut self, node: usize, last: impl Fn(&Event) -> bool) -> Event {
        let found = |n: &Net| n.nodes[node].events.iter().position(|(_, _, e)| last(e));
        self.0.run_until(self.0.now + PATIENCE, |n| found(n).is_some());
        match found(&self.0) {
            Some(i) => self.0.nodes[node].events.remove(i).2,
            None => panic!("node {node} does not hear of it: {:?}", self.nodes[node].machine.gauges()),
        }
    }

    /// `from` pings the other.
    ///
    /// # Errors
    /// As the event has it.
    pub fn ping(&mut self, from: usize) -> Result<PingInfo, LnetError> {
        let target = self.other(from);
        self.op(from, Op::Ping { tag: TAG, target });
        match self.drive(from, |e| matches!(e, Event::Ping { tag: TAG, .. })) {
            Event::Ping { info, .. } => info,
            e => panic!("{e:?}"),
        }
    }

    /// `from` puts to the other's entry, and wants an ACK: gives the bytes that were stored.
    ///
    /// # Errors
    /// As the event has it.
    pub fn put(&mut self, from: usize, payload: Payload) -> Result<u32, LnetError> {
        let op = AT.put(TAG, self.other(from), payload, true);
        self.op(from, op);
        let ours = |e: &Event| matches!(e, Event::Send { tag: TAG, .. } | Event::Ack { tag: TAG, .. });
        let done = |e: &Event| {
            matches!(e, Event::Send { tag: TAG, done: true, .. } | Event::Ack { tag: TAG, done: true, .. })
        };
        let mut both = vec![self.drive(from, done)];
        let events = &mut self.0.nodes[from].events;
        both.extend(events.iter().position(|(_, _, e)| ours(e)).map(|i| events.remove(i).2));
        let told = both.iter().find_map(|e| match e {
            Event::Ack { status, mlength, .. } => Some(status.map(|()| *mlength)),
            Event::Send { status: Err(e), .. } => Some(Err(*e)),
            _ => None,
        });
        told.unwrap_or_else(|| panic!("neither ACK nor error: {both:?}"))
    }

    /// `from` gets up to `len` bytes from the other's entry.
    ///
    /// # Errors
    /// As the event has it.
    pub fn get(&mut self, from: usize, len: u32) -> Result<Data, LnetError> {
        let op = AT.get(TAG, self.other(from), Sink::Lend(len));
        self.op(from, op);
        match self.drive(from, |e| matches!(e, Event::Reply { tag: TAG, .. })) {
            Event::Reply { status, data, .. } => status.map(|()| data),
            e => panic!("{e:?}"),
        }
    }
}
