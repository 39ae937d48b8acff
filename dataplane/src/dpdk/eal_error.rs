//! Reasons why the EAL does not start, and why it is not stopped.

/// Errors of starting the EAL.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// A second start in one process.
    #[error(
        "the EAL was started in this process before, and DPDK allows one start: keep the first handle, or run a new process"
    )]
    AlreadyStarted,
    /// A secondary process.
    #[error(
        "--proc-type={0} is refused: pages are lent with addresses of one process; run a node as a primary process"
    )]
    Secondary(String),
    /// Huge pages were demanded and are not there.
    #[error("{want_mb} MiB of huge pages are wanted and {free_mb} MiB are free{limits}; as root: echo {} > /proc/sys/vm/nr_hugepages; virtual ports, and those bound to vfio-pci, can do with ordinary pages (-- --no-huge)", want_mb.div_ceil(2))]
    HugeShort {
        /// Memory wanted, MiB.
        want_mb: u32,
        /// Huge memory that this process can have, MiB.
        free_mb: u64,
        /// Limits that keep other free pages from it.
        limits: String,
    },
    /// An argument has a zero byte.
    #[error("the EAL argument \"{0}\" has a zero byte: remove it")]
    Nul(String),
    /// Words that are no options: the EAL passes over them.
    #[error(
        "the EAL takes options only, and would pass over {0}: correct them (on a command line they stand behind --)"
    )]
    Words(String),
    /// `rte_eal_init` failed.
    #[error("the EAL does not start ({what}); {remedy}\narguments: {args}\n{log}")]
    Init {
        /// DPDK's name for the error.
        what: String,
        /// The remedy.
        remedy: &'static str,
        /// The argument list.
        args: String,
        /// Output of the EAL meanwhile.
        log: String,
    },
}

/// Errors of stopping the EAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CleanupError {
    /// Memory, ports or threads of the EAL are still in use.
    #[error(
        "the EAL cannot be stopped yet: {runs} page runs, {pools} mempools, {ports} ports and {lcores} lcores are in use; close the ports, drop the arenas and lent buffers first"
    )]
    InUse {
        /// Page runs of [`super::EalBacking`] that are out.
        runs: usize,
        /// Mempools.
        pools: usize,
        /// Ports that are open.
        ports: usize,
        /// Threads that poll.
        lcores: usize,
    },
    /// It was stopped before.
    #[error("the EAL was stopped before")]
    Stopped,
    /// DPDK reports an error.
    #[error("rte_eal_cleanup failed with code {0}: exit the process to free its memory")]
    Failed(i32),
}
