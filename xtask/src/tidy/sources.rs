//! Rules about single source files.

use super::Finding;
use super::code::{without_tests, without_text};

/// Past this, look for the second idea in the file.
const LINES_ADVISED: usize = 700;
/// Past this nobody reads a file in one sitting.
const LINES_MAX: usize = 1_000;

/// Only these talk to the machine: the real implementations of the outside's traits, and the program that
/// wires them.
const MAY_TOUCH_THE_MACHINE: [&str; 3] = ["crates/gridwire-outside/", "crates/gridwire/", "xtask/"];

/// Files, sockets and look-ups past `Disk` and `Net`. Addresses (`std::net::IpAddr`) are only values.
const MACHINE: [&str; 10] = [
    "std::fs",
    "tokio::fs",
    "tokio::net",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "UnixDatagram",
    "ToSocketAddrs",
];

/// A module with one of these names is where a shape meets somebody else.
const SERDE_MODULES: [&str; 5] = ["http", "wire", "format", "options", "settings"];

/// Other files that may derive serde traits, and why.
const SERDE_EXCEPTIONS: [(&str, &str); 4] = [
    ("crates/gridwire/src/apply.rs", "the resource file is a format, told in the module's own words"),
    ("crates/gridwire/src/command/tail.rs", "one small answer, read where it is asked for"),
    ("crates/gridwire/src/data_dir.rs", "`addresses.json`, beside the rest of the directory's files"),
    ("crates/gridwire-broker/src/data_plane/pull.rs", "one small request body, private to its handler"),
];

/// Every rule about the file at `path` (from the root, with `/`).
pub(super) fn check(path: &str, source: &str, findings: &mut Vec<Finding>) {
    check_beginning(path, source, findings);
    check_length(path, source, findings);
    let code = without_text(source);
    let is_test = path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/benches/");
    let code = if is_test { "" } else { without_tests(&code) };
    check_purity(path, code, findings);
    check_machine(path, code, findings);
    check_serde(path, code, findings);
}

fn check_beginning(path: &str, source: &str, findings: &mut Vec<Finding>) {
    if path.contains("/src/") && !source.starts_with("//!") {
        findings.push(Finding::new(path, 1, "module-doc", "begin with `//!`: what is this module for?"));
    }
}

fn check_length(path: &str, source: &str, findings: &mut Vec<Finding>) {
    let lines = source.lines().count();
    let finding = |limit| {
        let message = format!("{lines} lines, more than {limit}: split by idea");
        Finding::new(path, 0, "file-length", message)
    };
    if LINES_MAX < lines {
        findings.push(finding(LINES_MAX));
    } else if LINES_ADVISED < lines {
        findings.push(finding(LINES_ADVISED).advice());
    }
}

/// The state machines wait for nothing: what they would wait for, they return.
fn check_purity(path: &str, code: &str, findings: &mut Vec<Finding>) {
    if !path.starts_with("crates/gridwire-core/") {
        return;
    }
    for word in ["async", "await", "tokio"] {
        find_word(code, word, |line| {
            let message = format!("`{word}`: the core waits for nothing, it returns what it waits for");
            findings.push(Finding::new(path, line, "pure-core", message));
        });
    }
}

/// A simulation must own every file and socket.
fn check_machine(path: &str, code: &str, findings: &mut Vec<Finding>) {
    if MAY_TOUCH_THE_MACHINE.iter().any(|prefix| path.starts_with(prefix)) {
        return;
    }
    for word in MACHINE {
        find_word(code, word, |line| {
            let message = format!("`{word}`: files and sockets enter by `gridwire_outside::Disk` and `Net`");
            findings.push(Finding::new(path, line, "outside", message));
        });
    }
}

