use proptest::prelude::*;

use super::*;

/// Two packages with a node each, four cores of two hardware threads: CPUs 0-7 and 8-15.
fn two_nodes() -> Topology {
    Topology::synthetic("package:2 [numa(memory=8GB)] l3:1 core:4 pu:2").unwrap()
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
    let one = Topology::synthetic("core:1 pu:1").unwrap().cpts("").unwrap();
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

/// Field report 13: Lustre's LU-17501. Places count within each partition, numbers on the machine.
#[test]
fn cpus_are_left_out_by_place_or_by_number() {
    let m = two_nodes();
    let sets = |p: &str| m.cpts(p).unwrap().iter().map(cpus).collect::<Vec<_>>();
    for p in ["C[0]", "c[0]", "N C[0]", " n c [0] ", "NC[0]"] {
        assert_eq!(sets(p), [(1..8).collect::<Vec<_>>(), (9..16).collect()], "{p}");
    }
    assert_eq!(sets("C[0,1]"), [(2..8).collect::<Vec<_>>(), (10..16).collect()]);
    assert_eq!(sets("C[0][2-7/2]"), [[1, 3, 5, 7], [9, 11, 13, 15]]);
    assert_eq!(sets("X[0,8-9]"), [(1..8).collect::<Vec<_>>(), (10..16).collect()]);
    // It is left out, whether this process may use it or not.
    assert_eq!(sets("N X[0,99]"), [(1..8).collect::<Vec<_>>(), (8..16).collect()]);
    // The upper core has one CPU left.
    assert_eq!(m.cpts("C[6]").unwrap()[0].lcores(Some(1)).unwrap(), [7]);
    let one = Topology::synthetic("core:2 pu:1").unwrap();
    assert_eq!(one.cpts("C[0]").unwrap()[0].lcores(None).unwrap(), [1]);
    let say = |p: &str| m.cpts(p).unwrap_err().to_string();
    assert_eq!(
        say("C[8]"),
        "cpu_pattern \"C[8]\": no partition has a CPU at place 8: they are counted from 0, up to 7"
    );
    assert_eq!(say("C[0-7]"), "cpu_pattern \"C[0-7]\": partition 0 has no CPU left; leave out fewer of 0-7");
    assert!(say("X[8-15]").contains("partition 1 has no CPU left"));
}

/// Field report 13.
#[test]
fn all_of_them_is_a_star() {
    let m = two_nodes();
    assert_eq!(cpus(&m.cpts("0[*]").unwrap()[0]), (0..16).collect::<Vec<_>>());
    assert_eq!(cpus(&m.cpts("N 0[ * ]").unwrap()[0]), (0..16).collect::<Vec<_>>());
    assert!(m.cpts("0[*] 1[3]").unwrap_err().to_string().contains("CPU 3 is named twice"));
}

/// Field report 13: a topology without Core objects (HPX 5115), and one where some CPUs have none.
#[test]
fn where_no_cores_are_named_each_cpu_is_one() {
    let m = Topology::synthetic("numa:1 pu:2").unwrap();
    assert_eq!(m.cores.iter().map(|c| c.cpus.clone()).collect::<Vec<_>>(), [[0], [1]]);
    let c = m.cpts("").unwrap();
    assert_eq!((c.len(), c[0].node, c[0].lcores(Some(1)).unwrap()), (1, Some(0), vec![1]));
    let m = Topology::synthetic("package:2 [numa] pu:3").unwrap();
    assert_eq!((m.cores.len(), m.nodes()), (6, vec![0, 1]));
    assert_eq!(cpus(&m.cpts("1[0-2] 0[3-5]").unwrap()[0]), [3, 4, 5]);
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
        "y",
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
        "C",
        "C[]",
        "C[0] 1",
        "X[*]",
        "N X",
        "C[0] X[1]",
        "0[*",
        "0[*,1]",
        "0[0] C[1]",
    ]
    .map(|p| m.cpts(p).unwrap_err().to_string().split(';').next().unwrap_or("").to_owned())
    .join("\n");
    insta::assert_snapshot!(text, @r#"
    cpu_pattern "0[0-3": neither , nor ] at column 6
    cpu_pattern "0[3-1]": a range that ends before it starts at column 6
    cpu_pattern "0[0-3/0]": a stride of 0 at column 8
    cpu_pattern "0": no [ behind a partition's number at column 2
    cpu_pattern "x": no [ with what is left out at column 2
    cpu_pattern "y": no number at column 1
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
    cpu_pattern "C": no [ with what is left out at column 2
    cpu_pattern "C[]": no number at column 3
    cpu_pattern "C[0] 1": no [ with what is left out at column 6
    cpu_pattern "X[*]": all CPUs left out at column 5
    cpu_pattern "N X": no [ with what is left out at column 4
    cpu_pattern "C[0] X[1]": no [ with what is left out at column 6
    cpu_pattern "0[*": no ] behind * at column 4
    cpu_pattern "0[*,1]": no ] behind * at column 4
    cpu_pattern "0[0] C[1]": no number at column 6
    "#);
}

#[test]
fn a_machine_that_hwloc_cannot_read_is_named() {
    let e = Topology::synthetic("nonsense:-1").unwrap_err().to_string();
    assert!(e.contains("nonsense:-1") && e.contains("HWLOC_SYNTHETIC"), "{e}");
}

proptest! {
    #[test]
    fn no_pattern_panics_and_what_parses_covers_what_it_names(p in "[NXC0-9\\[\\],/* -]{0,40}") {
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
