//! What came out of a run, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::load::Tally;
use super::numbers::{float, median, per_second, quotient, show_count, show_micros, whole};
use super::proc::Usage;

/// The quantiles that are given, with their names in a table and in JSON.
const QUANTILES: [(f64, &str, &str); 4] =
    [(0.5, "p50", "p50"), (0.9, "p90", "p90"), (0.99, "p99", "p99"), (0.999, "p99.9", "p999")];

/// One slice of measuring one thing.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) tally: Tally,
    /// Processor time of whoever was measured.
    pub(crate) cpu: Option<Duration>,
}

impl Slice {
    /// `before` and `after` are the usage of the measured process around the slice.
    pub(crate) fn new(tally: Tally, before: Option<Usage>, after: Option<Usage>) -> Self {
        let cpu = before.zip(after).map(|(before, after)| after.cpu.saturating_sub(before.cpu));
        Self { tally, cpu }
    }

    fn events_per_second(&self) -> f64 {
        per_second(self.tally.events, self.tally.elapsed)
    }
}

/// All slices of one thing.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    name: &'static str,
    slices: Vec<Slice>,
}

impl Series {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, slices: Vec::new() }
    }

    pub(crate) fn push(&mut self, slice: Slice) {
        self.slices.push(slice);
    }

    /// The slices taken together; their times follow each other and add up.
    fn total(&self) -> Slice {
        let mut tally = Tally::new();
        let mut elapsed = Duration::ZERO;
        for slice in &self.slices {
            tally.add(&slice.tally);
            elapsed += slice.tally.elapsed;
        }
        tally.elapsed = elapsed;
        Slice { tally, cpu: self.slices.iter().map(|slice| slice.cpu).sum() }
    }
}

/// How two series compare, slice by slice.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    name: String,
    values: Vec<f64>,
    aim: Option<Aim>,
}

/// What the design asks of a ratio.
#[derive(Clone, Copy, Debug)]
enum Aim {
    Least(f64),
    Most(f64),
}

/// A cell of a [`Table`]: a figure that people and programs are shown differently.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Count(u64),
    /// A rate or a time in seconds, to one decimal.
    Decimal(f64),
    Micros(u64),
    Bytes(u64),
    /// A difference of bytes.
    More(i64),
    Unknown,
}

impl Cell {
    fn to_text(&self) -> String {
        let mebibytes = |bytes: u64| format!("{:.1} MiB", float(bytes) / f64::from(1 << 20));
        match *self {
            Self::Count(count) => show_count(count),
            Self::Decimal(value) => format!("{value:.1}"),
            Self::Micros(micros) => show_micros(micros),
            Self::Bytes(bytes) => mebibytes(bytes),
            Self::More(bytes) => {
                let sign = if bytes < 0 { '-' } else { '+' };
                format!("{sign}{}", mebibytes(bytes.unsigned_abs()))
            }
            Self::Unknown => "-".to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        match *self {
            Self::Count(value) | Self::Micros(value) | Self::Bytes(value) => json!(value),
            Self::Decimal(value) => json!(value),
            Self::More(value) => json!(value),
            Self::Unknown => Value::Null,
        }
    }
}

/// Figures that belong together and are no series.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The column's heading, and its name in JSON with the unit.
    pub(crate) columns: &'static [(&'static str, &'static str)],
    pub(crate) rows: Vec<(String, Vec<Cell>)>,
}

impl Table {
    pub(crate) fn new(name: &'static str, columns: &'static [(&'static str, &'static str)]) -> Self {
        Self { name, columns, rows: Vec::new() }
    }

    fn to_text(&self, out: &mut String) {
        let mut heading = vec![self.name.to_owned()];
        heading.extend(self.columns.iter().map(|(name, _)| (*name).to_owned()));
        let mut rows = vec![heading];
        for (name, cells) in &self.rows {
            rows.push([name.clone()].into_iter().chain(cells.iter().map(Cell::to_text)).collect());
        }
        align(&rows, out);
    }

    fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|(name, cells)| {
            let mut row = Map::from_iter([("name".to_owned(), json!(name))]);
            for ((_, key), cell) in self.columns.iter().zip(cells) {
                row.insert((*key).to_owned(), cell.to_json());
            }
            Value::Object(row)
        });
        json!({ "name": self.name, "rows": rows.collect::<Vec<_>>() })
    }
}

impl Ratio {
    /// Events per second of `measured` to those of `yardstick`, in slices that ran next to each other. `aim`
    /// is what the design asks for.
    pub(crate) fn of(measured: &Series, yardstick: &Series, aim: Option<f64>) -> Self {
        let pairs = measured.slices.iter().zip(&yardstick.slices);
        Self {
            name: format!("{} / {}", measured.name, yardstick.name),
            values: pairs.map(|(a, b)| quotient(a.events_per_second(), b.events_per_second())).collect(),
            aim: aim.map(Aim::Least),
        }
    }

