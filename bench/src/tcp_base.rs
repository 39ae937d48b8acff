//! Baselines of [`crate::tcp`], on one thread as well: a copy out of the cache, and the kernel's TCP over
//! loopback with the same messages.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::measure::{OneThread, thread_cpu};
use crate::stacks::{HEADER, MESSAGE, REPLY};

/// Both ends of the copy, in bytes: more than the caches of today's machines hold for one core.
const ARENA: usize = 128 << 20;
const AHEAD: u64 = 4;

/// Copies messages from one region to another.
pub(crate) struct Copies {
    from: Vec<u8>,
    to: Vec<u8>,
    at: usize,
}

impl Copies {
    pub(crate) fn new() -> Copies {
        // Filled: untouched pages would all be the one zero page.
        Copies { from: vec![1; ARENA], to: vec![2; ARENA], at: 0 }
    }

    pub(crate) fn run(&mut self, time: Duration) -> OneThread {
        let (start, cpu) = (Instant::now(), thread_cpu());
        let mut bytes = 0;
        while start.elapsed() < time {
            for _ in 0..8 {
                let r = self.at..self.at + MESSAGE;
                self.to[r.clone()].copy_from_slice(&self.from[r]);
                std::hint::black_box(&mut self.to);
                self.at = (self.at + MESSAGE) % ARENA;
                bytes += MESSAGE as u64;
            }
        }
        OneThread { bytes, cpu: thread_cpu() - cpu }
    }
}

/// One connection of the kernel's over loopback, both ends turned by this thread.
pub(crate) struct Loopback {
    a: TcpStream,
    b: TcpStream,
    message: Vec<u8>,
    into: Vec<u8>,
    /// Bytes written and read, of messages and of answers.
    out: u64,
    inn: u64,
    replies_out: u64,
    replies_in: u64,
}

/// Bytes moved, 0 when the socket would block.
fn moved(r: std::io::Result<usize>) -> Result<u64, String> {
    match r {
        Ok(0) => Err("the kernel's connection ended".into()),
        Ok(n) => Ok(n as u64),
        Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::Interrupted => Ok(0),
        Err(e) => Err(format!("the kernel's connection over loopback: {e}")),
    }
}

impl Loopback {
    pub(crate) fn new() -> Result<Loopback, String> {
        let open = || {
            let l = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let a = TcpStream::connect(l.local_addr()?)?;
            let (b, _) = l.accept()?;
            for s in [&a, &b] {
                s.set_nodelay(true)?;
                s.set_nonblocking(true)?;
            }
            Ok((a, b))
        };
        let (a, b) = open().map_err(|e: std::io::Error| format!("a connection over loopback: {e}"))?;
        let (message, into) = (vec![0x50; HEADER + MESSAGE], vec![0; 256 << 10]);
        Ok(Loopback { a, b, message, into, out: 0, inn: 0, replies_out: 0, replies_in: 0 })
    }

    fn round(&mut self) -> Result<(), String> {
        let len = self.message.len() as u64;
        let goal = (self.replies_in / REPLY as u64 + AHEAD) * len;
        while self.out < goal {
            let at = (self.out % len) as usize;
            let most = (goal - self.out).min(len - at as u64) as usize;
            let n = moved(self.a.write(&self.message[at..at + most]))?;
            if n == 0 {
                break;
            }
            self.out += n;
        }
        loop {
            let n = moved(self.b.read(&mut self.into))?;
            if n == 0 {
                break;
            }
            self.inn += n;
        }
        let goal = self.inn / len * REPLY as u64;
        while self.replies_out < goal {
            let most = (goal - self.replies_out).min(REPLY as u64) as usize;
            let n = moved(self.b.write(&self.message[..most]))?;
            if n == 0 {
                break;
            }
            self.replies_out += n;
        }
        if self.replies_in < self.replies_out {
            self.replies_in += moved(self.a.read(&mut self.into))?;
        }
        Ok(())
    }

    pub(crate) fn run(&mut self, time: Duration) -> Result<OneThread, String> {
        let (start, cpu, before) = (Instant::now(), thread_cpu(), self.inn);
        while start.elapsed() < time {
            for _ in 0..16 {
                self.round()?;
            }
        }
        Ok(OneThread { bytes: self.inn - before, cpu: thread_cpu() - cpu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_connection_carries_messages_and_answers() {
        let mut l = Loopback::new().unwrap();
        let goal = 8 * l.message.len() as u64;
        for _ in 0..1_000_000 {
            l.round().unwrap();
            if l.replies_in >= 8 * REPLY as u64 {
                break;
            }
        }
        assert!(l.inn >= goal && l.replies_in >= 8 * REPLY as u64, "{} {}", l.inn, l.replies_in);
    }
}
