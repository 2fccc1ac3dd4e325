//! Columns that line up.

/// Lays out rows below their heads. Columns whose head begins with `#` hold numbers, and are set to the right.
pub(super) fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let names: Vec<&str> = heads.iter().map(|head| head.trim_start_matches('#')).collect();
    let widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([name.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(heads).zip(&widths).map(|((cell, head), width)| {
            if head.starts_with('#') { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    };
    line(&mut names.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "1000".to_owned()]];
        assert_eq!(render(&["NAME", "#N"], &rows), "NAME       N\na          1\nlonger  1000\n");
        assert_eq!(render(&["NAME", "#N"], &[]), "NAME  N\n");
    }
}
