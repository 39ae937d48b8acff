//! Parameters of a test, judged before anything goes out: no kernel is sent what would stop it (selftest.md §6).

/// Most bytes of one BRW.
pub const BRW_MAX: u32 = 1 << 20;
/// Bytes of a page, on the kernels that count (selftest.md §4.3).
const PAGE: u32 = 4096;

/// Direction of a BRW, seen from the source group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rw {
    /// The server PUTs.
    Read,
    /// The server GETs.
    Write,
}

/// Contents of bulk, and how far they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Neither filled nor checked.
    None,
    /// The first and the last word.
    Simple,
    /// Every word.
    Full,
    /// As `None`; a kernel does not even copy it out of its socket (2.17.57 and newer).
    Discard,
}

/// A test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Params {
    /// Requests and answers alone.
    Ping,
    /// Bulk.
    Brw {
        /// Direction.
        rw: Rw,
        /// Contents.
        check: Check,
        /// Bytes of each.
        len: u32,
        /// Offset in the client's first page, in bytes.
        off: u32,
    },
}

impl Params {
    /// The name of the test, as `list_batch` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Params::Ping => "ping",
            Params::Brw { .. } => "brw",
        }
    }
}

impl Check {
    /// Its number in TEST and BRW requests (selftest.md §3).
    pub fn flags(self) -> u32 {
        match self {
            Check::None => 1,
            Check::Simple => 2,
            Check::Full => 3,
            Check::Discard => 4,
        }
    }
}

/// A test and its parameters, as `add_test` has them behind the groups.
///
/// # Errors
/// In lst's words, and what to write instead.
pub(super) fn parse(words: &[String]) -> Result<Params, String> {
    let Some((name, rest)) = words.split_first() else {
        return Err("Missing test name: write brw or ping".into());
    };
    match name.as_str() {
        "ping" => match rest.first() {
            None => Ok(Params::Ping),
            Some(w) => Err(format!("Unknow parameter: {w}: ping takes none\nFailed to add test (ping)")),
        },
        "brw" => brw(rest).map_err(|e| format!("{e}\nFailed to add test (brw)")),
        other => {
            Err(format!("Unknow test name {other}: there are brw and ping\nFailed to add test ({other})"))
        }
    }
}

fn brw(words: &[String]) -> Result<Params, String> {
    let (mut rw, mut check, mut skip) = (Rw::Read, None, false);
    let (mut len, mut off) = (PAGE, 0);
    for w in words {
        let (key, value) = w.split_once('=').unwrap_or((w, ""));
        // As lst: in any case, and with one letter for two of the names.
        match key.to_ascii_lowercase().as_str() {
            "read" | "r" => rw = Rw::Read,
            "write" | "w" => rw = Rw::Write,
            "skip_rx_copy" => skip = true,
            "check" | "c" => {
                check = Some(match value.to_ascii_lowercase().as_str() {
                    "none" => Check::None,
                    "simple" => Check::Simple,
                    "full" => Check::Full,
                    "discard" => Check::Discard,
                    _ => {
                        return Err(format!(
                            "Unknow flag {value}: check takes none, simple, full or discard"
                        ));
                    }
                });
            }
            "size" | "s" => len = size(value)?,
            "off" => off = offset(value)?,
            _ => {
                return Err(format!(
                    "Unknow parameter: {w}: brw takes read, write, check=, size=, off= and skip_rx_copy"
                ));
            }
        }
    }
    match (skip, check) {
        (true, Some(c)) if c != Check::Discard => {
            return Err("skip_rx_copy conflicts with check=: leave one of them out".into());
        }
        (true, _) => check = Some(Check::Discard),
        _ => {}
    }
    judge(len, off)?;
    Ok(Params::Brw { rw, check: check.unwrap_or(Check::None), len, off })
}

/// Whether lengths and offsets stop no kernel.
///
/// # Errors
/// The reason, and what to write.
pub(super) fn judge(len: u32, off: u32) -> Result<(), String> {
    if !len.is_multiple_of(8) {
        return Err(format!(
            "Invalid size {len}: no multiple of 8, which a kernel that serves it does not survive; write {}",
            len.next_multiple_of(8).min(BRW_MAX)
        ));
    }
    let inside = off % PAGE;
    let needs = (inside + len).div_ceil(PAGE);
    let pages = len.div_ceil(PAGE);
    if needs > pages {
        let room = pages * PAGE - len;
        let remedy =
            if room == 0 { "leave off= out".to_owned() } else { format!("write off={room} or less") };
        return Err(format!(
            "Invalid offset {off}: {len} bytes from there take {needs} pages and not {pages}, which a kernel that is a source \
             does not survive; {remedy}, or write a smaller size"
        ));
    }
    Ok(())
}

