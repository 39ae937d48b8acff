//! Transfer machines of ours in the place of each Motr process in testdata/captures/netsock: they are given what their peer sent,
//! and send what the process sent, bit for bit. Cookies are each side's own, so those are turned into ours, and left out
//! of the comparison where they are ours to choose.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use hugepages::{HeapRxPool, PageSlice};
use transport::netsock::{Config, Op, RecvVec, Sink, Tm};
use transport::stream::{
    Action, Close, CloseWhy, ConnId, ConnInfo, Happened, Pages, Progress, Protocol, ShardId,
};
use transport::testing::capture::{Dir, Flow, flows};
use transport::testing::data::run;
use transport::testing::netsock::{into, received};
use transport::wire::netsock::{Addr, Bdesc, Cookie, HDR_LEN, PacketHdr, PacketType};

use super::{CHUNKS, Queue, folder};

/// A packet of a capture.
struct Packet {
    at: u64,
    flow: usize,
    active: bool,
    hdr: PacketHdr,
    payload: Vec<u8>,
}

/// The whole packets of one direction.
fn packets(flow: usize, active: bool, dir: &Dir, out: &mut Vec<Packet>) {
    let bytes = dir.bytes();
    let mut ends = Vec::new();
    dir.segments.iter().fold(0, |n, s| {
        ends.push((n + s.bytes.len(), s.at));
        n + s.bytes.len()
    });
    let mut pos = 0;
    while let Some(Ok(hdr)) = bytes.get(pos..pos + HDR_LEN).map(PacketHdr::parse) {
        let Some(payload) = bytes.get(pos + HDR_LEN..pos + HDR_LEN + hdr.size as usize) else { break };
        pos += HDR_LEN + payload.len();
        let at = ends.iter().find(|(end, _)| *end >= pos).map_or(0, |e| e.1);
        out.push(Packet { at, flow, active, hdr, payload: payload.to_vec() });
    }
}

/// A machine in the place of the process at an address.
struct Play {
    tm: Tm,
    me: Addr,
    pool: HeapRxPool,
    chunk: usize,
    now: u64,
    /// Connections by flow.
    conns: HashMap<usize, ConnId>,
    /// Bytes that the machine pushed on each, and the number of them that was looked at.
    wrote: HashMap<ConnId, (Vec<u8>, usize)>,
    dials: VecDeque<transport::stream::DialSpec>,
    /// The captured process's cookies, and ours in their place.
    cookies: HashMap<Cookie, Cookie>,
    loans: Vec<transport::stream::LendId>,
    done: BTreeMap<u64, Vec<u8>>,
    tag: u64,
}

fn some_pages(bytes: &[u8]) -> Pages {
    let mut r = run(bytes.len());
    r.bytes_mut().copy_from_slice(bytes);
    Pages::from_iter([r.freeze().slice_all()])
}

impl Play {
    fn new(me: Addr, chunk: usize) -> Play {
        Play {
            tm: Tm::new(Config::new(me, 77)).unwrap(),
            me,
            pool: HeapRxPool::new(1 << 16, 1 << 12),
            chunk,
            now: 1,
            conns: HashMap::new(),
            wrote: HashMap::new(),
            dials: VecDeque::new(),
            cookies: HashMap::new(),
            loans: Vec::new(),
            done: BTreeMap::new(),
            tag: 0,
        }
    }