    /// A ratio that should stay at or below `aim`.
    pub(crate) fn at_most(name: &str, value: f64, aim: f64) -> Self {
        Self { name: name.to_owned(), values: vec![value], aim: Some(Aim::Most(aim)) }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.values).unwrap_or(0.0)
    }
}

/// The result of a scenario.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    scenario: &'static str,
    /// What was measured under which conditions, in the order of telling.
    pub(crate) facts: Vec<(&'static str, Value)>,
    pub(crate) series: Vec<Series>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) tables: Vec<Table>,
    /// What is wrong with the server rather than slow: then the program ends with an error.
    pub(crate) faults: Vec<String>,
    /// What the server used from its start to the end of the measurement.
    pub(crate) server: Option<Usage>,
    /// What the generator itself used: where that is most of the machine, it is what was measured.
    pub(crate) generator: Option<Usage>,
    /// What the reader should know before believing a figure.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            facts: Vec::new(),
            series: Vec::new(),
            ratios: Vec::new(),
            tables: Vec::new(),
            faults: Vec::new(),
            server: None,
            generator: None,
            notes: debug_note().into_iter().collect(),
        }
    }

    pub(crate) fn fact(&mut self, name: &'static str, value: impl Into<Value>) {
        self.facts.push((name, value.into()));
    }

    /// A series in which nothing succeeded, with the reason of its first failure: then there is no result.
    pub(crate) fn dead_series(&self) -> Option<String> {
        self.series.iter().find_map(|series| {
            let total = series.total().tally;
            let reason = total.sample.unwrap_or_else(|| "nothing was done in the time given".to_owned());
            (total.events == 0).then(|| format!("{}: {reason}", series.name))
        })
    }

    pub(crate) fn to_json(&self) -> Value {
        let facts: Map<_, _> =
            self.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let ratios: Vec<_> = self
            .ratios
            .iter()
            .map(|ratio| {
                let (aim, bound) = match ratio.aim {
                    Some(Aim::Least(aim)) => (Some(aim), Some("least")),
                    Some(Aim::Most(aim)) => (Some(aim), Some("most")),
                    None => (None, None),
                };
                json!({
                    "name": ratio.name, "median": ratio.median(), "slices": ratio.values, "aim": aim,
                    "aim_at": bound,
                })
            })
            .collect();
        json!({
            "scenario": self.scenario,
            "facts": facts,
            "series": self.series.iter().map(series_json).collect::<Vec<_>>(),
            "ratios": ratios,
            "tables": self.tables.iter().map(Table::to_json).collect::<Vec<_>>(),
            "faults": self.faults,
            "server": self.server.map(usage_json),
            "generator": self.generator.map(usage_json),
            "notes": self.notes,
        })
    }

    pub(crate) fn to_text(&self) -> String {
        let mut out = format!("{}\n", self.scenario);
        let width = self.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.facts {
            let value = match value {
                Value::String(text) => text.clone(),
                // What a person would measure again would differ in the decimals.
                Value::Number(number) if number.is_f64() => format!("{:.0}", number.as_f64().unwrap_or(0.0)),
                other => other.to_string(),
            };
            let _ = writeln!(out, "  {:width$}  {value}", name.replace('_', " "));
        }
        if !self.series.is_empty() {
            out.push('\n');
            let mut rows = vec![headings()];
            rows.extend(self.series.iter().map(row));
            align(&rows, &mut out);
        }
        for series in &self.series {
            let tally = series.total().tally;
            if let Some(sample) = &tally.sample {
                let _ = writeln!(out, "  {}: {} failed, {sample}", series.name, counts(&tally.failures));
            }
        }
        for table in &self.tables {
            out.push('\n');
            table.to_text(&mut out);
        }
        for ratio in &self.ratios {
            let slices: Vec<_> = ratio.values.iter().map(|value| format!("{value:.2}")).collect();
            let aim = match ratio.aim {
                Some(Aim::Least(aim)) => format!("; aim {aim:.2}"),
                Some(Aim::Most(aim)) => format!("; aim at most {aim:.2}"),
                None => String::new(),
            };
            let _ = writeln!(
                out,
                "\n  {}  {:.2}  (slices {}{aim})",
                ratio.name,
                ratio.median(),
                slices.join(" ")
            );
        }
        if self.server.is_some() || self.generator.is_some() {
            out.push('\n');
        }
        for (who, usage) in [("server", self.server), ("load generator", self.generator)] {
            let Some(usage) = usage else { continue };
            let (cpu, peak) = (usage.cpu.as_secs_f64(), float(usage.memory_peak) / f64::from(1 << 20));
            let _ = writeln!(out, "  {who}: {cpu:.2} s of processor time, {peak:.1} MiB at its peak");
        }
        for note in &self.notes {
            let _ = writeln!(out, "\n  note: {note}");
        }
        for fault in &self.faults {
            let _ = writeln!(out, "\n  wrong: {fault}");
        }
        out
    }
}

