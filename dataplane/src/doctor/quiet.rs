//! CPUs that the kernel keeps quiet for polling threads: isolated ones, ones without a timer tick, and interrupts.

use std::path::Path;

use super::{Finding, Severity, names, parse_cpu_list, text};

/// Files in which irqbalance is told CPUs to leave alone.
const IRQBALANCE: [&str; 2] = ["etc/default/irqbalance", "etc/sysconfig/irqbalance"];

/// CPUs of a file of `/sys/devices/system/cpu`.
fn cpus(root: &Path, file: &str) -> Vec<usize> {
    parse_cpu_list(&text(&root.join("sys/devices/system/cpu").join(file)).unwrap_or_default())
}

/// In the kernel's list format: `0-3,8`.
fn list(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &c in cpus {
        match parts.last_mut() {
            Some(p) if p.1 + 1 == c => p.1 = c,
            _ => parts.push((c, c)),
        }
    }
    let one = |(a, b): &(usize, usize)| if a == b { format!("{a}") } else { format!("{a}-{b}") };
    parts.iter().map(one).collect::<Vec<_>>().join(",")
}

/// `CPU 3`, `CPUs 3-5`.
fn named(cpus: &[usize]) -> String {
    format!("{} {}", if cpus.len() == 1 { "CPU" } else { "CPUs" }, list(cpus))
}

fn without(of: &[usize], those: &[usize]) -> Vec<usize> {
    of.iter().copied().filter(|c| !those.contains(c)).collect()
}

/// Isolated CPUs, against those that a node polls unless told otherwise.
fn isolated(root: &Path, chosen: &[usize]) -> Finding {
    let (isolated, tickless) = (cpus(root, "isolated"), cpus(root, "nohz_full"));
    let subject = "isolated cores";
    if isolated.is_empty() {
        return Finding::good(
            subject,
            "none: lcores share their CPUs with what the scheduler puts there (isolcpus= and nohz_full= on the kernel's \
             command line keep it off)",
        );
    }
    let shared = without(chosen, &isolated);
    if !shared.is_empty() {
        return Finding::bad(
            Severity::Warning,
            subject,
            format!("{}, and a node of one lcore polls {}", named(&isolated), named(&shared)),
            format!("give the node the isolated ones: --cpu-pattern \"0[{}]\"", list(&isolated)),
        );
    }
    let ticking = without(&isolated, &tickless);
    if ticking.is_empty() {
        return Finding::good(subject, format!("{}, without a timer tick", named(&isolated)));
    }
    Finding::bad(
        Severity::Warning,
        subject,
        format!(
            "{}; {} not in nohz_full: the timer stops an lcore there at each tick",
            named(&isolated),
            list(&ticking)
        ),
        format!("nohz_full={} on the kernel's command line", list(&isolated)),
    )
}

/// CPUs in a mask such as `ff,00000003`.
fn mask(hex: &str) -> Vec<usize> {
    let digits = hex.trim().trim_start_matches("0x").chars().filter(|c| *c != ',').rev();
    let of = |(i, c): (usize, char)| {
        let d = c.to_digit(16).unwrap_or(0);
        (0..4).filter(move |b| d >> b & 1 == 1).map(move |b| 4 * i + b)
    };
    digits.enumerate().flat_map(of).collect()
}

/// CPUs that irqbalance is told to leave alone.
fn banned(root: &Path) -> Vec<usize> {
    let mut all = Vec::new();
    for file in IRQBALANCE {
        for line in text(&root.join(file)).unwrap_or_default().lines() {
            let Some((key, value)) = line.trim().split_once('=') else { continue };
            let value = value.trim().trim_matches(['"', '\'']);
            match key.trim().trim_start_matches("export ") {
                "IRQBALANCE_BANNED_CPULIST" => all.extend(parse_cpu_list(value)),
                "IRQBALANCE_BANNED_CPUS" => all.extend(mask(value)),
                _ => {}
            }
        }
    }
    all
}

/// The process of irqbalance, where one runs.
fn irqbalance(root: &Path) -> Option<u32> {
    let comm = |pid: &u32| text(&root.join(format!("proc/{pid}/comm")));
    let pids = names(&root.join("proc")).into_iter().filter_map(|n| n.parse().ok());
    pids.into_iter().find(|pid| comm(pid).is_some_and(|c| c == "irqbalance"))
}

