//! Two transfer machines of Motr's net contract over kernel sockets: a message, and bulk each way by descriptor.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use hugepages::PrivatePages;
use transport::net::{BufEvent, Domain, Event, Heard, Host, Memory, NetHandle, Request, Sock, threaded};
use transport::node::{NoApp, NodeBuilder, Running};
use transport::wire::{Nid, netsock::Addr};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let ((client, here), (server, there)) = (node([127, 0, 7, 3])?, node([127, 0, 7, 4])?);
    let ours = here.start("inet:stream:127.0.7.3@7003")?;
    let theirs = there.start("inet:stream:127.0.7.4@7003")?;
    let to = here.end_point(ours, "inet:stream:127.0.7.4@7003")?;
    let room = || Memory::room(Arc::new(PrivatePages), 4096);
    let pages = |text: &str| Memory::copy_of(Arc::new(PrivatePages), text.as_bytes());
    there.add(theirs, room()?, Request::MsgRecv { min_size: 4096, max_msgs: 1 })?;
    here.add(ours, pages("a message")?, Request::MsgSend { to, len: 9 })?;
    println!("a message: {} bytes, {:?}", ended(&here)?.len, text(&ended(&there)?));
    let desc = there.add(theirs, room()?, Request::PassiveRecv)?.desc.ok_or("no descriptor")?;
    here.add(ours, pages("bulk from here")?, Request::ActiveSend { desc, len: 14 })?;
    println!("an active send: {} bytes, {:?}", ended(&here)?.len, text(&ended(&there)?));
    let passive = there.add(theirs, pages("bulk from there")?, Request::PassiveSend { len: 15 })?;
    here.add(ours, room()?, Request::ActiveRecv { desc: passive.desc.ok_or("no descriptor")? })?;
    println!("an active receive: {:?}, {} bytes", text(&ended(&here)?), ended(&there)?.len);
    drop((here, there));
    client.stop()?;
    server.stop()?;
    Ok(())
}

/// A node with a domain beside LNet.
fn node(ip: [u8; 4]) -> Result<(Running, NetHandle)> {
    let (at, (handle, app)) = (SocketAddr::from((ip, 7003)), threaded(16));
    let sock = Sock::new(transport::netsock::Config::new(Addr::stream(at), 1))?;
    let host = Box::new(Host::new(Domain::new(sock, 0), app));
    let node = NodeBuilder::new(Nid::tcp(at.ip(), 0)).listen_at([at]);
    Ok((node.start_with(Arc::default(), move || Ok((NoApp, vec![(at.port(), host as _)])))?, handle))
}

/// The next event, which must be a buffer's good end.
fn ended(net: &NetHandle) -> Result<BufEvent> {
    match net.wait(Duration::from_secs(10)) {
        Some(Heard::Event(Event::Buffer(e))) if e.status == 0 => Ok(e),
        other => Err(format!("{other:?}").into()),
    }
}

fn text(e: &BufEvent) -> String {
    String::from_utf8_lossy(&e.parts().collect::<Vec<_>>().concat()).into_owned()
}
