//! A domain and its application on their shard: as a protocol on streams over netsock, as an application of the node over LNet.
//! Nothing is between them but calls.

use super::{Domain, Event, LnetXprt, Sock, Xprt};
use crate::lnet;
use crate::netsock::Notice;
use crate::stream::{Action, Happened, Protocol};

/// An application of a domain. It must not block.
pub trait NetApp<X: Xprt> {
    /// Something happened. Any call may be made from here.
    fn event(&mut self, net: &mut Domain<X>, event: Event);

    /// A packet was refused, of `all` so far, and its connection ends, if it came by one (netsock).
    fn refused(&mut self, _notice: &Notice, _all: u64) {}

    /// Called whenever the shard does something for the domain.
    fn turn(&mut self, _net: &mut Domain<X>) {}

    /// Time at which it wants to be called though nothing happens, in ns.
    fn deadline(&self) -> Option<u64> {
        None
    }
}

/// A domain with its application.
#[derive(Debug)]
pub struct Host<X: Xprt, A> {
    /// The domain.
    pub net: Domain<X>,
    /// The application.
    pub app: A,
}

impl<X: Xprt, A: NetApp<X>> Host<X, A> {
    /// Both together.
    pub fn new(net: Domain<X>, app: A) -> Host<X, A> {
        Host { net, app }
    }

    /// Time has come to `now`, in ns, or the transport was told something; gives the number of events that the application heard.
    pub fn run(&mut self, now: u64) -> usize {
        self.net.turn(now);
        self.app.turn(&mut self.net);
        let mut n = 0;
        while let Some(event) = self.net.event() {
            self.app.event(&mut self.net, event);
            n += 1;
        }
        n
    }

    /// When [`Host::run`] has something to do, in ns: at once while there are events, as there are of calls before the first run.
    pub fn wake(&self) -> Option<u64> {
        let events = self.net.has_events().then(|| self.net.now());
        [events, self.net.deadline(), self.app.deadline()].into_iter().flatten().min()
    }
}

impl<A: NetApp<Sock>> Host<Sock, A> {
    /// Says which packets were refused. Whoever hears it is on the lcore, where nothing is logged.
    fn tell(&mut self) {
        while let Some(n) = self.net.xprt_mut().notice() {
            let all = self.net.xprt().stats().refused;
            self.app.refused(&n, all);
        }
    }
}

impl<A: NetApp<Sock>> Protocol for Host<Sock, A> {
    fn handle(&mut self, now: u64, happened: Happened<'_>) {
        self.net.xprt_mut().handle(now, happened);
        self.run(now);
        self.tell();
    }

    fn act(&mut self) -> Option<Action> {
        self.net.xprt_mut().act()
    }

    fn deadline(&self) -> Option<u64> {
        self.wake()
    }

    fn timer(&mut self, now: u64) {
        self.net.xprt_mut().timer(now);
        self.run(now);
    }

    fn counts(&self, each: &mut dyn FnMut(&'static str, u64)) {
        self.net.xprt().counts(each);
    }

    fn shut_down(&mut self, now: u64) {
        self.net.xprt_mut().shut_down(now);
        self.run(now);
    }
}

impl<A: NetApp<LnetXprt>> Host<LnetXprt, A> {
    /// An event of LNet's for the transport's application, at `now` in ns.
    pub fn heard(&mut self, now: u64, event: lnet::Event) {
        self.net.xprt_mut().event(event);
        self.run(now);
    }
}

#[cfg(feature = "node")]
impl<A: NetApp<LnetXprt>> crate::node::App for Host<LnetXprt, A> {
    fn turn(&mut self, now: u64, ops: &mut crate::node::Ops) -> crate::node::Work {
        let n = self.run(now);
        ops.extend(std::iter::from_fn(|| self.net.xprt_mut().op()));
        crate::node::Work::of(n)
    }

    fn event(&mut self, now: u64, _: crate::lnd::AppId, event: lnet::Event, ops: &mut crate::node::Ops) {
        self.heard(now, event);
        ops.extend(std::iter::from_fn(|| self.net.xprt_mut().op()));
    }

    fn ends(&mut self, now: u64) {
        self.net.xprt_mut().node_down();
        self.run(now);
    }

    fn patience(&self) -> Option<u64> {
        // Told from now on, as the shard wants it: a deadline that is past lets it go on at once.
        self.wake().map(|t| t.saturating_sub(self.net.now()))
    }
}
