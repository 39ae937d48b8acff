//! netsock's transfer machines among themselves and beside the model of Motr, at random: all queues, cancels and timeouts that
//! race completions, slow receivers, lost connections. Each buffer completes once with its own bytes, its pages are home then,
//! a Motr lives unless the network kills it, and when all is over nothing is out.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

use transport::lnd::Config as NodeConfig;
use transport::netsock::{Config, Queue};
use transport::node::{Input, Machine};
use transport::stream::{
    Action, Close, ConnId, DialId, DialSpec, Happened, INLINE_MAX, InlineHdr, Pages, Protocol, SendMsg,
};
use transport::testing::data::bytes;
use transport::testing::motr::{MQueue, Motr};
use transport::testing::net::{Cut, Net, SEC, Weather};
use transport::testing::netsock::{End, TmNode, addr, dgram_addr, is_recv};
use transport::testing::rng::Rng;
use transport::wire::Nid;
use transport::wire::netsock::{Addr, Bdesc, Cookie, PacketHdr, PacketType};

const PORT: u16 = 5000;
const MSG: usize = 20_000;

/// A machine's configuration, with times that matter in a short run.
fn config(n: u8) -> Config {
    Config { stall: 3 * SEC, ..Config::new(addr(n, PORT), u64::from(n) << 56) }
}

/// The bytes that a seed stands for, of a length that the seed tells, so that whoever receives can tell what was sent.
fn sized(seed: u64, most: usize) -> (usize, u64) {
    (8 + Rng(seed).below(most as u64 - 8) as usize, seed)
}

/// Data that was sent, with its target, by its first bytes.
#[derive(Default)]
struct Sent {
    by_head: HashMap<[u8; 8], (usize, u64)>,
    next: u64,
}

impl Sent {
    fn fresh(&mut self, most: usize) -> (usize, u64) {
        self.next += 1;
        let (len, seed) = sized(self.next, most);
        let head = bytes(8, seed).try_into().unwrap();
        assert!(self.by_head.insert(head, (len, seed)).is_none());
        (len, seed)
    }

    /// Whether these are bytes that were sent, all of them and no others.
    fn check(&self, got: &[u8]) -> u64 {
        let head: [u8; 8] = got[..8].try_into().unwrap();
        let (len, seed) = self.by_head[&head];
        assert!(got == bytes(len, seed), "{} of {len} bytes, or others", got.len());
        seed
    }
}

fn statuses(ends: &[End], sent: &Sent, took: &mut Vec<u64>) {
    for e in ends {
        assert!([0, 104, 110, 125].contains(&e.status), "{e:?}");
        if e.status == 0 && is_recv(e.queue) {
            let seed = sent.check(&e.bytes);
            // A passive send may be fetched again where its answer was cut off; all else comes once.
            took.extend((e.queue != Queue::ActiveRecv).then_some(seed));
        }
    }
}

/// Runs for a while, a step at a time.
fn run(net: &mut Net, ns: u64, mut each: impl FnMut(&mut Net)) {
    let until = net.now + ns;
    loop {
        let next = until.min(net.now + SEC / 1000);
        net.step_before(next);
        each(net);
        if net.now >= until {
            return;
        }
    }
}

/// Three machines of ours, and connections that are lost at any state.
fn among_us(seed: u64) {
    let mut rng = Rng(seed);
    let net = Net::new();
    let cuts = rng.chance(70);
    let took = among(seed, rng, net, cuts, config);
    once(took);
}

/// The same by datagrams, which are lost, come twice and pass one another, and do not fit; gives what came.
fn among_us_by_datagrams(seed: u64) -> usize {
    let mut rng = Rng(seed);
    let mut net = Net::new();
    net.weather = Weather {
        rng: Rng(seed ^ 3),
        lost: rng.pick(&[0, 1, 10]),
        twice: rng.pick(&[0, 20]),
        late: rng.pick(&[0, SEC / 1000, SEC / 50]),
        most: rng.pick(&[1472, 9000, 65_507]),
    };
    let cfg = |n| Config { addr: dgram_addr(n, PORT), ..config(n) };
    once(among(seed, rng, net, false, cfg))
}

