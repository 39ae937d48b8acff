//! `--metrics`: a node's figures for Prometheus, over HTTP. Names are those of `pollnd stats` and of DPDK's telemetry, with
//! `pollnd_` before them.

mod lnet;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use transport::lnet::figures::Latency;
use transport::node::inspect::{Counts, Inspection};
use transport::socklnd::{Contact, PeerBrief};
use transport::wire::ProcessId;

use crate::inspect::seats::Seats;
use crate::limits;

/// Longest request in bytes.
const REQUEST_MAX: usize = 8192;
/// Longest time for one asker, from its connection to the last byte that it takes.
const PATIENCE: Duration = Duration::from_secs(2);
/// Interval of looks for askers, and at whether the node goes down.
const LOOK: Duration = Duration::from_millis(50);
/// Most peers that have rows of their own: a label for each costs whoever collects them.
const PEERS: usize = 1000;

/// Figures that go down as well as up. All others are counters.
const GAUGES: [&str; 12] = [
    "budget_answers",
    "budget_conns",
    "budget_handshakes",
    "budget_limit",
    "budget_peers",
    "budget_stalled",
    "budget_used",
    "conns",
    "lendings_out",
    "rx_lent_out",
    "rx_pool_bytes",
    "rx_pool_bytes_in_use",
];

/// A node, as it is collected.
struct Node {
    front: Arc<Inspection>,
    guests: Arc<Seats>,
    nids: Vec<String>,
    carrier: String,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("nids", &self.nids).finish_non_exhaustive()
    }
}

/// Figures of peers. One that several NIs of the node speak with is one.
#[derive(Default)]
struct Rows {
    places: HashMap<ProcessId, usize>,
    /// Connections, whether it is dialled, credits that are used, and messages that wait, of the first [`PEERS`].
    rows: Vec<(String, [u32; 4])>,
}

impl Rows {
    fn add(&mut self, p: &PeerBrief) {
        let dialled = !matches!(p.contact, Contact::Idle | Contact::Routed);
        let [conns, is_dialled, used, queued] = [p.conns, dialled.into(), p.credits_used, p.queued];
        let next = self.places.len();
        let place = *self.places.entry(p.id).or_insert(next);
        if place == self.rows.len() && place < PEERS {
            self.rows.push((p.id.to_string(), [conns, is_dialled, used, queued]));
        } else if let Some((_, sum)) = self.rows.get_mut(place) {
            let [c, d, u, q] = *sum;
            *sum = [c + conns, d.max(is_dialled), u + used, q + queued];
        }
    }
}

/// Name and help of a time of the polling loop, and its ns.
type Time = (&'static str, &'static str, fn(&Counts) -> u64);

/// Names and values of an lcore.
fn figures(c: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    c.proto.iter().chain(c.streams.iter()).chain(c.more.iter().copied())
}

/// Figures of lcores by their names, in their order, each with the lcores that have it: some are told only where they are not 0.
fn by_name<'a, F: Iterator<Item = (&'static str, u64)>>(
    lcores: impl Iterator<Item = (&'a str, F)>,
) -> Vec<(&'static str, Vec<(&'a str, u64)>)> {
    let (mut all, mut places) = (Vec::new(), HashMap::new());
    for (lcore, figures) in lcores {
        for (name, n) in figures {
            let place = *places.entry(name).or_insert_with(|| {
                all.push((name, Vec::new()));
                all.len() - 1
            });
            let Some((_, rows)) = all.get_mut(place) else { continue };
            match rows.last_mut() {
                Some((of, sum)) if *of == lcore => *sum += n,
                _ => rows.push((lcore, n)),
            }
        }
    }
    all
}

impl Node {
    fn lcores(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all: Vec<_> =
            (0..self.front.lcores()).map(|l| (l.to_string(), self.front.counts(l).ok())).collect();
        let help = "Whether the lcore answers";
        let mut up = e.encode_descriptor("lcore_up", help, None, MetricType::Gauge)?;
        for (l, counts) in &all {
            up.encode_family(&[("lcore", l.as_str())])?.encode_gauge(&i64::from(counts.is_some()))?;
        }
        let answered: Vec<_> = all.iter().filter_map(|(l, c)| Some((l.as_str(), c.as_deref()?))).collect();
        let time: [Time; 2] = [
            ("busy_seconds", "Time of turns that found something to do", |c| c.loop_stats.busy_ns),
            ("idle_seconds", "Time of turns that found nothing to do", |c| c.loop_stats.idle_ns),
        ];
        for (name, help, of) in time {
            let mut m = e.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (l, c) in &answered {
                let seconds = Duration::from_nanos(of(c)).as_secs_f64();
                m.encode_family(&[("lcore", *l)])?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
            }
        }
        for (name, rows) in by_name(answered.iter().map(|(l, c)| (*l, figures(c)))) {
            let gauge = GAUGES.contains(&name);
            let kind = if gauge { MetricType::Gauge } else { MetricType::Counter };
            let help = format!("{name} of pollnd stats");
            let mut m = e.encode_descriptor(name, &help, None, kind)?;
            for (l, v) in rows {
                let labels = [("lcore", l)];
                let mut one = m.encode_family(&labels)?;
                match gauge {
                    true => one.encode_gauge(&i64::try_from(v).unwrap_or(i64::MAX))?,
                    false => one.encode_counter::<NoLabelSet, _, f64>(&v, None)?,
                }
            }
        }
        for (name, n) in self.guests.figures() {
            let help = format!("{name} of pollnd stats");
            e.encode_descriptor(name, &help, None, MetricType::Gauge)?
                .encode_gauge(&i64::try_from(n).unwrap_or(i64::MAX))?;
        }
        nis(e, &answered)?;
        lnet::nis(e, &answered)
    }

