//! Help texts of the verbs.

/// Verbs, each with its usage and what it does.
const TEXTS: [(&str, &str, &str); 20] = [
    (
        "new_session",
        "new_session [--timeout SECONDS] [--force] [NAME]",
        "Begins a session. It ends when no verb has come for SECONDS (300; 0 for never). With --force it takes members that are \
         in another session, and replaces one of this console.",
    ),
    ("show_session", "show_session", "Shows the session."),
    ("end_session", "end_session", "Ends the session: all tests end, all members leave."),
    (
        "ping",
        "ping [--session] [--group NAME] [--nodes NIDS] [--batch NAME [--server]] [--timeout SECONDS]",
        "Asks nodes for their sessions and shows their states.",
    ),
    (
        "add_group",
        "add_group NAME NIDS [NIDS...]",
        "Makes a group of nodes and takes them into the session. NIDS such as 192.168.80.[12-13,20]@tcp, 10.0.*.7@tcp1, \
         10.0.0.[2-20/2]@tcp.",
    ),
    ("del_group", "del_group NAME", "Deletes a group; members that are in no other one leave the session."),
    (
        "update_group",
        "update_group NAME [--refresh] [--clean STATE] [--remove NIDS]",
        "--refresh asks members that are not ACTIVE again; --clean takes out those that are busy, down, unknown, or all of these \
         (busy|down); --remove takes out those of a list.",
    ),
    (
        "list_group",
        "list_group [NAME...] [--active] [--busy] [--down] [--unknown] [--all]",
        "Lists the groups, or the members of some by state.",
    ),
    (
        "stat",
        "stat [--bw] [--rate] [--read] [--write] [--avg] [--min] [--max] [--mbs] [--delay SECONDS] [--count TIMES] [--timeout \
         SECONDS] NAME [NAME...]",
        "Shows what LNet of the members of groups, or of NIDs, moves: messages and bytes a second, every SECONDS (5), TIMES or \
         without end.",
    ),
    (
        "show_error",
        "show_error [--session] NAME [NAME...]",
        "Shows the errors of members of groups, or of NIDs; with --session those of tests alone.",
    ),
    ("add_batch", "add_batch NAME", "Makes a batch of tests. One named batch is there from the beginning."),
    ("run", "run [--timeout SECONDS] [NAME]", "Starts the tests of a batch."),
    (
        "stop",
        "stop [--force] [NAME]",
        "Stops the tests of a batch and waits until they have; with --force what is under way is given up.",
    ),
    (
        "list_batch",
        "list_batch [NAME] [--test N] [--server] [--active] [--busy] [--down] [--unknown] [--invalid] [--all]",
        "Lists the batches, or the tests of one, or its clients (or servers) by state; --invalid are all that are not ACTIVE.",
    ),
    (
        "query",
        "query [--test N] [--server] [--timeout SECONDS] [--loop TIMES] [--delay SECONDS] [--active] [--idle] [--error] [--all] \
         [NAME]",
        "Tells whether a batch, or one test of it, is at work; with --all of each node, with the other three of those that are at \
         work, have nothing to do, or failed.",
    ),
    (
        "add_test",
        "add_test [--batch NAME] [--loop TIMES] [--concurrency N] [--distribute N:M] --from GROUP --to GROUP TEST",
        "Adds a test. TEST is ping, or brw [read|write] [check=none|simple|full|discard] [size=BYTES] [off=BYTES] [skip_rx_copy]; \
         BYTES may end in k or M, a size is a multiple of 8 and at most 1M. TIMES -1 (so it is if it is left out) has no end; N \
         requests are under way for each destination at a time; with N:M groups of N clients share M servers.",
    ),
    ("help", "help [VERB]", "Shows this."),
    ("sleep", "sleep SECONDS", "Waits; for scripts."),
    ("exit", "exit", "Ends the session and leaves."),
    ("quit", "quit", "As exit."),
];

/// Help in general, or for a verb.
///
/// # Errors
/// There is no such verb.
pub fn of(verb: Option<&str>) -> Result<String, String> {
    let Some(verb) = verb else {
        return Ok(
            "usage: lst [COMMAND] [OPTIONS]... [ARGS]\nWithout any parameters, interactive mode is invoked\n\
            Try 'lst help <COMMAND>', or 'lst --list-commands' for a list of commands."
                .to_owned(),
        );
    };
    let text = TEXTS.iter().find(|(v, ..)| *v == verb);
    text.map(|(_, usage, does)| format!("usage: lst {usage}\n{does}"))
        .ok_or_else(|| format!("lst: '{verb}' is not a valid command. See 'lst --list-commands'."))
}

/// A line for each verb: its usage.
pub fn usages() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().map(|(_, usage, _)| *usage)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::console::command::verbs;

    #[test]
    fn each_verb_has_its_help() {
        for v in verbs() {
            let text = of(Some(v)).unwrap();
            assert!(text.starts_with(&format!("usage: lst {v}")), "{text}");
        }
        assert_eq!(usages().count(), verbs().count());
        assert!(of(Some("frobnicate")).unwrap_err().contains("frobnicate"));
        assert_eq!(of(None).unwrap() + "\n", include_str!("../../../../testdata/texts/lst/21-help.txt"));
    }
}
