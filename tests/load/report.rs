//! Tables of Markdown: medians, how far samples lie apart, and the ratio to the best HTTP peer.

use std::fmt::Write as _;

/// A row of the table of goals: what was measured for each program.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    /// The goal, in words.
    pub(crate) reach: &'static str,
    pub(crate) columns: Vec<Column>,
    pub(crate) lines: Vec<Line>,
    /// What a reader of the figures must know.
    pub(crate) notes: Vec<String>,
}

/// One figure of every program.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) digits: usize,
    /// Whether the spread of the samples and the ratio to the best HTTP peer are shown; then less is better.
    pub(crate) is_compared: bool,
}

impl Column {
    /// A figure that programs are compared by.
    pub(crate) fn compared(title: &'static str, digits: usize) -> Self {
        Self {
            title,
            digits,
            is_compared: true,
        }
    }

    /// A figure that is only shown.
    pub(crate) fn shown(title: &'static str, digits: usize) -> Self {
        Self {
            title,
            digits,
            is_compared: false,
        }
    }
}

/// A program's figures.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) label: String,
    /// Whether it is one of those others are compared with.
    pub(crate) is_peer: bool,
    /// One for each column.
    pub(crate) cells: Vec<Cell>,
}

impl Line {
    /// A line of a program with the same in every column.
    pub(crate) fn of(label: &str, is_peer: bool, cell: Cell, columns: usize) -> Self {
        Self {
            label: label.to_owned(),
            is_peer,
            cells: vec![cell; columns],
        }
    }
}

/// What is known about one figure of one program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Samples(Vec<f64>),
    /// So many of so many samples had wrong or missing answers: there is no figure.
    Invalid {
        wrong: usize,
        of: usize,
        reason: String,
    },
    /// The program is not there.
    Absent,
    /// The program cannot do this.
    Cannot,
    NotMeasured,
}

impl Cell {
    /// The samples, if none of them went wrong.
    pub(crate) fn of(samples: Vec<Result<f64, String>>) -> Self {
        let of = samples.len();
        let wrong = samples.iter().filter(|sample| sample.is_err()).count();
        match samples.iter().find_map(|sample| sample.as_ref().err()) {
            Some(reason) => Self::Invalid {
                wrong,
                of,
                reason: reason.clone(),
            },
            None if of == 0 => Self::NotMeasured,
            None => Self::Samples(samples.into_iter().flatten().collect()),
        }
    }

    /// One figure, or why there is none.
    pub(crate) fn one(sample: Result<f64, String>) -> Self {
        Self::of(vec![sample])
    }

    fn median(&self) -> Option<f64> {
        match self {
            Self::Samples(samples) => median(samples),
            _ => None,
        }
    }
}

impl Table {
    /// Whether a figure is missing because answers were.
    pub(crate) fn is_invalid(&self) -> bool {
        self.lines
            .iter()
            .flat_map(|line| &line.cells)
            .any(|cell| matches!(cell, Cell::Invalid { .. }))
    }

    /// The table, with its title and notes.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### {}\n\nReach: {}\n\n| program |", self.title, self.reach);
        let mut rule = String::from("\n|---|");
        for column in &self.columns {
            write!(text, " {} |", column.title).ok();
            rule += "---:|";
            if column.is_compared {
                text += " spread | × best peer |";
                rule += "---:|---:|";
            }
        }
        text += &rule;
        text.push('\n');
        for line in &self.lines {
            writeln!(text, "| {} |{}", line.label, self.cells(line)).ok();
        }
        for note in &self.notes {
            write!(text, "\n{note}\n").ok();
        }
        text
    }

    fn cells(&self, line: &Line) -> String {
        let mut text = String::new();
        for (index, column) in self.columns.iter().enumerate() {
            let Some(cell) = line.cells.get(index) else {
                continue;
            };
            write!(text, " {} |", shown(cell, column.digits)).ok();
            if column.is_compared {
                let spread = match cell {
                    Cell::Samples(samples) => spread(samples),
                    _ => None,
                };
                write!(text, " {} |", percent(spread)).ok();
                let best = self.best_peer(index);
                let ratio = cell.median().zip(best).map(|(own, best)| own / best);
                let ratio = ratio.map(|ratio| format!("{ratio:.2}"));
                write!(text, " {} |", ratio.unwrap_or_default()).ok();
            }
        }
        text
    }

    /// The lowest median among the HTTP peers.
    fn best_peer(&self, column: usize) -> Option<f64> {
        let peers = self.lines.iter().filter(|line| line.is_peer);
        peers
            .filter_map(|line| line.cells.get(column)?.median())
            .filter(|median| *median > 0.0)
            .min_by(f64::total_cmp)
    }
}

