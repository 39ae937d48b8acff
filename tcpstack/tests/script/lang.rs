//! The language: what a line of a script says. docs/scripts.md explains it to those who write one.

use std::fmt;
use std::net::IpAddr;

use tcpstack::Close;

use super::packet::Tweak;

/// A sequence or acknowledgement number, a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Num {
    /// Whatever it is.
    Any,
    /// From the sender's first number.
    Rel(i64),
    /// As on the wire.
    Abs(u32),
}

/// A bound on a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl Range {
    pub(crate) const ANY: Range = Range { min: 0, max: u64::MAX };

    pub(crate) fn has(&self, v: u64) -> bool {
        (self.min..=self.max).contains(&v)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (a, b) if a == b => write!(f, "{a}"),
            (0, b) => write!(f, "at most {b}"),
            (a, u64::MAX) => write!(f, "at least {a}"),
            (a, b) => write!(f, "{a} to {b}"),
        }
    }
}

/// A TCP option, numbers relative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OptSpec {
    Eol,
    Nop,
    Mss(Range),
    Scale(Range),
    SackOk,
    Sack(Vec<(i64, i64)>),
    Ts(Num, Num),
    Raw(Vec<u8>),
}

/// A segment to send or to expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seg {
    pub(crate) flags: u8,
    pub(crate) seq: Num,
    pub(crate) len: u32,
    pub(crate) ack: Option<Num>,
    /// The field.
    pub(crate) win: Range,
    /// `win` was written, so that it has to be sent.
    pub(crate) has_win: bool,
    /// Right edge of the window offered, relative to the receiver's first number.
    pub(crate) edge: Option<Range>,
    pub(crate) urg: Option<u16>,
    /// Options, where the line says.
    pub(crate) opts: Option<Vec<OptSpec>>,
    /// Payload that is not the pattern.
    pub(crate) data: Option<Vec<u8>>,
    pub(crate) tweaks: Vec<Tweak>,
}

/// What is expected from the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    Seg(Seg),
    /// No packet at all, for so long (ns).
    Nothing(u64),
    /// Packets for so long (ns) that nobody looks at.
    Anything(u64),
    /// Segments with the bytes from one number to another, in order and without gaps; how many segments.
    Cover(i64, i64, Range),
    /// Acknowledgements without data, the last of which is this; how many.
    Acks(i64, Range),
    /// An ICMP message: type, code, length of what it carries.
    Icmp(u8, u8, Option<usize>),
    /// An ARP request or a neighbour solicitation for this address.
    Solicit(IpAddr),
}

/// Time at which a line acts, counted from the line before it (ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// At the same moment.
    Now,
    /// That much later; expectations have a tolerance.
    After(u64),
    /// At any time until then.
    Within(u64),
}

/// What an application does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Listen {
        port: u16,
        backlog: u32,
    },
    Dial {
        fails: Option<String>,
    },
    Push {
        bytes: u32,
        copied: bool,
        fails: Option<String>,
    },
    /// Reads, and gives the bytes back to the window unless `keep`.
    Read {
        bytes: u32,
        text: Option<Vec<u8>>,
        keep: bool,
    },
    Credit(u32),
    /// Lets go of buffers that were kept.
    Release,
    Close(Close),
}

/// An event expected from the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Opened(Option<bool>),
    Readable,
    Fin,
    Closed(String),
    /// Offsets that are acknowledged and sent.
    Progress {
        acked: Range,
        sent: Range,
    },
}

/// An ICMP message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IcmpSpec {
    pub(crate) kind: String,
    pub(crate) mtu: u32,
    /// The number of the segment that it quotes; the last one sent unless told.
    pub(crate) quote: Option<Num>,
    pub(crate) len: usize,
    pub(crate) from: Option<IpAddr>,
    pub(crate) tweaks: Vec<Tweak>,
}

/// What a line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The peer's segment. `late`: the stack sees it together with the next one.
    Inject {
        seg: Seg,
        late: bool,
    },
    Icmp(IcmpSpec),
    /// The peer answers for its address, or asks for ours.
    Arp {
        reply: bool,
    },
    /// That many SYNs from as many other ports, and whatever they are answered with.
    Flood {
        count: u32,
        answers: Range,
    },
    Expect(Want),
    Call(Call),
    Event(Heard),
    Count {
        flow: bool,
        name: String,
        range: Range,
    },
    /// The peer of a connection, and our port.
    Conn {
        addr: Option<IpAddr>,
        port: Option<u16>,
        ours: Option<u16>,
    },
    /// The next connection of the same addresses and ports.
    Fresh {
        isn: Option<u32>,
    },
    Link(bool),
    /// Takes so many receive buffers away, or gives all back with 0.
    Buffers(usize),
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) no: usize,
    pub(crate) text: String,
    pub(crate) when: When,
    pub(crate) conn: Option<String>,
    pub(crate) step: Step,
}

/// A script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Script {
    pub(crate) file: String,
    /// `set` lines: line number, name, values.
    pub(crate) sets: Vec<(usize, String, Vec<String>)>,
    pub(crate) lines: Vec<Line>,
}