/// A serializable type is a promise to somebody; promises are kept in few places.
fn check_serde(path: &str, code: &str, findings: &mut Vec<Finding>) {
    let names = path.trim_end_matches(".rs").split('/');
    let is_shape = names.into_iter().any(|name| SERDE_MODULES.contains(&name));
    if is_shape || SERDE_EXCEPTIONS.iter().any(|(file, _)| *file == path) {
        return;
    }
    for (at, _) in code.match_indices("derive(") {
        let list = code[at..].split(')').next().unwrap_or_default();
        if list.contains("Serialize") || list.contains("Deserialize") {
            let message = format!(
                "serde traits are derived in modules called {}, or in files listed with their reason",
                SERDE_MODULES.join(", ")
            );
            findings.push(Finding::new(path, line_of(code, at), "serde", message));
        }
    }
}

/// Calls `found` with the line of each place where `word` stands by itself.
fn find_word(code: &str, word: &str, mut found: impl FnMut(usize)) {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in code.match_indices(word) {
        let before = code[..at].chars().next_back().is_some_and(in_word);
        let after = code[at + word.len()..].chars().next().is_some_and(in_word);
        if !before && !after {
            found(line_of(code, at));
        }
    }
}

fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

#[cfg(test)]
mod tests {

    fn check(path: &str, source: &str, expected: &[(usize, &str)]) {
        let mut findings = Vec::new();
        super::check(path, source, &mut findings);
        let found: Vec<_> = findings.iter().map(|finding| (finding.line, finding.rule)).collect();
        assert_eq!(found, expected, "{path}: {findings:?}");
    }

    #[test]
    fn a_module_begins_with_its_purpose() {
        check("crates/a/src/lib.rs", "//! What it is for.\n", &[]);
        check("crates/a/src/lib.rs", "use x;\n", &[(1, "module-doc")]);
        check("crates/a/tests/x.rs", "use x;\n", &[]);
    }

    #[test]
    fn a_long_file_is_named_and_a_longer_one_fails() {
        for (lines, expected) in [(700, None), (701, Some(true)), (1000, Some(true)), (1001, Some(false))] {
            let mut findings = Vec::new();
            super::check("crates/a/src/a.rs", &"//! x\n".repeat(lines), &mut findings);
            assert_eq!(findings.first().map(|finding| finding.is_advice), expected, "{lines}");
        }
    }

    #[test]
    fn the_core_waits_for_nothing() {
        let core = "crates/gridwire-core/src/shard.rs";
        check(core, "//! No tokio.\nfn f() { \"await\"; asynchronous(); }\n", &[]);
        check(core, "//! x\nasync fn f() {\n    g().await\n}\n", &[(2, "pure-core"), (3, "pure-core")]);
        check("crates/gridwire-store/src/log.rs", "//! x\nasync fn f() {}\n", &[]);
    }

    #[test]
    fn files_and_sockets_enter_by_the_outside() {
        let source = "//! x\nuse std::fs;\nuse tokio::net::TcpStream;\n";
        check("crates/gridwire-broker/src/a.rs", source, &[(2, "outside"), (3, "outside"), (3, "outside")]);
        check("crates/gridwire-outside/src/system.rs", source, &[]);
        check("crates/gridwire/src/main.rs", source, &[]);
        check("crates/gridwire-broker/tests/a.rs", source, &[]);
        check("crates/gridwire-broker/src/a.rs", "//! x\nuse std::net::SocketAddr;\n", &[]);
        let in_tests = "//! x\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        check("crates/gridwire-broker/src/a.rs", in_tests, &[]);
    }

    #[test]
    fn serializable_types_have_their_places() {
        let source = "//! x\n#[derive(\n    Debug,\n    serde::Deserialize,\n)]\nstruct A;\n";
        check("crates/gridwire-store/src/log.rs", source, &[(2, "serde")]);
        check("crates/gridwire-store/src/wire.rs", source, &[]);
        check("crates/gridwire-store/src/format/v1.rs", source, &[]);
        check("crates/gridwire/src/data_dir.rs", source, &[]);
        check("crates/gridwire-store/src/log.rs", "//! x\n#[derive(Debug)]\nstruct A;\n", &[]);
    }
}