/// Messages and bulk that three machines took from each other.
fn among(seed: u64, mut rng: Rng, mut net: Net, cuts: bool, config: impl Fn(u8) -> Config) -> Vec<u64> {
    net.window = rng.pick(&[3_000, 64_000, 1 << 30]);
    net.discards = rng.chance(50);
    net.chunk = rng.pick(&[200, 1448, 9000]);
    if rng.chance(50) {
        net.nic_hold = Some((Rng(seed ^ 7), SEC / 100));
    }
    let mut tms: Vec<TmNode> = (1..=3).map(|n| TmNode::new(&mut net, config(n))).collect();
    let mut sent = Sent::default();
    let mut took = Vec::new();
    let mut descs: Vec<(usize, bool, Bdesc)> = Vec::new();
    for _ in 0..60 {
        let (i, to) = (rng.below(3) as usize, rng.below(3) as usize);
        let until = rng.chance(30).then(|| net.now + 1 + rng.below(SEC));
        match rng.below(12) {
            0 | 1 => {
                tms[i].msg_recv(&mut net, MSG, until);
            }
            2 => {
                tms[i].msg_recv_lent(&mut net, MSG);
            }
            3 | 4 if to != i => {
                let (len, seed) = sent.fresh(MSG);
                let to = tms[to].addr;
                tms[i].msg_send(&mut net, to, len, seed, until);
            }
            5 => {
                let (_, d) = tms[i].passive_recv(&mut net, 100_000, until);
                descs.push((i, true, d));
            }
            6 => {
                let (len, seed) = sent.fresh(100_000);
                let (_, d) = tms[i].passive_send(&mut net, len, seed, until);
                descs.push((i, false, d));
            }
            7..=9 if !descs.is_empty() => {
                let n = rng.below(descs.len() as u64) as usize;
                let (of, fills, d) = descs[n];
                if of == i {
                    continue;
                }
                // Some are used twice: by another, or after they have ended.
                if rng.chance(80) {
                    descs.swap_remove(n);
                }
                if fills {
                    let data = sent.fresh(100_000);
                    tms[i].active_send(&mut net, d, data, until);
                } else {
                    tms[i].active_recv(&mut net, d, 100_000, until);
                }
            }
            10 => {
                let open = tms[i].under_way();
                if !open.is_empty() {
                    let tag = rng.pick(&open);
                    tms[i].cancel(&mut net, tag);
                }
            }
            _ if cuts && net.links() > 0 => {
                let link = rng.below(net.links() as u64) as usize;
                let how = rng.pick(&[Cut::Reset, Cut::Fin, Cut::ResetOne(0), Cut::ResetOne(1)]);
                net.cut(link, how);
            }
            _ => {
                let node = tms[i].node;
                if net.nodes[node].paused { net.resume(node) } else { net.nodes[node].paused = true }
            }
        }
        let ns = 1 + rng.below(SEC / 50);
        run(&mut net, ns, |_| {
            for tm in &mut tms {
                let ends = tm.take();
                statuses(&ends, &sent, &mut took);
            }
        });
    }
    tms.iter().for_each(|tm| net.resume(tm.node));
    // A buffer that is still there is given up, or ends by itself.
    for tm in &mut tms {
        for tag in tm.under_way() {
            tm.cancel(&mut net, tag);
        }
    }
    run(&mut net, 20 * SEC, |_| {});
    for tm in &mut tms {
        over(tm, &mut net, &sent, &mut took);
    }
    took
}

/// Everything has ended by itself. What is left are connections, and messages that nobody took.
fn over(tm: &mut TmNode, net: &mut Net, sent: &Sent, took: &mut Vec<u64>) {
    statuses(&tm.take(), sent, took);
    let g = tm.tm().gauges();
    assert_eq!((tm.under_way(), g.buffers, g.loans), (vec![], 0, 0), "{g:?}");
    let now = net.now;
    tm.tm().shut_down(now);
    net.input(tm.node, Input::Timer);
    run(net, SEC, |_| {});
    tm.assert_at_rest(net);
    assert_eq!(tm.tm().gauges().conns, 0);
}

fn once(mut took: Vec<u64>) -> usize {
    let all = took.len();
    took.sort_unstable();
    took.dedup();
    assert_eq!(took.len(), all, "something came twice");
    all
}

#[test]
fn machines_among_themselves() {
    (0..150).for_each(among_us);
}

#[test]
fn machines_among_themselves_by_datagrams() {
    let took: usize = (0..200).map(among_us_by_datagrams).sum();
    assert!(took > 500, "{took} buffers came");
}

