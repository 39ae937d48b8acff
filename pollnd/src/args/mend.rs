//! Arguments of `pollnd doctor`.

use clap::{Args, ValueEnum};

use super::common::TextOut;
use super::values::number;

/// Exit codes of `doctor`, and examples.
const AFTER: &str = "\
Examples:
  pollnd doctor                                     what there is, and what is missing
  pollnd doctor --fix --port 0000:03:00.0           what would be done for a node on that port
  pollnd doctor --fix --port 0000:03:00.0 --yes     does it
  pollnd doctor --undo                              takes it back

What was done is recorded in /var/lib/pollnd/fix.json (STATE_DIRECTORY names another folder) before it is done.

Exit code: 0 all is well; 1 something is missing without which nodes of this program cannot do all of their work;
3 warnings only: nodes run, but slower or with a risk; 2 is a wrong command line, as everywhere.
With --fix: 0 nothing is to be done, or all of it was; 4 something is to be done (--yes does it); 1 a step failed, and
what was done is taken back; 2 it may not be done, and nothing was.
With --undo: 0 all is taken back; 3 something was left, since it is somebody else's by now; 1 something cannot be taken
back yet.";

/// Driver for user space.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriverArg {
    /// vfio-pci where an IOMMU has the device, else uio_pci_generic or igb_uio, whichever there is.
    Auto,
    /// Behind an IOMMU, which fences the device's DMA.
    VfioPci,
    /// Without one.
    #[value(name = "uio_pci_generic")]
    UioPciGeneric,
}

/// `pollnd doctor`.
#[derive(Args, Debug, Clone)]
#[command(after_help = AFTER)]
pub(crate) struct DoctorArgs {
    /// The form of the result.
    #[command(flatten)]
    pub(crate) out: TextOut,
    /// Prints what makes the machine ready for a node on a port, as steps with their commands: huge pages on the port's
    /// NUMA node, the port's driver, a user's limits. Changes nothing without --yes.
    #[arg(long)]
    pub(crate) fix: bool,
    /// Does it, as root: all of it, or nothing.
    #[arg(long, requires = "fix")]
    pub(crate) yes: bool,
    /// Takes back what --fix --yes did, the last first.
    #[arg(long, conflicts_with = "fix")]
    pub(crate) undo: bool,
    /// A port to take from the kernel and give to DPDK: a PCI address (0000:03:00.0). May be given several times.
    #[arg(long, value_name = "ADDRESS", requires = "fix", value_parser = pci)]
    pub(crate) port: Vec<String>,
    /// The driver that ports are given to.
    #[arg(long, value_enum, default_value_t = DriverArg::Auto, requires = "port")]
    pub(crate) driver: DriverArg,
    /// Free huge pages of 2 MiB for each port, in MiB. Default: what a node of one lcore takes.
    #[arg(long, value_name = "MIB", requires = "fix", value_parser = number::<u64>(1..=1 << 30))]
    pub(crate) huge_pages: Option<u64>,
    /// User whose processes may lock memory and have many descriptors. Default: who called sudo.
    #[arg(long, value_name = "NAME", requires = "fix", value_parser = user)]
    pub(crate) user: Option<String>,
}

/// A PCI address, with its domain.
fn pci(s: &str) -> Result<String, String> {
    let hex = |t: &str, len: usize| t.len() == len && t.bytes().all(|b| b.is_ascii_hexdigit());
    let full = if s.matches(':').count() == 1 { format!("0000:{s}") } else { s.to_owned() };
    let parts: Vec<_> = full.split([':', '.']).collect();
    let good = matches!(parts[..], [domain, bus, device, function] if (4..=8).contains(&domain.len()) && hex(domain, domain.len())
        && hex(bus, 2) && hex(device, 2) && matches!(function.as_bytes(), [b'0'..=b'7']));
    let in_order = full.rfind(':') < full.find('.');
    if good && in_order {
        return Ok(full.to_ascii_lowercase());
    }
    Err("it is no PCI address, such as 0000:03:00.0 (`pollnd doctor` lists the ports)".into())
}

/// A user's name, as login programs have it.
fn user(s: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-$".contains(&b);
    if !s.is_empty() && s.len() <= 32 && s.bytes().all(good) && !s.starts_with('-') {
        return Ok(s.to_owned());
    }
    Err("it is no name of a user: letters, digits and ._-$, at most 32".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_users() {
        assert_eq!(pci("0000:3B:00.1"), Ok("0000:3b:00.1".into()));
        assert_eq!(pci("03:00.0"), Ok("0000:03:00.0".into()));
        assert_eq!(pci("10000:e1:00.0"), Ok("10000:e1:00.0".into()));
        for bad in [
            "",
            "eth0",
            "0000:03:00.8",
            "0000:03:00",
            "0000:03.00:0",
            "../../x",
            "0000:03:00.00",
            "x:03:00.0",
        ] {
            assert!(pci(bad).is_err_and(|e| e.contains("0000:03:00.0")), "{bad}");
        }
        assert_eq!(user("motr"), Ok("motr".into()));
        for bad in ["", "a b", "a\nroot", "*", "@wheel", "-x", "a#"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }
}