    /// Does what the machine says; its TCP acknowledges at once.
    fn drain(&mut self) {
        loop {
            match self.tm.act() {
                Some(Action::Dial(d)) => {
                    assert_eq!(Some(d.local_ip), self.me.ip());
                    assert!(!d.privileged);
                    self.dials.push_back(d);
                }
                Some(Action::Send(c, m)) => {
                    let w = &mut self.wrote.get_mut(&c).unwrap().0;
                    w.extend_from_slice(&m.hdr);
                    m.pay.iter().flat_map(PageSlice::chunks).for_each(|b| w.extend_from_slice(b));
                    let end = w.len() as u64;
                    self.loans.extend(m.lend);
                    self.tm.handle(self.now, Happened::Progress(c, Progress { acked: end, sent: end }));
                }
                Some(Action::Read(_)) => {}
                Some(Action::Datagram(..) | Action::Bind(_)) => unreachable!("the captures have streams"),
                Some(Action::Close(c, how)) => {
                    assert_eq!(how, Close::Fin);
                    self.tm.handle(self.now, Happened::Closed(c, CloseWhy::Local));
                }
                Some(Action::Unhold(..)) => panic!("nothing is held"),
                Some(Action::Listen(_) | Action::Unlisten(_)) => panic!("its address is listened at"),
                None => match self.loans.pop() {
                    Some(l) => self.tm.handle(self.now, Happened::Released(l)),
                    None => break,
                },
            }
        }
        while let Some(c) = self.tm.done() {
            assert_eq!(c.status, 0, "{c:?}");
            let bytes = received(&c);
            assert!(self.done.insert(c.tag, bytes).is_none());
        }
    }

    fn add(&mut self, op: Op) -> (u64, Option<Bdesc>) {
        self.tag += 1;
        self.now += 1;
        let added = self.tm.add(self.now, op, self.tag, None).map_err(|u| u.why).unwrap();
        self.drain();
        (self.tag, added.desc)
    }

    /// The connection of a flow, made when the first packet of it comes.
    fn conn(&mut self, n: usize, flow: &Flow, ours: bool) -> ConnId {
        if let Some(c) = self.conns.get(&n) {
            return *c;
        }
        let id = ConnId { shard: ShardId(0), index: n as u32, generation: 0 };
        let dial = ours.then(|| self.dials.pop_front().expect("it dials").id);
        let (local, remote) = if ours { (flow.active, flow.passive) } else { (flow.passive, flow.active) };
        self.conns.insert(n, id);
        self.wrote.insert(id, (Vec::new(), 0));
        self.tm.handle(self.now, Happened::Opened(id, ConnInfo { local, remote, dial }));
        self.drain();
        id
    }

    /// The captured process sends a packet: so does the machine, of itself or told to.
    fn sends(&mut self, p: &Packet, flow: &Flow) {
        let h = &p.hdr;
        let answer = h.kind == PacketType::Put && self.cookies.contains_key(&h.src.cookie) && !p.active;
        let data = || some_pages(&p.payload);
        if !answer {
            let ours = match h.kind {
                PacketType::Get => {
                    let op = Op::ActiveRecv { desc: h.dst, sink: into(1 << 16) };
                    self.add(op);
                    true
                }
                PacketType::Put if h.dst.cookie.is_none() => {
                    self.add(Op::MsgSend { to: h.dst.addr, data: data() });
                    false
                }
                PacketType::Put => {
                    self.add(Op::ActiveSend { desc: h.dst, data: data() });
                    false
                }
            };
            let c = self.conn(p.flow, flow, p.active);
            let (wrote, seen) = &self.wrote[&c];
            let sent = PacketHdr::parse(&wrote[*seen..]).unwrap();
            if ours {
                self.cookies.insert(h.src.cookie, sent.src.cookie);
            }
        }
        let c = self.conns[&p.flow];
        let (wrote, seen) = self.wrote.get_mut(&c).unwrap();
        let sent = &wrote[*seen..];
        let got = PacketHdr::parse(sent).unwrap();
        // The cookie of our own buffer is ours to choose; all else is fixed.
        assert!(!got.src.cookie.is_none());
        let as_captured = PacketHdr { src: h.src, ..got };
        assert_eq!(got.src.addr, h.src.addr);
        assert_eq!(as_captured.emit(), h.emit());
        let len = HDR_LEN + p.payload.len();
        assert!(sent[HDR_LEN..len] == p.payload);
        *seen += len;
    }

