//! `HWLOC_SYNTHETIC` and `HWLOC_XMLFILE` are honoured. The variables are read once a process, so each test runs
//! itself again with one set.

#![cfg(feature = "lcore")]

use std::process::{Command, Output};

use dataplane::cpt::Topology;

/// What a machine looks like, in one line.
fn shape() -> String {
    let m = Topology::detect().unwrap_or_else(|e| panic!("{e}"));
    format!("SHAPE cores={} nodes={} this={}", m.cores.len(), m.nodes().len(), m.this_system)
}

fn run(var: &str, value: &str) -> Output {
    let me = std::env::current_exe().unwrap();
    Command::new(me).args(["--exact", "prints_its_shape", "--nocapture"]).env(var, value).output().unwrap()
}

/// The shape that a child process with the variable set sees.
fn child(var: &str, value: &str) -> String {
    let out = run(var, value);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    let at = text.find("SHAPE").unwrap();
    text[at..].lines().next().unwrap().to_owned()
}

#[test]
fn prints_its_shape() {
    let s = shape();
    println!("{s}");
    let foreign = ["HWLOC_SYNTHETIC", "HWLOC_XMLFILE"].iter().any(|v| std::env::var_os(v).is_some());
    assert_eq!(s.ends_with("this=true"), !foreign);
}

#[test]
fn a_synthetic_machine() {
    assert_eq!(child("HWLOC_SYNTHETIC", "package:2 [numa] core:3 pu:2"), "SHAPE cores=6 nodes=2 this=false");
    // Field report 13: no Core objects.
    assert_eq!(child("HWLOC_SYNTHETIC", "numa:1 pu:2"), "SHAPE cores=2 nodes=1 this=false");
}

#[test]
fn a_machine_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.xml");
    std::fs::write(&file, XML).unwrap();
    assert_eq!(child("HWLOC_XMLFILE", &file.to_string_lossy()), "SHAPE cores=2 nodes=1 this=false");
}

/// Field report 12: a file without an end is not read.
#[test]
fn a_file_that_is_none_is_refused() {
    let out = run("HWLOC_XMLFILE", "/dev/zero");
    let err = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && err.contains("HWLOC_XMLFILE=/dev/zero: it is no regular file"), "{err}");
}

/// A package with one node and two cores, in hwloc's format.
const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE topology SYSTEM "hwloc2.dtd">
<topology version="2.0">
  <object type="Machine" os_index="0" cpuset="0x3" complete_cpuset="0x3" allowed_cpuset="0x3" nodeset="0x1" complete_nodeset="0x1" allowed_nodeset="0x1" gp_index="1">
    <object type="Package" os_index="0" cpuset="0x3" complete_cpuset="0x3" nodeset="0x1" complete_nodeset="0x1" gp_index="2">
      <object type="NUMANode" os_index="0" cpuset="0x3" complete_cpuset="0x3" nodeset="0x1" complete_nodeset="0x1" gp_index="3" local_memory="1073741824"/>
      <object type="Core" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="4">
        <object type="PU" os_index="0" cpuset="0x1" complete_cpuset="0x1" nodeset="0x1" complete_nodeset="0x1" gp_index="5"/>
      </object>
      <object type="Core" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x1" complete_nodeset="0x1" gp_index="6">
        <object type="PU" os_index="1" cpuset="0x2" complete_cpuset="0x2" nodeset="0x1" complete_nodeset="0x1" gp_index="7"/>
      </object>
    </object>
  </object>
</topology>
"#;