/// Figures of a build that is not optimized must not be taken for more.
fn debug_note() -> Option<String> {
    cfg!(debug_assertions)
        .then(|| "this is a debug build; only a release build's figures mean anything".to_owned())
}

/// Microseconds of processor time for each event.
fn cpu_per_event(slice: &Slice) -> Option<f64> {
    Some(quotient(slice.cpu?.as_secs_f64() * 1e6, float(slice.tally.events)))
}

fn megabytes_per_second(tally: &Tally) -> f64 {
    per_second(tally.bytes, tally.elapsed) / 1e6
}

fn counts(failures: &BTreeMap<super::connection::Failure, u64>) -> String {
    let each: Vec<_> =
        failures.iter().map(|(failure, count)| format!("{} x {failure}", show_count(*count))).collect();
    each.join(", ")
}

fn headings() -> Vec<String> {
    let mut row = vec![String::new(), "events/s".to_owned(), "MB/s".to_owned()];
    row.extend(QUANTILES.iter().map(|(_, name, _)| (*name).to_owned()));
    row.extend(["max", "CPU/event", "failed"].map(str::to_owned));
    row
}

fn row(series: &Series) -> Vec<String> {
    let total = series.total();
    let tally = &total.tally;
    let mut row = vec![
        series.name.to_owned(),
        show_count(whole(total.events_per_second().round())),
        format!("{:.1}", megabytes_per_second(tally)),
    ];
    let latency = |micros: u64| if tally.latency.is_empty() { "-".to_owned() } else { show_micros(micros) };
    row.extend(QUANTILES.iter().map(|(quantile, ..)| latency(tally.latency.value_at_quantile(*quantile))));
    row.push(latency(tally.latency.max()));
    row.push(cpu_per_event(&total).map_or_else(|| "-".to_owned(), |micros| format!("{micros:.1} us")));
    row.push(show_count(tally.failures.values().sum()));
    row
}

/// Writes rows with the first column to the left and the others to the right.
fn align(rows: &[Vec<String>], out: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0))
        .collect();
    for row in rows {
        out.push(' ');
        for (column, (text, width)) in row.iter().zip(&widths).enumerate() {
            let _ =
                if column == 0 { write!(out, " {text:<width$}") } else { write!(out, "  {text:>width$}") };
        }
        out.push('\n');
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({ "cpu_seconds": usage.cpu.as_secs_f64(), "memory_peak_bytes": usage.memory_peak })
}

fn latency_json(latency: &Histogram<u64>) -> Value {
    if latency.is_empty() {
        return Value::Null;
    }
    let mut object = Map::new();
    for (quantile, _, name) in QUANTILES {
        object.insert(name.to_owned(), latency.value_at_quantile(quantile).into());
    }
    object.insert("max".to_owned(), latency.max().into());
    object.insert("mean".to_owned(), latency.mean().into());
    Value::Object(object)
}

