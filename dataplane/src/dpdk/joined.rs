//! Frames that the kernel joins before an AF_PACKET port sees them: looked for before the port is opened.

use std::fs;
use std::path::Path;

use super::spec::PortSpec;
use super::trouble::cut_remedy;

/// State of one feature in the kernel's `ethtool` interface (linux/ethtool.h).
const GDRVINFO: u32 = 0x03;
const GTSO: u32 = 0x1e;
const GFLAGS: u32 = 0x25;
const GGRO: u32 = 0x2b;
const FLAG_LRO: u32 = 1 << 15;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// A feature of a kernel interface: `None` where it cannot be known.
fn feature(iface: &str, cmd: u32) -> Option<u32> {
    ask(iface, [cmd, 0]).map(|v| v[1])
}

/// Name of the kernel's driver of an interface.
fn driver(iface: &str) -> Option<String> {
    // An ethtool_drvinfo: the command, the name in 32 bytes, and others that come to 196 bytes in all.
    let mut info = [0u32; 49];
    info[0] = GDRVINFO;
    let info = ask(iface, info)?;
    let name = info[1..9].iter().flat_map(|w| w.to_ne_bytes()).take_while(|b| *b != 0).collect();
    String::from_utf8(name).ok()
}

/// Asks the kernel about `iface`; the question is as long as its answer, and the answer is in its place.
fn ask<const N: usize>(iface: &str, mut value: [u32; N]) -> Option<[u32; N]> {
    if iface.len() >= libc::IFNAMSIZ {
        return None;
    }
    // SAFETY: plain data, all-zero valid; name and pointer are filled in below.
    let mut req: libc::ifreq = unsafe { std::mem::zeroed() };
    req.ifr_name.iter_mut().zip(iface.bytes()).for_each(|(to, b)| *to = b as libc::c_char);
    req.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: a socket of our own; the request points at a structure of the length that its
    // command has, which outlives the call.
    let r = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return None;
        }
        let r = libc::ioctl(fd, SIOCETHTOOL, &mut req);
        libc::close(fd);
        r
    };
    (r == 0).then_some(value)
}

/// The interface that `iface` is linked with, where it can be seen: the other end of a veth is.
fn linked(net: &Path, iface: &str) -> Option<String> {
    let read = |d: &Path, f: &str| fs::read_to_string(d.join(f)).ok()?.trim().parse::<u32>().ok();
    let mine = net.join(iface);
    let (index, link) = (read(&mine, "ifindex")?, read(&mine, "iflink")?);
    let mut all = fs::read_dir(net).ok()?.flatten();
    let named = all.find(|e| {
        let d = e.path();
        d != mine && (read(&d, "ifindex"), read(&d, "iflink")) == (Some(link), Some(index))
    });
    named.map(|e| e.file_name().to_string_lossy().into_owned())
}

/// Remedies that keep the kernel from joining frames below an AF_PACKET port, as commands where they can be told; none where it
/// joins none.
fn lines(root: &Path, iface: &str) -> Vec<String> {
    let on = |dev: &str, cmd, mask| feature(dev, cmd).is_some_and(|v| v & mask != 0);
    let mut lines = Vec::new();
    if on(iface, GGRO, 1) || on(iface, GFLAGS, FLAG_LRO) {
        lines.push(format!("ethtool -K {iface} gro off lro off"));
    }
    if driver(iface).is_some_and(|d| d == "veth") {
        // Numbers of another namespace may be those of an interface here.
        let peer = linked(&root.join("sys/class/net"), iface);
        match peer.filter(|p| driver(p).is_some_and(|d| d == "veth")) {
            Some(peer) if feature(&peer, GTSO) == Some(0) => {}
            Some(peer) => lines.push(format!("ethtool -K {peer} tso off")),
            None => lines.push("where the other end of this veth is: ethtool -K PEER tso off".into()),
        }
    }
    lines
}

/// Offloads that a user should turn off below an AF_PACKET port.
pub(crate) fn warning(root: &Path, spec: &PortSpec) -> Option<String> {
    let iface = af_packet(spec)?;
    let lines = lines(root, iface);
    (!lines.is_empty()).then(|| {
        format!(
            "port {}: the kernel joins frames before {iface} hands them over, and what is longer than the ring's frames is cut and \
             dropped (counter port_rx_cut); {}",
            spec.port_name(),
            lines.join("; ")
        )
    })
}

fn af_packet(spec: &PortSpec) -> Option<&str> {
    spec.kernel_iface().filter(|_| spec.port_name().starts_with("net_af_packet"))
}

impl PortSpec {
    /// The remedy where frames come cut (counter `port_rx_cut`); `None` for a port that is not over a kernel's interface.
    pub fn cut_remedy(&self) -> Option<String> {
        let lines = lines(Path::new("/"), af_packet(self)?);
        Some(if lines.is_empty() { cut_remedy(self.port_name()) } else { lines.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_19_the_other_end_of_a_veth_is_named_where_it_can_be_seen() {
        let d = tempfile::tempdir().unwrap();
        let net = d.path().join("sys/class/net");
        let dev = |name: &str, index: u32, link: u32| {
            let p = net.join(name);
            fs::create_dir_all(&p).unwrap();
            fs::write(p.join("ifindex"), format!("{index}\n")).unwrap();
            fs::write(p.join("iflink"), format!("{link}\n")).unwrap();
        };
        dev("eth0", 2, 2);
        dev("va", 7, 8);
        dev("vb", 8, 7);
        dev("away", 9, 5);
        dev("same", 4, 4);
        dev("eth0.5", 10, 2);
        assert_eq!(linked(&net, "va"), Some("vb".into()));
        for none in ["eth0", "away", "same", "eth0.5", "nosuch"] {
            assert_eq!(linked(&net, none), None, "{none}");
        }
        let tap: PortSpec = "net_tap0,remote=va".parse().unwrap();
        assert_eq!((warning(d.path(), &tap), tap.cut_remedy()), (None, None));
        let lo: PortSpec = "net_af_packet0,iface=nosuch0".parse().unwrap();
        assert!(lo.cut_remedy().unwrap().contains("ethtool -K PEER tso off"));
    }

    #[test]
    fn the_kernel_is_asked_about_an_interface_that_every_machine_has() {
        // Loopback has no driver to name and joins nothing that it receives from outside; it has TSO.
        assert_eq!((feature("lo", GTSO), feature("nosuch0", GTSO)), (Some(1), None));
        assert_eq!(feature("a-name-that-is-too-long", GTSO), None);
    }
}
