//! The budgets: what each case may cost, in instructions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// How far a figure may be from its budget.
pub(crate) const TOLERANCE: f64 = 0.03;

pub(crate) struct Budgets(BTreeMap<String, f64>);

impl Budgets {
    /// Reads `budgets.toml`.
    pub(crate) fn read() -> Result<Self> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("budgets.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(toml::from_str(&text).with_context(|| format!("in {}", path.display()))?))
    }

    /// A budget without its case is one that nobody keeps.
    pub(crate) fn check_names<'a>(&self, cases: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        match self.0.keys().find(|name| !cases.clone().any(|case| case == name.as_str())) {
            Some(name) => bail!("switch/benches/budgets.toml has a budget for {name:?}, which is no case"),
            None => Ok(()),
        }
    }

    pub(crate) fn get(&self, case: &str) -> Result<f64> {
        self.0.get(case).copied().with_context(|| format!("switch/benches/budgets.toml has no budget for {case}"))
    }
}
