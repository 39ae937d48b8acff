//! Congestion control: how much may be in flight. One small trait, and one enum that holds an algorithm's state
//! inline, so that a connection costs no allocation and an ACK no indirect call.
//!
//! Everything is in bytes. While loss is being recovered the window is [`crate::prr`]'s, and the algorithm is not
//! asked.

mod cubic;
mod reno;

pub use cubic::Cubic;
pub use reno::Reno;

/// Initial window, in segments (RFC 6928).
pub const INITIAL_WINDOW: u32 = 10;

/// The algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Congestion {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681.
    Reno,
}

/// An acknowledgement of new data outside recovery.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// Bytes that it delivered.
    pub acked: u64,
    /// The time in ns.
    pub now: u64,
    /// Smoothed round-trip time in ns.
    pub srtt: u64,
    /// Segment size in bytes.
    pub mss: u32,
    /// The window was what limited the sender in the last round trip. It grows only then.
    pub limited: bool,
}

/// Window and threshold, and what they were before the last reduction.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Bytes that may be in flight.
    pub cwnd: u64,
    /// Below this the window doubles in a round trip.
    pub ssthresh: u64,
    prior: (u64, u64),
}

/// The window never grows beyond this, in bytes.
pub const CWND_MAX: u64 = 1 << 30;

impl Window {
    fn new(mss: u32) -> Window {
        let cwnd = u64::from(INITIAL_WINDOW * mss);
        Window { cwnd, ssthresh: u64::MAX, prior: (cwnd, u64::MAX) }
    }

    /// Slow start (RFC 5681 §3.1), by bytes. Returns what is left of `acked` beyond the threshold.
    fn slow_start(&mut self, acked: u64) -> u64 {
        let grow = acked.min(self.ssthresh.saturating_sub(self.cwnd));
        self.cwnd = (self.cwnd + grow).min(CWND_MAX);
        acked - grow
    }

    /// Keeps what [`CongestionControl::undo`] goes back to.
    fn remember(&mut self) {
        self.prior = (self.cwnd, self.ssthresh);
    }
}

/// An algorithm.
pub trait CongestionControl {
    /// New data was acknowledged.
    fn on_ack(&mut self, a: &Ack);
    /// A loss was found, the first of its round trip: sets the threshold. The window follows by and by.
    /// `flight` is what was in flight, or the window if that was what limited it.
    fn on_loss(&mut self, flight: u64, mss: u32);
    /// The retransmission timer ran out. `first` says that it is the first time for this data (RFC 5681 §3.1).
    fn on_timeout(&mut self, flight: u64, mss: u32, first: bool);
    /// Recovery is over: the window is the threshold.
    fn on_recovered(&mut self);
    /// The last reduction was for nothing: everything is as it was, or better.
    fn undo(&mut self);
    /// Nothing was sent for longer than a time-out: the window is the initial one again (RFC 5681 §4.1).
    fn on_idle(&mut self, mss: u32);
    /// The window.
    fn window(&self) -> &Window;
}

/// An algorithm's state.
#[derive(Clone, Copy, Debug)]
pub enum Cc {
    /// RFC 9438.
    Cubic(Cubic),
    /// RFC 5681.
    Reno(Reno),
}

impl Cc {
    /// The state at the beginning of a connection with this segment size.
    pub fn new(which: Congestion, mss: u32) -> Cc {
        match which {
            Congestion::Cubic => Cc::Cubic(Cubic::new(mss)),
            Congestion::Reno => Cc::Reno(Reno::new(mss)),
        }
    }

    /// Name of the algorithm.
    pub fn name(&self) -> &'static str {
        match self {
            Cc::Cubic(_) => "cubic",
            Cc::Reno(_) => "reno",
        }
    }
}

macro_rules! each {
    ($self:ident, $c:ident => $e:expr) => {
        match $self {
            Cc::Cubic($c) => $e,
            Cc::Reno($c) => $e,
        }
    };
}

impl CongestionControl for Cc {
    #[inline]
    fn on_ack(&mut self, a: &Ack) {
        each!(self, c => c.on_ack(a));
    }
    fn on_loss(&mut self, flight: u64, mss: u32) {
        each!(self, c => c.on_loss(flight, mss));
    }
    fn on_timeout(&mut self, flight: u64, mss: u32, first: bool) {
        each!(self, c => c.on_timeout(flight, mss, first));
    }
    fn on_recovered(&mut self) {
        each!(self, c => c.on_recovered());
    }
    fn undo(&mut self) {
        each!(self, c => c.undo());
    }
    fn on_idle(&mut self, mss: u32) {
        each!(self, c => c.on_idle(mss));
    }
    #[inline]
    fn window(&self) -> &Window {
        each!(self, c => c.window())
    }
}

/// RFC 5681 §4.1, and the threshold remembers most of what the path took.
fn restart(w: &mut Window, mss: u32) {
    w.ssthresh = w.ssthresh.max(w.cwnd * 3 / 4);
    w.cwnd = w.cwnd.min(u64::from(INITIAL_WINDOW * mss));
}
