//! The one way a connection ends.
//!
//! ```text
//!   who ends it                   to the peer            what nobody has read     the user hears Closed
//!   close in both directions      FIN after what was     discarded, and what      when the peer is done, or after
//!                                 pushed                 still comes, too         `fin_timeout`
//!   abort                         RST                    discarded                at once
//!   the peer, by RST              -                      kept until it is read    when it is read
//!   nobody answers, unreachable   RST                    kept until it is read    when it is read
//!   both ends, by FIN             -                      kept until it is read    when it is read
//!   close or abort after that     -                      discarded                at once
//! ```
//!
//! Where bytes are kept, the user hears `Ended` at once: what it does not read now for the peer's sake it never needs to.
//!
//! So whoever closes discards, and what came in order before an end that somebody else made is still delivered, as Linux
//! does. Linux answers a close with unread bytes by a RST (RFC 2525 §2.17), and so drops what it has not sent, and what
//! some peers have not read: a refusal, or a last answer. Here that is delivered, and the bytes cost nothing: they are
//! acknowledged and let go. A peer cannot hold such a connection up; its window may stay shut, or data may come, for
//! `fin_timeout` at most.

/// Reason why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseWhy {
    /// Both sides closed in order.
    Fin,
    /// The peer reset it.
    Reset,
    /// The peer did not answer.
    Timeout,
    /// The peer refused our SYN.
    Refused,
    /// The network says that the peer cannot be reached.
    Unreachable,
    /// The next hop did not answer ARP or neighbour discovery.
    Unresolved,
    /// We aborted it.
    LocalAbort,
}

/// Way of closing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// In one direction: a FIN follows everything pushed. The peer may still send, and is still read.
    Fin,
    /// In both: as `Fin`, and nobody reads any more. What is unread, and what still comes, is acknowledged and
    /// discarded.
    Both,
    /// At once, with a RST; what was pushed is dropped.
    Abort,
}
