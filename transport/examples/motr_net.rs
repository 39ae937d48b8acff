//! Two transfer machines of Motr's net contract over kernel sockets: a message, and bulk each way by descriptor.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use hugepages::{PageRunMut, PrivatePages};
use transport::net::{BufEvent, Call, Desc, Domain, Event, Heard, Host, Memory, NetHandle};
use transport::net::{RecvVec, Request, Sink, Sock, TmId, threaded};
use transport::node::{NoApp, NodeBuilder, Running};
use transport::wire::{Nid, netsock::Addr};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let (here, there) = (Machine::start([127, 0, 7, 3])?, Machine::start([127, 0, 7, 4])?);
    let to = here.ask(Call::EpCreate(0, here.tm, "inet:stream:127.0.7.4@7003".into()))?;
    let Heard::EndPoint(_, Ok(to)) = to else { return Err("no end-point".into()) };
    there.add(room()?, Request::MsgRecv { min_size: 4096, max_msgs: 1 })?;
    here.add(pages("a message")?, Request::MsgSend { to, len: 9 })?;
    println!("a message: {} bytes, {:?}", here.done()?.len, text(&there.done()?));
    let desc = there.add(room()?, Request::PassiveRecv)?.ok_or("no descriptor")?;
    here.add(pages("bulk from here")?, Request::ActiveSend { desc, len: 14 })?;
    println!("an active send: {} bytes, {:?}", here.done()?.len, text(&there.done()?));
    let desc = there.add(pages("bulk from there")?, Request::PassiveSend { len: 15 })?;
    here.add(room()?, Request::ActiveRecv { desc: desc.ok_or("no descriptor")? })?;
    let (fetched, served) = (text(&here.done()?), there.done()?);
    println!("an active receive: {} bytes, {fetched:?}", served.len);
    assert_eq!(fetched, "bulk from there");
    here.stop()?;
    there.stop()
}

/// A transfer machine on a node of its own.
struct Machine {
    node: Running,
    net: NetHandle,
    tm: TmId,
}

impl Machine {
    fn start(ip: [u8; 4]) -> Result<Machine> {
        let (at, (net, app)) = (SocketAddr::from((ip, 7003)), threaded(16));
        let sock = Sock::new(transport::netsock::Config::new(Addr::stream(at), 1))?;
        let host = Box::new(Host::new(Domain::new(sock, 0), app));
        let node = NodeBuilder::new(Nid::tcp(at.ip(), 0)).listen_at([at]);
        let node = node.start_with(Arc::default(), move || Ok((NoApp, vec![(at.port(), host as _)])))?;
        net.call(Call::Start(0, Addr::stream(at).to_string().into())).map_err(|_| "the ring is full")?;
        let Heard::Machine(_, Ok(tm)) = heard(&net) else { return Err("no machine".into()) };
        let Heard::Event(Event::State { .. }) = heard(&net) else { return Err("not started".into()) };
        Ok(Machine { node, net, tm })
    }

    fn ask(&self, call: Call) -> Result<Heard> {
        self.net.call(call).map_err(|_| "the ring is full")?;
        Ok(heard(&self.net))
    }

    /// Queues a buffer; gives the descriptor of a passive one.
    fn add(&self, mem: Memory, req: Request) -> Result<Option<Desc>> {
        let Heard::Registered(_, Ok(buffer)) = self.ask(Call::Register(0, mem))? else {
            return Err("not registered".into());
        };
        match self.ask(Call::Add(0, self.tm, buffer, req, None))? {
            Heard::Added(_, Ok(added)) => Ok(added.desc),
            other => Err(format!("{other:?}").into()),
        }
    }

    /// The next event of a buffer, which must be a good one.
    fn done(&self) -> Result<BufEvent> {
        match heard(&self.net) {
            Heard::Event(Event::Buffer(e)) if e.status == 0 => Ok(e),
            other => Err(format!("{other:?}").into()),
        }
    }

    fn stop(self) -> Result<()> {
        drop(self.net);
        self.node.stop()?;
        Ok(())
    }
}

/// The next result or event, waited for.
fn heard(net: &NetHandle) -> Heard {
    loop {
        if let Some(heard) = net.heard() {
            return heard;
        }
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}

fn room() -> Result<Memory> {
    Ok(Memory::Recv(Sink::Into(RecvVec::new([PageRunMut::new(Arc::new(PrivatePages), 4096)?]))))
}

fn pages(text: &str) -> Result<Memory> {
    let mut run = PageRunMut::new(Arc::new(PrivatePages), text.len())?;
    run.bytes_mut().copy_from_slice(text.as_bytes());
    Ok(Memory::Send([run.freeze().slice_all()].into_iter().collect()))
}

fn text(e: &BufEvent) -> String {
    let parts = e.buffer.iter().flat_map(|b| b.bytes(e.offset, e.len));
    parts.map(|p| String::from_utf8_lossy(p).into_owned()).collect()
}
