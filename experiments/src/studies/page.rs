//! The report: one HTML page that needs nothing else, and a Markdown page of each experiment for terminals.

use std::fmt::Write as _;

use super::ALL;
use super::chart::{self, escape};
use super::finding::{Conditions, Finding, Table, Verdict};

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#222;--dim:#666;--line:#ddd;--good:#1f7a3f;--bad:#a6263c;--box:#f6f7f9}\
@media(prefers-color-scheme:dark){:root{--bg:#16181c;--fg:#e8e8e8;--dim:#a8adb5;--line:#33373e;--good:#6fd09c;--bad:#ee8aa2;--box:#1e2126}}\
body{font:16px/1.5 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;background:var(--bg);color:var(--fg)}\
h2{margin-top:2.5em;border-top:1px solid var(--line);padding-top:1em}h3{margin-bottom:.2em}\
table{border-collapse:collapse;font-size:14px;margin:.6em 0;display:block;overflow-x:auto}\
td,th{border-bottom:1px solid var(--line);padding:.25em .7em;text-align:right}td:first-child,th:first-child{text-align:left}\
svg{max-width:100%;height:auto}figure{margin:1em 0}figcaption,.dim{color:var(--dim);font-size:14px}\
.reached{color:var(--good);font-weight:600}.missed{color:var(--bad);font-weight:600}.shown{color:var(--dim)}\
tr.study{background:var(--box)}pre{background:var(--box);padding:.6em .9em;overflow-x:auto}.answer{background:var(--box);padding:.2em 1em;border-radius:6px}";

/// The page with all findings, and why others are missing.
#[must_use]
pub fn html(findings: &[Finding], unreadable: &[String]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Sidecore: experiments</title><style>{STYLE}</style></head><body>\n<h1>Sidecore: experiments</h1>\n\
         <p>Dots and bars are medians over rounds that take turns, with 95 % intervals (from the smallest to the largest of up to \
         eight, so that those of five cover 94 %). The end of an interval that counts against Sidecore decides whether a goal is reached. Whatever came out is shown, also where it contradicts the claim.</p>\n"
    );
    page += &summary(findings);
    page += &caveats(findings);
    for why in unreadable {
        let _ = writeln!(page, "<p class=\"missed\">{}</p>", escape(why));
    }
    for finding in findings {
        page += &section(finding);
    }
    page + "</body></html>\n"
}

fn summary(findings: &[Finding]) -> String {
    let mut html = String::from("<table><tr><th>claim</th><th>measured</th><th>goal</th><th></th></tr>\n");
    for finding in findings {
        let _ = writeln!(
            html,
            "<tr class=\"study\"><th><a href=\"#{}\">{}</a></th><td class=\"dim\" colspan=\"3\">{}, {}; {} rounds{}</td></tr>",
            finding.name,
            escape(&finding.title),
            escape(finding.conditions.sidecore()),
            escape(&finding.conditions.date),
            finding.conditions.rounds,
            took(finding)
        );
        for claim in &finding.claims {
            let _ = writeln!(
                html,
                "<tr><td><a href=\"#{}\">{}</a></td><td>{}</td><td>{}</td><td class=\"{}\">{}</td></tr>",
                finding.name,
                escape(&claim.text),
                escape(&claim.measured),
                escape(&claim.goal),
                word(claim.verdict),
                word(claim.verdict)
            );
        }
    }
    html += "</table>\n";
    if findings.iter().all(|finding| finding.took_s > 0.0) {
        let all_s: f64 = findings.iter().map(|finding| finding.took_s).sum();
        let _ = writeln!(html, "<p class=\"dim\">All took {all_s:.0} s, without what make exits took.</p>");
    }
    html
}

/// How long it took, where its file says so.
fn took(finding: &Finding) -> String {
    if finding.took_s > 0.0 { format!("; it took {:.0} s", finding.took_s) } else { String::new() }
}

/// What has to be known about the findings together: what is absent, and what is not of the same version or machine.
fn caveats(findings: &[Finding]) -> String {
    let mut html = String::new();
    let is_absent = |name: &str| !findings.iter().any(|finding| finding.name == name);
    let absent: Vec<&str> = ALL.iter().map(|study| study.name).filter(|name| is_absent(name)).collect();
    if !absent.is_empty() {
        let _ = writeln!(html, "<p>Not in this report: {}.</p>", absent.join(", "));
    }
    let differ =
        |one: &Conditions, other: &Conditions| one.sidecore() != other.sidecore() || one.machine != other.machine;
    if findings.windows(2).any(|two| differ(&two[0].conditions, &two[1].conditions)) {
        html += "<p class=\"missed\">These experiments are not all of one version of Sidecore on one machine: their figures do not compare.</p>\n";
    }
    html
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Reached => "reached",
        Verdict::Missed => "missed",
        Verdict::Shown => "shown",
    }
}