    fn peers(&self, e: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut all = Rows::default();
        // An lcore that does not answer is told above.
        let _ = self.front.peers(None, |p| {
            all.add(p);
            true
        });
        e.encode_descriptor("peers", "Peers that are remembered", None, MetricType::Gauge)?
            .encode_gauge(&i64::try_from(all.places.len()).unwrap_or(i64::MAX))?;
        let names = [
            ("peer_connections", "Connections with the peer that passed the HELLO"),
            ("peer_dialled", "Whether the peer is being dialled, or greeted"),
            ("peer_credits_used", "Messages to the peer that hold a credit"),
            ("peer_queued", "Messages to the peer that wait for a credit, or for a connection"),
        ];
        for (i, (name, help)) in names.into_iter().enumerate() {
            let help = format!("{help}; of the first {PEERS} peers");
            let mut m = e.encode_descriptor(name, &help, None, MetricType::Gauge)?;
            for (peer, figures) in &all.rows {
                m.encode_family(&[("peer", peer.as_str())])?.encode_gauge(&i64::from(figures[i]))?;
            }
        }
        Ok(())
    }
}

impl Collector for Node {
    fn encode(&self, mut e: DescriptorEncoder<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        let mut m = e.encode_descriptor("build", "The program", None, MetricType::Info)?;
        m.encode_info(&[("version", version)])?;
        let mut m = e.encode_descriptor("ni", "A network interface of the node", None, MetricType::Info)?;
        // Those that it was started with, where it does not answer.
        let now = self.front.config(0).map(|c| c.nids().map(|n| n.to_string()).collect::<Vec<_>>());
        for nid in now.as_ref().unwrap_or(&self.nids) {
            m.encode_info(&[("nid", nid.as_str()), ("carrier", self.carrier.as_str())])?;
        }
        self.lcores(&mut e)?;
        self.peers(&mut e)?;
        lnet::encode(&mut e, &self.front)
    }
}

/// Figures of NIs on the lcores that have answered.
fn nis(e: &mut DescriptorEncoder<'_>, answered: &[(&str, &Counts)]) -> fmt::Result {
    let nis: Vec<_> = answered
        .iter()
        .flat_map(|(l, c)| {
            c.nis.iter().map(|ni| ([("lcore", (*l).to_owned()), ("nid", ni.nid.to_string())], ni))
        })
        .collect();
    let Some((_, first)) = nis.first() else { return Ok(()) };
    for (i, (name, _)) in first.counts().into_iter().enumerate() {
        let help = format!("{name} of the NI, as lnetctl net show -v tells it");
        let name = format!("ni_{name}");
        let mut m = e.encode_descriptor(&name, &help, None, MetricType::Counter)?;
        for (labels, ni) in &nis {
            m.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&ni.counts()[i].1, None)?;
        }
    }
    for (i, (name, _)) in first.gauges().into_iter().enumerate() {
        let help = format!("{name} of the NI on the lcore");
        let name = format!("ni_{name}");
        let mut m = e.encode_descriptor(&name, &help, None, MetricType::Gauge)?;
        for (labels, ni) in &nis {
            let n = i64::try_from(ni.gauges()[i].1).unwrap_or(i64::MAX);
            m.encode_family(labels)?.encode_gauge(&n)?;
        }
    }
    let help = "Time from an operation's start to the event that ends it, of those that succeeded";
    let mut m = e.encode_descriptor("lnet_latency_seconds", help, None, MetricType::Histogram)?;
    let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
    for ([lcore, nid], ni) in &nis {
        for (op, l) in ni.by_operation() {
            let bounds = (0..).map(|b| Latency::bound(b).map_or(f64::INFINITY, seconds));
            let buckets: Vec<(f64, u64)> = bounds.zip(l.buckets).collect();
            let labels = [("op", op), ("lcore", &lcore.1), ("nid", &nid.1)];
            let mut one = m.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(seconds(l.sum_ns), l.count(), &buckets, None)?;
        }
    }
    Ok(())
}

