//! `gridwire config`, and where `serve` gets its configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use crate::cli::{ConfigCommand, ServeArgs};
use crate::output::Output;
use crate::settings::{self, ACCOUNT_KEYS, KEYS, Key, Layers, Settings, Sources};
use crate::target::TargetArgs;

pub(crate) fn run(command: &ConfigCommand, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Check(args) => {
            load(args, target)?;
            output.line("the configuration is fine")?;
        }
        ConfigCommand::Print(args) => {
            let layers = Layers::new(&sources(args, target)?);
            let row = |key: &Key| {
                let (value, place) = layers.in_force(key);
                vec![key.name.to_owned(), value, place]
            };
            let mut rows: Vec<_> = KEYS.iter().map(row).collect();
            rows.extend(layers.accounts_in_force().into_iter().map(Vec::from));
            output.table(&["key", "value", "from"], &rows)?;
            layers.settle()?;
        }
        ConfigCommand::Schema if output.is_json() => output.json(&json!({ "keys": settings::schema() }))?,
        ConfigCommand::Schema => {
            for key in KEYS.iter().chain(ACCOUNT_KEYS) {
                output.line(output.bold(key.name))?;
                output.line(format_args!("  {}", key.about))?;
                output.line(format_args!("  allowed:  {}", key.allowed))?;
                let default = if key.default.is_empty() { "none" } else { key.default };
                output.line(format_args!("  default:  {default}"))?;
                output.line(format_args!("  variable: {}", key.variable()))?;
                if let Some(flag) = key.flag {
                    output.line(format_args!("  flag:     {flag}"))?;
                }
            }
        }
    }
    Ok(())
}

/// The configuration in force, or everything wrong with it.
pub(crate) fn load(args: &ServeArgs, target: &TargetArgs) -> anyhow::Result<Settings> {
    Ok(Layers::new(&sources(args, target)?).settle()?)
}

fn sources(args: &ServeArgs, target: &TargetArgs) -> anyhow::Result<Sources> {
    let environment: BTreeMap<String, String> =
        std::env::vars().filter(|(name, _)| name.starts_with("GRIDWIRE_")).collect();
    let variable = environment.get("GRIDWIRE_CONFIG").filter(|file| !file.is_empty()).map(PathBuf::from);
    let file = match args.config.clone().or(variable) {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("failed to read the configuration file `{}`", path.display()))?;
            Some((path.display().to_string(), text))
        }
    };
    Ok(Sources { file, environment, flags: args.flags(target) })
}
