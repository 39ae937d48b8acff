//! Connections of the model: its reader (netsock.md §6, §10, §12) and its writers (§7, §8.2).

use std::collections::VecDeque;

use super::Motr;
use super::buffers::{MQueue, Told};
use crate::testing::net::Net;
use crate::wire::netsock::{Addr, Bdesc, Cookie, HDR_LEN, PacketHdr, PacketType};

/// A connection.
pub(super) struct Link {
    pub(super) number: usize,
    pub(super) dialled: bool,
    /// Bytes of the other side's that were read.
    read: usize,
    /// Payload that comes, into which buffer.
    fill: Option<(usize, usize)>,
    got: Vec<u8>,
    /// The rest of the packet that is being written, and its buffer.
    pub(super) out: VecDeque<u8>,
    writer: Option<usize>,
    answers: VecDeque<usize>,
    pub(super) closed: bool,
    /// Time at which the packet that is being written was begun, in ns.
    began: u64,
    /// No more is written before this, in ns.
    next: u64,
    nr: u32,
}

impl Link {
    pub(super) fn new(number: usize, dialled: bool) -> Link {
        Link {
            number,
            dialled,
            read: 0,
            fill: None,
            got: Vec::new(),
            out: VecDeque::new(),
            writer: None,
            answers: VecDeque::new(),
            closed: false,
            began: 0,
            next: 0,
            nr: 1,
        }
    }
}

impl Motr {
    fn die(&mut self, how: &str) {
        if self.died.is_none() && !self.lost {
            self.died = Some(how.to_owned());
        }
    }

    fn complete(&mut self, n: usize, status: i32, bytes: Vec<u8>, from: Option<Addr>) {
        let b = &mut self.bufs[n];
        if !std::mem::take(&mut b.queued) {
            return self.die(&format!("buffer {n} completes twice"));
        }
        b.busy = false;
        self.told.push(Told { buf: n, status, bytes, from });
    }

    fn hang_up(&mut self, net: &mut Net, l: usize) {
        let link = &mut self.links[l];
        if !std::mem::replace(&mut link.closed, true) && !net.raw_ended(link.number).1 {
            net.raw_close(link.number);
        }
        self.dropped(net, l);
    }

    /// A connection is gone for it.
    fn dropped(&mut self, net: &Net, l: usize) {
        let link = &mut self.links[l];
        link.closed = true;
        // A half-filled buffer stays marked.
        link.fill = None;
        let cut = !link.out.is_empty();
        let writer = link.writer.take();
        link.out.clear();
        link.answers.clear();
        if cut && let Some(w) = writer {
            self.complete(w, 71, Vec::new(), None);
            // Nobody could know of a packet that was on its way when the other side closed.
            if self.links[l].began + 3 * net.latency >= net.now {
                self.lost = true;
            }
            self.die("its writer's connection was closed in mid-packet (p12)");
        }
    }

    /// Reads what has come, and sees whether the other side is still there.
    pub(super) fn look(&mut self, net: &mut Net, l: usize) {
        if self.links[l].closed {
            return;
        }
        let number = self.links[l].number;
        let end = usize::from(self.links[l].dialled);
        // A raw end is 0 where it dialled; the machine's record is at the other one.
        let arrived = net.arrived(number, 1 - end) as usize;
        while self.died.is_none() && !self.links[l].closed && self.links[l].read < arrived {
            let (from, to) = (self.links[l].read, arrived);
            let bytes = net.wire(number, end).0[from..to].to_vec();
            let n = self.take_bytes(net, l, &bytes);
            if n == 0 {
                break;
            }
            self.links[l].read += n;
        }
        let (fin, gone) = net.raw_ended(number);
        if !self.links[l].closed && (fin || gone) && (self.links[l].read == arrived || gone) {
            if gone {
                self.dropped(net, l);
            } else {
                self.hang_up(net, l);
            }
        }
    }

    /// Takes a header or some payload; gives how many bytes, 0 while there are too few or it may not.
    fn take_bytes(&mut self, net: &mut Net, l: usize, bytes: &[u8]) -> usize {
        if let Some((b, left)) = self.links[l].fill {
            let n = left.min(bytes.len());
            self.links[l].got.extend_from_slice(&bytes[..n]);
            self.links[l].fill = Some((b, left - n));
            if left == n {
                self.links[l].fill = None;
                let got = std::mem::take(&mut self.links[l].got);
                let message = self.bufs[b].queue == MQueue::MsgRecv;
                let from = message.then_some(self.bufs[b].peer.addr);
                if self.links[l].nr == 1 {
                    self.complete(b, 0, got, from);
                }
            }
            return n;
        }
        let Some(raw) = bytes.get(..HDR_LEN) else { return 0 };
        let Ok(h) = PacketHdr::parse(raw) else {
            self.hang_up(net, l);
            return HDR_LEN;
        };
        let remote = net.addresses(self.links[l].number)[usize::from(self.links[l].dialled)];
        let known = h.dst.addr == self.addr
            && h.src.addr.same_host(&Addr::stream(remote))
            && !(h.src.cookie.is_none() && h.dst.cookie.is_none());
        if !known {
            self.hang_up(net, l);
            return HDR_LEN;
        }
        if h.nr > 1 {
            self.die("a buffer of several packets (p4)");
        }
        let found = self.bufs.iter().position(|b| b.cookie == h.dst.cookie);
        match (h.kind, h.dst.cookie == Cookie::NONE, found) {
            (PacketType::Put, true, _) => return self.message(l, &h),
            (_, false, None) | (PacketType::Get, true, _) => self.hang_up(net, l),
            (PacketType::Put, false, Some(b)) => self.bulk(net, l, &h, b),
            (PacketType::Get, false, Some(b)) => self.get(net, l, &h, b),
        }
        HDR_LEN
    }

