//! `pollnd bench report` with nodes of several lcores: on CPUs that hwloc is told of, so that the lcores share those that there
//! are.

#![cfg(feature = "dpdk")]
#![allow(missing_docs)]

mod browser;
#[allow(dead_code)]
mod proc;

use proc::{End, Proc, pollnd};

/// `pollnd bench report ARGS` of a process that may use four CPUs.
fn report(args: &[&str]) -> End {
    let mut c = pollnd(&[&["bench", "report"], args].concat());
    c.env("HWLOC_SYNTHETIC", "core:4 pu:1");
    Proc::start(c).end()
}

#[test]
fn a_report_has_as_many_lcores_as_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (json, html) = (at("a.json"), at("a.html"));
    let set = [
        "--ops",
        "put,brw-write",
        "--sizes",
        "64,64k",
        "--concurrency",
        "1,4",
        "--rounds",
        "1",
        "--seconds",
        "0.02",
    ];
    let all = |lcores: &str| {
        report(&[&set[..], &["--link-lcores", lcores, "--json", &json, "--html", &html]].concat())
    };
    all("6,1").failed(2, &["--link-lcores 6", "may use 4 CPUs", "ask for 4 at most"]);
    all("3").failed(2, &["--link-lcores", "half of them"]);
    all("1,4").good().says(&["virtio link, 4 lcores", "nothing lost: every message once and whole"]);
    let v: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!(
        (&v["options"]["lcores"], &v["nothing_lost"]),
        (&serde_json::json!([1, 4]), &true.into()),
        "{v}"
    );
    let points = v["points"].as_array().unwrap();
    let of = |lcores: u64| {
        let on = |p: &&serde_json::Value| p["side"]["carrier"] == "link" && p["side"]["lcores"] == lcores;
        points.iter().filter(on).collect::<Vec<_>>()
    };
    // Two sizes, and the smallest alone; with four lcores the two sizes.
    assert_eq!((of(1).len(), of(4).len()), (2 * 3, 2 * 2), "{v}");
    for p in of(4) {
        assert!(p["figures"]["per_s"]["median"].as_f64() > Some(0.0) && p["case"]["concurrency"] == 4, "{p}");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    let scaling = &page[page.find("id=\"scaling\"").unwrap()..];
    assert!(scaling.contains("<th>1</th>") && scaling.contains("<th>4</th>"), "{scaling}");
    let Some(browser) = browser::browser("a_report_has_as_many_lcores_as_are_asked_for") else { return };
    let seen = browser::look(browser, html.as_ref(), 1280);
    // Goodput, CPU and cost of two operations, latency of two on two sides; two by lcore.
    assert_eq!((&seen["plots"], &seen["bad"]), (&12.into(), &serde_json::json!([])), "{seen}");
}
