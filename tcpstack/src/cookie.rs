//! SYN cookies (RFC 4987 §3.6): the answer to a SYN, kept by the peer instead of by us.
//!
//! ```text
//!    31                                  1   0
//!   ┌─────────────────────────────────────┬───┐   H: 31 bits of a keyed hash of the addresses, the ports, the
//!   │            H + MSS index            │ t │      peer's initial number and the time slot
//!   └─────────────────────────────────────┴───┘   t: whether the slot's number is odd
//! ```
//!
//! A cookie is good in its slot of 64 s and in the next. One in 2^28 guesses is right: all eight indices are. The
//! number is no clock, so RFC 6528's guarantee that a new connection lies beyond an old one does not hold: a place in
//! TIME-WAIT is never given away against a cookie.
//!
//! The other options of the peer's SYN travel in the timestamp, which the peer sends back; without timestamps there is
//! neither scale nor SACK. Its lowest six bits, of 64 ms:
//!
//! ```text
//!    5   4   3       0
//!   ┌───┬───┬─────────┐   S: SACK is permitted. Scale: the peer's window scale, 15 for none.
//!   │ 0 │ S │  scale  │   A forged one harms only who forged it.
//!   └───┴───┴─────────┘
//! ```

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::isn::Secret;
use crate::opts::SCALE_MAX;
use crate::seq::Seq;
use crate::table::Key;

/// Length of a time slot, in ns.
const SLOT: u64 = 64_000_000_000;
/// A cookie is good for at most this long, in ns.
pub const VALID: u64 = 2 * SLOT;
/// Sizes that a peer's MSS is rounded down to, in bytes: IPv6 and IPv4 at MTUs of 1280, 1400 (tunnels), 1500 and 9000.
const MSS: [u16; 8] = [256, 536, 1220, 1360, 1440, 1460, 8940, 8960];

/// Makes and checks cookies.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    key: Secret,
}

impl Cookies {
    /// Cookies under a key of the stack's own.
    pub fn new(key: Secret) -> Cookies {
        Cookies { key }
    }

    fn hash(&self, k: &Key, irs: Seq, slot: u64) -> u32 {
        let mut h = DefaultHasher::new();
        h.write_u64(self.key.0[0]);
        h.write_u64(self.key.0[1]);
        h.write_u64(slot);
        h.write_u32(irs.0);
        k.hash(&mut h);
        (h.finish() >> 32) as u32 & !1
    }

    /// Our initial sequence number for the SYN of `k` that came at `now` (ns) with number `irs` and this MSS (in
    /// bytes). `None` when the MSS is too small for a cookie to say.
    pub fn issue(&self, k: &Key, irs: Seq, mss: u16, now: u64) -> Option<Seq> {
        let index = MSS.iter().rposition(|m| *m <= mss)? as u32;
        let slot = now / SLOT;
        Some(Seq(self.hash(k, irs, slot).wrapping_add(2 * index) | (slot & 1) as u32))
    }

    /// The MSS (in bytes) behind a number that comes back at `now` (ns); `None` when we have not made it lately.
    pub fn check(&self, k: &Key, irs: Seq, cookie: Seq, now: u64) -> Option<u16> {
        let slot = now / SLOT;
        let odd = u64::from(cookie.0 & 1);
        let slot = if slot & 1 == odd { slot } else { slot.checked_sub(1)? };
        let index = (cookie.0 & !1).wrapping_sub(self.hash(k, irs, slot)) / 2;
        MSS.get(index as usize).copied()
    }
}

/// Options of a SYN beside the MSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Window scale, at most 14.
    pub scale: Option<u8>,
    /// SACK permitted.
    pub sack: bool,
}

const BITS: u32 = 0x3f;
const SACK: u32 = 0x10;
const NO_SCALE: u32 = 0xf;

impl Abilities {
    /// The latest TSval that says this and is not after `clock`: timestamps must not go back later.
    pub fn write(self, clock: u32) -> u32 {
        let bits = self.scale.map_or(NO_SCALE, u32::from) & NO_SCALE | if self.sack { SACK } else { 0 };
        let val = clock & !BITS | bits;
        if bits > clock & BITS { val.wrapping_sub(BITS + 1) } else { val }
    }

    /// Reads a TSecr that comes back.
    pub fn read(ecr: u32) -> Abilities {
        let scale = (ecr & NO_SCALE) as u8;
        Abilities { scale: Some(scale).filter(|s| *s <= SCALE_MAX), sack: ecr & SACK != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: Cookies = Cookies { key: Secret([1, 2]) };

    fn k() -> Key {
        Key::v4(1, 988, 2, 1023)
    }

    #[test]
    fn the_mss_comes_back_rounded_down() {
        for irs in [0, 5, u32::MAX] {
            for (mss, want) in [(256, 256), (535, 256), (536, 536), (1459, 1440), (1460, 1460), (9999, 8960)]
            {
                let c = C.issue(&k(), Seq(irs), mss, 10).unwrap();
                assert_eq!(C.check(&k(), Seq(irs), c, 20), Some(want));
            }
        }
        assert_eq!(C.issue(&k(), Seq(1), 255, 10), None);
    }

    #[test]
    fn a_cookie_is_good_in_its_slot_and_the_next() {
        for made in [0, SLOT - 1, SLOT, 7 * SLOT + 5] {
            let c = C.issue(&k(), Seq(9), 1460, made).unwrap();
            let last = (made / SLOT + 2) * SLOT - 1;
            assert_eq!(C.check(&k(), Seq(9), c, last), Some(1460), "made at {made}");
            assert_eq!(C.check(&k(), Seq(9), c, last + 1), None, "made at {made}");
            assert!(last - made < VALID);
        }
        let later = C.issue(&k(), Seq(9), 1460, SLOT).unwrap();
        assert_eq!(C.check(&k(), Seq(9), later, 0), None, "nor before it was made");
    }

    #[test]
    fn it_fits_one_connection_and_one_secret() {
        let c = C.issue(&k(), Seq(9), 1460, 0).unwrap();
        let other = |k: Key, irs, key| Cookies { key: Secret(key) }.check(&k, Seq(irs), c, 0);
        assert_eq!(other(k(), 9, [1, 2]), Some(1460));
        assert_eq!(other(k(), 10, [1, 2]), None);
        assert_eq!(other(k(), 9, [1, 3]), None);
        assert_eq!(other(k(), 9, [3, 2]), None);
        for k in [Key::v4(3, 988, 2, 1023), Key::v4(1, 989, 2, 1023), Key::v4(1, 988, 2, 1022)] {
            assert_eq!(other(k, 9, [1, 2]), None);
        }
    }

    #[test]
    fn a_guess_is_right_hardly_ever() {
        let right =
            (0..1_000_000u32).filter(|i| C.check(&k(), Seq(9), Seq(i.wrapping_mul(4099)), 0).is_some());
        assert!(right.count() <= 2);
    }

    #[test]
    fn abilities_travel_in_a_timestamp_that_is_not_ahead() {
        for clock in [0, 1, 63, 64, 1000, u32::MAX] {
            for scale in (0..=14).map(Some).chain([None]) {
                for sack in [false, true] {
                    let a = Abilities { scale, sack };
                    let val = a.write(clock);
                    assert_eq!(Abilities::read(val), a);
                    assert!(clock.wrapping_sub(val) < 64, "{val} at {clock}");
                }
            }
        }
    }
}
