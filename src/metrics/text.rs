//! Turns OpenMetrics, which the library writes, into Prometheus' older text format, which is the published
//! one: it describes a counter by its whole name, `_total` included, and has no mark at the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Returns the same metrics in Prometheus' text format 0.0.4.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let counters: BTreeSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 1_024);
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        let described = ["# HELP ", "# TYPE "].into_iter().find_map(|word| {
            let (name, rest) = line.strip_prefix(word)?.split_once(' ')?;
            counters.contains(name).then_some((word, name, rest))
        });
        // Writing to a string cannot fail.
        let _ = match described {
            Some((word, name, rest)) => writeln!(text, "{word}{name}_total {rest}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counters_help_is_about_its_whole_name() {
        let open = "# HELP a Some.\n# TYPE a counter\na_total 1\n# HELP ab Other.\n# TYPE ab gauge\nab 2\n# EOF\n";
        assert_eq!(
            prometheus(open),
            "# HELP a_total Some.\n# TYPE a_total counter\na_total 1\n# HELP ab Other.\n# TYPE ab gauge\nab 2\n"
        );
    }
}
