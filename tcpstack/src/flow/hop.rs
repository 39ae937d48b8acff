//! The next hop of a connection: its headers lead there, and follow it when it moves.

use crate::addr::Addr;
use crate::neighbour::Neighbours;
use crate::wire::{Mac, Template};

/// The next hop.
pub(crate) struct Hop {
    tmpl: Template,
    addr: Addr,
    /// [`Neighbours::epoch`] at which `tmpl` has its place.
    epoch: u32,
    /// Its place is known: until then there is no SYN to send.
    known: bool,
}

impl Hop {
    /// A hop that has to be asked for.
    pub(crate) fn unknown(tmpl: Template, addr: Addr) -> Hop {
        Hop { tmpl, addr, epoch: 0, known: false }
    }

    /// A hop that a segment came from, at this epoch.
    pub(crate) fn known(tmpl: Template, addr: Addr, epoch: u32) -> Hop {
        Hop { tmpl, addr, epoch, known: true }
    }

    /// Headers of segments to it.
    #[inline]
    pub(crate) fn tmpl(&self) -> &Template {
        &self.tmpl
    }

    /// Its address.
    pub(crate) fn addr(&self) -> &Addr {
        &self.addr
    }

    /// Whether its place is known.
    #[inline]
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// It is at `mac`, as of `epoch`.
    pub(crate) fn found(&mut self, mac: Mac, epoch: u32) {
        self.tmpl.set_dst(mac);
        (self.epoch, self.known) = (epoch, true);
    }

    /// Goes where it is by now.
    #[inline]
    pub(crate) fn follow(&mut self, n: &Neighbours) {
        if self.epoch != n.epoch() {
            self.epoch = n.epoch();
            if let Some(mac) = n.peek(&self.addr) {
                self.tmpl.set_dst(mac);
            }
        }
    }
}
