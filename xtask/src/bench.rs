//! The load generator and its reports.

use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::run::{output, say};
use crate::test;
use crate::workspace::Workspace;

/// What a scenario of `gridwire bench` came to.
#[derive(Debug)]
pub(crate) struct Report(Value);

/// The load generator, as it is released.
pub(crate) fn bench(workspace: &Workspace, scenario: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(test::build(workspace, true)?);
    command.args(["bench", scenario]).current_dir(&workspace.root);
    Ok(command)
}

/// Runs it to the end; where the server did not do what it should, that is an error.
pub(crate) fn report(command: &mut Command) -> anyhow::Result<Report> {
    let text = output(command.args(["--output", "json"]))?;
    Ok(Report(serde_json::from_str(&text).context("the report is not JSON")?))
}

impl Report {
    /// What it says, but for series.
    pub(crate) fn tell(&self) {
        if let Some(facts) = self.0["facts"].as_object() {
            let facts: Vec<_> = facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
            say(&facts.join(", "));
        }
        for note in self.all("notes").filter_map(Value::as_str) {
            say(note);
        }
        for table in self.all("tables") {
            for row in table["rows"].as_array().into_iter().flatten() {
                say(&format!("{}: {row}", table["name"].as_str().unwrap_or_default()));
            }
        }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.0[name].as_array().into_iter().flatten()
    }

    /// A fact that is a whole number.
    pub(crate) fn count(&self, fact: &str) -> anyhow::Result<u64> {
        self.0["facts"][fact].as_u64().with_context(|| format!("the report does not tell `{fact}`"))
    }

    /// A cell of a table that is a whole number.
    pub(crate) fn cell(&self, table: &str, row: &str, cell: &str) -> anyhow::Result<i64> {
        let named = |value: &&Value, name: &str| value["name"] == name;
        self.all("tables")
            .find(|value| named(value, table))
            .and_then(|table| table["rows"].as_array()?.iter().find(|value| named(value, row)))
            .and_then(|row| row[cell].as_i64())
            .with_context(|| format!("the report has no `{cell}` of `{row}` in `{table}`"))
    }

    /// Events in a second of the first series, which is what the scenario is about.
    pub(crate) fn rate(&self) -> anyhow::Result<f64> {
        let rate = self.0["series"][0]["events_per_second"].as_f64().context("the report has no series")?;
        ensure!(rate > 0.0, "nothing was done");
        Ok(rate)
    }

    /// Each ratio with an aim, said and judged.
    pub(crate) fn check_ratios(&self) -> anyhow::Result<()> {
        let mut missed = Vec::new();
        for ratio in self.all("ratios") {
            let name = ratio["name"].as_str().unwrap_or_default();
            let value = ratio["median"].as_f64().context("a ratio without a value")?;
            let Some(aim) = ratio["aim"].as_f64() else { continue };
            let least = ratio["aim_at"] == "least";
            let word = if least { "least" } else { "most" };
            say(&format!("{name}: {value:.2}; at {word} {aim:.2}"));
            let met = if least { aim <= value } else { 0.0 < value && value <= aim };
            if !met {
                missed.push(format!("{name} is {value:.2}"));
            }
        }
        ensure!(missed.is_empty(), "{}", missed.join("; "));
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn report(value: Value) -> Report {
        Report(value)
    }

    #[test]
    fn figures_are_found_by_their_names() {
        let report = report(json!({
            "facts": { "restart_milliseconds": 700 },
            "series": [{ "events_per_second": 12.5 }],
            "tables": [{ "name": "a", "rows": [] }, { "name": "b", "rows": [
                { "name": "x", "bytes": 1 }, { "name": "y", "bytes": -2 },
            ] }],
        }));
        assert_eq!(report.count("restart_milliseconds").unwrap(), 700);
        assert!(report.count("another").is_err());
        assert_eq!(report.cell("b", "y", "bytes").unwrap(), -2);
        for (table, row, cell) in [("a", "y", "bytes"), ("b", "z", "bytes"), ("b", "y", "bits")] {
            assert!(report.cell(table, row, cell).is_err(), "{table} {row} {cell}");
        }
        assert!((report.rate().unwrap() - 12.5).abs() < 1e-9);
    }

    #[test]
    fn a_ratio_on_the_wrong_side_of_its_aim_is_missed() {
        let check = |bound: &str, value: f64, aim: Value, is_met: bool| {
            let ratio = json!({ "name": "r", "median": value, "aim": aim, "aim_at": bound });
            let judged = report(json!({ "ratios": [ratio] })).check_ratios();
            assert_eq!(judged.is_ok(), is_met, "{value} at {bound} {aim}");
        };
        check("most", 1.5, json!(1.5), true);
        check("most", 1.51, json!(1.5), false);
        // No latency at all was measured.
        check("most", 0.0, json!(1.5), false);
        check("least", 0.9, json!(0.9), true);
        check("least", 0.89, json!(0.9), false);
        check("least", 0.1, Value::Null, true);
    }
}
