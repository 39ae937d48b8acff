//! Raw ends of a simulated network: connections whose other end is the test's, byte by byte.

use std::net::{IpAddr, SocketAddr};

use super::{Ev, Net};

/// Bytes that a raw end sends at once where it has a pace.
const RAW_SEGMENT: usize = 4 << 10;

impl Net {
    /// Sends raw bytes to `node` over a new connection from `from`; gives the connection's number.
    pub fn raw_connect(&mut self, from: SocketAddr, node: usize) -> usize {
        self.raw_connect_to(from, node, 988)
    }

    /// The same to a port of the node.
    pub fn raw_connect_to(&mut self, from: SocketAddr, node: usize, port: u16) -> usize {
        let to = SocketAddr::new(self.nodes[node].ip, port);
        self.raw_connect_at(from, node, to)
    }

    /// The same to one of its addresses.
    pub fn raw_connect_at(&mut self, from: SocketAddr, node: usize, to: SocketAddr) -> usize {
        let link = self.link(usize::MAX, from, node, to);
        self.at(0, Ev::Opened(link, 1, None));
        link
    }

    /// The addresses of a connection's ends: first the one that dialled.
    pub fn addresses(&self, link: usize) -> [SocketAddr; 2] {
        [self.links[link][0].addr, self.links[link][1].addr]
    }

    /// Whether the machine's FIN, or its RST, has come to the raw side of a connection.
    pub fn raw_ended(&self, link: usize) -> (bool, bool) {
        let end = &self.links[link][1 - self.machine_end(link)];
        (end.fin, end.closed())
    }

    /// Dials to `ip` are taken by a raw end: what it says is the test's affair.
    pub fn raw_listen(&mut self, ip: IpAddr) {
        self.raw_listeners.push(ip);
    }

    /// Dials to `ip` are refused from now on.
    pub fn raw_unlisten(&mut self, ip: IpAddr) {
        self.raw_listeners.retain(|l| *l != ip);
    }

    /// The end of a raw connection that a machine holds.
    fn machine_end(&self, link: usize) -> usize {
        usize::from(self.links[link][0].node == usize::MAX)
    }

    /// Sends bytes from the raw side of a connection.
    pub fn raw_send(&mut self, link: usize, bytes: &[u8]) {
        let end = self.machine_end(link);
        if self.record {
            self.links[link][1 - end].record.extend_from_slice(bytes);
        }
        if self.raw_pace == 0 {
            let delay = self.travel(link, end, 0);
            return self.at(delay, Ev::Data(link, end, bytes.to_vec()));
        }
        for part in bytes.chunks(RAW_SEGMENT) {
            // What is short comes when it would come without a pace, and what follows behind it.
            let delay = self.travel_behind(link, end);
            self.at(delay, Ev::Data(link, end, part.to_vec()));
            let e = &mut self.links[link][1 - end];
            e.leaves = e.leaves.max(self.now) + self.raw_pace * part.len() as u64 / RAW_SEGMENT as u64;
        }
    }

    /// Time that what a raw end sends now takes to the machine's `end`, behind all that it has sent, in ns.
    fn travel_behind(&mut self, link: usize, end: usize) -> u64 {
        let left = self.links[link][1 - end].leaves.saturating_sub(self.now);
        self.travel(link, end, left)
    }

    /// The TCP of the raw side acknowledges all that it was sent so far.
    pub fn raw_ack(&mut self, link: usize) {
        self.raw_ack_some(link, u64::MAX);
    }

    /// The same of `bytes` more at most.
    pub fn raw_ack_some(&mut self, link: usize, bytes: u64) {
        let end = self.machine_end(link);
        let e = &mut self.links[link][end];
        e.acked = e.pushed.min(e.acked.saturating_add(bytes));
        let acked = e.acked;
        self.at(self.latency, Ev::Ack(link, end, acked));
    }

    /// Ends the raw side of a connection with FIN.
    pub fn raw_fin(&mut self, link: usize) {
        let end = self.machine_end(link);
        let delay = self.travel_behind(link, end);
        self.at(delay, Ev::Fin(link, end));
    }

    /// Ends the raw side of a connection as a process does that closes its socket: with FIN, and whatever comes later is reset.
    pub fn raw_close(&mut self, link: usize) {
        self.raw_fin(link);
        let end = self.machine_end(link);
        self.links[link][1 - end].shut = true;
    }

    /// Ends a connection from the raw side with RST.
    pub fn raw_reset(&mut self, link: usize) {
        let end = self.machine_end(link);
        self.reset(link, end);
    }

    /// The same, where the node's TCP has bytes before it: they are read first, as over our runtimes.
    pub fn raw_reset_behind(&mut self, link: usize) {
        let end = self.machine_end(link);
        self.links[link][end].reset = true;
        self.offer(link, end);
    }

    /// Bytes that an end has written on a connection, and whether it has closed it.
    pub fn wire(&self, link: usize, end: usize) -> (&[u8], bool) {
        let e = &self.links[link][end];
        (&e.record, e.closed())
    }

    /// Bytes that have come to an end of a connection while its process had not closed it.
    pub fn arrived(&self, link: usize, end: usize) -> u64 {
        self.links[link][end].arrived
    }
}
