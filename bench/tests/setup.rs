//! Many peers that dial at once, counted.
#![forbid(unsafe_code)]

use bench::setup::measure;

#[test]
fn all_sets_come_up_and_the_count_repeats() {
    let (one, again) = (measure(100).unwrap(), measure(100).unwrap());
    assert_eq!(one.connections, 300);
    assert_eq!((one.turns, one.busy_turns), (again.turns, again.busy_turns));
    // Twice as many peers are no more than twice the turns, and a little.
    let twice = measure(200).unwrap();
    assert_eq!(twice.connections, 600);
    assert!(twice.busy_turns < 2 * one.busy_turns + 50, "{one:?} {twice:?}");
    let many = measure(1000).unwrap();
    println!("{} sets: {} turns, {} of them busy", many.sets, many.turns, many.busy_turns);
    for sets in [0, 30_000] {
        assert!(measure(sets).unwrap_err().contains("connection sets"));
    }
}
