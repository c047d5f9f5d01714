//! The state as plain text, for scripts; and numbers as people read them.

use std::fmt::Write as _;

use super::state::State;

/// How many cold starts are told.
const STARTS: usize = 10;
/// How many phases of each.
pub(super) const PHASES: usize = 3;

pub(super) fn plain(state: &State, filter: Option<&str>) -> String {
    let mut text = format!("{}\n\n", state.summary());
    let mut rows = vec![
        [
            "REVISION",
            "STATE",
            "READY",
            "IN FLIGHT",
            "PARKED",
            "STARTS",
        ]
        .map(str::to_owned),
    ];
    rows.extend(state.revisions(filter).map(|revision| {
        [
            revision.id(),
            revision.stands().to_owned(),
            revision.ready().to_string(),
            revision.load(),
            revision.parked.to_string(),
            revision.counters.cold_starts.to_string(),
        ]
    }));
    table(&rows, &mut text);
    text.push('\n');
    let mut rows =
        vec![["START", "REVISION", "OUTCOME", "TOOK", "WAITED", "LONGEST"].map(str::to_owned)];
    rows.extend(state.cold_starts(filter).take(STARTS).map(|start| {
        [
            start.number.to_string(),
            start.id(),
            start.outcome.clone(),
            millis(start.total_ms),
            start.waited.to_string(),
            start.longest(PHASES),
        ]
    }));
    table(&rows, &mut text);
    text
}

/// Columns as wide as what is in them; the last one as it is.
fn table<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // A String takes everything.
            write!(line, "{cell:width$}  ").unwrap_or_default();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Milliseconds, with as many digits as mean something.
pub(super) fn millis(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..9_995.0 => format!("{:.2} s", ms / 1e3),
        _ => format!("{:.0} s", ms / 1e3),
    }
}

pub(super) fn bytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let bytes = bytes as f64;
    match bytes {
        ..1_024.0 => format!("{bytes:.0} B"),
        ..1_048_576.0 => format!("{:.1} KiB", bytes / 1_024.0),
        _ => format!("{:.1} MiB", bytes / 1_048_576.0),
    }
}
