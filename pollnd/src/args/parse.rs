//! From words to arguments.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, Error, FromArgMatches};
use transport::wire::Brief;

use super::Cli;

/// The command line. A negative number is a value of the option before it, everywhere: the option then says what it takes.
pub(crate) fn command() -> Command {
    fn numbers(c: Command) -> Command {
        let value = |a: &Arg| a.get_action().takes_values() && !a.is_positional();
        c.mut_args(|a| if value(&a) { a.allow_negative_numbers(true) } else { a }).mut_subcommands(numbers)
    }
    numbers(Cli::command())
}

/// The arguments of a command line.
///
/// # Errors
/// Its faults; also that help is asked for.
pub(crate) fn parse<I: IntoIterator<Item = T>, T: Into<OsString> + Clone>(args: I) -> Result<Cli, Error> {
    let (args, words) = super::lst::split(args.into_iter().map(Into::into).collect());
    let mut c = command();
    let parsed = c.try_get_matches_from_mut(args);
    let mut cli = parsed
        .and_then(|m| Cli::from_arg_matches(&m))
        .map_err(|e| brief(or_a_file(without_eal(e)).format(&mut c)))?;
    if let super::Command::Selftest(a) = &mut cli.command {
        a.words = words;
    }
    Ok(cli)
}

/// Whether `value` is one of the option `flag` of `pollnd node`.
///
/// # Errors
/// The values that it takes.
pub(crate) fn value(flag: &str, value: &str) -> Result<(), String> {
    let c = command();
    let node = c.get_subcommands().find(|c| c.get_name() == "node");
    let Some(arg) = node.and_then(|c| c.get_arguments().find(|a| a.get_long() == Some(flag))) else {
        return Err(format!("--{flag} is no option of a node"));
    };
    let one = Command::new("value").no_binary_name(true).arg(arg.clone().required(false));
    one.try_get_matches_from([format!("--{flag}={value}")]).map(drop).map_err(|e| {
        let told = std::error::Error::source(&e).map(ToString::to_string);
        told.unwrap_or_else(|| e.to_string().lines().next().unwrap_or_default().to_owned())
    })
}

/// Takes away the advice to put what is not known behind `--`: there it is DPDK's.
fn without_eal(mut e: Error) -> Error {
    let advice = |s: &StyledStr| s.to_string().contains("as a value, use");
    if let Some(ContextValue::StyledStrs(all)) = e.get(ContextKind::Suggested) {
        let rest: Vec<StyledStr> = all.iter().filter(|s| !advice(s)).cloned().collect();
        e.remove(ContextKind::Suggested);
        if !rest.is_empty() {
            e.insert(ContextKind::Suggested, ContextValue::StyledStrs(rest));
        }
    }
    e
}

/// Shows words of the command line as errors show what others have said.
fn brief(mut e: Error) -> Error {
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidValue, ContextKind::InvalidSubcommand] {
        if let Some(ContextValue::String(word)) = e.get(kind) {
            let shown = Brief(word).to_string();
            e.insert(kind, ContextValue::String(shown));
        }
    }
    e
}

/// Names `--config` beside the `--nid` that a node misses.
fn or_a_file(mut e: Error) -> Error {
    let Some(ContextValue::Strings(missing)) = e.get(ContextKind::InvalidArg) else { return e };
    let usage = e.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if e.kind() == ErrorKind::MissingRequiredArgument
        && missing.iter().any(|m| m.starts_with("--nid"))
        && usage.contains("pollnd node")
    {
        let tip = StyledStr::from(
            "or '--config FILE', which names NIs: such as pollnd node --config /etc/lnet.conf",
        );
        e.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    e
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_wrong_are_shown_without_what_a_terminal_obeys_and_not_whole() {
        let long = "9".repeat(100_000);
        let strange = "a\u{1b}[2J";
        for args in [
            &["ping", strange][..],
            &["ping", "10.0.0.2@tcp", strange],
            &[strange],
            &["put", "10.0.0.2@tcp", "-c", strange],
            &["put", "10.0.0.2@tcp", "-s", &long],
            &["ping", &long],
            &["node", "--nid", &long],
            &["node", "--route", strange, "--nid", "10.0.0.1@tcp"],
            &["node", "--tunable", strange, "--nid", "10.0.0.1@tcp"],
            &[&format!("--{long}")],
        ] {
            let e = parse([&["pollnd"], args].concat()).unwrap_err().to_string();
            assert!(!e.contains(|c: char| c.is_control() && c != '\n') && e.len() < 1500, "{args:?}: {e}");
            assert!(e.contains("a\\u{1b}[2J") || e.contains("99…"), "{args:?}: {e}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_node_without_a_nid_is_told_of_files() {
        let e = parse(["pollnd", "node"]).unwrap_err().to_string();
        assert!(e.contains("--nid <NID>") && e.contains("'--config FILE'"), "{e}");
        let e = parse(["pollnd", "net", "node"]).unwrap_err().to_string();
        assert!(!e.contains("--config"), "{e}");
    }

    /// Field report 21.
    #[test]
    fn a_negative_number_is_refused_where_it_stands() {
        for (args, says) in [
            (&["ping", "10.0.0.2@tcp", "-c", "-1"][..], "--count"),
            (&["put", "10.0.0.2@tcp", "-s", "-1"], "--size"),
            (&["demo", "--seconds", "-1"], "--seconds"),
            (&["bench", "rate", "--flight", "-1"], "--flight"),
            (&["stats", "-w", "-0.5"], "--watch"),
            (&["node", "--nid", "10.0.0.1@tcp", "--peer-credits", "-1"], "--peer-credits"),
        ] {
            let e = parse([&["pollnd"], args].concat()).unwrap_err().to_string();
            assert!(e.contains(says) && e.contains("'-") && !e.contains("-- -"), "{args:?}: {e}");
        }
        let e = parse(["pollnd", "put", "10.0.0.2@tcp", "--frobnicate"]).unwrap_err().to_string();
        assert!(e.contains("--frobnicate") && !e.contains("-- --"), "{e}");
        let e = parse(["pollnd", "put", "10.0.0.2@tcp", "--siz", "4k"]).unwrap_err().to_string();
        assert!(e.contains("'--size'"), "{e}");
    }
}
