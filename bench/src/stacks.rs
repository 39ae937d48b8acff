//! Two TCP stacks joined by the in-memory port on one thread: large messages one way, each answered by a small one.
//!
//! Nothing above TCP takes part: no protocol, no node, no event queue. The caller says what time it is, so the same
//! work can be timed ([`crate::tcp`]) and, in virtual time, counted: two runs are then alike instruction for
//! instruction.
//!
//! ```text
//!   sender   push ─> flush ══ data ══> poll ─> read, credit   receiver
//!            poll <══ ACKs, reply ════ flush <─ push reply
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dataplane::mem::{MemConfig, MemPort, pair};
use hugepages::{LendSlab, PageRun, PageRunMut, PrivatePages};
use tcpstack::{Counters, Dial, Event, FlowId, Listen, Stack, StackConfig};

/// Payload of a message, in bytes.
pub const MESSAGE: usize = 1 << 20;
/// Header before it, copied; as long as an LNet PUT's on the wire.
pub const HEADER: usize = 96;
/// The answer, in bytes.
pub const REPLY: usize = 64;
/// Messages pushed ahead of the answers.
const AHEAD: u64 = 4;
/// Different messages, so that the payload of one is not in the cache when it is sent again.
const PAGES: usize = 8;
/// Rounds after which something that did not happen is given up.
const PATIENCE: u64 = 100_000;
/// From one round to the next in virtual time, in ns.
pub const ROUND_NS: u64 = 1_000;

const ADDR: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];

/// One side.
struct End {
    stack: Stack<MemPort>,
    flow: Option<FlowId>,
    got: u64,
    sent: u64,
}

impl End {
    fn new(n: usize, port: MemPort) -> Result<End, String> {
        let mut config = StackConfig::new(ADDR[n], 24);
        config.secret = Some([n as u64 + 1, 0x706f_6c6c_6e64]);
        let stack = Stack::new(config, port, LendSlab::new(1024)).map_err(|e| e.to_string())?;
        Ok(End { stack, flow: None, got: 0, sent: 0 })
    }

    /// Work of the user of a stack between the halves of its round.
    fn read(&mut self) {
        while let Some(e) = self.stack.event() {
            match e {
                Event::Opened { flow, .. } => self.flow = Some(flow),
                Event::Readable(f) => {
                    let mut n = 0;
                    while let Some(x) = self.stack.next(f) {
                        n += x.len();
                    }
                    self.got += u64::from(n);
                    self.stack.credit(f, n);
                }
                _ => (),
            }
        }
        self.stack.slab().reap(|_, _| ());
    }
}

/// The pair.
pub struct Stacks {
    a: End,
    b: End,
    pages: Vec<PageRun>,
}

impl Stacks {
    /// Two stacks with an established connection, in virtual time from 1 ns on; gives the time, too.
    ///
    /// # Errors
    /// The configuration is refused, or the connection does not open.
    pub fn open(mem: &MemConfig) -> Result<(Stacks, u64), String> {
        let (pa, pb) = pair(mem);
        let page = |_| PageRunMut::new(Arc::new(PrivatePages), MESSAGE).map(PageRunMut::freeze);
        let pages: Result<Vec<_>, _> = (0..PAGES).map(page).collect();
        let mut s =
            Stacks { a: End::new(0, pa)?, b: End::new(1, pb)?, pages: pages.map_err(|e| e.to_string())? };
        let listen = Listen { addr: IpAddr::V4(ADDR[1]), port: 988, backlog: 4 };
        s.b.stack.listen(listen).map_err(|e| e.to_string())?;
        let dial = Dial { local: (ADDR[0], 1023).into(), remote: (ADDR[1], 988).into() };
        s.a.stack.dial(1, dial).map_err(|e| e.to_string())?;
        let mut now = 1;
        for _ in 0..PATIENCE {
            for e in [&mut s.a, &mut s.b] {
                e.stack.turn(now);
                e.read();
            }
            if s.a.flow.is_some() && s.b.flow.is_some() {
                return Ok((s, now));
            }
            now += ROUND_NS;
        }
        Err("the connection did not open".into())
    }

