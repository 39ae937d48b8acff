//! The application's side of a script: calls, and what they have to come to.

use std::sync::Arc;

use hugepages::{PageRunMut, PrivatePages};
use tcpstack::{Dial, FlowId, HDR_MAX, Listen};

use super::conn::pattern;
use super::lang::{Call, Range};
use super::run::Run;

impl Run {
    pub(crate) fn call(&mut self, i: usize, c: &Call) -> Result<(), String> {
        let label = if self.conns.len() > 1 { format!("[{}] ", self.conns[i].label) } else { String::new() };
        let text = match c {
            Call::Listen { port, .. } => format!("listen on {port}"),
            Call::Dial { .. } => "dial".into(),
            Call::Push { bytes, .. } => format!("push {bytes}"),
            Call::Read { bytes, keep, .. } => format!("{} {bytes}", if *keep { "hold" } else { "read" }),
            Call::Credit(n) => format!("credit {n}"),
            Call::Release => "release".into(),
            Call::Close(how) => format!("close {how:?}").to_lowercase(),
        };
        self.log(self.base, &format!("{label}{text}"));
        match c {
            Call::Listen { port, backlog } => {
                let l = Listen { addr: self.family.host(1), port: *port, backlog: *backlog };
                self.w.s.listen(l).map_err(|e| e.to_string())?;
            }
            Call::Dial { fails } => self.dial(i, fails.as_deref())?,
            Call::Push { bytes, copied, fails } => self.push(i, *bytes, *copied, fails.as_deref())?,
            Call::Read { bytes, text, keep } => self.read(i, *bytes, text.as_deref(), *keep)?,
            Call::Credit(n) => {
                let f = self.flow(i)?;
                self.w.s.credit(f, *n);
            }
            Call::Release => self.conns[i].kept.clear(),
            Call::Close(how) => {
                let f = self.flow(i)?;
                self.w.s.close(f, *how);
            }
        }
        self.w.settle()
    }

    fn flow(&self, i: usize) -> Result<FlowId, String> {
        self.conns[i].flow.ok_or_else(|| "this connection is not open, and was not dialled".into())
    }

    fn dial(&mut self, i: usize, fails: Option<&str>) -> Result<(), String> {
        let c = &mut self.conns[i];
        // As it is used here, a dialled connection goes from our 1023 to the peer's 988, unless a line said else.
        if (c.port, c.ours) == (1023 - i as u16, 988) {
            (c.port, c.ours) = (988, 1023 - i as u16);
        }
        let d = Dial { local: (self.family.host(1), c.ours).into(), remote: (c.addr, c.port).into() };
        let r = self.w.s.dial(self.w.now, d);
        if let (Ok(f), None) = (&r, fails) {
            self.conns[i].flow = Some(*f);
        }
        outcome(r.map(|_| ()), fails)
    }

    fn push(&mut self, i: usize, bytes: u32, copied: bool, fails: Option<&str>) -> Result<(), String> {
        let f = self.flow(i)?;
        let from = self.conns[i].pushed;
        let data: Vec<u8> = (from..from + u64::from(bytes)).map(|o| pattern(o, true)).collect();
        let r = if copied {
            data.chunks(HDR_MAX).try_for_each(|c| self.w.s.push(f, c, &[]).map(|_| ()))
        } else {
            let mut run =
                PageRunMut::new(Arc::new(PrivatePages), data.len().max(1)).map_err(|e| e.to_string())?;
            run.bytes_mut()[..data.len()].copy_from_slice(&data);
            let slice = run.freeze().slice(0, bytes).ok_or("a slice of the page")?;
            let lent = self.w.s.slab().lend(slice, 0).map_err(|e| e.to_string())?;
            self.w.s.push(f, &[], &[lent]).map(|_| ())
        };
        if r.is_ok() {
            self.conns[i].pushed += u64::from(bytes);
        }
        self.w.s.slab().reap(|_, _| ());
        outcome(r, fails)
    }

    fn read(&mut self, i: usize, bytes: u32, text: Option<&[u8]>, keep: bool) -> Result<(), String> {
        let f = self.flow(i)?;
        let c = &mut self.conns[i];
        if bytes == 0 {
            let more = c.left.pop_front().or_else(|| self.w.s.next(f));
            return more
                .map_or(Ok(()), |x| Err(format!("nothing was expected, {} bytes are there", x.len())));
        }
        let mut n = 0;
        while n < bytes {
            let Some(mut x) = c.left.pop_front().or_else(|| self.w.s.next(f)) else {
                return Err(format!("only {n} bytes are there"));
            };
            let part = x.split_to(bytes - n);
            for (k, b) in part.bytes().iter().enumerate() {
                let w = text.and_then(|t| t.get(n as usize + k).copied());
                let w = w.unwrap_or_else(|| pattern(c.read + k as u64, false));
                if *b != w {
                    return Err(format!(
                        "byte {} of the stream is {b:#04x}, not {w:#04x}",
                        c.read + k as u64
                    ));
                }
            }
            n += part.len();
            c.read += u64::from(part.len());
            if keep {
                c.kept.push(part);
            }
            if !x.is_empty() {
                c.left.push_front(x);
            }
        }
        if !keep {
            self.w.s.credit(f, bytes);
        }
        Ok(())
    }

    pub(crate) fn count(&mut self, i: usize, flow: bool, name: &str, want: &Range) -> Result<(), String> {
        let (mut got, mut names) = (None, vec![]);
        let mut look = |n: &'static str, v: u64| {
            names.push(n);
            if n == name {
                got = Some(v);
            }
        };
        let s = &self.w.s;
        if flow {
            let c =
                self.conns[i].flow.and_then(|f| s.flow_counters(f)).ok_or("the connection is not there")?;
            c.each(&mut look);
        } else {
            s.counters().each(&mut look);
            look("flows", u64::from(s.flows()));
            look("time_waits", s.time_waits() as u64);
            look("rx_buffers", s.port().rx_out() as u64);
            s.slab().reap(|_, _| ());
            look("lent_pages", s.slab().out());
        }
        let got = got.ok_or_else(|| format!("no counter {name}; there are {}", names.join(", ")))?;
        self.log(self.base, &format!("{} {name} {got}", if flow { "flow" } else { "count" }));
        if want.has(got) { Ok(()) } else { Err(format!("{name} is {got}, expected {want}")) }
    }
}

fn outcome<E: std::fmt::Debug + std::fmt::Display>(
    r: Result<(), E>,
    fails: Option<&str>,
) -> Result<(), String> {
    match (r, fails) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(f)) => Err(format!("it worked, where `{f}` was expected")),
        (Err(e), Some(f)) if format!("{e:?}").to_lowercase().starts_with(f) => Ok(()),
        (Err(e), _) => Err(format!("{e} ({e:?})")),
    }
}