fn shown(cell: &Cell, digits: usize) -> String {
    match cell {
        Cell::Samples(_) => match cell.median() {
            Some(median) => format!("{median:.digits$}"),
            None => "not measured".to_owned(),
        },
        Cell::Invalid {
            wrong,
            of: 1,
            reason,
        } if *wrong == 1 => format!("invalid: {reason}"),
        Cell::Invalid { wrong, of, reason } => {
            format!("invalid: {reason} ({wrong} of {of} samples)")
        }
        Cell::Absent => "absent".to_owned(),
        Cell::Cannot => "-".to_owned(),
        Cell::NotMeasured => "not measured".to_owned(),
    }
}

fn percent(share: Option<f64>) -> String {
    share
        .map(|share| format!("{:.0} %", share * 100.0))
        .unwrap_or_default()
}

/// The one in the middle, or the mean of the two there.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get((sorted.len() - 1) / 2)?;
    Some(f64::midpoint(*lower, *upper))
}

/// How far samples lie apart, as a share of their median. The lowest and the highest of five or more are left out: a
/// single hiccup of the machine is no measure of its noise.
fn spread(samples: &[f64]) -> Option<f64> {
    let sorted = sorted(samples);
    let kept = match sorted.as_slice() {
        [_lowest, kept @ .., _highest] if sorted.len() >= 5 => kept,
        all => all,
    };
    let (first, last) = (kept.first()?, kept.last()?);
    let median = median(samples).filter(|median| *median != 0.0)?;
    (kept.len() > 1).then_some((last - first) / median.abs())
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(label: &str, is_peer: bool, samples: &[f64]) -> Line {
        let cells = vec![Cell::Samples(samples.to_vec())];
        Line {
            label: label.to_owned(),
            is_peer,
            cells,
        }
    }

    fn table(lines: Vec<Line>) -> Table {
        Table {
            title: "t".to_owned(),
            reach: "r",
            columns: vec![Column::compared("µs", 1)],
            lines,
            notes: Vec::new(),
        }
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_spread_leaves_out_one_hiccup() {
        assert_eq!(spread(&[10.0, 10.0, 11.0, 10.0, 99.0]), Some(0.1));
        assert_eq!(spread(&[10.0]), None);
    }

    #[test]
    fn the_ratio_is_to_the_best_peer_and_to_no_other_program() {
        let table = table(vec![
            line("relay", false, &[1.0]),
            line("nginx", true, &[20.0]),
            line("haproxy", true, &[10.0]),
            line("own", false, &[15.0]),
        ]);
        assert!(
            table.markdown().contains("| own | 15.0 |  | 1.50 |"),
            "{}",
            table.markdown()
        );
    }

    #[test]
    fn a_wrong_answer_leaves_no_figure() {
        let cell = Cell::of(vec![Ok(1.0), Err("answered 503".to_owned())]);
        let mut table = table(Vec::new());
        table.lines.push(Line {
            label: "own".to_owned(),
            is_peer: false,
            cells: vec![cell],
        });
        assert!(table.is_invalid());
        let text = table.markdown();
        assert!(
            text.contains("| invalid: answered 503 (1 of 2 samples) |"),
            "{text}"
        );
    }
}
