//! Memory and CPU over time, drawn with the terminal's letters.

use crate::ledger::Heartbeat;
use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::Style,
    symbols::Marker,
    text::Line,
    widgets::{Axis, Chart, Dataset, GraphType, Widget},
};

const WIDTH: u16 = 78;
const HEIGHT: u16 = 12;
const MEBIBYTE: f64 = 1_048_576.0;

/// Both curves of an attempt, one below the other.
pub fn usage(beats: &[Heartbeat]) -> String {
    let Some(first) = beats.first() else { return "no readings yet\n".into() };
    let seconds = |beat: &Heartbeat| to_f64(beat.at_ms - first.at_ms) / 1000.0;
    let memory: Vec<_> =
        beats.iter().filter_map(|beat| Some((seconds(beat), to_f64(beat.memory_bytes()?) / MEBIBYTE))).collect();
    let cpu: Vec<_> = beats
        .windows(2)
        .filter_map(|pair| {
            let [before, after] = pair else { return None };
            let elapsed = seconds(after) - seconds(before);
            let used = after.cpu_time_seconds()? - before.cpu_time_seconds()?;
            (elapsed > 0.0).then(|| (seconds(after), (used / elapsed).max(0.0)))
        })
        .collect();
    chart("memory, MiB", &memory) + &chart("CPU, cores", &cpu)
}

fn chart(title: &str, points: &[(f64, f64)]) -> String {
    let Some((last, _)) = points.last() else { return format!("{title}: no readings\n") };
    let highest = points.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    let top = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    let right = last.max(1.0);
    let label = |value: f64| Line::from(if top < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") });
    let data = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).data(points);
    let chart = Chart::new(vec![data])
        .x_axis(Axis::default().bounds([0.0, right]).labels([
            "0s".to_owned(),
            format!("{:.1}s", right / 2.0),
            format!("{right:.1}s"),
        ]))
        .y_axis(Axis::default().bounds([0.0, top]).labels([label(0.0), label(top / 2.0), label(top)]))
        .style(Style::default())
        .legend_position(None);
    let area = Rect::new(0, 0, WIDTH, HEIGHT);
    let mut buffer = Buffer::empty(area);
    chart.render(area, &mut buffer);
    let rows = (0..HEIGHT).map(|y| {
        let row: String = (0..WIDTH).filter_map(|x| Some(buffer.cell((x, y))?.symbol())).collect();
        row.trim_end().to_owned() + "\n"
    });
    format!("{title}\n{}", rows.collect::<String>())
}

#[allow(clippy::cast_precision_loss)] // a plot is coarser than 2^-53
fn to_f64(value: i64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_it_is_given_and_says_when_there_is_nothing() {
        let beat = |second: i64, rss: i64, cpu: f64| Heartbeat {
            at_ms: second * 1000,
            rss_bytes: Some(rss << 20),
            tree_cpu_seconds: Some(cpu),
            ..Heartbeat::default()
        };
        let drawn = usage(&[beat(0, 100, 0.0), beat(10, 300, 15.0)]);
        for part in ["memory, MiB", "330", "CPU, cores", "1.65", "10.0s", "⠁"] {
            assert!(
                drawn.contains(part) || part == "⠁" && drawn.chars().any(|c| ('⠁'..='⣿').contains(&c)),
                "{part}:\n{drawn}"
            );
        }
        assert_eq!(usage(&[]), "no readings yet\n");
        assert!(usage(&[beat(0, 1, 0.0)]).contains("CPU, cores: no readings"));
    }
}
