//! Arguments of `selftest`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Command, Subcommand, ValueEnum};

use super::NodeArgs;
use super::ask::Via;
use super::values::{number, size};

/// Examples and verbs.
const AFTER: &str = "\
VERB is one of lst's, with lst's options: new_session, show_session, end_session, ping, add_group, del_group, update_group,
list_group, stat, show_error, add_batch, list_batch, add_test, run, stop, query, help; `sleep SECONDS` is for scripts.
`pollnd selftest help VERB` describes one.

With LST_SESSION set to a number, a VERB acts on the session of that key in a `pollnd node` that runs (--node, --nid, or the
only one), which stays when the command ends. Without a VERB, lines come from -f FILE or standard input, to a node of this
process (--nid, --vdev, ...) or one that runs (--node); its session ends with them.

Examples:
  pollnd selftest quick --from 10.0.0.1@tcp --to 10.0.0.[2-5]@tcp --distribute 1:4 --seconds 30 --read
  pollnd selftest --nid 10.0.0.1@tcp                                     interactively
  pollnd selftest --nid 10.0.0.1@tcp -f script                           verbs of a file, one a line
  export LST_SESSION=$$; pollnd selftest new_session s; pollnd selftest add_group g 10.0.0.[2-5]@tcp

Exit code of a VERB, lst's; of lines, that of the last one that failed:
  0    done
  255  wrong words, names that are not there, states that do not allow it; no node
  254  members did not answer
  253  members refused, as those in another session do
  234  list_group without a session
  130  interrupted; a stat without --count, which ends so, is done
  2    wrong options in front of the VERB
Of `quick`: 0 if all went well, 1 if there were errors, 130 if it was interrupted.";

/// `pollnd selftest`.
#[derive(Args, Debug, Clone)]
#[command(after_help = AFTER, override_usage = "pollnd selftest [OPTIONS] [VERB [ARGS]...]\n       pollnd selftest quick --from NIDS --to NIDS [OPTIONS]", disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
pub(crate) struct SelftestArgs {
    /// Takes lines from a file, in place of standard input.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// A JSON object for each result instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// The node of the console.
    #[command(flatten)]
    pub(crate) via: Via,
    /// The node of its own.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// All in one line.
    #[command(subcommand)]
    pub(crate) what: Option<What>,
    /// A verb and its words.
    #[arg(skip)]
    pub(crate) words: Vec<String>,
}

/// Beside lst's verbs.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum What {
    /// One line that does all: session, groups, batch, test, rates while it runs, a table, and an end in order.
    Quick(Box<QuickArgs>),
}

/// Checks of payload.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckArg {
    /// Neither filled nor checked.
    None,
    /// The first and last word.
    Simple,
    /// Every word.
    Full,
    /// Neither, nor copied (Lustre 2.17.57 and newer, and pollnd).
    Discard,
}

/// `pollnd selftest quick`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "Examples:
  pollnd selftest quick --from 10.0.0.1@tcp --to 10.0.0.2@tcp               1 MiB writes for 10 s
  pollnd selftest quick --from 10.0.0.[1-4]@tcp --to 10.0.1.[1-4]@tcp --read --size 4k --concurrency 32
  pollnd selftest quick --from 10.0.0.1@tcp --to 10.0.0.2@tcp --ping --json

