//! Which shard is home to which peers.
//!
//! A peer's address falls into one of 256 buckets, and a bucket has one home: the shard whose machine runs the
//! protocol of all peers in it. Buckets move between shards (`node::machine`), peers never alone. Names that others
//! hold for longer than a call (lends, questions to a portal's owner) carry the bucket, so that an answer finds the
//! home of today; a shard that is given something for a bucket that is not its own passes it on.
//!
//! Each shard has a map of its own and is told of moves by message: nothing is shared.

use std::net::IpAddr;

use super::ShardId;

/// Number of buckets.
pub const BUCKETS: usize = 256;

/// Peers that have their home in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bucket(pub u8);

impl Bucket {
    /// The bucket of an address.
    pub fn of(ip: IpAddr) -> Bucket {
        let fold = |bytes: &[u8]| {
            let h = bytes
                .iter()
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
            // Neighbours differ in the low bits alone so far; these steps spread them.
            let h = (h ^ h >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            h ^ h >> 29
        };
        let h = match ip {
            IpAddr::V4(a) => fold(&a.octets()),
            IpAddr::V6(a) => fold(&a.octets()),
        };
        Bucket((h >> 32) as u8)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Bucket> {
        (0..=u8::MAX).map(Bucket)
    }
}

/// The home of each bucket, as one shard knows it.
#[derive(Clone, Debug)]
pub struct Homes([u16; BUCKETS]);

impl Homes {
    /// The homes at the start: buckets go round the `count` shards of the node.
    pub fn new(count: u16) -> Homes {
        Homes(std::array::from_fn(|b| b as u16 % count.max(1)))
    }

    /// The home of a bucket.
    pub fn at(&self, b: Bucket) -> ShardId {
        ShardId(self.0.get(usize::from(b.0)).copied().unwrap_or_default())
    }

    /// The home of the peer at `ip`.
    pub fn of(&self, ip: IpAddr) -> ShardId {
        self.at(Bucket::of(ip))
    }

    /// The bucket has moved.
    pub fn set(&mut self, b: Bucket, home: ShardId) {
        if let Some(at) = self.0.get_mut(usize::from(b.0)) {
            *at = home.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbours_fall_apart_and_buckets_go_round() {
        let used: HashSet<Bucket> = (0..=255).map(|i| Bucket::of(IpAddr::from([10, 0, 0, i]))).collect();
        assert!(used.len() > 140, "{}", used.len());
        let mut homes = Homes::new(3);
        let each = |h: &Homes, s| Bucket::all().filter(|b| h.at(*b) == ShardId(s)).count();
        assert_eq!([each(&homes, 0), each(&homes, 1), each(&homes, 2)], [86, 85, 85]);
        homes.set(Bucket(3), ShardId(2));
        assert_eq!([each(&homes, 0), each(&homes, 1), each(&homes, 2)], [85, 85, 86]);
    }
}
