//! Arguments of the EAL, made from a typed configuration.

use super::eal_error::EalError;

/// Use of huge pages for the EAL's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Huge {
    /// Huge pages when enough of them are free, else ordinary pages.
    #[default]
    Auto,
    /// Ordinary pages (`--no-huge`). No physical device can be used.
    Off,
    /// Huge pages, or an error that says how to reserve them.
    On,
}

/// Configuration of the EAL.
///
/// Arguments in `raw` (what a command line has after `--`) go last and win: where one of them decides something
/// that a typed field decides too, the typed field's argument is left out, since the EAL refuses most repetitions.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Source of the EAL's memory.
    pub huge: Huge,
    /// Memory to set aside, in MiB: mempools, page runs, rings.
    pub mem_mb: u32,
    /// Leave PCI devices alone. Virtual ports need none, and I/O addresses are then virtual ones.
    pub no_pci: bool,
    /// PCI addresses to use (`-a`); empty means every device that is bound to a user-space driver.
    pub allow: Vec<String>,
    /// Virtual devices to create at start (`--vdev`).
    pub vdevs: Vec<String>,
    /// Cores that the EAL's main lcore (the control thread) may run on; empty means all that the caller may use.
    pub main_cores: Vec<usize>,
    /// Name of the run-time folder (telemetry socket), or `None` for one of this process alone.
    pub file_prefix: Option<String>,
    /// Raw EAL arguments.
    pub raw: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> EalConfig {
        EalConfig {
            huge: Huge::Auto,
            mem_mb: 512,
            no_pci: false,
            allow: Vec::new(),
            vdevs: Vec::new(),
            main_cores: Vec::new(),
            file_prefix: None,
            raw: Vec::new(),
        }
    }
}

/// State of the machine when the EAL starts.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Huge memory that this process can have, in MiB.
    pub huge_free_mb: u64,
    /// Reason why that is less than what is free on the machine.
    pub huge_limits: Vec<String>,
    /// Reason why the run-time folder cannot be made, if it cannot.
    pub no_run_dir: Option<String>,
    /// Cores that the calling thread may use.
    pub cores: Vec<usize>,
    /// Process id.
    pub pid: u32,
}

/// Arguments that settle what a typed field would have said.
const MEMORY_MODE: [&str; 6] =
    ["--in-memory", "--no-huge", "--huge-dir", "--huge-unlink", "--single-file-segments", "--legacy-mem"];
const MEMORY_SIZE: [&str; 3] = ["-m", "--socket-mem", "--memory"];
const LCORES: [&str; 6] = ["-l", "-c", "-s", "-S", "--lcores", "--main-lcore"];

fn given(raw: &[String], names: &[&str]) -> bool {
    raw.iter().any(|a| {
        names.iter().any(|n| match a.strip_prefix(n) {
            Some("") => true,
            Some(rest) => rest.starts_with('=') || !n.starts_with("--"),
            None => false,
        })
    })
}

/// The value of `--name VALUE` or `--name=VALUE`.
fn value<'a>(raw: &'a [String], name: &str) -> Option<&'a str> {
    raw.iter().enumerate().find_map(|(i, a)| match a.strip_prefix(name) {
        Some("") => raw.get(i + 1).map(String::as_str),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    })
}

