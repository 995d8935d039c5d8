//! Rules about who depends on whom, and on what.

use super::{Finding, Tree};
use crate::workspace::Package;

/// Which of our crates each one may be built with. Dependencies point one way, and the planes never meet.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("gridwire-core", &[]),
    ("gridwire-outside", &["gridwire-core"]),
    ("gridwire-store", &["gridwire-core", "gridwire-outside"]),
    ("gridwire-http", &["gridwire-core", "gridwire-outside"]),
    ("gridwire-control", &["gridwire-core", "gridwire-outside", "gridwire-store", "gridwire-http"]),
    ("gridwire-broker", &["gridwire-core", "gridwire-outside", "gridwire-store", "gridwire-http"]),
    (
        "gridwire",
        &[
            "gridwire-core",
            "gridwire-outside",
            "gridwire-store",
            "gridwire-http",
            "gridwire-control",
            "gridwire-broker",
        ],
    ),
    (
        "gridwire-sim",
        &[
            "gridwire-core",
            "gridwire-outside",
            "gridwire-store",
            "gridwire-http",
            "gridwire-control",
            "gridwire-broker",
        ],
    ),
    ("xtask", &[]),
];

/// Files that name packages, not where they come from.
const LOCK_FILES: [&str; 4] = [
    "tests/api/requirements.txt",
    "tests/sdk/js/package.json",
    "tests/sdk/js/package-lock.json",
    "tests/sdk/python/requirements.txt",
];

/// What would say where a package comes from.
const SOURCES: [&str; 4] = ["\"resolved\"", "http://", "https://", "--index-url"];

pub(super) fn check_dependencies(packages: &[Package], findings: &mut Vec<Finding>) {
    let is_ours = |name: &String| packages.iter().any(|package| package.name == *name);
    for package in packages {
        let file = match package.name.as_str() {
            "xtask" => "xtask/Cargo.toml".to_owned(),
            name => format!("crates/{name}/Cargo.toml"),
        };
        let mut add = |message: String| findings.push(Finding::new(&file, 0, "dependencies", message));
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
            add("the crate has no line in xtask/src/tidy/structure.rs: what may it depend on?".to_owned());
            continue;
        };
        for dependency in package.dependencies.iter().filter(|name| is_ours(name)) {
            if !allowed.contains(&dependency.as_str()) {
                add(format!("`{}` may not depend on `{dependency}`", package.name));
            }
        }
    }
}

/// A registry's address in a lock file would send every other machine there.
pub(super) fn check_lock_files(tree: &Tree, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    for file in LOCK_FILES {
        check_lock_file(file, &tree.read(file)?, findings);
    }
    Ok(())
}

fn check_lock_file(file: &str, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        // Where a project asks for money or has its licence is not where it is fetched from.
        let elsewhere = ["\"url\":", "\"license\":"].iter().any(|name| line.contains(name));
        if SOURCES.iter().any(|source| line.contains(source)) && !elsewhere {
            let message = "names where packages come from; keep names, versions and digests only";
            findings.push(Finding::new(file, index + 1, "lock-file", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        let dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
        Package { name: name.to_owned(), dependencies }
    }

    fn check(packages: &[Package], expected: &[&str]) {
        let mut findings = Vec::new();
        check_dependencies(packages, &mut findings);
        let found: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn dependencies_point_one_way() {
        let core = package("gridwire-core", &["bytes"]);
        let outside = package("gridwire-outside", &["gridwire-core", "tokio"]);
        check(&[core, outside.clone()], &[]);
        let wrong = package("gridwire-core", &["gridwire-outside"]);
        check(&[wrong, outside], &["`gridwire-core` may not depend on `gridwire-outside`"]);
    }

    #[test]
    fn the_planes_never_meet() {
        let control = package("gridwire-control", &["gridwire-broker"]);
        let broker = package("gridwire-broker", &["gridwire-control"]);
        let expected = [
            "`gridwire-control` may not depend on `gridwire-broker`",
            "`gridwire-broker` may not depend on `gridwire-control`",
        ];
        check(&[control, broker], &expected);
    }

    #[test]
    fn a_new_crate_must_find_its_place() {
        let mut findings = Vec::new();
        check_dependencies(&[package("gridwire-new", &[])], &mut findings);
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn a_lock_file_names_no_registry() {
        let mut findings = Vec::new();
        let text = "{\n\"integrity\": \"sha512-x\",\n\"resolved\": \"https://example.org/a.tgz\",\n\"license\": \"https://example.org/licence.txt\"\n}";
        check_lock_file("package-lock.json", text, &mut findings);
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [3]);
    }
}