fn slice_json(slice: &Slice) -> Map<String, Value> {
    let tally = &slice.tally;
    let failures: Map<_, _> =
        tally.failures.iter().map(|(failure, count)| (failure.to_string(), json!(count))).collect();
    let pairs = [
        ("events_per_second", json!(slice.events_per_second())),
        ("requests_per_second", json!(per_second(tally.requests, tally.elapsed))),
        ("megabytes_per_second", json!(megabytes_per_second(tally))),
        ("events", json!(tally.events)),
        ("requests", json!(tally.requests)),
        ("elapsed_seconds", json!(tally.elapsed.as_secs_f64())),
        ("failures", Value::Object(failures)),
        ("cpu_seconds", json!(slice.cpu.map(|cpu| cpu.as_secs_f64()))),
        ("cpu_microseconds_per_event", json!(cpu_per_event(slice))),
        ("latency_microseconds", latency_json(&tally.latency)),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn series_json(series: &Series) -> Value {
    let total = series.total();
    let mut object = slice_json(&total);
    object.insert("name".to_owned(), series.name.into());
    object.insert("first_failure".to_owned(), json!(total.tally.sample));
    let slices = series.slices.iter().map(|slice| Value::Object(slice_json(slice)));
    object.insert("slices".to_owned(), slices.collect());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::connection::Failure;
    use crate::bench::load::record;

    fn slice(events: u64, seconds: u64, cpu_millis: Option<u64>) -> Slice {
        let mut tally = Tally::new();
        tally.events = events;
        tally.requests = events / 10;
        tally.bytes = events * 1000;
        tally.elapsed = Duration::from_secs(seconds);
        record(&mut tally.latency, Duration::from_millis(seconds));
        Slice { tally, cpu: cpu_millis.map(Duration::from_millis) }
    }

    fn series(name: &'static str, slices: &[(u64, u64, Option<u64>)]) -> Series {
        let mut series = Series::new(name);
        for &(events, seconds, cpu) in slices {
            series.push(slice(events, seconds, cpu));
        }
        series
    }

    #[test]
    fn a_series_is_all_its_slices_over_all_their_time() {
        let total = series("a", &[(1000, 1, Some(100)), (1000, 3, Some(300))]).total();
        assert!((total.events_per_second() - 500.0).abs() < 1e-9);
        assert_eq!(total.cpu, Some(Duration::from_millis(400)));
        assert!((cpu_per_event(&total).unwrap() - 200.0).abs() < 1e-9);
        assert!((megabytes_per_second(&total.tally) - 0.5).abs() < 1e-9);
        assert_eq!(total.tally.latency.len(), 2);
        // Processor time that is known only in part is not known.
        assert_eq!(series("a", &[(1, 1, Some(1)), (1, 1, None)]).total().cpu, None);
    }

    #[test]
    fn a_ratio_is_the_median_of_neighbouring_slices() {
        // The machine is twice as slow in the second slice, for both; the third is an outlier.
        let real = series("real", &[(600, 1, None), (300, 1, None), (10, 1, None)]);
        let bare = series("bare", &[(1000, 1, None), (500, 1, None), (1000, 1, None)]);
        let ratio = Ratio::of(&real, &bare, Some(0.5));
        assert!((ratio.median() - 0.6).abs() < 1e-9);
        assert_eq!(ratio.name, "real / bare");
        assert!(Ratio::of(&real, &Series::new("none"), None).median().abs() < f64::EPSILON);
    }

    #[test]
    fn a_report_tells_the_same_in_both_forms() {
        let mut report = Report::new("publish");
        report.fact("events_per_request", 10);
        let mut real = series("gridwire", &[(12_345, 1, Some(500))]);
        real.slices[0].tally.failures.insert(Failure::Status(503), 7);
        real.slices[0].tally.sample = Some("503: busy".to_owned());
        report.ratios.push(Ratio::of(&real, &series("bare", &[(24_690, 1, None)]), Some(0.6)));
        report.series.push(real);
        report.server = Some(Usage { cpu: Duration::from_millis(1_500), memory_peak: 3 << 20 });
        report.notes.push("a caution".to_owned());
        let text = report.to_text();
        for part in [
            "events per request  10",
            "12,345",
            "12.3",
            "1.00 ms",
            "7 x 503 failed, 503: busy",
            "gridwire / bare  0.50  (slices 0.50; aim 0.60)",
            "1.50 s of processor time, 3.0 MiB",
            "note: a caution",
        ] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
        let json = report.to_json();
        assert_eq!(json["facts"]["events_per_request"], 10);
        assert_eq!(json["series"][0]["events"], 12_345);
        assert_eq!(json["series"][0]["failures"]["503"], 7);
        assert_eq!(json["series"][0]["latency_microseconds"]["p999"], 1_000);
        assert_eq!(json["ratios"][0]["median"], 0.5);
        assert_eq!(json["server"]["memory_peak_bytes"], 3 << 20);
        assert_eq!(report.dead_series(), None);
    }

    #[test]
    fn a_table_has_figures_for_people_and_for_programs() {
        let mut table = Table::new("point", &[("memory", "memory_bytes"), ("above", "above_bytes")]);
        table.rows.push(("idle".to_owned(), vec![Cell::Bytes(3 << 20), Cell::More(-(1 << 19))]));
        let mut report = Report::new("backlog");
        report.tables.push(table);
        report.ratios.push(Ratio::at_most("with / without", 1.25, 1.5));
        report.faults.push("two are missing".to_owned());
        let text = report.to_text();
        for part in ["3.0 MiB", "-0.5 MiB", "(slices 1.25; aim at most 1.50)", "wrong: two are missing"] {
            assert!(text.contains(part), "`{part}` is not in\n{text}");
        }
        let json = report.to_json();
        assert_eq!(json["tables"][0]["rows"][0]["memory_bytes"], 3 << 20);
        assert_eq!(json["tables"][0]["rows"][0]["above_bytes"], -(1 << 19));
        assert_eq!(json["ratios"][0]["aim_at"], "most");
    }

    #[test]
    fn a_series_without_success_is_no_result() {
        let mut report = Report::new("publish");
        report.series.push(series("gridwire", &[(0, 1, None)]));
        report.series[0].slices[0].tally.sample = Some("401: no".to_owned());
        assert_eq!(report.dead_series().as_deref(), Some("gridwire: 401: no"));
    }
}
