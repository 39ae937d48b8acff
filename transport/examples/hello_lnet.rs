//! Two nodes over kernel sockets on loopback; one pings the other, PUTs and GETs.

use std::time::Duration;

use transport::lnd::{AppId, Data, Payload, Sink};
use transport::lnet::{Event, MdMem, MdSpec, Op};
use transport::node::{Handle, NodeBuilder, rings};
use transport::wire::{Nid, ProcessId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (here, there): (Nid, Nid) = ("127.0.7.1@tcp".parse()?, "127.0.7.2@tcp".parse()?);
    let start = |nid| {
        let (handle, app) = rings(AppId::FIRST, 16);
        NodeBuilder::new(nid).unprivileged(20_988).run(app).map(|node| (node, handle))
    };
    let ((client, ours), (server, theirs)) = (start(here)?, start(there)?);
    let (target, who, match_bits, ignore_bits) = (ProcessId::lustre(there), ProcessId::ANY, 7, 0);
    ours.submit(Op::Ping { tag: 1, target })?;
    println!("ping: {:?}", next(&ours)?);
    let small = |text: &str| Payload::inline(text.as_bytes()).ok_or("too long for a header");
    for (portal, mem) in [(5, MdMem::Sink(Sink::Lend(4096))), (6, MdMem::Source(small("from there")?))] {
        let md = MdSpec { truncate: true, ..MdSpec::new(mem) };
        theirs.submit(Op::Attach { tag: 0, portal, who, match_bits, ignore_bits, md })?;
        println!("the other node: {:?}", next(&theirs)?);
    }
    let (from, offset, hdr_data, payload, ack) = (None, 0, 42, small("from here")?, false);
    ours.submit(Op::Put { tag: 2, target, from, portal: 5, match_bits, offset, hdr_data, payload, ack })?;
    println!("PUT: {:?}", next(&ours)?);
    if let Event::Put(p) = next(&theirs)? {
        println!("the other node: a PUT of {:?} from {}: {}", text(&p.data), p.initiator, p.hdr_data);
    }
    ours.submit(Op::Get { tag: 3, target, from, portal: 6, match_bits, sink: Sink::Lend(4096) })?;
    if let Event::Reply { status, data, .. } = next(&ours)? {
        println!("GET: {status:?}, {:?}", text(&data));
    }
    client.stop()?;
    server.stop()?;
    Ok(())
}

/// The next event of a node, waited for.
fn next(node: &Handle) -> Result<Event, &'static str> {
    node.wait(Duration::from_secs(10)).ok_or("nothing is heard")
}

fn text(data: &Data) -> String {
    let Data::Lent(pieces) = data else { return String::new() };
    pieces.iter().map(|p| String::from_utf8_lossy(p.bytes()).into_owned()).collect()
}