    /// A packet for the captured process: the machine takes it.
    fn takes(&mut self, p: &Packet, flow: &Flow, answer: Option<&Packet>) {
        let mut h = p.hdr;
        let mut tag = None;
        match h.kind {
            PacketType::Put if h.dst.cookie.is_none() => {
                tag = Some(self.add(Op::MsgRecv(Sink::Into(one(1 << 16)))).0);
            }
            PacketType::Put => {
                if !self.cookies.contains_key(&h.dst.cookie) {
                    let (t, desc) = self.add(Op::PassiveRecv(into(1 << 16)));
                    tag = Some(t);
                    self.cookies.insert(h.dst.cookie, desc.unwrap().cookie);
                }
            }
            PacketType::Get => {
                let data = some_pages(&answer.expect("it was answered").payload);
                let (_, desc) = self.add(Op::PassiveSend(data));
                self.cookies.insert(h.dst.cookie, desc.unwrap().cookie);
            }
        }
        if !h.dst.cookie.is_none() {
            h.dst.cookie = self.cookies[&h.dst.cookie];
        }
        let c = self.conn(p.flow, flow, !p.active);
        let before = self.done.len();
        let bytes = [&h.emit()[..], &p.payload].concat();
        for part in bytes.chunks(self.chunk) {
            let mut inbox = Queue::default();
            inbox.0.push_back(self.pool.copy_of(part).unwrap());
            self.now += 1;
            self.tm.handle(self.now, Happened::Bytes(c, &mut inbox));
            assert!(inbox.0.is_empty());
            self.drain();
        }
        if h.kind == PacketType::Put {
            assert_eq!(self.done.len(), before + 1);
            let (last, got) = self.done.last_key_value().unwrap();
            assert!(tag.is_none_or(|t| t == *last) && *got == p.payload);
        }
    }
}

fn one(size: usize) -> RecvVec {
    RecvVec::new([run(size)])
}

/// Plays each process of a capture; gives packets sent and taken by all of them.
fn play(name: &str, chunk: usize) -> [usize; 2] {
    let mut flows = flows(&folder("netsock").join(name)).unwrap();
    let read = |flows: &[Flow]| {
        let mut all = Vec::new();
        for (n, f) in flows.iter().enumerate() {
            packets(n, true, &f.a, &mut all);
            packets(n, false, &f.p, &mut all);
        }
        all.sort_by_key(|p| (p.at, p.flow));
        all
    };
    let addresses = |p: &Packet| [p.hdr.src.addr, p.hdr.dst.addr];
    let processes: BTreeSet<Addr> = read(&flows).iter().flat_map(addresses).collect();
    // Where the SYN is not in the capture, the end that listens is the one that packets name.
    for f in flows.iter_mut().filter(|f| processes.contains(&Addr::stream(f.active))) {
        std::mem::swap(&mut f.active, &mut f.passive);
        std::mem::swap(&mut f.a, &mut f.p);
    }
    let all = read(&flows);
    let mut count = [0; 2];
    for me in processes {
        let mut play = Play::new(me, chunk);
        for (n, p) in all.iter().enumerate() {
            let flow = &flows[p.flow];
            if p.hdr.src.addr == me {
                play.sends(p, flow);
                count[0] += 1;
            } else if p.hdr.dst.addr == me {
                let answer = all[n..].iter().find(|a| a.flow == p.flow && a.active != p.active);
                play.takes(p, flow, answer);
                count[1] += 1;
            }
        }
        assert!(play.wrote.values().all(|(w, seen)| w.len() == *seen), "{name}: more than was captured");
        assert!(play.dials.is_empty(), "{name}: connections that were not captured");
        assert_eq!((play.tm.gauges().buffers, play.tm.gauges().loans), (0, 0), "{name}");
        assert_eq!(play.tm.notice(), None);
    }
    count
}