/// The figures, in OpenMetrics' text.
fn page(registry: &Registry) -> String {
    let mut text = String::new();
    match text::encode(&mut text, registry) {
        Ok(()) => text,
        Err(e) => format!("# {e}\n# EOF\n"),
    }
}

/// The address is taken, and nobody is answered yet.
pub(crate) struct Bound(TcpListener);

impl Bound {
    /// Takes the address.
    ///
    /// # Errors
    /// It cannot be listened at.
    pub(crate) fn at(at: SocketAddr) -> Result<Bound, String> {
        let listener = TcpListener::bind(at).and_then(|l| l.set_nonblocking(true).map(|()| l));
        let fail = |e: io::Error| {
            format!("--metrics {at}: {}; choose an address of this machine and a free port", limits::told(&e))
        };
        listener.map(Bound).map_err(fail)
    }

    /// Answers from now on, until the result is dropped.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn serve(
        self,
        (front, guests): (Arc<Inspection>, Arc<Seats>),
        nids: Vec<String>,
        carrier: String,
    ) -> Result<Metrics, String> {
        let mut registry = Registry::with_prefix("pollnd");
        registry.register_collector(Box::new(Node { front, guests, nids, carrier }));
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, Bound(listener)) = (stop.clone(), self);
        let thread = limits::thread("serves --metrics", move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    // One that leaves, or is slow, is nobody else's error.
                    Ok((asker, _)) => drop(answer(asker, &registry)),
                    Err(_) => dataplane::clock::pause(LOOK),
                }
            }
        })?;
        Ok(Metrics { stop, thread: Some(thread) })
    }
}

/// Figures that are served.
pub(crate) struct Metrics {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// The first line of a request, once its header has come.
fn request(asker: &mut TcpStream, until: Instant) -> io::Result<String> {
    let mut heard = Vec::with_capacity(512);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || heard.len() >= REQUEST_MAX {
            return Err(ErrorKind::TimedOut.into());
        }
        asker.set_read_timeout(Some(left))?;
        let mut some = [0; 1024];
        let n = asker.read(&mut some)?;
        heard.extend_from_slice(&some[..n]);
        if n == 0 || heard.windows(4).any(|w| w == b"\r\n\r\n") {
            let first = heard.split(|b| *b == b'\r').next().unwrap_or_default();
            return Ok(String::from_utf8_lossy(first).into_owned());
        }
    }
}

fn answer(mut asker: TcpStream, registry: &Registry) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    asker.set_nonblocking(false)?;
    let first = request(&mut asker, until)?;
    let mut words = first.split(' ');
    let (status, more, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) if path.split('?').next() == Some("/metrics") => {
            let kind = "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
            ("200 OK", kind, page(registry))
        }
        (Some("GET"), Some(_)) => ("404 Not Found", "", "the figures are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "Allow: GET\r\n", "the figures are for GET /metrics\n".to_owned()),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Lcores that did not answer have had their time.
    write(&mut asker, (head + &body).as_bytes(), until.max(Instant::now() + LOOK))
}

/// Writes all of it by `until`. A reader that takes a little now and then has each write begin its time anew.
fn write(asker: &mut TcpStream, mut all: &[u8], until: Instant) -> io::Result<()> {
    while !all.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        asker.set_write_timeout(Some(left))?;
        match asker.write(all) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => all = &all[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts that only a later lcore had were not told.
    #[test]
    fn figures_of_every_lcore_are_told_once() {
        let (first, second) = ([("a", 1), ("b", 2)], [("a", 3), ("drops", 4), ("b", 5), ("drops", 6)]);
        let all = by_name([("0", first.iter().copied()), ("1", second.iter().copied())].into_iter());
        assert_eq!(
            all,
            [("a", vec![("0", 1), ("1", 3)]), ("b", vec![("0", 2), ("1", 5)]), ("drops", vec![("1", 10)])]
        );
    }

    /// Such a reader had the node wait for it, also when it was told to stop.
    #[test]
    fn a_reader_that_takes_a_little_at_a_time_has_no_more_time_than_others() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut asker, _) = listener.accept().unwrap();
        let slow = std::thread::spawn(move || {
            let mut some = vec![0; 64 << 10];
            while reader.read(&mut some).is_ok_and(|n| n > 0) {
                dataplane::clock::pause(Duration::from_millis(5));
            }
        });
        // Five seconds' worth for this reader, and more than sockets keep.
        let until = Instant::now() + Duration::from_millis(100);
        let e = write(&mut asker, &vec![b'x'; 64 << 20], until).unwrap_err();
        assert!(matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock), "{e}");
        drop(asker);
        slow.join().unwrap();
    }
}