/// Whether a session without variable lengths (features 0) can have the test, whose lengths are pages there.
///
/// # Errors
/// The reason.
pub(super) fn judge_v0(p: &Params) -> Result<(), String> {
    match p {
        Params::Brw { check: Check::Discard, .. } => {
            Err("the members know no lengths but pages (features 0), and so no check=discard either".into())
        }
        Params::Brw { len, off, .. } if !len.is_multiple_of(PAGE) || *off != 0 => Err(format!(
            "the members know no lengths but pages (features 0): write a size that is a multiple of {PAGE}, and no off="
        )),
        _ => Ok(()),
    }
}

fn size(s: &str) -> Result<u32, String> {
    let invalid = || format!("Invalid size {s}: write a number of bytes, or one with k or M, such as 4k");
    let bytes = number(s).filter(|n| *n > 0).ok_or_else(invalid)?;
    match u32::try_from(bytes) {
        Ok(n) if n <= BRW_MAX => Ok(n),
        _ => Err(format!("Size exceed limitation: {bytes} bytes: at most {BRW_MAX} (1M) go in one message")),
    }
}

fn offset(s: &str) -> Result<u32, String> {
    let n = number(s).and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= i32::MAX as u32);
    n.filter(|n| n.is_multiple_of(8))
        .ok_or_else(|| format!("Invalid offset {s}/{s}, it should be postive value and multiple of 8"))
}

/// A number, perhaps with `k` or `M`.
fn number(s: &str) -> Option<u64> {
    let (digits, unit) = match s.as_bytes().last()? {
        b'k' | b'K' => (s.get(..s.len() - 1)?, 1 << 10),
        b'm' | b'M' => (s.get(..s.len() - 1)?, 1 << 20),
        _ => (s, 1),
    };
    // As strtol reads them: 0x1000 is 4096. A zero in front, octal to it, is refused rather than taken for ten times as much.
    let (digits, base) = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (digits, 10),
    };
    let octal = base == 10 && digits.len() > 1 && digits.starts_with('0');
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit()) && !octal;
    plain.then(|| u64::from_str_radix(digits, base).ok()?.checked_mul(unit)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(line: &str) -> Result<Params, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn parameters_are_taken_as_lst_takes_them() {
        let brw = |rw, check, len, off| Ok(Params::Brw { rw, check, len, off });
        assert_eq!(take("ping"), Ok(Params::Ping));
        for (line, want) in [
            ("brw", brw(Rw::Read, Check::None, 4096, 0)),
            ("brw write check=full size=1M", brw(Rw::Write, Check::Full, 1 << 20, 0)),
            ("brw read check=simple size=8k", brw(Rw::Read, Check::Simple, 8192, 0)),
            ("brw w skip_rx_copy size=20k", brw(Rw::Write, Check::Discard, 20480, 0)),
            ("brw r check=discard skip_rx_copy", brw(Rw::Read, Check::Discard, 4096, 0)),
            ("brw W c=Full s=1m", brw(Rw::Write, Check::Full, 1 << 20, 0)),
            ("brw Write CHECK=simple", brw(Rw::Write, Check::Simple, 4096, 0)),
            ("brw read size=0x1000", brw(Rw::Read, Check::None, 4096, 0)),
            ("brw write size=4088 off=8", brw(Rw::Write, Check::None, 4088, 8)),
            ("brw write size=8 off=4088", brw(Rw::Write, Check::None, 8, 4088)),
            // An offset counts within its page.
            ("brw write size=4k off=8192", brw(Rw::Write, Check::None, 4096, 8192)),
        ] {
            assert_eq!(take(line), want, "{line}");
        }
    }

    /// Parameters that stop a kernel, and the bad parameters of lst's texts (testdata/texts/lst/09-add_test-bad-*).
    #[test]
    fn bad_parameters_are_refused_in_the_words_of_lst_and_with_the_reason() {
        let said = [
            "",
            "foo",
            "ping size=4k",
            "brw write check=foo",
            "brw write size=2M",
            "brw write size=abc",
            "brw write size=0",
            "brw write size=-8",
            "brw write size=99999999999999999999M",
            "brw write size=4k off=4",
            "brw write size=4k off=-8",
            "brw write check=full skip_rx_copy size=4k",
            "brw frobnicate",
            "brw read size=4100",
            "brw read size=4k off=8",
            "brw read size=1M off=4088",
            "brw read size=8 off=4096k off=4094",
        ]
        .map(|l| take(l).unwrap_err())
        .join("\n\n");
        insta::assert_snapshot!(said);
    }

    #[test]
    fn lengths_without_bulk_len_are_pages() {
        let v0 = |line: &str| judge_v0(&take(line).unwrap());
        assert_eq!((v0("ping"), v0("brw size=8k"), v0("brw size=1M check=full")), (Ok(()), Ok(()), Ok(())));
        for line in ["brw size=4088", "brw size=8 off=8", "brw check=discard"] {
            assert!(v0(line).unwrap_err().contains("features 0"), "{line}");
        }
    }
}