    fn message(&mut self, l: usize, h: &PacketHdr) -> usize {
        let free = self
            .bufs
            .iter()
            .position(|b| b.queue == MQueue::MsgRecv && b.queued && !b.busy && b.room as u64 >= h.total);
        // Without a buffer it stops reading.
        let Some(b) = free else { return 0 };
        (self.bufs[b].busy, self.bufs[b].peer) = (true, h.src);
        self.begin(l, b, h);
        HDR_LEN
    }

    fn begin(&mut self, l: usize, b: usize, h: &PacketHdr) {
        self.links[l].nr = h.nr;
        self.links[l].got.clear();
        if h.size == 0 {
            let from = (self.bufs[b].queue == MQueue::MsgRecv).then_some(h.src.addr);
            return self.complete(b, 0, Vec::new(), from);
        }
        self.links[l].fill = Some((b, h.size as usize));
    }

    fn bulk(&mut self, net: &mut Net, l: usize, h: &PacketHdr, b: usize) {
        let buf = &self.bufs[b];
        if buf.peer != Bdesc::default() && buf.peer != h.src {
            return self.hang_up(net, l);
        }
        match buf.queue {
            MQueue::PassiveRecv | MQueue::ActiveRecv(_) => {}
            _ => return self.die("a PUT for a buffer that takes none (p21)"),
        }
        if !buf.queued {
            return self.die("a PUT for a buffer that has completed (p6)");
        }
        if buf.busy {
            return self.die("a PUT again for a half-filled buffer (p10)");
        }
        if h.total > buf.room as u64 {
            return self.hang_up(net, l);
        }
        (self.bufs[b].busy, self.bufs[b].peer) = (true, h.src);
        self.begin(l, b, h);
    }

    fn get(&mut self, net: &mut Net, l: usize, h: &PacketHdr, b: usize) {
        let buf = &self.bufs[b];
        let shape = (h.idx, h.nr, h.size, h.offset, h.total) == (0, 1, 0, 0, 0);
        let own = buf.peer == Bdesc::default() || buf.peer == h.src;
        if !shape || !own || buf.queue != MQueue::PassiveSend {
            return self.hang_up(net, l);
        }
        if !buf.queued || buf.written {
            return self.die("a second GET (p23)");
        }
        (self.bufs[b].written, self.bufs[b].peer) = (true, h.src);
        self.links[l].answers.push_back(b);
    }

    /// Dials if something waits and there is no connection.
    pub(super) fn dial(&mut self, net: &mut Net) {
        if self.writers.is_empty() || self.links.iter().any(|l| l.dialled && !l.closed) {
            return;
        }
        self.next_port += 1;
        let from = std::net::SocketAddr::new(self.at.ip(), self.next_port);
        let port = self.other.port as u16;
        let number = net.raw_connect_to(from, self.node, port);
        self.links.push(Link::new(number, true));
        self.seen = net.links();
    }

    /// Writes a part of the packet that is under way, or begins one.
    pub(super) fn write(&mut self, net: &mut Net, l: usize) {
        if self.links[l].closed || self.died.is_some() || net.now < self.links[l].next {
            return;
        }
        if self.links[l].out.is_empty() {
            let next = match self.links[l].answers.pop_front() {
                Some(b) => Some(b),
                None if self.links[l].dialled => self.writers.pop_front(),
                None => None,
            };
            let Some(b) = next else { return };
            let buf = &self.bufs[b];
            let (kind, len) = match buf.queue {
                MQueue::ActiveRecv(_) => (PacketType::Get, 0),
                _ => (PacketType::Put, buf.bytes.len() as u64),
            };
            let src = Bdesc { addr: self.addr, cookie: buf.cookie };
            let h = PacketHdr { kind, src, dst: buf.peer, idx: 0, nr: 1, size: len, offset: 0, total: len };
            let link = &mut self.links[l];
            link.writer = Some(b);
            link.began = net.now;
            link.out.extend(h.emit());
            if kind == PacketType::Put {
                link.out.extend(&self.bufs[b].bytes);
            }
        }
        let link = &mut self.links[l];
        let n = link.out.len().min(self.chunk);
        let part: Vec<u8> = link.out.drain(..n).collect();
        net.raw_send(link.number, &part);
        link.next = net.now + self.pace;
        if link.out.is_empty()
            && let Some(b) = link.writer.take()
            && !matches!(self.bufs[b].queue, MQueue::ActiveRecv(_))
        {
            self.complete(b, 0, Vec::new(), None);
        }
    }
}
