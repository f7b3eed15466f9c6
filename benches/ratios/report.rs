//! The table that comes out.

/// What a ratio should be.
#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

#[derive(Default)]
pub struct Report {
    lines: Vec<[String; 6]>,
}

#[expect(clippy::print_stdout, reason = "a bench is run to be read")]
impl Report {
    /// What is going on, told as it happens.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    /// One figure of ours beside one of the yardstick's, in the same unit.
    pub fn ratio(&mut self, what: &str, unit: &str, ours: f64, yardstick: (&str, f64), goal: Goal) {
        let (name, theirs) = yardstick;
        let ratio = ours / theirs;
        self.line(
            what,
            &format!("{ours:.0} {unit}"),
            &format!("{name} {theirs:.0}"),
            &format!("{ratio:.2} x"),
            ratio,
            goal,
        );
    }

    /// A figure that has a bound of its own.
    pub fn figure(&mut self, what: &str, unit: &str, value: f64, goal: Goal) {
        self.line(what, "", "", &format!("{value:.2} {unit}"), value, goal);
    }

    fn line(&mut self, what: &str, ours: &str, yardstick: &str, told: &str, value: f64, goal: Goal) {
        let wanted = match goal {
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::AtMost(most) => format!("<= {most}"),
        };
        let verdict = if goal.is_met(value) { "met" } else { "MISSED" };
        self.lines.push([what, ours, yardstick, told, &wanted, verdict].map(str::to_owned));
    }

    pub fn print(&self) {
        const HEAD: [&str; 6] = ["what", "ours", "yardstick", "is", "goal", ""];
        let head = HEAD.map(str::to_owned);
        let rows: Vec<_> = std::iter::once(&head).chain(&self.lines).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 6] = std::array::from_fn(width);
        println!();
        for row in rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
}

/// The value below which a share of them lies. Sorts them.
pub fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(f64::NAN)
}
