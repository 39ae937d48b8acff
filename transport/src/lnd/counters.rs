//! Counts of what a shard did and of everything that it refused.

use std::iter::Sum;
use std::ops::AddAssign;

use crate::wire::{LnetBody, LnetHdr};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the shard was made. Plain words, written by the shard's lcore alone.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Every counter by name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl Sum for Counters {
            fn sum<I: Iterator<Item = Counters>>(all: I) -> Counters {
                all.fold(Counters::default(), |sum, more| Counters { $($name: sum.$name + more.$name,)* })
            }
        }
    };
}

counters! {
    /// LNet messages put on a stream.
    msgs_tx,
    /// LNet messages received whole.
    msgs_rx,
    /// Payload bytes put on streams.
    payload_tx_bytes,
    /// Payload bytes received.
    payload_rx_bytes,
    /// LNet messages of the node to itself, which no stream carries: each was sent and received.
    own_msgs,
    /// Their payload, in bytes.
    own_bytes,
    /// Messages of other nodes that were received whole, to be passed on.
    forward_rx_msgs,
    /// Their payload, in bytes.
    forward_rx_bytes,
    /// Messages of other nodes put on a stream.
    forwarded_msgs,
    /// Their payload, in bytes.
    forwarded_bytes,
    /// Of that, copied on the way.
    forward_copied_bytes,
    /// Times a connection was not read on since its message waited for a router buffer.
    forward_waits,
    /// Messages of other nodes that began to leave before they were whole.
    forward_cut_msgs,
    /// Those of them that broke off: the set that each was leaving on was ended.
    forward_cut_aborted,
    /// Messages that would have, but were stored since a hop's header has a sum over the payload.
    forward_cut_summed,
    /// Messages that would have, but were stored since one of their sender's, or for their next hop, broke off lately.
    forward_cut_barred,
    /// Payload bytes put inline into headers (small messages; no page is involved).
    tx_inline_bytes,
    /// Payload bytes copied into an MD, or because the lend budget was spent.
    rx_copied_bytes,
    /// Payload bytes handed to applications in the buffers they came in.
    rx_lent_bytes,
    /// Pieces copied since the lend budget was spent.
    rx_lend_refused,
    /// Payload bytes read and dropped: no match, or slop behind a short MD.
    rx_dropped_bytes,
    /// NOOPs put on a stream.
    noops_tx,
    /// NOOPs received.
    noops_rx,
    /// Keepalive NOOPs sent.
    keepalives_tx,
    /// Zero-copy ACKs asked of peers.
    zc_requested,
    /// Zero-copy ACKs received.
    zc_acked,
    /// Zero-copy ACKs given to peers.
    zc_acks_tx,
    /// Zero-copy ACKs that rode on an LNet message or in another NOOP.
    zc_acks_merged,
    /// Connections that passed the HELLO.
    conns_up,
    /// Connection sets closed, for whatever reason.
    sets_closed,
    /// Dials that came to nothing.
    dials_failed,
    /// HELLOs answered with NONE, and NONEs received.
    races,
    /// Connections accepted beside one of their type, or a dial for it, that was ours.
    duplicates,
    /// Duplicates that their peers ended, and nothing else.
    duplicates_ended,
    /// Refusals that asked for another version.
    downgrades,
    /// Peers that came back with another incarnation.
    peers_rebooted,
    /// Messages that waited for a credit.
    credit_waits,
    /// Times a connection was not read on since its host was over its share of the budget.
    budget_stalls,
    /// Times a connection was not read on since its message waited on a lazy portal.
    lazy_stalls,
    /// Of those by a gateway, the ones that found no entry in time, or came too soon after one of those: they were dropped.
    lazy_overdue,
    /// Messages by a gateway that waited a time-out for a sink which another message had, and were dropped.
    sink_overdue,
    /// Connections that were not read on for their host's sake, and whose peer was gone: ended with what was unread.
    unread_ended,
    /// Budget for what strangers make us hold, in bytes.
    budget_limit,
    /// Of that, held now.
    budget_used,
    /// Held now for answers that were not read, in bytes.
    budget_answers,
    /// Held now for handshakes, in bytes.
    budget_handshakes,
    /// Held now for connections, in bytes.
    budget_conns,
    /// Held now for peers, in bytes.
    budget_peers,
    /// Connections that are not read now since their host is over its share.
    budget_stalled,
    /// PUTs and GETs that nothing matched.
    drop_no_match,
    /// PUTs and GETs longer than the room in the MD that they matched.
    drop_too_long,
    /// PUTs and GETs with an offset beyond the MD (lnet.md §3).
    drop_bad_offset,
    /// ACKs and REPLYs for a handle that is not ours or no longer alive.
    drop_stale_handle,
    /// Messages for a node elsewhere, or from nobody.
    drop_not_for_us,
    /// Answers to a source that no connection leads to, and no route that is up.
    drop_no_way_back,
    /// Messages for a node on a network that no NI or router leads to.
    drop_no_route,
    /// Messages that would go back to where they came from.
    drop_route_loop,
    /// Messages of other nodes that the next hop did not take.
    drop_next_hop,
    /// Messages for a node that takes nothing, behind one that waits for it.
    drop_stuck,
    /// Messages for next hops without a connection, beyond those that their sources may have.
    drop_no_conn,
    /// Messages of nodes that have gone, which found no router buffer within a time-out.
    drop_left_behind,
    /// Messages of other nodes whose next hop had no connection when they came.
    forward_no_conn,
    /// Nodes that took nothing while the sources of messages for them had no router buffer left.
    forward_stuck,
    /// Entries for peers that were looked at for those.
    forward_stuck_looks,
    /// Messages from another network that came by a node which is no gateway to it (`lnet_drop_asym_route`).
    drop_asym_route,
    /// Pings of gateways, to see whether their routes are up.
    router_checks,
    /// Gateways that did not answer one, or did not acknowledge the push behind it.
    router_checks_failed,
    /// Passive connections from unprivileged ports.
    err_unprivileged,
    /// Passive connections over the limit of unfinished handshakes.
    err_too_many_embryonic,
    /// Passive connections and HELLOs of hosts over their share of the budget.
    err_over_budget,
    /// HELLOs of peers over the limit of those remembered.
    err_too_many_peers,
    /// Acceptor requests and HELLOs with a wrong magic.
    err_magic,
    /// Acceptor requests and HELLOs with a version not spoken here.
    err_version,
    /// Acceptor requests for a NID that is not ours.
    err_target_nid,
    /// HELLOs with a source NID that may not be one, or not the one dialled.
    err_hello_nid,
    /// HELLOs with a type that is wrong.
    err_conn_type,
    /// HELLOs with a bad address list.
    err_hello_ips,
    /// Handshakes not finished in time.
    err_hello_timeout,
    /// ksock headers of an unknown type.
    err_ksock_type,
    /// LNet headers of an unknown type.
    err_lnet_type,
    /// LNet payload lengths that the type does not allow.
    err_payload_len,
    /// LNet headers whose destination is a wrong NID of our network.
    err_dest_nid,
    /// ACKs of a cookie that is not pending, or whose bytes are not all sent.
    err_cookie,
    /// Wrong checksums.
    err_checksum,
    /// Connections that ended inside a message or a handshake.
    err_eof_inside,
    /// Sets closed since a message did not go on arriving.
    err_rx_timeout,
    /// Sets closed since TCP made no progress.
    err_tx_timeout,
    /// Sets closed since a zero-copy ACK did not come.
    err_zc_timeout,
    /// Messages that waited too long for a connection.
    err_queue_timeout,
    /// ACKs and REPLYs that did not come.
    err_no_answer,
    /// ACKs and REPLYs that did not come from a peer: those of `err_no_answer` that some NI is to blame for.
    response_timeout_count,
    /// Messages that were sent again, since they had not left.
    resend_count,
    /// Those of them that have left.
    successful_resends,
    /// Those of them that have failed again, and were not sent another time.
    failed_resends,
    /// Messages that failed since the NI was interrupted.
    local_interrupt_count,
    /// Since the NI dropped them.
    local_dropped_count,
    /// Since the NI gave them up.
    local_aborted_count,
    /// Since the NI knew no way.
    local_no_route_count,
    /// Since their connection died with them.
    local_error_count,
    /// Since they waited too long at the NI.
    local_timeout_count,
    /// Since the peer failed them.
    remote_error_count,
    /// Since the peer refused, was not reachable, or reset the connection that they were queued on.
    remote_dropped_count,
    /// Since the peer was too slow.
    remote_timeout_count,
    /// Since the peer, or what lies between, was too slow.
    network_timeout_count,
    /// Malformed ping info received.
    err_ping_info,
    /// Messages that a fault rule dropped.
    drop_fault,
    /// Messages that a fault rule had fail instead of leaving.
    fault_fails,
    /// Messages that a fault rule delayed.
    fault_delays,
    /// Pings by which peers were asked who they are.
    discoveries,
    /// Those of them that came to nothing: what waited for the answer has failed.
    discoveries_failed,
    /// Pushes of our ping info.
    pushes_tx,
    /// Those of them that were acknowledged.
    pushes_acked,
    /// Pushes received, all of them acknowledged.
    pushes_rx,
    /// Those of them whose content was taken: they came from peers known as Multi-Rail.
    pushes_taken,
    /// Operations refused.
    ops_refused,
    /// Messages given away to be copied or summed by whichever lcore of the CPT had time.
    boxes,
    /// Buckets of peers that moved to another shard.
    homes_left,
    /// Buckets of peers that came from another shard.
    homes_adopted,
    /// Timers of connections, peers and operations that fired: of one each, however many there are.
    timers_fired,
}

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsgType {
    Put,
    Get,
    Reply,
    Ack,
}

