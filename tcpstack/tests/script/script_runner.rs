//! The script runner tried: scripts that are wrong fail, at the right line, for the right reason.

use crate::Family;

/// Reason why a script fails, without its trace.
fn fails(text: &str) -> String {
    let s = match crate::parse("x.tcp", text) {
        Ok(s) => s,
        Err(e) => return e,
    };
    let e = crate::run(&s, Family::V4, 1000).expect_err("this script has to fail");
    let end = e.find("    over V4, peer's first number").unwrap_or(e.len());
    // The window offered is not the point here.
    let mut lines: Vec<String> = e[..end].trim_end().lines().map(str::to_string).collect();
    for l in lines.iter_mut().filter(|l| l.starts_with("    got:")) {
        let words: Vec<&str> = l.split(' ').collect();
        let win = words.iter().position(|w| *w == "win").map(|i| words[i + 1].to_string());
        if let Some(w) = win {
            *l = l.replace(&format!("win {w}"), "win *");
        }
    }
    lines.join("\n")
}

fn passes(text: &str) {
    let s = crate::parse("x.tcp", text).unwrap();
    for family in [Family::V4, Family::V6] {
        assert!(crate::run(&s, family, 1000).unwrap().is_some());
    }
}

#[test]
fn a_segment_that_differs_says_in_what() {
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 1:12(11) ack 1"), @"
    x.tcp:3: 10 bytes instead of 11
        got:   > P. 1:11(10) ack 1 win *
        line:  > P. 1:12(11) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 2:12(10) ack 1"), @"
    x.tcp:3: the sequence number differs
        got:   > P. 1:11(10) ack 1 win *
        line:  > P. 2:12(10) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 1:11(10) ack 2"), @"
    x.tcp:3: the acknowledgement differs
        got:   > P. 1:11(10) ack 1 win *
        line:  > P. 1:11(10) ack 2
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> . 1:11(10) ack 1"), @"
    x.tcp:3: the flags differ
        got:   > P. 1:11(10) ack 1 win *
        line:  > . 1:11(10) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 1:11(10) ack 1 win 7"), @"
    x.tcp:3: the window field should be 7
        got:   > P. 1:11(10) ack 1 win *
        line:  > P. 1:11(10) ack 1 win 7
    ");
    let edge = fails("accepted\npush 10\n> P. 1:11(10) ack 1 edge 7");
    assert!(edge.starts_with("x.tcp:3: the window's edge is ") && edge.contains(", not 7"), "{edge}");
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 1:11(10) ack 1 <sackOK>"), @"
    x.tcp:3: the options lack sackOK
        got:   > P. 1:11(10) ack 1 win *
        line:  > P. 1:11(10) ack 1 <sackOK>
    ");
    insta::assert_snapshot!(fails("accepted\npush 4\n> P. 1:5(4) ack 1 data \"abcd\""), @r#"
    x.tcp:3: byte 0 of the stream is 0x4a, not 0x61
        got:   > P. 1:5(4) ack 1 win *
        line:  > P. 1:5(4) ack 1 data "abcd"
    "#);
    insta::assert_snapshot!(fails("listen\n< S 0:0(0) win 9\n> S. 0:0(0) ack 1 <mss 1459>"), @"
    x.tcp:3: the options lack mss 1459
        got:   > S. 0:0(0) ack 1 win * <mss 1460>
        line:  > S. 0:0(0) ack 1 <mss 1459>
    ");
    passes("accepted\npush 10\n> P. 1:11(10) ack 1\n< . 1:1(0) ack 11 win 9");
}

#[test]
fn what_does_not_come_fails_in_virtual_time() {
    insta::assert_snapshot!(fails("accepted\n> . 1:1(0) ack 1"), @"
    x.tcp:2: nothing came
        expected: a segment
        line:  > . 1:1(0) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\nwithin 10s > . 1:1(0) ack 1"), @"
    x.tcp:2: nothing came
        expected: a segment
        line:  within 10s > . 1:1(0) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\n+10s > . 1:1(0) ack 1"), @"
    x.tcp:2: nothing came
        expected: a segment
        line:  +10s > . 1:1(0) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\nevent fin"), @"
    x.tcp:2: no event came
        line:  event fin
    ");
    insta::assert_snapshot!(fails("accepted\nevent readable"), @"
    x.tcp:2: no such event
        line:  event readable
    ");
    insta::assert_snapshot!(fails("accepted\nread 1"), @"
    x.tcp:2: only 0 bytes are there
        line:  read 1
    ");
    insta::assert_snapshot!(fails("accepted\npush 4000\n> cover 1:4002"), @"
    x.tcp:3: nothing came
        expected: the bytes from 4001 to 4002
        line:  > cover 1:4002
    ");
}

#[test]
fn what_nobody_expected_fails() {
    insta::assert_snapshot!(fails("accepted\npush 10\n+1ms push 10"), @"
    x.tcp:3: time goes on, and nobody expected
        got:   > P. 1:11(10) ack 1 win *
        line:  +1ms push 10
    ");
    insta::assert_snapshot!(fails("accepted\npush 10"), @"
    x.tcp: the script ended, and nobody expected
        got:   > P. 1:11(10) ack 1 win *
    ");
    insta::assert_snapshot!(fails("listen\n< S 0:0(0) win 9\n> S. 0:0(0) ack 1\n< . 1:1(0) ack 1 win 9"), @"
    x.tcp: the script ended, and nobody expected
        got:   event opened passive
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> nothing"), @"
    x.tcp:3: nothing was expected, and nobody expected
        got:   > P. 1:11(10) ack 1 win *
        line:  > nothing
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 1:11(10) ack 1\n> nothing for 1s"), @"
    x.tcp:4: this came before the time of the line, and nobody expected
        got:   > P. 1:11(10) ack 1 win *
        line:  > nothing for 1s
    ");
    insta::assert_snapshot!(fails("accepted\npush 10\n> P. 1:11(10) ack 1\n+1s < . 1:1(0) ack 11 win 9"), @"
    x.tcp:4: this came before the time of the line, and nobody expected
        got:   > P. 1:11(10) ack 1 win *
        line:  +1s < . 1:1(0) ack 11 win 9
    ");
}

#[test]
fn times_and_counts_are_kept_to() {
    let resent = "accepted rtt 10ms\npush 10\n> P. 1:11(10) ack 1\n";
    insta::assert_snapshot!(fails(&format!("{resent}+100ms > P. 1:11(10) ack 1")), @"
    x.tcp:4: it came 37 ms too early
        got:   > P. 1:11(10) ack 1 win *
        line:  +100ms > P. 1:11(10) ack 1
    ");
    insta::assert_snapshot!(fails(&format!("{resent}+20ms > P. 1:11(10) ack 1")), @"
    x.tcp:4: nothing came
        expected: a segment
        line:  +20ms > P. 1:11(10) ack 1
    ");
    insta::assert_snapshot!(fails("accepted\ncount accepted 2"), @"
    x.tcp:2: accepted is 1, expected 2
        line:  count accepted 2
    ");
    insta::assert_snapshot!(fails("accepted\ncount accepted >=2"), @"
    x.tcp:2: accepted is 1, expected at least 2
        line:  count accepted >=2
    ");
    insta::assert_snapshot!(fails("accepted\nflow resent 3..4"), @"
    x.tcp:2: resent is 0, expected 3 to 4
        line:  flow resent 3..4
    ");
    let unknown = fails("accepted\ncount nonsense 1");
    assert!(unknown.starts_with("x.tcp:2: no counter nonsense; there are "), "{unknown}");
    assert!(unknown.contains(" rx_segments,") && unknown.contains(" flows,"), "{unknown}");
}

#[test]
fn calls_that_come_to_something_else_fail() {
    insta::assert_snapshot!(fails("dial\n> S 0:0(0)\ndial"), @"
    x.tcp:3: port 1023 is already connected to that peer: dial from another (InUse(1023))
        line:  dial
    ");
    insta::assert_snapshot!(fails("accepted\npush 10 fails full"), @"
    x.tcp:2: it worked, where `full` was expected
        line:  push 10 fails full
    ");
    insta::assert_snapshot!(fails("push 10"), @"
    x.tcp:1: this connection is not open, and was not dialled
        line:  push 10
    ");
    insta::assert_snapshot!(fails("accepted\n< . 1:5(4) ack 1 data \"abcd\"\nread 4 \"abcx\""), @r#"
    x.tcp:3: byte 3 of the stream is 0x64, not 0x78
        line:  read 4 "abcx"
    "#);
    insta::assert_snapshot!(fails("accepted\n< . 1:5(4) ack 1\nread 3\nread nothing"), @"
    x.tcp:4: nothing was expected, 1 bytes are there
        line:  read nothing
    ");
    passes("accepted\n< P. 1:5(4) ack 1 data \"abcd\"\n> . 1:1(0) ack 5\nread 4 \"abcd\"\nread nothing");
}

#[test]
fn lines_that_say_nothing_are_refused() {
    for (text, why) in [
        ("", "x.tcp: nothing in it"),
        ("accepted\nset mtu 9000", "x.tcp:2: `set` belongs before everything else\n    set mtu 9000"),
        ("< X 0:0(0)", "x.tcp:1: `X` are no flags: S F R P . U E C, or - for none\n    < X 0:0(0)"),
        (
            "< . 0:0(0)",
            "x.tcp:1: an `ack` number belongs to the flag `.`, and the flag to a number\n    < . 0:0(0)",
        ),
        (
            "< S 1:3(1)",
            "x.tcp:1: `1:3(1)`: the end is not the first number and the length (flags 0x2)\n    < S 1:3(1)",
        ),
        ("< S 0(0) <mss>", "x.tcp:1: `mss` is no option\n    < S 0(0) <mss>"),
        ("< S 0(0) win 1..2", "x.tcp:1: a window to send is one number\n    < S 0(0) win 1..2"),
        ("< S 0(0) upside-down", "x.tcp:1: `upside-down` is not understood here\n    < S 0(0) upside-down"),
        (
            "< P. 1(3) ack 1 data \"four\"",
            "x.tcp:1: 4 bytes of data in a segment of 3\n    < P. 1(3) ack 1 data \"four\"",
        ),
        ("within 1s close", "x.tcp:1: `within` is for what is expected\n    within 1s close"),
        ("+1x close", "x.tcp:1: `1x` is no time: write 10ms, 1.5s, 40us\n    +1x close"),
        ("repeat i 1..3\nclose", "x.tcp:1: a `repeat` without its `end`, or of more than 100,000"),
        ("close\nend", "x.tcp:2: an `end` without a `repeat`"),
        ("dance", "x.tcp:1: `dance` is nothing that a script can do\n    dance"),
        ("set mtu", "x.tcp:1: set mtu: a value is missing"),
        ("set speed 9\nlisten", "x.tcp:1: set speed: there is no such setting"),
    ] {
        assert_eq!(
            fails(&format!("{text}\n{}", if text == "set mtu" { "listen" } else { "" })),
            why,
            "{text}"
        );
    }
}

#[test]
fn numbers_times_and_repetition() {
    passes(
        "set rto_min 40ms\naccepted rtt 0.01  # a comment\nrepeat i 0..2\n\
         < . 1+$i*10:11+$i*10(10) ack 1 win 2*500\n> . 1:1(0) ack 1+10*$i+10 edge >=1\nend\nread 30\n+1.5s read nothing",
    );
}

#[test]
fn what_the_stack_keeps_is_noticed() {
    // The application holds a buffer for ever: the runner lets go of it at the end, so this passes; a leak would not.
    passes("accepted\n< . 1:1001(1000) ack 1\n> . 1:1(0) ack 1001\nhold 1000\ncount rx_buffers 1");
    insta::assert_snapshot!(fails("accepted\nbuffers 2000"), @"
    x.tcp:2: the pool has only 1024 buffers left
        line:  buffers 2000
    ");
}
