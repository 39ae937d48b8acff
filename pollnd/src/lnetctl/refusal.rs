//! Faults as lnetctl tells them: in one of its three forms, with an exit status of its own (docs/protocol/upper.md §5).

use crate::out;

/// The text of an error number, as C's `strerror` has it.
pub(crate) fn text(errno: i32) -> String {
    let told = std::io::Error::from_raw_os_error(errno).to_string();
    told.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The form of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// On standard error, between `---` and `...`: verbs that go over netlink.
    Netlink,
    /// On standard error: older verbs, and what is wrong with their values.
    Old,
    /// On standard output, behind the good answers: `ping`, `discover`.
    Answer,
    /// The words alone, on standard error.
    Words,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) form: Form,
    /// The verb, such as `add`.
    pub(crate) verb: &'static str,
    /// Its object, such as `route`.
    pub(crate) what: String,
    /// Positive.
    pub(crate) errno: i32,
    pub(crate) descr: String,
    /// The exit status.
    pub(crate) status: u8,
}

/// The exit status of an error number.
pub(crate) fn status(errno: i32) -> u8 {
    errno.wrapping_neg().to_le_bytes()[0]
}

impl Refusal {
    /// One over netlink; the status is that of the error number.
    pub(crate) fn netlink(verb: &'static str, what: &str, errno: i32, descr: impl Into<String>) -> Refusal {
        Refusal {
            form: Form::Netlink,
            verb,
            what: what.to_owned(),
            errno,
            descr: descr.into(),
            status: status(errno),
        }
    }

    /// One of an older verb; the status is that of the error number.
    pub(crate) fn old(verb: &'static str, what: &str, errno: i32, descr: impl Into<String>) -> Refusal {
        Refusal { form: Form::Old, ..Refusal::netlink(verb, what, errno, descr) }
    }

    /// Nothing but words.
    pub(crate) fn words(status: u8, descr: impl Into<String>) -> Refusal {
        Refusal { form: Form::Words, status, ..Refusal::netlink("", "", 0, descr) }
    }

    /// The same with another exit status, where lnetctl's is not that of its text.
    pub(crate) fn with_status(self, status: u8) -> Refusal {
        Refusal { status, ..self }
    }

    /// The text, as lnetctl prints it.
    pub(crate) fn text(&self) -> String {
        let Refusal { verb, what, errno, descr, .. } = self;
        match self.form {
            Form::Netlink => {
                let descr = descr.replace('\\', "\\\\").replace('"', "\\\"");
                format!(
                    "---\n{verb}:\n-     {what}:\n      errno: -{errno}\n      descr: ! \"{descr}\"\n...\n"
                )
            }
            Form::Old => {
                let descr = descr.replace('\n', "\n                 ");
                format!("{verb}:\n    - {what}:\n          errno: -{errno}\n          descr: {descr}\n")
            }
            Form::Answer => {
                let descr = descr.replace('\'', "''");
                format!("{verb}:\n- {what}:\n  errno: -{errno}\n  descr: ! '{descr}'\n")
            }
            Form::Words => match descr.as_str() {
                "" => String::new(),
                words => format!("{words}\n"),
            },
        }
    }

    /// Prints it where it belongs, and gives the exit status.
    pub(crate) fn end(&self) -> u8 {
        let text = self.text();
        if self.form == Form::Answer {
            if let Err(e) = out::text(text) {
                out::note(e);
            }
        } else {
            out::err(&text);
        }
        self.status
    }
}

impl From<String> for Refusal {
    /// No node, or one that does not answer: no kernel says so.
    fn from(e: String) -> Refusal {
        Refusal::words(1, format!("pollnd: {e}"))
    }
}
