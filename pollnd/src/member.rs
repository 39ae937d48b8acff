//! The member of lnet_selftest that stands beside a node's application.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hugepages::Backing;
use transport::node::{App, joined};
use transport::selftest::{AppIds, Config, Member, Meter};

/// First of its event queues' ids: behind the application's, and those of seats.
const FIRST_ID: u16 = 20;

/// `app` and a member, on the first lcore of a node of `lcores`; and the member's measures.
///
/// # Errors
/// None that a caller could mend.
pub(crate) fn beside(
    app: impl App + 'static,
    lcores: u16,
    backing: &Arc<dyn Backing>,
) -> Result<(Box<dyn App>, Arc<Meter>), String> {
    let ids = AppIds::from(FIRST_ID).map_err(|e| e.to_string())?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let mut cfg = Config::new(ids, u64::try_from(unix).unwrap_or(u64::MAX));
    cfg.shards = lcores.max(1);
    let member = Member::new(cfg, backing);
    let meter = member.meter();
    Ok((Box::new(joined(app, member, [ids.server, ids.client])), meter))
}