impl From<&LnetBody> for MsgType {
    #[inline]
    fn from(body: &LnetBody) -> MsgType {
        match body {
            LnetBody::Put { .. } => MsgType::Put,
            LnetBody::Get { .. } => MsgType::Get,
            LnetBody::Reply { .. } => MsgType::Reply,
            LnetBody::Ack { .. } => MsgType::Ack,
        }
    }
}

/// Messages by their type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByType {
    /// PUTs.
    pub put: u64,
    /// GETs.
    pub get: u64,
    /// REPLYs.
    pub reply: u64,
    /// ACKs.
    pub ack: u64,
}

impl ByType {
    /// Counts one more.
    #[inline]
    pub(crate) fn count(&mut self, message: impl Into<MsgType>) {
        *match message.into() {
            MsgType::Put => &mut self.put,
            MsgType::Get => &mut self.get,
            MsgType::Reply => &mut self.reply,
            MsgType::Ack => &mut self.ack,
        } += 1;
    }

    /// Messages of all types.
    pub fn all(&self) -> u64 {
        self.put + self.get + self.reply + self.ack
    }
}

impl AddAssign for ByType {
    fn add_assign(&mut self, more: ByType) {
        self.put += more.put;
        self.get += more.get;
        self.reply += more.reply;
        self.ack += more.ack;
    }
}

/// Messages of an NI's LND, or of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// LNet messages put on a stream.
    pub sent: ByType,
    /// Their payload in bytes.
    pub send_bytes: u64,
    /// LNet messages received whole.
    pub received: ByType,
    /// Their payload in bytes.
    pub recv_bytes: u64,
}

impl Moved {
    /// A message has come whole.
    #[inline]
    pub(crate) fn came(&mut self, hdr: &LnetHdr) {
        self.received.count(&hdr.body);
        self.recv_bytes += u64::from(hdr.payload_len);
    }

    /// A message with so much payload was put on a stream.
    #[inline]
    pub(crate) fn left(&mut self, hdr: &LnetHdr, payload: u64) {
        self.sent.count(&hdr.body);
        self.send_bytes += payload;
    }
}

impl AddAssign for Moved {
    fn add_assign(&mut self, more: Moved) {
        self.sent += more.sent;
        self.send_bytes += more.send_bytes;
        self.received += more.received;
        self.recv_bytes += more.recv_bytes;
    }
}
