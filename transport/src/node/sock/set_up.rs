//! Options of a connection's socket.

use std::io;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};
use tcpstack::USER_TIMEOUT;

use crate::lnd::Tcp;

/// Time after which the kernel gives up on a peer that acknowledges nothing of what was sent: as our own TCP does. Without it
/// that would be a quarter of an hour. With keep-alive the kernel goes by the same time, whatever the number of probes, so it is
/// that of the probes where they take less.
fn patience(tcp: &Tcp) -> Duration {
    let most = Duration::from_nanos(USER_TIMEOUT);
    let probes = tcp.keepalive().map(|(idle, every, count)| {
        Duration::from_secs(u64::from(idle) + u64::from(every) * u64::from(count))
    });
    probes.map_or(most, |p| p.min(most))
}

/// Tells the kernel what the configuration says of a connection (docs/protocol/socklnd.md §10).
pub(super) fn set_up(tcp: &Tcp, sock: &TcpStream, v6: bool) -> io::Result<()> {
    sock.set_nodelay(!tcp.nagle)?;
    let s = SockRef::from(sock);
    s.set_tcp_user_timeout(Some(patience(tcp)))?;
    if tcp.tx_buffer > 0 {
        s.set_send_buffer_size(tcp.tx_buffer as usize)?;
    }
    if tcp.rx_buffer > 0 {
        s.set_recv_buffer_size(tcp.rx_buffer as usize)?;
    }
    if let Some((idle, every, count)) = tcp.keepalive() {
        let secs = |n: u32| Duration::from_secs(n.into());
        let k =
            TcpKeepalive::new().with_time(secs(idle)).with_interval(secs(every)).with_retries(count.into());
        s.set_tcp_keepalive(&k)?;
    }
    // Where keep-alive is off there is no mark, as with the kernel's LND.
    match tcp.mark() {
        Some(t) if v6 => s.set_tclass_v6(t.into()),
        Some(t) => s.set_tos_v4(t.into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's options of a connection: user timeout, keep-alive with its times, type of service.
    fn told(tcp: &Tcp) -> (u64, Option<(u64, u64, u32)>, u32) {
        let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let sock = TcpStream::connect(l.local_addr().unwrap()).unwrap();
        set_up(tcp, &sock, false).unwrap();
        let s = SockRef::from(&sock);
        let secs = |d: Duration| d.as_secs();
        let keepalive = s.keepalive().unwrap().then(|| {
            let times = [s.tcp_keepalive_time(), s.tcp_keepalive_interval()].map(|t| secs(t.unwrap()));
            (times[0], times[1], s.tcp_keepalive_retries().unwrap())
        });
        (secs(s.tcp_user_timeout().unwrap().unwrap()), keepalive, s.tos_v4().unwrap())
    }

    /// A peer that has vanished with data under way was waited for for a quarter of an hour.
    #[test]
    fn the_kernel_gives_up_on_a_peer_as_our_own_tcp_does() {
        let tcp = Tcp { tos: Some(0x2f), ..Tcp::default() };
        assert_eq!(told(&tcp), (55, Some((30, 5, 5)), 0x2c));
        let slow = Tcp { keepalive_idle: 7200, ..tcp };
        assert_eq!(told(&slow), (100, Some((7200, 5, 5)), 0x2c));
        // The type of service goes with keep-alive (docs/tunables.md).
        let off = Tcp { keepalive_count: 0, ..tcp };
        assert_eq!(told(&off), (100, None, 0));
    }
}
