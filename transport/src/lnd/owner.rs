//! Applications by number, and in whose name receive buffers are lent.

use hugepages::LendOwner;

use crate::stream::ShardId;

/// Bits of a shard's number in an owner's.
const SHARD_BITS: u32 = 6;
/// Most shards of a node.
pub const SHARDS_MAX: u16 = 1 << SHARD_BITS;

/// An application's event queue: its number on its lcore, and, towards the shards of a node, the shard that it lives
/// on, so that its events find the way back from wherever its operations were done.
///
/// ```
/// use transport::lnd::AppId;
///
/// assert!(AppId::new(AppId::MAX).is_ok());
/// let e = AppId::new(1024).unwrap_err().to_string();
/// assert!(e.starts_with("application id 1024 is out of range: give one of 0 to 999"), "{e}");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AppId {
    n: u16,
    shard: u16,
}

/// An application id that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "application id {0} is out of range: give one of 0 to {max}, a different one to each event queue of an lcore",
    max = AppId::MAX
)]
pub struct AppIdError(pub u16);

impl AppId {
    /// The first one: for a program that is the only application of an lcore.
    pub const FIRST: AppId = AppId { n: 0, shard: 0 };
    /// The largest id.
    pub const MAX: u16 = 999;
    /// Under which a shard's own operations complete: no application's.
    pub(crate) const NODE: AppId = AppId { n: AppId::MAX + 1, shard: 0 };

    /// The application with number `n` on its lcore.
    ///
    /// # Errors
    /// [`AppIdError`] over [`AppId::MAX`].
    pub const fn new(n: u16) -> Result<AppId, AppIdError> {
        if n <= AppId::MAX { Ok(AppId { n, shard: 0 }) } else { Err(AppIdError(n)) }
    }

    /// Its number on its lcore.
    pub fn number(self) -> u16 {
        self.n
    }

    /// The same, as seen from other shards: it lives on `shard`.
    pub(crate) fn on(self, shard: ShardId) -> AppId {
        AppId { n: self.n, shard: shard.0 }
    }

    /// Its id on its own shard, and that shard.
    pub(crate) fn home(self) -> (AppId, ShardId) {
        (AppId { n: self.n, shard: 0 }, ShardId(self.shard))
    }
}

/// In whose name receive buffers of an lcore are lent: each has a share of the budget of its own
/// ([`hugepages::LendBudget`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// An application holds them.
    App(AppId),
    /// They are on their way to a shard whose peer they came from.
    Shard(ShardId),
    /// They wait for a copy that is made later.
    Kept,
    /// They are sent on to another node. The others leave it half of its share.
    Router,
}

impl From<Owner> for LendOwner {
    fn from(o: Owner) -> LendOwner {
        const SHARD: u16 = LendOwner::FORWARDER.0 + 1;
        const KEPT: u16 = SHARD + SHARDS_MAX;
        // The table of owners is as long as the largest that was ever lent to: the usual ones come first.
        match o {
            Owner::Router => LendOwner::FORWARDER,
            Owner::Shard(s) => LendOwner(SHARD + s.0),
            Owner::Kept => LendOwner(KEPT),
            Owner::App(a) => LendOwner(KEPT + 1 + (a.n << SHARD_BITS | a.shard)),
        }
    }
}

const _: () = assert!((SHARDS_MAX as u32 + 2) + ((AppId::NODE.n as u32 + 1) << SHARD_BITS) <= 1 << 16);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Ids ran into the numbers of internal owners once a shard's was added, and those from 1,024 had no share of the
    /// budget at all: all that was lent to them was copied.
    #[test]
    fn no_two_owners_share_a_part_of_the_budget() {
        let shards = || (0..SHARDS_MAX).map(ShardId);
        let apps = (0..=AppId::MAX).map(|n| AppId::new(n).unwrap()).chain([AppId::NODE]);
        let mut seen = HashSet::new();
        let mut see = |o: Owner| assert!(seen.insert(LendOwner::from(o)), "{o:?} is not alone");
        apps.flat_map(|a| shards().map(move |s| a.on(s))).for_each(|a| see(Owner::App(a)));
        shards().for_each(|s| see(Owner::Shard(s)));
        see(Owner::Kept);
        see(Owner::Router);
    }

    #[test]
    fn an_id_comes_back_with_its_shard() {
        for n in [0, 1, 900, 937, 938, AppId::MAX] {
            for shard in [0, 1, SHARDS_MAX - 1].map(ShardId) {
                let app = AppId::new(n).unwrap();
                assert_eq!(app.on(shard).home(), (app, shard));
            }
        }
    }

    /// The 65th shard's lends and events went to the first.
    #[test]
    fn a_shard_out_of_range_is_refused_where_it_is_given() {
        use crate::lnd::Shards;
        assert_eq!(Shards::new(SHARDS_MAX - 1, SHARDS_MAX).map(|s| s.me().0), Ok(SHARDS_MAX - 1));
        for (me, count) in [(SHARDS_MAX, SHARDS_MAX + 1), (0, u16::MAX), (3, 3), (0, 0)] {
            let e = Shards::new(me, count).unwrap_err().to_string();
            assert!(e.starts_with(&format!("shard {me} of {count}: a node has 1 to 64")), "{e}");
        }
    }

    #[test]
    fn an_id_out_of_range_is_refused_where_it_is_given() {
        for n in [AppId::MAX + 1, 1023, 1024, u16::MAX] {
            let e = AppId::new(n).unwrap_err().to_string();
            assert!(e.contains(&n.to_string()) && e.contains("0 to 999"), "{e}");
        }
        assert_ne!(AppId::new(900), Ok(AppId::NODE));
    }
}