/// Interrupts that irqbalance moves to the CPUs of lcores. Isolated ones it leaves alone by itself.
fn interrupts(root: &Path, chosen: &[usize]) -> Option<Finding> {
    let pid = irqbalance(root)?;
    let spared = [cpus(root, "isolated"), cpus(root, "nohz_full"), banned(root)].concat();
    let hit = without(chosen, &spared);
    if hit.is_empty() {
        return Some(Finding::good(
            "irqbalance",
            format!("runs (process {pid}), and leaves lcores' CPUs alone"),
        ));
    }
    let file = IRQBALANCE.iter().find(|f| root.join(f).exists()).unwrap_or(&IRQBALANCE[0]);
    Some(Finding::bad(
        Severity::Warning,
        "irqbalance",
        format!(
            "runs (process {pid}), and moves interrupts to {}, which a node of one lcore polls",
            named(&hit)
        ),
        format!(
            "IRQBALANCE_BANNED_CPULIST={} in /{file}, then systemctl restart irqbalance; so for each lcore's CPU",
            list(&hit)
        ),
    ))
}

/// Findings on the quiet of `chosen`, the CPUs that a node of one lcore polls unless told otherwise.
pub(super) fn findings(root: &Path, chosen: &[usize], out: &mut Vec<Finding>) {
    out.push(isolated(root, chosen));
    out.extend(interrupts(root, chosen));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings on a tree with these files.
    fn told(files: &[(&str, &str)], chosen: &[usize]) -> String {
        let d = tempfile::tempdir().unwrap();
        for (p, s) in files {
            let p = d.path().join(p);
            std::fs::create_dir_all(p.parent().unwrap()).unwrap();
            std::fs::write(p, s).unwrap();
        }
        let mut out = Vec::new();
        findings(d.path(), chosen, &mut out);
        out.iter().map(|f| format!("{f}\n")).collect()
    }

    const ISOLATED: (&str, &str) = ("sys/devices/system/cpu/isolated", "2-3,6\n");
    const TICKLESS: &str = "sys/devices/system/cpu/nohz_full";

    #[test]
    fn isolated_cpus_that_are_not_polled_or_still_tick_are_told() {
        insta::assert_snapshot!(told(&[], &[7]), @"ok      isolated cores: none: lcores share their CPUs with what the scheduler puts there (isolcpus= and nohz_full= on the kernel's command line keep it off)");
        insta::assert_snapshot!(told(&[ISOLATED], &[7]), @r#"
        warning isolated cores: CPUs 2-3,6, and a node of one lcore polls CPU 7
                -> give the node the isolated ones: --cpu-pattern "0[2-3,6]"
        "#);
        insta::assert_snapshot!(told(&[ISOLATED, (TICKLESS, "(null)\n")], &[6]), @r"
        warning isolated cores: CPUs 2-3,6; 2-3,6 not in nohz_full: the timer stops an lcore there at each tick
                -> nohz_full=2-3,6 on the kernel's command line
        ");
        insta::assert_snapshot!(told(&[ISOLATED, (TICKLESS, "2-6\n")], &[6]), @"ok      isolated cores: CPUs 2-3,6, without a timer tick");
    }

    #[test]
    fn irqbalance_is_told_where_it_may_move_interrupts_to_an_lcore() {
        let runs = ("proc/812/comm", "irqbalance\n");
        let quiet = |more: &[(&str, &str)], cpu| {
            told(&[&[runs][..], more].concat(), &[cpu]).lines().skip(1).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(quiet(&[], 7), @r"
        warning irqbalance: runs (process 812), and moves interrupts to CPU 7, which a node of one lcore polls
                -> IRQBALANCE_BANNED_CPULIST=7 in /etc/default/irqbalance, then systemctl restart irqbalance; so for each lcore's CPU
        ");
        for spared in [
            ("etc/default/irqbalance", "# x\nIRQBALANCE_BANNED_CPULIST=\"1,7\"\n"),
            ("etc/sysconfig/irqbalance", "export IRQBALANCE_BANNED_CPUS=00000000,00000080\n"),
            (TICKLESS, "4-7\n"),
        ] {
            assert!(quiet(&[spared], 7).contains("leaves lcores' CPUs alone"), "{spared:?}");
        }
        let other = ("etc/sysconfig/irqbalance", "IRQBALANCE_BANNED_CPUS=40\n#IRQBALANCE_BANNED_CPULIST=7\n");
        assert!(quiet(&[other], 7).contains("in /etc/sysconfig/irqbalance"));
        assert!(!told(&[("proc/812/comm", "irqbalanced\n")], &[7]).contains("irqbalance:"));
    }
}
