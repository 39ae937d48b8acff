//! NIDs that nothing but a stranger's word is known of: what its pushes make us ask and hold, and for how long (docs/lifetimes.md).

use transport::lnd::Config;
use transport::testing::net::{Net, SEC};
use transport::testing::pair::discovering;
use transport::wire::{ConnType, NiStatus, Nid, PingInfo, Version};

use crate::discovery::push;
use crate::raw::{self, PEER, id, nid};

/// NIDs that a stranger tells of beside its own.
const OTHERS: u8 = 12;
const ENTRY: u64 = 4096;

/// A push of the stranger's: it has these NIDs, which are down, beside its own.
fn list(first: u8) -> Vec<u8> {
    let nids = std::iter::once(nid(PEER)).chain((first..first + OTHERS).map(nid));
    let mut info = PingInfo::new(nids, 12345, 0x1e, 2);
    for ni in info.nis.iter_mut().filter(|ni| ![nid(PEER), Nid::LO].contains(&ni.nid)) {
        ni.status = NiStatus::Down;
    }
    let mut bytes = Vec::new();
    info.emit(&mut bytes);
    push(&bytes)
}

struct World {
    net: Net,
    link: usize,
}

impl World {
    /// A node, and a stranger that is connected; who does not exist refuses, or says nothing.
    fn new(cfg: Config, silent: bool) -> World {
        let mut net = raw::net(cfg);
        (1..255).filter(|n| silent && *n != PEER).for_each(|n| net.mute([10, 0, 0, n].into()));
        let mut w = World { net, link: 0 };
        w.connects();
        w
    }

    fn connects(&mut self) {
        self.link = self.net.raw_connect(raw::at(700), 0);
        self.net.raw_send(self.link, &raw::start(&raw::hello(Version::V3, ConnType::Control)));
        self.net.run(SEC / 10);
    }

    fn tells(&mut self, first: u8) {
        let said = list(first);
        self.net.raw_send(self.link, &said);
        self.net.run(SEC / 10);
    }

    fn leaves(&mut self) {
        self.net.raw_reset(self.link);
        self.net.run(SEC / 10);
    }

    fn held(&self) -> u64 {
        self.net.nodes[0].machine.held().peers
    }

    fn dials(&self) -> u64 {
        self.net.nodes[0].machine.counters().dials_failed
    }

    /// NIDs that are pinged until they are well, but for the stranger's own, which has failed us.
    fn recovering(&self) -> usize {
        let mut n = 0;
        let machine = &self.net.nodes[0].machine;
        machine.peer_nis(0, usize::MAX, &mut |v| n += usize::from(v.recovering && v.nid != nid(PEER)));
        n
    }

    /// Entries for others than the stranger.
    fn others(&self) -> usize {
        let machine = &self.net.nodes[0].machine;
        (1..255).filter(|n| *n != PEER && machine.brief(id(*n)).is_some()).count()
    }
}

fn short(n: u8) -> Config {
    Config { keepalive: 0, ..discovering(n) }
}

/// A ping of such a NID leaves nothing behind, however many lists there are; with the stranger they end, and what was held goes.
#[test]
fn pings_of_what_a_stranger_told_end_with_it_and_leave_nothing() {
    for silent in [false, true] {
        let mut w = World::new(short(1), silent);
        for n in 0..4 {
            w.tells(70 + n * OTHERS);
            // Pings of the list before may be on their way.
            assert!(w.recovering() >= usize::from(OTHERS), "{n}");
            w.net.run(10 * SEC);
            let most = if silent { 4 * u64::from(OTHERS) } else { 0 };
            assert!(w.held() <= (1 + most) * ENTRY, "{n} {silent}: {}", w.held());
        }
        w.net.run(60 * SEC);
        assert!(w.dials() >= u64::from(OTHERS), "they are asked: {}", w.dials());
        w.leaves();
        assert!(silent || w.recovering() == 0);
        // A node that says nothing is waited for as long as any.
        w.net.run(60 * SEC);
        assert_eq!((w.recovering(), w.others()), (0, 0), "{silent}");
        assert!(w.held() <= ENTRY);
        let mut asked = 0;
        for _ in 0..3000 {
            w.net.run(SEC);
            asked = asked.max(w.others() + w.recovering());
        }
        assert_eq!(asked, 0, "nobody is asked any more");
        let dials = w.dials();
        // It is back, and says the same.
        w.connects();
        w.tells(70 + 3 * OTHERS);
        assert_eq!(w.recovering(), usize::from(OTHERS));
        w.net.run(60 * SEC);
        assert!(w.dials() >= dials + u64::from(OTHERS), "they are asked again");
    }
}

/// The stranger pays for all that is held for it: with a small budget it has half, and others find room.
#[test]
fn a_stranger_pays_for_whom_it_makes_us_ask() {
    let mut w = World::new(Config { budget: 40 * ENTRY, ..short(1) }, true);
    for n in 0..6 {
        w.tells(70 + n * OTHERS);
        w.net.run(5 * SEC);
    }
    assert!(w.held() >= 15 * ENTRY && w.held() <= 22 * ENTRY, "{}", w.held());
    w.leaves();
    w.net.run(120 * SEC);
    assert_eq!(w.held(), 0);
}