impl EalConfig {
    /// The argument list, program name first, and whether it asks for huge pages.
    ///
    /// # Errors
    /// [`EalError::Secondary`] for a secondary process, [`EalError::HugeShort`] when huge pages are demanded and
    /// there are not enough, [`EalError::Nul`] for an argument with a zero byte.
    pub(crate) fn args(&self, m: &Host) -> Result<(Vec<String>, bool), EalError> {
        if let Some(kind) = value(&self.raw, "--proc-type").filter(|k| *k != "primary") {
            return Err(EalError::Secondary(kind.to_owned()));
        }
        let mut a = vec!["pollnd".to_owned()];
        let mut push = |s: &[&str]| a.extend(s.iter().map(|s| (*s).to_owned()));
        let huge = if given(&self.raw, &MEMORY_MODE) {
            !given(&self.raw, &["--no-huge"])
        } else {
            let enough = m.huge_free_mb >= u64::from(self.mem_mb);
            match self.huge {
                Huge::On if !enough => {
                    let limits = m.huge_limits.iter().map(|l| format!("; {l}")).collect();
                    return Err(EalError::HugeShort {
                        want_mb: self.mem_mb,
                        free_mb: m.huge_free_mb,
                        limits,
                    });
                }
                Huge::On => true,
                Huge::Off => false,
                Huge::Auto => enough,
            }
        };
        if !given(&self.raw, &MEMORY_MODE) {
            if huge {
                // One descriptor for all memory: vhost and virtio_user links stay down without it.
                push(&["--in-memory", "--single-file-segments"]);
            } else {
                push(&["--no-huge"]);
            }
        }
        if !given(&self.raw, &MEMORY_SIZE) {
            // Of ordinary pages twice as much, which is not taken before it is written to: no element of a mempool crosses a
            // page there, so that up to half of each stays free.
            let mb = if huge { self.mem_mb } else { self.mem_mb.saturating_mul(2) };
            push(&["-m", &mb.to_string()]);
        }
        if !given(&self.raw, &LCORES) {
            let cores = if self.main_cores.is_empty() { &m.cores } else { &self.main_cores };
            let list: Vec<_> = cores.iter().map(usize::to_string).collect();
            push(&["--lcores", &format!("0@({})", list.join(","))]);
        }
        if !given(&self.raw, &["--file-prefix"]) {
            let own = format!("pollnd-{}", m.pid);
            push(&["--file-prefix", self.file_prefix.as_deref().unwrap_or(&own)]);
        }
        if m.no_run_dir.is_some() {
            // Both live in the run-time folder, and a failure to make it ends the start without these.
            for a in ["--no-shconf", "--no-telemetry"] {
                if !given(&self.raw, &[a]) {
                    push(&[a]);
                }
            }
        }
        if self.no_pci && !given(&self.raw, &["--no-pci"]) {
            push(&["--no-pci"]);
        }
        if self.no_pci && !given(&self.raw, &["--iova-mode"]) {
            // With no device behind an IOMMU to ask, the EAL as root would choose physical addresses, and page
            // runs would be contiguous in 2 MiB pieces only.
            push(&["--iova-mode", "va"]);
        }
        for d in &self.allow {
            push(&["-a", d]);
        }
        for v in &self.vdevs {
            push(&["--vdev", v]);
        }
        if !given(&self.raw, &["--log-level"]) {
            push(&["--log-level", "*:warning"]);
        }
        a.extend(self.raw.iter().cloned());
        if let Some(bad) = a.iter().find(|s| s.contains('\0')) {
            return Err(EalError::Nul(bad.replace('\0', "\\0")));
        }
        Ok((a, huge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(huge_free_mb: u64) -> Host {
        Host { huge_free_mb, huge_limits: Vec::new(), no_run_dir: None, cores: vec![0, 1], pid: 7 }
    }

    fn line(c: &EalConfig, m: &Host) -> String {
        c.args(m).unwrap().0.join(" ")
    }

    fn raw(s: &str) -> Vec<String> {
        s.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn huge_pages_are_taken_when_enough_are_free_and_demanded_when_on() {
        let c = EalConfig { no_pci: true, ..EalConfig::default() };
        assert_eq!(
            line(&c, &machine(512)),
            "pollnd --in-memory --single-file-segments -m 512 --lcores 0@(0,1) --file-prefix pollnd-7 --no-pci \
             --iova-mode va --log-level *:warning"
        );
        assert!(line(&c, &machine(511)).starts_with("pollnd --no-huge -m 1024"));
        assert!(line(&EalConfig { huge: Huge::Off, ..c.clone() }, &machine(4096)).contains("--no-huge"));
        let e = EalConfig { huge: Huge::On, ..c }.args(&machine(100)).unwrap_err().to_string();
        assert!(e.contains("512 MiB") && e.contains("100 MiB") && e.contains("nr_hugepages"), "{e}");
    }

    #[test]
    fn report_8_what_limits_huge_pages_is_named() {
        let limited = Host { huge_limits: vec!["hugetlb.2MB.max allows 0 MiB more".into()], ..machine(0) };
        let e = EalConfig { huge: Huge::On, ..EalConfig::default() }.args(&limited).unwrap_err().to_string();
        assert!(e.contains("hugetlb.2MB.max allows 0 MiB more"), "{e}");
        assert!(line(&EalConfig::default(), &limited).contains("--no-huge"));
    }

    #[test]
    fn report_10_without_a_run_time_folder_the_eal_is_told_to_do_without() {
        let m = Host { no_run_dir: Some("read-only".into()), ..machine(0) };
        assert!(line(&EalConfig::default(), &m).contains(" --no-shconf --no-telemetry "));
        let c = EalConfig { raw: raw("--no-telemetry"), ..EalConfig::default() };
        assert_eq!(line(&c, &m).matches("--no-telemetry").count(), 1);
        assert!(!line(&EalConfig::default(), &machine(0)).contains("--no-shconf"));
    }

    #[test]
    fn raw_arguments_win_over_typed_ones() {
        let c = EalConfig {
            raw: raw("--no-huge -m256 -l 1 --file-prefix=x --log-level=8"),
            ..EalConfig::default()
        };
        assert_eq!(line(&c, &machine(4096)), "pollnd --no-huge -m256 -l 1 --file-prefix=x --log-level=8");
        let c = EalConfig { vdevs: vec!["net_null0".into()], allow: vec!["0000:03:00.0".into()], ..c };
        assert!(line(&c, &machine(0)).contains("-a 0000:03:00.0 --vdev net_null0 --no-huge"));
    }

    #[test]
    fn a_secondary_process_is_refused_in_both_spellings() {
        for r in ["--proc-type=secondary", "--proc-type secondary", "--proc-type auto"] {
            let e = EalConfig { raw: raw(r), ..EalConfig::default() }.args(&machine(0)).unwrap_err();
            assert!(matches!(e, EalError::Secondary(_)), "{r}");
        }
        assert!(
            EalConfig { raw: raw("--proc-type=primary"), ..EalConfig::default() }.args(&machine(0)).is_ok()
        );
    }

    #[test]
    fn a_zero_byte_is_named() {
        let e = EalConfig { raw: vec!["a\0b".into()], ..EalConfig::default() }.args(&machine(0)).unwrap_err();
        assert!(e.to_string().contains("a\\0b"), "{e}");
    }
}
