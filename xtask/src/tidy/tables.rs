//! The tables of rules in `docs/compatibility/`: each row names a test that shows its rule, and each test that is
//! named is there. A table that nobody checks tells, after a year, what was once true.
//!
//! A test is named by a link: its function's name in backticks, leading to its file. A row without one has a dash
//! instead, and may have it only where it owns up to a difference, so that "same" always has its proof.

use std::collections::HashMap;

use super::{Finding, Tree};

const DIRECTORY: &str = "docs/compatibility";
const RULE: &str = "rule-tests";
/// The header of a table that is looked at.
const HEADER: [&str; 4] = ["#", "rule", "Gridwire", "test"];
/// What stands where there is no test.
const NO_TEST: &str = "–";

pub(super) fn check(tree: &Tree, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let pages = tree.files(DIRECTORY, "md")?;
    if pages.is_empty() {
        findings.push(Finding::new(DIRECTORY, 0, RULE, "no page found: have the tables moved?"));
    }
    let mut sources = HashMap::new();
    for page in pages {
        let text = tree.read(&page)?;
        let rows = rows(&text);
        if rows.is_empty() {
            let message = format!("no table with the columns {HEADER:?}");
            findings.push(Finding::new(&page, 0, RULE, message));
        }
        for (_, named) in rows.iter().flat_map(|row| &row.tests) {
            let source = from_root(&page, named);
            if !sources.contains_key(&source) && tree.has(&source) {
                let text = tree.read(&source)?;
                sources.insert(source, text);
            }
        }
        check_rows(&page, &rows, &sources, findings);
    }
    Ok(())
}

/// A rule of a table.
#[derive(Debug, PartialEq, Eq)]
struct Row<'p> {
    line: usize,
    number: &'p str,
    gridwire: &'p str,
    test: &'p str,
    /// Names of tests, each with the file that its link leads to.
    tests: Vec<(&'p str, &'p str)>,
}

/// Every row of every table of rules on a page.
fn rows(page: &str) -> Vec<Row<'_>> {
    let definitions: HashMap<&str, &str> = page.lines().filter_map(definition).collect();
    let mut found = Vec::new();
    let mut in_table = false;
    for (index, line) in page.lines().enumerate() {
        let cells = cells(line);
        match cells[..] {
            _ if cells == HEADER => in_table = true,
            [number, _, gridwire, test] if in_table && !number.starts_with('-') => {
                let tests = tests(test, &definitions);
                found.push(Row { line: index + 1, number, gridwire, test, tests });
            }
            [_, _, _, _] => {}
            _ => in_table = false,
        }
    }
    found
}

/// The cells of a table's line; none of any other line.
fn cells(line: &str) -> Vec<&str> {
    let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
        return Vec::new();
    };
    // An escaped bar is text.
    let mut cells = Vec::new();
    let mut begin = 0;
    for (at, _) in inner.match_indices('|').filter(|(at, _)| !inner[..*at].ends_with('\\')) {
        cells.push(inner[begin..at].trim());
        begin = at + 1;
    }
    cells.push(inner[begin..].trim());
    cells
}

/// `[label]: target`.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
    Some((label, target.trim()))
}

/// The links of a cell whose text is code, with what they lead to; a label that is not defined leads nowhere.
fn tests<'p>(cell: &'p str, definitions: &HashMap<&str, &'p str>) -> Vec<(&'p str, &'p str)> {
    let link = |text: &'p str| {
        let (name, rest) = text.split_once("`]")?;
        let target = match rest.strip_prefix('(') {
            Some(rest) => rest.split(')').next()?,
            None => definitions.get(rest.strip_prefix('[')?.split(']').next()?).copied().unwrap_or(""),
        };
        Some((name, target))
    };
    cell.split("[`").skip(1).filter_map(link).collect()
}

/// A page's link as a path from the repository's root.
fn from_root(page: &str, link: &str) -> String {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn check_rows(page: &str, rows: &[Row<'_>], sources: &HashMap<String, String>, findings: &mut Vec<Finding>) {
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for row in rows {
        let mut find = |message: String| findings.push(Finding::new(page, row.line, RULE, message));
        if let Some(first) = numbers.insert(row.number, row.line) {
            find(format!("{} is the number of line {first}, too", row.number));
        }
        if row.tests.is_empty() {
            if row.test != NO_TEST {
                find(format!("{} names no test; a row without one has `{NO_TEST}` there", row.number));
            } else if !row.gridwire.starts_with("differs") && !row.gridwire.starts_with("not there") {
                find(format!("{} has no test, and says neither `differs` nor `not there`", row.number));
            }
        }
        for (name, link) in &row.tests {
            let source = from_root(page, link);
            match sources.get(&source) {
                None => find(format!("`{name}` is said to be in `{source}`, which does not exist")),
                Some(text) if !has_test(text, name) => find(format!("`{source}` has no test `{name}`")),
                Some(_) => {}
            }
        }
    }
}

/// Whether a source has a test function of this name.
fn has_test(source: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let is_head = line.strip_prefix("async ").unwrap_or(line).starts_with(&head);
        let mut attributes =
            lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        is_head && attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
    #[test]
    fn plain() {}

    #[tokio::test(start_paused = true)]
    async fn waiting() {}

    fn helper() {}
";

    /// The messages for a page with one table of these rows.
    fn check(rows_of_page: &str) -> Vec<String> {
        let page = format!(
            "| a | b |\n| --- | --- |\n| x | y |\n\n| # | rule | Gridwire | test |\n| --- | --- | --- | --- |\n{rows_of_page}\n\n[c]: ../../crates/c/src/lib.rs\n"
        );
        let sources = HashMap::from([("crates/c/src/lib.rs".to_owned(), SOURCE.to_owned())]);
        let mut findings = Vec::new();
        check_rows("docs/compatibility/x.md", &rows(&page), &sources, &mut findings);
        findings.into_iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
    }

    #[test]
    fn a_row_with_tests_that_are_there_is_fine() {
        let none: [&str; 0] = [];
        assert_eq!(check("| 1 | r | same | [`plain`][c], [`waiting`](../../crates/c/src/lib.rs) |"), none);
        assert_eq!(check("| 1 | a \\| b | differs: why | – |\n| 2 | r | not there | – |"), none);
    }

    #[test]
    fn a_test_that_is_not_there_is_found() {
        let of = |cell: &str| check(&format!("| 1 | r | same | {cell} |"));
        assert_eq!(of("[`gone`][c]"), ["7: `crates/c/src/lib.rs` has no test `gone`"]);
        assert_eq!(of("[`plain`][c], [`pla`][c]"), ["7: `crates/c/src/lib.rs` has no test `pla`"]);
        assert_eq!(of("[`helper`][c]"), ["7: `crates/c/src/lib.rs` has no test `helper`"]);
        assert_eq!(of("[`plain`][d]").len(), 1, "a label that is not defined");
        assert_eq!(of("[`plain`](../../crates/d.rs)").len(), 1, "a file that does not exist");
    }

    #[test]
    fn a_rule_without_a_test_owns_up_to_a_difference() {
        assert_eq!(check("| 1 | r | same | – |").len(), 1);
        assert_eq!(check("| 1 | r | same | `plain` |").len(), 1, "no link");
        assert_eq!(check("| 1 | r | differs | |").len(), 1);
    }

    #[test]
    fn no_number_is_given_twice() {
        let twice = "| 1 | r | same | [`plain`][c] |\n| 1 | s | same | [`plain`][c] |";
        assert_eq!(check(twice), ["8: 1 is the number of line 7, too"]);
    }
}