Members are kernels with lnet_selftest loaded, and pollnd nodes. The console is a node that runs here with a NID of --from or
--to, or else a node of this process, which may be one of them.
Exit code: 0 if all went well, 1 if there were errors, 130 if it was interrupted.")]
pub(crate) struct QuickArgs {
    /// Nodes that ask, as lst writes lists: 10.0.0.[1-4,9]@tcp, several with commas.
    #[arg(long, value_name = "NIDS")]
    pub(crate) from: String,
    /// Nodes that are asked.
    #[arg(long, value_name = "NIDS")]
    pub(crate) to: String,
    /// Seconds that it runs.
    #[arg(long, default_value_t = 10, value_parser = number::<u32>(1..=86_400))]
    pub(crate) seconds: u32,
    /// Bytes of each request, a multiple of 8: a number, or one with k or M.
    #[arg(long, value_name = "BYTES", default_value = "1M", value_parser = size::<u32>(8..=1 << 20))]
    pub(crate) size: u32,
    /// Moves payload from --to to --from.
    #[arg(long, conflicts_with_all = ["write", "ping"])]
    pub(crate) read: bool,
    /// Moves payload from --from to --to (so it is if nothing is said).
    #[arg(long, conflicts_with = "ping")]
    pub(crate) write: bool,
    /// Moves no payload.
    #[arg(long, conflicts_with_all = ["size", "check"])]
    pub(crate) ping: bool,
    /// Extent of the check of payload.
    #[arg(long, value_enum, default_value_t = CheckArg::None)]
    pub(crate) check: CheckArg,
    /// Requests under way from each source to each destination.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = number::<u32>(1..=1024))]
    pub(crate) concurrency: u32,
    /// Sources that share destinations, and destinations that each of them has, as add_test --distribute. Default: each has one.
    #[arg(long, value_name = "N:M", default_value = "1:1")]
    pub(crate) distribute: String,
    /// Takes members that are in another session.
    #[arg(long)]
    pub(crate) force: bool,
    /// A JSON object a second, and one at the end.
    #[arg(long)]
    pub(crate) json: bool,
    /// The node of the console.
    #[command(flatten)]
    pub(crate) via: Via,
    /// The node of its own.
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Splits a command line of `selftest` before its verb, whose words are not clap's to judge: lst's options are not ours.
pub(super) fn split(args: Vec<OsString>) -> (Vec<OsString>, Vec<String>) {
    let own = SelftestArgs::augment_args(Command::new("selftest"));
    let takes = |name: &str| {
        own.get_arguments().any(|a| {
            let named = match name.strip_prefix("--") {
                Some(long) => a.get_long() == Some(long),
                None => a.get_short().is_some_and(|s| name == format!("-{s}")),
            };
            named && matches!(a.get_action(), ArgAction::Set | ArgAction::Append)
        })
    };
    let text = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or_default();
    // Options before the command are those of every command: -v.
    let Some(at) = (1..args.len()).find(|i| !text(*i).starts_with('-')).filter(|i| text(*i) == "selftest")
    else {
        return (args, Vec::new());
    };
    let mut i = at + 1;
    while i < args.len() {
        let word = text(i);
        match word {
            "--" | "quick" => return (args, Vec::new()),
            "--list-commands" => break,
            w if w.starts_with('-') && w.len() > 1 => i += 1 + usize::from(takes(w)),
            _ => break,
        }
    }
    let (ours, words) = args.split_at(i.min(args.len()));
    (ours.to_vec(), words.iter().map(|w| w.to_string_lossy().into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(line: &str) -> (String, String) {
        let (ours, words) = split(line.split_whitespace().map(OsString::from).collect());
        let ours: Vec<_> = ours.iter().map(|w| w.to_string_lossy().into_owned()).collect();
        (ours.join(" "), words.join(" "))
    }

    #[test]
    fn help_and_manual_list_every_exit_status() {
        let manual = include_str!("../../../docs/selftest.md");
        for (status, meaning) in transport::selftest::console::STATUSES {
            assert!(AFTER.contains(&format!("\n  {status:<5}{meaning}\n")), "{status}");
            assert!(
                manual.contains(&format!(
                    "\n| {status} | {} |\n",
                    meaning
                        .replace("list_group", "`list_group`")
                        .replace("stat without --count", "`stat` without `--count`")
                )),
                "{status}"
            );
        }
        let told = AFTER.lines().filter(|l| l.trim_start().starts_with(|c: char| c.is_ascii_digit()));
        // That of wrong options is clap's.
        assert_eq!(told.count(), transport::selftest::console::STATUSES.len() + 1);
    }

    #[test]
    fn a_verb_and_what_is_behind_it_is_lst_s() {
        for (ours, words) in [
            ("pollnd selftest", "--list-commands"),
            ("pollnd selftest", "stat --bw --delay 1 g"),
            ("pollnd -v selftest --json --node 7", "add_test --batch b -c 1 -- x"),
            ("pollnd selftest --nid=10.0.0.1@tcp --vdev x", "frobnicate"),
            ("pollnd selftest -f script --lcores 2 -- -m 64", ""),
            ("pollnd selftest --nid 10.0.0.1@tcp quick --from a --to b", ""),
            ("pollnd ping selftest", ""),
            ("pollnd selftest --help", ""),
        ] {
            let line = format!("{ours} {words}");
            assert_eq!(cut(&line), (ours.to_owned(), words.to_owned()), "{line}");
        }
    }
}
