//! The sources laid over one another: defaults < file < environment < flags.
//!
//! Nothing is understood here; [`super::settle`] does that with the values that win.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::accounts::{self, ACCOUNT_KEYS, Accounts};
use super::keys::{KEYS, Key};
use super::report::Problem;

/// Variables that belong to other commands.
const OTHER_VARIABLES: &[&str] = &[
    "GRIDWIRE_CONFIG",
    "GRIDWIRE_SERVER",
    "GRIDWIRE_CA",
    "GRIDWIRE_SUBSCRIPTION_ID",
    "GRIDWIRE_RESOURCE_GROUP",
    "GRIDWIRE_OUTPUT",
];

/// Where values come from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Name and text of the configuration file.
    pub(crate) file: Option<(String, String)>,
    /// The variables that begin with `GRIDWIRE_`.
    pub(crate) environment: BTreeMap<String, String>,
    /// Values by key, as given by flags.
    pub(crate) flags: Vec<(&'static str, String)>,
}

/// A value as written, and where.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub(super) text: String,
    pub(super) place: String,
}

/// The values that win, before they are understood.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    pub(super) values: BTreeMap<&'static str, Raw>,
    pub(super) accounts: Accounts,
    pub(super) problems: Vec<Problem>,
}

impl Layers {
    /// Lays the sources over one another.
    pub(crate) fn new(sources: &Sources) -> Self {
        let mut layers = Self::default();
        if let Some((name, text)) = &sources.file {
            layers.add_file(name, text);
        }
        for (variable, text) in &sources.environment {
            if let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) {
                // An empty variable is how many tools write "not set".
                if !text.is_empty() {
                    layers.put(key, text.clone(), format!("variable {variable}"));
                }
            } else if let Some((account, member)) =
                variable.strip_prefix(accounts::VARIABLE).and_then(accounts::variable)
            {
                if !text.is_empty() {
                    let raw = Raw { text: text.clone(), place: format!("variable {variable}") };
                    layers.accounts.put(&account, member, raw);
                }
            } else if !OTHER_VARIABLES.contains(&variable.as_str()) && !is_service_link(variable) {
                layers.unknown(variable, "environment", KEYS.iter().map(Key::variable));
            }
        }
        for (name, text) in &sources.flags {
            if let Some(key) = KEYS.iter().find(|key| key.name == *name) {
                layers.put(key, text.clone(), format!("flag {}", key.flag.unwrap_or(name)));
            }
        }
        layers
    }

    fn put(&mut self, key: &'static Key, text: String, place: String) {
        self.values.insert(key.name, Raw { text, place });
    }

    fn add_file(&mut self, name: &str, text: &str) {
        match DeTable::parse(text) {
            Ok(table) => self.add_table(name, text, "", table.get_ref()),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                self.problems.push(Problem {
                    key: "the file".to_owned(),
                    place: format!("{name}:{line}"),
                    found: None,
                    allowed: format!("must be TOML: {}", error.message()),
                });
            }
        }
    }

    fn add_table(&mut self, file: &str, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let place = format!("{file}:{}", line_of(text, name.span().start));
            let section = format!("{full}.");
            if let DeValue::Table(inner) = value.get_ref()
                && full == accounts::SECTION
            {
                self.add_accounts(file, text, inner);
                continue;
            }
            if let DeValue::Table(inner) = value.get_ref()
                && KEYS.iter().any(|key| key.name.starts_with(&section))
            {
                self.add_table(file, text, &section, inner);
                continue;
            }
            let Some(key) = KEYS.iter().find(|key| key.name == full) else {
                self.unknown(&full, &place, KEYS.iter().map(|key| key.name.to_owned()));
                continue;
            };
            match scalar(value.get_ref()) {
                Some(text) => self.put(key, text, place),
                None => self.problems.push(Problem {
                    key: full,
                    place,
                    found: None,
                    allowed: format!("allowed: {}", key.allowed),
                }),
            }
        }
    }

    fn add_accounts(&mut self, file: &str, text: &str, accounts: &DeTable<'_>) {
        for (account, members) in accounts {
            let account_place = format!("{file}:{}", line_of(text, account.span().start));
            let prefix = format!("{}.{}", accounts::SECTION, account.get_ref());
            let DeValue::Table(members) = members.get_ref() else {
                let allowed = "a table with `url` and `key` or `key_file`".to_owned();
                self.problems.push(Problem { key: prefix, place: account_place, found: None, allowed });
                continue;
            };
            for (name, value) in members {
                let key = format!("{prefix}.{}", name.get_ref());
                let place = format!("{file}:{}", line_of(text, name.span().start));
                let Some(member) = accounts::member(name.get_ref()) else {
                    let known = ACCOUNT_KEYS.iter().filter_map(|known| known.name.rsplit('.').next());
                    self.unknown(&key, &place, known.map(|known| format!("{prefix}.{known}")));
                    continue;
                };
                if let Some(text) = scalar(value.get_ref()) {
                    self.accounts.put(account.get_ref(), member, Raw { text, place });
                } else {
                    let allowed = "allowed: a text".to_owned();
                    self.problems.push(Problem { key, place, found: None, allowed });
                }
            }
        }
    }

    /// Key, value and place of what is written of storage accounts, for `config print`.
    pub(crate) fn accounts_in_force(&self) -> Vec<[String; 3]> {
        self.accounts.in_force()
    }

    fn unknown(&mut self, name: &str, place: &str, known: impl Iterator<Item = String>) {
        let near = known.map(|known| (distance(name, &known), known)).min();
        let allowed = match near {
            // Three letters of a short name are another name.
            Some((steps, known)) if steps <= 3 && 2 * steps <= name.len() + 1 => {
                format!("unknown; did you mean `{known}`?")
            }
            _ => "unknown; `gridwire config schema` lists every key".to_owned(),
        };
        self.problems.push(Problem { key: name.to_owned(), place: place.to_owned(), found: None, allowed });
    }

    /// What is in force for `key` and where that was written, for `config print`. Secrets are not shown.
    pub(crate) fn in_force(&self, key: &Key) -> (String, String) {
        match self.values.get(key.name) {
            Some(_) if key.secret => ("***".to_owned(), self.values[key.name].place.clone()),
            Some(raw) => (raw.text.clone(), raw.place.clone()),
            None => (key.default.to_owned(), "default".to_owned()),
        }
    }
}

/// The text of a TOML value that stands for one value here; a list of strings is joined by commas.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(switch) => Some(switch.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.get(..at).map_or(0, |before| before.matches('\n').count())
}

/// What an orchestrator sets for every service it knows: `{SERVICE}_SERVICE_HOST`, `{SERVICE}_PORT_80_TCP`.
/// One called `gridwire` must not stop us from starting.
fn is_service_link(variable: &str) -> bool {
    variable.contains("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || variable.contains("_PORT_")
        || variable.ends_with("_PORT")
}

/// How many single-character edits lie between two names.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, character) in one.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *against);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
