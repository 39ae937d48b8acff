//! Cancels, timeouts, lost connections and stops at random moments: every buffer ends once, with a status that it may have.

use super::world::{Stack, World};
use transport::net::{BufId, Desc, Queue, Request};
use transport::testing::net::{Cut, SEC};
use transport::testing::rng::Rng;

both! { whatever_comes_together }

const SEEDS: u64 = 40;
const LEN: u64 = 60_000;

/// Statuses that a buffer may end with.
const MAY: [i32; 8] = [0, 104, 110, 113, 125, 71, 90, 105];

fn whatever_comes_together<S: Stack>() {
    let mut ok = [0; 6];
    for seed in 0..SEEDS {
        let mut rng = Rng(seed);
        let mut w = World::<S>::new(3);
        w.net.window = rng.pick(&[20_000, 1 << 30]);
        let cuts = rng.chance(50);
        let mut descs: Vec<(usize, bool, Desc)> = Vec::new();
        for _ in 0..50 {
            let (i, to) = (rng.below(3) as usize, rng.below(3) as usize);
            let until = rng.chance(30).then(|| w.net.now + 1 + rng.below(SEC / 20));
            let len = 1 + rng.below(LEN);
            match rng.below(10) {
                0 | 1 => {
                    let b = if rng.chance(50) { w.sink(i, LEN as usize) } else { w.lent(i, LEN as usize) };
                    w.add(
                        i,
                        b,
                        &Request::MsgRecv { min_size: LEN, max_msgs: 1 + rng.below(3) as u32 },
                        until,
                    );
                }
                2 | 3 if i != to => {
                    w.msg_send(i, to, (len as usize, seed), until);
                }
                4 => {
                    let b = w.sink(i, LEN as usize);
                    descs.push((i, true, w.add(i, b, &Request::PassiveRecv, until).desc.unwrap()));
                }
                5 => {
                    let b = w.source(i, len as usize, seed);
                    let added = w.add(i, b, &Request::PassiveSend { len }, until);
                    descs.push((i, false, added.desc.unwrap()));
                }
                6 | 7 if !descs.is_empty() => {
                    let n = rng.below(descs.len() as u64) as usize;
                    let (of, fill, desc) = descs.swap_remove(n);
                    if of == i {
                        continue;
                    }
                    if fill {
                        let b = w.source(i, len as usize, seed);
                        w.add(i, b, &Request::ActiveSend { desc, len }, until);
                    } else {
                        let b = w.sink(i, LEN as usize);
                        w.add(i, b, &Request::ActiveRecv { desc }, until);
                    }
                }
                8 => {
                    let open: Vec<BufId> = w.open(i);
                    if !open.is_empty() {
                        let id = rng.pick(&open);
                        w.with(i, |d, _| d.del(id));
                    }
                }
                _ if cuts && w.net.links() > 0 => {
                    let link = rng.below(w.net.links() as u64) as usize;
                    w.net.cut(link, rng.pick(&[Cut::Reset, Cut::Fin]));
                }
                _ => {}
            }
            w.run(1 + rng.below(SEC / 200));
            for i in 0..3 {
                for t in w.take(i) {
                    assert!(MAY.contains(&t.status), "seed {seed}: {:?} {}", t.queue, t.status);
                    ok[t.queue as usize] += u32::from(t.status == 0);
                }
            }
        }
        w.finish();
    }
    assert!(Queue::ALL.iter().all(|q| ok[*q as usize] > 20), "{ok:?}");
}
