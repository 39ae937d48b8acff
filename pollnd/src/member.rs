//! The member of lnet_selftest that stands beside a node's application.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hugepages::Backing;
use transport::lnd::AppId;
use transport::node::{App, joined};
use transport::selftest::{AppIds, Config, Member, Meter};

/// First of its event queues' ids: behind the application's, and those of seats.
const FIRST_ID: u16 = 20;

/// The ids of its event queues.
///
/// # Errors
/// None that a caller could mend.
fn ids() -> Result<AppIds, String> {
    AppIds::from(FIRST_ID).map_err(|e| e.to_string())
}

/// Those whose operations go to whom strangers name: consoles, and the destinations of tests.
pub(crate) fn strangers() -> Vec<AppId> {
    ids().map(|ids| vec![ids.server, ids.client]).unwrap_or_default()
}

/// `app` and a member, on the first lcore of a node of `lcores`; and the member's measures.
///
/// # Errors
/// None that a caller could mend.
pub(crate) fn beside(
    app: impl App + 'static,
    lcores: u16,
    backing: &Arc<dyn Backing>,
) -> Result<(Box<dyn App>, Arc<Meter>), String> {
    let ids = ids()?;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let mut cfg = Config::new(ids, u64::try_from(unix).unwrap_or(u64::MAX));
    cfg.shards = lcores.max(1);
    let member = Member::new(cfg, backing);
    let meter = member.meter();
    Ok((Box::new(joined(app, member, [ids.server, ids.client])), meter))
}