/// Of the frames of lo_nagle only the first 200 bytes were captured, in which no header is whole.
#[test]
fn each_motr_process_of_a_capture_has_a_machine_of_ours_in_its_place() {
    let mut counts = String::new();
    for name in ["msg", "bulk_active_send", "bulk_active_recv_get", "m0nettest_ping_veth"] {
        for chunk in CHUNKS {
            let [sent, taken] = play(&format!("{name}.pcap"), chunk);
            assert!(sent > 0 && sent == taken);
            if chunk > 1 {
                counts += &format!("{name} {sent}\n");
            }
        }
    }
    insta::assert_snapshot!(counts, @r"
    msg 3
    bulk_active_send 1
    bulk_active_recv_get 2
    m0nettest_ping_veth 1000
    ");
}

/// A machine's outcome of the bytes of one end of a probe: messages that came, the refusal, whether one waits for a buffer.
fn probe(flow: &Flow, stream: &[u8], chunk: usize) -> Option<String> {
    let port = Addr::stream(flow.passive);
    let mut play = Play::new(port, chunk);
    for _ in 0..3 {
        play.add(Op::MsgRecv(into(100)));
    }
    let c = play.conn(0, flow, false);
    for part in stream.chunks(chunk) {
        let mut inbox = Queue::default();
        inbox.0.push_back(play.pool.copy_of(part).unwrap());
        play.tm.handle(play.now, Happened::Bytes(c, &mut inbox));
        play.drain();
    }
    // A connection that is to end does when its peer is quiet.
    play.now += 1_000_000_000;
    play.tm.timer(play.now);
    play.drain();
    let came: Vec<usize> = play.done.values().map(Vec::len).collect();
    let refused: Vec<String> = std::iter::from_fn(|| play.tm.notice())
        .map(|n| format!("{:?}", n.why).split(&[' ', '{'][..]).next().unwrap_or_default().to_owned())
        .collect();
    let g = play.tm.gauges();
    let state = match (g.conns, g.parked) {
        (0, _) => "closed",
        (_, 0) => "open",
        _ => "waits for a buffer",
    };
    (!stream.is_empty()).then(|| format!("{came:?} {} {state}", refused.join(" ")))
}

/// The probes of netsock.md §14 that were sent to a Motr, to a machine of ours with three buffers of 100 bytes. Cookies of that
/// Motr's buffers mean nothing here, so its bulk is stale; what a machine makes of bulk of its own is in `units/netsock.rs`.
#[test]
fn what_motr_was_probed_with_is_taken_or_refused_by_name() {
    let flows = flows(&folder("netsock").join("probes.pcap")).unwrap();
    let all = |chunk: usize| -> Vec<String> {
        flows.iter().filter(|f| f.from_start).filter_map(|f| probe(f, &f.a.bytes(), chunk)).collect()
    };
    let whole = all(CHUNKS[0]);
    assert_eq!(whole, all(CHUNKS[1]), "one byte at a time");
    insta::assert_snapshot!(whole.join("\n"), @r"
    [8, 5]  open
    [] Stale closed
    [] Stale Stale closed
    [5] Parts(2) Parts(2) closed
    [] Stale Stale closed
    [] Stale closed
    [] Stale closed
    []  waits for a buffer
    [5]  open
    []  waits for a buffer
    [5]  open
    [] Stale open
    [] Stale open
    [] Packet(HeaderMagic(3675250269749370486)) closed
    [] Packet(FooterMagic(3742499983090771830)) closed
    [] Packet(Checksum closed
    [] Packet(Checksum closed
    [] Packet(Tag(562954248388752)) closed
    [] Packet(Tag(281487861612688)) closed
    [] Packet(Index closed
    [] Packet(Index closed
    [] Packet(FirstOffset(1)) closed
    [] Packet(LastEnd closed
    [] NotOurs(Addr closed
    [] NotTheirs(Addr closed
    [] NoBuffer closed
    [] Stale closed
    [] Stale closed
    [] Stale closed
    [] GetCookie closed
    [] Stale closed
    [] Packet(LastEnd closed
    [0]  open
    [2]  open
    []  waits for a buffer
    []  waits for a buffer
    [1]  open
    [4, 4]  open
    [1]  open
    [1]  open
    []  waits for a buffer
    [] Parts(4294967295) closed
    [] Stale closed
    [1]  open
    [] Stale closed
    [] Stale closed
    [] Stale closed
    [] Stale closed
    [] Stale closed
    ");
}
