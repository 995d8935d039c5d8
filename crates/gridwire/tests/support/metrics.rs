//! Reading the metrics page.

/// The value of one series, written as on the page with its labels.
pub(crate) fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| {
        let rest = line.strip_prefix(series)?.strip_prefix(' ')?;
        rest.parse().ok()
    })
}

/// The lines of the families whose names begin with one of `prefixes`.
pub(crate) fn family(page: &str, prefixes: &[&str]) -> Vec<String> {
    page.lines()
        .filter(|line| prefixes.iter().any(|prefix| line.starts_with(prefix)))
        .map(str::to_owned)
        .collect()
}