fn section(finding: &Finding) -> String {
    let mut html = format!(
        "<h2 id=\"{}\">{}</h2>\n<h3>Question</h3>\n<p>{}</p>\n",
        finding.name,
        escape(&finding.title),
        escape(&finding.question)
    );
    html += "<h3>Answer</h3>\n<div class=\"answer\">";
    for paragraph in &finding.answer {
        let _ = write!(html, "<p>{}</p>", escape(paragraph));
    }
    html += "</div>\n<ul>\n";
    for claim in &finding.claims {
        let remark = if claim.remark.is_empty() { String::new() } else { format!(" {}", claim.remark) };
        let _ = writeln!(
            html,
            "<li>{}: {}, goal {}: <span class=\"{}\">{}</span>.<span class=\"dim\">{}</span></li>",
            escape(&claim.text),
            escape(&claim.measured),
            escape(&claim.goal),
            word(claim.verdict),
            word(claim.verdict),
            escape(&remark)
        );
    }
    html += "</ul>\n";
    for one in &finding.charts {
        let _ = writeln!(html, "<figure>{}<figcaption>{}</figcaption></figure>", chart::render(one), escape(&one.note));
    }
    for one in &finding.tables {
        html += &table(one);
    }
    html += "<h3>Set-up</h3>\n<ul>\n";
    for line in &finding.setup {
        let _ = writeln!(html, "<li>{}</li>", escape(line));
    }
    let conditions = &finding.conditions;
    let turns = if conditions.seconds > 0.0 { format!(" of {} s", conditions.seconds) } else { String::new() };
    let _ = write!(
        html,
        "<li>{} rounds{turns}, {}{}</li>\n<li>{}</li>\n<li>{}</li>\n</ul>\n<h3>To repeat it</h3>\n<pre>{}</pre>\n",
        conditions.rounds,
        escape(&conditions.date),
        took(finding),
        escape(&conditions.machine.join("; ")),
        escape(&conditions.versions.join("; ")),
        escape(&finding.repeat)
    );
    html
}

fn table(table: &Table) -> String {
    let cells = |cells: &[String], tag: &str| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let mut html = format!("<h3>{}</h3>\n<table><tr>{}</tr>\n", escape(&table.title), cells(&table.head, "th"));
    for row in &table.rows {
        let _ = writeln!(html, "<tr>{}</tr>", cells(row, "td"));
    }
    html + "</table>\n"
}

/// An experiment as Markdown.
#[must_use]
pub fn markdown(finding: &Finding) -> String {
    let mut text = format!("# {}\n\n{}\n\n", finding.title, finding.question);
    for paragraph in &finding.answer {
        let _ = writeln!(text, "{paragraph}\n");
    }
    if !finding.claims.is_empty() {
        text += "| claim | measured | goal | |\n|---|---|---|---|\n";
        for claim in &finding.claims {
            let verdict = match claim.verdict {
                Verdict::Reached => "**reached**".to_owned(),
                other => word(other).to_owned(),
            };
            let remark = if claim.remark.is_empty() { String::new() } else { format!(" ({})", claim.remark) };
            let _ = writeln!(text, "| {} | {} | {} | {verdict}{remark} |", claim.text, claim.measured, claim.goal);
        }
        text.push('\n');
    }
    for table in &finding.tables {
        let _ = writeln!(
            text,
            "## {}\n\n| {} |\n|{}",
            table.title,
            table.head.join(" | "),
            "---|".repeat(table.head.len())
        );
        for row in &table.rows {
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Bound, Chart, Claim, Series};
    use super::*;
    use crate::stats::Ratio;

    fn finding() -> Finding {
        let mut table = Table::new("figures", &["guests", "Mpps"]);
        table.row(["1".to_owned(), "3 < 4".to_owned()]);
        let measured = Some(Ratio { value: 2.0, low: 1.9, high: 2.1 });
        Finding {
            name: "saturation".to_owned(),
            title: "Saturation".to_owned(),
            claims: vec![Claim::new("flat", measured, "", Bound::AtLeast(3.0), true)],
            charts: vec![Chart { series: vec![Series::default()], ..Chart::default() }],
            tables: vec![table],
            ..Finding::default()
        }
    }

    #[test]
    fn what_contradicts_a_claim_stays_in_the_report() {
        let page = html(&[finding()], &[]);
        let missed = |tag: &str| page.matches(&format!("<{tag} class=\"missed\"")).count();
        assert_eq!((missed("td"), missed("span")), (1, 1), "in the summary and in its section: {page}");
        assert!(page.contains("<svg ") && page.contains("3 &lt; 4"), "{page}");
        assert!(markdown(&finding()).contains("| flat | 2.00 [1.90, 2.10] | ≥ 3 | missed |"));
    }

    #[test]
    fn the_summary_says_what_is_absent_of_which_version_each_is_and_how_long_it_took() {
        let of = |name: &str, version: &str, took_s| {
            let versions = vec![version.to_owned(), "rustc 1".to_owned()];
            let conditions = Conditions { versions, rounds: 5, ..Conditions::default() };
            Finding { name: name.to_owned(), conditions, took_s, ..finding() }
        };
        let (one, other) = ("sidecore 1, commit 1", "sidecore 1, commit 2");
        let both = html(&[of("idle", one, 40.0), of("scale", other, 2.4)], &[]);
        assert!(both.contains("Not in this report: paper, saturation, classes, answer, interrupts."), "{both}");
        assert!(
            both.contains("commit 1, ; 5 rounds; it took 40 s") && both.contains("commit 2, ; 5 rounds; it took 2 s")
        );
        assert!(both.contains("not all of one version") && both.contains("All took 42 s"), "{both}");
        let same = html(&[of("idle", one, 40.0), of("scale", one, 2.4)], &[]);
        assert!(!same.contains("not all of one version"), "{same}");
        let all: Vec<Finding> = ALL.iter().map(|study| of(study.name, one, 1.0)).collect();
        assert!(!html(&all, &[]).contains("Not in this report"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = html(&[finding()], &[]);
        let namespace = "http://www.w3.org/2000/svg";
        assert_eq!(page.replace(namespace, "").matches("http").count(), 0, "{page}");
        assert!(!page.contains("<script") && !page.contains("<link"), "{page}");
    }
}
