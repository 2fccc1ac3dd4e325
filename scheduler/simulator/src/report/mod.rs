//! What came of it, for people and programs.

mod drawing;
mod pictures;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::goals::Block;
use crate::model::Model;

pub use table::table;

/// Everything, as it is written to `results.json`.
#[derive(Debug, Serialize)]
pub struct Results<'a> {
    /// What things cost.
    pub model: &'a Model,
    /// By scenario.
    pub blocks: &'a [Block],
}

/// Writes `results.json`, `results.md` and the pictures; returns their paths.
///
/// # Errors
/// A file cannot be written; the error says which.
pub fn write(directory: &Path, model: &Model, blocks: &[Block]) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}; is --out writable?", directory.display()))?;
    let mut files = vec![
        ("results.json".to_owned(), serde_json::to_string(&Results { model, blocks })?),
        ("results.md".to_owned(), table(blocks)),
        ("under-served.svg".to_owned(), pictures::under_served(blocks)),
        ("largest-core.svg".to_owned(), pictures::largest_core(blocks)),
    ];
    for block in blocks {
        let name: String =
            block.scenario.to_string().chars().filter(|c| *c != ' ').map(|c| if c == ',' { '-' } else { c }).collect();
        files.push((format!("{}.svg", name.replace('×', "x")), pictures::timeline(block)));
    }
    files
        .into_iter()
        .map(|(name, content)| {
            let path = directory.join(name);
            fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        })
        .collect()
}
