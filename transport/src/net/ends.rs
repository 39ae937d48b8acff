//! End-points: found by address, counted, gone with the last reference (docs/protocol/netxprt.md §4).

use super::domain::Domain;
use super::rows::Ep;
use super::{Desc, EpId, NetError, TmId, TmState, Xprt};
use crate::stream::DialError;
use crate::stream::slab::Key;

const GONE: NetError = NetError::Gone("an end-point");

impl<X: Xprt> Domain<X> {
    /// The end-point of a name, with a reference more.
    ///
    /// # Errors
    /// The machine is not started, or the name is none.
    pub fn ep_create(&mut self, tm: TmId, name: &str) -> Result<EpId, NetError> {
        self.tm_in(tm, "an end-point", &[TmState::Started], "one that is started")?;
        let addr = self.xprt.address(name)?;
        Ok(EpId(self.find_ep(tm.0, addr, Some(name))))
    }

    /// Takes a reference on an end-point.
    ///
    /// # Errors
    /// It is gone.
    pub fn ep_get(&mut self, ep: EpId) -> Result<(), NetError> {
        self.eps.get_mut(ep.0).ok_or(GONE)?.refs += 1;
        Ok(())
    }

    /// The last dial to an end-point, which came to nothing; `None` where there is a connection, none was wanted, or the transport
    /// tells so by the end of a buffer. What waits is dialled for again until its time is over.
    pub fn unreached(&self, ep: EpId) -> Option<DialError> {
        let e = self.eps.get(ep.0)?;
        self.xprt.unreached(TmId(e.tm), &e.addr)
    }

    /// Whether a descriptor may be of an end-point: over netsock it names that one's IP address. Whoever takes descriptors from strangers
    /// asks, lest they have the node dial, and send to, whomever they name.
    pub fn is_of(&self, desc: &Desc, ep: EpId) -> bool {
        self.eps.get(ep.0).is_some_and(|e| self.xprt.is_of(desc, &e.addr))
    }

    /// Gives a reference back. The machine's own on itself is not the caller's to give.
    ///
    /// # Errors
    /// It is gone, or there is no reference but the machine's own.
    pub fn ep_put(&mut self, ep: EpId) -> Result<(), NetError> {
        let e = self.eps.get(ep.0).ok_or(GONE)?;
        let own = self.tms.get(e.tm).is_some_and(|t| t.ep == Some(ep.0));
        if own && e.refs <= 1 {
            return Err(NetError::OwnEp);
        }
        self.put_ep(ep.0);
        Ok(())
    }

    /// References on an end-point, those of queued buffers and of events among them.
    pub fn ep_refs(&self, ep: EpId) -> u32 {
        self.eps.get(ep.0).map_or(0, |e| e.refs)
    }

    /// The name of an end-point: the first by which it was asked for, or else its address's.
    ///
    /// # Errors
    /// It is gone.
    pub fn ep_name(&self, ep: EpId) -> Result<String, NetError> {
        let e = self.eps.get(ep.0).ok_or(GONE)?;
        Ok(e.name.as_ref().map_or_else(|| e.addr.to_string(), |n| n.to_string()))
    }

    /// The address of an end-point.
    ///
    /// # Errors
    /// It is gone.
    pub fn ep_addr(&self, ep: EpId) -> Result<X::Addr, NetError> {
        Ok(self.eps.get(ep.0).ok_or(GONE)?.addr)
    }

    /// A machine's own end-point, once it is started.
    pub fn own_ep(&self, tm: TmId) -> Option<EpId> {
        self.tms.get(tm.0)?.ep.map(EpId)
    }

    /// The end-point of an address, with a reference more.
    pub(super) fn find_ep(&mut self, tm: Key, addr: X::Addr, name: Option<&str>) -> Key {
        if let Some(ep) = self.by_addr.get(&(tm, addr))
            && let Some(e) = self.eps.get_mut(*ep)
        {
            e.refs += 1;
            return *ep;
        }
        let ep = self.eps.insert(Ep { tm, addr, refs: 1, name: name.map(Into::into) });
        self.by_addr.insert((tm, addr), ep);
        if let Some(t) = self.tms.get_mut(tm) {
            t.eps += 1;
        }
        ep
    }

    pub(super) fn put_ep(&mut self, ep: Key) {
        let Some(e) = self.eps.get_mut(ep) else { return };
        e.refs = e.refs.saturating_sub(1);
        if e.refs > 0 {
            return;
        }
        let at = (e.tm, e.addr);
        self.eps.remove(ep);
        self.by_addr.remove(&at);
        if let Some(t) = self.tms.get_mut(at.0) {
            t.eps -= 1;
        }
    }
}
