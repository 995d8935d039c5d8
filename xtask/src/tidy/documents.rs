//! Rules about documents: every error code has its page, and every link leads somewhere.

use super::{Finding, Tree};

const ERROR_CODES: &str = "crates/gridwire-core/src/api_error.rs";

/// Where the text of each code stands in that file.
const CODES_BEGIN: &str = "pub fn as_str(self)";

pub(super) fn check_error_pages(tree: &Tree, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let codes = error_codes(&tree.read(ERROR_CODES)?);
    if codes.is_empty() {
        findings.push(Finding::new(ERROR_CODES, 0, "error-pages", "no codes found: has `as_str` moved?"));
    }
    let page = |code: &String| format!("docs/errors/{code}.md");
    for code in &codes {
        if !tree.has(&page(code)) {
            let message = format!("`{code}` has no page `{}`", page(code));
            findings.push(Finding::new(ERROR_CODES, 0, "error-pages", message));
            continue;
        }
        check_error_page(&page(code), code, &tree.read(&page(code))?, findings);
    }
    for file in tree.files("docs/errors", "md")? {
        if file != "docs/errors/README.md" && !codes.iter().any(|code| page(code) == file) {
            findings.push(Finding::new(&file, 0, "error-pages", "there is no such code"));
        }
    }
    Ok(())
}

fn check_error_page(file: &str, code: &str, page: &str, findings: &mut Vec<Finding>) {
    let parts = [format!("# `{code}`"), "## Why".to_owned(), "## What to do".to_owned()];
    for part in parts {
        if !page.lines().any(|line| line == part) {
            findings.push(Finding::new(file, 0, "error-pages", format!("the line `{part}` is missing")));
        }
    }
}

/// The texts that `ErrorCode::as_str` gives.
fn error_codes(source: &str) -> Vec<String> {
    let Some((_, rest)) = source.split_once(CODES_BEGIN) else { return Vec::new() };
    let body = rest.split("\n    }\n").next().unwrap_or_default();
    body.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next()).map(str::to_owned).collect()
}

/// Links of README, ARCHITECTURE and everything in `docs/` to files of the repository.
pub(super) fn check_links(tree: &Tree, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let mut files = tree.files("docs", "md")?;
    files.extend(
        ["README.md", "ARCHITECTURE.md"].into_iter().filter(|file| tree.has(file)).map(str::to_owned),
    );
    for file in files {
        for (line, target) in links(&tree.read(&file)?) {
            let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
            if !tree.has(&format!("{directory}/{target}").trim_start_matches('/').replace("%20", " ")) {
                findings.push(Finding::new(&file, line, "links", format!("`{target}` does not exist")));
            }
        }
    }
    Ok(())
}

/// The targets of a page's links that are files, with their lines. Code is not looked at.
fn links(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in page.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code || line.starts_with("    ") {
            continue;
        }
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for after in text.split("](").skip(1) {
            let target = after.split([')', ' ', '#']).next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !target.is_empty() && !is_elsewhere {
                found.push((index + 1, target.to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_from_their_function() {
        let source = "\
impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => \"too_large\",
            Self::Internal => \"internal\",
        }
    }

    pub fn public(self) -> (u16, &'static str) {
        match self {
            Self::Internal => \"other\",
        }
    }
}
";
        assert_eq!(error_codes(source), ["too_large", "internal"]);
        assert!(error_codes("nothing here").is_empty());
    }

    #[test]
    fn an_error_page_says_what_why_and_what_to_do() {
        let check = |page: &str, expected: usize| {
            let mut findings = Vec::new();
            check_error_page("docs/errors/internal.md", "internal", page, &mut findings);
            assert_eq!(findings.len(), expected, "{findings:?}");
        };
        check("# `internal`\n\nx\n\n## Why\n\nx\n\n## What to do\n", 0);
        check("# `other`\n\n## Why\n", 2);
    }

    #[test]
    fn links_to_files_are_found() {
        let check = |line: &str, expected: &[&str]| {
            let found: Vec<_> = links(line).into_iter().map(|(_, target)| target).collect();
            assert_eq!(found, expected, "{line}");
        };
        check("see [a](docs/a.md) and [b](b.md#part)", &["docs/a.md", "b.md"]);
        check("[x](https://example.org/a.md) [y](#part) [z](mailto:a@b)", &[]);
        check("`[a](code.md)` [b](b.md)", &["b.md"]);
        check("```\n[a](code.md)\n```\n[b](b.md)", &["b.md"]);
    }
}
