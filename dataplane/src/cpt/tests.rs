use proptest::prelude::*;

use super::*;

/// Two packages with a node each, four cores of two hardware threads: CPUs 0-7 and 8-15.
fn two_nodes() -> Machine {
    Machine::synthetic("package:2 [numa(memory=8GB)] l3:1 core:4 pu:2").unwrap()
}

fn cpus(c: &Cpt) -> Vec<usize> {
    c.cores.iter().flat_map(|c| c.cpus.clone()).collect()
}

#[test]
fn a_partition_for_each_node_with_half_its_cores_polling() {
    let m = two_nodes();
    assert!(!m.this_system);
    assert_eq!((m.cores.len(), m.nodes()), (8, vec![0, 1]));
    for pattern in ["", "N", " n "] {
        let c = m.cpts(pattern).unwrap();
        assert_eq!(c.iter().map(|c| (c.id, c.node)).collect::<Vec<_>>(), [(0, Some(0)), (1, Some(1))]);
        assert_eq!(cpus(&c[1]), (8..16).collect::<Vec<_>>());
        assert_eq!(c[0].lcores(None).unwrap(), [4, 6], "one thread of each of the upper cores");
        assert_eq!(c[1].lcores(None).unwrap(), [12, 14]);
    }
    let one = Machine::synthetic("core:1 pu:1").unwrap().cpts("").unwrap();
    assert_eq!((one.len(), one[0].lcores(None).unwrap()), (1, vec![0]));
}

#[test]
fn more_lcores_than_cores_share_hardware_threads_and_more_than_cpus_are_refused() {
    let c = &two_nodes().cpts("").unwrap()[0];
    assert_eq!(c.lcores(Some(4)).unwrap(), [0, 2, 4, 6]);
    assert_eq!(c.lcores(Some(5)).unwrap(), [0, 2, 4, 6, 7]);
    assert_eq!(c.lcores(Some(8)).unwrap(), (0..8).collect::<Vec<_>>());
    for n in [0, 9] {
        let e = c.lcores(Some(n)).unwrap_err();
        assert_eq!(e, CptError::Lcores { cpt: 0, asked: n, have: 8 });
    }
}

#[test]
fn patterns_name_cpus_or_nodes_in_any_order() {
    let m = two_nodes();
    let sets = |p: &str| m.cpts(p).unwrap().iter().map(|c| (c.node, cpus(c))).collect::<Vec<_>>();
    assert_eq!(sets("0[0-3] 1[4-7]"), [(Some(0), vec![0, 1, 2, 3]), (Some(0), vec![4, 5, 6, 7])]);
    assert_eq!(sets("1[8] 0[0-6/2, 15]"), [(None, vec![0, 2, 4, 6, 15]), (Some(1), vec![8])]);
    assert_eq!(sets("N 0[1] 1[0]"), [(Some(1), (8..16).collect()), (Some(0), (0..8).collect())]);
    assert_eq!(sets("N 0[0-1]"), [(None, (0..16).collect())]);
}

#[test]
fn errors_name_the_value_and_the_remedy() {
    let m = two_nodes();
    let text = [
        "0[0-3",
        "0[3-1]",
        "0[0-3/0]",
        "0",
        "x",
        "0[]",
        "0[1:2]",
        "0[99999]",
        "0[0] 0[1]",
        "0[0] 2[1]",
        "0[16]",
        "N 0[2]",
        "0[0] 1[0]",
        "N 0[0,0]",
        "0[0] é",
    ]
    .map(|p| m.cpts(p).unwrap_err().to_string().split(';').next().unwrap_or("").to_owned())
    .join("\n");
    insta::assert_snapshot!(text, @r#"
    cpu_pattern "0[0-3": neither , nor ] at column 6
    cpu_pattern "0[3-1]": a range that ends before it starts at column 6
    cpu_pattern "0[0-3/0]": a stride of 0 at column 8
    cpu_pattern "0": no [ behind a partition's number at column 2
    cpu_pattern "x": no number at column 1
    cpu_pattern "0[]": no number at column 3
    cpu_pattern "0[1:2]": neither , nor ] at column 4
    cpu_pattern "0[99999]": a number over 65535 at column 7
    cpu_pattern "0[0] 0[1]": partition 0 is there twice
    cpu_pattern "0[0] 2[1]": partition 2 is out of range
    cpu_pattern "0[16]": CPU 16 does not exist or is not for this process, which has 0-15
    cpu_pattern "N 0[2]": NUMA node 2 does not exist or is not for this process, which has 0-1
    cpu_pattern "0[0] 1[0]": CPU 0 is named twice
    cpu_pattern "N 0[0,0]": NUMA node 0 is named twice
    cpu_pattern "0[0] é": no number at column 6
    "#);
}

#[test]
fn a_machine_that_hwloc_cannot_read_is_named() {
    let e = Machine::synthetic("nonsense:-1").unwrap_err().to_string();
    assert!(e.contains("nonsense:-1") && e.contains("HWLOC_SYNTHETIC"), "{e}");
}

proptest! {
    #[test]
    fn no_pattern_panics_and_what_parses_covers_what_it_names(p in "[N0-9\\[\\],/ -]{0,40}") {
        if let Ok(c) = two_nodes().cpts(&p) {
            prop_assert!(!c.is_empty());
            let mut all: Vec<usize> = c.iter().flat_map(cpus).collect();
            let n = all.len();
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), n, "a CPU is in one partition");
            prop_assert!(c.iter().all(|c| c.lcores(None).is_ok()));
        }
    }
}
