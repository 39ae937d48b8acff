//! ICMP of both families (RFC 792, RFC 4443): echo, and a limit for what answers cost.

use crate::csum::Sum;
use crate::wire;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Limiter {
    tokens: u64,
    burst: u64,
    /// Time for one token, in ns.
    each: u64,
    last: u64,
}

impl Limiter {
    /// At most `per_second` in the long run and `burst` at once.
    pub fn new(per_second: u64, burst: u64) -> Limiter {
        Limiter { tokens: burst, burst, each: 1_000_000_000 / per_second.max(1), last: 0 }
    }

    /// Takes a token if there is one at `now` (ns).
    pub fn take(&mut self, now: u64) -> bool {
        let n = now.saturating_sub(self.last) / self.each;
        if n > 0 {
            self.tokens = (self.tokens + n).min(self.burst);
            self.last = if self.tokens == self.burst { now } else { self.last + n * self.each };
        }
        let ok = self.tokens > 0;
        self.tokens -= u64::from(ok);
        ok
    }
}

/// Types of echo request and reply.
pub const ECHO4: (u8, u8) = (8, 0);
/// Types of echo request and reply of ICMPv6.
pub const ECHO6: (u8, u8) = (128, 129);

/// Turns the ICMP message `m` (header and data) into the echo reply, in place. `kinds` are [`ECHO4`] or [`ECHO6`],
/// `pseudo` is what the checksum covers beside the message. `false` when it is not an echo request or its checksum
/// is wrong.
pub fn echo_reply(m: &mut [u8], kinds: (u8, u8), pseudo: Sum) -> bool {
    if m.first_chunk::<8>().is_none_or(|h| h[0] != kinds.0 || h[1] != 0) {
        return false;
    }
    let mut s = pseudo;
    s.add(m);
    if s.finish() != 0 {
        return false;
    }
    let Some(h) = m.first_chunk_mut::<8>() else { return false };
    h[0] = kinds.1;
    h[2..4].fill(0);
    let mut s = pseudo;
    s.add(m);
    wire::put(m, 2, &s.finish().to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_a_reply_with_a_good_checksum() {
        let mut m = [8u8, 0, 0, 0, 0, 1, 0, 2, b'p', b'i', b'n'];
        let mut s = Sum::default();
        s.add(&m);
        m[2..4].copy_from_slice(&s.finish().to_be_bytes());
        let mut bad = m;
        bad[9] ^= 1;
        let reply = |m: &mut [u8]| echo_reply(m, ECHO4, Sum::default());
        assert!(!reply(&mut bad));
        assert!(reply(&mut m));
        let mut s = Sum::default();
        s.add(&m);
        assert_eq!((m[0], s.finish()), (0, 0));
        assert!(!reply(&mut m), "a reply is not answered");
        assert!(!reply(&mut [8, 0, 0]));
    }

    #[test]
    fn the_limiter_refills_over_time() {
        let mut l = Limiter::new(10, 3);
        let n = |l: &mut Limiter, now| (0..10).filter(|_| l.take(now)).count();
        assert_eq!(n(&mut l, 1_000_000_000), 3);
        assert_eq!(n(&mut l, 1_099_000_000), 0);
        assert_eq!(n(&mut l, 1_250_000_000), 2);
        assert_eq!(n(&mut l, 90_000_000_000), 3);
    }
}