/// One of ours beside a Motr, whose packets come in pieces.
/// Gives how many buffers of Motr's ended, and what came to us.
fn beside_motr(seed: u64, cuts: bool) -> [usize; 2] {
    let mut rng = Rng(seed);
    let mut net = Net::new();
    let mut tm = TmNode::new(&mut net, config(1));
    let mut motr = Motr::new(&mut net, (2, PORT), (tm.node, tm.addr));
    motr.chunk = rng.pick(&[50, 1000, 30_000]);
    let mut sent = Sent::default();
    let (mut took, mut told) = (Vec::new(), 0);
    let (mut theirs_fill, mut theirs_fetch, mut ours_fill, mut ours_fetch) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let check = |motr: &mut Motr, sent: &Sent, told: &mut usize| {
        assert_eq!(motr.died, None, "seed {seed}");
        for t in motr.take() {
            *told += 1;
            if t.status == 0 && !t.bytes.is_empty() {
                sent.check(&t.bytes);
            }
            assert!(t.from.is_none_or(|f: Addr| f == addr(1, PORT)));
        }
    };
    for _ in 0..50 {
        let until = rng.chance(30).then(|| net.now + 1 + rng.below(SEC));
        match rng.below(14) {
            0 => {
                tm.msg_recv(&mut net, MSG, until);
            }
            1 => {
                tm.msg_recv_lent(&mut net, MSG);
            }
            2 => {
                let (len, seed) = sent.fresh(MSG);
                tm.msg_send(&mut net, motr.addr, len, seed, until);
            }
            3 => ours_fill.push(tm.passive_recv(&mut net, 100_000, until).1),
            4 => {
                let (len, seed) = sent.fresh(100_000);
                ours_fetch.push(tm.passive_send(&mut net, len, seed, until).1);
            }
            5 => {
                motr.add(&mut net, MQueue::MsgRecv, Vec::new(), MSG);
            }
            6 => {
                let (len, seed) = sent.fresh(MSG);
                motr.add(&mut net, MQueue::MsgSend, bytes(len, seed), 0);
            }
            7 => {
                let n = motr.add(&mut net, MQueue::PassiveRecv, Vec::new(), 100_000);
                theirs_fill.push(motr.desc(n));
            }
            8 => {
                let (len, seed) = sent.fresh(100_000);
                let n = motr.add(&mut net, MQueue::PassiveSend, bytes(len, seed), 0);
                theirs_fetch.push(motr.desc(n));
            }
            9 => {
                if let Some(d) = theirs_fill.pop() {
                    let data = sent.fresh(100_000);
                    tm.active_send(&mut net, d, data, until);
                }
            }
            10 => {
                if let Some(d) = theirs_fetch.pop() {
                    tm.active_recv(&mut net, d, 100_000, until);
                }
            }
            11 => {
                if let Some(d) = ours_fill.pop() {
                    let (len, seed) = sent.fresh(100_000);
                    motr.add(&mut net, MQueue::ActiveSend(d), bytes(len, seed), 0);
                }
                if let Some(d) = ours_fetch.pop() {
                    motr.add(&mut net, MQueue::ActiveRecv(d), Vec::new(), 100_000);
                }
            }
            12 => {
                let open = tm.under_way();
                if !open.is_empty() {
                    let tag = rng.pick(&open);
                    tm.cancel(&mut net, tag);
                }
            }
            _ if cuts && net.links() > 0 => {
                motr.network_lost();
                let link = rng.below(net.links() as u64) as usize;
                let how = rng.pick(&[Cut::Reset, Cut::Fin]);
                net.cut(link, how);
            }
            _ => {}
        }
        let ns = 1 + rng.below(SEC / 50);
        run(&mut net, ns, |net| {
            motr.step(net);
            check(&mut motr, &sent, &mut told);
            statuses(&tm.take(), &sent, &mut took);
        });
    }
    // Motr's messages come in before buffers are given up: it would wait for ever.
    for _ in 0..60 {
        tm.msg_recv(&mut net, MSG, None);
    }
    run(&mut net, 5 * SEC, |net| {
        motr.step(net);
        check(&mut motr, &sent, &mut told);
        statuses(&tm.take(), &sent, &mut took);
    });
    for tag in tm.under_way() {
        tm.cancel(&mut net, tag);
    }
    run(&mut net, 20 * SEC, |net| {
        motr.step(net);
        check(&mut motr, &sent, &mut told);
    });
    over(&mut tm, &mut net, &sent, &mut took);
    [told, once(took)]
}

/// Nothing that we do, early or late, kills a Motr.
#[test]
fn beside_a_motr_that_lives() {
    let [told, took] = (0..150).fold([0, 0], |sum, seed| {
        let n = beside_motr(seed, false);
        [sum[0] + n[0], sum[1] + n[1]]
    });
    assert!(told > 1000 && took > 500, "{told}, {took}");
}

#[test]
fn beside_a_motr_whose_connections_are_lost() {
    for seed in 1000..1100 {
        beside_motr(seed, true);
    }
}

/// A peer that breaks the rules: it dials, and does these steps one after the other.
struct Rogue {
    to: SocketAddr,
    steps: VecDeque<Step>,
    out: VecDeque<Action>,
    dialling: bool,
}

enum Step {
    Send(Vec<u8>),
    Close,
    /// Waits for so many bytes.
    Read(usize),
}

impl Rogue {
    fn go(&mut self, c: ConnId) {
        while let Some(step) = self.steps.pop_front() {
            match step {
                Step::Send(bytes) => self.out.extend(bytes.chunks(INLINE_MAX).map(|b| {
                    let hdr = InlineHdr::try_from(b).unwrap();
                    Action::Send(
                        c,
                        SendMsg { hdr, pay: Pages::new(), lend: None, hold: false, answer: false },
                    )
                })),
                Step::Close => return self.out.push_back(Action::Close(c, Close::Fin)),
                Step::Read(n) => return self.steps.push_front(Step::Read(n)),
            }
        }
    }
}

