//! The gate's table. How its two threads meet is a model: `tests/model_gate.rs`.

use super::gate::{Gate, GateCell, GateEvent};

#[test]
fn transitions() {
    insta::assert_snapshot!(fsm::listing::<Gate>(), @r"
    Absent + Built -> Parked
    Parked + Resume -> Running
    Parked + Dropped -> Absent
    Running + Ask -> Asked
    Running + Yield -> Parked
    Running + Dropped -> Absent
    Asked + Resume -> Running
    Asked + Yield -> Parked
    Asked + Dropped -> Absent
    otherwise: nothing changes
    ");
}

#[test]
fn an_asked_gate_is_not_quiet_before_the_lcore_yields() {
    let g = GateCell::default();
    assert!(g.quiet());
    g.on(GateEvent::Built);
    g.on(GateEvent::Resume);
    assert!(g.running());
    g.on(GateEvent::Ask);
    assert!(!g.running() && !g.quiet());
    std::thread::scope(|s| s.spawn(|| g.on(GateEvent::Yield)).join()).unwrap();
    assert!(g.quiet());
}