    /// The sender's data: tops up the messages that are ahead and lets them go.
    ///
    /// # Errors
    /// The stack refuses a message although its backlog is bounded.
    #[inline(never)]
    pub fn data_out(&mut self, now: u64) -> Result<(), String> {
        let a = &mut self.a;
        let flow = a.flow.ok_or("no connection")?;
        while a.sent < a.got / REPLY as u64 + AHEAD {
            let run = &self.pages[a.sent as usize % self.pages.len()];
            let lent = a.stack.slab().lend(run.slice_all(), a.sent).map_err(|e| e.to_string())?;
            if a.stack.push(flow, &[0x50; HEADER], &[lent]).is_err() {
                break; // the backlog is full
            }
            a.sent += 1;
        }
        a.stack.flush(now);
        Ok(())
    }

    /// The receiver takes data in and reads it.
    #[inline(never)]
    pub fn data_in(&mut self, now: u64) {
        self.b.stack.poll(now);
        self.b.read();
    }

    /// The receiver's ACKs, and its answers to whole messages.
    ///
    /// # Errors
    /// The stack refuses an answer.
    #[inline(never)]
    pub fn acks_out(&mut self, now: u64) -> Result<(), String> {
        let b = &mut self.b;
        let flow = b.flow.ok_or("no connection")?;
        while b.sent < b.got / (MESSAGE + HEADER) as u64 {
            b.stack.push(flow, &[0x41; REPLY], &[]).map_err(|e| e.to_string())?;
            b.sent += 1;
        }
        b.stack.flush(now);
        Ok(())
    }

    /// The sender takes in ACKs and answers.
    #[inline(never)]
    pub fn acks_in(&mut self, now: u64) {
        self.a.stack.poll(now);
        self.a.read();
    }

    /// All four, once.
    ///
    /// # Errors
    /// As they.
    pub fn round(&mut self, now: u64) -> Result<(), String> {
        self.data_out(now)?;
        self.data_in(now);
        self.acks_out(now)?;
        self.acks_in(now);
        Ok(())
    }

    /// Rounds in virtual time from `now` on until `messages` more have been answered; gives the time.
    ///
    /// # Errors
    /// Nothing moves any more.
    pub fn complete(&mut self, messages: u64, now: u64) -> Result<u64, String> {
        let goal = self.answered() + messages;
        let mut now = now;
        for _ in 0..PATIENCE + messages * 100 {
            if self.answered() >= goal {
                return Ok(now);
            }
            now += ROUND_NS;
            self.round(now)?;
        }
        Err(format!("{} of {goal} messages were answered, then nothing moved", self.answered()))
    }

    /// Payload and header bytes that the receiver has read.
    pub fn received(&self) -> u64 {
        self.b.got
    }

    /// Messages answered.
    pub fn answered(&self) -> u64 {
        self.a.got / REPLY as u64
    }

    /// Counters of the sender and of the receiver.
    pub fn counters(&self) -> [Counters; 2] {
        [self.a.stack.counters(), self.b.stack.counters()]
    }

    /// Memory of the connection at the sender and at the receiver, in bytes.
    pub fn memory(&self) -> [usize; 2] {
        [&self.a, &self.b].map(|e| e.flow.and_then(|f| e.stack.flow_memory(f)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_answered_and_two_runs_are_alike() {
        let mem = MemConfig { mtu: 1500, tso_max: 0, ..MemConfig::default() };
        let run = || {
            let (mut s, now) = Stacks::open(&mem).unwrap();
            let end = s.complete(5, now).unwrap();
            (end, s.received(), s.counters())
        };
        let (one, two) = (run(), run());
        assert_eq!((one.0, one.1), (two.0, two.1));
        let [a, b] = one.2;
        assert_eq!([a, b], two.2);
        assert!(one.1 >= 5 * (MESSAGE + HEADER) as u64, "{}", one.1);
        assert_eq!((a.tx_resent, a.tx_copied_bytes, b.rx_out_of_order), (0, 0, 0));
    }
}