impl Protocol for Rogue {
    fn handle(&mut self, _: u64, happened: Happened<'_>) {
        match happened {
            Happened::Opened(c, _) => self.go(c),
            Happened::Bytes(c, rx) => {
                let mut n = 0;
                while let Some(f) = rx.next() {
                    n += f.len() as usize;
                }
                if let Some(Step::Read(left)) = self.steps.front_mut() {
                    *left = left.saturating_sub(n);
                    if *left == 0 {
                        self.steps.pop_front();
                        self.go(c);
                    }
                }
            }
            Happened::Closed(..) | Happened::DialFailed(..) => self.dialling = false,
            _ => {}
        }
    }
    fn act(&mut self) -> Option<Action> {
        self.out.pop_front()
    }
    fn deadline(&self) -> Option<u64> {
        (!self.dialling && !self.steps.is_empty()).then_some(0)
    }
    fn timer(&mut self, now: u64) {
        self.dialling = true;
        let (id, local_ip) = (DialId(1), [10, 0, 0, 1].into());
        let until = now + 10 * SEC;
        self.out.push_back(Action::Dial(DialSpec {
            id,
            remote: self.to,
            local_ip,
            privileged: false,
            until,
        }));
    }
    fn shut_down(&mut self, _: u64) {}
}

/// Steps towards a Motr, made of the descriptors of its buffers.
type Steps<'a> = &'a dyn Fn(&dyn Fn(usize) -> Bdesc) -> Vec<Step>;

/// Death of a Motr that has these buffers by a rogue's steps.
fn death(steps: Steps<'_>) -> Option<String> {
    let mut net = Net::new();
    let nid = Nid::tcp([10, 0, 0, 1].into(), 0);
    let node = net.add(NodeConfig::new(nid, 1));
    let mut motr = Motr::new(&mut net, (2, PORT), (node, addr(1, PORT)));
    motr.pace = SEC / 1000;
    motr.add(&mut net, MQueue::PassiveRecv, Vec::new(), 100);
    motr.add(&mut net, MQueue::PassiveSend, bytes(100_000, 1), 0);
    let to = addr(2, PORT).dialled().unwrap();
    let steps = steps(&|n| motr.desc(n)).into();
    let rogue = Rogue { to, steps, out: VecDeque::new(), dialling: false };
    net.nodes[node].machine = Machine::new(NodeConfig::new(nid, 1)).with(PORT, Box::new(rogue)).unwrap();
    net.input(node, Input::Timer);
    run(&mut net, 5 * SEC, |net| motr.step(net));
    motr.died
}

/// The model dies of each thing that Motr dies of, so a run in which it lives says something.
#[test]
fn the_model_dies_of_what_motr_dies_of() {
    let me = Bdesc { addr: addr(1, PORT), cookie: Cookie { addr: 4104, generation: 1 } };
    let put = |dst: Bdesc, nr: u32, len: usize| {
        let (size, total) = (len as u64, len as u64 * u64::from(nr));
        let h = PacketHdr { kind: PacketType::Put, src: me, dst, idx: 0, nr, size, offset: 0, total };
        [&h.emit()[..], &vec![1; len]].concat()
    };
    let get = |dst: Bdesc| {
        let (kind, src) = (PacketType::Get, me);
        PacketHdr { kind, src, dst, idx: 0, nr: 1, size: 0, offset: 0, total: 0 }.emit().to_vec()
    };
    let dies = |probe: &str, steps: Steps<'_>| {
        let how = death(steps);
        assert!(how.as_ref().is_some_and(|h| h.contains(probe)), "{probe}: {how:?}");
    };
    dies("p4", &|d| vec![Step::Send(put(d(0), 2, 10))]);
    dies("p6", &|d| vec![Step::Send(put(d(0), 1, 10).repeat(2))]);
    dies("p10", &|d| {
        let whole = put(d(0), 1, 90);
        vec![Step::Send(whole[..200].to_vec()), Step::Close, Step::Send(whole)]
    });
    dies("p12", &|d| vec![Step::Send(get(d(1))), Step::Read(2000), Step::Close]);
    dies("p21", &|d| vec![Step::Send(put(d(1), 1, 10))]);
    dies("p23", &|d| vec![Step::Send(get(d(1))), Step::Read(100_160), Step::Send(get(d(1)))]);
    let lives = death(&|d| {
        vec![Step::Send(put(d(0), 1, 10)), Step::Send(get(d(1))), Step::Read(100_160), Step::Close]
    });
    assert_eq!(lives, None);
}
